"""One pair of models, a large and a small one: what is known of the small one's answers, and what they saved.

Decides for a request which examples it would get and who answers, and turns what comes of it into learning.
It must never call a model, and never learn twice from the same word.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import orjson

from gateway.exchange import Ruling, Usage
from gateway.interfaces import Vector
from gateway.offload import router as routers
from gateway.offload.examples import Example
from gateway.offload.router import Choice, Pressure, Router, situation
from gateway.offload.selector import Asked, Selection, Selector

_CHEAPER = 0.1  # cost of the small model relative to the large, where no prices are known
_OUTPUT = 256  # tokens of an answer, to compare costs before there is one
_SURE = 1.96  # standard deviations to either end of the intervals that are shown
_PEAK = 10.0  # load factor beyond which more is all the same: a pool without a usable backend has infinite


@dataclass(frozen=True, slots=True)
class Terms:
    """What a pair takes from the configuration. Prices: dollars a token, of input and of output."""

    large: str
    small: str
    context: int  # tokens of the small model's window, the answer included
    large_prices: tuple[float, float] = (0.0, 0.0)
    small_prices: tuple[float, float] = (0.0, 0.0)

    def cost(self, prompt: int, examples: int) -> float:
        """Of the small model with its examples, relative to the large one without."""
        large = _dollars(self.large_prices, prompt, _OUTPUT)
        return _dollars(self.small_prices, prompt + examples, _OUTPUT) / large if large else _CHEAPER


@dataclass(slots=True)
class Plan:
    """What was thought of one request, kept until its outcome is known."""

    pair: "Pair"
    tenant: str
    category: str
    asked: Asked
    selection: Selection
    choice: Choice
    small: str | None = None  # the answers there are
    large: str | None = None
    example: int | None = None  # that was made of the large model's answer
    sources: set[str] = field(default_factory=set)  # who has said how good it was: each counts once


class Spared(NamedTuple):
    """What the large model need not do."""

    category: str
    usage: Usage
    dollars: float  # less what the small one took
    seconds: float | None  # of its engines, if known


@dataclass(slots=True)
class Tally:
    """Plain counts of one category."""

    requests: int = 0
    offloaded: int = 0
    refused: int = 0  # answers of the small model that the gate did not let pass
    judged: float = 0.0  # offloaded answers whose outcome is known, by weight
    good: float = 0.0
    dollars: float = 0.0  # saved
    seconds: float = 0.0  # of the large model's engines, saved

    def quality(self) -> dict[str, float]:
        """Mean and 95 % credible interval of the offloaded answers' quality, from a flat prior."""
        a, b = 1.0 + self.good, 1.0 + self.judged - self.good
        mean = a / (a + b)
        spread = _SURE * math.sqrt(mean * (1 - mean) / (a + b + 1))
        return {
            "judged": self.judged,
            "mean": mean,
            "low": max(0.0, mean - spread),
            "high": min(1.0, mean + spread),
        }


class Pair:
    """Selector and router of one pair, with their counts."""

    def __init__(self, terms: Terms, settings: routers.Settings, rng: np.random.Generator) -> None:
        self.terms = terms
        self.selector = Selector(rng=rng)
        self.router = Router(settings, rng)
        self.pressure = Pressure()
        self.load = 0.0  # of the large model, at the last sample
        self.tallies: dict[str, Tally] = {}
        self.decisions: Counter[tuple[str, str]] = Counter()  # by category and reason
        self.changed = False  # something was learned since it was last saved

    def __repr__(self) -> str:
        return f"<Pair {self.terms.large} > {self.terms.small}: {self.router!r}>"

    def tally(self, category: str) -> Tally:
        found = self.tallies.get(category)
        if found is None:
            found = self.tallies[category] = Tally()
        return found

    def total(self) -> Tally:
        """Over all categories."""
        names = Tally.__slots__
        return Tally(*(sum(getattr(t, name) for t in self.tallies.values()) for name in names))

    def observe(self, load: float, now: float) -> None:
        """The large model's load factor, about once a second."""
        self.load = min(load, _PEAK)
        self.pressure.observe(self.load, now)

    def plan(
        self,
        tenant: str,
        ruling: Ruling,
        asked: Asked,
        candidates: Sequence[tuple[Example, float]],
        room: int,
        vector: Vector,
        *,
        explain: bool,
    ) -> Plan:
        """Which examples, and who answers. `room`: tokens left for examples. `explain`: draws and counts nothing."""
        selection = self.selector.select(asked, candidates, room, explore=not explain)
        choice = self.router.choose(
            situation(asked, selection, vector),
            max_quality_loss=ruling.max_quality_loss,
            cost=self.terms.cost(asked.tokens, selection.tokens),
            excess=self.pressure.excess,
            explain=explain,
        )
        if not explain:
            tally = self.tally(ruling.category)
            tally.requests += 1
            tally.offloaded += choice.offload
            self.decisions[ruling.category, choice.reason] += 1
            self.changed = True  # the ledger
        return Plan(self, tenant, ruling.category, asked, selection, choice)

    # ── what came of it ─────────────────────────────────────────────────────────────────────────────────

    def served(self, plan: Plan, usage: Usage, seconds: float | None) -> Spared:
        """The small model's answer went out. `seconds`: what the large one usually takes, if known."""
        tally = self.tally(plan.category)
        large = _dollars(self.terms.large_prices, plan.asked.tokens, usage.completion)
        dollars = large - _dollars(self.terms.small_prices, usage.prompt, usage.completion)
        tally.dollars += dollars
        tally.seconds += seconds or 0.0
        return Spared(plan.category, Usage(plan.asked.tokens, usage.completion), dollars, seconds)

    def withdraw(self, plan: Plan) -> None:
        """The small model could not answer; the large one does."""
        self.tally(plan.category).offloaded -= plan.choice.offload
        plan.choice = self.router.withdraw(plan.choice)
        self.changed = True

    def refuse(self, plan: Plan) -> None:
        """The small model's answer would not do; the large one answers."""
        self.withdraw(plan)
        self.tally(plan.category).refused += 1
        self.judge(plan, "gate", small=0.0)

    def judge(
        self,
        plan: Plan,
        source: str,
        *,
        small: float | None = None,
        large: float | None = None,
        share: float = 1.0,
        weight: float = 1.0,
    ) -> bool:
        """Outcomes in [0, 1] from one source; False where it has spoken before."""
        if source in plan.sources:
            return False
        plan.sources.add(source)
        if small is not None:
            self.selector.learn(plan.selection, small, plan.small, weight)
            if plan.choice.offload:
                tally = self.tally(plan.category)
                tally.judged += weight
                tally.good += weight * small
        self.router.learn(plan.choice, small=small, large=large, share=share, weight=weight)
        self.changed = True
        return True

    def hindsight(self, plan: Plan, answer: str) -> None:
        """A good answer of the large model: which examples would have led to it."""
        self.selector.hindsight(plan.selection, answer)
        self.changed = True

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────

    def dump(self, embedder: str) -> bytes:
        """What was learned. `embedder`: whose vectors it was learned on."""
        state = {"selector": self.selector.dump().decode(), "router": self.router.dump().decode()}
        return orjson.dumps({"embedder": embedder, **state})

    def load_state(self, packed: bytes, embedder: str) -> None:
        """Take up what `dump` gave; what the router knows of another embedder's vectors is not used.

        Raises:
            ValueError: it is not a pair's state, or another version's.
        """
        state: dict[str, Any] = orjson.loads(packed)
        try:
            selector, router = state["selector"], state["router"]
            known = state["embedder"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a pair's state: {error}") from None
        self.selector.load(selector)
        if known == embedder:
            self.router.load(router)

    # ── what it tells ───────────────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Any]:
        """The figures of the admin API."""
        total, ledger = self.total(), self.router.ledger
        return {
            "large": self.terms.large,
            "small": self.terms.small,
            **_told(total),
            "ledger": {"seen": ledger.seen, "lost": ledger.lost, "rate": ledger.rate},
            "load": {"mean": self.pressure.mean, "excess": self.pressure.excess},
            "learned": {"small": self.router.small.seen, "large": self.router.large.seen},
            "threshold": self.selector.settings.grid[self.selector.threshold.best],
            "categories": [{"name": name, **_told(t)} for name, t in sorted(self.tallies.items())],
        }


def explanation(plan: Plan, max_quality_loss: float) -> dict[str, Any]:
    """Why a plan is as it is: ids and figures, never an example's text, which may be another tenant's."""
    choice, chosen = plan.choice, set(plan.selection.ids)
    arms = {"small": choice.small, "large": choice.large}
    return {
        "small": plan.pair.terms.small,
        "offload": choice.offload,
        "reason": choice.reason,
        "arms": {
            name: {key: getattr(arm, key) for key in ("quality", "low", "high", "cost", "bias", "score")}
            for name, arm in arms.items()
        },
        "loss": choice.loss,
        "loss_bound": choice.loss_bound,
        "limit": choice.limit,
        "max_quality_loss": max_quality_loss,
        "load": {"mean": plan.pair.pressure.mean, "excess": plan.pair.pressure.excess},
        "examples": [
            {
                "id": f"{example.id:016x}",
                "similarity": similarity,
                "utility": utility,
                "chosen": example.id in chosen,
            }
            for example, similarity, utility in plan.selection.candidates
        ],
        "example_tokens": plan.selection.tokens,
        "threshold": plan.selection.threshold,
    }


def settings(compare_share: float) -> routers.Settings:
    """The router's, with the operator's share of comparisons; unsure requests have ten times as many."""
    return replace(routers.Settings(), routine=compare_share, compare=min(1.0, 10 * compare_share))


def _told(tally: Tally) -> dict[str, Any]:
    return {
        "requests": tally.requests,
        "offloaded": tally.offloaded,
        "share": tally.offloaded / tally.requests if tally.requests else 0.0,
        "refused_by_gate": tally.refused,
        "quality": tally.quality(),
        "dollars_saved": tally.dollars,
        "engine_seconds_saved": tally.seconds,
    }


def _dollars(prices: tuple[float, float], prompt: int, output: int) -> float:
    return prompt * prices[0] + output * prices[1]
