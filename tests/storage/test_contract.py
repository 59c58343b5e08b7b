"""One contract, three stores: every DocumentStore must pass all of this."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Outdated, StoreError
from gateway.exchange import Entry
from gateway.keys import generate_sealing
from gateway.storage.memory import MemoryStore
from gateway.storage.redis import RedisStore
from gateway.storage.sealed import SealedStore
from gateway.storage.sqlite import SqliteStore
from tests.storage.conftest import make_record

MANY = 500  # more changes than the stores here keep


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


KEY = generate_sealing()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "redis", "sealed"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Callable[[], Any]:
    """Makes one more store object over the same data (memory: the same object)."""
    if request.param == "memory":
        store = MemoryStore(clock=clock, max_changes=100)
        return lambda: store
    if request.param == "sealed":
        path = tmp_path / "new" / "gateway.db"
        return lambda: SealedStore(SqliteStore(path, clock=clock, max_changes=100), [KEY])
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "new" / "gateway.db", clock=clock, max_changes=100)
    url, namespace = request.getfixturevalue("redis_server").url, uuid.uuid4().hex
    return lambda: RedisStore(url, namespace=namespace, clock=clock, max_changes=100)


def run(make: Callable[[], Any], body: Callable[[Any], Any]) -> Any:
    async def opened() -> Any:
        store = make()
        await store.open()
        try:
            return await body(store)
        finally:
            await store.close()

    return asyncio.run(opened())


async def scanned(store: Any) -> dict[int, tuple[Entry, bytes | None]]:
    """By id, the last one seen."""
    return {entry.id: (entry, vector) async for batch in store.scan() for entry, vector in batch}


def test_what_is_put_comes_back_whole(make: Callable[[], Any]) -> None:
    plain, exact_only = make_record(1), make_record(2**63 - 1, vector=False, document=b"")

    async def body(store: Any) -> None:
        await store.put([plain, exact_only])
        assert await store.get(1) == plain.document
        assert await store.get(2**63 - 1) == b""
        assert await scanned(store) == {
            1: (plain.entry, plain.vector),
            2**63 - 1: (exact_only.entry, None),
        }

    run(make, body)


def test_unknown_ids_and_keys_are_none(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        assert await store.get(7) is None
        assert await store.get(2**64 + 5) is None
        assert await store.get_meta("secret") is None
        await store.delete([7, 2**64 + 5, -(2**70)])
        await store.delete([])
        await store.put([])
        assert await scanned(store) == {}

    run(make, body)


def test_deleted_means_gone(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.put([make_record(id) for id in range(10)])
        await store.delete([1, 3, 99])
        assert await store.get(1) is None
        assert set(await scanned(store)) == {0, 2, 4, 5, 6, 7, 8, 9}

    run(make, body)


def test_a_put_replaces_and_the_last_of_a_batch_wins(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.put([make_record(1, document=b"first")])
        await store.put([make_record(1, document=b"second"), make_record(1, document=b"third", vector=False)])
        assert await store.get(1) == b"third"
        assert [vector for _, vector in (await scanned(store)).values()] == [None]

    run(make, body)


def test_it_outlives_the_object(make: Callable[[], Any]) -> None:
    async def write(store: Any) -> None:
        await store.put([make_record(1)])
        await store.put_meta("secret", b"\0\xff")

    async def read(store: Any) -> None:
        assert await store.get(1) == make_record(1).document
        assert await store.get_meta("secret") == b"\0\xff"
        assert set(await scanned(store)) == {1}

    run(make, write)
    run(make, read)


def test_expired_entries_are_neither_scanned_nor_kept(make: Callable[[], Any], clock: Clock) -> None:
    async def body(store: Any) -> None:
        soon, late = clock.now + 0.05, clock.now + 1000
        await store.put([make_record(1, expires=soon), make_record(2, expires=late)])
        await store.put([make_record(3, expires=clock.now - 1)])
        assert set(await scanned(store)) == {1, 2}
        clock.now += 0.05
        await asyncio.sleep(0.06)  # Redis goes by its own clock
        assert set(await scanned(store)) == {2}
        assert await store.get(1) is None
        assert await store.get(3) is None
        assert await store.get(2) is not None

    run(make, body)


def test_a_read_does_not_prolong_a_life(make: Callable[[], Any], clock: Clock) -> None:
    async def body(store: Any) -> None:
        await store.put([make_record(1, expires=clock.now + 0.1)])
        await store.get(1)
        clock.now += 0.1
        await asyncio.sleep(0.11)
        assert await scanned(store) == {}

    run(make, body)


def test_scan_pages_through_everything_once_even_when_expiries_tie(
    make: Callable[[], Any], clock: Clock
) -> None:
    records = [make_record(id, expires=clock.now + 500 + id // 1300, document=b"d") for id in range(2_500)]

    async def body(store: Any) -> None:
        await store.put(records)
        batches = [batch async for batch in store.scan()]
        assert max(len(batch) for batch in batches) <= 1_000
        assert sorted(entry.id for batch in batches for entry, _ in batch) == list(range(2_500))

    run(make, body)


def test_deletes_during_a_scan_hide_nothing_else(make: Callable[[], Any], clock: Clock) -> None:
    records = [make_record(id, expires=clock.now + 500 + id, document=b"d") for id in range(2_500)]

    async def body(store: Any) -> None:
        await store.put(records)
        seen: set[int] = set()
        async for batch in store.scan():
            if not seen:
                await store.delete(list(range(900)))
            seen.update(entry.id for entry, _ in batch)
        assert seen >= set(range(1_000, 2_500))

    run(make, body)


def test_what_was_stored_does_not_change_afterwards(make: Callable[[], Any]) -> None:
    record = make_record(1)

    async def body(store: Any) -> None:
        await store.put([record])
        record.entry.hits += 1
        assert (await scanned(store))[1][0].hits == 3

    run(make, body)


def test_a_batch_with_an_unstorable_record_is_refused_whole(make: Callable[[], Any]) -> None:
    good, bad = make_record(1), make_record(2)
    bad.entry.cost = float("nan")

    async def body(store: Any) -> None:
        with pytest.raises(StoreError, match="finite"):
            await store.put([good, bad])
        assert await store.get(1) is None
        await store.put([good])
        assert await store.get(1) == good.document

    run(make, body)


def test_text_that_utf8_cannot_hold_spoils_only_itself(make: Callable[[], Any]) -> None:
    record = make_record(1)
    record.entry.question = "lone \ud800 surrogate \0"
    record.entry.tags = ("\udfff",)

    async def body(store: Any) -> None:
        await store.put([record])
        entry, _ = (await scanned(store))[1]
        assert (entry.question, entry.tags) == ("lone ? surrogate \0", ("?",))
        assert replace(entry, question="", tags=()) == replace(record.entry, question="", tags=())

    run(make, body)


def test_meta_values_are_replaced(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.put_meta("book", b"one")
        await store.put_meta("book", b"two")
        assert await store.get_meta("book") == b"two"

    run(make, body)


async def shelved(store: Any, kind: str) -> dict[str, bytes]:
    """By key, the last one seen."""
    return {key: value async for batch in store.shelf(kind) for key, value in batch}


def test_what_is_shelved_comes_back_whole(make: Callable[[], Any]) -> None:
    items = {"a": b"\xff\xfe\0", "large\0small": b"", "": b"no key", "ü✓" * 200: b"x" * 100_000}

    async def body(store: Any) -> None:
        await store.shelve("example", items)
        assert await shelved(store, "example") == items

    run(make, body)


def test_an_empty_shelf(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.shelve("example", {})
        await store.unshelve("example", [])
        await store.unshelve("example", ["a"])
        assert [batch async for batch in store.shelf("example")] == []

    run(make, body)


def test_shelved_again_means_replaced_and_unshelved_means_gone(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.shelve("pair", {"a": b"1", "b": b"2", "c": b"3"})
        await store.shelve("pair", {"b": b"22"})
        await store.unshelve("pair", ["a", "nobody"])
        assert await shelved(store, "pair") == {"b": b"22", "c": b"3"}
        await store.unshelve("pair", ["b", "c"])
        assert await shelved(store, "pair") == {}

    run(make, body)


def test_kinds_do_not_mix_with_each_other_nor_with_entries_and_meta(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.put([make_record(1)])
        await store.put_meta("a", b"meta")
        await store.shelve("example", {"a": b"example"})
        await store.shelve("pair", {"a": b"pair"})
        await store.unshelve("other", ["a"])
        await store.unshelve("example", ["a"])
        assert await shelved(store, "example") == {}
        assert await shelved(store, "pair") == {"a": b"pair"}
        assert await store.get_meta("a") == b"meta"
        assert set(await scanned(store)) == {1}

    run(make, body)


def test_a_shelf_outlives_the_object_and_the_entries(make: Callable[[], Any], clock: Clock) -> None:
    async def write(store: Any) -> None:
        await store.shelve("pair", {"a": b"1", "b": b"2"})
        await store.unshelve("pair", ["b"])

    async def read(store: Any) -> None:
        assert await shelved(store, "pair") == {"a": b"1"}

    run(make, write)
    clock.now += 10**9
    run(make, read)


def test_a_large_shelf_comes_in_batches(make: Callable[[], Any]) -> None:
    items = {f"{n:05d}": b"%d" % n * 20 for n in range(5_000)}

    async def body(store: Any) -> None:
        await store.shelve("example", items)
        batches = [batch async for batch in store.shelf("example")]
        assert max(len(batch) for batch in batches) <= 250
        assert dict(item for batch in batches for item in batch) == items
        await store.unshelve("example", list(items)[1:])
        assert await shelved(store, "example") == {"00000": b"0" * 20}

    run(make, body)


def test_changes_during_a_reading_of_the_shelf_hide_nothing_else(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.shelve("example", {f"{n:04d}": b"old" for n in range(1_000)})
        seen: dict[str, bytes] = {}
        async for batch in store.shelf("example"):
            if not seen:
                await store.unshelve("example", [f"{n:04d}" for n in range(300)])
                await store.shelve("example", {f"{n:04d}": b"new" for n in range(900, 2_000)})
            seen.update(batch)
        assert seen.keys() >= {f"{n:04d}" for n in range(300, 1_000)}

    run(make, body)


def test_a_key_that_utf8_cannot_hold_is_refused(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        with pytest.raises(StoreError, match="surrogates"):
            await store.shelve("example", {"good": b"1", "\ud800": b"2"})
        assert await shelved(store, "example") == {}

    run(make, body)


def test_many_calls_at_once(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        await store.put([make_record(id) for id in range(100)])
        documents = await asyncio.gather(*(store.get(id) for id in range(100)))
        assert documents == [make_record(id).document for id in range(100)]

    run(make, body)


# ── what those who share a store are told ───────────────────────────────────────────────────────────────────


async def followed(store: Any, at: str) -> list[tuple[Any, ...]]:
    """What happened after a position, without where."""
    found = await store.changes(at)
    assert found is not None
    return [(c.op, c.ids, c.variants, c.body) for c in found if c.op != "begin"]


def test_changes_are_told_in_order_to_other_objects(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        other = make()
        await other.open()
        at = await other.position()
        assert await other.changes(at) == []
        await store.put([make_record(1), make_record(2**63 - 1), replace(make_record(3), variants=4)])
        await store.delete([1, 77])
        await store.delete([1])
        await store.announce("purge", b"{}")
        assert await store.append("policies", b"book", keep=3) == 1
        assert await followed(other, at) == [
            ("put", (1, 2**63 - 1), 1, b""),
            ("put", (3,), 4, b""),
            ("delete", (1,), 1, b""),
            ("purge", (), 1, b"{}"),
            ("journal", (), 1, b"policies"),
        ]
        found = await other.changes(at)
        assert await followed(other, found[2].at) == [
            ("purge", (), 1, b"{}"),
            ("journal", (), 1, b"policies"),
        ]
        assert await store.position() == found[-1].at
        await other.close()

    run(make, body)


def test_a_position_that_is_not_known_any_more_is_a_gap(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        at = await store.position()
        for n in range(MANY):
            await store.announce("told", b"%d" % n)
        assert await store.changes(at) is None
        assert await store.changes(await store.position()) == []

    run(make, body)


def test_a_writer_that_has_not_seen_a_purge_stores_nothing(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        before = await store.position()
        await store.put([make_record(1)], before)
        at = await store.announce("purge", b"all")
        assert await store.unfinished() == {at: b"all"}
        with pytest.raises(Outdated):
            await store.put([make_record(2), make_record(3)], before)
        assert set(await scanned(store)) == {1}
        await store.put([make_record(2)], at)
        await store.announce("told", b"something else")
        await store.put([make_record(3)], at)
        assert set(await scanned(store)) == {1, 2, 3}
        await store.finish(at)
        assert await store.unfinished() == {}
        with pytest.raises(Outdated):
            await store.put([make_record(4)], before)

    run(make, body)


def test_entries_are_loaded_by_id(make: Callable[[], Any], clock: Clock) -> None:
    async def body(store: Any) -> None:
        await store.put(
            [make_record(1), make_record(2, vector=False), make_record(3, expires=clock.now + 0.05)]
        )
        clock.now += 0.05
        await asyncio.sleep(0.06)
        found = await store.load([1, 2, 3, 99])
        assert [(entry.id, vector) for entry, vector in found] == [(1, make_record(1).vector), (2, None)]
        assert await store.load([]) == []

    run(make, body)


def test_of_two_appends_after_the_same_number_one_is_refused(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        assert await store.journal("policies", 10) == []
        outcomes = await asyncio.gather(
            *(store.append("policies", b"%d" % n, after=0, keep=2) for n in range(3))
        )
        assert sorted(str(outcome) for outcome in outcomes) == ["1", "None", "None"]
        assert await store.append("policies", b"two", after=1, keep=2) == 2
        assert await store.append("policies", b"late", after=1, keep=2) is None
        assert await store.append("policies", b"three", keep=2) == 3
        assert await store.append("audit", b"other", keep=2) == 1
        assert await store.journal("policies", 10) == [(3, b"three"), (2, b"two")]
        assert await store.journal("policies", 1) == [(3, b"three")]

    run(make, body)


def test_of_two_claims_one_stands_for_both(make: Callable[[], Any]) -> None:
    async def body(store: Any) -> None:
        stand = await asyncio.gather(*(store.claim_meta("secret", b"%d" % n) for n in range(4)))
        assert len(set(stand)) == 1
        assert await store.claim_meta("secret", b"later") == stand[0] == await store.get_meta("secret")

    run(make, body)
