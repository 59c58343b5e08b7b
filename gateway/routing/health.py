"""Whether a backend may be asked: outlier ejection, half-open trials, and pauses that it asked for itself.

`Health` decides from what requests and probes met, with the caller's clock and no I/O. `Prober` looks at ejected
backends beside the traffic. Neither counts a client's mistake, and a refusal for load is not a failure.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, Protocol

_JITTER = random.Random()
Kind = Literal["refused", "rejected", "timeout", "broken", "server_error", "cancelled"]
Sight = Literal["alive", "ill", "dead"]  # a probe's answer: below 500, 5xx, none

_DOUBLINGS = 10.0  # ejections grow to this many times the first
_SHORTEST, _LONGEST = 0.05, 2.0  # seconds left alone after a refusal that names no time, doubled each time


class Health:
    """One backend's standing. Times are seconds of the caller's clock.

    Healthy, until `failures` in a row eject it. Then it gets no request before `trial_at`, and from there on one
    at a time (half-open): the first that is answered readmits it, a failure ejects it for twice as long. A probe
    that is answered brings the trial forward to now, so recovery takes one probe interval; one that finds nobody
    there puts it off, so that no client waits for a backend that hangs.

    Args:
        failures: in a row, that eject.
        seconds: the first ejection.
    """

    __slots__ = ("_in_a_row", "_limit", "_seconds", "_trial", "_trial_at", "ejected", "ejections", "failures", "refusals",
                 "throttled_until")  # fmt: skip

    def __init__(self, *, failures: int = 5, seconds: float = 10.0) -> None:
        self._limit = failures
        self._seconds = seconds
        self._in_a_row = 0  # ejections without a success between them
        self._trial_at = 0.0
        self._trial = False  # one is on its way
        self.failures = 0  # in a row
        self.refusals = 0  # in a row
        self.ejected = False
        self.ejections = 0
        self.throttled_until = 0.0

    def configure(self, fresh: "Health") -> None:
        """Adopt another's settings; what is known of the backend stays."""
        self._limit, self._seconds = fresh._limit, fresh._seconds

    def available(self, now: float) -> bool:
        """Whether it is well enough for a request; while `throttled_until`, requests wait for it."""
        return not self.ejected or (now >= self._trial_at and not self._trial)

    def placed(self) -> None:
        """It was given a request: if half-open, that is the trial."""
        if self.ejected:
            self._trial = True

    def succeeded(self, now: float) -> None:
        """It answered: with anything that is not its own failure."""
        self.failures = self.refusals = self._in_a_row = 0
        self.ejected = self._trial = False

    def failed(self, kind: Kind, now: float, *, eject: bool = True) -> None:
        """A request met a failure. `eject`: whether this failure may take it out."""
        trial, self._trial = self._trial, False
        if kind == "cancelled":
            return
        if kind == "rejected":
            self.refusals += 1
            return
        if self.ejected:
            if trial:  # else it was sent before the ejection, and tells nothing new
                self._eject(now)
            return
        self.failures += 1
        if eject and self.failures >= self._limit:
            self.ejections += 1
            self._eject(now)

    def throttle(self, seconds: float | None, now: float) -> None:
        """Leave it alone for so long; None: it refused without saying."""
        if seconds is None:
            seconds = min(_SHORTEST * 2.0 ** min(max(self.refusals - 1, 0), 10), _LONGEST)
        self.throttled_until = max(self.throttled_until, now + seconds)

    def seen(self, sight: Sight, now: float, again: float) -> None:
        """A probe came back; the next one comes within `again` seconds."""
        if not self.ejected or self._trial:
            return
        if sight == "alive":
            self._trial_at = now
        elif sight == "dead":
            self._trial_at = max(self._trial_at, now + 2 * again)

    def reset(self) -> None:
        """An operator says it is well."""
        self.succeeded(0.0)
        self.throttled_until = 0.0

    def wait(self, now: float) -> float:
        """Seconds until it may be asked again; 0 if it may be now."""
        return max(self.throttled_until - now, self._trial_at - now if self.ejected else 0.0, 0.0)

    def state(self, now: float) -> dict[str, Any]:
        """What the admin API shows."""
        word = "healthy"
        if self.ejected:
            word = "half-open" if now >= self._trial_at else "ejected"
        elif self.throttled_until > now:
            word = "throttled"
        return {
            "health": word,
            "failures_in_a_row": self.failures,
            "ejections": self.ejections,
            "available_in_seconds": round(self.wait(now), 3),
        }

    def _eject(self, now: float) -> None:
        self.ejected = True
        self._trial_at = now + self._seconds * min(2.0**self._in_a_row, _DOUBLINGS)
        self._in_a_row += 1


class Patient(Protocol):
    """What the prober needs of a backend."""

    id: str
    health: Health


class Prober:
    """Looks at every ejected backend each interval, all at once, and tells its Health what it saw.

    Args:
        ask: one look at a backend; bounded in time by the prober.
    """

    def __init__(
        self,
        backends: Callable[[], Iterable[Any]],
        ask: Callable[[Any], Awaitable[Sight]],
        *,
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._backends = backends
        self._ask = ask
        self._seconds = seconds
        self._clock = clock
        self.probes = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._seconds * _JITTER.uniform(0.8, 1.0))
            await self.round()

    async def round(self) -> None:
        """One look at each ejected backend."""
        await asyncio.gather(*(self._look(b) for b in self._backends() if b.health.ejected))

    async def _look(self, backend: Any) -> None:
        self.probes += 1
        try:
            async with asyncio.timeout(min(self._seconds / 2, 5.0)):
                sight = await self._ask(backend)
        except TimeoutError:
            sight = "dead"
        backend.health.seen(sight, self._clock(), self._seconds)
