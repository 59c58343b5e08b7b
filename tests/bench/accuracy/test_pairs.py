"""Reading labelled pairs and cutting them in halves."""

import gzip
import json
from pathlib import Path

from bench.accuracy.pairs import intent_pairs, question_pairs


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def test_linked_questions_share_a_group_and_so_a_half(tmp_path: Path) -> None:
    rows = [{"a": f"{g}-{i}", "b": f"{g}-{i + 1}", "duplicate": i % 2} for g in "abcdefgh" for i in range(5)]
    pairs = question_pairs(write(tmp_path / "p.jsonl.gz", rows))
    assert [pair.group for pair in pairs] == [f"{g}-0" for g in "abcdefgh" for _ in range(5)]
    halves = {pair.group: pair.tune for pair in pairs}
    assert all(pair.tune == halves[pair.group] for pair in pairs)
    assert set(halves.values()) == {True, False}


def test_intents_give_pairs_within_and_across_the_same_each_time(tmp_path: Path) -> None:
    rows = [
        {"text": f"{intent} {i}", "intent": intent} for intent in ("card", "loan", "fee") for i in range(6)
    ]
    path = write(tmp_path / "b.jsonl.gz", rows)
    pairs = intent_pairs(path, per_intent=10)
    assert pairs == intent_pairs(path, per_intent=10)
    assert len(pairs) == 60
    for pair in pairs:
        assert (pair.a.split()[0] == pair.b.split()[0]) == pair.duplicate
        assert pair.a != pair.b
