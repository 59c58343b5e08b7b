"""A copy of some requests for a backend on trial: its answers are read and discarded.

It never delays the request it copies, never fails it, and never hands on a client's credentials; what comes
beyond its bound is counted and dropped.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

log = logging.getLogger("gateway.routing")
_AT_ONCE = 16
_RANDOM = random.Random()


class Mirror:
    """Copies in progress, bounded.

    Args:
        draw: a number in [0, 1), to decide whom to copy.
    """

    def __init__(self, draw: Callable[[], float] = _RANDOM.random, *, at_once: int = _AT_ONCE) -> None:
        self._draw = draw
        self._at_once = at_once
        self._running: set[asyncio.Task[None]] = set()
        self.sent = 0
        self.failed = 0
        self.dropped = 0  # too many were in progress

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def counts(self) -> dict[str, int]:
        """Copies by outcome."""
        return {"sent": self.sent, "failed": self.failed, "dropped": self.dropped}

    def maybe(self, share: float, copy: Callable[[], Awaitable[None]]) -> None:
        """Start a copy for this share of calls; returns at once."""
        if self._draw() >= share:
            return
        if len(self._running) >= self._at_once:
            self.dropped += 1
            return
        self.sent += 1
        task = asyncio.get_running_loop().create_task(self._run(copy))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, copy: Callable[[], Awaitable[None]]) -> None:
        try:
            await copy()
        except Exception as error:
            self.failed += 1
            log.debug("a mirrored request failed: %s", error)

    async def close(self) -> None:
        """Give up what is in progress."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
