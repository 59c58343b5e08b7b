"""Which backend takes a request. Pure choices over what is available; no I/O, no clock, no state of a request.

Unequal weights are held against what each backend was given of late, so that a canary gets its share at any
load; equal weights leave everything to load.
"""

from collections.abc import Callable, Sequence
from random import Random
from zlib import crc32

from gateway.exchange import Work
from gateway.interfaces import B, RoutingStrategy

_REACH = 24  # the best of so many is nearly the best of all, and gateways that choose alike do not stampede
_YIELD = 0.8  # load factor beyond which affinity looks elsewhere
_SLOWER = 2.0  # how much longer than the best a backend may take before affinity gives way


class LeastCompletion:
    """The backend where this work is expected to be complete first."""

    reach = _REACH

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        return _least(available, lambda b: b.expected(work, now), now)


class TwoChoices:
    """The better of two drawn at random: nearly as good as the best of all, and it does not stampede."""

    reach = _REACH

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        if len(available) > 2:
            available = self._rng.sample(available, 2)
        return _least(available, lambda b: b.expected(work, now), now)


class LeastInFlight:
    """The backend with the fewest requests in progress; the first listed wins ties."""

    reach = 0

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        return _least(available, lambda b: b.in_flight + 1.0, now)


class LowestCost:
    """The cheapest backend for this work; among equally cheap ones the quickest. Full ones are not available."""

    reach = 0

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        if not available:
            return None
        cheapest = min(b.price(work) for b in available)
        return _least(
            [b for b in available if b.price(work) <= cheapest], lambda b: b.expected(work, now), now
        )


class Affinity:
    """A session, or a prompt's leading blocks, return to the engine that has them cached, until it is loaded.

    Without a trace of either, a session is mapped by rendezvous hashing, which moves only what it must when
    backends come and go.
    """

    reach = _REACH

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        quickest = _least(available, lambda b: b.expected(work, now), now)
        if quickest is None:
            return None
        home = max(available, key=lambda b: b.warm(work, now))
        if not home.warm(work, now):
            if not work.session:
                return quickest
            home = max(available, key=lambda b: crc32(f"{work.session} {b.id}".encode()))
        loaded = home.pressure(now) > max(_YIELD, quickest.pressure(now))
        slow = home.expected(work, now) > _SLOWER * quickest.expected(work, now)
        return quickest if loaded and slow else home


class Weighted:
    """At random in proportion to weight, blind to load."""

    reach = 0

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        if not available:
            return None
        return self._rng.choices(available, [b.weight for b in available])[0]


class Rotation:
    """Each backend in its turn, blind to load: a reference that better strategies are measured against."""

    reach = 0

    def __init__(self) -> None:
        self._next = 0

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        if not available:
            return None
        self._next = (self._next + 1) % len(available)
        return available[self._next]


class Uniform:
    """Any backend with the same chance, blind to load: the other reference."""

    reach = 0

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None:
        return self._rng.choice(available) if available else None


def strategy(name: str, rng: Random) -> RoutingStrategy:
    """The strategy of this configured name.

    Raises:
        KeyError: there is none.
    """
    makers: dict[str, Callable[[], RoutingStrategy]] = {
        "least-completion": LeastCompletion,
        "two-choices": lambda: TwoChoices(rng),
        "least-in-flight": LeastInFlight,
        "weighted": lambda: Weighted(rng),
        "lowest-cost": LowestCost,
        "affinity": Affinity,
        "rotation": Rotation,
        "random": lambda: Uniform(rng),
    }
    return makers[name]()


def _least(available: Sequence[B], score: Callable[[B], float], now: float) -> B | None:
    """The lowest score; where weights differ, each score counts as often as its backend is over its share."""
    if len(available) < 2:
        return available[0] if available else None
    weight = available[0].weight
    if all(b.weight == weight for b in available):
        return min(available, key=score)
    return min(available, key=lambda b: score(b) * (b.given(now) + 1.0) / b.weight)
