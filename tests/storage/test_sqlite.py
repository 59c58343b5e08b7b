"""What is particular to the SQLite store: durability, corruption, bounds, several processes, its schema."""

import asyncio
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.storage.sqlite import SqliteStore
from tests.storage.conftest import make_record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


def run(store: SqliteStore, body: Callable[[SqliteStore], Coroutine[Any, Any, None]]) -> None:
    async def opened() -> None:
        await store.open()
        try:
            await body(store)
        finally:
            await store.close()

    asyncio.run(opened())


async def ids(store: SqliteStore) -> list[int]:
    return [entry.id async for batch in store.scan() for entry, _ in batch]


async def shelf(store: SqliteStore) -> dict[str, bytes]:
    return {key: value async for batch in store.shelf("pair") for key, value in batch}


def fill(path: Path, count: int = 2_000) -> None:
    async def body(store: SqliteStore) -> None:
        await store.put([make_record(id) for id in range(count)])

    run(SqliteStore(path), body)


def raw(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another program sees in the file, or does to it."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


# Durability


def test_every_commit_is_synced_to_the_disk(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        settings = ("journal_mode", "synchronous", "page_size", "auto_vacuum", "user_version")
        got = await store._write(
            "look", lambda db: [db.execute(f"PRAGMA {s}").fetchone()[0] for s in settings]
        )
        assert got == ["wal", 2, 8192, 2, 3]  # 2: FULL; 2: INCREMENTAL

    run(SqliteStore(path), body)


CHILD = """
import asyncio, sys
from gateway.storage.sqlite import SqliteStore
from gateway.storage.writer import Writer
from tests.storage.conftest import make_record

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    writer = Writer(store)
    def tell(id, done):
        if done.result():
            print(id, flush=True)
    for id in range(1_000):
        writer.submit(make_record(id)).add_done_callback(lambda done, id=id: tell(id, done))
        await asyncio.sleep(0.001)
    await writer.close()

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(path)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(300)]
    child.kill()
    told += [int(line) for line in child.stdout.read().split("\n")[:-1]]  # the last line may be torn
    child.stdout.close()
    child.wait()
    assert 300 <= len(told) < 1_000

    async def body(store: SqliteStore) -> None:
        found = {entry.id: (entry, vector) async for batch in store.scan() for entry, vector in batch}
        for id in told:
            record = make_record(id, expires=found[id][0].expires)
            assert await store.get(id) == record.document
            assert found[id] == (record.entry, record.vector)
        assert (store.undecodable, store.set_aside) == (0, 0)
        sound = await store._read("check", lambda db: db.execute("PRAGMA integrity_check").fetchall())
        assert sound == [("ok",)]

    run(SqliteStore(path), body)


# Corruption


def corrupt_copies(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.glob("gateway.db.corrupt-*") if p.suffix != ".db-wal")


def test_a_file_that_is_no_database_is_set_aside_at_open(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"these are not the pages you are looking for" * 500)

    async def body(store: SqliteStore) -> None:
        await store.put([make_record(1)])
        assert await ids(store) == [1]
        assert store.set_aside == 1

    with caplog.at_level(logging.ERROR):
        run(SqliteStore(path), body)
    assert [p.read_bytes()[:5] for p in corrupt_copies(path)] == [b"these"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "set aside as" in caplog.text


def damage(path: Path) -> None:
    """Overwrite all but the first pages, of an image that holds everything."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "PRAGMA wal_checkpoint(TRUNCATE)"
        )  # on a busy machine the store's close may leave a log behind
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192 * 3)
        file.write(os.urandom(size - 8192 * 3))


def test_a_malformed_image_found_by_a_scan_is_set_aside(path: Path) -> None:
    fill(path)
    damage(path)

    async def body(store: SqliteStore) -> None:
        assert await ids(store) == []
        await store.put([make_record(5)])
        assert await store.get(5) == make_record(5).document
        assert await ids(store) == [5]
        assert store.set_aside == 1

    run(SqliteStore(path), body)
    run(SqliteStore(path), lambda store: _expect(store, [5]))
    assert len(corrupt_copies(path)) == 1


def test_a_malformed_image_found_by_get_and_put_at_once_is_set_aside_once(path: Path) -> None:
    fill(path)
    damage(path)

    async def body(store: SqliteStore) -> None:
        records = [make_record(id) for id in range(5_000, 5_100)]
        calls = [store.get(id) for id in range(50)] + [store.put([record]) for record in records]
        assert (await asyncio.gather(*calls))[:50] == [None] * 50
        assert sorted(await ids(store)) == list(range(5_000, 5_100))
        assert store.set_aside == 1

    run(SqliteStore(path), body)


def test_its_log_goes_with_it_and_a_process_that_still_has_it_open_does_no_harm(path: Path) -> None:
    fill(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("DELETE FROM documents WHERE version = 1")
    damage(path)

    async def body(store: SqliteStore) -> None:
        await ids(store)
        await store.put([make_record(1)])
        other.close()  # the last one out of the old file, which must not take the new file's log along
        await store.put([make_record(2)])
        assert path.with_name("gateway.db-wal").exists()

    run(SqliteStore(path), body)
    run(SqliteStore(path), lambda store: _expect(store, [1, 2]))
    endings = {p.name.rpartition("-")[2] for p in path.parent.glob("*.corrupt-*-???")}
    assert endings == {"wal", "shm"}


def test_a_malformed_image_found_by_the_shelf_is_set_aside(path: Path) -> None:
    async def fill_shelf(store: SqliteStore) -> None:
        await store.shelve("pair", {str(n): b"x" * 1_000 for n in range(1_000)})

    run(SqliteStore(path), fill_shelf)
    damage(path)

    async def body(store: SqliteStore) -> None:
        assert await shelf(store) == {}
        await store.shelve("pair", {"a": b"1"})
        assert await shelf(store) == {"a": b"1"}
        assert store.set_aside == 1

    run(SqliteStore(path), body)


async def _expect(store: SqliteStore, expected: list[int]) -> None:
    assert await ids(store) == expected


def test_a_row_that_cannot_be_decoded_is_skipped_and_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path, 10)
    raw(path, "UPDATE entries SET metadata = x'00ff' WHERE id IN (3, 4)")
    raw(path, "UPDATE entries SET metadata = 'text' WHERE id = 5")
    raw(path, "UPDATE entries SET metadata = (SELECT metadata FROM entries WHERE id = 0) WHERE id = 6")

    async def body(store: SqliteStore) -> None:
        assert await ids(store) == [0, 1, 2, 7, 8, 9]
        assert store.undecodable == 4

    run(SqliteStore(path), body)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: skipped 4 undecodable entries"]


def test_a_file_that_vanishes_while_open_is_made_anew(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await store.put([make_record(1)])
        for part in path.parent.glob("gateway.db*"):
            part.unlink()
        await store.put([make_record(2)])
        assert await store.get(1) is None
        assert await store.get(2) is not None
        assert raw(path, "SELECT id FROM entries JOIN documents USING (version)") == [(2,)]

    run(SqliteStore(path), body)


# Whose file it is


def test_another_programs_database_is_left_alone(path: Path) -> None:
    raw(path, "CREATE TABLE theirs (a)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="some other program's"):
        run(SqliteStore(path), lambda store: _expect(store, []))
    assert path.read_bytes() == before


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    fill(path, 1)
    raw(path, "PRAGMA user_version = 4")
    with pytest.raises(StoreError, match="schema 4"):
        run(SqliteStore(path), lambda store: _expect(store, []))
    assert raw(path, "SELECT id FROM entries JOIN documents USING (version)") == [(0,)]


def make_old(path: Path) -> None:
    """A file as version 1 left it, with three entries."""
    fill(path, 3)
    for table in ("shelf", "changes", "purges", "journals"):
        raw(path, f"DROP TABLE {table}")
    for statement in ("DELETE FROM meta", "PRAGMA user_version = 1", "VACUUM"):
        raw(path, statement)


def test_a_file_of_the_version_before_keeps_its_entries_and_gets_a_shelf(path: Path) -> None:
    make_old(path)

    async def body(store: SqliteStore) -> None:
        assert raw(path, "PRAGMA user_version") == [(3,)]
        assert await ids(store) == [0, 1, 2]
        assert await store.get(2) == make_record(2).document
        await store.shelve("pair", {"a": b"1"})
        assert await shelf(store) == {"a": b"1"}
        assert store.set_aside == 0

    run(SqliteStore(path), body)
    run(SqliteStore(path), lambda store: _expect(store, [0, 1, 2]))


def test_two_stores_bring_one_old_file_up_to_date(path: Path) -> None:
    make_old(path)

    async def body() -> None:
        stores = [SqliteStore(path), SqliteStore(path)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(*(store.shelve("pair", {str(n): b"1"}) for n, store in enumerate(stores)))
        assert await shelf(stores[0]) == await shelf(stores[1]) == {"0": b"1", "1": b"1"}
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(body())


def test_an_old_file_at_its_bound_is_brought_up_to_date_all_the_same(path: Path) -> None:
    make_old(path)
    run(SqliteStore(path, max_bytes=8192), lambda store: _expect(store, [0, 1, 2]))


def test_the_file_is_for_its_user_only(path: Path) -> None:
    fill(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Folder and disk


def test_a_folder_that_cannot_be_is_a_store_error_and_recovers_when_it_can(tmp_path: Path) -> None:
    blocker = tmp_path / "data"
    blocker.write_text("a file where the folder should be")

    async def body() -> None:
        store = SqliteStore(blocker / "gateway.db")
        with pytest.raises(StoreError, match="open"):
            await store.open()
        with pytest.raises(StoreError, match="put"):
            await store.put([make_record(1)])
        with pytest.raises(StoreError, match="shelve"):
            await store.shelve("pair", {"a": b"1"})
        with pytest.raises(StoreError, match="unshelve"):
            await store.unshelve("pair", ["a"])
        with pytest.raises(StoreError, match="shelf"):
            await shelf(store)
        blocker.unlink()
        await store.put([make_record(1)])
        assert await ids(store) == [1]
        await store.close()

    asyncio.run(body())


def test_a_full_disk_fails_the_put_and_recovers_after_deletes(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await store.put([make_record(id) for id in range(100)])
        with pytest.raises(StoreError, match="full"):
            await store.put([make_record(id, document=b"x" * 100_000) for id in range(100, 150)])
        assert len(await ids(store)) == 100  # nothing of the failed batch
        await store.delete(list(range(50)))
        await store.put([make_record(1_000)])
        assert await store.get(1_000) == make_record(1_000).document

    run(SqliteStore(path, max_bytes=2 << 20), body)


def test_a_full_disk_fails_the_shelving_and_keeps_what_is_shelved(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await store.shelve("pair", {"a": b"1"})
        with pytest.raises(StoreError, match=r"shelve.*full"):
            await store.shelve("pair", {"a": b"2", "b": b"x" * (2 << 20)})
        assert await shelf(store) == {"a": b"1"}
        await store.shelve("pair", {"a": b"3"})
        assert await shelf(store) == {"a": b"3"}

    run(SqliteStore(path, max_bytes=1 << 20), body)


def test_the_file_does_not_grow_forever_and_shrinks_when_mostly_free(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        sizes = []
        for round in range(6):
            batch = [make_record(round * 400 + n, document=b"x" * 16_000) for n in range(400)]
            await store.put(batch)
            await store.delete([record.entry.id for record in batch[:-1]])
            sizes.append(
                (await store._write("size", lambda db: db.execute("PRAGMA page_count").fetchone()))[0]
            )
        assert max(sizes) * 8192 < 400 * 20_000
        for _ in range(20):
            await store.delete([0])
        assert (await store._write("size", lambda db: db.execute("PRAGMA page_count").fetchone()))[0] < 600

    run(SqliteStore(path), body)


def test_expired_entries_are_purged_at_open_and_by_scan(path: Path) -> None:
    fill(path, 2_500)
    raw(path, "UPDATE entries SET expires = 5 WHERE id < 2200")

    async def body(store: SqliteStore) -> None:
        assert raw(path, "SELECT count(*) FROM documents") == [(2_250,)]
        assert sorted(await ids(store)) == list(range(2_200, 2_500))
        assert raw(path, "SELECT count(*) FROM documents") == [(300,)]
        assert raw(path, "SELECT count(*) FROM entries") == [(300,)]

    run(SqliteStore(path), body)


# Waiting


def test_another_process_holding_the_lock_is_waited_for_within_a_bound(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await store.put([make_record(1)])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        started = time.perf_counter()
        with pytest.raises(StoreError, match="locked"):
            await store.put([make_record(2)])
        assert time.perf_counter() - started < 1
        assert await store.get(1) is not None  # readers do not wait
        other.execute("COMMIT")
        other.close()
        await store.put([make_record(2)])

    run(SqliteStore(path, busy_timeout=0.2), body)


def test_a_disk_that_hangs_fails_calls_in_time_and_lets_reads_through(path: Path) -> None:
    async def body(store: SqliteStore) -> None:
        await store.put([make_record(1)])
        release = threading.Event()
        stuck = asyncio.create_task(store._write("hang", lambda db: release.wait(10)))
        await asyncio.sleep(0)
        with pytest.raises(StoreError, match="no answer within"):
            await store.put([make_record(2)])
        assert await store.get(1) is not None
        release.set()
        with pytest.raises(StoreError, match="no answer within"):
            await stuck
        await store.put([make_record(3)])
        assert await store.get(3) is not None

    run(SqliteStore(path, timeout=0.2), body)


def test_a_closed_store_says_so(path: Path) -> None:
    async def body() -> None:
        store = SqliteStore(path)
        for _ in range(2):
            with pytest.raises(StoreError, match="not open"):
                await store.get(1)
            await store.open()
            await store.open()
            await store.put([make_record(1)])
            await store.close()
            await store.close()

    asyncio.run(body())


def test_two_stores_share_one_file(path: Path) -> None:
    async def body() -> None:
        one, two = SqliteStore(path), SqliteStore(path)
        await asyncio.gather(one.open(), two.open())
        await asyncio.gather(
            *(one.put([make_record(id)]) for id in range(50)),
            *(two.put([make_record(id)]) for id in range(50, 100)),
        )
        assert sorted(await ids(one)) == sorted(await ids(two)) == list(range(100))
        versions = [row[0] for row in raw(path, "SELECT version FROM entries ORDER BY version")]
        assert versions == list(range(1, 101))
        await asyncio.gather(one.close(), two.close())

    asyncio.run(body())
