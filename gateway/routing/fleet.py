"""The serving engines: which model is served where, what each has taken on, and who gets the next place.

A lease spans the whole body, so counts are right under errors and cancellation. A request is sent only to a
backend with room and otherwise waits here, where it can still be reordered, moved or withdrawn.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from gateway.errors import GatewayError, NotFound, Overloaded
from gateway.exchange import Usage, Work
from gateway.interfaces import RoutingStrategy
from gateway.routing.admission import Queue, Ticket
from gateway.routing.health import Health, Kind
from gateway.routing.prefix import held
from gateway.routing.signals import Histogram, Recent, Signals
from gateway.routing.work import OUTPUT, Lengths

Api: TypeAlias = Literal["openai", "anthropic", "both"]
_PREFIXES = 8192  # blocks remembered a backend
_HOMES = 65536  # blocks and sessions remembered a model
_SHARE_SECONDS = 60.0  # memory of what a backend was given, where weights differ
_PATIENT = 4.0  # times what a whole answer was expected to take, until it is overdue: lengths vary that much
_ASIDE = 8  # waiting requests that may be passed over because they have tried what is free


@dataclass(slots=True, eq=False)
class Backend:
    """One engine behind one model name: its address, and what is known of its load."""

    id: str
    url: str  # base URL including /v1, without a trailing slash
    model: str | None  # the engine's own model name, where it differs
    api_key: str
    weight: float
    stream_usage: bool
    price_input: float = 0.0  # dollars a token
    price_output: float = 0.0
    api: Api = "openai"  # which it speaks
    region: str = ""
    max_in_flight: InitVar[int | None] = None
    metrics: str = ""  # URL of the engine's own metrics; empty: none
    requests: int = 0
    failures: int = 0  # connections refused, broken or timed out
    draining: bool = False
    signals: Signals = field(default_factory=Signals)
    health: Health = field(default_factory=Health)
    _prefixes: "OrderedDict[int, None]" = field(default_factory=OrderedDict)
    _due: dict["Lease", float] = field(default_factory=dict)  # no first byte yet: by when it was expected
    _given: float = 0.0
    _given_at: float = 0.0

    def __post_init__(self, max_in_flight: int | None) -> None:
        self.signals.ceiling = max_in_flight

    @property
    def in_flight(self) -> int:
        return self.signals.in_flight

    def price(self, work: Work) -> float:
        return work.prompt * self.price_input + work.output * self.price_output

    def expected(self, work: Work, now: float) -> float:
        s = self.signals
        fresh = work.prompt - self.warm(work, now) if work.prefix else work.prompt
        batch = s.in_flight + s.others + 1
        ahead = (s.backlog + fresh) * s.per_prompt + self.late(now)
        return ahead + (work.output or OUTPUT) * s.pace.at(batch)

    def late(self, now: float) -> float:
        """Seconds by which the oldest request without a first byte is overdue: all that a silent engine tells."""
        return max(0.0, now - next(iter(self._due.values()))) if self._due else 0.0

    def expect(self, lease: "Lease", at: float) -> None:
        """When this request should have its first byte."""
        self._due[lease] = at

    def heard(self, lease: "Lease") -> None:
        """It has it, or it is over."""
        self._due.pop(lease, None)

    def pressure(self, now: float) -> float:
        return self.signals.load(now)

    def warm(self, work: Work, now: float) -> int:
        blocks = held(work.prefix, self._prefixes)
        if not blocks:
            return 0
        if not work.ends:
            return work.prompt * blocks // len(work.prefix)
        return min(work.prompt, work.prompt * work.ends[blocks - 1] // work.size)

    def given(self, now: float) -> float:
        return self._given * math.exp((self._given_at - now) / _SHARE_SECONDS)

    def restarted(self) -> None:
        """Nobody listens there: what was in the engine's cache is gone."""
        self._prefixes.clear()

    def usable(self, now: float) -> bool:
        return not self.draining and self.health.available(now)

    def took(self, work: Work, now: float) -> None:
        """Count a request in, and remember which prompt blocks it leaves in the engine's cache."""
        self.requests += 1
        self.signals.charged(work.prompt + work.output)
        self._given = self.given(now) + 1.0
        self._given_at = now
        known = self._prefixes
        for block in reversed(work.prefix):  # the shortest prefix is the last to be forgotten
            known[block] = None
            known.move_to_end(block)
        while len(known) > _PREFIXES:
            known.popitem(last=False)

    def state(self, now: float = 0.0) -> dict[str, Any]:
        """What the admin API shows; never a key."""
        return {
            "id": self.id,
            "url": self.url,
            "model": self.model,
            "weight": self.weight,
            "requests": self.requests,
            "failures": self.failures,
            "draining": self.draining,
            "load": round(self.pressure(now), 3),
            **self.signals.state(now),
            **self.health.state(now),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What clients may ask for."""

    name: str
    backends: tuple[Backend, ...]
    price_input: float  # dollars a token
    price_output: float
    strategy: RoutingStrategy | None = None  # None: the fleet's
    fallback: tuple[str, ...] = ()
    queue: Queue = field(default_factory=lambda: Queue(1024, 30.0))
    ttft: Histogram = field(default_factory=lambda: Histogram(0.001))  # seconds, of all its backends
    latency: Recent = field(default_factory=Recent)  # seconds, whole answers
    mirror: Backend | None = None  # gets copies; its answers are discarded
    mirror_share: float = 0.0
    _homes: "OrderedDict[int | str, Backend]" = field(default_factory=OrderedDict)
    _cursor: list[int] = field(default_factory=lambda: [0, 0])  # whose turn: to be looked at, to be doubted

    def some(self, count: int, work: Work) -> Sequence[Backend]:
        """`count` backends, each its turn, and the one that has the longest known prefix of this prompt."""
        start = self._cursor[0] % len(self.backends)
        self._cursor[0] = start + count
        few = self.backends[start : start + count]
        if len(few) < count:
            few += self.backends[: count - len(few)]
        home = self.home_of(work)
        return few if home is None or home in few else (*few, home)

    def relax(self, now: float) -> None:
        """At each choice one backend's turn to have old measurements doubted."""
        self._cursor[1] = (self._cursor[1] + 1) % len(self.backends)
        self.backends[self._cursor[1]].signals.relax(now)

    def home_of(self, work: Work) -> Backend | None:
        """Who has last read the longest known prefix of this prompt, or else this session."""
        if not work.prefix:
            return self._homes.get(work.session)
        blocks = held(work.prefix, self._homes)
        return self._homes[work.prefix[blocks - 1]] if blocks else None

    def home(self, work: Work, backend: Backend) -> None:
        """Remember who has read these blocks, or this session, last."""
        for block in reversed(work.prefix) if work.prefix else (work.session,) if work.session else ():
            self._homes[block] = backend
            self._homes.move_to_end(block)
        while len(self._homes) > _HOMES:
            self._homes.popitem(last=False)

    def cost(self, usage: Usage) -> float:
        """Dollars this many tokens take."""
        return usage.prompt * self.price_input + usage.completion * self.price_output

    def pressure(self, now: float) -> float:
        """Load factor of the pool: mean over its usable backends; waiting requests add to it."""
        usable = [b for b in self.backends if b.usable(now)]
        if not usable:
            return math.inf
        in_flight = sum(b.in_flight for b in usable)
        return sum(b.pressure(now) for b in usable) / len(usable) + len(self.queue) / max(1, in_flight)

    def waiting(self, now: float) -> float:
        """Requests that wait for each of its usable backends, here and, where they tell, inside them."""
        usable = [b for b in self.backends if b.usable(now)]
        reports = (b.signals.report for b in usable if now <= b.signals.fresh_until)
        inside = sum(report.waiting for report in reports if report is not None)
        return (len(self.queue) + inside) / max(1, len(usable))


class Fleet:
    """All models and their backends."""

    def __init__(
        self, models: Sequence[Model], strategy: RoutingStrategy, lengths: Lengths | None = None
    ) -> None:
        self._models = {model.name: model for model in models}
        self._strategy = strategy
        self.lengths = lengths or Lengths()
        self._unseen: list[tuple[float, int, Lease]] = []  # when an answer that is not streamed is prefilled
        self._leases = 0
        self._now = 0.0

    def replace(self, models: Sequence[Model]) -> None:
        """Adopt a new configuration: what stays keeps its counters and queue, requests in progress their lease."""
        known = {backend.id: backend for backend in self.backends}
        self._models = {
            model.name: _with_history(model, known, self._models.get(model.name)) for model in models
        }

    @property
    def models(self) -> list[Model]:
        return list(self._models.values())

    @property
    def backends(self) -> list[Backend]:
        return [backend for model in self._models.values() for backend in model.backends]

    @property
    def default(self) -> Model:
        """Who gets requests that name no model: the entry "*", or the first listed."""
        return self._models.get("*") or next(iter(self._models.values()))

    def find(self, name: str) -> Model | None:
        """The entry for a requested model, if any."""
        return self._models.get(name) or self._models.get("*")

    def model(self, name: str) -> Model:
        """The entry for a requested model; `"*"` takes what no entry lists.

        Raises:
            NotFound: in OpenAI's shape.
        """
        model = self.find(name)
        if model is None:
            raise NotFound(
                f"The model '{name}' does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        return model

    @property
    def latest(self) -> float:
        """The latest time anybody told it."""
        return self._now

    # ── a place ─────────────────────────────────────────────────────────────────────────────────────────

    def arrive(
        self,
        model: Model,
        work: Work,
        now: float,
        placed: Callable[["Lease"], None],
        refused: Callable[[GatewayError], None],
        tried: frozenset[str] = frozenset(),
    ) -> Ticket:
        """Ask for a place: `placed` is called with a lease, at once or when one frees; or `refused`, later.

        Raises:
            Overloaded: 503 "no_backend", nothing usable is untried; 429 "queue_full" or "deadline", with the
                seconds after which it is worth trying again.
        """
        self._now = now
        ticket = model.queue.ticket(work, now, placed, refused, tried)
        backend = self.choose(model, ticket, now) if not len(model.queue) else self._home(model, ticket, now)
        if backend is not None:
            placed(self._lease(model, backend, work, now))
            return ticket
        if not any(b.usable(now) and b.id not in tried for b in model.backends):
            raise _no_backend(model)
        model.queue.add(ticket, now)
        return ticket

    def lease(self, model: Model, work: Work, tried: set[str] | frozenset[str], now: float) -> "Lease":
        """A place at once, whether there is room or not.

        Raises:
            Overloaded: no backend is left.
        """
        usable = [b for b in model.backends if b.usable(now) and b.id not in tried]
        backend = (model.strategy or self._strategy).pick(usable, work, now)
        if backend is None:
            raise _no_backend(model)
        return self._lease(model, backend, work, now)

    def tick(self, now: float) -> None:
        """Let time pass: refuse whose wait is over, place whom there is room for. About ten times a second."""
        self._now = now
        self._assume(now)
        for model in self._models.values():
            for backend in model.backends:
                if backend.signals.fresh_until < now:
                    backend.signals.forget()
            if len(model.queue):
                model.queue.expire(now)
                self._release(model, now)
                self.serve(model, now)

    def _release(self, model: Model, now: float) -> None:
        """Who waits for backends that are all out is told, so that a fallback model can be asked."""
        usable = {b.id for b in model.backends if b.usable(now)}
        if len(usable) < len(model.backends):
            for ticket in model.queue.tickets():
                if ticket.waiting and usable <= ticket.tried:
                    model.queue.remove(ticket)
                    ticket.refused(_no_backend(model))

    def serve(self, model: Model, now: float, freed: Backend | None = None) -> None:
        """Place waiting requests, in the queue's order, while there is room: on one backend, or anywhere."""
        self._now = max(self._now, now)
        if not len(model.queue):
            return
        self._assume(now)
        aside: list[Ticket] = []
        while len(aside) < _ASIDE and (ticket := model.queue.next(now)) is not None:
            if freed is None:
                backend = self.choose(model, ticket, now)
            else:
                home = model.home_of(ticket.work) or freed
                open_to = _open((home, freed), ticket, now)
                backend = open_to[0] if open_to else None
            if backend is not None:
                model.queue.take(ticket, now)
                ticket.placed(self._lease(model, backend, ticket.work, now))
            elif ticket.tried:
                model.queue.remove(ticket)
                aside.append(ticket)
            else:
                break
        for ticket in aside:
            if any(b.usable(now) and b.id not in ticket.tried for b in model.backends):
                model.queue.enter(ticket)
            else:
                ticket.refused(_no_backend(model))

    def choose(self, model: Model, ticket: Ticket, now: float) -> Backend | None:
        """Of a large pool the next few in rotation are looked at, and where the prompt's blocks are; then all."""
        strategy = model.strategy or self._strategy
        model.relax(now)
        if 0 < strategy.reach < len(model.backends):
            chosen = _best(strategy, model.some(strategy.reach, ticket.work), ticket, now)
            if chosen is not None:
                return chosen
        return _best(strategy, model.backends, ticket, now)

    def _home(self, model: Model, ticket: Ticket, now: float) -> Backend | None:
        """A backend that has most of this prompt in its cache, and so loses little by taking it before others."""
        if not ticket.work.prefix:
            return None
        home = model.home_of(ticket.work)
        if home is None or 2 * home.warm(ticket.work, now) < ticket.work.prompt:
            return None
        return next(iter(_open((home,), ticket, now)), None)

    def _lease(self, model: Model, backend: Backend, work: Work, now: float) -> "Lease":
        lease = Lease(self, model, backend, work, now)
        if not work.stream:
            self._leases += 1
            s = backend.signals
            heapq.heappush(self._unseen, (now + s.backlog * s.per_prompt, self._leases, lease))
        return lease

    def _assume(self, now: float) -> None:
        """Whole answers show no first token: their prompts count as read when they should have been."""
        while self._unseen and self._unseen[0][0] <= now:
            heapq.heappop(self._unseen)[2].prefilled()


class Lease:
    """A request's place on a backend. `with` it over the whole body: it is given back however that ends."""

    __slots__ = (
        "_ahead", "_backlog", "_batch", "_fleet", "_left", "_model", "_open", "_resident", "_tokens",
        "backend", "first_at", "sent_at", "work",
    )  # fmt: skip

    def __init__(self, fleet: Fleet, model: Model, backend: Backend, work: Work, now: float) -> None:
        signals = backend.signals
        self._fleet, self._model, self.backend, self.work = fleet, model, backend, work
        self.sent_at = now
        self.first_at: float | None = None
        self._ahead = signals.backlog
        self._backlog = work.prompt - backend.warm(work, now) if work.prefix else work.prompt
        self._left = work.output
        self._resident = self._tokens = 0
        self._batch = 0
        self._open = True
        first = (signals.backlog + self._backlog) * signals.per_prompt
        if not work.stream:
            first = _PATIENT * (first + work.output * signals.pace.at(signals.in_flight + signals.others + 1))
        backend.expect(self, now + first)
        signals.sent(self._backlog, work.output)
        backend.took(work, now)
        model.home(work, backend)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *ended: object) -> None:
        self.release(self._fleet.latest)

    def prefilled(self) -> None:
        """The engine has read the prompt."""
        if self._open and self._backlog:
            self.backend.signals.prefilled(self._backlog, self.work.prompt)
            self._resident += self.work.prompt
            self._backlog = 0

    def first(self, now: float) -> None:
        """The first byte of the answer has come."""
        if self.first_at is not None or not self._open:
            return
        self.first_at = now
        self.backend.heard(self)
        signals = self.backend.signals
        self._batch = signals.in_flight + signals.others
        if self.work.stream:
            self._model.ttft.add(now - self.sent_at)
            signals.learn_first(self._backlog, self._ahead, self.sent_at, now)
        self.prefilled()
        self._fleet.serve(self._model, now, self.backend)

    def progress(self, tokens: int, now: float) -> None:
        """`tokens` of output have come so far."""
        more = tokens - self._tokens
        if more <= 0 or not self._open:
            return
        left = max(self.work.output - tokens, 0)
        self.backend.signals.streamed(more, self._left - left)
        self._tokens, self._left = tokens, left
        self._resident += more

    def done(self, now: float, status: int, prompt: int | None, output: int | None) -> None:
        """The answer is complete. Token counts as the engine reported them, None where it did not."""
        if not self._open:
            return
        signals = self.backend.signals
        tokens = output or self._tokens
        if self.first_at is not None and status < 400:
            began = self.first_at if self.work.stream else self.sent_at + self._backlog * signals.per_prompt
            signals.learn_decode(
                tokens - 1, now - began, (self._batch + signals.in_flight + signals.others) / 2, now
            )
            self._fleet.lengths.learn(self.work, prompt, output or self._tokens)
            self._model.latency.add(now - self.sent_at, now)
        signals.learn_end(failed=status >= 500)
        self.release(now)

    def failed(self, now: float, kind: Kind) -> None:
        """No answer, or not a whole one."""
        if not self._open:
            return
        signals = self.backend.signals
        if kind == "rejected":
            signals.rejected()
        if kind in ("refused", "timeout", "broken"):
            self.backend.failures += 1
        if kind not in ("cancelled", "rejected"):
            signals.learn_end(failed=True)
        self.release(now)

    def release(self, now: float) -> None:
        """Give back what is still held, and the room to whoever waits."""
        if self._open:
            self._open = False
            self.backend.heard(self)
            self.backend.signals.ended(self._backlog, self._resident, self._left)
            self._fleet.serve(self._model, now, self.backend)


def _best(
    strategy: RoutingStrategy, backends: Sequence[Backend], ticket: Ticket, now: float
) -> Backend | None:
    """The strategy's pick, unless one is due for its trial, which no strategy would give it."""
    available = _open(backends, ticket, now)
    for backend in available:
        if backend.health.ejected:
            return backend
    return strategy.pick(available, ticket.work, now)


def _open(backends: Sequence[Backend], ticket: Ticket, now: float) -> list[Backend]:
    """Those that may be used, have room for this work, and have not failed it before.

    The crowded only where none of ours is in progress: its end makes a better place than a queue among strangers.
    """
    work, tried = ticket.work, ticket.tried
    prompt = work.prompt
    found = [
        b
        for b in backends
        if b.signals.room >= prompt
        and b.health.throttled_until <= now
        and not b.draining
        and b.id not in tried
        and (not b.health.ejected or b.health.available(now))
        and (not b.signals.quotas or b.signals.granted_at(prompt + work.output, now) <= now)
    ]
    free = [b for b in found if not b.signals.crowded]
    return free if free or any(b.signals.in_flight for b in backends) else found


def _no_backend(model: Model) -> Overloaded:
    return Overloaded(f"No backend is available for the model '{model.name}'.", code="no_backend")


def _with_history(model: Model, known: dict[str, Backend], before: Model | None) -> Model:
    backends = []
    for fresh in model.backends:
        old = known.get(fresh.id)
        if old is not None and old.url == fresh.url:
            old.model, old.api_key, old.weight = fresh.model, fresh.api_key, fresh.weight
            old.price_input, old.price_output = fresh.price_input, fresh.price_output
            old.signals.ceiling = fresh.signals.ceiling
            old.region, old.metrics, old.api = fresh.region, fresh.metrics, fresh.api
            old.health.configure(fresh.health)
            old.stream_usage = old.stream_usage and fresh.stream_usage  # what it refused, it refuses still
            fresh = old
        backends.append(fresh)
    if before is None:
        return replace(model, backends=tuple(backends))
    return replace(
        model, backends=tuple(backends), queue=before.queue, ttft=before.ttft, latency=before.latency
    )
