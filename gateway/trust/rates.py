"""A share that is known from samples drawn with unequal probabilities, and how well it is known.

Decides nothing. It never keeps an observation: five sums, which fade with the look-ups that have passed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

_Z = 0.025  # left out at either end of the interval


@dataclass(slots=True)
class Rate:
    """Share of wrong ones, each sample weighing one over its probability (Hájek 1971).

    `memory`: look-ups after which an observation counts 1/e as much; infinite: all count alike.
    """

    memory: float = math.inf
    total: float = 0.0  # Σw
    squares: float = 0.0  # Σw²
    wrong: float = 0.0  # Σw of the wrong ones
    wrong_squares: float = 0.0
    at: float = 0.0  # look-ups that had passed at the last one
    _known: tuple[float, float] | None = field(default=None, repr=False, compare=False)

    def add(self, wrong: bool, weight: float = 1.0, at: float = 0.0) -> None:
        """One judged sample of weight 1/q, when `at` look-ups had passed."""
        self._fade(at)
        self._known = None
        self.total += weight
        self.squares += weight * weight
        if wrong:
            self.wrong += weight
            self.wrong_squares += weight * weight

    def merge(self, other: "Rate") -> None:
        """Take in what another has seen, as of now."""
        self._known = None
        self.total += other.total
        self.squares += other.squares
        self.wrong += other.wrong
        self.wrong_squares += other.wrong_squares

    @property
    def share(self) -> float | None:
        """The estimate; None where nothing was seen."""
        return self.wrong / self.total if self.total > 0 else None

    @property
    def effective(self) -> float:
        """Equally likely samples that would tell as much.

        Kish's Σw over the mean weight; where the wrong ones' mean weight is larger, that one counts, as they make
        the estimate's variance. One observation of mean weight is lent to them, as they are few.
        """
        if self.total <= 0:
            return 0.0
        typical = self.squares / self.total
        theirs = (self.wrong_squares + typical * typical) / (self.wrong + typical)
        return self.total / max(typical, theirs)

    def interval(self) -> tuple[float, float]:
        """95 % interval: Clopper and Pearson's at the effective size (Korn and Graubard 1998); exact for equal weights."""
        if (
            self._known is None
        ):  # a quantile takes milliseconds, and most rates do not change between two reports
            self._known = self._interval()
        return self._known

    def _interval(self) -> tuple[float, float]:
        n = self.effective
        if n <= 0:
            return 0.0, 1.0
        wrong = min(n, n * self.wrong / self.total)
        low = 0.0 if wrong <= 1e-9 else beta_quantile(_Z, wrong, n - wrong + 1)
        high = 1.0 if wrong >= n - 1e-9 else beta_quantile(1 - _Z, wrong + 1, n - wrong)
        return low, high

    def to_json(self) -> list[float]:
        return [self.total, self.squares, self.wrong, self.wrong_squares, self.at]

    def load(self, state: list[float]) -> None:
        """Take up what `to_json` gave."""
        self._known = None
        self.total, self.squares, self.wrong, self.wrong_squares, self.at = map(float, state)

    def _fade(self, at: float) -> None:
        if at <= self.at:
            return
        kept = math.exp((self.at - at) / self.memory)
        self.at = at
        self.total *= kept
        self.wrong *= kept
        # A faded weight is w·kept: so is its square, squared.
        self.squares *= kept * kept
        self.wrong_squares *= kept * kept


def pooled(parts: Sequence[tuple[float, float | None, float, float]]) -> tuple[float | None, float, float]:
    """The rate of several groups together and its 95 % interval, from (weight, rate, low, high) of each.

    Distances to the bounds add up as standard deviations do (square-and-add; Zou and Donner 2008): what is well known
    of one group tells nothing of another. One without a rate is taken to be like the rest, and known not at all.
    """
    judged = [(weight, rate) for weight, rate, _, _ in parts if rate is not None]
    if not judged:
        return None, 0.0, 1.0
    mean = sum(weight * rate for weight, rate in judged) / sum(weight for weight, _ in judged)
    total, below, above = sum(part[0] for part in parts), 0.0, 0.0
    for weight, rate, low, high in parts:
        middle = mean if rate is None else rate
        below += (weight * (middle - low)) ** 2
        above += (weight * (high - middle)) ** 2
    return mean, max(0.0, mean - math.sqrt(below) / total), min(1.0, mean + math.sqrt(above) / total)


def beta_quantile(p: float, a: float, b: float) -> float:
    """The p-quantile of Beta(a, b), by bisection."""
    low, high = 0.0, 1.0
    for _ in range(36):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges quickly on the other side
        return 1.0 - beta_cdf(1.0 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """1/(1 + d1/(1 + d2/(1 + ...))) from its far end; the terms needed grow as the root of the larger one."""
    value = 1.0
    for m in range(20 + int(2 * math.sqrt(max(a, b))), -1, -1):
        even = (m + 1) * (b - m - 1) * x / ((a + 2 * m + 1) * (a + 2 * m + 2))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1.0 + odd / (1.0 + even / value)
    return 1.0 / value
