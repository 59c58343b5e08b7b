"""Similarities and guard verdicts of labelled pairs, and the tables made of them."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.accuracy.pairs import Labelled
from bench.accuracy.vectors import vectors
from gateway.cache.guard import CHECKS, Guard
from gateway.calibration import curve, operating_point
from gateway.interfaces import Embedder

THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.88, 0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98)
BUDGETS = (0.010, 0.012, 0.015)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """n pairs: similarity (n,), duplicate (n,), verdict of each (None: agrees), half (n,)."""

    pairs: Sequence[Labelled]
    similarity: Array
    duplicate: Array
    verdicts: Sequence[str | None]
    tune: Array
    guard_seconds: float  # one facts + facts + verdict

    @property
    def agreed(self) -> Array:
        return np.array([verdict is None for verdict in self.verdicts], dtype=np.bool_)


@dataclass(slots=True)
class Table:
    """Rows under a title; printed as Markdown, written as CSV."""

    name: str  # of the CSV file
    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", _line(self.columns), _line("---" for _ in self.columns)]
        return "\n".join([*lines, *(_line(row) for row in self.rows), ""])

    def csv(self) -> str:
        return "\n".join(",".join(str(cell) for cell in row) for row in [self.columns, *self.rows]) + "\n"


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def measure(pairs: Sequence[Labelled], embedder: Embedder, guard: Guard, folder: Path) -> Measured:
    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)})
    row = {text: at for at, text in enumerate(texts)}
    found = vectors(embedder, texts, folder)
    left, right = found[[row[pair.a] for pair in pairs]], found[[row[pair.b] for pair in pairs]]
    started = time.perf_counter()
    verdicts = [guard.verdict(guard.facts(pair.a), guard.facts(pair.b)) for pair in pairs]
    return Measured(
        pairs=pairs,
        similarity=np.einsum("ij,ij->i", left, right),
        duplicate=np.array([pair.duplicate for pair in pairs], dtype=np.bool_),
        verdicts=verdicts,
        tune=np.array([pair.tune for pair in pairs], dtype=np.bool_),
        guard_seconds=(time.perf_counter() - started) / max(1, len(pairs)),
    )


def by_threshold(name: str, measured: Measured, mask: Array) -> Table:
    """Hit rates per threshold, without and with the guard, on the masked pairs."""
    similarity, duplicate, agreed = measured.similarity[mask], measured.duplicate[mask], measured.agreed[mask]
    table = Table(
        f"{name} thresholds",
        f"{name}: {int(duplicate.sum())} duplicates, {int((~duplicate).sum())} known non-duplicates",
        ("threshold", "dup % plain", "non-dup % plain", "dup % guard", "non-dup % guard",
         "wrong/look-ups % guard", "wrong/hits % guard"),
    )  # fmt: skip
    plain = curve(similarity, duplicate, None, THRESHOLDS)
    guarded = curve(similarity, duplicate, agreed, THRESHOLDS)
    for bare, kept in zip(plain, guarded, strict=True):
        rates = (bare.hit_rate, bare.false_hit_rate, kept.hit_rate, kept.false_hit_rate)
        table.rows.append(
            [f"{bare.threshold:.2f}", *map(_percent, (*rates, kept.error_rate, kept.wrong_share))]
        )
    return table


def by_check(name: str, measured: Measured, floor: float) -> Table:
    """How many pairs above `floor` each check vetoes first, and how many it alone keeps from hitting."""
    near = measured.similarity >= floor
    duplicate = measured.duplicate
    first = Counter(
        (verdict, bool(label))
        for verdict, label, is_near in zip(measured.verdicts, duplicate, near, strict=True)
        if is_near
    )
    alone = _vetoed_alone(measured, near)
    table = Table(
        f"{name} checks",
        f"{name}: checks, of {int((near & duplicate).sum())} duplicates and "
        f"{int((near & ~duplicate).sum())} non-duplicates at {floor:.2f} and above",
        ("check", "first veto: dup", "first veto: non-dup", "only veto: dup", "only veto: non-dup"),
    )
    for check in CHECKS:
        counts = (first[check, True], first[check, False], alone[check, True], alone[check, False])
        table.rows.append((check, *counts))
    table.rows.append(("(none)", first[None, True], first[None, False], "", ""))
    return table


def _vetoed_alone(measured: Measured, near: Array) -> Counter[tuple[str, bool]]:
    guard = Guard()
    alone: Counter[tuple[str, bool]] = Counter()
    for at in map(int, np.flatnonzero(near)):
        pair = measured.pairs[at]
        if pair.a == pair.b or measured.verdicts[at] is None:
            continue
        one, two = guard.facts(pair.a), guard.facts(pair.b)
        vetoes = [name for name, agrees in CHECKS.items() if not agrees(one, two)]
        if len(vetoes) == 1:
            alone[vetoes[0], pair.duplicate] += 1
    return alone


def operating(name: str, measured: Measured) -> Table:
    """Conformal operating points chosen on the tune half, and what they do on the held-out half."""
    table = Table(
        f"{name} operating points",
        f"{name}: operating points chosen on the tune half",
        (
            "max non-dup %",
            "guard",
            "threshold",
            "tune dup %",
            "tune non-dup %",
            "held dup %",
            "held non-dup %",
        ),
    )
    everything = np.ones(len(measured.pairs), dtype=np.bool_)
    for budget in BUDGETS:
        for label, agreed in (("without", everything), ("with", measured.agreed)):
            known = measured.tune & ~measured.duplicate
            threshold = operating_point(
                measured.similarity[known], np.ones(int(known.sum())), budget, agreed[known]
            )
            if threshold is None:
                table.rows.append([f"{budget:.1%}", label, "too few", "", "", "", ""])
                continue
            cells: list[str] = []
            for half in (measured.tune, ~measured.tune):
                point = curve(measured.similarity[half], measured.duplicate[half], agreed[half], [threshold])[
                    0
                ]
                cells += [_percent(point.hit_rate), _percent(point.false_hit_rate)]
            table.rows.append([f"{budget:.1%}", label, f"{threshold:.4f}", *cells])
    return table


def _percent(rate: float) -> str:
    return f"{rate * 100:.2f}"
