"""Who answers: the large model, or the small one with examples. One router per pair, learning as it goes.

A contextual bandit with Thompson sampling (IC-Cache §4.2) under a floor of quality that load cannot lower. It
must never let the expected loss of quality, over all requests of the pair, exceed what the policy permits.
"""

import math
import zlib
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.interfaces import Vector
from gateway.offload.logistic import Estimate, Logistic
from gateway.offload.selector import CUT, Asked, Selection

Array = NDArray[np.float64]

FIGURES = 8
BUCKETS = 32  # categories are hashed into so many
PROJECTED = 64  # of the question's vector
_JUDGED = 0.05  # share judged below which a lost answer counts for no more in the ledger
FEATURES = FIGURES + BUCKETS + PROJECTED
# Untaught, the small model is the better the more examples agree. What a question's words say beside its figures
# is small: a wide prior on 64 of them would keep everything in doubt for thousands of outcomes.
_EXPECTED = np.array([0.0] * (FIGURES - 3) + [0.5] * 3 + [0.0] * (BUCKETS + PROJECTED))
_VARIANCE = np.concatenate([np.full(FIGURES + BUCKETS, 1.0), np.full(PROJECTED, 0.05)])


def situation(asked: Asked, selection: Selection, vector: Vector | None) -> Array:
    """Features (FEATURES,) of a request with its chosen examples. `vector`: the question's, of unit length."""
    x = np.zeros(FEATURES)
    x[:FIGURES] = (
        1.0,
        math.log1p(asked.tokens) / 4 - 1,
        2 * (selection.similarity - CUT),
        len(selection.examples) / 5,
        bool(selection.examples),
        # Shares as half logits: from 0.9 to 0.99 is as far as from 0.5 to 0.9, and that is where it is decided.
        _half_logit(selection.utility),
        _half_logit(selection.vote),
        _half_logit(selection.agreement),
    )
    x[FIGURES + zlib.crc32(asked.category.encode()) % BUCKETS] = 1.0
    if vector is not None:
        x[FIGURES + BUCKETS :] = vector @ _projection(len(vector))
    return x


def _half_logit(share: float) -> float:
    share = min(0.98, max(0.02, share))
    return math.log(share / (1 - share)) / 2


@cache
def _projection(dim: int) -> Array:
    """A fixed random projection (dim, PROJECTED) that keeps lengths on average; the same in every process."""
    drawn: Array = np.random.Generator(np.random.PCG64(dim)).standard_normal((dim, PROJECTED))
    return drawn / math.sqrt(PROJECTED)


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be tuned."""

    strength: float = 0.5  # λ0: what the bias takes from a full-cost arm at most
    steepness: float = 2.0  # γ
    # Measured with load and none in turn (docs/offload.md): as much is offloaded without load as with 5 and 8, more
    # under it. With 2 and 16 it is half as much without load, and two fifths more under it.
    tolerance: float = 3.0  # times the permitted mean loss that one request may lose, while there is no load
    reach: float = 10.0  # and at any load
    z: float = 0.84  # standard deviations to the credible bound of loss
    explore: float = 0.02  # share of requests on which the doubtful is tried, within the budget
    compare: float = 0.10  # share of unsure requests that both models should answer
    routine: float = 0.01  # and of all others
    caution: float = (
        1.0  # lost answers that the ledger holds from the start: it opens after caution / floor requests
    )
    memory: float = 0.9995  # what the quality ledger keeps at each request


@dataclass(frozen=True, slots=True)
class Arm:
    """One model as the router sees it for one request."""

    quality: float
    low: float  # credible interval of the quality
    high: float
    cost: float  # relative to the large model's
    bias: float  # taken from its score, by load
    score: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Who answers, and why. `learn` wants it back with the outcome."""

    offload: bool
    reason: str  # "offload", "explore", "quality", "score", "budget", "off"
    small: Arm
    large: Arm
    loss: float  # expected quality lost by offloading
    loss_bound: float  # its upper credible bound
    limit: float  # what the bound had to stay under
    compare: bool  # both models should answer, and a judge compare
    share: float  # the probability with which they should
    charged: float  # to the quality ledger
    features: Array = field(repr=False)


class Pressure:
    """The fleet's load as a moving average; `excess` is L, its positive part above the threshold."""

    def __init__(self, threshold: float = 0.5, seconds: float = 10.0) -> None:
        # A pool's load is 0.2 at nine tenths of its capacity, 0.6 at 1.2 times (conversation trace of bench.fleet).
        self.threshold = threshold
        self.seconds = seconds  # time constant of the average
        self.mean = 0.0
        self._at: float | None = None

    def observe(self, load: float, now: float) -> float:
        """Take in a load factor (1 is capacity) and give the excess."""
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self.mean = (
            load + (self.mean - load) * math.exp(-elapsed / self.seconds) if self._at is not None else load
        )
        self._at = now
        return self.excess

    @property
    def excess(self) -> float:
        return max(0.0, self.mean - self.threshold)


@dataclass(slots=True)
class Ledger:
    """Quality lost by offloading, over all requests, both fading alike."""

    seen: float = 0.0
    lost: float = 0.0

    @property
    def rate(self) -> float:
        """Mean loss per request, those that were not offloaded included."""
        return self.lost / self.seen if self.seen else 0.0


class Router:
    """The bandit of one (large, small) pair."""

    def __init__(self, settings: Settings | None = None, rng: np.random.Generator | None = None) -> None:
        self.settings = settings or Settings()
        self.small = Logistic(_EXPECTED, _VARIANCE)
        # 0.88, until it is known
        self.large = Logistic(np.concatenate([[2.0], np.zeros(FEATURES - 1)]), _VARIANCE)
        self.ledger = Ledger()
        self._rng = rng or np.random.default_rng()

    def __repr__(self) -> str:
        return f"<Router: {self.small.seen:.0f} outcomes of small, {self.large.seen:.0f} of large, loss {self.ledger.rate:.4f}>"

    def choose(
        self,
        features: Array,
        *,
        max_quality_loss: float,
        cost: float = 0.1,
        excess: float = 0.0,
        allowed: bool = True,
        explain: bool = False,
    ) -> Choice:
        """Who answers this request.

        `cost`: of the small model with its examples, relative to the large one without. `excess`: L, see
        Pressure. `allowed`: False forces the large model, and is counted in the ledger as every request.
        `explain`: answer as it would most probably be, and neither draw nor count.
        """
        small, large = self.small.estimate(features), self.large.estimate(features)
        loss, deviation = _difference(large, small)
        limit = self._limit(max_quality_loss)
        bias = self.settings.strength * math.tanh(self.settings.steepness * excess)
        drawn = (small.mean, large.mean) if explain else (self._draw(small), self._draw(large))
        # The small model is preferred where it is as good within what one request may lose.
        tolerance = self.settings.tolerance * max_quality_loss
        scores = drawn[0] + tolerance - bias * cost, drawn[1] - bias
        bound = loss + self.settings.z * deviation
        reason = "off" if not allowed else self._reason(loss, deviation, limit, scores, explain)
        offload = reason in ("offload", "explore")
        charged = max(0.0, loss) if offload else 0.0
        if not explain:
            self._count(charged)
        unsure = abs(loss - tolerance) < 2 * self.settings.z * deviation or reason == "explore"
        share = self.settings.compare if unsure else self.settings.routine
        return Choice(
            offload=offload,
            reason=reason,
            small=_arm(small, cost, bias * cost, scores[0], self.settings.z),
            large=_arm(large, 1.0, bias, scores[1], self.settings.z),
            loss=loss,
            loss_bound=bound,
            limit=limit,
            compare=allowed and not explain and bool(self._rng.random() < share),
            share=share,
            charged=charged,
            features=features,
        )

    def learn(
        self,
        choice: Choice,
        *,
        small: float | None = None,
        large: float | None = None,
        share: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        """Outcomes in [0, 1] of either answer, or of both where they were compared.

        `share`: the probability with which this request was judged at all: what a judged offload lost beyond
        its prediction stands for 1 / share such requests in the ledger, but for 20 at most: with one judged in fifty
        a single lost answer would stop everything for a thousand requests. `weight`: of a sign that is no verdict.
        """
        if small is not None:
            self.small.learn(choice.features, small, weight)
        if large is not None:
            self.large.learn(choice.features, large, weight)
        if choice.offload and small is not None:
            reference = choice.large.quality if large is None else large
            self.ledger.lost += weight * (reference - small - choice.charged) / max(share, _JUDGED)

    def withdraw(self, choice: Choice) -> Choice:
        """The large model answered after all: nothing is lost, and the ledger gets its charge back."""
        if not choice.offload:
            return choice
        self.ledger.lost -= choice.charged
        return replace(choice, offload=False, charged=0.0)

    def dump(self) -> bytes:
        """What was learned, for the store."""
        ledger = {"seen": self.ledger.seen, "lost": self.ledger.lost}
        return orjson.dumps({"small": self.small.dump(), "large": self.large.dump(), "ledger": ledger})

    def load(self, packed: bytes) -> None:
        """Take up what `dump` gave. Raises ValueError where it is not a router's, or of other features."""
        state: dict[str, Any] = orjson.loads(packed)
        try:
            self.small.load(state["small"])
            self.large.load(state["large"])
            self.ledger = Ledger(**state["ledger"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a router's state: {error}") from None

    def _limit(self, floor: float) -> float:
        """The loss that one request may be expected to have at most: less as the ledger fills, none when full.

        An integral controller: the mean loss settles below the floor whatever the traffic.
        """
        budget = floor * self.ledger.seen
        spent = (self.ledger.lost + self.settings.caution) / budget if budget > 0 else 1.0
        return self.settings.reach * floor * min(1.0, 1.0 - spent)

    def _reason(
        self, loss: float, deviation: float, limit: float, scores: tuple[float, float], explain: bool
    ) -> str:
        if limit <= 0:
            return "budget"
        if loss + self.settings.z * deviation > limit:
            doubtful = loss - self.settings.z * deviation <= limit
            tried = doubtful and not explain and self._rng.random() < self.settings.explore
            return "explore" if tried else "quality"
        return "offload" if scores[0] >= scores[1] else "score"

    def _draw(self, estimate: Estimate) -> float:
        """Thompson: a quality drawn from what is known of it."""
        return estimate.bound(float(self._rng.standard_normal()))

    def _count(self, charged: float) -> None:
        keep = self.settings.memory
        self.ledger.seen = keep * self.ledger.seen + 1.0
        self.ledger.lost = keep * self.ledger.lost + charged


def _difference(large: Estimate, small: Estimate) -> tuple[float, float]:
    """Mean and standard deviation of the loss, to first order (delta method)."""
    high, low = large.mean, small.mean
    spread = high * (1 - high) * large.deviation, low * (1 - low) * small.deviation
    return high - low, math.hypot(*spread)


def _arm(estimate: Estimate, cost: float, bias: float, score: float, z: float) -> Arm:
    return Arm(estimate.mean, estimate.bound(-z), estimate.bound(z), cost, bias, score)
