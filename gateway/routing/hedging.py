"""A second backend beside one that is slower than usual: whoever is first answers, the other is cancelled.

Within a share of the model's requests and its retry budget, never after a byte has come, and never at the
expense of a request that waits for a place.
"""

import asyncio
from collections.abc import Callable

from gateway.routing.asking import Asking
from gateway.routing.fleet import Model
from gateway.routing.placement import Placement
from gateway.routing.standing import Standing
from gateway.routing.trip import FLOOR, Attempt, Trip
from gateway.routing.upstream import Failed


class Hedging:
    """Counters are plain; others publish them."""

    def __init__(
        self,
        asking: Asking,
        placement: Placement,
        standing: Standing,
        share: float,
        clock: Callable[[], float],
    ) -> None:
        self._asking = asking
        self._placement = placement
        self._standing = standing
        self._share = share
        self._clock = clock
        self.sent = 0
        self.won = 0

    def delay(self, model: Model, trip: Trip) -> float | None:
        """Seconds after which a second backend is asked as well; None: not at all."""
        if not self._share or trip.once or len(model.backends) < 2:
            return None
        return trip.latencies.value

    async def race(self, model: Model, trip: Trip, first: Attempt, delay: float) -> Attempt:
        """The attempt that opens first, with a second one after `delay` seconds; the other is cancelled.

        Raises:
            Failed: both failed.
        """
        opening = self._open(model, trip, first)
        tasks = {opening: first}
        second: Attempt | None = None
        try:
            done, _ = await asyncio.wait(tasks, timeout=delay)
            if not done and first.incoming is None:
                second = await self._second(model, trip)
                if second is not None:
                    tasks[self._open(model, trip, second)] = second
            winner = await _first_good(tasks)
        except BaseException:
            await _cancel(tasks)
            raise
        if winner is second:
            self.won += 1
            if first.incoming is None and not opening.done():
                trip.latencies.add(self._clock() - first.started)  # it would have been longer still
                self._standing.overtaken(model, first)
        await _cancel({task: one for task, one in tasks.items() if one is not winner})
        return winner

    def _open(self, model: Model, trip: Trip, attempt: Attempt) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(self._asking.open(model, trip, attempt))

    async def _second(self, model: Model, trip: Trip) -> Attempt | None:
        """A second attempt elsewhere, if the budgets and a free backend allow it at once."""
        account = trip.account
        if not account.hedges.covers() or not account.retries.covers(reserve=FLOOR):
            return None
        lease = self._placement.at_once(model, trip)
        if lease is None:
            return None
        account.hedges.spend()
        account.retries.spend()
        self.sent += 1
        return await trip.attempt(model, lease)


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
