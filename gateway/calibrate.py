"""Thresholds from labelled pairs: embed both sides, ask the guard, take each category's operating point.

Works on one's own pairs and on whatever embedder and guard serve. It proposes; the caller writes policies.
"""

import gzip
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson

from gateway.calibration import FLOOR, Point, curve, needed, operating_point
from gateway.errors import Invalid
from gateway.interfaces import Embedder, Vector, Verifier
from gateway.proof import ABOVE, SIGNIFICANT, WORDING, Proof, proven

ALL = "*"  # every category together
BATCH = 64
REFUSED = (
    -1.0
)  # statistic of a pair the guard vetoes: a look-up without a candidate, which no threshold lets hit
STEPS = 4  # of the error that load may spend


class Judge(Protocol):
    """The part of the guard that calibration needs."""

    def facts(self, text: str) -> Any: ...

    def verdict(self, asked: Any, stored: Any, waived: frozenset[str] = frozenset()) -> str | None: ...


class Texts(Protocol):
    """A pair whose label does not matter."""

    @property
    def a(self) -> str: ...

    @property
    def b(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Pair:
    a: str
    b: str
    duplicate: bool
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Second:
    """A verifier's word on n pairs: scores (n,), and whether the guard without its checks of wording agrees (n,)."""

    scores: np.ndarray[Any, Any]
    permitted: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One category's result. `threshold` is None where there are too few labelled non-duplicates."""

    category: str
    duplicates: int
    others: int
    threshold: float | None
    point: Point | None
    proof: Proof | None = None  # of a verifier against the threshold


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

    @property
    def proofs(self) -> dict[str, Proof]:
        """Category → the proof that a verifier is better there, where there is one."""
        return {row.category: row.proof for row in self.rows if row.proof is not None and row.proof.holds}

    def markdown(self) -> str:
        lines = [
            f"Thresholds at which at most {self.max_error:.2%} of known non-duplicates hit, guard agreeing.",
            "",
            "| category | duplicates | non-duplicates | threshold | duplicates hit | non-duplicates hit |",
            "|---|---|---|---|---|---|",
        ]
        return "\n".join([*lines, *map(self._line, self.rows), *self._proven(), ""])

    def _proven(self) -> list[str]:
        """What a verifier would change, category by category."""
        proofs = [(row.category, row.proof) for row in self.rows if row.proof is not None]
        if not proofs:
            return []
        title = (
            "The verifier, at the same error: duplicates that only its score or only similarity lets hit, and the "
            f"exact one-sided sign test of the two. Used in a category where p is at most {SIGNIFICANT}."
        )
        head = [
            "| category | score | guard's wording checks | only by score | only by similarity | p | used |",
            "|---|---|---|---|---|---|---|",
        ]
        return ["", title, "", *head, *(
            f"| {name} | {it.score:.4f} | {'waived' if it.waives else 'kept'} | {it.gained} | {it.lost} "
            f"| {it.p:.2g} | {'yes' if it.holds else 'no'} |"
            for name, it in proofs
        )]  # fmt: skip

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
    verifier: Verifier | None = None,
) -> Calibration:
    """Calibrate on `pairs` (JSON lines, optionally gzipped: a, b, duplicate, optional category).

    The category of a pair without one is that of its first question. Writes `out`/calibration.md and .json.
    `load_error`: what full load may spend; then every category gets a budget as well. `verifier`: compared with
    plain similarity in each category. Raises Invalid for an
    unreadable line, ValueError for a `max_error` outside (0, 1) or a `load_error` below it.
    """
    labelled = read_pairs(pairs)
    left, right = sides(labelled, embedder)
    similarity = np.einsum("ij,ij->i", left, right)
    agreed = agreement(guard, labelled)
    guessed = categorise([pair.a for pair in labelled], left) if labelled else []
    names = [pair.category or guess for pair, guess in zip(labelled, guessed, strict=True)]
    duplicate = np.array([pair.duplicate for pair in labelled], dtype=np.bool_)
    second = None
    if verifier is not None:
        second = heard(verifier, guard, labelled, left, right, similarity >= ABOVE)
    result = calibrate(similarity, duplicate, agreed, names, max_error, load_error, second)
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
    second: Second | None = None,
) -> Calibration:
    """Operating points over known non-duplicates, for all pairs together and for each category."""
    if load_error is not None and load_error < max_error:
        raise ValueError("the error allowed under load is below the error allowed without")
    rows = _rows(similarity, duplicate, agreed, categories, max_error, second)
    risks = () if load_error is None else np.linspace(max_error, load_error, STEPS + 1)[1:].tolist()
    eased = [_rows(similarity, duplicate, agreed, categories, risk) for risk in risks]
    return Calibration(max_error, rows, _budgets(rows, eased))


def _budgets(rows: Sequence[Row], eased: Sequence[Sequence[Row]]) -> dict[str, tuple[float, ...]]:
    """Of each category the stricter of its own thresholds and of those of all pairs, which come first.

    The far end of a category is a few dozen wrong hits: its own thresholds there are partly luck.
    """
    paths = {
        row.category: tuple(step.threshold for step in steps if step.threshold is not None)
        for row, *steps in zip(rows, *eased, strict=True)
        if steps and row.threshold is not None
    }
    return {name: tuple(map(max, path, paths[ALL])) for name, path in paths.items()}


def _rows(
    similarity: np.ndarray[Any, Any],
    duplicate: np.ndarray[Any, Any],
    agreed: np.ndarray[Any, Any],
    categories: Sequence[str],
    max_error: float,
    second: Second | None = None,
) -> tuple[Row, ...]:
    names = np.array(categories, dtype=object)
    masks = {ALL: np.ones(len(names), dtype=np.bool_)} | {
        name: names == name for name in sorted(set(categories))
    }
    rows = []
    for name, mine in masks.items():
        arrays = similarity[mine], duplicate[mine], agreed[mine]
        row = _row(name, *arrays, max_error)
        if second is not None:
            scores, permitted = second.scores[mine], second.permitted[mine]
            row = replace(row, proof=proven(arrays[0], scores, *arrays[1:], permitted, max_error))
        rows.append(row)
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


def heard(
    verifier: Verifier,
    guard: Judge,
    pairs: Sequence[Texts],
    left: Vector,
    right: Vector,
    near: np.ndarray[Any, Any],
) -> Second:
    """The verifier's word on those of n pairs that are `near` and no fact parts; vectors (n, d) of either side."""
    permitted = agreement(guard, pairs, WORDING)
    return Second(scored(verifier, pairs, left, right, permitted & near), permitted)


def scored(
    verifier: Verifier, pairs: Sequence[Texts], left: Vector, right: Vector, asked: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """The verifier's scores of the pairs it is asked about, 0 of the others; vectors (n, d) of either side."""
    scores = np.zeros(len(pairs))
    for at in map(int, np.flatnonzero(asked)):
        (scores[at],) = verifier.scores(pairs[at].a, [pairs[at].b], left[at], right[at : at + 1])
    return scores


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


def distinct(pairs: Sequence[Pair]) -> tuple[list[str], list[int], list[int]]:
    """The texts of n pairs, each once, and which of them is either side of each pair, (n,) twice."""
    row = {text: at for at, text in enumerate(dict.fromkeys(t for pair in pairs for t in (pair.a, pair.b)))}
    return list(row), [row[pair.a] for pair in pairs], [row[pair.b] for pair in pairs]


def sides(pairs: Sequence[Pair], embedder: Embedder) -> tuple[Vector, Vector]:
    """The vectors of either side of n pairs, (n, dim) twice."""
    texts, left, right = distinct(pairs)
    vectors = encode(embedder, texts)
    return vectors[left], vectors[right]


def rounded_up(threshold: float) -> float:
    """To four places, as policies state it: never looser than certified, but for one above 1, which none may state.

    Compared as the floats they are: one just above a four-place value must not fall back upon it.
    """
    near = round(threshold, 4)
    return min(near if near >= threshold else round(near + 0.0001, 4), 1.0)


def agree(guard: Judge, pair: Texts, waived: Collection[str] = ()) -> bool:
    """Whether the guard, without the waived checks, lets the answer to one question stand for the other."""
    return guard.verdict(guard.facts(pair.a), guard.facts(pair.b), frozenset(waived)) is None


def agreement(guard: Judge, pairs: Sequence[Texts], waived: Collection[str] = ()) -> np.ndarray[Any, Any]:
    """The same of n pairs, (n,)."""
    return np.array([agree(guard, pair, waived) for pair in pairs], dtype=np.bool_)
