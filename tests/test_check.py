"""Policy tests as a team's CI runs them, on the real embedder."""

import json
import xml.etree.ElementTree as xml
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cache.guard import CHECKS
from gateway.check import read
from gateway.cli import main
from gateway.embedding.sentence import SentenceEmbedder
from gateway.policy.folder import load_folder
from gateway.verifier.train import train
from tests.verifier import made

SHIPPED = Path(__file__).resolve().parent.parent / "policies"
CASES = SHIPPED / "cases" / "shipped.yaml"
SORT = ["How do I sort a list in Python?", "How can I sort a list in Python?"]
EGGS = ["Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?"]
BOOK = """
categories:
  - {name: secret, cache: {mode: none}}
  - {name: cool, cache: {threshold: 0.9, max_temperature: 0.5}}
  - {name: watched, cache: {mode: shadow, threshold: 0.9}}
  - {name: strict, cache: {threshold: 1.0}, load: {threshold_slack: 0.1}}
  - {name: default, examples: [Tell me something], cache: {threshold: 0.9}}
rules:
  - {when: {tenant: acme}, then: {category: secret}}
  - {when: {header: {x-team: cool}}, then: {category: cool}}
  - {when: {endpoint: responses}, then: {category: watched}}
  - {when: {model: large}, then: {category: strict}}
"""


def configured(tmp_path: Path, model_cache: Path, **more: Any) -> Path:
    path = tmp_path / "gateway.yaml"
    models = [{"name": "*", "backends": [{"url": "http://x"}]}]
    path.write_text(yaml.safe_dump({"models": models, "embedder": {"cache": str(model_cache)}, **more}))
    return path


@pytest.fixture
def config(tmp_path: Path, model_cache: Path) -> Path:
    return configured(tmp_path, model_cache)


def cases(tmp_path: Path, *cases: object, **more: object) -> Path:
    path = tmp_path / "cases.yaml"
    path.write_text(json.dumps({"cases": cases, **more}))  # which is YAML, too
    return path


def book(tmp_path: Path) -> Path:
    folder = tmp_path / "book"
    folder.mkdir()
    (folder / "b.yaml").write_text(BOOK)
    return folder


def test_the_shipped_policies_do_what_their_cases_say(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", str(SHIPPED), str(CASES), "--config", str(config)])
    out = capsys.readouterr().out
    assert code == 0, out
    assert "FAIL" not in out


def test_the_shipped_cases_cover_every_category_and_what_can_go_wrong() -> None:
    known = read(CASES).cases
    assert len(known) >= 120
    assert len({case.model_dump_json() for case in known}) == len(known)
    kinds = Counter("hit" if case.must_hit else "miss" if case.must_miss else "category" for case in known)
    assert min(kinds["hit"], kinds["category"]) >= 30
    assert kinds["miss"] >= 80
    names = {category.name for category in load_folder(SHIPPED).categories}
    assert {case.category.is_ for case in known if case.category} == names
    reasons = {case.reason for case in known if case.reason}
    assert {"mode-exact", "below-threshold", "exact-only", "cache-off"} <= reasons
    assert {reason.partition(":")[2] for reason in reasons} - {""} <= set(CHECKS)


def test_what_fails_is_told_with_its_reason_and_in_reports(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = cases(
        tmp_path,
        {"must_hit": EGGS},
        {"must_miss": SORT},
        {"must_miss": EGGS, "reason": "guard:number"},
        {"category": {"text": "Can my landlord evict me?", "is": "code"}},
        {"must_miss": EGGS, "reason": "guard:negation"},
        {"must_miss": EGGS, "reason": "guard"},
        {"must_hit": SORT, "headers": {"x-gateway-threshold": "0.999"}},
    )
    told, junit = tmp_path / "told.json", tmp_path / "told.xml"
    reports = ["--json", str(told), "--junit", str(junit)]
    assert main(["check", str(SHIPPED), str(wrong), "--config", str(config), *reports]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        f'FAIL must hit "{EGGS[0]}" ~ "{EGGS[1]}": miss (guard:negation); similarity 0.9'
    )
    assert "guard objects (negation); category " in lines[0]
    assert "hit (semantic); similarity 0.9" in lines[1]
    assert "of 0.9200; guard agrees; category code by classifier" in lines[1]
    assert "not by guard:number: miss (guard:negation)" in lines[2]
    assert "is legal by classifier, confidence " in lines[3]
    assert "miss (below-threshold); similarity 0.9" in lines[4]
    assert "of 0.9990; guard agrees" in lines[4]
    assert lines[5].startswith("7 cases, 5 failed (policy ")
    assert [not each["why"] for each in json.loads(told.read_text())] == [False] * 4 + [True, True, False]
    suite = xml.fromstring(junit.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("7", "5")
    failures = [case.find("failure") for case in suite]
    assert [each is None for each in failures] == [False] * 4 + [True, True, False]
    assert failures[0] is not None
    assert "guard:negation" in str(failures[0].get("message"))


def test_every_step_before_the_comparison_has_its_say(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cool, same = {"X-Team": "cool"}, [SORT[0], SORT[0]]
    right = cases(
        tmp_path,
        {"must_hit": SORT},
        {"must_hit": same},
        {"must_miss": SORT, "tenant": "acme", "reason": "mode-none"},
        {"must_miss": same, "tenant": "acme"},
        {"must_miss": SORT, "headers": cool, "reason": "temperature"},
        {"must_hit": SORT, "headers": cool, "temperature": 0.2},
        {"must_miss": SORT, "endpoint": "responses", "reason": "shadow"},
        {"must_hit": same, "endpoint": "responses"},
        {"must_hit": SORT, "endpoint": "completions"},
        {"must_miss": SORT, "model": "large", "reason": "below-threshold"},
        {"must_hit": SORT, "model": "large", "load": 1},
        {"must_miss": same, "headers": {"x-gateway-cache": "off"}, "reason": "cache-off"},
        {"must_miss": same, "headers": {"x-gateway-cache": "refresh"}, "reason": "refresh"},
        {"must_miss": SORT, "headers": {"cache-control": "no-store"}, "reason": "partition-empty"},
        {"must_miss": SORT, "headers": {"x-gateway-cache": "exact"}, "reason": "exact-only"},
        {"must_miss": ["word " * 700, "word " * 701], "reason": "beyond-window"},
        {"category": {"text": SORT[0], "is": "watched"}, "headers": {"x-gateway-category": "watched"}},
    )
    code = main(["check", str(book(tmp_path)), str(right), "--config", str(config)])
    assert code == 0, capsys.readouterr().out


def test_wrong_pairs_are_remembered_as_after_feedback(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = cases(
        tmp_path,
        {"must_miss": SORT, "reason": "feedback"},
        {"must_hit": ["Where is Oslo?", "Where's Oslo?"]},
        wrong_pairs=[SORT],
    )
    code = main(["check", str(book(tmp_path)), str(given), "--config", str(config)])
    assert code == 0, capsys.readouterr().out


def test_a_verifier_that_the_configuration_names_decides(
    tmp_path: Path, model_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = made.examples()
    embedder = SentenceEmbedder("auto", "onnx-int8", cache=model_cache).name
    train(pairs, made.cosines(pairs), embedder, tmp_path / "verifier", say=lambda text: None)
    (tmp_path / "book.yaml").write_text("""
categories:
  - {name: lax, cache: {threshold: 1.0, verify: {above: 0.7, score: 0.0, waives: [content]}}}
  - {name: default, cache: {threshold: 0.7, verify: {above: 0.7, score: 1.0}}}
rules: [{when: {tenant: acme}, then: {category: lax}}]
""")
    worded = [
        "What is the easiest way to remove a wine stain?",
        "What is the easiest way of getting a wine stain out?",
    ]
    given = cases(
        tmp_path,
        {"must_hit": SORT, "tenant": "acme"},
        {"must_hit": worded, "tenant": "acme"},
        {"must_miss": worded, "reason": "guard:content"},
        {"must_miss": SORT, "reason": "guard"},
    )
    config = configured(tmp_path, model_cache, verifier={"path": str(tmp_path / "verifier")})
    assert main(["check", str(tmp_path / "book.yaml"), str(given), "--config", str(config)]) == 1
    out = capsys.readouterr().out
    assert "not by guard: miss (verifier); similarity 0.9" in out
    assert "of 0.7000; guard agrees; verifier 0." in out
    assert " of 1.0000; category default" in out
    assert "4 cases, 1 failed" in out
    assert ", verifier " in out


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        ({"must_hit": ["a"]}, "must_hit"),
        ({"must_hit": ["a", "b"], "must_miss": ["a", "b"]}, "exactly one"),
        ({"must_hit": ["a", "b"], "reason": "guard:number"}, "that of a miss"),
        ({"must_hits": ["a", "b"]}, "must_hits"),
    ],
)
def test_an_unreadable_file_is_told_with_every_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: object, fault: str
) -> None:
    assert main(["check", str(SHIPPED), str(cases(tmp_path, case))]) == 2
    assert fault in capsys.readouterr().err


def test_what_cannot_be_used_is_no_failed_case(
    tmp_path: Path, model_cache: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies, good = str(book(tmp_path)), cases(tmp_path, {"must_hit": SORT})
    assert main(["check", str(tmp_path / "nowhere"), str(good)]) == 2
    assert main(["check", policies, str(tmp_path / "nowhere.yaml")]) == 2
    assert main(["check", policies, str(good), "--config", str(tmp_path / "nowhere.yaml")]) == 2
    broken = tmp_path / "broken.yaml"
    broken.write_text("cases: [")
    capsys.readouterr()
    assert main(["check", policies, str(broken)]) == 2
    assert f"{broken}: line 1" in capsys.readouterr().err
    bad = cases(tmp_path, {"must_hit": SORT, "headers": {"x-gateway-threshold": "much"}})
    assert main(["check", policies, str(bad), "--config", str(config)]) == 2
    assert "cases.0: x-gateway-threshold must be a number" in capsys.readouterr().err
    missing = configured(tmp_path, model_cache, verifier={"path": str(tmp_path / "none")})
    assert main(["check", policies, str(cases(tmp_path, {"must_hit": SORT})), "--config", str(missing)]) == 2
    assert "verifier" in capsys.readouterr().err


def test_cases_have_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "cases"]) == 0
    assert "must_hit" in json.loads(capsys.readouterr().out)["$defs"]["Case"]["properties"]
