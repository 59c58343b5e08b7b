"""Who is asked, and who next: a place, an attempt, retries before the first byte, fallback models, mirrors.

A refused connection, 429 and 503 are no error yet: the next backend is asked at once. Other failures are
retried within a budget. Nothing is asked twice once a byte of an answer is out, nor if its body can be read
only once, and a client's own fault is never retried.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from multidict import CIMultiDict

from gateway.errors import BadRequest, NotFound, Overloaded
from gateway.exchange import Exchange, Priority
from gateway.routing.asking import Asking
from gateway.routing.charge import charged
from gateway.routing.delivery import deliver
from gateway.routing.estimate import estimate
from gateway.routing.fleet import Fleet, Lease, Model
from gateway.routing.health import Kind
from gateway.routing.hedging import Hedging
from gateway.routing.mirror import Mirror
from gateway.routing.observed import Observe, told, unobserved
from gateway.routing.placement import Placement
from gateway.routing.standing import Standing
from gateway.routing.trip import Account, Attempt, Into, Prepare, Terms, Trip
from gateway.routing.upstream import Failed, Upstream

_FREE: frozenset[Kind] = frozenset(("refused", "rejected"))
_TRACE = ("traceparent", "tracestate")
_CREDENTIALS = ("Authorization", "api-key", "x-api-key", "Cookie", "OpenAI-Organization", "OpenAI-Project")


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
        observe: Observe = unobserved,
    ) -> None:
        self._fleet = fleet
        self._upstream = upstream
        self._terms = terms
        self._priority = priority
        self._clock = clock
        self._over = partial(told, observe)
        self._accounts: dict[str, Account] = {}
        self._standing = Standing(terms.own_credentials, clock)
        self._placement = Placement(fleet, self._standing, clock)
        self._asking = Asking(upstream, self._standing, terms.first_byte, clock)
        self.hedging = Hedging(self._asking, self._placement, self._standing, terms.hedge_share, clock)
        self.mirror = mirror
        self.retries: Counter[str] = Counter()  # by what went before
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
        if x.work is None:
            now = self._clock()
            x.work = estimate(x, model, self._fleet.lengths, self._priority, now, stream=not hold)
        trip = Trip(
            x, model, account, method, path, prepare, into, once, hold, x.work, self._clock, self._over
        )
        with charged(trip, self._fleet.model):
            await self._sent(trip)

    async def _sent(self, trip: Trip) -> None:
        """By the first model of the chain that answers, or else what the last one said."""
        refusal: Overloaded | None = None
        for asked in self._chain(trip):
            try:
                await self._ask(asked, trip)
                return
            except Overloaded as full:
                refusal = refusal or full
            except BadRequest:  # the request has no form in this model's API
                if asked is trip.model:
                    raise
            except Failed:
                break
        await self._give_up(trip, refusal)

    def _chain(self, trip: Trip) -> Iterator[Model]:
        """The model asked for, and its fallbacks that this tenant may be answered by."""
        yield trip.model
        allowed = trip.x.models
        for name in trip.model.fallback if not trip.once else ():
            if allowed is not None and name not in allowed:
                continue
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
            lease = await (self._paid_place(model, trip) if paid else self._placement.place(model, trip))
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
            return await self._placement.place(model, trip)
        except BaseException:
            budget.refund()
            raise

    async def _try(self, model: Model, trip: Trip, lease: Lease) -> None:
        """One try, which a hedge may make two attempts; from the first byte that is out there is no way back."""
        delay = self.hedging.delay(model, trip)
        attempt = await trip.attempt(model, lease)
        try:
            if delay is None:
                await self._asking.open(model, trip, attempt)
            else:
                attempt = await self.hedging.race(model, trip, attempt, delay)
            self._begin(model, trip, attempt)
            try:
                await deliver(attempt, trip.into)
            except Failed as failed:
                self._standing.failed(model, trip, attempt, failed)
                raise
        finally:
            attempt.end("cancelled")

    def _begin(self, model: Model, trip: Trip, attempt: Attempt) -> None:
        if model.mirror is not None and not trip.once:
            self._copy(model, trip)
        trip.begun = True
        into = trip.into
        into.backend, into.attempts = attempt.lease.backend.id, trip.attempts
        into.usage_added = attempt.sent.usage_added
        if model is not trip.model:
            into.fallback = model.name
            self.fallbacks[model.name] += 1

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
        listed = [b.health for b in model.backends if not b.draining]
        after = max(1, round(min((health.wait(now) for health in listed), default=0.0) + 0.5))
        if not any(not health.ejected and health.throttled_until > now for health in listed):
            message, code = f"No backend is available for the model '{model.name}'.", "no_backend"
            return Overloaded(message, code=code, headers={"Retry-After": str(after)})
        message, code = f"Every backend of the model '{model.name}' is over its limits.", "throttled"
        error = Overloaded(message, code=code, headers={"Retry-After": str(after)})
        error.status, error.type = 429, "rate_limit_error"
        return error

    def _copy(self, model: Model, trip: Trip) -> None:
        """Once an answer has begun to come, so that the copy is behind the request it copies."""
        backend = model.mirror
        assert backend is not None

        async def copy() -> None:
            sent = await trip.sent(model, backend, None)
            for name in _TRACE:  # a copy is no part of what its caller waits for
                sent.headers.popall(name, None)
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
        self._placement.close()
