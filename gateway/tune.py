"""`semantic-gateway tune`: what other thresholds would do, drawn and tabled, and a policy change to review.

Evidence is labelled pairs, or the gateway's own log of judged hits. It proposes; nothing is applied.
"""

import csv
import difflib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml

from gateway.calibrate import REFUSED, Judge, agree, read_pairs, rounded_up, sides
from gateway.calibration import FLOOR, needed, operating_point
from gateway.errors import Invalid
from gateway.interfaces import Embedder, Vector
from gateway.policy.book import Book, diff, from_json, to_json

GRID = np.round(np.arange(FLOOR, 1.0001, 0.0025), 4)
_COVERED = 30  # judged below the present threshold, without which a log proposes none below it
_COLUMNS = ("category", "threshold", "hit_rate", "false_hit_rate", "error_rate")


@dataclass(slots=True)
class Evidence:
    """What is known of one category: a candidate's statistic each, whether reuse is right, and how many it stands for."""

    statistics: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    lookups: float = 0.0  # that had these candidates, or none
    sampled: bool = False  # from a log: error is per look-up; from pairs: per known non-duplicate

    def add(self, statistic: float, right: bool, weight: float = 1.0) -> None:
        self.statistics.append(statistic)
        self.right.append(right)
        self.weights.append(weight)

    def rates(self, threshold: float) -> tuple[float, float, float]:
        """Share of right candidates that hit, of wrong ones, and wrong hits per look-up."""
        s, right, weight = np.array(self.statistics), np.array(self.right), np.array(self.weights)
        hit = s >= threshold
        wrong = float(weight[hit & ~right].sum())
        return (
            float(weight[hit & right].sum()) / max(1e-9, float(weight[right].sum())),
            wrong / max(1e-9, float(weight[~right].sum())),
            wrong / max(self.lookups, float(weight.sum()), 1e-9),
        )

    def proposed(self, max_error: float, present: float) -> float | None:
        """The least threshold certified for `max_error`; None where there is too little evidence."""
        s, right, weight = np.array(self.statistics), np.array(self.right), np.array(self.weights)
        wrong = s[~right]
        always = np.ones(len(wrong), dtype=np.bool_)
        if not self.sampled:
            found = operating_point(wrong, always, max_error)
            return None if found is None else max(found, FLOOR)
        number, bound = int(max(self.lookups, weight.sum())), float(weight.max(initial=1.0))
        found = operating_point(
            wrong, always, max_error, weights=weight[~right], bound=bound, examples=number
        )
        floor = FLOOR if int((s < present).sum()) >= _COVERED else present
        return None if found is None else max(found, floor)


def from_pairs(
    path: Path, embedder: Embedder, guard: Judge, categorise: Callable[[list[str], Vector], list[str]]
) -> dict[str, Evidence]:
    """Category → evidence, of labelled pairs. Raises Invalid for an unreadable line."""
    pairs = read_pairs(path)
    left, right = sides(pairs, embedder)
    found: defaultdict[str, Evidence] = defaultdict(Evidence)
    guessed = categorise([pair.a for pair in pairs], left) if pairs else []
    cosines = np.einsum("ij,ij->i", left, right).tolist()
    for pair, guess, cosine in zip(pairs, guessed, cosines, strict=True):
        evidence = found[pair.category or guess]
        evidence.add(cosine if agree(guard, pair) else REFUSED, pair.duplicate)
        evidence.lookups += 1
    return dict(found)


def from_log(path: Path) -> dict[str, Evidence]:
    """Category → evidence, of the JSON lines a gateway logs: judged hits, and look-ups that had a candidate."""
    found: defaultdict[str, Evidence] = defaultdict(lambda: Evidence(sampled=True))
    with path.open("rb") as lines:
        for line in lines:
            if b"gateway.judged" in line or b"gateway.access" in line:
                _read(line, found)
    return dict(found)


def _read(line: bytes, found: Mapping[str, Evidence]) -> None:
    try:
        told = orjson.loads(line)
        logger, category = told["logger"], str(told["category"])
        if logger == "gateway.access" and "similarity" in told:
            found[category].lookups += 1
        elif logger == "gateway.judged" and "wrong" in told:
            statistic = told["similarity"] if told.get("score") is None else told["score"]
            found[category].add(float(statistic), not told["wrong"], float(told.get("weight", 1.0)))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return  # a log holds other lines, and torn ones


@dataclass(frozen=True, slots=True)
class Line:
    """One category: where it stands, and where it might."""

    category: str
    evidence: Evidence
    present: float
    budget: float
    proposed: float | None
    curve: np.ndarray[Any, Any]  # (thresholds, 3): `rates` over GRID

    def __str__(self) -> str:
        hit, false, error = self.evidence.rates(self.present)
        known = len(self.evidence.right)
        now = f"{self.present:.4f}: {hit:.1%} of duplicates, {false:.2%} of others, {error:.2%} of look-ups wrong"
        if self.proposed is None:
            return f"{self.category} ({known}): {now}; needs {needed(self.budget)} for a budget of {self.budget:.2%}"
        hit, false, error = self.evidence.rates(self.proposed)
        new = f"{self.proposed:.4f}: {hit:.1%}, {false:.2%}, {error:.2%}"
        return f"{self.category} ({known}): {now}; proposed for {self.budget:.2%}: {new}"


def tune(found: Mapping[str, Evidence], book: Book, max_error: float | None, out: Path) -> list[Line]:
    """Write chart.png, curve.csv, policies.diff and changes.json to `out`; gives the lines to print.

    `max_error`: for all categories; None: each one's own, 1 % where it has none.
    """
    lines = [
        _line(book, name, evidence, max_error) for name, evidence in sorted(found.items()) if evidence.right
    ]
    if not lines:
        raise Invalid("There is no evidence in the file: no labelled pair, or no judged hit.")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        rows.writerows(_rows(lines))
    new = _changed(book, lines)
    (out / "policies.diff").write_text(_diff(book, new), encoding="utf-8")
    (out / "changes.json").write_text(json.dumps(diff(book, new), indent=2), encoding="utf-8")
    _draw(lines, out / "chart.png")
    return lines


def _line(book: Book, name: str, evidence: Evidence, max_error: float | None) -> Line:
    category = book.category(name) or book.category("default")
    assert category is not None
    cache = category.cache
    budget = max_error or cache.max_error or 0.01
    present = cache.threshold if cache.verify is None or not evidence.sampled else cache.verify.score
    proposed = evidence.proposed(budget, present) if cache.mode in ("semantic", "shadow") else None
    curve = np.array([evidence.rates(threshold) for threshold in GRID.tolist()])
    return Line(name, evidence, present, budget, None if proposed is None else rounded_up(proposed), curve)


def _rows(lines: Sequence[Line]) -> Iterator[tuple[object, ...]]:
    for line in lines:
        for threshold, rates in zip(GRID.tolist(), line.curve.tolist(), strict=True):
            yield line.category, f"{threshold:.4f}", *(f"{rate:.5f}" for rate in rates)


def _changed(book: Book, lines: Sequence[Line]) -> Book:
    proposed = {line.category: line.proposed for line in lines if line.proposed is not None}
    tree = to_json(book)
    for category in tree["categories"]:
        threshold = proposed.get(category["name"])
        if threshold is not None:
            cache: dict[str, Any] = category["cache"]
            if cache["verify"] and any(line.evidence.sampled for line in lines):
                cache["verify"]["score"] = threshold
            else:
                cache["threshold"] = threshold
    return from_json(tree)


def _diff(old: Book, new: Book) -> str:
    """A unified diff of both books as YAML, defaults filled in."""
    before, after = (
        yaml.safe_dump(to_json(book), sort_keys=False, allow_unicode=True) for book in (old, new)
    )
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(lines[0], lines[1], "policies (in force)", "policies (proposed)"))


def _draw(lines: Sequence[Line], path: Path) -> None:
    """One panel a category: duplicates that hit against others that hit, over all thresholds."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No chart: install matplotlib (pip install 'semantic-gateway[charts]').")
        return
    columns = min(3, len(lines))
    rows = math.ceil(len(lines) / columns)
    figure = Figure(figsize=(4.4 * columns, 3.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for number, panel in enumerate(panels.flat):
        if number < len(lines):
            _panel(panel, lines[number])
        else:
            panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("duplicates that hit")
    shown = {
        label: handle
        for panel in panels.flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def _panel(panel: Any, line: Line) -> None:
    least = 1e-4
    panel.plot(
        np.maximum(line.curve[:, 1], least),
        line.curve[:, 0],
        color="#4477aa",
        lw=1.8,
        label="threshold 0.70 to 1.00",
    )
    marks = [(line.present, "o", "#222222", "in force")]
    if line.proposed is not None:
        marks.append((line.proposed, "D", "#cc3311", "proposed"))
    for threshold, marker, colour, label in marks:
        hit, false, _ = line.evidence.rates(threshold)
        panel.plot(max(false, least), hit, marker, color=colour, ms=7, label=label)
        panel.annotate(f" {threshold:.3f}", (max(false, least), hit), fontsize=8, color=colour, va="top")
    if not line.evidence.sampled:
        panel.axvline(line.budget, color="#cc3311", lw=0.8, ls=":", label="error budget")
    panel.set_xscale("log")
    panel.set_xlim(least * 0.8, 1.0)
    panel.set_ylim(0, 1)
    panel.set_title(f"{line.category} ({len(line.evidence.right):,} labels)", fontsize=10)
    panel.set_xlabel("known non-duplicates that hit")
    panel.grid(alpha=0.25, which="both")
