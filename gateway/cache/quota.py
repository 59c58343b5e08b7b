"""How much each category may keep: a guaranteed share in bytes, idle space lent, taken back when needed.

Decides which entries must go; never touches store or index itself.

The category-aware paper names quotas and an eviction score (arXiv 2510.26835, score = priority × hit
rate / age) without an algorithm. Ours: while the whole cache has room, anyone may use it; when it has not,
the category furthest over its guarantee gives up its least valuable entries.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping

from gateway.exchange import Entry

# Redis-style sampling: the worst of a sample is close to the worst of all, at constant cost.
_SAMPLE = 32


def value(entry: Entry, priority: float, now: float) -> float:
    """What keeping this entry is worth: expected saving per second and byte, weighted by priority.

    The hit rate is smoothed by one prior hit over an hour, so that a new entry is neither worthless nor
    priceless. Cost is dollars saved a hit; free models still count, by a floor.
    """
    age, cost, size = now - entry.created, entry.cost, entry.size  # each is read once: it is unpacked
    hit_rate = (entry.hits + 1.0) / ((age if age > 0.0 else 0.0) + 3600.0)
    return priority * hit_rate * (cost if cost > 1e-6 else 1e-6) / (size or 1)


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
        self.entries: dict[int, Entry] = {}  # all that is charged, by id; changed here alone
        self._bytes: defaultdict[str, int] = defaultdict(int)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._ids: defaultdict[str, list[int]] = defaultdict(
            list
        )  # by category, to sample from; up to half may be gone
        self._rng = rng or random.Random()

    def govern(self, guarantees: Mapping[str, int], priority: Callable[[str], float]) -> None:
        """Adopt a new policy book's quotas; nothing is evicted until space is asked for."""
        self._guarantees = guarantees
        self._priority = priority

    def bytes_of(self, category: str) -> int:
        return self._bytes.get(category, 0)

    def count_of(self, category: str) -> int:
        return self._counts.get(category, 0)

    def guarantee_of(self, category: str) -> int:
        return self._guarantees.get(category, 0)

    def categories(self) -> list[str]:
        return [name for name, count in self._counts.items() if count]

    def charge(self, entry: Entry) -> None:
        category, size = entry.category, entry.size
        self.entries[entry.id] = entry
        self._ids[category].append(entry.id)
        self._counts[category] += 1
        self._bytes[category] += size
        self.used += size

    def refund(self, entry: Entry) -> None:
        category, size = entry.category, entry.size
        del self.entries[entry.id]
        self._counts[category] -= 1
        self._bytes[category] -= size
        self.used -= size
        ids = self._ids[category]
        if len(ids) > 2 * self._counts[category] + _SAMPLE:
            self._ids[category] = [id for id in ids if id in self.entries]

    def over(self) -> bool:
        return self.used > self.capacity

    def victim(self, now: float, *, spare: int | None = None) -> Entry | None:
        """The entry to evict next: the least valuable of the category furthest over its guarantee.

        `spare` is an id that is not chosen while its category has any other entry.
        """
        category = max(self.categories(), key=self._excess, default=None)
        if category is None:
            return None
        ids = self._ids[category]
        some = ids if len(ids) <= 4 * _SAMPLE else self._rng.choices(ids, k=_SAMPLE)
        weight = self._priority(category)
        live = self._live(some) or self._live(ids)
        others = [entry for entry in live if entry.id != spare]
        return min(others or live, key=lambda entry: value(entry, weight, now))

    def _live(self, ids: list[int]) -> list[Entry]:
        return [entry for id in ids if (entry := self.entries.get(id)) is not None]

    def _excess(self, category: str) -> float:
        """Bytes over the guarantee, relative to it: who borrowed most pays first."""
        guarantee = self.guarantee_of(category)
        return (self.bytes_of(category) - guarantee) / max(guarantee, 1)
