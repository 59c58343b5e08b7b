"""The embedded default: one SQLite file that survives kill -9 and power loss; processes may share it.

Decides the schema, when a write counts as durable (commit with synchronous=FULL), and that a file which is
not a sound database is set aside and replaced by a fresh one. Must never touch SQLite on the event loop, let
reads wait behind a commit (they have their own thread and connection), or write into a database that it did
not create.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from gateway.errors import Outdated, StoreError
from gateway.exchange import Change, Entry, Record
from gateway.storage import codec
from gateway.storage.bounded import bounded
from gateway.storage.lane import Lane
from gateway.storage.memory import by_variants

T = TypeVar("T")
Database = sqlite3.Connection
_Identity = tuple[int, int]  # device and inode: which file it is, whatever it is called now
_Page = tuple[int, list[tuple[Entry, bytes | None]]]  # last version read, entries

_log = logging.getLogger(__name__)
_PAGE = 1_000  # rows a scan reads in one go: some 20 ms
_DELETES = 250  # ids deleted in one transaction: some 70 ms in which puts wait
_SHELF_PAGE = 250  # shelved records, a few kilobytes each, in one read or transaction
_APPLICATION = 0x73676331  # in the file's header: this database is ours
_ENTRIES = (
    # Growing versions append to the tree, whatever the ids, and let other processes ask what came since.
    """CREATE TABLE entries (
        version INTEGER PRIMARY KEY AUTOINCREMENT,
        id INTEGER NOT NULL UNIQUE,
        expires REAL NOT NULL,
        metadata BLOB NOT NULL,
        vector BLOB)""",
    "CREATE INDEX entries_expires ON entries (expires)",
    # Under the entry's version, not its random id: appending made batches three times as fast (measured).
    "CREATE TABLE documents (version INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)
_SHELF = (
    # Keys as bytes: SQLite leaves texts with a NUL in them undefined. With rowids, as values are kilobytes.
    "CREATE TABLE shelf (kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key))",
)
_CHANGES = (
    # Numbers never come back: a process that sleeps finds out that what it missed is gone.
    """CREATE TABLE changes (
        at INTEGER PRIMARY KEY AUTOINCREMENT,
        op TEXT NOT NULL,
        ids BLOB NOT NULL,
        variants INTEGER NOT NULL,
        body BLOB NOT NULL)""",
    "CREATE TABLE purges (at INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE journals (name TEXT NOT NULL, number INTEGER NOT NULL, value BLOB NOT NULL,"
    " PRIMARY KEY (name, number))",
    "INSERT INTO meta (key, value) VALUES ('changes:of', randomblob(8)), ('changes:purged', '0')",
)
_SCHEMA = (_ENTRIES, _SHELF, _CHANGES)  # what each version brought; an older file gets what it lacks
_FORMAT = (  # of a new file, before its first table
    "page_size = 8192",  # four entries with 384 floats a page, instead of one or two
    "auto_vacuum = INCREMENTAL",
)
_SETTINGS = (  # of each connection
    "journal_mode = WAL",
    "synchronous = FULL",
    "fullfsync = ON",  # macOS: fsync alone does not reach the platter; no effect elsewhere
    "journal_size_limit = 67108864",
    "secure_delete = ON",  # what is forgotten is not left in free pages
)
_VERSION_OF_ID = "(SELECT version FROM entries WHERE id = ?)"  # read from the index on id alone
_DELETE_DOCUMENT = f"DELETE FROM documents WHERE version = {_VERSION_OF_ID}"
_SHRINK_PAGES = 256  # given back to the file system by one delete, once more than half of the file is free
_INT64 = range(-(2**63), 2**63)
_CHANGES_PAGE = 1_000  # changes read at once


class SqliteStore:
    """A DocumentStore in one file, with a thread and a connection for writes and another for reads.

    `timeout` bounds writes, `read_timeout` reads, `busy_timeout` the wait for another process's write, all in
    seconds; `max_bytes` bounds the file (None: the disk does), `max_changes` what others can follow. A write that timed out may still happen.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        read_timeout: float = 2.0,
        busy_timeout: float = 1.0,
        max_bytes: int | None = None,
        max_changes: int = 20_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._timeout, self._read_timeout, self._clock = timeout, read_timeout, clock
        self._file = _File(Path(path), busy_timeout, max_bytes, max_changes)
        self._writer: _Session | None = None
        self._reader: _Session | None = None
        self.undecodable = 0  # rows that scans skipped

    def __repr__(self) -> str:
        return f"<SqliteStore {self._file.path}: {'closed' if self._writer is None else 'open'}>"

    @property
    def set_aside(self) -> int:
        """How many unsound files were renamed and replaced."""
        return self._file.set_aside_count

    async def open(self) -> None:
        """Open or create the file, and purge some of what has expired.

        After a StoreError the store stays usable: every later call tries the file again.
        """
        if self._writer is None:
            self._writer = _Session(self._file, "sqlite-write", depth=1024)
            self._reader = _Session(self._file, "sqlite-read", depth=4096)
        await self._write("open", self._purge)
        await self._read("open", lambda db: None)

    async def close(self) -> None:
        """Close both connections; the last one out folds the write-ahead log into the file."""
        reader, writer, self._reader, self._writer = self._reader, self._writer, None, None
        async with bounded("sqlite: close", self._timeout):
            await asyncio.gather(*(session.close() for session in (reader, writer) if session is not None))

    async def get(self, id: int) -> bytes | None:
        """The document; None when unknown. An expired one answers until purged: the caller checks the TTL."""
        if id not in _INT64:
            return None
        sql = f"SELECT body FROM documents WHERE version = {_VERSION_OF_ID}"
        return await self._read("get", lambda db: _value(db.execute(sql, (id,)).fetchone()))

    async def put(self, records: Sequence[Record], seen: str | None = None) -> None:
        """All records in one transaction, on disk when this returns."""
        await self._write("put", lambda db: _insert(db, records, seen))

    async def delete(self, ids: Sequence[int]) -> None:
        """In small transactions, so that a large purge lets writes through between them."""
        known = [id for id in ids if id in _INT64]
        for start in range(0, len(known), _DELETES):
            await self._write("delete", partial(_delete, ids=known[start : start + _DELETES]))

    async def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        """Every unexpired entry in the order of writing, 1,000 at a time; the expired ones are purged first.

        Each page is its own short read, so a long scan never holds up the log: an entry replaced meanwhile
        comes twice, the newer one last.
        """
        await self._purge_all()
        undecodable, version, more = self.undecodable, 0, True
        while more:
            version, page = await self._read("scan", partial(self._page, after=version))
            more = version > 0
            if page:
                yield page
        if self.undecodable > undecodable:
            _log.warning(
                "%s: skipped %d undecodable entries", self._file.path, self.undecodable - undecodable
            )

    async def get_meta(self, key: str) -> bytes | None:
        sql = "SELECT value FROM meta WHERE key = ?"
        return await self._read("get_meta", lambda db: _value(db.execute(sql, (key,)).fetchone()))

    async def put_meta(self, key: str, value: bytes) -> None:
        sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
        await self._write("put_meta", lambda db: _commit(db, sql, (key, bytes(value))))

    async def claim_meta(self, key: str, value: bytes) -> bytes:
        return await self._write("claim_meta", lambda db: _claim(db, key, bytes(value)))

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        """In transactions of 250 records, on disk when this returns."""
        rows = list(items.items())
        for start in range(0, len(rows), _SHELF_PAGE):
            await self._write("shelve", partial(_shelve, kind=kind, items=rows[start : start + _SHELF_PAGE]))

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None:
        """In transactions of 250 records."""
        for start in range(0, len(keys), _SHELF_PAGE):
            await self._write(
                "unshelve", partial(_unshelve, kind=kind, keys=keys[start : start + _SHELF_PAGE])
            )

    async def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """All of one kind by key, each once, in short reads of 250."""
        start = ""
        while page := await self._read("shelf", partial(_shelf, kind=kind, start=start)):
            yield page
            start = page[-1][0] + "\0"  # the very next key there can be

    async def position(self) -> str:
        """Which file it is, and the number of its newest change."""
        return await self._read("position", lambda db: _position(db, _newest(db)))

    async def changes(self, after: str) -> list[Change] | None:
        return await self._read("changes", lambda db: _changes(db, after))

    async def load(self, ids: Sequence[int]) -> list[tuple[Entry, bytes | None]]:
        found: list[tuple[Entry, bytes | None]] = []
        for start in range(0, len(ids), _PAGE):
            found += await self._read("load", partial(self._load, ids=ids[start : start + _PAGE]))
        return found

    async def announce(self, op: str, body: bytes) -> str:
        return await self._write("announce", lambda db: _announce(db, op, bytes(body)))

    async def unfinished(self) -> dict[str, bytes]:
        sql = "SELECT at, body FROM purges"
        return await self._read(
            "unfinished", lambda db: {_position(db, at): bytes(body) for at, body in db.execute(sql)}
        )

    async def finish(self, at: str) -> None:
        number = int(at.rpartition("-")[2])
        await self._write("finish", lambda db: _commit(db, "DELETE FROM purges WHERE at = ?", (number,)))

    async def append(self, journal: str, value: bytes, *, after: int | None = None, keep: int) -> int | None:
        return await self._write("append", lambda db: _append(db, journal, bytes(value), after, keep))

    async def journal(self, name: str, count: int) -> list[tuple[int, bytes]]:
        sql = "SELECT number, value FROM journals WHERE name = ? ORDER BY number DESC LIMIT ?"
        return await self._read(
            "journal", lambda db: [(n, bytes(value)) for n, value in db.execute(sql, (name, count))]
        )

    async def _read(self, action: str, work: Callable[[Database], T]) -> T:
        return await self._on(self._reader, action, self._read_timeout, work)

    async def _write(self, action: str, work: Callable[[Database], T]) -> T:
        return await self._on(self._writer, action, self._timeout, work)

    async def _on(
        self, session: "_Session | None", action: str, seconds: float, work: Callable[[Database], T]
    ) -> T:
        if session is None:
            raise StoreError(f"sqlite: {action}: the store is not open")
        async with bounded(f"sqlite: {action}", seconds):
            return await session.run(work)

    async def _purge_all(self) -> None:
        """Reading goes on where purging fails, on a full disk for one."""
        try:
            while await self._write("purge", self._purge) == _DELETES:
                pass
        except StoreError as error:
            _log.warning("%s: expired entries stay for now: %s", self._file.path, error)

    def _purge(self, db: Database) -> int:
        """Delete some expired entries; how many."""
        sql = "SELECT id FROM entries WHERE expires <= ? LIMIT ?"
        now = self._clock()
        if db.execute(sql, (now, 1)).fetchone() is None:
            return 0
        with _transaction(db):
            ids = [id for (id,) in db.execute(sql, (now, _DELETES))]
            _forget(db, ids)
        _shrink(db)
        return len(ids)

    def _page(self, db: Database, after: int) -> _Page:
        """The entries following version `after`; version 0 when these were the last."""
        # The unary + keeps the planner off the index on expires, which would mean a sort of everything.
        sql = (
            "SELECT version, id, metadata, vector FROM entries WHERE version > ? AND +expires > ?"
            " ORDER BY version LIMIT ?"
        )
        rows = db.execute(sql, (after, self._clock(), _PAGE)).fetchall()
        page = self._decoded([row[1:] for row in rows])
        return (rows[-1][0] if len(rows) == _PAGE else 0), page

    def _load(self, db: Database, ids: Sequence[int]) -> list[tuple[Entry, bytes | None]]:
        sql = "SELECT id, metadata, vector FROM entries WHERE id = ? AND expires > ?"
        now = self._clock()
        rows = (db.execute(sql, (id, now)).fetchone() for id in ids if id in _INT64)
        return self._decoded([row for row in rows if row is not None])

    def _decoded(self, rows: Sequence[tuple[int, object, object]]) -> list[tuple[Entry, bytes | None]]:
        page = []
        for id, metadata, vector in rows:
            try:
                page.append(_entry(id, metadata, vector))
            except codec.Undecodable:
                self.undecodable += 1
        return page


class _Session:
    """A thread and its connection: opened when first needed, reopened when the file is another one."""

    def __init__(self, file: "_File", name: str, depth: int) -> None:
        self._file = file
        self._lane = Lane(name, depth)
        self._db: Database | None = None
        self._identity: _Identity | None = None

    async def run(self, work: Callable[[Database], T]) -> T:
        return await self._lane.run(lambda: self._sound(work))

    async def close(self) -> None:
        """Disconnect after what is queued, and let the thread end."""
        await self._lane.finish(self._disconnect)

    def _sound(self, work: Callable[[Database], T]) -> T:
        """Do the work; if the file turns out to be unsound, once more on a fresh one."""
        try:
            return self._attempt(work)
        except sqlite3.DatabaseError as error:
            if not _unsound(error):
                raise
            self._disconnect()
            self._file.set_aside(self._identity, error)
            return self._attempt(work)

    def _attempt(self, work: Callable[[Database], T]) -> T:
        # Another thread or process may have set the file aside, or an operator removed it: follow the name.
        if self._db is None or self._file.identity() != self._identity:
            self._disconnect()
            self._identity = self._file.create()
            self._db = self._file.connect()
        try:
            return work(self._db)
        except BaseException:
            if self._db.in_transaction:  # rolling back failed too
                self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._db is not None:
            db, self._db = self._db, None
            db.close()


class _File:
    """The database file: created, opened with its schema in place, or set aside. Used by both threads."""

    def __init__(self, path: Path, busy_timeout: float, max_bytes: int | None, max_changes: int) -> None:
        self.path = path
        self._max_changes = max_changes
        self.set_aside_count = 0
        self._busy_timeout, self._max_bytes = busy_timeout, max_bytes
        self._lock = threading.Lock()

    def identity(self) -> _Identity | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def create(self) -> _Identity | None:
        """Make folder and file if missing, for this user's eyes only: the documents are people's words."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        return self.identity()

    def connect(self) -> Database:
        """A connection with pragmas set and the schema in place.

        The switch to WAL does not wait for other processes by itself, hence the retries.
        """
        deadline = time.monotonic() + self._busy_timeout
        while True:
            db = sqlite3.connect(self.path, timeout=self._busy_timeout, isolation_level=None)
            try:
                self._prepare(db)
                return db
            except BaseException as error:
                db.close()
                if not _busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def set_aside(self, identity: _Identity | None, error: Exception) -> None:
        """Rename the file and its log, unless it is no longer the one that was found unsound."""
        with self._lock:
            if self.identity() != identity:
                return
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{time.time_ns() % 10**9:09d}"
            aside = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
            self.set_aside_count += 1
        _log.error(
            "%s is not a sound database (%s): set aside as %s, going on empty", self.path, error, aside
        )

    def _prepare(self, db: Database) -> None:
        version = self._version(db)  # asked before anything is written
        for pragma in _SETTINGS if version else _FORMAT + _SETTINGS:
            db.execute(f"PRAGMA {pragma}")
        if version < len(_SCHEMA):
            self._upgrade(db)
        db.create_function("kept", 0, lambda: self._max_changes, deterministic=True)  # changes, for _change
        if self._max_bytes is not None:  # last, so that a full file still gets its newest table
            db.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // _pragma(db, 'page_size'))}")

    def _upgrade(self, db: Database) -> None:
        with _transaction(db):
            for statements in _SCHEMA[self._version(db) :]:  # none when another process was faster
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {len(_SCHEMA)}")

    def _version(self, db: Database) -> int:
        """How many parts of the schema are in place; StoreError when the file is not ours to touch."""
        # Tables first: another process may create them at this very moment, and marks them in the same commit.
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        owner, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        if owner == _APPLICATION and 0 < version <= len(_SCHEMA):
            return version
        if owner == _APPLICATION:
            raise StoreError(f"{self.path} has schema {version}, this gateway knows {len(_SCHEMA)}")
        if tables:
            raise StoreError(f"{self.path} is some other program's database")
        return 0


@contextmanager
def _transaction(db: Database) -> Iterator[None]:
    """All or nothing. Takes the write lock at once: upgrading a read later would fail instead of waiting."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise


def _commit(db: Database, sql: str, parameters: tuple[object, ...]) -> None:
    with _transaction(db):
        db.execute(sql, parameters)


def _insert(db: Database, records: Sequence[Record], seen: str | None) -> None:
    entries = [(r.entry.id, r.entry.expires, codec.encode(r.entry), r.vector) for r in records]
    documents = [(r.entry.id, r.document) for r in records]
    with _transaction(db):
        if seen is not None and not _has_seen(db, seen):
            raise Outdated("sqlite: put: a purge was announced")
        db.executemany(_DELETE_DOCUMENT, [(id,) for id, _ in documents])
        db.executemany(
            "INSERT OR REPLACE INTO entries (id, expires, metadata, vector) VALUES (?, ?, ?, ?)", entries
        )
        db.executemany(
            "INSERT OR REPLACE INTO documents (version, body) SELECT version, ?2 FROM entries WHERE id = ?1",
            documents,
        )
        for variants, ids in by_variants(records).items():
            _change(db, "put", ids, variants)


def _delete(db: Database, ids: Sequence[int]) -> None:
    with _transaction(db):
        gone = _forget(db, ids)
        if gone:
            _change(db, "delete", gone)
    _shrink(db)


def _forget(db: Database, ids: Sequence[int]) -> list[int]:
    """Which of them there were."""
    db.executemany(_DELETE_DOCUMENT, [(id,) for id in ids])
    return [id for id in ids if db.execute("DELETE FROM entries WHERE id = ?", (id,)).rowcount]


def _change(db: Database, op: str, ids: Sequence[int] = (), variants: int = 1, body: bytes = b"") -> int:
    """Tell those who follow, within the caller's transaction. Returns its number."""
    packed = b"".join(id.to_bytes(8, "big", signed=True) for id in ids)
    sql = "INSERT INTO changes (op, ids, variants, body) VALUES (?, ?, ?, ?)"
    number = db.execute(sql, (op, packed, variants, body)).lastrowid
    assert number is not None
    db.execute("DELETE FROM changes WHERE at <= ? - kept()", (number,))
    return number


def _newest(db: Database) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return 0 if row is None else int(row[0])


def _position(db: Database, number: int) -> str:
    """Another file has other changes under the same numbers."""
    of = db.execute("SELECT value FROM meta WHERE key = 'changes:of'").fetchone()[0]
    return f"{bytes(of).hex()}-{number}"


def _has_seen(db: Database, seen: str) -> bool:
    """Whether no purge was announced after a position."""
    purged = db.execute("SELECT value FROM meta WHERE key = 'changes:purged'").fetchone()[0]
    number = int(seen.rpartition("-")[2])
    return int(purged) <= number and _position(db, number) == seen


def _changes(db: Database, after: str) -> list[Change] | None:
    number = int(after.rpartition("-")[2])
    sql = "SELECT at, op, ids, variants, body FROM changes WHERE at > ? ORDER BY at LIMIT ?"
    rows = db.execute(sql, (number, _CHANGES_PAGE)).fetchall()
    if _position(db, number) != after or (rows[0][0] if rows else _newest(db) + 1) != number + 1:
        return None
    of = after.rpartition("-")[0]
    return [
        Change(f"{of}-{at}", op, _unpacked(ids), variants, bytes(body))
        for at, op, ids, variants, body in rows
    ]


def _unpacked(ids: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(ids[k : k + 8], "big", signed=True) for k in range(0, len(ids), 8))


def _announce(db: Database, op: str, body: bytes) -> str:
    with _transaction(db):
        number = _change(db, op, body=body)
        if op == "purge":
            db.execute("INSERT INTO purges (at, body) VALUES (?, ?)", (number, body))
            db.execute("UPDATE meta SET value = ? WHERE key = 'changes:purged'", (str(number),))
        return _position(db, number)


def _append(db: Database, journal: str, value: bytes, after: int | None, keep: int) -> int | None:
    with _transaction(db):
        last = db.execute("SELECT max(number) FROM journals WHERE name = ?", (journal,)).fetchone()[0] or 0
        if after is not None and after != last:
            return None
        db.execute("INSERT INTO journals (name, number, value) VALUES (?, ?, ?)", (journal, last + 1, value))
        db.execute("DELETE FROM journals WHERE name = ? AND number <= ?", (journal, last + 1 - keep))
        _change(db, "journal", body=journal.encode())
        return int(last) + 1


def _claim(db: Database, key: str, value: bytes) -> bytes:
    with _transaction(db):
        db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value))
        return bytes(db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])


def _shrink(db: Database) -> None:
    """Free pages are reused by later writes; only when most of the file is free is some of it given back."""
    free = _pragma(db, "freelist_count")
    if free > _SHRINK_PAGES and free * 2 > _pragma(db, "page_count"):
        db.executescript(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})")  # execute would free a single page


def _entry(id: int, metadata: object, vector: object) -> tuple[Entry, bytes | None]:
    if not isinstance(metadata, bytes) or not (vector is None or isinstance(vector, bytes)):
        raise codec.Undecodable("not an entry: wrong column type")
    entry = codec.decode(metadata)
    if entry.id != id:
        raise codec.Undecodable("not an entry: stored under another id")
    return entry, vector


def _shelve(db: Database, kind: str, items: Sequence[tuple[str, bytes]]) -> None:
    rows = [(kind, key.encode(), bytes(value)) for key, value in items]
    with _transaction(db):
        db.executemany("INSERT OR REPLACE INTO shelf (kind, key, value) VALUES (?, ?, ?)", rows)


def _unshelve(db: Database, kind: str, keys: Sequence[str]) -> None:
    rows = [(kind, key.encode()) for key in keys]
    with _transaction(db):
        db.executemany("DELETE FROM shelf WHERE kind = ? AND key = ?", rows)
    _shrink(db)


def _shelf(db: Database, kind: str, start: str) -> list[tuple[str, bytes]]:
    """The records from key `start` on, a page of them."""
    sql = "SELECT key, value FROM shelf WHERE kind = ? AND key >= ? ORDER BY key LIMIT ?"
    return [(key.decode(), value) for key, value in db.execute(sql, (kind, start.encode(), _SHELF_PAGE))]


def _value(row: tuple[bytes] | None) -> bytes | None:
    return None if row is None else bytes(row[0])


def _pragma(db: Database, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _unsound(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _busy(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: BaseException) -> int:
    """SQLite's primary result code; the extended ones carry more in the upper bits."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
