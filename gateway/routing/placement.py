"""A request's place on a backend: had at once, or waited for, and given back by a client that leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.errors import GatewayError, Overloaded
from gateway.routing.fleet import Fleet, Lease, Model
from gateway.routing.standing import Standing
from gateway.routing.trip import Trip, give_back

_TICK_SECONDS = 0.1


class Placement:
    """Asks the fleet for places."""

    def __init__(self, fleet: Fleet, standing: Standing, clock: Callable[[], float]) -> None:
        self._fleet = fleet
        self._standing = standing
        self._clock = clock
        self._waiting = 0
        self._ticker: asyncio.Task[None] | None = None

    async def place(self, model: Model, trip: Trip) -> Lease:
        """A lease, after waiting for one if need be.

        Raises:
            Overloaded: no backend is left to ask, or none had room in time.
        """
        seat, now = _Seat(), self._clock()
        tried = self._standing.barred(trip, model, now)
        ticket = self._fleet.arrive(model, trip.work, now, seat.take, seat.refuse, tried)
        if seat.lease is None:
            async with self._ticking():
                try:
                    await seat.wait()
                except asyncio.CancelledError:
                    ticket.leave(self._clock())
                    if seat.lease is not None:
                        give_back(seat.lease, self._clock())
                    raise
        assert seat.lease is not None
        return seat.lease

    def at_once(self, model: Model, trip: Trip) -> Lease | None:
        """A lease where there is room for one more while nobody waits."""
        if len(model.queue):
            return None
        seat, now = _Seat(), self._clock()
        tried = self._standing.barred(trip, model, now)
        try:
            ticket = self._fleet.arrive(model, trip.work, now, seat.take, seat.refuse, tried)
        except Overloaded:
            return None
        if seat.lease is None:
            ticket.leave(now)
        return seat.lease

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

    def close(self) -> None:
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
