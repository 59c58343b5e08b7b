"""How much each category may keep: a guaranteed share in bytes, idle space lent, taken back when needed.

Decides which entries must go; never touches store or index itself.

The category-aware paper names quotas and an eviction score (arXiv 2510.26835, score = priority × hit
rate / age) without an algorithm. Ours: while the whole cache has room, anyone may use it; when it has not,
the category furthest over its guarantee gives up its least valuable entries.
"""

import random
from collections.abc import Callable, Mapping

from gateway.exchange import Entry

# Redis-style sampling: the worst of a sample is close to the worst of all, at constant cost.
_SAMPLE = 32


def value(entry: Entry, priority: float, now: float) -> float:
    """What keeping this entry is worth: expected saving per second and byte, weighted by priority.

    The hit rate is smoothed by one prior hit over an hour, so that a new entry is neither worthless nor
    priceless. Cost is dollars saved a hit; free models still count, by a floor.
    """
    age = max(now - entry.created, 0.0)
    hit_rate = (entry.hits + 1.0) / (age + 3600.0)
    return priority * hit_rate * max(entry.cost, 1e-6) / max(entry.size, 1)


class Ledger:
    """Bytes and entries per category, and the choice of victims.

    Args:
        capacity: bytes all categories may use together.
        guarantees: category → guaranteed bytes; their sum is at most `capacity`.
        priority: category → weight in the eviction score.
    """

    def __init__(
        self,
        capacity: int,
        guarantees: Mapping[str, int],
        priority: Callable[[str], float],
        rng: random.Random | None = None,
    ) -> None:
        self.capacity = capacity
        self.used = 0
        self._guarantees = guarantees
        self._priority = priority
        self._bytes: dict[str, int] = {}
        self._entries: dict[str, list[Entry]] = {}
        self._place: dict[int, int] = {}  # entry id → position in its category's list
        self._rng = rng or random.Random()

    def govern(self, guarantees: Mapping[str, int], priority: Callable[[str], float]) -> None:
        """Adopt a new policy book's quotas; nothing is evicted until space is asked for."""
        self._guarantees = guarantees
        self._priority = priority

    def bytes_of(self, category: str) -> int:
        return self._bytes.get(category, 0)

    def count_of(self, category: str) -> int:
        return len(self._entries.get(category, ()))

    def guarantee_of(self, category: str) -> int:
        return self._guarantees.get(category, 0)

    def categories(self) -> list[str]:
        return [name for name, entries in self._entries.items() if entries]

    def charge(self, entry: Entry) -> None:
        entries = self._entries.setdefault(entry.category, [])
        self._place[entry.id] = len(entries)
        entries.append(entry)
        self._bytes[entry.category] = self.bytes_of(entry.category) + entry.size
        self.used += entry.size

    def refund(self, entry: Entry) -> None:
        entries = self._entries[entry.category]
        place, last = self._place.pop(entry.id), entries.pop()
        if last is not entry:
            entries[place] = last
            self._place[last.id] = place
        self._bytes[entry.category] -= entry.size
        self.used -= entry.size

    def over(self) -> bool:
        return self.used > self.capacity

    def victim(self, now: float, *, spare: int | None = None) -> Entry | None:
        """The entry to evict next: the least valuable of the category furthest over its guarantee.

        `spare` is an id that is not chosen while its category has any other entry.
        """
        category = max(self.categories(), key=self._excess, default=None)
        if category is None:
            return None
        entries = self._entries[category]
        sample = entries if len(entries) <= _SAMPLE else self._rng.sample(entries, _SAMPLE)
        weight = self._priority(category)
        return min(sample, key=lambda e: (e.id == spare, value(e, weight, now)))

    def _excess(self, category: str) -> float:
        """Bytes over the guarantee, relative to it: who borrowed most pays first."""
        guarantee = self.guarantee_of(category)
        return (self.bytes_of(category) - guarantee) / max(guarantee, 1)
