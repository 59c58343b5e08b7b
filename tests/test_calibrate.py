"""Thresholds from a file of labelled pairs."""

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.calibrate import ALL, calibrate, encode, read_pairs, rounded_up, run
from gateway.calibration import FLOOR, operating_point
from gateway.errors import Invalid
from gateway.interfaces import Vector
from gateway.policy.book import from_json
from gateway.thresholds import _with


class Angles:
    """Texts are angles in degrees; so the similarity of a pair is the cosine of their difference."""

    dim = 2
    window = 8
    name = "angles"

    def tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def encode(self, texts: Sequence[str]) -> Vector:
        radians = np.radians([float(text.strip("!")) for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


class Shouting:
    """Objects to a text that shouts."""

    def facts(self, text: str) -> str:
        return text

    def verdict(self, asked: str, stored: str, waived: frozenset[str] = frozenset()) -> str | None:
        return "shouting" if "!" in asked + stored else None


def by_sign(texts: list[str], vectors: Vector) -> list[str]:
    assert vectors.shape == (len(texts), 2)
    return ["upper" if vector[1] >= 0 else "lower" for vector in vectors]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    data = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def pairs() -> list[dict[str, object]]:
    wrong = [{"a": "10", "b": str(10 + at), "duplicate": 0} for at in range(1, 61)]
    right = [{"a": "20", "b": str(20 + at), "duplicate": 1} for at in range(20)]
    few = [{"a": "-10", "b": "-11", "duplicate": 0}]
    named = [{"a": "10", "b": "60!", "duplicate": 0, "category": "loud"} for _ in range(30)]
    return wrong + right + few + named


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_each_category_gets_its_own_point(tmp_path: Path, name: str) -> None:
    result = run(write(tmp_path / name, pairs()), 0.05, tmp_path / "out", Angles(), Shouting(), by_sign)
    rows = {row.category: row for row in result.rows}
    assert list(rows) == [ALL, "loud", "lower", "upper"]
    assert rows["lower"].threshold is None  # one labelled pair
    assert rows["loud"].threshold == FLOOR  # the guard objects to all of them
    upper = rows["upper"]  # budget: floor(61 * 0.05 - 1) = 2 wrong hits, those one and two degrees apart
    assert upper.threshold is not None
    assert upper.threshold == pytest.approx(np.cos(np.radians(3)), abs=1e-5)
    assert upper.point is not None
    assert upper.point.hit_rate == 3 / 20
    assert upper.point.false_hit_rate == 2 / 60


def test_the_outcome_is_written(tmp_path: Path) -> None:
    result = run(
        write(tmp_path / "p.jsonl", pairs()), 0.05, tmp_path / "new/out", Angles(), Shouting(), by_sign
    )
    written = orjson.loads((tmp_path / "new/out/calibration.json").read_bytes())
    assert written == {"max_error": 0.05, "thresholds": result.thresholds}
    assert set(result.thresholds) == {ALL, "loud", "upper"}
    table = (tmp_path / "new/out/calibration.md").read_text(encoding="utf-8")
    assert "| lower | 0 | 1 | needs 19 non-duplicates | | |" in table
    assert f"| upper | 20 | 60 | {result.thresholds['upper']:.4f} | 15.0% | 3.33% |" in table


class Knowing:
    """Scores a rewording high; `helps`: it can tell one."""

    name = "knowing"
    embedder = "angles"

    def __init__(self, helps: bool) -> None:
        self.helps = helps

    def scores(self, asked: str, stored: Sequence[str], vector: Vector, vectors: Vector) -> list[float]:
        assert len(stored) == len(vectors)
        return [0.9 if self.helps and asked == "20" else 0.4 for _ in stored]


@pytest.mark.parametrize("helps", [True, False])
def test_a_verifier_is_written_only_where_it_proves_better(tmp_path: Path, helps: bool) -> None:
    source = write(tmp_path / "pairs.jsonl", pairs())
    found = run(source, 0.05, tmp_path / "out", Angles(), Shouting(), by_sign, verifier=Knowing(helps))
    assert set(found.proofs) == ({ALL, "upper"} if helps else set())
    plain = run(source, 0.05, tmp_path / "plain", Angles(), Shouting(), by_sign)
    assert found.thresholds == plain.thresholds
    book = _with(from_json({"categories": [{"name": "upper"}, {"name": "default"}]}), found, None, True)
    verify = [category["cache"]["verify"] for category in book["categories"]]
    assert verify == [{"above": 0.7, "score": 0.5, "waives": []} if helps else None, None]
    assert "used" in found.markdown()
    assert "used" not in plain.markdown()


def test_no_pairs_give_no_thresholds(tmp_path: Path) -> None:
    result = run(write(tmp_path / "p.jsonl", []), 0.05, tmp_path / "out", Angles(), Shouting(), by_sign)
    assert result.thresholds == {}


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"a": "x", "b": "y"}', '{"a": 1, "b": "y", "duplicate": 1}',
     '{"a": "x", "b": "y", "duplicate": "yes"}', '{"a": "x", "b": "y", "duplicate": 1, "category": 4}'],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"a": "1", "b": "2", "duplicate": true}\n\n' + line, encoding="utf-8")
    with pytest.raises(Invalid, match=r"p\.jsonl:3: "):
        read_pairs(path)


def test_vectors_keep_their_texts() -> None:
    texts = [str(degrees) for degrees in range(0, 200, 1)]
    assert np.allclose(encode(Angles(), texts), Angles().encode(texts))


def test_an_error_that_load_may_spend_becomes_a_budget_of_thresholds(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", pairs())
    found = run(source, 0.1, tmp_path / "out", Angles(), Shouting(), by_sign, load_error=0.3)
    steps = [found.thresholds["upper"], *found.budgets["upper"]]
    assert len(steps) == 5
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < steps[0]
    last = run(source, 0.3, tmp_path / "out", Angles(), Shouting(), by_sign)
    assert steps[-1] == last.thresholds["upper"]
    assert "lower" not in found.budgets  # too few to certify anything


def test_a_budget_is_no_looser_than_that_of_all_pairs_together() -> None:
    rng = np.random.default_rng(3)
    names = ["lucky"] * 200 + ["common"] * 800
    similarity = np.concatenate([rng.uniform(0.2, 0.75, 200), rng.uniform(0.2, 1.0, 800)])
    others, agreed = np.zeros(1000, dtype=bool), np.ones(1000, dtype=bool)
    found = calibrate(similarity, others, agreed, names, 0.01, 0.1).budgets
    alone = calibrate(similarity[:200], others[:200], agreed[:200], names[:200], 0.01, 0.1).budgets
    assert alone["lucky"][-1] < found["lucky"][-1] == found[ALL][-1]
    assert found["common"][-1] > found[ALL][-1]


@settings(deadline=None)
@given(st.floats(0.5, 1.0), st.integers(5_000, 10_000))
def test_rounding_never_reaches_back_to_a_wrong_pair(similarity: float, places: int) -> None:
    for s in (similarity, places / 10_000, math.nextafter(places / 10_000, 0)):
        threshold = operating_point(np.array([s] * 200), np.ones(200, dtype=bool), 0.01)
        assert threshold is not None
        if threshold <= 1:
            assert s < threshold <= rounded_up(threshold) < threshold + 1.01e-4


def test_what_even_identical_vectors_do_not_certify_is_exact_only() -> None:
    """No threshold of 1 keeps out a wrong pair of similarity 1."""
    ones, others = np.ones(400), np.zeros(400, dtype=bool)
    found = calibrate(ones, others, ~others, ["same"] * 400, 0.01)
    tree = {
        "categories": [{"name": "same"}, {"name": "seen", "cache": {"mode": "shadow"}}, {"name": "default"}]
    }
    book = _with(from_json(tree), found, None)
    assert [category["cache"]["mode"] for category in book["categories"]] == ["exact", "shadow", "exact"]
    assert from_json(book)


def test_load_may_not_have_less_than_calm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="under load"):
        run(write(tmp_path / "p", pairs()), 0.1, tmp_path, Angles(), Shouting(), by_sign, load_error=0.05)
