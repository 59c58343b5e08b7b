"""One category's standing: its window of look-ups, operating points, budget, and who was wrong how often.

Only wrong observations are kept (the risk of a threshold is a sum over them), the rest are counters. Decides
which share is judged. It must never let a caller's praise loosen anything.
"""

import hashlib
import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from gateway.calibration import FLOOR, needed
from gateway.trust.budget import Budget
from gateway.trust.drift import Drift
from gateway.trust.learned import Learned
from gateway.trust.points import Points, points
from gateway.trust.rates import Rate

Source = Literal["sample", "feedback"]
Bound = Literal["conformal", "learned"]
Closed = Literal["over-budget", "uncalibrated"]

TENANTS = 256  # of a category whose figures are kept; the longest unheard go first
_ALARM = 1.0  # share judged while something is wrong, or the traffic is not what it was
_NEAR = 4.0  # times the share just below the operating point: what would loosen it, and costs no model call
# The share is at least 3/(αn): then no single sample may weigh more than a third of the budget of the n
# look-ups known, B/(n + 1) <= α/3, and a category that begins is certified within a few hundred look-ups.
_NEW = 3.0
_UNSEEN = 3.0  # −ln 5 %: wrong hits of which one in q is judged go unseen for 3/q at most, in 95 of 100 cases
_UNSTATED = 0.02  # error that a category without a budget is measured for
_VOICE = 0.5  # of the allowance, what one tenant's complaints can spend, where it is not alone
_THERE = 30  # candidates judged below the policy's threshold of late, without which no point goes below it
_NEWS = 10_000  # observations that wait to be told to others, at most
_COVERED = 0.1  # part of the drawn samples that must be judged at least for the others to be spoken for


@dataclass(frozen=True, slots=True)
class Terms:
    """What policy asks of a category's semantic hits."""

    threshold: float = 0.92  # counts until labels suffice
    max_error: float | None = None  # wrong hits / semantic look-ups; None: measured, never closed
    load_max_error: float | None = None  # the same at full load
    bound: Bound = "conformal"
    uncalibrated: Literal["threshold", "exact"] = "threshold"
    floor: float = FLOOR  # no operating point goes below it, on the statistic's own scale
    allowance: float = 10.0  # wrong hits beyond the budget at which the category closes
    statistic: str = "cosine"  # whose scale s is on; another name: all that was learned is void


@dataclass(frozen=True, slots=True)
class Figures:
    """Judged samples of one kind of hits."""

    lookups: int  # semantic look-ups, since the state began
    hits: int  # of this kind, since then
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
    tenants: Mapping[str, Figures] = field(default_factory=dict)  # served, of those heard of last
    error: float | None = None  # wrong served hits / semantic look-ups
    error_low: float = 0.0
    error_high: float = 1.0
    max_error: float | None = None
    excess: float = 0.0  # estimated wrong hits beyond the budget now
    allowance: float = 0.0
    stated: float = (
        0.0  # at most so many wrong hits beyond the budget before it closes, in 95 of 100 sudden shifts
    )
    closed: Closed | None = None
    since: float | None = None  # unix seconds
    points: tuple[float, ...] = ()  # operating points in force, the first without load
    source: Literal["policy", "labels", "learned"] = "policy"  # where they come from
    covered: float = (
        1.0  # of the samples drawn of late, the part judged; it speaks for those lost, down to a tenth
    )
    labels: int = 0  # look-ups in the window
    needed: int = 0  # look-ups from which an operating point can be certified
    good: int = 0  # feedback
    bad: int = 0


class Risk(NamedTuple):
    """A candidate found wrong, served or not."""

    at: int  # live look-ups that had passed; negative: an offline label
    s: float
    weight: float


@dataclass(slots=True)
class Tally:
    """Counts of one kind of hits, and their rate. `memory` in look-ups."""

    memory: float
    lookups: int = 0
    hits: int = 0
    judged: int = 0
    wrong: int = 0
    complaints: int = 0  # bad feedback
    recent: float = 0.0  # hits, fading as the rate does
    rate: Rate = field(init=False)
    _at: int = 0
    _given: tuple[int, int] = (0, 0)  # look-ups and hits that others know of

    def __post_init__(self) -> None:
        self.rate = Rate(self.memory)

    def hit(self, at: int, hits: int = 1) -> None:
        self.hits += hits
        self.recent = self.recent * math.exp((self._at - at) / self.memory) + hits
        self._at = at

    def changes(self) -> list[int]:
        """Look-ups and hits here since this was asked last."""
        before, self._given = self._given, (self.lookups, self.hits)
        return [self.lookups - before[0], self.hits - before[1]]

    def absorb(self, change: Sequence[int], at: int) -> None:
        """Another's changes."""
        lookups, hits = map(int, change)
        self.lookups += lookups
        if hits:
            self.hit(at, hits)
        self._given = self._given[0] + lookups, self._given[1] + hits

    def add(self, wrong: bool, weight: float, at: int) -> None:
        self.judged += 1
        self.wrong += wrong
        self.rate.add(wrong, weight, at)

    def figures(self, lookups: int) -> Figures:
        low, high = self.rate.interval()
        return Figures(lookups, self.hits, self.judged, self.wrong, self.rate.share, low, high)

    def share(self, at: int) -> float:
        """Hits per look-up of late: both fade alike."""
        passed = self.memory * -math.expm1(-at / self.memory)
        return min(1.0, self.lately(at) / passed) if passed > 0 else 0.0

    def lately(self, at: int) -> float:
        """Hits, as they have faded."""
        return self.recent * math.exp((self._at - at) / self.memory)

    def to_json(self) -> list[Any]:
        counts = [self.lookups, self.hits, self.judged, self.wrong, self.complaints, self.recent, self._at]
        return [*counts, self.rate.to_json()]

    def load(self, state: Sequence[Any]) -> None:
        self.lookups, self.hits, self.judged, self.wrong, self.complaints = map(int, state[:5])
        self.recent, self._at = float(state[5]), int(state[6])
        self.rate.load(state[7])
        self._given = self.lookups, self.hits


@dataclass(slots=True)
class Samples:
    """Those drawn of late, of one kind: what became of them. Fading."""

    judged: float = 0.0  # or found to be none: nothing was lost
    missed: float = 0.0

    def add(self, missed: bool) -> None:
        self.judged = self.judged * 0.99 + (not missed)
        self.missed = self.missed * 0.99 + missed

    @property
    def covered(self) -> float:
        """The part that was judged."""
        drawn = self.judged + self.missed
        return max(_COVERED, self.judged / drawn) if self.missed > 0.0 and drawn >= 10 else 1.0


class Category:
    """What is known of one category, within a window of look-ups. `share`: judged at least."""

    def __init__(self, terms: Terms, share: float, window: int) -> None:
        self.terms = terms
        self.since: float | None = None
        self.learned: Learned | None = None
        self._share, self._window = share, window
        self._live = 0  # look-ups since the state began
        self._given = 0  # of them, those that others know of
        self._news: deque[tuple[Any, ...]] = deque(maxlen=_NEWS)  # what was observed since, and when
        self._seeds = 0  # offline labels
        self._seeded = ""  # their digest
        self._below = self._seeds_below = 0.0  # judged below the policy's threshold: live, fading; labels
        self._below_at = 0
        self._depth = [
            math.inf,
            math.inf,
        ]  # least statistic judged in this half of a window, and the one before
        self._half = 0
        self._risks: deque[Risk] = deque(maxlen=window)  # oldest first
        self._found: Points | None = None
        self._budget = Budget(terms.allowance)
        self._drift = Drift()
        self._served, self._withheld = Tally(window), Tally(window)
        self._tenants: OrderedDict[str, Tally] = OrderedDict()
        # Those of served hits take a call of a model, and get lost where it is busy; the others do not.
        self._samples = {True: Samples(), False: Samples()}
        self._good = self._bad = 0
        self.configure(terms)

    def __repr__(self) -> str:
        return f"<Category of {self._live} look-ups, {self.closed or 'open'}, {self._budget!r}>"

    def configure(self, terms: Terms) -> None:
        """Other terms for what is known already."""
        self.terms = terms
        self._budget.allowance = terms.allowance
        if terms.bound == "learned" and terms.max_error is not None:
            self.learned = self.learned or Learned(terms.max_error)
            self.learned.delta = terms.max_error
        else:
            self.learned = None
        if terms.max_error is None:
            self._budget = Budget(terms.allowance)
        self._recompute()

    # ── what holds ──

    @property
    def points(self) -> tuple[float, ...] | None:
        """Operating points in force; None: the policy's threshold counts."""
        if self.learned is not None:
            return (self.terms.floor,)  # every candidate is put to the rule
        return None if self._found is None else self._found.steps

    @property
    def closed(self) -> Closed | None:
        """Why no semantic hit is served."""
        if self._budget.closed:
            return "over-budget"
        bare = self.terms.max_error is not None and self.learned is None and self._found is None
        return "uncalibrated" if bare and self.terms.uncalibrated == "exact" else None

    @property
    def lookups(self) -> int:
        """In the window, offline labels included where it has room for them."""
        return min(self._live + self._seeds, self._window)

    # ── on the way of every look-up ──

    def looked(self, tenant: str, load: float) -> bool:
        """True if something opened by it."""
        self._live += 1
        tally = self._tenants.get(tenant)
        if tally is None:
            tally = self._new(tenant)
        elif self._live & 15 == 0:  # the order need only be about right
            self._tenants.move_to_end(tenant)
        tally.lookups += 1
        if self._budget.excess <= 0.0:
            return False
        alpha = self.terms.max_error or 0.0
        if load and self.terms.load_max_error is not None:
            alpha += load * max(0.0, self.terms.load_max_error - alpha)
        opened = self._budget.passed(alpha)
        if self._budget.excess <= 0.0:
            self._reshare()
        return opened

    def _new(self, tenant: str) -> Tally:
        tally = self._tenants[tenant] = Tally(self._window)
        if len(self._tenants) > TENANTS:
            self._tenants.popitem(last=False)
        return tally

    def share(self, s: float, tenant: str, served: bool) -> float:
        if served:
            self._served.hit(self._live)
            tally = self._tenants.get(tenant)
            if tally is not None:
                tally.hit(self._live)
        elif s >= self._operating:
            self._withheld.hit(self._live)
        if s >= self._operating and self._drift.add(s):
            self._reshare()
        return self._near if self._low <= s < self._operating else self._base

    def below(self) -> float:
        """With which probability a candidate that no rule would serve should be judged: it costs no model call."""
        return self._near

    # ── beside the traffic ──

    def drawn(self, served: bool, missed: bool) -> None:
        """A sample that was lost, or turned out to be none."""
        self._samples[served].add(missed)

    def judged(
        self, tenant: str, s: float, wrong: bool, weight: float, served: bool, entry: int | None
    ) -> None:
        weight = max(1.0, weight) / self._samples[served].covered
        self._samples[served].add(missed=False)
        self._news.append((self._live - self._given, "sample", tenant, s, wrong, weight, served, entry))
        self._observed(tenant, s, wrong, weight, served, entry)

    def _observed(
        self, tenant: str, s: float, wrong: bool, weight: float, served: bool, entry: int | None
    ) -> None:
        if s < self.terms.threshold:
            self._seen_below(s)
        if served:
            self._served.add(wrong, weight, self._live)
            tally = self._tenants.get(tenant)
            if tally is not None:
                tally.add(wrong, weight, self._live)
        elif s >= self._operating:
            self._withheld.add(wrong, weight, self._live)
        if self.learned is not None:
            self.learned.observe(entry, s, not wrong)
        if wrong:
            self._wrong(s, weight, served)
        else:
            self._refresh(0.02)

    def told(self, tenant: str, s: float, wrong: bool, served: bool, entry: int | None) -> None:
        """Feedback: a bad one is evidence against, a good one is none in favour."""
        self._news.append((self._live - self._given, "feedback", tenant, s, wrong, 1.0, served, entry))
        self._heard(tenant, s, wrong, served, entry)

    def _heard(self, tenant: str, s: float, wrong: bool, served: bool, entry: int | None) -> None:
        if not wrong:
            self._good += 1
            return
        self._bad += 1
        if self.learned is not None:
            self.learned.observe(entry, s, False)
        tally = self._tenants.get(tenant)
        if tally is not None and len(self._tenants) > 1:
            tally.complaints += 1
            if tally.complaints > _VOICE * self.terms.allowance:
                return  # one tenant's word must not close a category for the others: samples will tell
        self._wrong(s, 1.0, served)

    def untold(self, tenant: str, s: float, wrong: bool) -> None:
        """Feedback taken back."""
        self._news.append((self._live - self._given, "retracted", tenant, s, wrong, 1.0, True, None))
        self._unheard(tenant, s, wrong)

    def _unheard(self, tenant: str, s: float, wrong: bool) -> None:
        if not wrong:
            self._good -= 1
            return
        self._bad -= 1
        tally = self._tenants.get(tenant)
        if tally is not None and tally.complaints > 0:
            tally.complaints -= 1
            if tally.complaints >= _VOICE * self.terms.allowance:
                return  # it was heard no more when this was said
        mine = next((risk for risk in reversed(self._risks) if risk.s == s and risk.weight == 1.0), None)
        if mine is not None:
            self._risks.remove(mine)
            self._refresh(0.02)

    def _wrong(self, s: float, weight: float, served: bool) -> None:
        self._risks.append(Risk(self._live, s, weight))
        spends = served or (self._budget.closed and s >= self._operating)
        if spends and self.terms.max_error is not None:
            self._budget.lost(weight)
        # One below every point moves none now; the others do, but not more often than it matters.
        lowest = self.points[-1] if self.points else -1.0
        self._refresh(0.001 if s >= lowest else 0.02)
        self._reshare()

    def _refresh(self, part: float) -> None:
        """Recompute, if more than this part of the window has passed since."""
        if self._live - self._computed >= part * self.lookups:
            self._recompute()

    def seed(self, statistics: Sequence[float], wrong: Sequence[bool]) -> None:
        if len(statistics) != len(wrong):
            raise ValueError("statistics and labels differ in length")
        values, labels = np.asarray(statistics, np.float64), np.asarray(wrong, np.bool_)
        digest = hashlib.blake2b(values.tobytes() + labels.tobytes(), digest_size=8).hexdigest()
        if digest == self._seeded:
            return
        self._seeded, total = digest, len(values)
        kept = (
            [at * total // self._window for at in range(self._window)]
            if total > self._window
            else range(total)
        )
        self._seeds = len(kept)
        offline = [
            Risk(at - self._seeds, float(values[row]), 1.0)
            for at, row in enumerate(kept)
            if labels[row] and values[row] >= self.terms.floor
        ]
        self._seeds_below = float(np.sum((values >= self.terms.floor) & (values < self.terms.threshold)))
        live = [risk for risk in self._risks if risk.at >= 0]
        self._risks = deque([*offline, *live], self._window)
        self._recompute()
        self._drift = Drift()  # of what would be served: nothing else is told of
        self._drift.expect(values[values >= self._operating].tolist())

    # ── consequences ──

    def _recompute(self) -> None:
        """Operating points of what is in the window now, and the share that follows."""
        self._computed = self._live
        oldest = self._live - self._window
        while self._risks and self._risks[0].at < oldest:
            self._risks.popleft()
        before = self._found
        if self.terms.max_error is not None and self.learned is None:
            self._found = points(
                [risk.s for risk in self._risks],
                [risk.weight for risk in self._risks],
                self.lookups,
                self._bound,
                self.terms.max_error,
                self.terms.load_max_error,
                self._lowest,
            )
        else:
            self._found = None
        if self._budget.closed and self._found is not None and before is not None:
            self._again(before.steps[0], self._found.steps[0])
        self._reshare()

    def _seen_below(self, s: float) -> None:
        self._below, self._below_at = self._known_below() + 1.0, self._live
        half = 2 * self._live // self._window
        if half > self._half:
            self._depth = [math.inf, self._depth[0] if half == self._half + 1 else math.inf]
            self._half = half
        self._depth[0] = min(self._depth[0], s)

    def _known_below(self) -> float:
        return self._below * math.exp((self._below_at - self._live) / self._window)

    @property
    def _lowest(self) -> float:
        """No point goes below it: where nothing was judged, nothing is known to be wrong."""
        floor, threshold = self.terms.floor, self.terms.threshold
        part = min(1.0, max(0, self._window - self._live) / max(1, self._seeds))
        if self._seeds_below * part >= _THERE:
            return floor
        return max(floor, min(threshold, *self._depth) if self._known_below() >= _THERE else threshold)

    def _again(self, before: float, now: float) -> None:
        """A closed category whose operating point has become stricter: what it would owe at that one."""
        if now > before and self.terms.max_error is not None:
            hits = [(risk.at, risk.weight) for risk in self._risks if risk.at >= 0 and risk.s >= now]
            self._budget.restate(hits, self._live, self.terms.max_error)

    def _reshare(self) -> None:
        alarmed = self._budget.alarmed or self._drift.alarmed
        base = self._least
        self._base = max(base, _ALARM) if alarmed else base
        self._near = max(min(1.0, _NEAR * base), self._base)
        self._low = math.inf if self._found is None else self._found.low
        self._operating = self.terms.threshold if self.points is None else self.points[0]

    @property
    def _covered(self) -> float:
        """Of the samples drawn of late, the part that was judged, of the kind that fared worse."""
        return min(kind.covered for kind in self._samples.values())

    @property
    def _bound(self) -> float:
        """The most that one look-up may weigh.

        One over the least share for live look-ups and 1 for labels: between them by the live part of the window,
        as the correction of conformal risk control is for the one example to come, which is of either kind.
        """
        if not self._live:
            return 1.0
        heaviest = max((risk.weight for risk in self._risks), default=1.0)
        heaviest = max(heaviest, 1.0 / self._least / self._covered)
        return 1.0 + (heaviest - 1.0) * min(1.0, self._live / self.lookups)

    @property
    def _least(self) -> float:
        """The share that is judged where nothing is uncertain."""
        error = self.terms.max_error or _UNSTATED
        return max(self._share, min(1.0, _NEW / (error * max(1, self.lookups))))

    # ── with others ──

    def changes(self) -> dict[str, Any] | None:
        """What happened here since this was asked last; None: nothing."""
        tenants = {name: tally.changes() for name, tally in self._tenants.items()}
        change = {
            "statistic": self.terms.statistic,
            "lookups": self._live - self._given,
            "served": self._served.changes(),
            "withheld": self._withheld.changes(),
            "tenants": {name: each for name, each in tenants.items() if any(each)},
            "news": list(self._news),
        }
        self._given = self._live
        self._news.clear()
        return change if change["lookups"] or change["news"] else None

    def absorb(self, change: Mapping[str, Any]) -> None:
        """What happened elsewhere, in its order; its look-ups earn as they do without load."""
        passed = 0
        for name, each in change["tenants"].items():
            (self._tenants.get(name) or self._new(name)).absorb(each, self._live)
        for at, source, tenant, s, wrong, weight, served, entry in change["news"]:
            self._elsewhere(at - passed)
            passed = at
            if source == "sample":
                self._observed(tenant, s, wrong, weight, served, entry)
            elif source == "feedback":
                self._heard(tenant, s, wrong, served, entry)
            else:
                self._unheard(tenant, s, wrong)
        self._elsewhere(int(change["lookups"]) - passed)
        self._served.absorb(change["served"], self._live)
        self._withheld.absorb(change["withheld"], self._live)
        self._refresh(0.02)
        self._reshare()

    def _elsewhere(self, lookups: int) -> None:
        self._live += lookups
        self._given += lookups
        self._budget.passed((self.terms.max_error or 0.0) * lookups)

    # ── to tell, and to keep ──

    def served(self) -> tuple[Figures, float]:
        """Of the hits served: what is known, and how many they were of late."""
        return self._served.figures(self._live), self._served.lately(self._live)

    def report(self) -> Report:
        hits = self._served.figures(self._live)
        part = self._served.share(self._live)
        source: Literal["policy", "labels", "learned"] = "policy" if self._found is None else "labels"
        return Report(
            hits=hits,
            withheld=self._withheld.figures(self._live),
            tenants={name: tally.figures(tally.lookups) for name, tally in self._tenants.items()},
            error=None if hits.rate is None else hits.rate * part,
            error_low=hits.low * part,
            error_high=hits.high * part,
            max_error=self.terms.max_error,
            excess=self._budget.excess,
            allowance=self.terms.allowance,
            stated=self.terms.allowance + _UNSEEN / self._least,
            closed=self.closed,
            since=self.since,
            points=self.points or (self.terms.threshold,),
            source="learned" if self.learned is not None else source,
            covered=self._covered,
            labels=self.lookups,
            needed=0 if self.terms.max_error is None else needed(self.terms.max_error, self._bound),
            good=self._good,
            bad=self._bad,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "statistic": self.terms.statistic,
            "since": self.since,
            "counts": [self._live, self._seeds, self._good, self._bad],
            "seeded": self._seeded,
            "below": [self._below, self._below_at, self._seeds_below, self._half],
            "depth": [min(each, 2.0) for each in self._depth],
            "samples": [[kind.judged, kind.missed] for kind in self._samples.values()],
            "risks": [list(risk) for risk in self._risks],
            "budget": [self._budget.excess, self._budget.closed],
            "expected": [self._drift.edges, self._drift.expected],
            "served": self._served.to_json(),
            "withheld": self._withheld.to_json(),
            "tenants": {name: tally.to_json() for name, tally in self._tenants.items()},
            "learned": None if self.learned is None else self.learned.to_json(),
        }

    def from_json(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, KeyError or TypeError where it is not what `to_json` gives."""
        if state["statistic"] != self.terms.statistic:
            return
        self.since = state["since"]
        self._live, self._seeds, self._good, self._bad = map(int, state["counts"])
        self._given = self._live
        self._news.clear()
        self._seeded = str(state["seeded"])
        self._below, self._seeds_below = float(state["below"][0]), float(state["below"][2])
        self._below_at, self._half = int(state["below"][1]), int(state["below"][3])
        self._depth = [float(each) for each in state["depth"]]
        for kind, (judged, missed) in zip(self._samples.values(), state["samples"], strict=True):
            kind.judged, kind.missed = float(judged), float(missed)
        risks = (Risk(int(at), float(s), float(weight)) for at, s, weight in state["risks"])
        self._risks = deque(risks, self._window)
        self._drift.edges, self._drift.expected = state["expected"]
        self._served.load(state["served"])
        self._withheld.load(state["withheld"])
        self._tenants = OrderedDict((name, self._tally(kept)) for name, kept in state["tenants"].items())
        if self.learned is not None and state["learned"] is not None:
            self.learned.from_json(state["learned"])
        if self.terms.max_error is not None:
            self._budget.excess, self._budget.closed = float(state["budget"][0]), bool(state["budget"][1])
        self._recompute()

    def _tally(self, kept: Sequence[Any]) -> Tally:
        tally = Tally(self._window)
        tally.load(kept)
        return tally
