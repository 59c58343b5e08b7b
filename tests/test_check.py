"""Policy tests as a team's CI runs them, on the real embedder."""

import json
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
import yaml

from gateway.cli import main

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "policies"


@pytest.fixture
def config(tmp_path: Path, model_cache: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    tree = {
        "models": [{"name": "*", "backends": [{"url": "http://x"}]}],
        "embedder": {"cache": str(model_cache)},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def cases(tmp_path: Path, *cases: object) -> Path:
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump({"cases": list(cases)}))
    return path


def test_the_shipped_policies_do_what_their_cases_say(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", str(SHIPPED), str(SHIPPED / "cases" / "shipped.yaml"), "--config", str(config)])
    assert code == 0, capsys.readouterr().out
    assert int(capsys.readouterr().out.split()[0]) >= 60


def test_what_fails_is_told_with_its_reason_and_in_reports(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = cases(
        tmp_path,
        {"must_hit": ["Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?"]},
        {"must_miss": ["How do I sort a list in Python?", "How can I sort a list in Python?"]},
        {
            "must_miss": ["Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?"],
            "reason": "guard:number",
        },
        {"category": {"text": "Can my landlord evict me?", "is": "code"}},
        {
            "must_miss": ["Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?"],
            "reason": "guard:negation",
        },
    )
    told, junit = tmp_path / "told.json", tmp_path / "told.xml"
    code = main(
        [
            "check",
            str(SHIPPED),
            str(wrong),
            "--config",
            str(config),
            "--json",
            str(told),
            "--junit",
            str(junit),
        ]
    )
    out = capsys.readouterr().out
    assert code == 1
    assert "5 cases, 4 failed" in out
    assert out.count("guard:negation") == 2
    assert [each["passed"] for each in json.loads(told.read_text())] == [False] * 4 + [True]
    suite = xml.fromstring(junit.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("5", "4")


def test_rules_hints_and_temperature_count_as_they_do_in_the_gateway(tmp_path: Path, config: Path) -> None:
    book = tmp_path / "book"
    book.mkdir()
    (book / "b.yaml").write_text(
        """
categories:
  - {name: secret, cache: {mode: none}}
  - {name: cool, cache: {threshold: 0.9, max_temperature: 0.5}}
  - {name: default, examples: [Tell me something], cache: {threshold: 0.9}}
rules:
  - {when: {tenant: acme}, then: {category: secret}}
  - {when: {header: {x-team: cool}}, then: {category: cool}}
"""
    )
    pair = ["How do I sort a list in Python?", "How can I sort a list in Python?"]
    right = cases(
        tmp_path,
        {"must_hit": pair},
        {"must_miss": pair, "tenant": "acme", "reason": "not-stored"},
        {"must_miss": pair, "headers": {"X-Team": "cool"}, "reason": "not-stored"},
        {"must_hit": pair, "headers": {"X-Team": "cool"}, "temperature": 0.2},
    )
    assert main(["check", str(book), str(right), "--config", str(config)]) == 0


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


def test_cases_have_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "cases"]) == 0
    assert "must_hit" in json.loads(capsys.readouterr().out)["$defs"]["Case"]["properties"]
