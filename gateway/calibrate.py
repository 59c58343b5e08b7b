"""Thresholds from labelled pairs: embed both sides, ask the guard, take each category's operating point.

Works on one's own pairs and on whatever embedder and guard serve. It proposes; the caller writes policies.
"""

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from gateway.calibration import Point, curve, needed, operating_point
from gateway.errors import Invalid
from gateway.interfaces import Embedder, Vector

ALL = "*"  # every category together
BATCH = 64
# Below this, texts that merely share a topic match; no operating point may go lower (a threshold of -1 would
# only say that the pairs held nothing risky).
FLOOR = 0.70
STEPS = 4  # of the error that load may spend


class Judge(Protocol):
    """The part of the guard that calibration needs."""

    def facts(self, text: str) -> Any: ...

    def verdict(self, asked: Any, stored: Any) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Pair:
    a: str
    b: str
    duplicate: bool
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One category's result. `threshold` is None where there are too few labelled non-duplicates."""

    category: str
    duplicates: int
    others: int
    threshold: float | None
    point: Point | None


@dataclass(frozen=True, slots=True)
class Calibration:
    max_error: float
    rows: tuple[Row, ...]  # all together first, then categories by name
    budgets: dict[
        str, tuple[float, ...]
    ]  # category → thresholds for equal steps of risk up to the load error

    @property
    def thresholds(self) -> dict[str, float]:
        """Category → threshold, where one could be certified."""
        return {row.category: row.threshold for row in self.rows if row.threshold is not None}

    def markdown(self) -> str:
        lines = [
            f"Thresholds at which at most {self.max_error:.2%} of known non-duplicates hit, guard agreeing.",
            "",
            "| category | duplicates | non-duplicates | threshold | duplicates hit | non-duplicates hit |",
            "|---|---|---|---|---|---|",
        ]
        return "\n".join([*lines, *map(self._line, self.rows), ""])

    def _line(self, row: Row) -> str:
        counts = f"| {row.category} | {row.duplicates} | {row.others} "
        if row.threshold is None or row.point is None:
            return f"{counts}| needs {needed(self.max_error)} non-duplicates | | |"
        return f"{counts}| {row.threshold:.4f} | {row.point.hit_rate:.1%} | {row.point.false_hit_rate:.2%} |"


def run(
    pairs: Path,
    max_error: float,
    out: Path,
    embedder: Embedder,
    guard: Judge,
    categorise: Callable[[list[str], Vector], list[str]],
    load_error: float | None = None,
) -> Calibration:
    """Calibrate on `pairs` (JSON lines, optionally gzipped: a, b, duplicate, optional category).

    The category of a pair without one is that of its first question. Writes `out`/calibration.md and .json.
    `load_error`: what full load may spend; then every category gets a budget as well. Raises Invalid for an
    unreadable line, ValueError for a `max_error` outside (0, 1) or a `load_error` below it.
    """
    labelled = read_pairs(pairs)
    texts = list(dict.fromkeys(text for pair in labelled for text in (pair.a, pair.b)))
    row_of = {text: row for row, text in enumerate(texts)}
    vectors = encode(embedder, texts)
    left = vectors[[row_of[pair.a] for pair in labelled]]
    right = vectors[[row_of[pair.b] for pair in labelled]]
    similarity = np.einsum("ij,ij->i", left, right)
    agreed = np.array([_agree(guard, pair) for pair in labelled], dtype=np.bool_)
    guessed = categorise([pair.a for pair in labelled], left) if labelled else []
    names = [pair.category or guess for pair, guess in zip(labelled, guessed, strict=True)]
    duplicate = np.array([pair.duplicate for pair in labelled], dtype=np.bool_)
    result = calibrate(similarity, duplicate, agreed, names, max_error, load_error)
    out.mkdir(parents=True, exist_ok=True)
    (out / "calibration.md").write_text(result.markdown(), encoding="utf-8")
    (out / "calibration.json").write_bytes(
        orjson.dumps({"max_error": max_error, "thresholds": result.thresholds}, option=orjson.OPT_INDENT_2)
    )
    return result


def calibrate(
    similarity: np.ndarray[Any, Any],
    duplicate: np.ndarray[Any, Any],
    agreed: np.ndarray[Any, Any],
    categories: Sequence[str],
    max_error: float,
    load_error: float | None = None,
) -> Calibration:
    """Operating points over known non-duplicates, for all pairs together and for each category."""
    if load_error is not None and load_error < max_error:
        raise ValueError("the error allowed under load is below the error allowed without")
    rows = _rows(similarity, duplicate, agreed, categories, max_error)
    risks = () if load_error is None else np.linspace(max_error, load_error, STEPS + 1)[1:].tolist()
    eased = [_rows(similarity, duplicate, agreed, categories, risk) for risk in risks]
    budgets = {
        row.category: tuple(step.threshold for step in steps if step.threshold is not None)
        for row, *steps in zip(rows, *eased, strict=True)
        if steps and row.threshold is not None
    }
    return Calibration(max_error, rows, budgets)


def _rows(
    similarity: np.ndarray[Any, Any],
    duplicate: np.ndarray[Any, Any],
    agreed: np.ndarray[Any, Any],
    categories: Sequence[str],
    max_error: float,
) -> tuple[Row, ...]:
    names = np.array(categories, dtype=object)
    rows = [_row(ALL, similarity, duplicate, agreed, max_error)]
    for name in sorted(set(categories)):
        mine = names == name
        rows.append(_row(name, similarity[mine], duplicate[mine], agreed[mine], max_error))
    return tuple(rows)


def _row(
    name: str,
    similarity: np.ndarray[Any, Any],
    duplicate: np.ndarray[Any, Any],
    agreed: np.ndarray[Any, Any],
    max_error: float,
) -> Row:
    others = ~duplicate
    known = int(others.sum())
    threshold = operating_point(similarity[others], np.ones(known, dtype=np.bool_), max_error, agreed[others])
    if threshold is None:
        return Row(name, int(duplicate.sum()), known, None, None)
    threshold = max(threshold, FLOOR)
    point = curve(similarity, duplicate, agreed, [threshold])[0]
    return Row(name, int(duplicate.sum()), known, threshold, point)


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a JSON-lines file, gzipped if its name ends in .gz."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as lines:
        return [_pair(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _pair(line: bytes, where: str) -> Pair:
    try:
        row = orjson.loads(line)
        a, b, duplicate, category = row["a"], row["b"], row["duplicate"], row.get("category")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{where}: not a labelled pair ({error})") from error
    if not (
        isinstance(a, str) and isinstance(b, str) and duplicate in (0, 1) and isinstance(category, str | None)
    ):
        raise Invalid(f"{where}: a and b must be texts, duplicate 0 or 1, category a text")
    return Pair(a, b, bool(duplicate), category)


def encode(embedder: Embedder, texts: Sequence[str]) -> Vector:
    """(n, dim) unit vectors, texts of like length in one batch so that little is padding."""
    vectors = np.zeros((len(texts), embedder.dim), dtype=np.float32)
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(texts), BATCH):
        rows = by_length[start : start + BATCH]
        vectors[rows] = embedder.encode([texts[row] for row in rows])
    return vectors


def _agree(guard: Judge, pair: Pair) -> bool:
    return guard.verdict(guard.facts(pair.a), guard.facts(pair.b)) is None
