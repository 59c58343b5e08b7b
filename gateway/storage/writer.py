"""Group commit: what is to be stored waits in a bounded queue and goes to the store in batches.

Decides when a batch goes: at once when idle; while a commit runs, arrivals gather behind it. Must never make
the caller wait, reorder a delete before an earlier put, grow without bound, or die with the store.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from gateway.errors import StoreError
from gateway.exchange import Record
from gateway.interfaces import DocumentStore

_log = logging.getLogger(__name__)
_OVERHEAD = 512  # bytes charged for an entry's metadata beside its texts, and for a delete


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
    how long the store may take for a batch. Counters: `durable`, `failed` and `dropped` records, `deleted`
    and `undeleted` ids.
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
        self.failing = False  # whether the store refused the last batch
        self.durable = self.failed = self.dropped = self.deleted = self.undeleted = 0

    def __repr__(self) -> str:
        state = "closed" if self._closed else "writing" if self._batch else "idle"
        return f"<Writer {state}: {len(self._queue)} waiting, {self.durable} durable, {self.failed} failed>"

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
        records = [job.record for job in puts]
        ids = [id for job in deletes for id in job.ids]
        if puts:
            stored = await self._confirmed(self._store.put(records), f"{len(puts)} records")
            self._count_puts(len(puts), stored)
            _settle(puts, stored)
        if deletes:
            removed = not ids or await self._confirmed(self._store.delete(ids), f"{len(ids)} deletes")
            self._count_deletes(len(ids), removed)
            _settle(deletes, removed)

    async def _confirmed(self, work: Awaitable[None], what: str) -> bool:
        """Whether the store did it. One that timed out may still happen: False means "not sure"."""
        try:
            async with asyncio.timeout(self._timeout):
                await work
        except Exception as error:  # even a store that breaks its contract must not end the only writer
            self._report(what, error)
            return False
        if self.failing:
            self.failing = False
            _log.info("the store takes writes again: %r", self)
        return True

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


def _settle(jobs: Sequence[_Put | _Delete], outcome: bool) -> None:
    for job in jobs:
        if not job.done.done():  # the caller may have cancelled it
            job.done.set_result(outcome)
