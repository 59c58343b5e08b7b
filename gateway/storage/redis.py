"""A store shared by replicas: Redis holds documents, metadata with vectors, lifetimes and a change stream.

Decides the keys. All carry one hash tag, `gw:{namespace}:`, so that a script stays on one cluster node:
`e:<id>` metadata and vector, `d:<id>` document, both with a lifetime; `ids` sorted set of ids by expiry;
`changes` capped stream for replicas to follow; `purged` position of the newest purge, `purges` those not finished;
`w:<writer>` fences; `journal:<name>` capped streams; `meta` hash; `shelf:<kind>` hashes. Must never wait longer than
its timeouts, nor show the URL, which may hold a password. As durable as the server's appendfsync.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from gateway.errors import Outdated, StoreError
from gateway.exchange import Change, Entry, Record
from gateway.storage import codec, redis_scripts, redis_url
from gateway.storage.bounded import bounded, leaving

_log = logging.getLogger(__name__)
_PAGE = 1_000  # entries read or deleted in one round trip: some 2 MB with 384-float vectors
_SHELF_PAGE = 250  # shelved records, of a few kilobytes each, in one round trip
_CHANGES = 1_000  # changes read in one round trip
_NAME = 16  # characters of an id


class RedisStore:
    """A DocumentStore on a Redis server 6.2 or later, a Cluster, or behind Sentinels (see `redis_url`).

    `timeout` (seconds) bounds connecting, and each read and write of the socket; `deadline` bounds an
    operation as a whole, one reconnection included. Connections are made when needed: a server that was away
    is used again by the first call after its return. Writes go one after another, each with a number of its own:
    one that was given up, and reaches the server late, changes nothing any more.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        timeout: float = 1.0,
        deadline: float = 1.8,
        max_connections: int = 16,
        max_changes: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url, self._namespace = url, namespace
        self._timeout, self._deadline = timeout, deadline
        self._max_connections, self._max_changes = max_connections, max_changes
        self._clock = clock
        self._redis: Any = None  # redis.asyncio.Redis; its annotations differ from one release to the next
        self._places = asyncio.Semaphore(max_connections)  # not every kind of pool makes callers wait
        self._turn = asyncio.Lock()  # of writes
        self._writer, self._writes = secrets.token_hex(8), 0
        self.undecodable = 0  # values that scans skipped

    def __repr__(self) -> str:
        return f"<RedisStore {self._namespace}: {'closed' if self._redis is None else 'open'}>"

    async def open(self) -> None:
        """Connect. After a StoreError about the connection the store stays usable: later calls try again."""
        if self._redis is None:
            self._redis = redis_url.client(
                self._url, timeout=self._timeout, connections=self._max_connections
            )
        await self._call("open", "GET", self._key("purged"))

    async def close(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            async with bounded("redis: close", self._deadline):
                await redis_url.close(redis)

    async def get(self, id: int) -> bytes | None:
        """The document; None when unknown, expired, or evicted by the server."""
        document: bytes | None = await self._call("get", "GET", self._document(id))
        return document

    async def put(self, records: Sequence[Record], seen: str | None = None) -> None:
        """All records in one script, with their lifetimes and changes."""
        if not records:
            return
        now, keys, words = self._clock(), [], []
        try:
            for record in records:
                entry, packed = record.entry, codec.pack(record.entry, record.vector)
                lifetime = int((entry.expires - now) * 1000)  # ms
                keys += [self._entry(entry.id), self._document(entry.id)]
                words += [_name(entry.id), packed, record.document, lifetime, entry.expires, record.variants]
        except (ValueError, TypeError) as error:
            raise StoreError(f"redis: put: {error}") from error
        shared = [self._key(name) for name in ("ids", "changes", "purged")]
        done = await self._write("put", redis_scripts.PUT, [*shared, *keys], [seen or "", repr(now), *words])
        if done == b"OUTDATED":
            raise Outdated("redis: put: a purge was announced")

    async def delete(self, ids: Sequence[int]) -> None:
        """In scripts of 1,000."""
        shared = [self._key("ids"), self._key("changes")]
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            keys = [key(id) for id in page for key in (self._entry, self._document)]
            await self._write("delete", redis_scripts.DELETE, [*shared, *keys], [_name(id) for id in page])

    async def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        """Every unexpired entry by expiry, 1,000 at a time. Ids whose value was evicted are forgotten."""
        undecodable = self.undecodable
        await self._call("scan", "ZREMRANGEBYSCORE", self._key("ids"), "-inf", repr(self._clock()))
        place = _Place(repr(self._clock()))
        while members := await self._members(place):
            values = await self._call("scan", "MGET", *(self._key("e:") + name for name in members))
            if page := self._decoded(values):
                yield page
            await self._forget([name for name, value in zip(members, values, strict=True) if value is None])
        if self.undecodable > undecodable:
            _log.warning("redis: skipped %d undecodable entries", self.undecodable - undecodable)

    async def get_meta(self, key: str) -> bytes | None:
        value: bytes | None = await self._call("get_meta", "HGET", self._key("meta"), key)
        return value

    async def put_meta(self, key: str, value: bytes) -> None:
        await self._call("put_meta", "HSET", self._key("meta"), key, value)

    async def claim_meta(self, key: str, value: bytes) -> bytes:
        await self._call("claim_meta", "HSETNX", self._key("meta"), key, value)
        stands: bytes | None = await self.get_meta(key)
        return value if stands is None else stands

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        """In commands of 250 records, each command all or nothing."""
        fields = list(items.items())
        for start in range(0, len(fields), _SHELF_PAGE):
            flat = [part for field in fields[start : start + _SHELF_PAGE] for part in field]
            await self._call("shelve", "HSET", self._shelf(kind), *flat)

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _SHELF_PAGE):
            await self._call("unshelve", "HDEL", self._shelf(kind), *keys[start : start + _SHELF_PAGE])

    async def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """All of one kind; the server may repeat a record when the hash grows or shrinks meanwhile."""
        cursor = None
        while cursor != 0:
            cursor, found = await self._call(
                "shelf", "HSCAN", self._shelf(kind), cursor or 0, "COUNT", _SHELF_PAGE
            )
            items = [(key.decode("utf-8", "replace"), value) for key, value in found.items()]
            for start in range(0, len(items), _SHELF_PAGE):  # COUNT is but a hint
                yield items[start : start + _SHELF_PAGE]

    async def position(self) -> str:
        """The newest change's id in the stream; there always is one, to tell later whether it still is there."""
        at = await self._run("position", redis_scripts.POSITION, [self._key("changes")], [])
        return str(at.decode())

    async def changes(self, after: str) -> list[Change] | None:
        """The stream from a change on: when that very change is gone, so may be others."""
        found = await self._asked(
            "changes", lambda redis: redis.xrange(self._key("changes"), min=after, count=_CHANGES + 1)
        )
        if not found or found[0][0].decode() != after:
            return None
        return [_change(at.decode(), fields) for at, fields in found[1:]]

    async def load(self, ids: Sequence[int]) -> list[tuple[Entry, bytes | None]]:
        found = []
        for start in range(0, len(ids), _PAGE):
            keys = [self._entry(id) for id in ids[start : start + _PAGE]]
            found += self._decoded(await self._call("load", "MGET", *keys))
        return found

    async def announce(self, op: str, body: bytes) -> str:
        keys = [self._key(name) for name in ("changes", "purged", "purges")]
        at = await self._run("announce", redis_scripts.ANNOUNCE, keys, [op, body, self._max_changes])
        return str(at.decode())

    async def unfinished(self) -> dict[str, bytes]:
        found = await self._call("unfinished", "HGETALL", self._key("purges"))
        return {at.decode(): body for at, body in found.items()}

    async def finish(self, at: str) -> None:
        await self._call("finish", "HDEL", self._key("purges"), at)

    async def append(self, journal: str, value: bytes, *, after: int | None = None, keep: int) -> int | None:
        keys = [self._key(f"journal:{journal}"), self._key("changes")]
        words = [value, "" if after is None else after, keep, journal, self._max_changes]
        number = await self._run("append", redis_scripts.APPEND, keys, words)
        return int(number) or None

    async def journal(self, name: str, count: int) -> list[tuple[int, bytes]]:
        found = await self._asked(
            "journal", lambda redis: redis.xrevrange(self._key(f"journal:{name}"), count=count)
        )
        return [(int(at.partition(b"-")[0]), fields[b"value"]) for at, fields in found]

    def _open(self) -> Any:
        if self._redis is None:
            raise StoreError("redis: the store is not open")
        return self._redis

    async def _asked(self, action: str, ask: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """What the server says, within the deadline. `ask` is given the client."""
        async with bounded(f"redis: {action}", self._deadline, _away), self._places:
            return await leaving(ask(self._open()))

    async def _call(self, action: str, *command: Any) -> Any:
        return await self._asked(action, lambda redis: redis.execute_command(*command))

    async def _run(self, action: str, script: str, keys: Sequence[str], words: Sequence[Any]) -> Any:
        """A script as text: no server need remember it, and one that was restarted does not."""
        return await self._call(action, "EVAL", script, len(keys), *keys, *words)

    async def _write(self, action: str, script: str, keys: Sequence[str], words: Sequence[Any]) -> Any:
        """A script that changes entries: in its turn, behind the fence of this writer."""
        async with self._turn:
            self._writes += 1
            fence = self._key(f"w:{self._writer}")
            return await self._run(action, script, [fence, *keys], [self._writes, self._max_changes, *words])

    async def _members(self, place: "_Place") -> list[str]:
        """The next names after a place, which moves on."""
        found = await self._asked(
            "scan",
            lambda redis: redis.zrangebyscore(
                self._key("ids"), place.score, "+inf", start=place.seen, num=_PAGE, withscores=True
            ),
        )
        place.advance([score for _, score in found])
        return [member.decode("utf-8", "replace") for member, _ in found]

    def _decoded(self, values: Sequence[bytes | None]) -> list[tuple[Entry, bytes | None]]:
        page = []
        for value in values:
            try:
                if value is not None:
                    page.append(codec.unpack(value))
            except codec.Undecodable:
                self.undecodable += 1
        return page

    async def _forget(self, names: Sequence[str]) -> None:
        if names:
            await self._call("scan", "ZREM", self._key("ids"), *names)

    def _key(self, name: str) -> str:
        return f"gw:{{{self._namespace}}}:{name}"

    def _entry(self, id: int) -> str:
        return self._key("e:") + _name(id)

    def _shelf(self, kind: str) -> str:
        return self._key("shelf:") + kind

    def _document(self, id: int) -> str:
        return self._key("d:") + _name(id)


class _Place:
    """How far a scan by score has come: a score, and how many members with that very score were seen.

    An offset from the start would skip living members whenever others are deleted in front of it.
    """

    def __init__(self, score: str) -> None:
        self.score, self.seen = score, 0

    def advance(self, scores: Sequence[float]) -> None:
        if not scores:
            return
        last = repr(scores[-1])
        ties = sum(1 for score in scores if repr(score) == last)
        self.seen = self.seen + ties if last == self.score else ties
        self.score = last


def _name(id: int) -> str:
    return f"{id:016x}"


def _away(error: Exception) -> bool:
    """Whether Redis cannot be reached, is loading, or is not (yet, any more) the one that takes writes."""
    from redis import exceptions as e

    away = (TimeoutError, OSError, e.ConnectionError, e.TimeoutError, e.ReadOnlyError, e.ClusterDownError)
    refused = (e.AuthenticationError, e.AuthorizationError)
    told = str(error).startswith(("NOREPLICAS", "MASTERDOWN", "TRYAGAIN", "LOADING"))
    return told or (isinstance(error, (*away, e.RedisClusterException)) and not isinstance(error, refused))


def _change(at: str, fields: dict[bytes, bytes]) -> Change:
    names = fields.get(b"ids", b"").decode()
    ids = tuple(int(names[place : place + _NAME], 16) for place in range(0, len(names), _NAME))
    variants = int(fields.get(b"variants", 1))
    return Change(at, fields.get(b"op", b"").decode(), ids, variants, fields.get(b"body", b""))
