"""Pictures of what thresholds do: one small chart a category, all on the same axes.

Draws the points it is given. matplotlib is an optional extra, loaded only when something is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.calibration import Point

_COLUMNS = 4
_LINEAR = 0.001  # errors below are drawn on a linear scale, so that none at all has a place
_INK, _FAINT, _CURVE, _NEXT, _ALLOWED = "#1b1f24", "#d9dee4", "#1f6feb", "#d1242f", "#e6f4ea"
_TICKS = (0.0, 0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    subtitle: str
    curve: Sequence[Point]
    present: Point | None
    proposed: Point | None
    max_error: float
    sampled: bool  # errors are a share of look-ups, else of known non-duplicates

    def error(self, point: Point) -> float:
        return point.error_rate if self.sampled else point.false_hit_rate

    @property
    def marks(self) -> list[tuple[Point, str, str, str]]:
        both = (self.present, "o", _INK, "threshold in force"), (self.proposed, "D", _NEXT, "proposed")
        return [(point, *look) for point, *look in both if point is not None]  # type: ignore[misc]  # a tuple's tail


def drawable() -> bool:
    """Whether there is anything to draw with."""
    return find_spec("matplotlib") is not None


def draw(panels: Sequence[Panel], file: Path) -> None:
    """One PNG of all panels."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(3.5 * columns, 6.5), 2.8 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    top = _top(panels)
    for place, panel in zip(axes.flat, panels, strict=False):
        _axes(place, top)
        _panel(place, panel)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    for column in range(columns):  # the lowest chart of each column carries the axis
        last = axes[(len(panels) - 1 - column) // columns, column]
        last.tick_params(labelbottom=True)
        wrong = "look-ups that are wrong hits" if panels[0].sampled else "known non-duplicates that hit"
        last.set_xlabel(wrong, fontsize=9, color=_INK)
    for row in axes:
        row[0].set_ylabel("duplicates that hit", fontsize=9, color=_INK)
    shown = [place.get_legend_handles_labels() for place in axes.flat]
    handles = {text: handle for pair in shown for handle, text in zip(*pair, strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    figure.savefig(file, dpi=130)


def _top(panels: Sequence[Panel]) -> float:
    """Where the axis of hits ends: the next tenth."""
    high = max(point.hit_rate for panel in panels for point in panel.curve)
    return min(max(math.ceil(10 * high + 0.2) / 10, 0.2), 1.0)


def _axes(place: Any, top: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    place.set_xscale("symlog", linthresh=_LINEAR, linscale=0.5)
    place.set_xlim(0.0, 1.0)
    place.set_ylim(0.0, top * 1.02)
    place.xaxis.set_major_locator(FixedLocator(_TICKS))
    place.xaxis.set_minor_formatter(NullFormatter())
    percent = FuncFormatter(lambda value, _: f"{100 * value:g} %")
    place.xaxis.set_major_formatter(percent)
    place.yaxis.set_major_formatter(percent)
    place.grid(color=_FAINT, linewidth=0.7)
    place.set_axisbelow(True)
    place.tick_params(which="both", colors=_INK, labelsize=8, length=0)
    for side in place.spines.values():
        side.set_color(_FAINT)


def _panel(place: Any, panel: Panel) -> None:
    place.axvspan(0.0, panel.max_error, color=_ALLOWED, zorder=0, label="within max_error")
    errors, rates = [panel.error(p) for p in panel.curve], [p.hit_rate for p in panel.curve]
    place.plot(errors, rates, color=_CURVE, linewidth=1.8, label="all thresholds", clip_on=False)
    for point, marker, colour, name in panel.marks:
        place.plot(
            [panel.error(point)], [point.hit_rate], marker, color=colour, markersize=7,
            markeredgecolor="white", zorder=5, label=name, clip_on=False,
        )  # fmt: skip
    steps = " → ".join(f"{point.threshold:.4f}" for point, *_ in panel.marks)
    place.set_title(f"{panel.title}  {steps}", fontsize=10, color=_INK, fontweight="bold", loc="left", pad=16)
    place.text(0, 1.02, panel.subtitle, transform=place.transAxes, fontsize=7.5, color="#57606a", va="bottom")
