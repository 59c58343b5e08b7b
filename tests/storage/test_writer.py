"""Group commit: durable means durable, order is kept, bounds hold; a bad store cannot block it."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.exchange import Record
from gateway.storage.memory import MemoryStore
from gateway.storage.writer import Writer
from tests.storage.conftest import make_record


class Scripted(MemoryStore):
    """A memory store that logs what it is asked, and can be made slow, broken or stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[int]]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def put(self, records: Sequence[Record], seen: str | None = None) -> None:
        await self._called("put", [record.entry.id for record in records])
        await super().put(records, seen)

    async def delete(self, ids: Sequence[int]) -> None:
        await self._called("delete", list(ids))
        await super().delete(ids)

    async def _called(self, name: str, ids: list[int]) -> None:
        self.calls.append((name, ids))
        await self.gate.wait()
        if self.error is not None:
            raise self.error


def run(body: Any) -> None:
    asyncio.run(asyncio.wait_for(body(), timeout=10))


def test_true_means_the_store_has_it() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store)
        assert await writer.submit(make_record(1)) is True
        assert await store.get(1) == make_record(1).document
        assert (writer.durable, writer.failed, writer.dropped) == (1, 0, 0)
        await writer.close()

    run(body)


def test_idle_means_no_linger() -> None:
    async def body() -> None:
        writer = Writer(Scripted(), linger=5)
        for id in range(3):
            started = time.perf_counter()
            assert await writer.submit(make_record(id))
            assert time.perf_counter() - started < 1
        await writer.close()

    run(body)


def test_what_arrives_during_a_commit_is_one_batch_after_it() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store)
        store.gate.clear()
        futures = [writer.submit(make_record(0))]
        await asyncio.sleep(0)
        futures += [writer.submit(make_record(id)) for id in range(1, 51)]
        await asyncio.sleep(0.01)
        store.gate.set()
        assert all(await asyncio.gather(*futures))
        sizes = [len(ids) for _, ids in store.calls]
        assert sum(sizes) == 51
        assert len(sizes) <= 2
        await writer.close()

    run(body)


def test_under_load_a_small_batch_waits_for_company_but_not_long() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store, linger=0.05)
        store.gate.clear()
        first, second = writer.submit(make_record(0)), None
        await asyncio.sleep(0)
        second = writer.submit(make_record(1))
        store.gate.set()
        await first
        started = time.perf_counter()
        third = writer.submit(make_record(2))
        assert await second
        assert await third
        assert 0.02 < time.perf_counter() - started < 1
        assert [len(ids) for _, ids in store.calls] == [1, 2]
        await writer.close()

    run(body)


def test_batches_are_bounded_by_records_and_by_bytes() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store, batch_records=10, batch_bytes=50_000)
        small = [writer.submit(make_record(id)) for id in range(25)]
        large = [writer.submit(make_record(id, document=b"x" * 30_000)) for id in range(100, 103)]
        huge = writer.submit(make_record(200, document=b"x" * 90_000))
        assert all(await asyncio.gather(*small, *large, huge))
        sizes = [len(ids) for _, ids in store.calls]
        assert max(sizes) <= 10
        assert [ids for _, ids in store.calls if ids[-1] > 100] == [[101], [102], [200]]
        await writer.close()

    run(body)


def test_deletes_come_after_earlier_puts_and_before_later_ones() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store)
        put = writer.submit(make_record(1))
        gone = writer.delete([1])
        other = writer.submit(make_record(2))
        again = writer.submit(make_record(1, document=b"again"))
        assert await asyncio.gather(put, gone, other, again) == [True] * 4
        assert store.calls == [("put", [1, 2]), ("delete", [1]), ("put", [1])]
        assert await store.get(1) == b"again"
        assert (writer.durable, writer.deleted) == (3, 1)
        await writer.close()

    run(body)


def test_a_full_queue_drops_at_once() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store, max_records=5)
        futures = [writer.submit(make_record(id)) for id in range(8)]
        assert [future.done() for future in futures] == [False] * 5 + [True] * 3
        assert [await future for future in futures] == [True] * 5 + [False] * 3
        assert (writer.durable, writer.dropped) == (5, 3)
        by_bytes = Writer(store, max_bytes=10_000)
        futures = [by_bytes.submit(make_record(id)) for id in range(8)]
        assert [await future for future in futures] == [True] * 2 + [False] * 6
        assert await by_bytes.submit(make_record(9))  # the bytes were given back
        await writer.close()
        await by_bytes.close()

    run(body)


@pytest.mark.parametrize("error", [StoreError("disk on fire"), RuntimeError("a broken promise")])
def test_after_a_failure_it_goes_on(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store)
        store.error = error
        assert await writer.submit(make_record(1)) is False
        assert await writer.delete([1, 2]) is False
        store.error = None
        assert await writer.submit(make_record(2)) is True
        assert await writer.delete([2]) is True
        assert (writer.durable, writer.failed, writer.deleted, writer.undeleted) == (1, 1, 1, 2)
        await writer.close()

    with caplog.at_level(logging.INFO, "gateway.storage"):
        run(body)
    assert [record.levelname for record in caplog.records] == [
        "WARNING",
        "INFO",
    ]  # one a row, not one a batch


def test_a_store_that_hangs_blocks_nobody() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store, timeout=0.1, max_records=10)
        store.gate.clear()
        started = time.perf_counter()
        futures = [writer.submit(make_record(id)) for id in range(100)]
        assert time.perf_counter() - started < 0.1
        assert await asyncio.gather(*futures) == [False] * 100
        assert (writer.failed, writer.dropped) == (10, 90)
        store.gate.set()
        assert await writer.submit(make_record(1)) is True
        await writer.close()

    run(body)


def test_flush_waits_for_what_was_submitted_and_skips_the_linger() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store, linger=5)
        store.gate.clear()
        futures = [writer.submit(make_record(0))]
        await asyncio.sleep(0)
        futures += [writer.submit(make_record(id)) for id in range(1, 5)]
        assert await writer.flush(timeout=0.05) is False
        store.gate.set()
        started = time.perf_counter()
        assert await writer.flush() is True
        assert time.perf_counter() - started < 1
        assert all(future.done() and future.result() for future in futures)
        await writer.close()

    run(body)


def test_close_is_bounded_and_answers_everybody() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store)
        store.gate.clear()
        futures = [writer.submit(make_record(id)) for id in range(300)]
        deletion = writer.delete([1])
        await asyncio.sleep(0)
        started = time.perf_counter()
        await writer.close(timeout=0.1)
        assert time.perf_counter() - started < 1
        assert await asyncio.gather(*futures, deletion) == [False] * 301
        assert await writer.submit(make_record(1)) is False
        assert await writer.delete([1]) is False
        assert (writer.failed, writer.dropped, writer.undeleted) == (300, 1, 2)
        await writer.close()

    run(body)


def test_a_caller_that_stops_waiting_disturbs_nothing() -> None:
    async def body() -> None:
        store = Scripted()
        writer = Writer(store)
        impatient, patient = writer.submit(make_record(1)), writer.submit(make_record(2))
        impatient.cancel()
        assert await patient is True
        assert await store.get(1) is not None
        await writer.close()

    run(body)


def test_an_unused_writer_closes() -> None:
    async def body() -> None:
        writer = Writer(Scripted())
        assert await writer.flush() is True
        await writer.close()

    run(body)
