"""The cache as one room: catalogue in memory, vectors with the worker, documents in the store.

Order of writing: the store, then the index, because the store is the truth and the index a rebuildable copy
of it. Nothing here may fail a request: a store that cannot answer is a miss, and is counted.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from gateway.cache.catalog import Catalog
from gateway.errors import StoreError
from gateway.exchange import Entry, Record
from gateway.interfaces import DocumentStore, Vector

log = logging.getLogger("gateway.cache")
_VARIANTS = 64  # the most answers one request may have stored
_PAGE = 64  # documents read at once, of those that leave


class Vectors(Protocol):
    """The part of the worker that keeps the index."""

    def add(self, id: int, partition: bytes, vector: Vector) -> "asyncio.Future[Any]": ...

    def remove(self, id: int, partition: bytes) -> "asyncio.Future[Any]": ...

    def load_many(self, changes: "Sequence[tuple[int, bytes, Vector | None]]") -> "asyncio.Future[int]": ...


class Queue(Protocol):
    """Group commit in front of the store."""

    away: bool  # the store cannot be reached, and what is submitted waits

    def submit(self, record: Record) -> "asyncio.Future[bool]": ...

    def delete(self, ids: Sequence[int]) -> "asyncio.Future[bool]": ...

    async def flush(self, timeout: float = 5.0) -> bool: ...


class Hot(Protocol):
    """Documents of recent use, in memory, bounded in bytes."""

    def get(self, id: int) -> bytes | None: ...

    def put(self, id: int, document: bytes) -> None: ...

    def drop(self, id: int) -> None: ...


class Cache:
    """Everything that is remembered, and the only one who writes it."""

    def __init__(
        self,
        catalog: Catalog,
        store: DocumentStore,
        queue: Queue,
        hot: Hot,
        vectors: Vectors,
        *,
        store_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.catalog = catalog
        self._store = store
        self._queue = queue
        self._hot = hot
        self._vectors = vectors
        self._store_seconds = store_seconds
        self._clock = clock
        self._writing: dict[int, Entry] = {}  # promised to a response: being answered, or written
        self._doomed: set[int] = set()  # of these, what was purged meanwhile
        self._storing: set[int] = set()  # handed to the queue, and not yet confirmed
        self._vectors_since = 0.0
        self._owed: set[int] = set()  # ids the store did not confirm deleting
        self._unloaded = True  # the store may hold entries that are not in the catalogue yet
        self._unwelcome: list[Callable[[Entry], bool]] = []  # purged before they were loaded
        self.store_failures = 0
        self.lost_documents = 0
        self.stored = 0
        self.warmed = 0
        self.adopted = 0

    async def document(self, entry: Entry) -> bytes | None:
        """The stored answer, from memory or the store; None (a miss) if it is gone or the store fails."""
        document = self._hot.get(entry.id)
        if document is not None:
            return document
        if self._queue.away:  # it would take a second to find out again
            self.store_failures += 1
            return None
        try:
            async with asyncio.timeout(self._store_seconds):
                document = await self._store.get(entry.id)
        except (StoreError, TimeoutError) as error:
            self.store_failures += 1
            log.warning("document not read: %s", error or "store timed out")
            return None
        if self.catalog.get(entry.id) is None:
            return None  # purged while it was read
        if document is None:
            self.lost_documents += 1
            self.forget([entry], durable=False)
            return None
        self._hot.put(entry.id, document)
        return document

    def expect(self, entry: Entry) -> None:
        """An answer is on its way that will be stored under this entry: from now on it can be purged."""
        self._writing[entry.id] = entry

    def settle(self, entry: Entry) -> None:
        """It is stored, or will not be."""
        self._writing.pop(entry.id, None)
        self._doomed.discard(entry.id)

    def doomed(self, entry: Entry) -> bool:
        """Whether an expected entry was purged before it was stored."""
        return entry.id in self._doomed

    def durable(self, entry: Entry) -> bool:
        """Whether the store has confirmed it."""
        return entry.id not in self._storing

    async def keep(self, entry: Entry, vector: Vector | None, document: bytes, variants: int = 1) -> bool:
        """Store an answer and make it findable; True once it is durable. Never raises for a store's sake.

        While the store is away it is findable at once, from memory, and stored when that can be done.
        """
        if self.doomed(entry):
            return False
        rivals = self.catalog.exact(entry.exact)
        if rivals:  # it replaces them, even where another machine's clock was ahead
            entry.created = max(entry.created, *(rival.created + 0.001 for rival in rivals))
        raw = None if vector is None else vector.astype(np.float32, copy=False).tobytes()
        stored = self._queue.submit(Record(entry, raw, document, variants))
        early = self._queue.away and not stored.done()
        self._storing.add(entry.id)
        try:
            if early:
                self._admit(entry, vector, document, variants)
            durable = await stored
        finally:
            self._storing.discard(entry.id)
        gone = self.doomed(entry) or entry.expires <= self._clock()
        if not durable or gone:
            self.store_failures += not gone
            self._withdraw(entry, early, durable)
            return False
        if not early:
            self._admit(entry, vector, document, variants)
        self.stored += 1
        return True

    def forget(self, entries: Iterable[Entry], *, durable: bool = True) -> None:
        """Drop entries everywhere; those still expected will not appear."""
        gone = list(entries)
        for entry in gone:
            if entry.id in self._writing:
                self._doomed.add(entry.id)
            self.catalog.remove(entry.id)
            self._drop(entry)
        if durable:
            self._delete([entry.id for entry in gone])

    def matching(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """All entries, those still expected included, that a predicate picks."""
        coming = [e for e in self._writing.values() if self.catalog.get(e.id) is None]
        return [e for e in [*self.catalog.entries(), *coming] if wanted(e)]

    def purge(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Forget what a predicate picks, entries that a start has not loaded yet included."""
        gone = self.matching(wanted)
        self.forget(gone)
        if self._unloaded:
            self._unwelcome.append(wanted)
        return gone

    async def settled(self) -> bool:
        """Whether the store has done everything it was asked to, deletes above all."""
        return await self._queue.flush() and not self._owed

    def sweep(self) -> int:
        """Remove what has expired, or is too much; the store keeps lifetimes of its own. Returns how many."""
        gone = self.catalog.sweep() + self.catalog.make_room()
        for entry in gone:
            self._drop(entry)
        self._delete([entry.id for entry in gone])
        if self._owed:
            owed, self._owed = sorted(self._owed), set()
            self._delete(owed)
        return len(gone)

    async def dump(self) -> AsyncIterator[list[Record]]:
        """Everything that is stored and can be found, with vectors and documents, in batches.

        Raises:
            StoreError: the store cannot be read.
        """
        async for batch in self._store.scan():
            live = [(entry, raw) for each, raw in batch if (entry := self.catalog.get(each.id)) is not None]
            for start in range(0, len(live), _PAGE):
                page = live[start : start + _PAGE]
                documents = await asyncio.gather(*(self._store.get(entry.id) for entry, _ in page))
                yield [
                    Record(entry, raw, document)
                    for (entry, raw), document in zip(page, documents, strict=True)
                    if document is not None
                ]

    async def warm(self, *, vectors_since: float, purged: Sequence[Callable[[Entry], bool]] = ()) -> None:
        """Make catalogue and index what the store is, without embedding anything again.

        Entries older than `vectors_since` (unix seconds) bring vectors that cannot be compared any more; what is
        `purged` is deleted instead of loaded. To be called again when it is not known what has changed.

        Raises:
            StoreError: the store cannot be read; what was loaded stays.
        """
        self._vectors_since = vectors_since
        missing = {id: entry for entry in self.catalog.entries() if (id := entry.id) not in self._storing}
        async for batch in self._store.scan():
            items: list[tuple[int, bytes, Vector | None]] = []
            for entry, raw in batch:
                if missing.pop(entry.id, None) is not None or self._known(entry.id):
                    continue
                if any(unwelcome(entry) for unwelcome in (*self._unwelcome, *purged)):
                    self._delete([entry.id])
                    continue
                self._take(entry, raw, _VARIANTS, items)
                self.warmed += 1
            await self._vectors.load_many(items)
        self.forget(missing.values(), durable=False)
        self._unloaded = False
        self._unwelcome.clear()

    async def adopt(self, ids: Sequence[int], variants: int) -> None:
        """Take in entries that others have stored. Raises StoreError.

        They make no room for them: whoever stored them has, and the sweep does where that was not enough.
        """
        new = [id for id in ids if not self._known(id)]
        if not new:
            return
        items: list[tuple[int, bytes, Vector | None]] = []
        for entry, raw in await self._store.load(new):
            if not self._known(entry.id):
                self._take(entry, raw, variants, items, evict=False)
                self.adopted += 1
        await self._vectors.load_many(items)

    def _known(self, id: int) -> bool:
        return id in self._writing or id in self._storing or self.catalog.get(id) is not None

    def _take(
        self,
        entry: Entry,
        raw: bytes | None,
        variants: int,
        items: list[tuple[int, bytes, Vector | None]],
        *,
        evict: bool = True,
    ) -> None:
        """Into the catalogue; its vector goes to those that the index gets next."""
        self.forget(self.catalog.add(entry, variants, evict=evict))
        fresh = entry.created >= self._vectors_since
        if raw is not None and fresh and self.catalog.get(entry.id) is not None:
            items.append((entry.id, entry.partition, np.frombuffer(raw, dtype=np.float32)))

    def _admit(self, entry: Entry, vector: Vector | None, document: bytes, variants: int) -> None:
        gone = self.catalog.add(entry, variants)
        if self.catalog.get(entry.id) is not None:
            self._hot.put(entry.id, document)
            if vector is not None:
                self._vectors.add(entry.id, entry.partition, vector)
        for old in gone:
            self._drop(old)
        self._delete([old.id for old in gone])

    def _withdraw(self, entry: Entry, admitted: bool, stored: bool) -> None:
        """What cannot be kept, or may not be."""
        if admitted and self.catalog.remove(entry.id) is not None:
            self._drop(entry)
        if stored:
            self._delete([entry.id])

    def _delete(self, ids: list[int]) -> None:
        """Forget in the store too; what it does not confirm is owed, and tried again by the next sweep."""
        if not ids:
            return

        def settled(deleted: "asyncio.Future[bool]") -> None:
            if not deleted.cancelled() and not deleted.result():
                self._owed.update(ids)

        self._queue.delete(ids).add_done_callback(settled)

    def _drop(self, entry: Entry) -> None:
        self._hot.drop(entry.id)
        if entry.question:
            self._vectors.remove(entry.id, entry.partition)
