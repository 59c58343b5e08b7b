"""Which backend takes a request. Pure choices over what is available; no I/O, no clock, no state of a request."""

from collections.abc import Sequence

from gateway.exchange import Work
from gateway.interfaces import B


class LeastInFlight:
    """The backend with the fewest requests in progress per unit of weight; the first listed wins ties."""

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        return min(available, key=lambda b: b.in_flight / b.weight, default=None)


class Rotation:
    """Each backend in its turn, blind to load: the reference that better strategies are measured against."""

    def __init__(self) -> None:
        self._next = 0

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        if not available:
            return None
        self._next = (self._next + 1) % len(available)
        return available[self._next]
