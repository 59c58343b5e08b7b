from gateway.policy.faults import Fault, PolicyFaults


def test_a_fault_reads_as_file_path_reason():
    assert str(Fault("a.yaml", "ignore[0]", "no")) == "a.yaml: ignore[0]: no"
    assert str(Fault("", "ignore[0]", "no")) == "ignore[0]: no"
    assert str(Fault("a.yaml", "", "no")) == "a.yaml: no"


def test_all_faults_are_in_message_and_body():
    error = PolicyFaults([Fault("a.yaml", "x", "one"), Fault("b.yaml", "y", "two")])
    assert str(error) == "a.yaml: x: one\nb.yaml: y: two"
    assert error.body()["error"]["code"] == "invalid_policy"
    assert error.body()["error"]["faults"][1] == {"file": "b.yaml", "path": "y", "reason": "two"}
