"""The command line as operators meet it: exit codes and words."""

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.policy.shipped import shipped


def test_validate_tells_file_path_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("models: [{name: m, backends: [{url: 'ftp://x'}]}]\n")
    assert main(["validate", "--config", str(file)]) == 1
    told = capsys.readouterr().err
    assert f"{file}: models.0.backends.0.url" in told


def test_validate_lists_the_faults_of_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.yaml").write_text("categories: [{name: a, cache: {threshold: 9}}]\n")
    (tmp_path / "guard.yaml").write_text("guard: {skip: [nubmer]}\n")
    assert main(["validate", "--policies", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "threshold" in told
    assert "nubmer" in told
    assert main(["validate", "--policies", str(shipped())]) == 0


def test_serve_without_a_backend_says_what_to_give(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(["serve"]) == 1
    assert "--backend" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["config", "policies"])
def test_schema_prints_json_schema(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", what]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]


def test_calibrate_writes_a_book_that_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"a": f"What is {n} plus {n}?", "b": f"Name a river in region {n}", "duplicate": 0}
        for n in range(120)
    ]
    rows += [
        {"a": f"How do I open a jar number {n}?", "b": f"How can I open a jar number {n}?", "duplicate": 1}
        for n in range(5)
    ]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "book"
    assert main(["calibrate", "--pairs", str(pairs), "--max-error", "0.05", "--out", str(out)]) == 0
    assert "| * | 5 | 120 |" in capsys.readouterr().out
    assert main(["validate", "--policies", str(out)]) == 0
