"""One category's standing: its window of look-ups, operating points, budget, and who was wrong how often.

Only wrong observations are kept (the risk of a threshold is a sum over them), the rest are counters. Decides
which share is judged. It must never let a caller's praise loosen anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["sample", "feedback"]
Bound = Literal["conformal", "learned"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What policy asks of a category's semantic hits."""

    threshold: float = 0.92  # counts until labels suffice
    max_error: float | None = None  # wrong hits / semantic look-ups; None: measured, never closed
    load_max_error: float | None = None  # the same at full load
    bound: Bound = "conformal"
    uncalibrated: Literal["threshold", "exact"] = "threshold"
    floor: float = 0.70  # no operating point goes below it; candidates below it are not told of
    allowance: float = 20.0  # wrong hits beyond the budget at which the category closes
    statistic: str = "cosine"  # whose scale s is on; another name: all that was learned is void


@dataclass(frozen=True, slots=True)
class Figures:
    """Judged samples of one kind of hits. Rates are None where nothing was judged."""

    lookups: int  # semantic look-ups, since the state began
    hits: int  # served semantic hits, since then
    judged: int
    wrong: int  # of those judged
    rate: float | None  # wrong / hits, weighted by one over each sample's probability, older ones fading
    low: float  # its 95 % interval
    high: float


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of a category."""

    hits: Figures  # served
    withheld: Figures  # would have been hits: closed, shadow, explored
    tenants: Mapping[str, Figures] = field(default_factory=dict)  # those heard of last
    error: float | None = None  # wrong served hits / semantic look-ups
    error_low: float = 0.0
    error_high: float = 1.0
    max_error: float | None = None
    excess: float = 0.0  # estimated wrong hits beyond the budget now
    allowance: float = 0.0
    closed: str | None = None  # "over-budget", "uncalibrated"
    since: float | None = None  # unix seconds
    points: tuple[float, ...] = ()  # operating points in force, the first without load
    source: Literal["policy", "labels", "learned"] = "policy"  # where they come from
    labels: int = 0  # look-ups in the window
    needed: int = 0  # look-ups from which an operating point can be certified
    good: int = 0  # feedback
    bad: int = 0
