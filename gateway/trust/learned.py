"""vCache's decision rule: how often to ask the model anyway, so that wrong hits stay within δ of all requests.

From the formulas of arXiv 2502.03771, section 4, pooled per category so that it does not starve where every
request is stored. Decides with a draw passed in; it must never serve before it has observed enough.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEAST = 6  # observations below which everything is explored (the paper's number)
_EPSILONS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_Z = tuple(NormalDist().inv_cdf(1 - epsilon) for epsilon in _EPSILONS)
_PRIOR = 1e-4  # precision of a Gaussian on both weights: separable observations would drive them to infinity
_STEPS = 30


class Fit(NamedTuple):
    """Pr(right | s) = σ(γ(s − t)), and t moved up to each confidence 1 − ε."""

    gamma: float
    t: float
    spread: float  # standard deviation of t
    shifted: tuple[float, ...]  # t'_ε = t + z_{1−ε}·spread


def fit(statistics: Sequence[float], right: Sequence[bool]) -> Fit | None:
    """Maximum likelihood with vCache's two anchors (0, wrong) and (1, right); Var(t) by the delta method.

    None where right answers do not become likelier with s: nothing can be concluded.
    """
    x = np.array([0.0, 1.0, *statistics])
    y = np.array([0.0, 1.0, *(float(each) for each in right)])
    design = np.stack([np.ones_like(x), x], axis=1)
    weights, covariance = _newton(design, y)
    intercept, gamma = map(float, weights)
    if gamma <= 1e-3:
        return None
    slope = np.array([-1 / gamma, intercept / gamma**2])
    spread = math.sqrt(max(0.0, float(slope @ covariance @ slope)))
    t = -intercept / gamma
    return Fit(gamma, t, spread, tuple(t + z * spread for z in _Z))


def _newton(design: Any, y: Any) -> tuple[Any, Any]:
    """Weights (2,) of a logistic regression and their covariance (2, 2); steps are halved until they help."""
    weights = np.zeros(2)
    covariance = np.eye(2)
    best = _loss(design, y, weights)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -35, 35)))
        hessian = (design * (p * (1 - p))[:, None]).T @ design + _PRIOR * np.eye(2)
        covariance = np.linalg.inv(hessian)
        step = covariance @ (design.T @ (y - p) - _PRIOR * weights)
        size = 1.0
        while size > 1e-4 and (tried := _loss(design, y, weights + size * step)) > best:
            size /= 2
        if size <= 1e-4 or best - tried < 1e-9:
            break
        weights, best = weights + size * step, tried
    return weights, covariance


def _loss(design: Any, y: Any, weights: Any) -> float:
    logits = design @ weights
    return float(np.sum(np.logaddexp(0.0, logits) - y * logits) + _PRIOR / 2 * weights @ weights)


def tau(found: Fit | None, s: float, delta: float) -> float:
    """Probability of exploring: min over ε of 1 − δ/(1 − α_ε), α_ε = (1 − ε)·σ(γ(s − t'_ε)); in [0, 1]."""
    if found is None:
        return 1.0
    gamma = found.gamma
    sure = 0.0
    for epsilon, shifted in zip(_EPSILONS, found.shifted, strict=True):
        logit = gamma * (s - shifted)
        if logit > -4.0:  # below, α is of no use to any δ worth stating
            alpha = (1.0 - epsilon) / (1.0 + math.exp(-logit))
            sure = max(sure, alpha)
    return max(0.0, 1.0 - delta / (1.0 - sure)) if sure < 1.0 else 0.0


class _Own:
    """An entry's observations, of which the latest few count."""

    __slots__ = ("_fit", "_fresh", "seen", "worst")

    _fit: Fit | None
    _fresh: bool
    worst: float  # nearest question it was wrong for

    def __init__(self, seen: Iterable[tuple[float, bool]], keep: int) -> None:
        self.seen = deque(seen, keep)
        self._fit: Fit | None = None
        self._fresh = False
        self._look()

    def observe(self, s: float, right: bool) -> None:
        self.seen.append((s, right))
        self._look()

    def fitted(self) -> Fit | None:
        if not self._fresh:
            self._fit = fit(*zip(*self.seen, strict=True)) if len(self.seen) >= LEAST else None
            self._fresh = True
        return self._fit

    def _look(self) -> None:
        self.worst = max(
            (s for s, right in self.seen if not right), default=-1.0
        )  # nearest one it was wrong for
        self._fresh, self._fit = False, None


class Learned:
    """The rule of one category.

    pooled: all entries' observations speak together, and an entry that was wrong for a nearer question before
    must also convince by its own; else each entry by its own alone, as in the paper. keep: observations of an entry. entries: that
    have any; the longest untouched go first. pool: latest observations of the category.
    """

    def __init__(
        self, delta: float, *, pooled: bool = True, keep: int = 32, entries: int = 10_000, pool: int = 1000
    ) -> None:
        self.delta = delta
        self.pooled = pooled
        self.seen = 0
        self._keep, self._limit = keep, entries
        self._own: OrderedDict[int, _Own] = OrderedDict()
        self._pool: deque[tuple[float, bool]] = deque(maxlen=pool)
        self._fit: Fit | None = None

    def __repr__(self) -> str:
        return f"<Learned from {self.seen} observations, {len(self._own)} entries>"

    def explore(self, entry: int, s: float, u: float) -> bool:
        """Whether to ask the model although this entry could answer; u uniform in [0, 1)."""
        own = self._own.get(entry)
        if not self.pooled:
            return own is None or u <= tau(own.fitted(), s, self.delta)
        if u <= tau(self._fit, s, self.delta):
            return True
        return own is not None and s <= own.worst and u <= tau(own.fitted(), s, self.delta)

    def observe(self, entry: int | None, s: float, right: bool) -> None:
        """Whether an entry's answer would have done for a question of statistic s."""
        self.seen += 1
        self._pool.append((s, right))
        n = len(self._pool)
        if n >= LEAST and (n < 32 or self.seen % (8 if n < 256 else 32) == 0):
            self._refit()
        if entry is None:
            return
        own = self._own.pop(entry, None) or _Own((), self._keep)
        self._own[entry] = own
        own.observe(s, right)
        if len(self._own) > self._limit:
            self._own.popitem(last=False)

    def forget(self, entries: Iterable[int]) -> None:
        for entry in entries:
            self._own.pop(entry, None)

    def to_json(self) -> dict[str, Any]:
        return {
            "seen": self.seen,
            "pool": [[s, right] for s, right in self._pool],
            "own": [[entry, [[s, right] for s, right in own.seen]] for entry, own in self._own.items()],
        }

    def from_json(self, state: dict[str, Any]) -> None:
        self.seen = int(state["seen"])
        self._pool.clear()
        self._pool.extend((float(s), bool(right)) for s, right in state["pool"])
        self._own = OrderedDict(
            (int(entry), _Own(((float(s), bool(right)) for s, right in seen), self._keep))
            for entry, seen in state["own"][-self._limit :]
        )
        if len(self._pool) >= LEAST:
            self._refit()

    def _refit(self) -> None:
        self._fit = fit(*zip(*self._pool, strict=True))
