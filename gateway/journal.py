"""What gateways on one store learn of semantic hits, told to each other: appended, never overwritten.

Each adds a record of what it alone has seen since its last; all take up all of them, once each. Now and then one
sums up, so that a start reads little and the rest can go. It must never lose what one has judged, nor count it twice.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from gateway.errors import StoreError
from gateway.trust.room import Trust

_KIND, _SUM = "trust", "state"
_COVERED = 1000  # keys that a sum names, the latest: those that are still there, or may be new to somebody
_DUE = (
    64  # records that the store has not taken yet; with more, what is learned stays where it is until it does
)


class Shelf(Protocol):
    """The part of the store that keeps small records. Raises StoreError, nothing else."""

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None: ...

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None: ...

    def shelf(self, kind: str) -> Any: ...


class Journal:
    """A replica's view: at any time, all records it has seen and what it has not told yet.

    records: on the shelf from which they are summed up. grace: seconds a sum must have stood before what it covers
    goes; half of them is all the time that one may take from reading to summing up, so that no late one, made
    without a record, can replace it after that record is gone.
    """

    def __init__(
        self,
        trust: Trust,
        shelf: Shelf,
        *,
        records: int = 64,
        grace: float = 20.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.unread = 0  # records that could not be understood
        self._trust = trust
        self._shelf = shelf
        self._records = records
        self._grace = grace
        self._clock = clock
        self._turn = asyncio.Lock()  # a reading may not forget what a writing has just put down
        self._seen: set[str] = set()
        self._due: dict[str, bytes] = {}
        self._begun = False  # once read
        self._sum: bytes | None = None  # as read last
        self._stood = 0.0  # since when
        self._covers: frozenset[str] = frozenset()

    async def read(self) -> None:
        """Take up what others have told. Raises StoreError."""
        async with self._turn:
            await self._read()

    async def _read(self) -> int:
        """Gives how many records no sum covers yet."""
        found: dict[str, bytes] = {}
        async for batch in self._shelf.shelf(_KIND):
            found.update(batch)
        raw = found.pop(_SUM, None)
        if raw is not None and raw != self._sum:
            self._begin(raw, found)
        self._begun = True
        for key in sorted(found.keys() - self._seen):
            self._take(key, found[key])
        settled = self._clock() - self._stood >= self._grace
        gone = [key for key in found if key in self._covers] if settled else []
        await self._shelf.unshelve(_KIND, gone)
        self._seen &= found.keys() | self._covers | self._due.keys()
        return len(found.keys() - self._covers)

    def _begin(self, raw: bytes, found: Mapping[str, bytes]) -> None:
        """Another sum: begin with it where it covers what was never seen here and is there no more."""
        try:
            told = orjson.loads(raw)
            covers, state = frozenset(map(str, told["covers"])), told["state"]
            if not self._begun or not covers <= self._seen | found.keys():
                self._note()  # what nobody else knows yet
                self._trust.from_json(state, anew=True)
                self._seen = set(covers)
                for key in self._due.keys() - covers:
                    self._take(key, self._due[key])
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unread += 1
            covers = frozenset()
        self._sum, self._stood, self._covers = raw, self._clock(), covers

    def _take(self, key: str, raw: bytes) -> None:
        self._seen.add(key)
        try:
            self._trust.absorb(orjson.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.unread += 1

    async def save(self) -> None:
        """Tell what was learned here, and hear the others. What the store does not take stays due. Raises StoreError."""
        try:
            async with self._turn, asyncio.timeout(self._grace / 2):
                await self._save()
        except TimeoutError as error:
            raise StoreError("the journal: too slow") from error

    async def _save(self) -> None:
        there, total = await self._read(), None
        if len(self._due) < _DUE:
            self._note()
            # In one breath: a sum is all that was seen, and nothing that is yet to be told.
            if there + len(self._due) > self._records:
                total = self._total()
        due = dict(self._due)
        if due:
            await self._shelf.shelve(_KIND, due)
            self._due.clear()
        if total is not None:
            await self._shelf.shelve(_KIND, {_SUM: total})

    def _note(self) -> None:
        """Take down what was learned since the last time, to be told."""
        news = self._trust.changes()
        if news:
            key = f"{int(self._clock() * 1000):015d}-{secrets.token_hex(4)}"
            self._due[key] = orjson.dumps(news)
            self._seen.add(key)

    def _total(self) -> bytes:
        return orjson.dumps({"covers": sorted(self._seen)[-_COVERED:], "state": self._trust.to_json()})
