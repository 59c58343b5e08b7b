"""`semantic-gateway tune`: what other thresholds would do, drawn and tabled, and a policy change to review.

Evidence is labelled pairs, or the gateway's own log of judged hits. It proposes; nothing is applied.
"""

import csv
import gzip
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway import charts
from gateway.calibrate import REFUSED, Judge, agree, read_pairs, rounded_up, sides
from gateway.calibration import Point, curve, needed, operating_point
from gateway.errors import Invalid
from gateway.interfaces import Embedder, Vector
from gateway.policy.book import Book, Cache, diff
from gateway.policy.edit import Change, Files
from gateway.proof import FLOOR, LEAST

log = logging.getLogger("gateway.tune")
_STEP = 0.0025  # between two thresholds of a curve
_COVERED = 30  # judged below the present threshold, without which a log proposes none below it
_COLUMNS = (
    "category", "statistic", "threshold", "hit_rate", "false_hit_rate", "error_rate", "wrong_share", "mark",
)  # fmt: skip
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one category: n candidates, whether reuse is right, and how many each stands for."""

    values: Array  # (n,) what a candidate is decided by; REFUSED where the guard objects
    right: Array  # (n,)
    weights: Array  # (n,)
    lookups: float  # that had these candidates, or none
    scored: bool = False  # `values` are the verifier's scores, else similarities
    sampled: bool = False  # from a log: error is per look-up; from pairs: per known non-duplicate

    def point(self, threshold: float) -> Point:
        return self.curve([threshold])[0]

    def curve(self, thresholds: Sequence[float]) -> list[Point]:
        return curve(self.values, self.right, None, thresholds, weights=self.weights, examples=self.lookups)

    @property
    def examples(self) -> int:
        """Of those among which error is counted."""
        return int(self.lookups) if self.sampled else int((~self.right).sum())

    @property
    def bound(self) -> float:
        """The most that one of them may weigh."""
        return float(self.weights.max(initial=1.0))

    def present(self, cache: Cache) -> float | None:
        """What the policy demands now; None: of nothing of the kind."""
        if cache.mode not in ("semantic", "shadow"):
            return None
        if not self.scored:
            return cache.threshold
        return None if cache.verify is None else cache.verify.score

    def floor(self, present: float) -> float:
        """The least threshold of which anything is known: a log says nothing of what was not judged."""
        least = LEAST if self.scored else FLOOR
        if not self.sampled:
            return least
        below = self.values[self.values < present]
        return max(least, float(below.min())) if len(below) >= _COVERED else present

    def certified(self, max_error: float) -> float | None:
        """The least threshold certified for `max_error`; None where there are too few examples."""
        wrong = ~self.right
        return operating_point(
            self.values[wrong],
            wrong[wrong],
            max_error,
            weights=self.weights[wrong],
            bound=self.bound,
            examples=self.examples,
        )


# ── evidence ────────────────────────────────────────────────────────────────────────────────────────────


def from_pairs(
    path: Path, embedder: Embedder, guard: Judge, categorise: Callable[[list[str], Vector], list[str]]
) -> dict[str, Evidence]:
    """Category → evidence, of labelled pairs. Raises Invalid for an unreadable line."""
    pairs = read_pairs(path)
    left, right = sides(pairs, embedder)
    guessed = categorise([pair.a for pair in pairs], left) if pairs else []
    cosines = np.einsum("ij,ij->i", left, right).tolist()
    found: defaultdict[str, list[tuple[float, bool]]] = defaultdict(list)
    for pair, guess, cosine in zip(pairs, guessed, cosines, strict=True):
        value = cosine if agree(guard, pair) else REFUSED
        found[pair.category or guess].append((value, pair.duplicate))
    return {name: _evidence([(*each, 1.0) for each in mine]) for name, mine in found.items()}


def from_log(path: Path) -> dict[str, Evidence]:
    """Category → evidence, of the JSON lines a gateway logs: judged hits, and its semantic look-ups.

    Of a category whose verifier came or went meanwhile, what decided most of its judged hits counts.
    """
    judged: defaultdict[tuple[str, bool], list[tuple[float, bool, float]]] = defaultdict(list)
    lookups: Counter[str] = Counter()
    unread = 0
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
        for line in lines:
            if b"gateway.judged" not in line and b"gateway.access" not in line:
                continue  # a log holds other lines
            try:
                told = orjson.loads(line)
                category = str(told["category"])
                if told["logger"] == "gateway.access":
                    lookups[category] += "similarity" in told or told["reason"] == "partition-empty"
                elif "wrong" in told:
                    judged[category, told.get("score") is not None].append(_judged(told))
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                unread += 1  # and torn ones
    if unread:
        log.warning("%s: %d lines of judged hits or requests could not be read", path, unread)
    rising = sorted(judged, key=lambda key: len(judged[key]))  # of a name's two, the larger is taken last
    return {
        name: _evidence(judged[name, scored], float(lookups[name]), scored=scored, sampled=True)
        for name, scored in rising
    }


def _judged(told: Mapping[str, Any]) -> tuple[float, bool, float]:
    score, weight = told.get("score"), float(told.get("weight", 1.0))
    value = float(told["similarity"] if score is None else score)
    if not (math.isfinite(value) and math.isfinite(weight) and weight >= 1):
        raise ValueError("no number, or a weight below one")
    return value, not told["wrong"], weight


def _evidence(
    judged: Sequence[tuple[float, bool, float]],
    lookups: float = 0.0,
    *,
    scored: bool = False,
    sampled: bool = False,
) -> Evidence:
    values, right, weights = (np.array(column) for column in zip(*judged, strict=True))
    return Evidence(values, right, weights, max(lookups, float(weights.sum())), scored, sampled)


# ── operating points ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Line:
    """One category: where it stands, and where it might."""

    category: str
    evidence: Evidence
    budget: float
    curve: Sequence[Point]
    present: Point | None
    proposed: Point | None
    why: str  # nothing is proposed

    def __str__(self) -> str:
        """A row of the table."""
        right = int(self.evidence.right.sum())
        now, new = self._cells(self.present), self._cells(self.proposed)
        by = "score" if self.evidence.scored else "similarity"
        counts = f"{by} | {right} | {len(self.evidence.right) - right} | {self.budget:.2%}"
        return f"| {self.category} | {counts} | {now} | {self.why + ' | ' if self.why else new} |"

    def _cells(self, point: Point | None) -> str:
        if point is None:
            return " | "
        wrong = point.error_rate if self.evidence.sampled else point.false_hit_rate
        return f"{point.threshold:.4f} | {point.hit_rate:.1%}, {wrong:.2%}"

    @property
    def change(self) -> Change | None:
        if self.proposed is None:
            return None
        return ("cache", "verify", "score") if self.evidence.scored else (
            "cache",
            "threshold",
        ), self.proposed.threshold


def table(lines: Sequence[Line]) -> str:
    """Markdown. All lines are of one kind of evidence."""
    error = "look-ups that are wrong hits" if lines[0].evidence.sampled else "known non-duplicates that hit"
    head = "| category | by | right | wrong | max error | in force | hits, wrong | proposed | hits, wrong |"
    rule = "|---" * 9 + "|"
    return "\n".join(
        [head, rule, *map(str, lines), "", f"hits, wrong: share of duplicates that hit, of {error}."]
    )


def tune(
    found: Mapping[str, Evidence], book: Book, files: Files, max_error: float | None, out: Path
) -> list[Line]:
    """Write chart.png, curve.csv, policies.diff and changes.json to `out`; gives the lines to print.

    `files`: of the book, to be changed. `max_error`: for all categories; None: each one's own, 1 % where it has none.
    Raises Invalid where there is no evidence.
    """
    lines = [_line(book, files.names, name, each, max_error) for name, each in sorted(found.items())]
    if not lines:
        raise Invalid("There is no evidence in the file: no labelled pair, or no judged hit.")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        rows.writerows(row for line in lines for row in _rows(line))
    new = files.changed({line.category: line.change for line in lines if line.change is not None})
    changes = diff(files.book(), new.book())
    (out / "policies.diff").write_bytes(files.diff(new).encode())
    (out / "changes.json").write_text(json.dumps(changes, indent=2), encoding="utf-8")
    if charts.drawable():
        charts.draw([_panel(line) for line in lines], out / "chart.png")
    else:
        print("No chart: install matplotlib (pip install 'semantic-gateway[charts]').")
    return lines


def _line(book: Book, written: set[str], name: str, evidence: Evidence, max_error: float | None) -> Line:
    category = book.category(name) or book.category("default")
    assert category is not None
    cache = category.cache
    budget = max_error or cache.max_error or 0.01
    now = evidence.present(cache)
    present = None if now is None else evidence.point(now)
    low = evidence.floor(1.0 if now is None else now)
    proposed, why = None, "in no policy file" if name not in written else f"mode {cache.mode}"
    if name in written and present is not None:
        proposed, why = _proposed(evidence, budget, present, low)
    elif name in written and cache.mode in ("semantic", "shadow"):
        why = "cache.verify is not set"
    grid = np.arange(math.ceil(low / _STEP), round(1 / _STEP) + 1) * _STEP
    return Line(name, evidence, budget, evidence.curve(grid.tolist()), present, proposed, why)


def _proposed(evidence: Evidence, budget: float, present: Point, low: float) -> tuple[Point | None, str]:
    """The certified operating point, or why there is none to propose."""
    certified = evidence.certified(budget)
    if certified is None:
        what = "look-ups" if evidence.sampled else "non-duplicates"
        return None, f"needs {needed(budget, evidence.bound)} {what}, has {evidence.examples}"
    point = evidence.point(rounded_up(max(certified, low)))
    if point.threshold <= present.threshold and point.hit_rate <= present.hit_rate:
        return None, "as it is"  # less is allowed, and would bring no hit
    return point, ""


def _rows(line: Line) -> Iterator[tuple[object, ...]]:
    marked = [(point, "") for point in line.curve]
    marked += [
        (p, mark) for p, mark in ((line.present, "present"), (line.proposed, "proposed")) if p is not None
    ]
    statistic = "score" if line.evidence.scored else "similarity"
    for point, mark in sorted(marked, key=lambda each: each[0].threshold):
        rates = point.hit_rate, point.false_hit_rate, point.error_rate, point.wrong_share
        yield line.category, statistic, f"{point.threshold:.4f}", *(f"{rate:.5f}" for rate in rates), mark


def _panel(line: Line) -> charts.Panel:
    right = int(line.evidence.right.sum())
    return charts.Panel(
        title=line.category,
        subtitle=f"{right} right, {len(line.evidence.right) - right} wrong{f'; {line.why}' if line.why else ''}",
        curve=line.curve,
        present=line.present,
        proposed=line.proposed,
        max_error=line.budget,
        sampled=line.evidence.sampled,
    )
