"""A store shared by replicas: Redis holds documents, metadata with vectors, lifetimes and a change stream.

Decides the keys. All carry one hash tag, `gw:{namespace}:`, so that a transaction stays on one cluster node:
`e:<id>` metadata and vector, `d:<id>` document, both with a lifetime; `ids` sorted set of ids by expiry;
`changes` capped stream of puts and deletes for replicas to follow; `meta` hash; `shelf:<kind>` hashes. Must never
wait longer than its timeouts, nor show the URL, which may hold a password. As durable as the server's appendfsync.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from gateway.errors import StoreError
from gateway.exchange import Entry, Record
from gateway.storage import codec
from gateway.storage.bounded import bounded

_log = logging.getLogger(__name__)
_PAGE = 1_000  # entries read or deleted in one round trip: some 2 MB with 384-float vectors
_SHELF_PAGE = 250  # shelved records, of a few kilobytes each, in one round trip


class RedisStore:
    """A DocumentStore on a Redis server 6.2 or later (`redis://`, `rediss://`, `unix://`).

    `timeout` (seconds) bounds connecting, and each read and write of the socket; `deadline` bounds an
    operation as a whole, one reconnection included. Connections are made when needed: a server that was away
    is used again by the first call after its return.
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
        self.undecodable = 0  # values that scans skipped

    def __repr__(self) -> str:
        return f"<RedisStore {self._namespace}: {'closed' if self._redis is None else 'open'}>"

    async def open(self) -> None:
        """Connect. After a StoreError about the connection the store stays usable: later calls try again."""
        if self._redis is None:
            self._redis = self._client()
        async with bounded("redis: open", self._deadline):
            await self._redis.ping()

    async def close(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            async with bounded("redis: close", self._deadline):
                await redis.aclose()
                await redis.connection_pool.disconnect()

    async def get(self, id: int) -> bytes | None:
        """The document; None when unknown, expired, or evicted by the server."""
        document: bytes | None = await self._call("get", "GET", self._document(id))
        return document

    async def put(self, records: Sequence[Record]) -> None:
        """All records in one transaction, with their lifetimes and changes."""
        if not records:
            return
        now = self._clock()
        async with bounded("redis: put", self._deadline), self._open().pipeline(transaction=True) as batch:
            batch.zremrangebyscore(self._key("ids"), "-inf", now)
            for record in records:
                self._put(batch, record, now)
            await batch.execute()

    async def delete(self, ids: Sequence[int]) -> None:
        """In transactions of 1,000."""
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            async with bounded("redis: delete", self._deadline), self._open().pipeline() as batch:
                batch.delete(*(key(id) for id in page for key in (self._entry, self._document)))
                batch.zrem(self._key("ids"), *(_name(id) for id in page))
                for id in page:
                    self._change(batch, "delete", id)
                await batch.execute()

    async def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        """Every unexpired entry by expiry, 1,000 at a time. Ids whose value was evicted are forgotten."""
        undecodable = self.undecodable
        await self._call("scan", "ZREMRANGEBYSCORE", self._key("ids"), "-inf", repr(self._clock()))
        place = _Place(repr(self._clock()))
        while members := await self._members(place):
            async with bounded("redis: scan", self._deadline):
                values = await self._open().mget([self._key("e:") + name for name in members])
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

    def _client(self) -> Any:
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError
        except ImportError as error:
            raise StoreError("redis: not installed; pip install 'semantic-gateway[redis]'") from error
        try:
            pool = BlockingConnectionPool.from_url(
                self._url,
                max_connections=self._max_connections,
                timeout=self._timeout,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                health_check_interval=30,
                protocol=2,
                retry=Retry(NoBackoff(), 1),  # a connection that went stale while idle is replaced, once
                retry_on_error=[ConnectionError],
            )
        except Exception:
            # The parser's message may quote the URL, password and all.
            raise StoreError("redis: the URL cannot be read") from None
        return Redis(connection_pool=pool)

    def _open(self) -> Any:
        if self._redis is None:
            raise StoreError("redis: the store is not open")
        return self._redis

    async def _call(self, action: str, *command: Any) -> Any:
        async with bounded(f"redis: {action}", self._deadline):
            return await self._open().execute_command(*command)

    def _put(self, batch: Any, record: Record, now: float) -> None:
        id, expires = record.entry.id, record.entry.expires
        lifetime = int((expires - now) * 1000)  # ms
        if lifetime <= 0:
            batch.delete(self._entry(id), self._document(id))
            batch.zrem(self._key("ids"), _name(id))
            return
        batch.set(self._entry(id), codec.pack(record.entry, record.vector), px=lifetime)
        batch.set(self._document(id), record.document, px=lifetime)
        batch.zadd(self._key("ids"), {_name(id): expires})
        self._change(batch, "put", id)

    def _change(self, batch: Any, op: str, id: int) -> None:
        change = {"op": op, "id": _name(id)}
        batch.xadd(self._key("changes"), change, maxlen=self._max_changes, approximate=True)

    async def _members(self, place: "_Place") -> list[str]:
        """The next names after a place, which moves on."""
        async with bounded("redis: scan", self._deadline):
            found = await self._open().zrangebyscore(
                self._key("ids"), place.score, "+inf", start=place.seen, num=_PAGE, withscores=True
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
