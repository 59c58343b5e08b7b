"""One category's standing: its window of look-ups, operating points, budget, and who was wrong how often.

Only wrong observations are kept (the risk of a threshold is a sum over them), the rest are counters. Decides
which share is judged. It must never let a caller's praise loosen anything.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.calibration import needed
from gateway.trust.budget import Budget
from gateway.trust.drift import Drift
from gateway.trust.learned import Learned
from gateway.trust.points import Points, points
from gateway.trust.rates import Rate

Source = Literal["sample", "feedback"]
Bound = Literal["conformal", "learned"]
# How many times the configured share is judged where it pays.
_NEAR, _NEW, _FREE, _ALARMED = 2.5, 5.0, 5.0, 10.0
_FEW = 100  # judged hits below which a category is new
_REFRESH = 100  # look-ups after which operating points are computed again, whatever was judged
_TENANTS = 200
_KEPT = 0.99  # per drawn sample, of what is remembered of how many could be judged
_LEAST_KEPT = 0.1
_COVERED = 30  # judged below the policy's threshold of late, without which no point goes below it


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


class Hits:
    """Counts of one kind of hits, and how many of them were wrong."""

    __slots__ = ("hits", "judged", "lookups", "rate", "wrong")

    def __init__(self, memory: float) -> None:
        self.lookups = self.hits = self.judged = self.wrong = 0
        self.rate = Rate(memory)

    def add(self, wrong: bool, weight: float, at: int) -> None:
        self.judged += 1
        self.wrong += wrong
        self.rate.add(wrong, weight, at)

    def figures(self, lookups: int | None = None) -> Figures:
        low, high = self.rate.interval()
        passed = self.lookups if lookups is None else lookups
        return Figures(passed, self.hits, self.judged, self.wrong, self.rate.share, low, high)

    def to_json(self) -> list[Any]:
        return [self.lookups, self.hits, self.judged, self.wrong, self.rate.to_json()]

    def load(self, state: Sequence[Any]) -> None:
        self.lookups, self.hits, self.judged, self.wrong = map(int, state[:4])
        self.rate.load(state[4])


class Seeds:
    """Offline labels: their number, and of the wrong ones place and statistic."""

    __slots__ = ("labels", "low", "number", "wrong")

    def __init__(self) -> None:
        self.number = 0
        self.wrong: list[tuple[int, float]] = []
        self.low = 0  # how many lie between the floor and the policy's threshold
        self.labels: tuple[int, int] | None = None  # number and hash of those given

    def newest(self, number: int) -> list[float]:
        """Statistics of the wrong ones among the last `number`."""
        return [s for at, s in self.wrong if at >= self.number - number]


class Category:
    """What is known of one category's semantic hits.

    points: thresholds in force from no load to full load, None: the policy's. closed: why nothing is served.
    since: unix seconds, the owner's to set. learned: the rule that explores, where policy wants it.
    """

    def __init__(self, terms: Terms, share: float, window: int) -> None:
        self._share, self._window = share, window
        self.since: float | None = None
        self.lookups = 0
        self._load = 0.0
        self._seeds = Seeds()
        self._wrong: deque[tuple[int, float, float]] = deque(maxlen=window)  # look-up, statistic, weight
        self._served, self._withheld = Hits(window), Hits(window)
        self._tenants: OrderedDict[str, Hits] = OrderedDict()
        self._recent = 0.0  # served hits, fading with look-ups
        self._kept = 1.0  # share of drawn samples of served hits that could be judged, of late
        self._low, self._low_at = (
            0.0,
            0,
        )  # judged below the policy's threshold, fading; look-ups at the last one
        self._drift = Drift()
        self._good = self._bad = 0
        self._found: Points | None = None
        self._source: Literal["policy", "labels", "learned"] = "policy"
        self._computed = 0
        self.points: tuple[float, ...] | None = None
        self.learned: Learned | None = None
        self._budget = Budget(terms.allowance)
        self.terms = terms
        self.configure(terms)

    def __repr__(self) -> str:
        return f"<Category: {self.lookups} look-ups, {self._source} points {self.points}, {self._budget!r}>"

    # ── what is wanted, and known beforehand ────────────────────────────────────────────────────────────

    def configure(self, terms: Terms) -> None:
        self.terms = terms
        self._budget.allowance = terms.allowance
        if terms.bound != "learned" or terms.max_error is None:
            self.learned = None
        elif self.learned is None:
            self.learned = Learned(terms.max_error)
        else:
            self.learned.delta = terms.max_error
        if terms.max_error is None:
            self._budget.absolve()
        self._compute()

    def seed(self, statistics: Sequence[float], wrong: Sequence[bool]) -> None:
        if len(statistics) != len(wrong):
            raise ValueError("statistics and labels differ in length")
        labels = (len(statistics), hash((tuple(statistics), tuple(wrong))))
        if labels == self._seeds.labels:
            return
        step = max(1.0, len(statistics) / self._window)
        chosen = [int(at * step) for at in range(int(len(statistics) / step))]
        self._seeds = Seeds()
        self._seeds.labels = labels
        self._seeds.number = len(chosen)
        self._seeds.wrong = [(at, float(statistics[row])) for at, row in enumerate(chosen) if wrong[row]]
        terms = self.terms
        self._seeds.low = sum(terms.floor <= statistics[row] < terms.threshold for row in chosen)
        self._compute()
        point = self._in_force()
        self._drift.expect([statistics[row] for row in chosen if statistics[row] >= point])
        if self.learned is not None and not self.learned.seen:
            for row in chosen:
                if statistics[row] >= self.terms.floor:
                    self.learned.observe(None, float(statistics[row]), not wrong[row])

    # ── on the way of a request ─────────────────────────────────────────────────────────────────────────

    @property
    def closed(self) -> Literal["over-budget", "uncalibrated"] | None:
        if self._budget.closed:
            return "over-budget"
        terms = self.terms
        if terms.max_error is not None and terms.uncalibrated == "exact" and self.points is None:
            return "uncalibrated"
        return None

    def looked(self, tenant: str, load: float) -> bool:
        """True if the category opens again by it."""
        self.lookups += 1
        self._load = load
        self._recent *= 1 - 1 / self._window
        self._tenant(tenant).lookups += 1
        return self._budget.passed(self._allowed())

    def share(self, s: float, tenant: str, served: bool) -> float:
        if served:
            self._served.hits += 1
            self._recent += 1
            self._tenant(tenant).hits += 1
        elif s >= self._in_force():
            self._withheld.hits += 1
        self._drift.add(s)
        return min(1.0, self._share * self._times(s, served))

    def _times(self, s: float, served: bool) -> float:
        if self._budget.closed or self._budget.alarmed or self._drift.alarmed:
            return _ALARMED
        if not served:
            return _FREE
        if self._served.judged < _FEW:
            return _NEW
        near = self._found is not None and self._found.low <= s < self._found.high
        return _NEAR if near else 1.0

    # ── beside the traffic ──────────────────────────────────────────────────────────────────────────────

    def missed(self) -> None:
        if self.closed is None:
            self._kept = max(_LEAST_KEPT, self._kept * _KEPT)

    def judged(
        self, tenant: str, s: float, wrong: bool, weight: float, served: bool, entry: int | None
    ) -> None:
        would = s >= self._in_force()
        if s < self.terms.threshold:
            self._low, self._low_at = self._covered() + 1.0, self.lookups
        if served:
            self._kept = 1 - _KEPT * (1 - self._kept)
            weight /= max(_LEAST_KEPT, self._kept)
            self._served.add(wrong, weight, self.lookups)
            self._tenant(tenant).add(wrong, weight, self.lookups)
        elif would:
            self._withheld.add(wrong, weight, self.lookups)
        if self.learned is not None:
            self.learned.observe(entry, s, not wrong)
        if wrong:
            self._found_wrong(s, weight, served or (would and self._budget.closed))
        elif self.lookups >= self._computed + _REFRESH:
            self._compute()

    def told(self, s: float, wrong: bool, served: bool, entry: int | None) -> None:
        """A user's word: against the category it counts, for it it does not."""
        if not wrong:
            self._good += 1
            return
        self._bad += 1
        if self.learned is not None:
            self.learned.observe(entry, s, False)
        self._found_wrong(s, 1.0, served)

    def _found_wrong(self, s: float, weight: float, spends: bool) -> None:
        self._wrong.append((self.lookups, s, weight))
        if spends and self.terms.max_error is not None:
            self._budget.lost(weight)
        self._compute()

    # ── operating points ────────────────────────────────────────────────────────────────────────────────

    def _allowed(self) -> float:
        """The error that may be made now: load spends from it."""
        most, least = self.terms.load_max_error, self.terms.max_error
        if least is None:
            return 0.0
        if most is None or most <= least:
            return least
        return least + min(max(self._load, 0.0), 1.0) * (most - least)

    def _in_force(self) -> float:
        """The threshold by which hits are decided now."""
        if self.points is None:
            return self.terms.threshold
        place = min(max(self._load, 0.0), 1.0) * (len(self.points) - 1)
        low = int(place)
        if place == low:
            return self.points[low]
        return self.points[low] + (self.points[low + 1] - self.points[low]) * (place - low)

    def _compute(self) -> None:
        """Operating points by what the window holds now."""
        self._computed = self.lookups
        while self._wrong and self._wrong[0][0] <= self.lookups - self._window:
            self._wrong.popleft()
        before, self._found, self._source = self.points, None, "policy"
        alpha = self.terms.max_error
        if alpha is None:
            self.points = None
        elif self.terms.bound == "learned":
            self.points, self._source = (self.terms.floor,), "learned"
        else:
            self._found = self._certified(alpha)
            self.points = None if self._found is None else self._found.steps
        if self.points and before and self.points[0] > before[0]:
            self._restate(self.points[0])

    def _certified(self, alpha: float) -> Points | None:
        """By all of the window where the heaviest sample does not forbid it, else by offline labels alone."""
        bound = self._bound()
        seeds = self._seeded(alpha, bound)
        number = seeds + min(self.lookups, self._window)
        old = self._seeds.newest(seeds)
        more = self.terms.load_max_error
        if self.lookups and number >= needed(alpha, bound):
            self._source = "learned"
            wrong = [*old, *(s for _, s, _ in self._wrong)]
            weights = [*(1.0 for _ in old), *(weight for _, _, weight in self._wrong)]
            covered = self._covered() + self._seeds.low * seeds / max(1, self._seeds.number)
            floor = self.terms.floor if covered >= _COVERED else self.terms.threshold
            return points(wrong, weights, number, bound, alpha, more, floor)
        if seeds < needed(alpha):
            return None
        self._source = "labels"
        return points(old, [1.0] * len(old), seeds, 1.0, alpha, more, self.terms.floor)

    def _covered(self) -> float:
        """Judged samples below the policy's threshold, of late: unless there are, nothing is known down there."""
        return self._low * math.exp((self._low_at - self.lookups) / self._window)

    def _bound(self) -> float:
        """The most that one sample may weigh."""
        return max(1 / self._share, max((weight for _, _, weight in self._wrong), default=0.0))

    def _seeded(self, alpha: float, bound: float) -> int:
        """Labels that are still in the window: the stream pushes them out once it can do without them."""
        if needed(alpha, bound) > self._window:
            return self._seeds.number
        return min(self._seeds.number, max(0, self._window - self.lookups))

    def _restate(self, point: float) -> None:
        """Under a stricter point less is owed."""
        owed = [(at, weight) for at, s, weight in self._wrong if s >= point]
        self._budget.restate(owed, self.lookups, self._allowed())

    # ── what is told and kept ───────────────────────────────────────────────────────────────────────────

    def report(self) -> Report:
        terms, served = self.terms, self._served
        low, high = served.rate.interval()
        hits = self._hit_share()
        alpha = terms.max_error
        bound = self._bound()
        seeds = 0 if alpha is None else self._seeded(alpha, bound)
        share = served.rate.share
        return Report(
            hits=served.figures(self.lookups),
            withheld=self._withheld.figures(self.lookups),
            tenants={name: tenant.figures() for name, tenant in self._tenants.items()},
            error=None if share is None else share * hits,
            error_low=low * hits,
            error_high=high * hits if served.judged else (hits if self.lookups else 1.0),
            max_error=alpha,
            excess=self._budget.excess,
            allowance=terms.allowance,
            closed=self.closed,
            since=self.since,
            points=self.points or (),
            source=self._source,
            labels=seeds + min(self.lookups, self._window),
            needed=0 if alpha is None else needed(alpha, bound if self.lookups else 1.0),
            good=self._good,
            bad=self._bad,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "statistic": self.terms.statistic,
            "lookups": self.lookups,
            "wrong": [list(each) for each in self._wrong],
            "served": self._served.to_json(),
            "withheld": self._withheld.to_json(),
            "tenants": [[name, tenant.to_json()] for name, tenant in self._tenants.items()],
            "recent": self._recent,
            "kept": self._kept,
            "low": [self._low, self._low_at],
            "excess": self._budget.excess,
            "closed": self._budget.closed,
            "since": self.since,
            "good": self._good,
            "bad": self._bad,
            "learned": None if self.learned is None else self.learned.to_json(),
        }

    def from_json(self, state: Mapping[str, Any]) -> None:
        """Take up what `to_json` gave; nothing where it was of another statistic."""
        if state["statistic"] != self.terms.statistic:
            return
        self.lookups = int(state["lookups"])
        self._wrong.clear()
        self._wrong.extend((int(at), float(s), float(weight)) for at, s, weight in state["wrong"])
        self._served.load(state["served"])
        self._withheld.load(state["withheld"])
        self._tenants.clear()
        for name, tenant in state["tenants"]:
            self._tenant(str(name)).load(tenant)
        self._recent, self._kept = float(state["recent"]), float(state["kept"])
        self._low, self._low_at = float(state["low"][0]), int(state["low"][1])
        self._budget.excess, self._budget.closed = float(state["excess"]), bool(state["closed"])
        if self.terms.max_error is None:
            self._budget.absolve()
        self.since = state["since"]
        self._good, self._bad = int(state["good"]), int(state["bad"])
        if self.learned is not None and state["learned"] is not None:
            self.learned.from_json(state["learned"])
        self._compute()

    def _hit_share(self) -> float:
        """Served hits a look-up, of late."""
        passed = (
            self._window * (1 - math.exp(self.lookups * math.log1p(-1 / self._window)))
            if self._window > 1
            else 1.0
        )
        return min(1.0, self._recent / passed) if self.lookups else 0.0

    def _tenant(self, name: str) -> Hits:
        known = self._tenants.get(name)
        if known is None:
            known = self._tenants[name] = Hits(self._window)
            if len(self._tenants) > _TENANTS:
                self._tenants.popitem(last=False)
        else:
            self._tenants.move_to_end(name)
        return known
