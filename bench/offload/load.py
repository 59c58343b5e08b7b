"""Offloading under load: recorded arrivals beyond a large pool's capacity, with a small pool beside it.

Real: router, selector, store, load signals, admission and placement. Recorded: arrivals and lengths, and who would
have answered what well. Modelled: the engines (bench.fleet.engine, made slower or faster by the size of the model,
everything else alike), the small model's answers (bench.offload.stream), and the length of an example.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from bench.accuracy.measure import Table
from bench.fleet.arrivals import Arrival, Trace
from bench.fleet.arrivals import load as laid
from bench.fleet.engine import Engine
from bench.fleet.simulate import Outcome, Run, Variant
from bench.offload.data import Request
from bench.offload.stream import FLOOR, Decision, Offloading, copies, play
from gateway.offload.router import Pressure
from gateway.offload.router import Settings as Routing
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.strategies import strategy

# The paper's Qwen2.5 pair, 32B and 3B; the simulated engine is an 8B model's, and time goes by size.
LARGE, SMALL = 8 / 32, 8 / 3
ENGINES = 6, 2
EXAMPLE = (
    450  # tokens in the small model's prompt: question and answer, each as long as the trace's mean answer
)
LOADS: dict[str, tuple[float, ...]] = {  # utilisations of the large pool, in turn
    "0.7": (0.7,),
    "1.5": (1.5,),
    "2.5": (2.5,),
    "0.5 and 2 in turn": (0.5, 2.0, 0.5, 2.0),
}
SEED = 1
QUIET = Routing(compare=0.0, routine=0.0)  # the shipped one, but that comparisons are made off-peak


@dataclass(frozen=True, slots=True)
class Way:
    """One way to serve both pools."""

    engines: tuple[int, int] = ENGINES
    offloads: bool | None = None  # None: by the router; else always, or never
    routing: Routing = QUIET
    aware: bool = False  # the router is told the load
    floor: float = FLOOR


WAYS = {
    "always large": Way(offloads=False),
    "always large, on all engines": Way((sum(ENGINES), 0), offloads=False),
    "always small, with examples": Way(offloads=True),
    "load-blind router": Way(),
    "load-blind router, floor 0.025": Way(floor=0.025),
    "ours": Way(aware=True),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run, without its first tenth."""

    throughput: float  # answers a second while requests came
    p50: float  # seconds from arrival to the last token
    p99: float
    ttft: float  # p99
    refused: float  # share of all
    offloaded: float  # share of those served
    quality: float  # mean score of those served
    reference: float  # the large model's on the same requests


@dataclass(slots=True)
class Mixed(Run):
    """A run over two models, the large one first, where each request has a text and its known outcomes."""

    way: Way = field(default_factory=Way)
    offloading: Offloading | None = None
    requests: Sequence[Request] = ()
    first: int = 0  # the first arrival's place in `requests`
    scores: dict[int, float] = field(default_factory=dict)  # by place in `outcomes`
    small: dict[int, bool] = field(default_factory=dict)
    pressure: Pressure = field(default_factory=Pressure)
    _decisions: dict[int, tuple[int, Decision]] = field(default_factory=dict)

    def _arrive(self, arrival: Arrival) -> None:
        assert self.offloading is not None
        number, (large, *others) = len(self.outcomes), self.fleet.models
        self.offloading.now = self.first + self.now
        excess = self.pressure.observe(large.pressure(self.now), self.now) if self.way.aware else 0.0
        decision = self.offloading.decide(self.first + number, excess=excess)
        if self.way.offloads is not None:
            decision = replace(decision, choice=replace(decision.choice, offload=self.way.offloads))
        self.small[number] = decision.choice.offload
        model = others[0] if decision.choice.offload else large
        if decision.choice.offload:
            shown = len(decision.selection.examples)
            arrival = replace(arrival, prompt=arrival.prompt + shown * EXAMPLE)
        outcome = Outcome(arrival)
        self._decisions[id(outcome)] = number, decision
        self._ask(model, outcome)

    def _ended(self, outcome: Outcome) -> None:
        assert self.offloading is not None
        number, decision = self._decisions.pop(id(outcome))
        self.scores[number] = self.offloading.answered(self.first + number, decision)

    def figures(self) -> Figures:
        start = len(self.outcomes) // 10
        begun, ended = self.outcomes[start].arrival.at, self.outcomes[-1].arrival.at
        served = [number for number in range(start, len(self.outcomes)) if number in self.scores]
        kept = [self.outcomes[number] for number in served]
        latency = np.array([o.ended - o.arrival.at for o in kept])
        within = sum(begun <= o.ended <= ended for o in self.outcomes)
        p50, p99 = np.quantile(latency, [0.5, 0.99])
        return Figures(
            within / (ended - begun),
            float(p50),
            float(p99),
            float(np.quantile([o.ttft for o in kept], 0.99)),
            1 - len(served) / (len(self.outcomes) - start),
            float(np.mean([self.small[number] for number in served])),
            float(np.mean([self.scores[number] for number in served])),
            float(np.mean([self.requests[self.first + number].large for number in served])),
        )


def serve(
    way: Way, arrivals: Sequence[Arrival], taught: Offloading, requests: Sequence[Request], first: int
) -> Figures:
    """One way on these arrivals, from the state of `taught`, which stays as it is."""
    speeds = [LARGE] * way.engines[0] + [SMALL] * way.engines[1]
    backends = [Backend(str(place), "", None, "", 1.0, True) for place in range(len(speeds))]
    pools = backends[: way.engines[0]], backends[way.engines[0] :]
    models = [Model(name, tuple(pool), 0, 0) for name, pool in zip(("large", "small"), pools, strict=True)]
    fleet = Fleet(models, strategy("least-completion", Random(SEED)))
    offloading = copy.deepcopy(taught, {id(requests): requests})
    offloading.router.settings, offloading.floor = way.routing, way.floor
    engines = [Engine(speed) for speed in speeds]
    run = Mixed(engines, fleet, Variant(""), way=way, offloading=offloading, requests=requests, first=first)
    run.run(arrivals)
    return run.figures()


def taught(requests: Sequence[Request], count: int) -> Offloading:
    """Store and router after `count` requests without load, a tenth of the outcomes known."""
    offloading = Offloading(requests, copies, outcomes=0.1)
    play(requests[:count], offloading)
    return offloading


def measured(trace: Trace, requests: Sequence[Request], before: int) -> dict[str, dict[str, Figures]]:
    """By load of the large pool and way. The first `before` requests are served without load, to teach the router."""
    base, seconds = laid(trace, [LARGE] * ENGINES[0], len(requests) - before)
    known = taught(requests, before)
    return {
        name: {
            way: serve(how, in_turn(base, seconds, utilisations), known, requests, before)
            for way, how in WAYS.items()
        }
        for name, utilisations in LOADS.items()
    }


def in_turn(arrivals: Sequence[Arrival], seconds: float, utilisations: Sequence[float]) -> list[Arrival]:
    """As many requests at each utilisation, one after the other. `seconds`: of all of them at capacity."""
    parts = len(utilisations)
    bounds = [arrivals[part * len(arrivals) // parts].at for part in range(parts)] + [arrivals[-1].at]
    lasts = [seconds * (b - a) / u for a, b, u in zip(bounds, bounds[1:], utilisations, strict=False)]
    starts = np.concatenate([[0.0], np.cumsum(lasts)])
    return [replace(a, at=float(np.interp(a.at, bounds, starts))) for a in arrivals]


def table(found: dict[str, dict[str, Figures]]) -> Table:
    """Throughput and p50 latency also against always large."""
    rows = Table(
        "load",
        f"Under load: {ENGINES[0]} large engines ({LARGE:.2f} of the speed) and {ENGINES[1]} small ({SMALL:.2f}), "
        f"max_quality_loss {FLOOR}",
        (
            "load of large pool", "way", "answers/s", "×", "p50 s", "change", "p99 s", "change", "p99 TTFT s",
            "refused %", "offloaded %", "quality", "lost, points",
        ),
    )  # fmt: skip
    for load, ways in found.items():
        base = ways["always large"]
        for name, f in ways.items():
            rows.rows.append(
                [
                    load,
                    name,
                    f"{f.throughput:.2f}",
                    f"{f.throughput / base.throughput:.2f}",
                    f"{f.p50:.1f}",
                    f"{f.p50 / base.p50 - 1:+.0%}",
                    f"{f.p99:.1f}",
                    f"{f.p99 / base.p99 - 1:+.0%}",
                    f"{f.ttft:.1f}",
                    f"{100 * f.refused:.1f}",
                    f"{100 * f.offloaded:.1f}",
                    f"{f.quality:.3f}",
                    f"{100 * (f.reference - f.quality):.2f}",
                ]
            )
    return rows
