"""A store that forgets at exit: for tests and `kind: memory`.

Decides nothing of its own: same bytes, same lifetimes and same answers as the durable stores. Must never hand
out the caller's own Entry object, so that what was stored cannot change afterwards.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from gateway.errors import Outdated, StoreError
from gateway.exchange import Change, Entry, Record
from gateway.storage import codec

_PAGE = 1_000  # entries a scan yields at once
_SHELF_PAGE = 250  # shelved records in one batch


class MemoryStore:
    """A DocumentStore in a dict of id → (expires, packed metadata and vector, document)."""

    def __init__(self, *, max_changes: int = 10_000, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[int, tuple[float, bytes, bytes]] = {}
        self._meta: dict[str, bytes] = {}
        self._shelves: dict[str, dict[str, bytes]] = {}
        self._changes: deque[Change] = deque(maxlen=max_changes)
        self._last = 0  # position of the newest change
        self._purged = 0  # and of the newest purge
        self._purges: dict[str, bytes] = {}
        self._journals: dict[str, list[tuple[int, bytes]]] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._rows)} entries>"

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close: what was stored stays with this object."""

    async def get(self, id: int) -> bytes | None:
        """The document; None when unknown or expired."""
        row = self._rows.get(id)
        return row[2] if row is not None and row[0] > self._clock() else None

    async def put(self, records: Sequence[Record], seen: str | None = None) -> None:
        """All records, or none of them when one cannot be encoded."""
        if seen is not None and int(seen) < self._purged:
            raise Outdated("memory: a purge was announced")
        try:
            rows = {
                record.entry.id: (
                    record.entry.expires,
                    codec.pack(record.entry, record.vector),
                    bytes(record.document),
                )
                for record in records
            }
        except (ValueError, TypeError) as error:
            raise StoreError(f"memory: {error}") from error
        self._rows.update(rows)
        for variants, ids in by_variants(records).items():
            self._change("put", ids, variants)

    async def delete(self, ids: Sequence[int]) -> None:
        gone = tuple(id for id in ids if self._rows.pop(id, None) is not None)
        if gone:
            self._change("delete", gone)

    async def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        """Every unexpired entry; the expired ones are dropped on the way."""
        now = self._clock()
        for id in [id for id, row in self._rows.items() if row[0] <= now]:
            del self._rows[id]
        values = [row[1] for row in self._rows.values()]
        for start in range(0, len(values), _PAGE):
            yield [codec.unpack(value) for value in values[start : start + _PAGE]]

    async def get_meta(self, key: str) -> bytes | None:
        return self._meta.get(key)

    async def put_meta(self, key: str, value: bytes) -> None:
        self._meta[key] = bytes(value)

    async def claim_meta(self, key: str, value: bytes) -> bytes:
        return self._meta.setdefault(key, bytes(value))

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        """All items, or none of them when a key is no UTF-8."""
        try:
            "".join(items).encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"memory: {error}") from error
        shelf = self._shelves.setdefault(kind, {})
        shelf.update({key: bytes(value) for key, value in items.items()})

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None:
        shelf = self._shelves.get(kind, {})
        for key in keys:
            shelf.pop(key, None)

    async def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        items = list(self._shelves.get(kind, {}).items())
        for start in range(0, len(items), _SHELF_PAGE):
            yield items[start : start + _SHELF_PAGE]

    async def position(self) -> str:
        return str(self._last)

    async def changes(self, after: str) -> list[Change] | None:
        if not self._last - len(self._changes) <= int(after) <= self._last:
            return None
        new = self._last - int(after)
        return [self._changes[n] for n in range(len(self._changes) - new, len(self._changes))][:_PAGE]

    async def load(self, ids: Sequence[int]) -> list[tuple[Entry, bytes | None]]:
        now = self._clock()
        rows = (self._rows.get(id) for id in ids)
        return [codec.unpack(row[1]) for row in rows if row is not None and row[0] > now]

    async def announce(self, op: str, body: bytes) -> str:
        at = self._change(op, body=bytes(body))
        if op == "purge":
            self._purged = self._last
            self._purges[at] = bytes(body)
        return at

    async def unfinished(self) -> dict[str, bytes]:
        return dict(self._purges)

    async def finish(self, at: str) -> None:
        self._purges.pop(at, None)

    async def append(self, journal: str, value: bytes, *, after: int | None = None, keep: int) -> int | None:
        values = self._journals.setdefault(journal, [])
        last = values[-1][0] if values else 0
        if after is not None and after != last:
            return None
        values.append((last + 1, bytes(value)))
        del values[:-keep]
        self._change("journal", body=journal.encode())
        return last + 1

    async def journal(self, name: str, count: int) -> list[tuple[int, bytes]]:
        return self._journals.get(name, [])[::-1][:count]

    def _change(self, op: str, ids: Sequence[int] = (), variants: int = 1, body: bytes = b"") -> str:
        self._last += 1
        self._changes.append(Change(str(self._last), op, tuple(ids), variants, body))
        return str(self._last)


def by_variants(records: Sequence[Record]) -> dict[int, list[int]]:
    """Ids of records, by how many answers their requests may have: one change tells of each group."""
    groups: dict[int, list[int]] = {}
    for record in records:
        groups.setdefault(record.variants, []).append(record.entry.id)
    return groups
