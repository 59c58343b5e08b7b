"""One run: arrivals through the product's fleet, strategy, admission and signals, on a virtual clock."""

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from bench.fleet.arrivals import Arrival
from bench.fleet.engine import CONTEXT, PROMPT, Engine, Job
from gateway.errors import GatewayError, Overloaded
from gateway.exchange import Work
from gateway.routing.fleet import Backend, Fleet, Lease, Model
from gateway.routing.signals import Report
from gateway.routing.strategies import strategy

LOOK = 0.5  # seconds between looks at what streams have brought so far
SCRAPE = 2.0  # seconds between readings of engines' figures
TICK = 0.1
TTFT_OBJECTIVE = 2.0  # seconds, beyond three times the prefill of its own prompt on an idle engine
TPOT_OBJECTIVE = 0.1  # seconds a token
WARM = 0.1  # leading share of the arrivals that is not counted


@dataclass(frozen=True, slots=True)
class Variant:
    """What is compared."""

    strategy: str
    admission: bool = True  # requests wait at the gateway; otherwise everything is sent on at once
    oracle: bool = False  # true output lengths instead of predicted ones
    lag: float | None = 0.0  # seconds by which engines' reports are late, unknown to the gateway; None: none


@dataclass(slots=True)
class Outcome:
    """What became of one request; seconds."""

    arrival: Arrival
    ttft: float = math.inf
    began: float = 0.0
    ended: float = math.inf
    refused: bool = False

    @property
    def tpot(self) -> float:
        return (self.ended - self.began) / max(1, self.arrival.output - 1)

    @property
    def good(self) -> bool:
        """It met its objective for the first token, and the one for each further token."""
        alone = self.arrival.prompt * (PROMPT + CONTEXT * self.arrival.prompt / 2)
        return self.ttft <= TTFT_OBJECTIVE + 3 * alone and self.tpot <= TPOT_OBJECTIVE


@dataclass(frozen=True, slots=True)
class Result:
    p50: float  # seconds to the first token, of requests served
    p99: float
    goodput: float  # share of all requests that met both objectives
    jain: float  # of the tenants' goodput
    refused: float  # share of all requests
    tpot: float  # seconds, median


@dataclass(slots=True)
class Run:
    """One fleet, one variant, one clock."""

    engines: list[Engine]
    fleet: Fleet
    variant: Variant
    now: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    _events: list[tuple[float, int, int]] = field(default_factory=list)  # time, number, engine
    _streams: list[dict[int, tuple[Job, Lease]]] = field(default_factory=list)
    _reports: deque[tuple[float, int, Report]] = field(default_factory=deque)
    _number: int = 0
    _backends: list[Backend] = field(default_factory=list)  # one for each engine, in the same order

    def play(self, arrivals: Sequence[Arrival]) -> Result:
        """Until every request has ended one way or another; those at the beginning are not counted."""
        self.run(arrivals)
        return summary(self.outcomes[int(WARM * len(self.outcomes)) :])

    def run(self, arrivals: Sequence[Arrival]) -> None:
        self._backends = self.fleet.backends
        self._streams = [{} for _ in self.engines]
        timers = [(LOOK, self._look), (TICK, self._tick)]
        if self.variant.lag is not None:
            timers.append((SCRAPE, self._scrape))
        due = [seconds for seconds, _ in timers]
        upcoming = iter(arrivals)
        arrival = next(upcoming, None)
        while arrival is not None or self._events:
            at = arrival.at if arrival is not None else math.inf
            wake = self._events[0][0] if self._events else math.inf
            self.now = now = min(at, wake, *due)
            if now == wake:
                self._run(heapq.heappop(self._events))
            elif now == at and arrival is not None:
                self._arrive(arrival)
                arrival = next(upcoming, None)
            else:
                place = due.index(now)
                timers[place][1]()
                due[place] += timers[place][0]

    def _run(self, event: tuple[float, int, int]) -> None:
        engine = self.engines[event[2]]
        if engine.wake == event[0]:
            engine.run(self.now)
            self._wake(event[2])

    def _wake(self, place: int) -> None:
        wake = self.engines[place].wake
        if wake < math.inf:
            self._number += 1
            heapq.heappush(self._events, (wake, self._number, place))

    def _arrive(self, arrival: Arrival) -> None:
        self._ask(self.fleet.default, Outcome(arrival))

    def _ask(self, model: Model, outcome: Outcome) -> None:
        arrival = outcome.arrival
        self.outcomes.append(outcome)
        known = arrival.output if self.variant.oracle else self.fleet.lengths.output(model.name, "")
        work = Work(arrival.prompt, known, model.name, tenant=arrival.tenant, prefix=arrival.blocks)

        def placed(lease: Lease) -> None:
            self._start(lease, outcome)

        def refused(error: GatewayError) -> None:
            outcome.refused = True

        if not self.variant.admission:
            return placed(self.fleet.lease(model, work, frozenset(), self.now))
        try:
            self.fleet.arrive(model, work, self.now, placed, refused)
        except Overloaded as error:
            refused(error)

    def _start(self, lease: Lease, outcome: Outcome) -> None:
        arrival, place = outcome.arrival, int(lease.backend.id)
        streams = self._streams[place]

        def first(now: float) -> None:
            outcome.ttft, outcome.began = now - arrival.at, now
            lease.first(now)

        def done(now: float) -> None:
            outcome.ended = now
            del streams[id(job)]
            lease.done(now, 200, arrival.prompt, arrival.output)
            self._ended(outcome)

        job = Job(arrival.prompt, arrival.output, arrival.blocks, first, done)
        streams[id(job)] = job, lease
        before = self.engines[place].wake
        self.engines[place].submit(job, self.now)
        if self.engines[place].wake != before:
            self._wake(place)

    def _ended(self, outcome: Outcome) -> None:
        """An answer is complete."""

    def _look(self) -> None:
        for engine, streams in zip(self.engines, self._streams, strict=True):
            for job, lease in streams.values():
                if lease.first_at is not None:
                    lease.progress(engine.tokens(job, self.now), self.now)

    def _tick(self) -> None:
        self.fleet.tick(self.now)

    def _scrape(self) -> None:
        for place, engine in enumerate(self.engines):
            self._reports.append((self.now, place, Report(*engine.load, at=self.now)))
        lag = self.variant.lag or 0.0
        while self._reports and self._reports[0][0] + lag <= self.now:
            _, place, report = self._reports.popleft()
            late = Report(report.running, report.waiting, report.kv_use, self.now)
            self._backends[place].signals.reported(late)


def simulate(variant: Variant, arrivals: Sequence[Arrival], speeds: Sequence[float], seed: int) -> Result:
    """A fleet with one engine of each speed."""
    model = Model("m", tuple(Backend(str(i), "", None, "", 1.0, True) for i in range(len(speeds))), 0.0, 0.0)
    fleet = Fleet([model], strategy(variant.strategy, Random(seed)))
    return Run([Engine(speed) for speed in speeds], fleet, variant).play(arrivals)


def summary(outcomes: Sequence[Outcome]) -> Result:
    served = np.array([o.ttft for o in outcomes if not o.refused])
    tenants: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        tenants[outcome.arrival.tenant].append(outcome.good)
    shares = np.array([np.mean(good) for good in tenants.values()])
    p50, p99 = np.quantile(served, [0.5, 0.99])
    return Result(
        float(p50),
        float(p99),
        float(np.mean([o.good for o in outcomes])),
        float(shares.sum() ** 2 / max(1e-12, len(shares) * (shares**2).sum())),
        float(np.mean([o.refused for o in outcomes])),
        float(np.median([o.tpot for o in outcomes if not o.refused])),
    )
