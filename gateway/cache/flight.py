"""Single-flight: identical requests in progress share one decision and one upstream call.

The first is the leader; the others wait for what it gets, and read a live stream from its beginning.
A flight stays open until the answer is in the cache, so that nobody falls between the two. It decides
only who waits for whom; what is called, and how, is the leader's business.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gateway.errors import BackendUnreachable, GatewayError
from gateway.exchange import Reuse

log = logging.getLogger("gateway.flight")


class Call:
    """One upstream call in progress, with its bytes so far and any number of readers.

    The call runs in a task of its own, so that it outlives the reader who started it as long as somebody
    else reads, and is cancelled when nobody does. The first `keep` bytes are retained, for followers and for
    the cache; beyond that the call takes no more followers and runs no faster than its slowest reader.

    Args:
        run: receives this call; sets the head with `begin`, feeds bytes, returns at the end of the body.
        keep: bytes retained from the beginning.
        after: runs when the body is complete, before the flight is closed (storing the answer).
    """

    def __init__(
        self,
        run: Callable[["Call"], Awaitable[None]],
        keep: int,
        after: Callable[["Call"], Awaitable[None]] | None = None,
    ) -> None:
        self.status = 0
        self.headers: Any = None
        self.backend = ""
        self.fallback = ""  # the model that answered in place of the one asked for
        self.attempts = 0  # backends asked, hedges included
        self.entry: Any = None  # the entry this answer will be stored under, or None
        self.origin: Any = None  # the trace of the request that began it
        self.usage_added = False  # the gateway asked for a usage chunk that the caller did not
        self.spent: tuple[int | None, int | None] = (
            None,
            None,
        )  # prompt and output tokens, if told at the end
        self.complete = False  # the whole body arrived
        self.error: BaseException | None = None
        self.abandoned = False  # nobody reads it: it is being cancelled
        self.size = 0
        self._keep = keep
        self._chunks: list[bytes] = []
        self._dropped = 0  # chunks no longer retained
        self._positions: dict[object, int] = {}
        self._wakeups: set[asyncio.Future[None]] = set()
        self._room: asyncio.Future[None] | None = None
        self._over = False  # no byte will follow
        self._after = after
        self.task = asyncio.get_running_loop().create_task(self._run(run))

    @property
    def whole(self) -> bytes | None:
        """The body from its beginning, or None where it was too long to keep."""
        return None if self._dropped or self.size > self._keep else b"".join(self._chunks)

    @property
    def joinable(self) -> bool:
        kept = not self._dropped and self.size <= self._keep
        return kept and self.error is None and not self.abandoned and not self.fallback

    def begin(self, status: int, headers: Any) -> None:
        """The upstream's status and headers are here."""
        self.status, self.headers = status, headers
        self._wake()

    async def feed(self, chunk: bytes) -> None:
        """Pass bytes on; waits while they are beyond what is kept and a reader lags."""
        self._chunks.append(chunk)
        self.size += len(chunk)
        self._wake()
        while self.size > self._keep and self._lagging():
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def subscribe(self) -> "Reader":
        """A reader from the first byte. It must `leave`, or the call never learns that nobody reads."""
        return Reader(self)

    def _lagging(self) -> bool:
        """Drop what every reader has seen; tell whether anyone still has bytes to take."""
        slowest = min(self._positions.values(), default=self._dropped + len(self._chunks))
        seen = slowest - self._dropped
        if seen > 0:
            del self._chunks[:seen]
            self._dropped = slowest
        return bool(self._chunks) and bool(self._positions)

    def _free_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _change(self) -> None:
        """Wait until there is more to be read."""
        wakeup = asyncio.get_running_loop().create_future()
        self._wakeups.add(wakeup)
        try:
            await wakeup
        finally:
            self._wakeups.discard(wakeup)

    def _wake(self) -> None:
        for future in self._wakeups:
            if not future.done():
                future.set_result(None)
        self._wakeups.clear()

    async def _run(self, run: Callable[["Call"], Awaitable[None]]) -> None:
        try:
            await run(self)
            self.complete = True
        except asyncio.CancelledError:
            self.error = BackendUnreachable("The call was given up because nobody waits for it.")
            raise
        except GatewayError as error:
            self.error = error
        except Exception as error:
            log.exception("a call failed inside the gateway")
            self.error = error
        finally:
            self._over = True
            self._wake()
        if self.complete and self._after is not None:
            try:
                await self._after(self)
            except Exception:
                log.exception("what follows an answer failed")


class Reader:
    """One reader's place in a call. When the last one leaves, an unfinished call is cancelled."""

    def __init__(self, call: Call) -> None:
        self._call = call
        call._positions[self] = 0

    def leave(self) -> None:
        """Give the place back; to be called however reading ended, once or more."""
        call = self._call
        call._positions.pop(self, None)
        call._free_room()
        if not call._positions and not call._over:
            call.abandoned = True
            call.task.cancel()

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            GatewayError: the call failed before its first byte.
        """
        call = self._call
        while call.status == 0 and not call._over:
            await call._change()
        if call.status == 0 and call.error is not None:
            raise _translate(call.error)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body from its beginning, as it arrives.

        Raises:
            GatewayError: the body broke off.
        """
        call = self._call
        while True:
            place = call._positions[self] - call._dropped
            if place < len(call._chunks):
                call._positions[self] += 1
                call._free_room()
                yield call._chunks[place]
            elif call._over:
                if call.error is not None:
                    raise _translate(call.error)
                return
            else:
                await call._change()

    async def body(self) -> bytes:
        """The whole body at once; for answers short enough to be kept."""
        return b"".join([chunk async for chunk in self.chunks()])


class Flight:
    """Identical requests in progress; `landed` gives what the leader got: a Call, a Reuse, or None (it left)."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.landed: asyncio.Future[Call | Reuse | None] = asyncio.get_running_loop().create_future()

    def land(self, outcome: Call | Reuse | None) -> None:
        if not self.landed.done():
            self.landed.set_result(outcome)


class Flights:
    """The table of flights, by fingerprint and caller's controls."""

    def __init__(self) -> None:
        self._open: dict[Any, Flight] = {}

    def __len__(self) -> int:
        return len(self._open)

    def find(self, key: Any) -> Flight | None:
        """The flight to join, unless its stream has grown too long to be read from the beginning."""
        flight = self._open.get(key)
        if flight is None or not flight.landed.done():
            return flight
        outcome = flight.landed.result()
        return flight if not isinstance(outcome, Call) or outcome.joinable else None

    def open(self, key: Any) -> Flight:
        """Become the leader; replaces a flight that could not be joined."""
        flight = self._open[key] = Flight(key)
        return flight

    def close(self, flight: Flight) -> None:
        """Nobody joins from here on. A leader that never landed has left."""
        flight.land(None)
        if self._open.get(flight.key) is flight:
            del self._open[flight.key]


def _translate(error: BaseException) -> GatewayError:
    return error if isinstance(error, GatewayError) else BackendUnreachable("The backend call failed.")
