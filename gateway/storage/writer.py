"""Group commit: what is to be stored waits in a bounded queue and goes to the store in batches.

Decides when a batch goes: at once when idle; while a commit runs, arrivals gather behind it. While the store is
away everything waits, in order and within the bounds. Must never make the caller wait, reorder a delete before an
earlier put, grow without bound, store what a purge has meant, or die with the store.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import Outdated, StoreAway, StoreError
from gateway.exchange import Entry, Record
from gateway.interfaces import DocumentStore

_log = logging.getLogger(__name__)
_OVERHEAD = 512  # bytes charged for an entry's metadata beside its texts, and for a delete
_PAUSES = (0.05, 1.0)  # seconds between tries at a store that is away: the first, and the longest


class Following(Protocol):
    """What is known of others who write to the same store."""

    position: str | None  # up to where their changes have been applied

    async def catch_up(self) -> None:
        """Apply what has happened since. Raises StoreError."""

    def unwanted(self, entry: Entry) -> bool:
        """Whether an entry that waits to be stored was purged meanwhile."""


@dataclass(slots=True)
class _Put:
    record: Record
    size: int
    done: "asyncio.Future[bool]"


@dataclass(slots=True)
class _Delete:
    ids: Sequence[int]
    size: int
    done: "asyncio.Future[bool]"


class Writer:
    """Feeds a DocumentStore from one task, which starts with the first submission.

    Bounds: the queue by `max_records` jobs and `max_bytes`; a batch by `batch_records` and `batch_bytes`;
    `linger` (seconds) is how long a small batch waits for company, under load only; `timeout` (seconds) is
    how long the store may take for a batch. Counters: `durable`, `failed`, `dropped` and `withdrawn` (purged while
    they waited) records, `deleted` and `undeleted` ids.
    """

    def __init__(
        self,
        store: DocumentStore,
        *,
        max_records: int = 10_000,
        max_bytes: int = 64 << 20,
        batch_records: int = 256,
        batch_bytes: int = 4 << 20,
        linger: float = 0.02,
        timeout: float = 6.0,
    ) -> None:
        self._store = store
        self._max_records, self._max_bytes = max_records, max_bytes
        self._batch_records, self._batch_bytes = batch_records, batch_bytes
        self._linger, self._timeout = linger, timeout
        self._queue: deque[_Put | _Delete] = deque()
        self._bytes = 0  # charged by what is queued
        self._batch: list[_Put | _Delete] = []  # what the store is working on
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()  # a full batch waits, or somebody waits for the queue to empty
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._following: Following | None = None
        self.failing = False  # whether the store refused the last batch
        self.away = False  # whether it cannot be reached
        self.durable = self.failed = self.dropped = self.withdrawn = self.deleted = self.undeleted = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "writing" if self._batch else "idle"
        return f"<Writer {state}: {len(self._queue)} waiting, {self.durable} durable, {self.failed} failed>"

    def follow(self, following: Following) -> None:
        """From now on nothing is stored before what others have purged is known."""
        self._following = following

    def submit(self, record: Record) -> "asyncio.Future[bool]":
        """Queue a record. True: durable. False: the queue was full (at once) or the store did not confirm."""
        vector, question = record.vector or b"", record.entry.question
        size = len(record.document) + len(vector) + len(question) + _OVERHEAD
        job = _Put(record, size, asyncio.get_running_loop().create_future())
        if self._closed or self._full(size):
            self.dropped += 1
            job.done.set_result(False)
        else:
            self._enqueue(job)
        return job.done

    def delete(self, ids: Sequence[int]) -> "asyncio.Future[bool]":
        """Queue a delete behind every earlier put. True: gone from the store. False as for `submit`."""
        size = _OVERHEAD + 8 * len(ids)
        job = _Delete(tuple(ids), size, asyncio.get_running_loop().create_future())
        if self._closed or self._full(size):
            self.undeleted += len(ids)
            job.done.set_result(False)
        else:
            self._enqueue(job)
        return job.done

    async def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was queued is settled, either way; False when `timeout` passed first."""
        if self._closed or self._task is None:
            return True
        marker = _Delete((), 0, asyncio.get_running_loop().create_future())
        self._enqueue(marker)
        self._enough.set()
        done, _ = await asyncio.wait([marker.done], timeout=timeout)
        return bool(done)

    async def close(self, timeout: float = 5.0) -> None:
        """Flush within `timeout`, then give up what is left. Does not close the store."""
        await self.flush(timeout)
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=timeout)
        self._give_up()

    def _full(self, size: int) -> bool:
        return len(self._queue) >= self._max_records or self._bytes + size > self._max_bytes

    def _enqueue(self, job: _Put | _Delete) -> None:
        self._queue.append(job)
        self._bytes += job.size
        self._arrived.set()
        if len(self._queue) >= self._batch_records or self._bytes >= self._batch_bytes:
            self._enough.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="storage-writer")

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._batch = self._take()
            await self._commit(self._batch)
            self._batch = []
            if self._queue:  # they came while the store was busy: more will come, so let the batch grow
                await self._company()

    async def _company(self) -> None:
        try:
            async with asyncio.timeout(self._linger):
                await self._enough.wait()
        except TimeoutError:
            return  # the batch is as large as it gets

    def _take(self) -> list[_Put | _Delete]:
        """A batch from the front of the queue, as long as its puts may all go before its deletes."""
        batch: list[_Put | _Delete] = []
        size, gone = 0, set[int]()
        while self._queue and len(batch) < self._batch_records:
            job = self._queue[0]
            if isinstance(job, _Put) and job.record.entry.id in gone:
                break
            if batch and size + job.size > self._batch_bytes:
                break
            batch.append(self._queue.popleft())
            size += job.size
            if isinstance(job, _Delete):
                gone.update(job.ids)
        self._bytes -= size
        if len(self._queue) < self._batch_records and self._bytes < self._batch_bytes:
            self._enough.clear()
        if not self._queue:
            self._arrived.clear()
        return batch

    async def _commit(self, batch: Sequence[_Put | _Delete]) -> None:
        puts = [job for job in batch if isinstance(job, _Put)]
        deletes = [job for job in batch if isinstance(job, _Delete)]
        ids = [id for job in deletes for id in job.ids]
        if puts and not await self._confirmed(lambda: self._put(puts), f"{len(puts)} records"):
            left = [job for job in puts if not _settled(job)]
            self._count_puts(len(left), stored=False)
            _settle(left, False)
        if deletes:
            removed = not ids or await self._confirmed(lambda: self._store.delete(ids), f"{len(ids)} deletes")
            self._count_deletes(len(ids), removed)
            _settle(deletes, removed)

    async def _put(self, jobs: Sequence[_Put]) -> None:
        """Store those that nobody has purged; the others are settled without."""
        following, seen = self._following, None
        if following is not None:
            if following.position is None:
                await following.catch_up()
            seen = following.position
            purged = [job for job in jobs if not _settled(job) and following.unwanted(job.record.entry)]
            self.withdrawn += len(purged)
            _settle(purged, False)
        left = [job for job in jobs if not _settled(job)]
        await self._store.put([job.record for job in left], seen)
        self._count_puts(len(left), stored=True)
        _settle(left, True)

    async def _confirmed(self, work: Callable[[], Awaitable[None]], what: str) -> bool:
        """Whether the store did it, be it after a while. False: it refused, or was too slow, which means "not sure"."""
        pause, longest = _PAUSES
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    await work()
                self._recovered()
                return True
            except Outdated:
                await self._caught_up()
            except StoreAway as error:
                self._report(what, error)
                self.away = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
            except Exception as error:  # even a store that breaks its contract must not end the only writer
                self._report(what, error)
                return False

    async def _caught_up(self) -> None:
        assert self._following is not None  # or the store would not know what has been seen
        try:
            await self._following.catch_up()
        except StoreError as error:
            self._report("what others have purged", error)
            await asyncio.sleep(_PAUSES[0])

    def _recovered(self) -> None:
        self.away = False
        if self.failing:
            self.failing = False
            _log.info("the store takes writes again: %r", self)

    def _report(self, what: str, error: Exception) -> None:
        """Log the first failure of a row; the counters tell of the others."""
        if not self.failing:
            self.failing = True
            unexpected = not isinstance(error, StoreError | TimeoutError)
            _log.warning("the store did not take %s: %s", what, error or "no answer", exc_info=unexpected)

    def _count_puts(self, count: int, stored: bool) -> None:
        if stored:
            self.durable += count
        else:
            self.failed += count

    def _count_deletes(self, count: int, removed: bool) -> None:
        if removed:
            self.deleted += count
        else:
            self.undeleted += count

    def _give_up(self) -> None:
        """Answer everybody who still waits."""
        left = [job for job in (*self._batch, *self._queue) if not job.done.done()]
        self._queue.clear()
        self._batch, self._bytes = [], 0
        self._count_puts(sum(1 for job in left if isinstance(job, _Put)), stored=False)
        self._count_deletes(sum(len(job.ids) for job in left if isinstance(job, _Delete)), removed=False)
        _settle(left, False)


def _settled(job: _Put) -> bool:
    """A caller that has stopped waiting still wants it stored."""
    return job.done.done() and not job.done.cancelled()


def _settle(jobs: Sequence[_Put | _Delete], outcome: bool) -> None:
    for job in jobs:
        if not job.done.done():  # the caller may have cancelled it
            job.done.set_result(outcome)
