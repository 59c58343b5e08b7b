"""Who is asked, and who next: placement, retries before the first byte, hedges, fallback models, mirrors.

A refused connection, 429 and 503 are no error yet: the next backend is asked at once. Other failures are
retried within a budget. Nothing is asked twice once a byte of an answer is out, nor if its body can be read
only once, and a client's own fault is never retried nor held against a backend.
"""

import asyncio
import logging
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from multidict import CIMultiDict

from gateway.errors import GatewayError, NotFound, Overloaded
from gateway.exchange import Exchange, Priority, Work
from gateway.routing import ratelimits
from gateway.routing.budget import Budget
from gateway.routing.fleet import Backend, Fleet, Lease, Model
from gateway.routing.health import Kind
from gateway.routing.mirror import Mirror
from gateway.routing.upstream import Failed, Incoming, Sent, Upstream, late

log = logging.getLogger("gateway.routing")
_PRIORITIES: dict[str, Priority] = {name: name for name in ("interactive", "standard", "batch")}
_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_PATIENCE = 2.0  # seconds; a shorter pause is waited out, a longer one is told at once
_REFUSALS = frozenset((429, 503))
_ERRORS = frozenset((500, 502, 504))
_FREE: frozenset[Kind] = frozenset(("refused", "rejected"))
_HELD = 64 << 10  # bytes; a longer refusal or error is passed on as it comes
_FLOOR = 20.0  # retries of a model before its requests have earned any
_TICK_SECONDS = 0.1
_FEWEST = 20  # answers before a quantile of their time means anything
_DENIALS = 10_000  # (client, backend) pairs remembered
_CREDENTIALS = ("Authorization", "api-key", "x-api-key", "Cookie", "OpenAI-Organization", "OpenAI-Project")

_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')
_TAIL = 4096  # bytes at an answer's end in which its usage stands

Prepare = Callable[[Model, Backend], Sent]


class Into(Protocol):
    """Where an answer goes: a Call."""

    backend: str
    fallback: str
    attempts: int
    usage_added: bool

    def begin(self, status: int, headers: Any) -> None: ...

    async def feed(self, chunk: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What dispatching takes from the configuration."""

    retry_share: float = 0.2
    first_byte: float = 600.0  # seconds
    hedge_share: float = 0.0
    hedge_quantile: float = 0.95
    own_credentials: Callable[[], bool] = lambda: False  # clients bring their own keys to the backends


class Latencies:
    """The times to first byte of late, and a quantile of them; sorted anew every few answers, not each."""

    __slots__ = ("_due", "_known", "_quantile", "_recent")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._recent: deque[float] = deque(maxlen=256)
        self._known: float | None = None
        self._due = _FEWEST

    def add(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._due -= 1
        if self._due <= 0:
            ordered = sorted(self._recent)
            self._known = ordered[min(int(self._quantile * len(ordered)), len(ordered) - 1)]
            self._due = 16

    @property
    def value(self) -> float | None:
        """Seconds, or None while too few are known."""
        return self._known


class Account:
    """What a model may spend beyond its requests, and how fast its first bytes come."""

    def __init__(self, terms: Terms) -> None:
        self.retries = Budget(terms.retry_share, _FLOOR)
        self.hedges = Budget(terms.hedge_share, 0.0)
        self.streams = Latencies(terms.hedge_quantile)
        self.wholes = Latencies(terms.hedge_quantile)  # an answer in one piece has its first byte at its end


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
    once: bool
    hold: int
    work: Work
    tried: set[str] = field(default_factory=set)
    attempts: int = 0
    last: Failed | None = None
    begun: bool = False  # something is out to the caller
    forgiven: bool = False  # a kept connection that was closed just as it was reused


class Attempt:
    """One backend being asked: its lease, what it was sent and what comes back."""

    __slots__ = ("_clock", "_over", "incoming", "lease", "sent", "started")

    def __init__(self, lease: Lease, sent: Sent, clock: Callable[[], float]) -> None:
        self.lease = lease
        self.sent = sent
        self.incoming: Incoming | None = None
        self.started = clock()
        self._clock = clock
        self._over = False

    def end(self, kind: Kind) -> None:
        """Give everything back; the first word about how it ended counts."""
        if self._over:
            return
        self._over = True
        now = self._clock()
        if self.incoming is not None:
            self.incoming.close()
        self.lease.failed(now, kind)
        if kind == "cancelled":
            self.lease.backend.health.failed(kind, now)

    def done(self, status: int, prompt: int | None, output: int | None) -> None:
        self._over = True
        self.lease.done(self._clock(), status, prompt, output)


class Dispatch:
    """Sends requests to the backends of a model until one answers. Counters are plain; others publish them."""

    def __init__(
        self,
        fleet: Fleet,
        upstream: Upstream,
        terms: Terms,
        mirror: Mirror,
        priority: Callable[[str], Priority] = lambda tenant: "standard",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._terms = terms
        self._priority = priority
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._denied: dict[tuple[str, str], float] = {}  # (tenant, backend) → until when
        self._paused_until = 0.0  # the latest pause that is not waited out
        self._waiting = 0
        self._ticker: asyncio.Task[None] | None = None
        self.mirror = mirror
        self.retries: Counter[str] = Counter()  # by what went before
        self.hedges_sent = 0
        self.hedges_won = 0
        self.fallbacks: Counter[str] = Counter()  # by the model that answered
        self.refusals: Counter[str] = Counter()  # requests that found no place, by code
        self.fetch_json = upstream.fetch_json

    def account(self, model: str) -> Account:
        found = self._accounts.get(model)
        if found is None:
            found = self._accounts[model] = Account(self._terms)
        return found

    async def send(
        self,
        x: Exchange,
        model: Model,
        method: str,
        path: str,
        *,
        prepare: Prepare,
        into: Into,
        once: bool = False,
        hold: int = 0,
    ) -> None:
        """Get an answer from one of the model's backends, or of its fallbacks', `into` a Call.

        Args:
            path: below the base URL, with its query, raw, such as `/chat/completions`.
            prepare: what a given backend of a given model is sent.
            once: the body can be read only once, so there is no second try.
            hold: an answer up to this many bytes is begun only when it is whole, so that one that breaks off
                can still be had from elsewhere; 0 for streams.

        Raises:
            GatewayError: nobody answered, or the answer broke off.
        """
        account = self.account(model.name)
        account.retries.earn()
        account.hedges.earn()
        x.work = work = x.work or self._estimate(x, model, hold)
        trip = Trip(x, model, account, method, path, prepare, into, once, hold, work)
        refusal: Overloaded | None = None
        for asked in self._chain(model, once):
            try:
                await self._ask(asked, trip)
                return
            except Overloaded as full:
                refusal = refusal or full
            except Failed:
                break
        await self._give_up(trip, refusal)

    def _estimate(self, x: Exchange, model: Model, hold: int) -> Work:
        """What the request will cost, from its size and from what such requests have cost before."""
        request, lengths = x.request, self._fleet.lengths
        category = x.ruling.category if x.ruling else ""
        size = len(request.raw) if request else 0
        bound = (
            next((v for n in _BOUNDS if type(v := request.fields.get(n)) is int), None) if request else None
        )
        within = _seconds(x.headers.get("x-gateway-deadline", ""))
        return Work(
            prompt=lengths.prompt(model.name, size) if size else 0,
            output=1
            if request is None or request.endpoint == "embeddings"
            else lengths.output(model.name, category, bound),
            model=model.name,
            category=category,
            tenant=x.tenant,
            priority=_PRIORITIES.get(x.headers.get("x-gateway-priority", "")) or self._priority(x.tenant),
            deadline=None if within is None else self._clock() + within,
            session=x.headers.get("x-gateway-session", "")[:200],
            size=size,
            stream=not hold,
        )

    def _chain(self, model: Model, once: bool) -> Iterator[Model]:
        yield model
        for name in model.fallback if not once else ():
            try:
                yield self._fleet.model(name)
            except NotFound:  # gone with a reload
                continue

    async def _ask(self, model: Model, trip: Trip) -> None:
        """Ask one backend of a model after the other.

        Raises:
            Overloaded: none is left, or none had room.
            Failed: another try is not allowed; `trip.last` is what came of it.
        """
        while True:
            before = trip.last
            paid = before is not None and before.kind not in _FREE
            if before is not None and (trip.once or (paid and not trip.account.retries.covers())):
                raise before
            lease = await self._paid_place(model, trip) if paid else await self._place(model, trip)
            if before is not None:
                self.retries[before.kind] += 1
            try:
                await self._try(model, trip, lease)
                return
            except Failed as failed:
                trip.last = failed
                if trip.begun:
                    raise failed.error from failed

    async def _paid_place(self, model: Model, trip: Trip) -> Lease:
        """A lease on the budget: paid before the wait, as others look at the same budget meanwhile."""
        budget = trip.account.retries
        budget.spend()
        try:
            return await self._place(model, trip)
        except BaseException:
            budget.refund()
            raise

    async def _place(self, model: Model, trip: Trip) -> Lease:
        """A lease, after waiting for one if need be; a client that leaves gives its place back."""
        seat = _Seat()
        now = self._clock()
        tried = self._barred(trip, model, now)
        ticket = self._fleet.arrive(model, trip.work, now, seat.take, seat.refuse, tried)
        if seat.lease is None:
            async with self._ticking():
                try:
                    await seat.wait()
                except asyncio.CancelledError:
                    ticket.leave(self._clock())
                    if seat.lease is not None:
                        self._give_back(seat.lease)
                    raise
        assert seat.lease is not None
        return seat.lease

    def _give_back(self, lease: Lease) -> None:
        """Nothing was sent, or nobody waits for the answer: the backend's standing stays as it was."""
        now = self._clock()
        lease.failed(now, "cancelled")
        lease.backend.health.failed("cancelled", now)

    def _barred(self, trip: Trip, model: Model, now: float) -> frozenset[str]:
        """Whom not to ask: who was asked already, who wants to be left alone for long, and who refused this very
        client's key, as long as others are left."""
        barred = trip.tried
        if now < self._paused_until:
            barred = barred | {b.id for b in model.backends if b.health.throttled_until > now + _PATIENCE}
        if self._denied:
            denied = barred | {
                b.id for b in model.backends if self._denied.get((trip.x.tenant, b.id), 0.0) > now
            }
            if any(b.id not in denied and b.usable(now) for b in model.backends):
                barred = denied
        return frozenset(barred)

    @asynccontextmanager
    async def _ticking(self) -> AsyncIterator[None]:
        """While anybody waits, deadlines are looked at."""
        self._waiting += 1
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            yield
        finally:
            self._waiting -= 1

    async def _tick(self) -> None:
        while self._waiting:
            await asyncio.sleep(_TICK_SECONDS)
            self._fleet.tick(self._clock())

    # ── one try, which a hedge may make two attempts ────────────────────────────────────────────────────

    async def _try(self, model: Model, trip: Trip, lease: Lease) -> None:
        delay = self._hedge_delay(model, trip)
        attempt = self._attempt(model, trip, lease)
        try:
            if delay is None:
                await self._open(model, trip, attempt)
            else:
                attempt = await self._race(model, trip, attempt, delay)
            await self._deliver(model, trip, attempt)
        finally:
            attempt.end("cancelled")

    def _attempt(self, model: Model, trip: Trip, lease: Lease) -> Attempt:
        try:
            sent = trip.prepare(model, lease.backend)
        except BaseException:
            self._give_back(lease)
            raise
        trip.attempts += 1
        trip.tried.add(lease.backend.id)
        return Attempt(lease, sent, self._clock)

    async def _open(self, model: Model, trip: Trip, attempt: Attempt) -> None:
        """Wait for the first byte of an answer worth passing on.

        Raises:
            Failed: there was none; the backend's standing is told.
        """
        backend = attempt.lease.backend
        try:
            incoming = attempt.incoming = await self._first(trip, attempt)
            if incoming.status in (400, 422) and attempt.sent.usage_added:
                incoming = attempt.incoming = await self._unasked(model, trip, attempt, incoming)
            await self._judge(incoming, backend)
        except Failed as failed:
            self._failed(model, trip, attempt, failed)
            raise
        now = self._clock()
        if backend.health.ejected:  # the trial: nobody else need wait for its last byte
            backend.health.succeeded(now)
        if (seconds := ratelimits.exhausted(incoming.headers)) is not None:
            self._throttle(trip, backend, seconds, now)
        attempt.lease.first(now)
        self._latencies(trip).add(now - attempt.started)

    async def _first(self, trip: Trip, attempt: Attempt) -> Incoming:
        try:
            async with asyncio.timeout(self._terms.first_byte):
                return await self._upstream.open(
                    attempt.lease.backend, trip.method, trip.path, attempt.sent, once=trip.once
                )
        except TimeoutError as error:
            raise Failed("timeout", late(attempt.lease.backend)) from error

    async def _judge(self, incoming: Incoming, backend: Backend) -> None:
        """Hold back a refusal or an error until it is known whether anybody else answers."""
        refused = incoming.status in _REFUSALS
        if (refused or incoming.status in _ERRORS) and await incoming.hold(_HELD):
            message = f"The backend '{backend.id}' answered {incoming.status}."
            raise Failed("rejected" if refused else "server_error", GatewayError(message), held=incoming)

    async def _unasked(self, model: Model, trip: Trip, attempt: Attempt, incoming: Incoming) -> Incoming:
        """An engine that does not know the option the gateway added is asked again without it."""
        await incoming.hold(_HELD)
        body = b"".join(incoming.chunks)
        if b"stream_options" not in body and b"include_usage" not in body:
            return incoming
        incoming.close()
        backend = attempt.lease.backend
        backend.stream_usage = False
        attempt.sent = trip.prepare(model, backend)
        return await self._first(trip, attempt)

    def _failed(self, model: Model, trip: Trip, attempt: Attempt, failed: Failed) -> None:
        backend, now = attempt.lease.backend, self._clock()
        if failed.stale and not trip.forgiven:
            # A kept connection may have been closed by the engine just as it was reused: that says nothing
            # about the engine, so the same one may be asked once more.
            trip.forgiven = True
            trip.tried.discard(backend.id)
            attempt.end("cancelled")
            return
        attempt.end(failed.kind)
        ejections = backend.health.ejections
        backend.health.failed(failed.kind, now, eject=self._may_eject(model, backend, failed.kind, now))
        if backend.health.ejections > ejections:
            log.warning("backend ejected", extra={"fields": {"backend": backend.id, "kind": failed.kind}})
        if failed.kind == "rejected":
            said = None if failed.held is None else ratelimits.pause(failed.held.headers)
            self._throttle(trip, backend, said, now, failed.held)

    def _may_eject(self, model: Model, backend: Backend, kind: Kind, now: float) -> bool:
        """Whether failures may take this backend out.

        The last one of a model is kept for errors it answers with: they may be one request's fault, and its own
        words beat ours. One that cannot be reached is let go, so that nobody waits for it; a probe brings it back.
        """
        if kind != "server_error" or model.fallback:
            return True
        return any(b is not backend and not b.draining and not b.health.ejected for b in model.backends)

    def _throttle(
        self, trip: Trip, backend: Backend, seconds: float | None, now: float, held: Incoming | None = None
    ) -> None:
        """Leave a backend alone: for everybody, or for the client whose own key was refused."""
        personal = self._terms.own_credentials() and not backend.api_key
        if not personal or (held is not None and held.status == 503):
            backend.health.throttle(seconds, now)
            if backend.health.throttled_until > now + _PATIENCE:
                self._paused_until = max(self._paused_until, backend.health.throttled_until)
        elif seconds is not None:
            if len(self._denied) >= _DENIALS:
                self._denied.pop(next(iter(self._denied)))
            self._denied[trip.x.tenant, backend.id] = now + seconds

    # ── hedging ─────────────────────────────────────────────────────────────────────────────────────────

    def _latencies(self, trip: Trip) -> Latencies:
        return trip.account.wholes if trip.hold else trip.account.streams

    def _hedge_delay(self, model: Model, trip: Trip) -> float | None:
        """Seconds after which a second backend is asked as well; None: not at all."""
        if not self._terms.hedge_share or trip.once or len(model.backends) < 2:
            return None
        return self._latencies(trip).value

    async def _race(self, model: Model, trip: Trip, attempt: Attempt, delay: float) -> Attempt:
        """The attempt whose first byte comes first; the other is cancelled.

        Raises:
            Failed: both failed.
        """
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(self._open(model, trip, attempt)): attempt}
        second: Attempt | None = None
        try:
            done, _ = await asyncio.wait(tasks, timeout=delay)
            if not done:
                second = self._hedge(model, trip)
                if second is not None:
                    tasks[loop.create_task(self._open(model, trip, second))] = second
            winner = await _first_good(tasks)
        except BaseException:
            await _cancel(tasks)
            raise
        if winner is second:
            self.hedges_won += 1
            self._latencies(trip).add(self._clock() - attempt.started)  # it would have been longer still
        await _cancel({task: one for task, one in tasks.items() if one is not winner})
        return winner

    def _hedge(self, model: Model, trip: Trip) -> Attempt | None:
        """A second attempt elsewhere, if the budgets and a free backend allow it at once."""
        account, seat, now = trip.account, _Seat(), self._clock()
        if len(model.queue) or not account.hedges.covers() or not account.retries.covers(reserve=_FLOOR):
            return None
        try:
            tried = self._barred(trip, model, now)
            ticket = self._fleet.arrive(model, trip.work, now, seat.take, seat.refuse, tried)
        except Overloaded:
            return None
        if seat.lease is None:
            ticket.leave(now)
            return None
        account.hedges.spend()
        account.retries.spend()
        self.hedges_sent += 1
        return self._attempt(model, trip, seat.lease)

    # ── the answer ──────────────────────────────────────────────────────────────────────────────────────

    async def _deliver(self, model: Model, trip: Trip, attempt: Attempt) -> None:
        """Pass the answer on; from the first byte that is out, there is no way back."""
        incoming, into = attempt.incoming, trip.into
        assert incoming is not None
        self._copy(model, trip)
        sse = incoming.headers.get("Content-Type", "").startswith("text/event-stream")
        try:
            if trip.hold and not sse and not incoming.ended:
                await self._whole(trip, attempt, incoming)
            self._begin(model, trip, attempt, incoming)
            tail = b"".join(incoming.chunks[-2:])
            for chunk in incoming.chunks:
                await into.feed(chunk)
            events = sum(chunk.count(b"\n\n") for chunk in incoming.chunks) if sse else 0
            while not incoming.ended:
                chunk = await incoming.read()
                tail = chunk if len(chunk) > _TAIL else tail[-_TAIL:] + chunk
                await into.feed(chunk)
                if sse:
                    events += chunk.count(b"\n\n")
                    attempt.lease.progress(events, self._clock())
        except Failed as failed:
            self._failed(model, trip, attempt, failed)
            raise
        prompt, output = _spent(tail)
        attempt.lease.backend.health.succeeded(self._clock())
        attempt.done(incoming.status, prompt, output if output is not None else events or None)

    async def _whole(self, trip: Trip, attempt: Attempt, incoming: Incoming) -> None:
        """Nothing is out to the caller yet, so the time to the first byte covers this as well."""
        left = attempt.started + self._terms.first_byte - self._clock()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await incoming.hold(trip.hold)
        except TimeoutError as error:
            raise Failed("timeout", late(incoming.backend)) from error

    def _begin(self, model: Model, trip: Trip, attempt: Attempt, incoming: Incoming) -> None:
        trip.begun = True
        into = trip.into
        into.backend, into.attempts = attempt.lease.backend.id, trip.attempts
        into.usage_added = attempt.sent.usage_added
        if model is not trip.model:
            into.fallback = model.name
            self.fallbacks[model.name] += 1
        into.begin(incoming.status, incoming.headers)

    async def _give_up(self, trip: Trip, refusal: Overloaded | None) -> None:
        """Tell the caller what the last engine said, unchanged, or why nobody could be asked."""
        last, into = trip.last, trip.into
        if last is None:
            assert refusal is not None
            if refusal.code == "no_backend":
                refusal = self._nobody(trip.model)
            self.refusals[refusal.code or "overloaded"] += 1
            raise refusal
        again = {"x-should-retry": "false"} if trip.attempts > 1 else {}
        if last.held is None:
            last.error.headers = {**last.error.headers, **again}
            raise last.error from last
        into.backend, into.attempts = last.held.backend.id, trip.attempts
        headers = CIMultiDict(last.held.headers)
        headers.update(again)
        into.begin(last.held.status, headers)
        for chunk in last.held.chunks:
            await into.feed(chunk)

    def _nobody(self, model: Model) -> Overloaded:
        """No backend of a model can be asked: how long it will be, and whether that is for load (429) or not."""
        now = self._clock()
        waits = [b.health.wait(now) for b in model.backends if not b.draining]
        after = {"Retry-After": str(max(1, round(min(waits, default=0.0) + 0.5)))}
        if any(
            not b.health.ejected and b.health.throttled_until > now for b in model.backends if not b.draining
        ):
            error = Overloaded(
                f"Every backend of the model '{model.name}' is over its limits.",
                code="throttled",
                headers=after,
            )
            error.status, error.type = 429, "rate_limit_error"
            return error
        return Overloaded(
            f"No backend is available for the model '{model.name}'.", code="no_backend", headers=after
        )

    # ── mirrors ─────────────────────────────────────────────────────────────────────────────────────────

    def _copy(self, model: Model, trip: Trip) -> None:
        """Once an answer has begun to come, so that the copy is behind the request it copies."""
        backend = model.mirror
        if backend is None or trip.once:
            return

        async def copy() -> None:
            sent = trip.prepare(model, backend)
            if not backend.api_key:
                for name in _CREDENTIALS:
                    sent.headers.popall(name, None)
            async with asyncio.timeout(self._terms.first_byte):
                incoming = await self._upstream.open(backend, trip.method, trip.path, sent, once=False)
                try:
                    incoming.chunks.clear()
                    while not incoming.ended:
                        await incoming.read()
                finally:
                    incoming.close()

        self.mirror.maybe(model.mirror_share, copy)

    async def close(self) -> None:
        """Give up what goes on beside requests."""
        await self.mirror.close()
        if self._ticker is not None:
            self._ticker.cancel()


class _Seat:
    """Where a lease is put down, now or later."""

    __slots__ = ("_waiter", "lease")

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self._waiter: asyncio.Future[None] | None = None

    def take(self, lease: Lease) -> None:
        self.lease = lease
        lease.backend.health.placed()  # now: the next request may be placed before the waiting one runs
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def refuse(self, error: GatewayError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    async def wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


def _spent(tail: bytes) -> tuple[int | None, int | None]:
    """Prompt and output tokens as the engine reported them at the end of its answer."""
    prompt, output = (
        _PROMPT.search(tail, max(len(tail) - _TAIL, 0)),
        _OUTPUT.search(tail, max(len(tail) - _TAIL, 0)),
    )
    return (int(prompt[1]) if prompt else None), (int(output[1]) if output else None)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 86400 else None


async def _first_good(tasks: dict["asyncio.Task[None]", Attempt]) -> Attempt:
    """The attempt that opened first; if all fail, the last failure."""
    pending = set(tasks)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is None:
                return tasks[task]
            if not pending or not isinstance(error, Failed):
                raise error


async def _cancel(tasks: dict["asyncio.Task[None]", Attempt]) -> None:
    """Stop the losers and give back what they held."""
    for task in tasks:
        if not task.done():
            task.cancel()
        elif not task.cancelled():
            task.exception()  # seen: it lost, or failed, and that is told already
    await asyncio.gather(*(task for task in tasks if not task.done()), return_exceptions=True)
    for attempt in tasks.values():
        attempt.end("cancelled")
