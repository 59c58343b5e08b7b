"""The accuracy tables, on a handful of pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.accuracy.measure import by_check, by_threshold, measure, operating
from bench.accuracy.pairs import Labelled
from gateway.cache.guard import Guard
from gateway.interfaces import Vector

PAIRS = [
    Labelled("How do I bake bread?", "How can I bake bread?", True, "a"),
    Labelled("How do I bake 2 loaves?", "How do I bake 3 loaves?", False, "b"),
    Labelled("Why is it open?", "Why is it closed?", False, "c"),
]


class Same:
    """Every text has the same vector; counts how often it is asked."""

    dim = 2
    window = 8
    name = "same"

    def __init__(self) -> None:
        self.encoded = 0

    def tokens(self, texts: Sequence[str]) -> list[int]:
        return [1 for _ in texts]

    def encode(self, texts: Sequence[str]) -> Vector:
        self.encoded += len(texts)
        return np.tile(np.array([1, 0], dtype=np.float32), (len(texts), 1))


def test_tables_count_what_the_guard_takes_away(tmp_path: Path) -> None:
    measured = measure(PAIRS, Same(), Guard(), tmp_path)
    assert list(measured.verdicts) == [None, "number", "direction"]
    table = by_threshold("three", measured, np.ones(3, dtype=np.bool_))
    assert table.title == "three: 1 duplicates, 2 known non-duplicates"
    assert table.rows[0] == ["0.70", "100.00", "100.00", "100.00", "0.00", "0.00", "0.00"]
    assert table.csv().splitlines()[1] == "0.70,100.00,100.00,100.00,0.00,0.00,0.00"
    assert "| 0.70 | 100.00 | 100.00 | 100.00 | 0.00 | 0.00 | 0.00 |" in table.markdown()
    checks = {row[0]: row[1:] for row in by_check("three", measured, 0.5).rows}
    assert checks["number"][:2] == (0, 1)
    assert checks["direction"][:2] == (0, 1)
    assert list(checks["(none)"][:2]) == [1, 0]


def test_too_few_pairs_have_no_operating_point(tmp_path: Path) -> None:
    table = operating("three", measure(PAIRS, Same(), Guard(), tmp_path))
    assert all("too few" in row for row in table.rows)


def test_vectors_are_computed_once(tmp_path: Path) -> None:
    embedder = Same()
    measure(PAIRS, embedder, Guard(), tmp_path)
    measure(PAIRS, embedder, Guard(), tmp_path)
    assert embedder.encoded == 6
