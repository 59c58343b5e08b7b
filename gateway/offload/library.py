"""The examples, wherever they are: in memory, in the vector index, on the store's shelf.

Decides where an example lies, who may see it, and what is written when. It must never let an example cross
tenants who do not both share, never make a request wait for the store, never bring back what was removed.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from gateway.errors import EmbedderBusy, EmbedderFailed, StoreError
from gateway.interfaces import Vector
from gateway.offload.examples import Example, Examples, Pattern

log = logging.getLogger("gateway.offload")
_BATCH = 256  # examples saved at once


class Index(Protocol):
    """The part of the worker that keeps vectors."""

    @property
    def embedder(self) -> Any: ...

    def add(self, id: int, partition: bytes, vector: Vector) -> Any: ...

    def remove(self, id: int, partition: bytes) -> Any: ...

    async def encode(self, texts: Sequence[str]) -> Vector: ...


class Criteria(Protocol):
    """What a purge means."""

    def means_example(self, id: int, tenant: str, category: str, model: str, user: int) -> bool: ...


class Shelf(Protocol):
    """The part of the store that keeps small records, kind by kind. Raises StoreError, nothing else."""

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None: ...

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None: ...

    def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]: ...


class Library:
    """Examples with their places.

    Args:
        shares: whether a tenant lets others see its examples, and sees theirs.
        failures: counts by step, "store" and "restore" among them.
    """

    def __init__(
        self,
        examples: Examples,
        index: Index,
        shelf: Shelf,
        *,
        shares: Callable[[str], bool],
        failures: Counter[str],
    ) -> None:
        self.examples = examples
        self.ready = False  # the shelf was read
        self._index = index
        self._shelf = shelf
        self._shares = shares
        self._failures = failures
        self._vectors: dict[int, Vector] = {}  # of new examples, until they are saved
        self._unsaved: set[int] = set()
        self._gone: set[int] = set()
        self._saving = asyncio.Lock()
        self._saved: set[int] = set()  # what the store is known to hold
        self._unwelcome: list[Callable[[Example], bool]] = []  # purged before they were loaded

    def __repr__(self) -> str:
        return f"<Library: {len(self.examples)} examples, {len(self._unsaved)} to save, {len(self._gone)} to remove>"

    @property
    def embedder(self) -> str:
        """Whose vectors these are; empty without one."""
        embedder = self._index.embedder
        return "" if embedder is None else str(embedder.name)

    def partitions(self, tenant: str, model: str) -> tuple[bytes, ...]:
        """Where in the index a tenant's request for a model finds examples."""
        own = _partition(tenant, model)
        return (own, _partition(None, model)) if self._shares(tenant) else (own,)

    def visible(
        self, tenant: str, model: str, found: Sequence[tuple[int, float]], share: bool
    ) -> list[tuple[Example, float]]:
        """Of what a search found, what this request may use. `share`: its policy permits other tenants' examples.

        Both sides are asked again, as they stand now: what was shared once may not be any more.
        """
        share = share and self._shares(tenant)
        seen = ((self.examples.visible(id, tenant, share), similarity) for id, similarity in found)
        return [
            (example, similarity)
            for example, similarity in seen
            if example is not None
            and example.model == model
            and (example.tenant == tenant or self._shares(example.tenant))
        ]

    def offer(
        self,
        example: Example,
        vector: Vector,
        *,
        allowed: bool,
        personal: Sequence[Pattern],
        neighbours: Sequence[tuple[int, float]],
    ) -> bool:
        """Take in a complete answer, if it may be and is worth it. `neighbours`: the nearest examples, by id."""
        offer = self.examples.offer(
            example, complete=True, allowed=allowed, personal=personal, neighbours=neighbours
        )
        if offer.reason is None:
            self._vectors[example.id] = vector
            self._place(example, vector)
            self._unsaved.add(example.id)
        for gone in offer.gone:
            self._forget(gone)
        return offer.reason is None

    def record(self, ids: Sequence[int], outcome: float) -> None:
        """An answer made with these examples was so good, in [0, 1]."""
        self.changed(e.id for e in self.examples.record(ids, outcome))

    def changed(self, ids: Iterable[int]) -> None:
        """These are to be saved again."""
        self._unsaved.update(ids)

    def remove(self, id: int) -> bool:
        """Forget an example, everywhere; False where there is none."""
        example = self.examples.remove(id)
        if example is not None:
            self._forget(example)
        return example is not None

    def matching(self, wanted: Callable[[Example], bool]) -> list[Example]:
        """The examples that a predicate picks."""
        return [example for example in self.examples if wanted(example)]

    def purge(self, wanted: Callable[[Example], bool]) -> int:
        """Forget what a predicate picks; those that a start has not loaded yet will not appear. Returns how many."""
        gone = self.matching(wanted)
        for example in gone:
            self.remove(example.id)
        if not self.ready:
            self._unwelcome.append(wanted)
        return len(gone)

    def purge_by(self, criteria: Criteria) -> int:
        """The same by what can be told to other replicas."""
        return self.purge(lambda e: criteria.means_example(e.id, e.tenant, e.category, e.model, e.user))

    def _place(self, example: Example, vector: Vector) -> None:
        self._index.add(example.id, _partition(example.tenant, example.model), vector)
        if example.share:
            self._index.add(example.id, _partition(None, example.model), vector)

    def _forget(self, example: Example) -> None:
        self._index.remove(example.id, _partition(example.tenant, example.model))
        if example.share:
            self._index.remove(example.id, _partition(None, example.model))
        self._unsaved.discard(example.id)
        self._vectors.pop(example.id, None)
        self._saved.discard(example.id)
        self._gone.add(example.id)

    # ── the shelf ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def due(self) -> int:
        """How many examples the store does not know as they are."""
        return len(self._unsaved) + len(self._gone)

    async def save(self) -> bool:
        """Put on the shelf what has changed, and take off what is gone. False: it failed, and all of it stays due."""
        async with self._saving:
            return await self._save()

    async def _save(self) -> bool:
        gone, due = list(self._gone), sorted(self._unsaved)[:_BATCH]
        try:
            if gone:  # first: nobody minds an outcome that is lost, but what was removed must not come back
                keys = [_hex(id) for id in gone]
                await self._shelf.unshelve("example", keys)
                await self._shelf.unshelve("example-vector", keys)
                self._gone.difference_update(gone)
            if due:
                await self._shelve(due)
        except BaseException as error:  # cancelled at shutdown, too: what was begun is due again
            self._unsaved.update(id for id in due if self.examples.get(id) is not None)
            if not isinstance(error, StoreError):
                raise
            self._failures["store"] += 1
            log.warning("examples are not saved yet: %s", error)
            return False
        return True

    async def _shelve(self, due: list[int]) -> None:
        examples = [e for id in due if (e := self.examples.get(id)) is not None]
        name = self.embedder.encode()
        vectors = {
            _hex(e.id): name + b"\0" + self._vectors[e.id].astype(np.float32, copy=False).tobytes()
            for e in examples
            if e.id in self._vectors
        }
        self._unsaved.difference_update(due)
        if vectors:  # first: an example without a vector is embedded anew, a vector alone is nothing
            await self._shelf.shelve("example-vector", vectors)
        await self._shelf.shelve("example", {_hex(e.id): e.pack() for e in examples})
        for example in examples:
            self._vectors.pop(example.id, None)
        self._saved.update(e.id for e in examples if self.examples.get(e.id) is not None)

    async def restore(self) -> None:
        """Read what is on the shelf; once the embedder has started.

        Raises:
            StoreError: the store cannot be read; what was loaded stays.
        """
        await self._load()
        self.ready = True
        self._unwelcome.clear()

    async def refresh(self) -> None:
        """What other replicas have added and removed since. Raises as `restore` does."""
        before = set(self._saved)  # what is saved while the shelf is read may not be in what was read
        found = await self._load()
        for id in before - found:
            example = self.examples.remove(id)
            if example is not None:
                self._forget(example)

    async def _load(self) -> set[int]:
        """Take in what the shelf has and we have not; gives all ids that it has."""
        found: set[int] = set()
        fresh: list[Example] = []
        async for batch in self._shelf.shelf("example"):
            for key, value in batch:
                found.add(int(key, 16))
                example = None if self._known(int(key, 16)) else self._unpacked(value)
                if example is not None:
                    fresh.append(example)
        if not fresh:
            return found
        vectors = await self._stored_vectors({example.id for example in fresh})
        bare = []
        for example in fresh:
            if self._known(example.id) or not self._take(example):
                continue
            if example.id in vectors:
                self._place(example, vectors[example.id])
            else:
                bare.append(example)
        await self._embed(bare)
        return found

    def _known(self, id: int) -> bool:
        return id in self._gone or self.examples.get(id) is not None

    def _unpacked(self, value: bytes) -> Example | None:
        try:
            return Example.unpack(value)
        except ValueError as error:
            self._failures["restore"] += 1
            log.warning("an example cannot be read: %s", error)
            return None

    def _take(self, example: Example) -> bool:
        """Whether it stays: wanted still, and within the budget."""
        self._saved.add(example.id)
        if any(unwelcome(example) for unwelcome in self._unwelcome):
            self._forget(example)
            return False
        for gone in self.examples.add(example):
            self._forget(gone)
        return self.examples.get(example.id) is not None

    async def _stored_vectors(self, wanted: set[int]) -> dict[int, Vector]:
        """Of the embedder in use; those of another are not comparable."""
        name, vectors = self.embedder, {}
        async for batch in self._shelf.shelf("example-vector"):
            for key, value in batch:
                made_by, _, raw = value.partition(b"\0")
                if (
                    int(key, 16) in wanted
                    and made_by.decode("utf-8", "replace") == name
                    and len(raw) % 4 == 0
                ):
                    vectors[int(key, 16)] = np.frombuffer(raw, dtype=np.float32)
        return vectors

    async def _embed(self, examples: Sequence[Example]) -> None:
        """Examples whose vector is missing, or another embedder's."""
        if not examples:
            return
        try:
            vectors = await self._index.encode([e.question for e in examples])
        except (EmbedderBusy, EmbedderFailed) as error:
            self._failures["restore"] += 1
            log.warning("%d examples cannot be found: %s", len(examples), error)
            return
        for example, vector in zip(examples, vectors, strict=True):
            self._vectors[example.id] = vector
            self._place(example, vector)
            self._unsaved.add(example.id)


def _partition(tenant: str | None, model: str) -> bytes:
    """Where a tenant's examples lie, or (None) those that all who share may see.

    The personalisation keeps it apart from every request's partition: a question never meets an example there.
    """
    whose = b"shared" if tenant is None else b"own\0" + tenant.encode("utf-8", "surrogateescape")
    name = model.encode("utf-8", "surrogateescape")
    return blake2b(b"%d\0%s%s" % (len(whose), whose, name), digest_size=32, person=b"gw examples").digest()


def _hex(id: int) -> str:
    return f"{id:016x}"
