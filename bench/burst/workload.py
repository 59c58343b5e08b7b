"""What is asked before, during and after a burst: labelled questions whose partner is stored, among questions never seen.

Every labelled question is one of a pair, duplicate or not, in the ratio of the data, and used once. So a right
hit is a duplicate that hits, and a wrong one a non-duplicate that does. Lengths are a recorded trace's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from bench.fleet.arrivals import Arrival
from gateway.exchange import Entry

FAR = 1e12  # seconds: an entry's absolute end, beyond every TTL under test


@dataclass(frozen=True, slots=True)
class Look:
    """A look-up that finds a neighbour: what the index and the guard say of it, and what a human said."""

    entry: Entry  # the stored question; `created` counts from the look-up: minus its age
    label: tuple[str, float]  # the classifier's word on the question asked
    similarity: float
    agreed: bool  # the guard
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds, and rates in shares of the fleet's capacity."""

    before: float = 240.0
    burst: float = 300.0
    after: float = 600.0
    calm: float = 0.6
    peak: float = 5.0

    def name(self, at: float) -> str:
        return "before" if at < self.before else "burst" if at < self.before + self.burst else "after"

    def rates(self) -> list[tuple[float, float]]:
        """(seconds, share of capacity) of each phase."""
        return [(self.before, self.calm), (self.burst, self.peak), (self.after, self.calm)]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its arrival at the gateway, and the neighbour its question has in the cache, if any."""

    arrival: Arrival
    look: Look | None


def draw(
    looks: Sequence[Look], rows: Sequence[Arrival], capacity: float, phases: Phases, share: float, seed: int
) -> list[Asked]:
    """Poisson arrivals at `capacity` (requests a second) times each phase's rate, `share` of them labelled.

    Raises ValueError if there are fewer labelled questions than it takes.
    """
    rng = Random(seed)
    deck = list(looks)
    rng.shuffle(deck)
    asked: list[Asked] = []
    at = began = 0.0
    for seconds, rate in phases.rates():
        began += seconds
        while (at := at + rng.expovariate(rate * capacity)) < began:
            look = _next(deck) if rng.random() < share else None
            asked.append(Asked(replace(rng.choice(rows), at=at, blocks=()), look))
        at = began
    return asked


def _next(deck: list[Look]) -> Look:
    if not deck:
        raise ValueError("there are fewer labelled pairs than this burst asks for")
    return deck.pop()


def stored(number: int, category: str, age: float) -> Entry:
    """A stored answer of that age in seconds, seen from the moment it is looked up."""
    return Entry(
        number, b"", b"", "tenant", category, "m", "chat", "question", created=-age, expires=FAR, size=0, cost=0.0
    )  # fmt: skip
