"""A store that forgets at exit: for tests and `kind: memory`.

Decides nothing of its own: same bytes, same lifetimes and same answers as the durable stores. Must never hand
out the caller's own Entry object, so that what was stored cannot change afterwards.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from gateway.errors import StoreError
from gateway.exchange import Entry, Record
from gateway.storage import codec

_PAGE = 1_000  # entries a scan yields at once
_SHELF_PAGE = 250  # shelved records in one batch


class MemoryStore:
    """A DocumentStore in a dict of id → (expires, packed metadata and vector, document)."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[int, tuple[float, bytes, bytes]] = {}
        self._meta: dict[str, bytes] = {}
        self._shelves: dict[str, dict[str, bytes]] = {}

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

    async def put(self, records: Sequence[Record]) -> None:
        """All records, or none of them when one cannot be encoded."""
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

    async def delete(self, ids: Sequence[int]) -> None:
        for id in ids:
            self._rows.pop(id, None)

    async def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        """Every unexpired entry; the expired ones are dropped on the way."""
        now = self._clock()
        await self.delete([id for id, row in self._rows.items() if row[0] <= now])
        values = [row[1] for row in self._rows.values()]
        for start in range(0, len(values), _PAGE):
            yield [codec.unpack(value) for value in values[start : start + _PAGE]]

    async def get_meta(self, key: str) -> bytes | None:
        return self._meta.get(key)

    async def put_meta(self, key: str, value: bytes) -> None:
        self._meta[key] = bytes(value)

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
