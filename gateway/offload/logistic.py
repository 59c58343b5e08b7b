"""Bayesian logistic regression, one observation at a time: what selector and router both learn with.

Decides nothing; it says how likely an outcome is and how sure it is of that. Never keeps the observations.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MODERATION = math.pi / 8  # MacKay's approximation of a logistic averaged over a Gaussian


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), clipped where it can no longer be told from 0 or 1."""
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))


def _probability(logit: float) -> float:
    """`sigmoid` of one number, without the array machinery: it is on the way of every request."""
    return 1.0 / (1.0 + math.exp(-min(30.0, max(-30.0, logit))))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A probability with what is known of it: the Gaussian of its logit."""

    logit: float
    deviation: float  # standard deviation of the logit

    @property
    def mean(self) -> float:
        """The probability, averaged over what is not known."""
        return _probability(self.logit / math.sqrt(1 + _MODERATION * self.deviation**2))

    def bound(self, z: float) -> float:
        """The probability z standard deviations away: a credible bound."""
        return _probability(self.logit + z * self.deviation)


class Logistic:
    """Weights as a Gaussian: mean (d,), covariance (d, d), updated by assumed-density filtering.

    One Newton step an observation with the curvature p(1 - p) of its own prediction (Spiegelhalter and
    Lauritzen 1990, as an extended Kalman filter). `memory` below 1 forgets: each observation first widens the
    covariance by 1/memory, never beyond the prior's total variance.
    """

    def __init__(self, mean: Array, variance: Array, memory: float = 1.0) -> None:
        self.mean = np.array(mean, dtype=np.float64)
        self.covariance = np.diag(np.asarray(variance, dtype=np.float64))
        self.memory = memory
        self.seen = 0.0  # weight of all observations
        self._spread = float(np.sum(variance))

    def __repr__(self) -> str:
        return f"<Logistic of {self.mean.size} weights after {self.seen:.0f} observations>"

    def estimate(self, x: Array) -> Estimate:
        """The probability of a good outcome at features x (d,)."""
        return Estimate(float(x @ self.mean), math.sqrt(max(0.0, float(x @ self.covariance @ x))))

    def means(self, x: Array) -> Array:
        """The probability at the mean weights for each row of x (n, d)."""
        return np.asarray(sigmoid(x @ self.mean), dtype=np.float64)

    def learn(self, x: Array, outcome: float, weight: float = 1.0) -> None:
        """One outcome in [0, 1] at features x (d,), counted `weight` times."""
        p = _probability(float(x @ self.mean))
        curvature = max(p * (1 - p), 1e-4) * weight
        if self.memory < 1.0 and np.trace(self.covariance) < self._spread:
            self.covariance /= self.memory**weight
        along = self.covariance @ x
        self.covariance -= np.outer(along, along) * (curvature / (1 + curvature * float(x @ along)))
        # The gain is the new covariance times x, which is `along` shrunk by the same denominator.
        self.mean += along * (weight * (outcome - p) / (1 + curvature * float(x @ along)))
        self.seen += weight

    def dump(self) -> dict[str, Any]:
        """As plain values for orjson (with OPT_SERIALIZE_NUMPY): the covariance by its upper triangle."""
        upper = self.covariance[np.triu_indices(self.mean.size)]
        return {"mean": self.mean.tolist(), "upper": upper.tolist(), "seen": self.seen}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `dump` gave. Raises ValueError where the number of features is another."""
        mean, size = np.array(state["mean"], dtype=np.float64), self.mean.size
        upper = np.array(state["upper"], dtype=np.float64)
        if mean.shape != (size,) or upper.size != size * (size + 1) // 2:
            raise ValueError(f"weights of {mean.size} features for a model of {size}")
        covariance = np.zeros((size, size))
        covariance[np.triu_indices(size)] = upper
        self.covariance = covariance + np.triu(covariance, 1).T
        self.mean, self.seen = mean, float(state["seen"])
