"""How far load relaxes cache policies: λ of each model, and the categories it must leave alone.

Pure, on the caller's clock. It knows neither fleet nor cache: it is told what a model's answers take and how many
requests wait, and what became of judged hits. Nothing here lowers a threshold; `policy.adapt` does, within bounds.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.exchange import UNLOADED, Load

_CALM = 0.5  # load ratio of the queue below which latency counts as unloaded
_SLOWER = 2.0  # times its unloaded P95: the latency target of a model that was given none
_DRIFT = 0.01  # weight of a new sample in the unloaded P95
_FORGET = 0.99  # what a judged hit still counts after the next one
_EVIDENCE = 10.0  # judged hits before their share of wrong ones means anything
_STEP_SECONDS = 60.0  # a gap between samples counts for no more than this


@dataclass(frozen=True, slots=True)
class LoadTerms:
    """What adaptation takes from the configuration."""

    enabled: bool = True
    latency_target: float | None = None  # seconds of P95; None: twice what it is without load
    queue_target: float = 8.0  # requests waiting a backend
    latency_weight: float = 0.5
    x_max: float = 3.0
    smoothing: float = 60.0  # seconds
    hysteresis: float = 0.1
    false_hit_limit: float = 0.05


class Factor:
    """λ of one model (arXiv 2510.26835, load-adaptive policy): x = w_L·P95/L_target + w_Q·Q/Q_target.

    As printed, min(1, x) is near 1 at nominal load already. We take a dead zone, clamp((x - 1)/(x_max - 1), 0, 1),
    smooth it by an EWMA over time, and publish it in steps no smaller than the hysteresis; 0 and 1 are
    published as such, so that policies return to exactly what is written in them.
    """

    def __init__(self, terms: LoadTerms) -> None:
        self._terms = terms
        self._smooth = 0.0
        self._at: float | None = None
        self._unloaded: float | None = None  # P95 in seconds
        self.value = 0.0

    def sample(self, p95: float | None, queue: float, now: float) -> float:
        """Tell what is so now; gives λ.

        Args:
            p95: seconds of whole answers of late; None where none came.
            queue: requests waiting a backend.
        """
        terms = self._terms
        raw = min(max((self._ratio(p95, queue) - 1) / (terms.x_max - 1), 0.0), 1.0)
        passed = min(0.0 if self._at is None else now - self._at, _STEP_SECONDS)
        self._at = now
        self._smooth += (raw - self._smooth) * -math.expm1(-passed / terms.smoothing)
        edge = terms.hysteresis / 2
        settled = 0.0 if self._smooth < edge else 1.0 if self._smooth > 1 - edge else self._smooth
        if settled != self.value and (settled in (0.0, 1.0) or abs(settled - self.value) >= terms.hysteresis):
            self.value = settled
        return self.value

    def _ratio(self, p95: float | None, queue: float) -> float:
        waiting = queue / self._terms.queue_target
        target = self._target(p95, waiting)
        if p95 is None or target is None:
            return waiting  # unknown latency is not a latency of zero
        weight = self._terms.latency_weight
        return weight * p95 / target + (1 - weight) * waiting

    def _target(self, p95: float | None, waiting: float) -> float | None:
        if self._terms.latency_target is not None:
            return self._terms.latency_target
        if p95 is not None and waiting < _CALM:
            known = self._unloaded
            if known is None or p95 < known:
                self._unloaded = p95
            else:
                self._unloaded = known + (p95 - known) * _DRIFT
        return None if self._unloaded is None else _SLOWER * self._unloaded


class Judged:
    """The share of wrong ones among a category's judged semantic hits, older ones fading."""

    __slots__ = ("total", "wrong")

    def __init__(self) -> None:
        self.wrong = self.total = 0.0

    def add(self, wrong: bool) -> None:
        self.wrong = self.wrong * _FORGET + wrong
        self.total = self.total * _FORGET + 1.0

    def exceeds(self, limit: float) -> bool:
        return self.total >= _EVIDENCE and self.wrong > limit * self.total


class Conditions(Protocol):
    """What judged hits have taught: a snapshot, replaced as a whole."""

    @property
    def points(self) -> Mapping[str, tuple[float, ...]]: ...
    @property
    def closed(self) -> Mapping[str, str]: ...


class Adaptation:
    """λ of every model, the categories frozen at their own policy, and with them what judged hits have taught."""

    def __init__(self, terms: LoadTerms, conditions: Callable[[], Conditions] = lambda: UNLOADED) -> None:
        self._terms = terms
        self._factors: dict[str, Factor] = {}
        self._judged: dict[str, Judged] = {}
        self._loads: dict[str, Load] = {}
        self._frozen: frozenset[str] = frozenset()
        self._conditions = conditions
        self._known = conditions()

    def sample(self, model: str, p95: float | None, queue: float, now: float) -> None:
        """What a model's answers take and how many requests wait; about once a second."""
        if not self._terms.enabled:
            return
        factor = self._factors.get(model)
        if factor is None:
            factor = self._factors[model] = Factor(self._terms)
        factor.sample(p95, queue, now)
        if factor.value != self.of(model).factor:
            self._loads[model] = self._load(factor.value)

    def judged(self, category: str, *, wrong: bool) -> None:
        """A semantic hit of this category was found right or wrong."""
        judged = self._judged.setdefault(category, Judged())
        judged.add(wrong)
        frozen = self._frozen - {category}
        if judged.exceeds(self._terms.false_hit_limit):
            frozen |= {category}
        if frozen != self._frozen:
            self._frozen = frozen
            self._renew()

    def _renew(self) -> None:
        self._loads = {model: self._load(load.factor) for model, load in self._loads.items()}

    def _load(self, factor: float) -> Load:
        return Load(factor, self._frozen, self._known.points, self._known.closed)

    def of(self, model: str) -> Load:
        """What a request for this model is under."""
        if self._conditions() is not self._known:
            self._known = self._conditions()
            self._renew()
        found = self._loads.get(model)
        if found is None:
            found = self._loads[model] = self._load(0.0)
        return found

    @property
    def factors(self) -> dict[str, float]:
        """Model → λ."""
        return {model: factor.value for model, factor in self._factors.items()}

    @property
    def frozen(self) -> frozenset[str]:
        """Categories that load does not relax, because too many of their judged hits were wrong."""
        return self._frozen
