"""What other thresholds would do: curves, proposals and a diff, from pairs or from a log of judged hits."""

import csv
import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.policy.book import from_json
from gateway.tune import Evidence, from_log, tune

BOOK = from_json({"categories": [{"name": "default", "cache": {"threshold": 0.95, "max_error": 0.05}}]})


def evidence(*, wrong: int, right: int) -> Evidence:
    """Right ones from 0.80 up to 1, wrong ones from 0.70 up to 0.90."""
    found = Evidence(lookups=wrong + right)
    for at in range(right):
        found.add(0.80 + 0.2 * at / right, True)
    for at in range(wrong):
        found.add(0.70 + 0.2 * at / wrong, False)
    return found


def test_the_proposal_is_certified_and_written_as_a_diff(tmp_path: Path) -> None:
    (line,) = tune({"default": evidence(wrong=200, right=100)}, BOOK, None, tmp_path)
    assert line.proposed is not None
    assert 0.88 < line.proposed < 0.90  # nine of two hundred wrong ones may hit
    assert line.evidence.rates(line.proposed)[1] <= 0.05
    assert line.evidence.rates(line.proposed)[0] > line.evidence.rates(0.95)[0]
    text = (tmp_path / "policies.diff").read_text()
    assert "-    threshold: 0.95" in text
    assert f"+    threshold: {line.proposed}" in text
    (change,) = json.loads((tmp_path / "changes.json").read_text())
    assert change == {"path": "categories.default.cache.threshold", "old": 0.95, "new": line.proposed}
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["hit_rate"]) for row in rows] == sorted(
        (float(r["hit_rate"]) for r in rows), reverse=True
    )
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_too_little_evidence_proposes_nothing(tmp_path: Path) -> None:
    (line,) = tune({"default": evidence(wrong=5, right=5)}, BOOK, 0.01, tmp_path)
    assert line.proposed is None
    assert "needs 99" in str(line)
    assert (tmp_path / "policies.diff").read_text() == ""


def judged(similarity: float, wrong: bool, weight: float = 1.0, **more: object) -> str:
    return json.dumps(
        {
            "logger": "gateway.judged",
            "category": "default",
            "similarity": similarity,
            "wrong": wrong,
            "weight": weight,
        }
        | more
    )


def test_a_log_speaks_with_its_samples_weights_and_proposes_nothing_it_did_not_see(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    seen = json.dumps({"logger": "gateway.access", "category": "default", "similarity": 0.5})
    lines = [seen] * 5000 + [judged(0.97, False, 10.0)] * 50 + [judged(0.951, True, 10.0)] * 3
    log.write_text("\n".join([*lines, "no json", '{"logger": "gateway.judged"}', judged(0.96, False)[:-5]]))
    found = from_log(log)
    assert (found["default"].lookups, len(found["default"].right)) == (5000, 53)
    assert found["default"].rates(0.95)[2] == pytest.approx(30 / 5000)
    (line,) = tune(found, BOOK, 0.01, tmp_path / "out")
    assert line.proposed == 0.95  # nothing was judged below
    log.write_text("\n".join([*lines, *[judged(0.9, False, 10.0)] * 40]))
    (line,) = tune(from_log(log), BOOK, 0.01, tmp_path / "out")
    assert line.proposed is not None
    assert line.proposed < 0.95


def test_the_verifiers_score_is_what_a_log_tunes_where_it_decides(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("\n".join([judged(0.9, at < 2, score=0.5 + at / 400) for at in range(200)]))
    verify = {"threshold": 0.95, "verify": {"above": 0.8, "score": 0.9}}
    book = from_json({"categories": [{"name": "default", "cache": verify}]})
    (line,) = tune(from_log(log), book, 0.05, tmp_path / "out")
    assert line.present == 0.9
    (change,) = json.loads((tmp_path / "out" / "changes.json").read_text())
    assert change["path"] == "categories.default.cache.verify.score"


def test_a_file_without_evidence_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.log").write_text("")
    assert main(["tune", "--log", str(tmp_path / "empty.log"), "--out", str(tmp_path / "out")]) == 1
    assert "no evidence" in capsys.readouterr().err


def test_pairs_are_embedded_guarded_and_sorted_into_categories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"a": "How do I sort a list in Python?", "b": "How can I sort a list in Python?", "duplicate": 1},
        {"a": "Is it safe to eat raw eggs?", "b": "Is it not safe to eat raw eggs?", "duplicate": 0},
    ]
    pairs.write_text("\n".join(map(json.dumps, rows * 3)))
    assert main(["tune", "--pairs", str(pairs), "--max-error", "0.2", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "code (3): 0.9200: 100.0% of duplicates, 0.00% of others" in out
    assert "Nothing was applied" in out
