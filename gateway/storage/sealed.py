"""Encryption at rest: any store, with every text in it sealed by a key that only the environment knows.

Decides what is sealed: questions, tags, vectors (a text can be guessed from one), documents, and all values beside
the entries. What is left open names nobody's words: ids, fingerprints, times, sizes, categories, models, tenants.
Must never return what a key did not seal as if it had, nor write a text in the open.
"""

import asyncio
import base64
import copy
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import StoreError
from gateway.exchange import Change, Entry, Record
from gateway.interfaces import DocumentStore
from gateway.keys import sealing
from gateway.storage.codec import SEALING

_MARK = b"\0sgw"  # what is sealed begins so; then 4 bytes that name the key, the nonce, and what AES-GCM made
_NONCE = 12  # bytes, at random: one key is good for 2^32 values (NIST SP 800-38D, 8.3)
_TEXT = "sealed:"  # and a sealed string begins so, the rest in base64
_LARGE = 64 << 10  # bytes from which the event loop is spared


class Unreadable(ValueError):
    """These bytes were sealed by another key, for another place, or were changed."""


class Seal:
    """AES-256-GCM under the first key; whatever one of the keys sealed can be opened. `place` is sealed in."""

    def __init__(self, keys: Sequence[str]) -> None:
        """keys: base64 of 32 bytes each. Raises ValueError, which does not show them."""
        if not keys:
            raise ValueError("no key")
        read = [sealing(key) for key in keys]
        self._ciphers = {
            blake2b(key, digest_size=4, person=b"gw sealing").digest(): AESGCM(key) for key in read
        }
        self._first = next(iter(self._ciphers))

    def seal(self, value: bytes, place: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return _MARK + self._first + nonce + self._ciphers[self._first].encrypt(nonce, value, place)

    def open(self, value: bytes, place: bytes) -> bytes:
        """What was sealed; a value from before there were keys is returned as it is. Raises Unreadable."""
        if not value.startswith(_MARK):
            return value
        start = len(_MARK) + 4
        cipher = self._ciphers.get(value[len(_MARK) : start])
        if cipher is None:
            raise Unreadable("sealed with another key")
        try:
            return cipher.decrypt(value[start : start + _NONCE], value[start + _NONCE :], place)
        except InvalidTag as error:
            raise Unreadable("not what was sealed here") from error

    def seal_text(self, text: str, place: bytes) -> str:
        return _TEXT + base64.b64encode(self.seal(text.encode("utf-8", "replace"), place)).decode()

    def open_text(self, text: str, place: bytes) -> str:
        """As `open`."""
        if not text.startswith(_TEXT):
            return text
        try:
            sealed = base64.b64decode(text.removeprefix(_TEXT), validate=True)
        except ValueError as error:
            raise Unreadable("not what was sealed here") from error
        return self.open(sealed, place).decode()


class SealedStore:
    """A DocumentStore inside which nothing can be read. What cannot be opened is counted, and missing."""

    def __init__(self, store: DocumentStore, keys: Sequence[str]) -> None:
        self._store, self._seal = store, Seal(keys)
        self.unreadable = 0

    def __repr__(self) -> str:
        return f"<SealedStore: {self._store!r}, {self.unreadable} unreadable>"

    async def open(self) -> None:
        """Raises StoreError also where another key sealed this store."""
        await self._store.open()
        place = b"meta:" + SEALING.encode()
        stands = await self._store.claim_meta(SEALING, self._seal.seal(b"", place))
        try:
            self._seal.open(stands, place)
        except Unreadable as error:
            await self._store.close()
            raise StoreError(f"the store cannot be read: {error}") from error

    async def close(self) -> None:
        await self._store.close()

    # ── entries ─────────────────────────────────────────────────────────────────────────────────────────

    async def get(self, id: int) -> bytes | None:
        sealed = await self._store.get(id)
        if sealed is None:
            return None
        try:
            if len(sealed) < _LARGE:
                return self._seal.open(sealed, _document(id))
            return await asyncio.to_thread(self._seal.open, sealed, _document(id))
        except Unreadable:
            self.unreadable += 1
            return None

    async def put(self, records: Sequence[Record], seen: str | None = None) -> None:
        await self._store.put(await asyncio.to_thread(lambda: [self._sealed(r) for r in records]), seen)

    async def delete(self, ids: Sequence[int]) -> None:
        await self._store.delete(ids)

    async def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        async for page in self._store.scan():
            yield await asyncio.to_thread(self._opened, page)

    async def load(self, ids: Sequence[int]) -> list[tuple[Entry, bytes | None]]:
        return await asyncio.to_thread(self._opened, await self._store.load(ids))

    def _sealed(self, record: Record) -> Record:
        entry, place = copy.copy(record.entry), _entry(record.entry.id)
        entry.question = self._seal.seal_text(entry.question, place) if entry.question else ""
        entry.tags = tuple(self._seal.seal_text(tag, place) for tag in entry.tags)
        vector = None if record.vector is None else self._seal.seal(record.vector, place)
        document = self._seal.seal(record.document, _document(entry.id))
        return replace(record, entry=entry, vector=vector, document=document)

    def _opened(self, page: Sequence[tuple[Entry, bytes | None]]) -> list[tuple[Entry, bytes | None]]:
        found: list[tuple[Entry, bytes | None]] = []
        for entry, vector in page:
            place = _entry(entry.id)
            try:
                entry.question = self._seal.open_text(entry.question, place)
                entry.tags = tuple(self._seal.open_text(tag, place) for tag in entry.tags)
                found.append((entry, None if vector is None else self._seal.open(vector, place)))
            except Unreadable:
                self.unreadable += 1
        return found

    # ── what is kept beside them ────────────────────────────────────────────────────────────────────────

    async def get_meta(self, key: str) -> bytes | None:
        value = await self._store.get_meta(key)
        return None if value is None else self._value(value, b"meta:" + key.encode())

    async def put_meta(self, key: str, value: bytes) -> None:
        await self._store.put_meta(key, self._seal.seal(value, b"meta:" + key.encode()))

    async def claim_meta(self, key: str, value: bytes) -> bytes:
        place = b"meta:" + key.encode()
        return self._value(await self._store.claim_meta(key, self._seal.seal(value, place)), place)

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        await self._store.shelve(kind, {k: self._seal.seal(v, _shelf(kind, k)) for k, v in items.items()})

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None:
        await self._store.unshelve(kind, keys)

    async def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        async for batch in self._store.shelf(kind):
            opened = []
            for key, value in batch:
                try:
                    opened.append((key, self._seal.open(value, _shelf(kind, key))))
                except Unreadable:
                    self.unreadable += 1
            yield opened

    async def append(self, journal: str, value: bytes, *, after: int | None = None, keep: int) -> int | None:
        sealed = self._seal.seal(value, b"journal:" + journal.encode())
        return await self._store.append(journal, sealed, after=after, keep=keep)

    async def journal(self, name: str, count: int) -> list[tuple[int, bytes]]:
        place = b"journal:" + name.encode()
        return [
            (number, self._value(value, place)) for number, value in await self._store.journal(name, count)
        ]

    def _value(self, value: bytes, place: bytes) -> bytes:
        try:
            return self._seal.open(value, place)
        except Unreadable as error:
            self.unreadable += 1
            raise StoreError(f"{place.decode()}: {error}") from error

    # ── what others are told: ids, tenants and digests, no text ─────────────────────────────────────────

    async def position(self) -> str:
        return await self._store.position()

    async def changes(self, after: str) -> list[Change] | None:
        return await self._store.changes(after)

    async def announce(self, op: str, body: bytes) -> str:
        return await self._store.announce(op, body)

    async def unfinished(self) -> dict[str, bytes]:
        return await self._store.unfinished()

    async def finish(self, at: str) -> None:
        await self._store.finish(at)


def _entry(id: int) -> bytes:
    return b"entry:%d" % id


def _document(id: int) -> bytes:
    return b"document:%d" % id


def _shelf(kind: str, key: str) -> bytes:
    return f"shelf:{kind}:{key}".encode("utf-8", "surrogatepass")
