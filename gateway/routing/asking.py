"""Asking one backend: up to the first byte of an answer worth passing on, and of a whole answer up to its end.

A refusal or an error is held back here, as another backend may answer; whether one is asked, `dispatch` decides.
"""

import asyncio
from collections.abc import Callable

from gateway.errors import GatewayError
from gateway.routing.fleet import Model
from gateway.routing.standing import Standing
from gateway.routing.trip import Attempt, Trip
from gateway.routing.upstream import Failed, Incoming, Upstream, late

_REFUSALS = frozenset((429, 503, 529))  # 529: Anthropic's word for overloaded
_ERRORS = frozenset((500, 502, 504))
_HELD = 64 << 10  # bytes; a longer refusal or error is passed on as it comes


class Asking:
    """One attempt over HTTP, within a time.

    Args:
        first_byte: seconds to the first byte of a stream, or to the end of an answer that is held.
    """

    def __init__(
        self, upstream: Upstream, standing: Standing, first_byte: float, clock: Callable[[], float]
    ) -> None:
        self._upstream = upstream
        self._standing = standing
        self._first_byte = first_byte
        self._clock = clock

    async def open(self, model: Model, trip: Trip, attempt: Attempt) -> None:
        """Wait until there is something to pass on: `attempt.incoming`.

        Raises:
            Failed: there was nothing; the backend's standing is told.
        """
        try:
            await self._in_time(model, trip, attempt)
        except Failed as failed:
            self._standing.failed(model, trip, attempt, failed)
            raise

    async def _in_time(self, model: Model, trip: Trip, attempt: Attempt) -> None:
        backend = attempt.lease.backend
        try:
            async with asyncio.timeout(self._first_byte):
                incoming = await self._answer(model, trip, attempt)
                self._standing.answering(trip, attempt, incoming.headers)
                now = self._clock()
                attempt.lease.first(now)
                trip.latencies.add(now - attempt.started)
                attempt.sse = incoming.headers.get("Content-Type", "").startswith("text/event-stream")
                if trip.hold and not incoming.ended and not attempt.sse:
                    await incoming.hold(trip.hold)
        except TimeoutError as error:
            raise Failed("timeout", late(backend)) from error

    async def _answer(self, model: Model, trip: Trip, attempt: Attempt) -> Incoming:
        """The first piece of an answer that is not the backend's refusal or own failure."""
        incoming = attempt.incoming = await self._ask(trip, attempt)
        if incoming.status < 400:
            return incoming
        if incoming.status in (400, 422) and attempt.sent.usage_added:
            incoming = attempt.incoming = await self._unasked(model, trip, attempt, incoming)
        refused = incoming.status in _REFUSALS
        if (refused or incoming.status in _ERRORS) and await incoming.hold(_HELD):
            message = f"The backend '{attempt.lease.backend.id}' answered {incoming.status}."
            raise Failed("rejected" if refused else "server_error", GatewayError(message), held=incoming)
        return incoming

    async def _ask(self, trip: Trip, attempt: Attempt) -> Incoming:
        return await self._upstream.open(
            attempt.lease.backend, trip.method, trip.path, attempt.sent, once=trip.once
        )

    async def _unasked(self, model: Model, trip: Trip, attempt: Attempt, incoming: Incoming) -> Incoming:
        """An engine that does not know the option the gateway added is asked again without it."""
        await incoming.hold(_HELD)
        body = b"".join(incoming.chunks)
        if b"stream_options" not in body and b"include_usage" not in body:
            return incoming
        incoming.close()
        backend = attempt.lease.backend
        backend.stream_usage = False
        attempt.sent = await trip.sent(model, backend, attempt.span)
        return await self._ask(trip, attempt)
