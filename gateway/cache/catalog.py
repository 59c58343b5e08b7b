"""What the cache holds, in memory: entries by fingerprint and id, their lifetimes, their bytes.

Plain synchronous state of the event loop. It knows neither documents, nor vectors, nor the store: those
who remove entries are told which ids went, and forget them elsewhere.
"""

import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from gateway.cache.lifetimes import Lifetimes
from gateway.cache.quota import Ledger
from gateway.exchange import Entry

_WORDS = 4096  # different tenants, models, partitions and the like that are shared at any time
Word = TypeVar("Word", str, bytes)


class Catalog:
    """Entries that can be served now. Several variants may share one exact fingerprint."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.time) -> None:
        self.ledger = ledger
        self._clock = clock
        self._by_id = ledger.entries
        self._by_exact: dict[bytes, Entry | list[Entry]] = {}
        self._expiry = Lifetimes()
        self._same = lru_cache(_WORDS)(_itself)
        self.expired = 0
        self.evicted: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def entries(self) -> list[Entry]:
        """All entries, in the order they came; a copy, safe to remove from while walking it."""
        return list(self._by_id.values())

    def get(self, id: int) -> Entry | None:
        """The entry under this id, expired or not."""
        return self._by_id.get(id)

    def exact(self, fingerprint: bytes) -> list[Entry]:
        """The unexpired variants stored for one whole request."""
        found = self._by_exact.get(fingerprint)
        if found is None:
            return []
        now = self._clock()
        if isinstance(found, list):
            return [e for e in found if e.expires > now]
        return [found] if found.expires > now else []

    def add(self, entry: Entry, variants: int = 1, *, evict: bool = True) -> list[Entry]:
        """Admit an entry; returns those that had to go for it: replaced, or (if it may `evict`) by quota.

        Of more than `variants` answers to one request the newest stay, whatever the order in which they come:
        replicas that get each other's answers must agree. So it may be the new one that goes.
        """
        self.remove(entry.id)
        gone: list[Entry] = []
        same = sorted(self._variants(entry.exact), key=_age)
        while len(same) >= max(variants, 1):
            oldest = same.pop(0)
            if _age(oldest) > _age(entry):
                return [*gone, entry]
            self.remove(oldest.id)
            gone.append(oldest)
        self._share_words(entry)
        self._by_exact[entry.exact] = entry if not same else [*same, entry]
        self._expiry.add(entry)
        self.ledger.charge(entry)
        return gone + self.make_room(entry.id) if evict else gone

    def remove(self, id: int) -> Entry | None:
        """Forget an entry; unknown ids give None."""
        entry = self._by_id.get(id)
        if entry is None:
            return None
        rest = [e for e in self._variants(entry.exact) if e.id != id]
        if rest:
            self._by_exact[entry.exact] = rest[0] if len(rest) == 1 else rest
        else:
            self._by_exact.pop(entry.exact, None)
        self.ledger.refund(entry)
        return entry

    def sweep(self, limit: int = 1000) -> list[Entry]:
        """Remove up to `limit` entries whose time has passed."""
        gone = self._expiry.due(self._clock(), self._by_id, limit)
        for entry in gone:
            self.remove(entry.id)
        self.expired += len(gone)
        return gone

    def _share_words(self, entry: Entry) -> None:
        """Each entry comes with copies of a few words of its own: half as much again as all the rest."""
        same = self._same
        entry.partition, entry.tenant = same(entry.partition), same(entry.tenant)
        entry.category, entry.model = same(entry.category), same(entry.model)

    def _variants(self, fingerprint: bytes) -> list[Entry]:
        found = self._by_exact.get(fingerprint)
        if found is None:
            return []
        return list(found) if isinstance(found, list) else [found]

    def make_room(self, newcomer: int = -1) -> list[Entry]:
        """Evict what is too much, the newcomer last."""
        gone: list[Entry] = []
        while self.ledger.over():
            victim = self.ledger.victim(self._clock(), spare=newcomer)
            if victim is None:
                break
            self.remove(victim.id)
            self.evicted[victim.category] = self.evicted.get(victim.category, 0) + 1
            gone.append(victim)
        if len(self._expiry) > 2 * len(self._by_id) + 1000:
            self._expiry = Lifetimes(self._by_id.values())
        return gone


def _age(entry: Entry) -> tuple[float, int]:
    return entry.created, entry.id


def _itself(word: Word) -> Word:
    return word


def random_id() -> int:
    """A 63-bit id that tells nothing about what it names."""
    return random.SystemRandom().getrandbits(63)
