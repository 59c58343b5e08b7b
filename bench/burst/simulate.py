"""One burst through the product's own policy, adaptation, admission and fleet, in front of simulated engines.

A look-up that hits is answered at once; what misses goes on to `bench.fleet`'s engines. λ is sampled once a second
from the model's answers and queue, as the gateway does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from bench.burst.workload import Asked, Look, Phases
from bench.fleet.arrivals import Arrival
from bench.fleet.engine import Engine
from bench.fleet.simulate import Outcome, Run, Variant
from gateway.exchange import Controls, Load
from gateway.policy.load import Adaptation, LoadTerms
from gateway.policy.policy import Policy
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.strategies import strategy

LOOKUP = 0.010  # seconds: embedding, search and guard on a hit
SAMPLE = 1.0  # seconds
STRATEGY = "least-completion"


@dataclass(slots=True)
class Told:
    """What one request came to."""

    outcome: Outcome
    look: Look | None
    hit: bool = False


def hit(policy: Policy, look: Look, load: Load) -> bool:
    """The walk of the cache, for the one neighbour there is."""
    ruling = policy.ruling(Controls(), None, look.label, load)
    demand = policy.against(ruling, look.entry)
    near = look.agreed and look.similarity >= demand.threshold
    return demand.mode == "semantic" and near and policy.fresh_until(look.entry, load) > 0.0


@dataclass(kw_only=True)
class Burst(Run):
    """A `bench.fleet` run with a semantic cache in front."""

    policy: Policy
    adaptation: Adaptation
    asked: Sequence[Asked]
    judge: bool = False  # every hit is, as its label says
    told: list[Told] = field(default_factory=list)
    factors: list[tuple[float, float]] = field(default_factory=list)  # (seconds, λ), one a sample
    _sampled: float = 0.0

    def _arrive(self, arrival: Arrival) -> None:
        look = self.asked[len(self.told)].look
        load = self.adaptation.of(self.fleet.default.name)
        told = Told(Outcome(arrival), look)
        self.told.append(told)
        if look is not None and hit(self.policy, look, load):
            told.hit = True
            if self.judge:
                self.adaptation.judged(look.label[0], wrong=not look.duplicate)
            told.outcome.ttft, told.outcome.began = LOOKUP, self.now + LOOKUP
            told.outcome.ended = told.outcome.began
            return
        super()._arrive(arrival)
        told.outcome = self.outcomes[-1]

    def _tick(self) -> None:
        super()._tick()
        if self.now - self._sampled < SAMPLE:
            return
        self._sampled, model = self.now, self.fleet.default
        p95, waiting = model.latency.quantile(0.95, self.now), model.waiting(self.now)
        self.adaptation.sample(model.name, p95, waiting, self.now)
        self.factors.append((self.now, self.adaptation.of(model.name).factor))


@dataclass(frozen=True, slots=True)
class Tally:
    """One phase. Seconds; shares of all its requests."""

    requests: int
    looks: int  # that had a labelled neighbour
    right: int
    wrong: int
    sent: int  # to engines
    refused: int
    p50: float  # TTFT of requests answered, hits among them
    p99: float
    engine_p99: float  # TTFT of those engines answered
    goodput: float

    @property
    def hits(self) -> int:
        return self.right + self.wrong


def play(
    policy: Policy,
    terms: LoadTerms,
    asked: Sequence[Asked],
    engines: int,
    seed: int,
    phases: Phases,
    *,
    judge: bool = False,
) -> tuple[dict[str, Tally], list[tuple[float, float]]]:
    """Tallies by phase, and λ over time."""
    backends = tuple(Backend(str(place), "", None, "", 1.0, True) for place in range(engines))
    fleet = Fleet([Model("m", backends, 0.0, 0.0)], strategy(STRATEGY, Random(seed)))
    run = Burst(
        [Engine() for _ in range(engines)],
        fleet,
        Variant(STRATEGY),
        policy=policy,
        adaptation=Adaptation(terms),
        asked=asked,
        judge=judge,
    )
    run.play([each.arrival for each in asked])
    names = [phases.name(told.outcome.arrival.at) for told in run.told]
    return {
        phase: tally([told for told, name in zip(run.told, names, strict=True) if name == phase])
        for phase in ("before", "burst", "after")
    }, run.factors


def tally(told: Sequence[Told]) -> Tally:
    hits = [each.look for each in told if each.hit and each.look is not None]
    right = sum(look.duplicate for look in hits)
    refused = sum(each.outcome.refused for each in told)
    answered = [each.outcome.ttft for each in told if not each.outcome.refused]
    engine = [each.outcome.ttft for each in told if not each.outcome.refused and not each.hit]
    return Tally(
        requests=len(told),
        looks=sum(each.look is not None for each in told),
        right=right,
        wrong=len(hits) - right,
        sent=len(told) - len(hits) - refused,
        refused=refused,
        p50=_quantile(answered, 0.5),
        p99=_quantile(answered, 0.99),
        engine_p99=_quantile(engine, 0.99),
        goodput=float(np.mean([each.outcome.good for each in told])) if told else 0.0,
    )


def _quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else 0.0


def relaxed(
    factors: Sequence[tuple[float, float]], phases: Phases
) -> tuple[float, float | None, float | None]:
    """λ's plateau; seconds from the burst's begin to 90 % of it; seconds from its end until λ is 0 again."""
    end = phases.before + phases.burst
    plateau = max((value for at, value in factors if at < end), default=0.0)
    up = next((at for at, value in factors if at >= phases.before and value and value >= 0.9 * plateau), None)
    down = next((at for at, value in factors if at >= end and value == 0.0), None)
    return (
        plateau,
        None if up is None or not plateau else up - phases.before,
        None if down is None or not plateau else down - end,
    )
