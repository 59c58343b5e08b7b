"""What other thresholds would do: curves, proposals and a diff, from pairs or from a log of judged hits."""

import csv
import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.policy.folder import load_folder
from gateway.policy.shipped import shipped
from gateway.tune import from_log

CODE = """\
# Ours. This comment stays.
categories:
  - name: code
    cache: {mode: semantic, threshold: 0.92, max_error: 0.02}  # so does this
    load: {threshold_slack: 0.02, budget: [0.91, 0.9]}
    examples: ["How do I reverse a list in Python?", "Why does my loop never end?"]
  - {name: prices, cache: {mode: exact, max_error: 0.02}}
"""
REST = """\
categories:
  # Judged by the verifier.
  - name: support
    cache:
      threshold: 0.95
      verify: {above: 0.8, score: 0.9}  # from calibrate
      max_error: 0.02

  - {name: default, cache: {max_error: 0.02}}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A team's own: two files, comments, both styles, a file that ends without a line feed."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "code of ours.yaml").write_text(CODE)
    (folder / "rest.yml").write_bytes(REST.replace("\n", "\r\n").encode())
    return folder


def judged(similarity: float, wrong: bool, category: str = "code", **more: Any) -> dict[str, Any]:
    line = {"logger": "gateway.judged", "message": "judged", "category": category, "score": None,
            "similarity": similarity, "wrong": wrong, "weight": 1.0}  # fmt: skip
    return line | more


def looked(count: int, category: str = "code") -> list[dict[str, Any]]:
    line = {"logger": "gateway.access", "category": category, "reason": "hit", "similarity": 0.5}
    return [line] * (count - 1) + [{**line, "reason": "partition-empty"}]


def written(path: Path, *lines: dict[str, Any] | str) -> Path:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def tune(tmp_path: Path, folder: Path, *lines: dict[str, Any] | str, max_error: str = "") -> Path:
    """The folder that a log's lines give."""
    out, log = tmp_path / "out", written(tmp_path / "log.jsonl", *lines)
    flags = ["--max-error", max_error] if max_error else []
    assert main(["tune", "--log", str(log), "--policies", str(folder), "--out", str(out), *flags]) == 0
    return out


def changes(out: Path) -> dict[str, tuple[Any, Any]]:
    found = json.loads((out / "changes.json").read_bytes())
    return {change["path"]: (change["old"], change["new"]) for change in found}


def patched(folder: Path, out: Path) -> None:
    diff = (out / "policies.diff").read_bytes()
    subprocess.run(["patch", "-p1", "--binary"], input=diff, cwd=folder, check=True, capture_output=True)


def test_the_proposal_is_certified_tabled_and_drawn(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 1000 look-ups at 2 %: (1000 + 1) * 0.02 - 4 = 16.02 of weight may be wrong, so four wrong ones of weight 4.
    wrong = [judged(0.99004 - at / 100, True, weight=4.0) for at in range(6)]
    right = [judged(0.97 - at / 1000, False) for at in range(40)]
    out = tune(tmp_path, folder, *wrong, *right, *looked(1000))
    assert changes(out) == {"categories.code.cache.threshold": (0.92, 0.9501)}
    row = "| code | similarity | 40 | 6 | 2.00% | 0.9200 | 100.0%, 2.40% | 0.9501 | 50.0%, 1.60% |"
    assert row in capsys.readouterr().out
    with (out / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    marks = {row["mark"]: row for row in rows if row["mark"]}
    assert (marks["present"]["error_rate"], marks["proposed"]["error_rate"]) == ("0.02400", "0.01600")
    assert float(marks["proposed"]["false_hit_rate"]) == pytest.approx(4 / 6, abs=1e-5)
    for rate in ("hit_rate", "false_hit_rate", "error_rate"):
        values = [float(row[rate]) for row in rows]
        assert values == sorted(values, reverse=True)
    assert (out / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_diff_applies_to_a_teams_own_files_and_keeps_their_comments(tmp_path: Path, folder: Path) -> None:
    lines = [
        line
        for name, scores in (("code", {}), ("default", {}), ("support", {"score": 0.95004}))
        for line in [judged(0.96004, True, name, **scores)] * 30 + looked(300, name)
    ]
    old, out = load_folder(folder), tune(tmp_path, folder, *lines)
    patched(folder, out)
    new = load_folder(folder)
    values = {name: new.category(name).cache for name in ("code", "default", "support")}
    assert changes(out) == {
        "categories.code.cache.threshold": (0.92, values["code"].threshold),
        "categories.default.cache.threshold": (0.95, values["default"].threshold),
        "categories.support.cache.verify.score": (0.9, values["support"].verify.score),
    }
    assert (values["code"].threshold, values["support"].verify.score) == (0.9601, 0.9501)
    assert values["support"].threshold == 0.95
    assert old.version != new.version
    assert (folder / "code of ours.yaml").read_text() == CODE.replace("0.92", "0.9601")
    rest = REST.replace("score: 0.9}", "score: 0.9501}").replace(
        "{max_error", "{threshold: 0.9601, max_error"
    )
    assert (folder / "rest.yml").read_bytes() == rest.replace("\n", "\r\n").encode()


def test_the_diff_applies_to_the_shipped_policies(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    shutil.copytree(shipped(), folder)
    names = [c.name for c in load_folder(folder).categories if c.cache.mode == "semantic"]
    lines = [line for name in names for line in [judged(0.98004, True, name)] * 50 + looked(400, name)]
    out = tune(tmp_path, folder, *lines)
    comments = {file.name: file.read_text().count("#") for file in folder.glob("*.yaml")}
    patched(folder, out)
    new = load_folder(folder)
    assert {name: new.category(name).cache.threshold for name in names} == dict.fromkeys(names, 0.9801)
    assert len(changes(out)) == len(names) >= 8
    assert {file.name: file.read_text().count("#") for file in folder.glob("*.yaml")} == comments


def test_the_caller_may_state_another_error(tmp_path: Path, folder: Path) -> None:
    lines = [judged(0.96004, True), *[judged(0.94, False)] * 9, *looked(400)]
    assert changes(tune(tmp_path, folder, *lines, max_error="0.003")) == {
        "categories.code.cache.threshold": (0.92, 0.9601)
    }
    out = tune(tmp_path, folder, *lines, max_error="0.5")
    assert changes(out) == {}  # what 0.92 lets hit is all that is known
    assert (out / "policies.diff").read_text() == ""


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([judged(0.95, True, weight=50.0), *looked(2000)], "needs 2499 look-ups, has 2000"),
        ([judged(0.95, True, "gone"), *looked(2000, "gone")], "in no policy file"),
        ([judged(0.95, True, "prices"), *looked(2000, "prices")], "mode exact"),
        ([judged(0.95, True, score=0.8), *looked(2000)], "cache.verify is not set"),
        ([judged(0.95, False), *[judged(0.8, True)] * 31, *looked(2000)], "as it is"),
    ],
)
def test_where_there_is_nothing_to_propose_it_says_why(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], lines: list[dict[str, Any]], why: str
) -> None:
    assert changes(tune(tmp_path, folder, *lines)) == {}
    assert f"| {why} |" in capsys.readouterr().out


def test_a_threshold_falls_no_lower_than_was_judged(tmp_path: Path, folder: Path) -> None:
    """Under load the threshold was lower for a while: the few hits from then say little."""
    hits = [judged(0.93, False)] * 20
    assert changes(tune(tmp_path, folder, *hits, judged(0.88, False), *looked(500))) == {}
    below = [judged(0.85 + at / 1000, False, weight=2.0) for at in range(30)]
    out = tune(tmp_path, folder, *hits, *below, *looked(500))
    assert changes(out) == {"categories.code.cache.threshold": (0.92, 0.85)}


def test_what_decided_most_hits_is_what_is_tuned(tmp_path: Path) -> None:
    lines = (
        [judged(0.9, False, score=0.8)] * 5 + [judged(0.9, True, score=0.7)] * 9 + [judged(0.95, True)] * 3
    )
    found = from_log(written(tmp_path / "log.jsonl", *lines, *looked(300)))["code"]
    assert found.scored
    assert sorted(set(found.values.tolist())) == [0.7, 0.8]


def test_a_log_is_read_whatever_else_is_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(
        tmp_path / "log.jsonl.gz",
        "Traceback (most recent call last):\n", "\n", "[1]\n", {"logger": "gateway.pipeline"},
        {"logger": "gateway.judged", "message": "a sample was not judged"},
        judged(0.95, True, weight=5), *looked(2), judged(0.9, True, weight=0.5), {**judged(0.9, True), "similarity": "high"},
        {"logger": "gateway.access", "category": "code", "reason": "mode-exact"}, json.dumps(judged(0.9, True))[:-9],
    )  # fmt: skip
    found = from_log(path)["code"]
    assert (found.values.tolist(), found.weights.tolist(), found.lookups) == ([0.95], [5.0], 5.0)
    assert "4 lines of judged hits or requests could not be read" in caplog.text


def test_what_cannot_be_used_is_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(written(tmp_path / "log.jsonl", *looked(3)))
    flags = ["--policies", str(folder), "--out", str(tmp_path / "out")]
    assert main(["tune", "--log", log, *flags]) == 1
    assert "no evidence" in capsys.readouterr().err
    assert main(["tune", "--log", str(tmp_path / "none"), *flags]) == 1
    assert main(["tune", "--log", log, *flags, "--max-error", "1.5"]) == 1
    assert "--max-error" in capsys.readouterr().err


def test_pairs_are_embedded_guarded_and_sorted_into_categories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [
        {"a": "How do I sort a list in Python?", "b": "How can I sort a list in Python?", "duplicate": 1},
        {"a": "Is it safe to eat raw eggs?", "b": "Is it not safe to eat raw eggs?", "duplicate": 0},
    ]
    pairs = written(tmp_path / "pairs.jsonl", *rows * 5)
    assert main(["tune", "--pairs", str(pairs), "--max-error", "0.2", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert (
        "| code | similarity | 5 | 0 | 20.00% | 0.9200 | 100.0%, 0.00% | needs 4 non-duplicates, has 0 |"
        in out
    )
    assert " | 0 | 5 | 20.00% | 0.9" in out  # the eggs, of whichever category
    assert "0.0%, 0.00% | as it is |" in out
    assert "Nothing was applied" in out
    assert (tmp_path / "out" / "policies.diff").read_text() == ""
