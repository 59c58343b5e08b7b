"""One request on its way through the backends, and one backend's part of it; what its model may spend on it.

Nouns only: who is asked, and what an outcome means, is decided in the rooms that are handed them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from gateway.exchange import Exchange, Work
from gateway.routing.budget import Budget
from gateway.routing.fleet import Backend, Lease, Model
from gateway.routing.health import Kind
from gateway.routing.upstream import Failed, Incoming, Sent

FLOOR = 20.0  # retries of a model before its requests have earned any
_FEWEST = 20  # answers before a quantile of their time means anything
_LARGE = 64 << 10  # bytes of a body that are not written anew on the event loop
_RENEWED = 16  # answers after which it is looked for again

Prepare = Callable[[Model, Backend], Sent]


@dataclass(frozen=True, slots=True)
class Terms:
    """What dispatching takes from the configuration."""

    retry_share: float = 0.2
    first_byte: float = 600.0  # seconds
    hedge_share: float = 0.0
    hedge_quantile: float = 0.95
    own_credentials: Callable[[], bool] = lambda: False  # clients bring their own keys to the backends


class Into(Protocol):
    """Where an answer goes: a Call."""

    status: int  # 0: nothing has come
    backend: str
    fallback: str
    attempts: int
    usage_added: bool
    spent: tuple[int | None, int | None]

    def begin(self, status: int, headers: Any) -> None: ...

    async def feed(self, chunk: bytes) -> None: ...


class Latencies:
    """The times to first byte of late, and a quantile of them; sorted anew every few answers, not each."""

    __slots__ = ("_due", "_quantile", "_recent", "value")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._recent: deque[float] = deque(maxlen=256)
        self._due = _FEWEST
        self.value: float | None = None  # seconds; None while too few are known

    def add(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._due -= 1
        if self._due <= 0:
            ordered = sorted(self._recent)
            self.value = ordered[min(int(self._quantile * len(ordered)), len(ordered) - 1)]
            self._due = _RENEWED


class Account:
    """What a model may spend beyond its requests, and how fast its first bytes come."""

    def __init__(self, terms: Terms) -> None:
        self.retries = Budget(terms.retry_share, FLOOR)
        self.hedges = Budget(terms.hedge_share, 0.0)
        self.streams = Latencies(terms.hedge_quantile)
        self.wholes = Latencies(terms.hedge_quantile)  # an answer in one piece has its first byte at its end


class Outcome(NamedTuple):
    """How an attempt ended, for those who count."""

    status: int  # 0: there was none
    error: str  # empty: the answer came to its end
    prompt: int | None = None  # tokens, as the engine reported them
    output: int | None = None


Over = Callable[["Attempt", Outcome], None]


class Attempt:
    """One backend being asked: its lease, what it was sent and what comes back."""

    __slots__ = ("_over", "_tell", "incoming", "lease", "now", "sent", "span", "sse", "started")

    def __init__(self, lease: Lease, sent: Sent, clock: Callable[[], float], span: Any, over: "Over") -> None:
        self.lease = lease
        self.sent = sent
        self.span = span  # its part of the request's trace, where there is one
        self._tell = over
        self.incoming: Incoming | None = None
        self.sse = False
        self.started = clock()
        self.now = clock
        self._over = False

    def end(self, kind: Kind) -> None:
        """Give everything back; the first word about how it ended counts."""
        if self._over:
            return
        self._over = True
        status = 0
        if self.incoming is not None:
            status = self.incoming.status
            self.incoming.close()
        self._tell(self, Outcome(status, kind))
        if kind == "cancelled":
            give_back(self.lease, self.now())
        else:
            self.lease.failed(self.now(), kind)

    def done(self, status: int, prompt: int | None, output: int | None) -> None:
        """The answer came to its end; token counts as the engine reported them."""
        self._over = True
        now = self.now()
        self._tell(self, Outcome(status, "", prompt, output))
        self.lease.backend.health.succeeded(now)
        self.lease.done(now, status, prompt, output)


@dataclass(slots=True)
class Trip:
    """One request on its way through the backends."""

    x: Exchange
    model: Model  # the one asked for
    account: Account
    method: str
    path: str
    prepare: Prepare
    into: Into
    once: bool  # the body can be read only once
    hold: int
    work: Work
    clock: Callable[[], float]
    over: Callable[[Exchange, Model, Attempt, Outcome], None]  # told once of each attempt
    tried: set[str] = field(default_factory=set)
    attempts: int = 0
    last: Failed | None = None
    begun: bool = False  # something is out to the caller
    forgiven: bool = False  # a kept connection that was closed just as it was reused

    @property
    def latencies(self) -> Latencies:
        return self.account.wholes if self.hold else self.account.streams

    async def attempt(self, model: Model, lease: Lease) -> Attempt:
        """One more, at the backend of this lease."""
        span = None if self.x.trace is None else self.x.trace.attempt(self.attempts + 1)
        try:
            sent = await self.sent(model, lease.backend, span)
        except BaseException:
            give_back(lease, self.clock())
            raise
        self.attempts += 1
        self.tried.add(lease.backend.id)
        return Attempt(lease, sent, self.clock, span, partial(self.over, self.x, model))

    async def sent(self, model: Model, backend: Backend, span: Any) -> Sent:
        """What a backend is sent, its place in the trace included."""
        request = self.x.request
        if request is not None and len(request.raw) > _LARGE:  # to be translated, perhaps
            sent = await asyncio.to_thread(self.prepare, model, backend)
        else:
            sent = self.prepare(model, backend)
        if span is not None:
            span.tell(sent.headers)
        if self.x.grant is not None:
            sent.headers["Accept-Encoding"] = "identity"  # what it costs is read from its end
        return sent


def give_back(lease: Lease, now: float) -> None:
    """Nothing was sent, or nobody waits for the answer: the backend's standing stays as it was."""
    lease.failed(now, "cancelled")
    lease.backend.health.failed("cancelled", now)
