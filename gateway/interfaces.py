"""The plugs: small Protocols between rooms and adapters.

Colour says where it runs: sync methods are CPU-bound and run on the worker thread; async ones wait for I/O.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.exchange import Change, Entry, Record, Work

Vector = NDArray[np.float32]


class Embedder(Protocol):
    """Text → unit vectors. Owned by one worker thread; need not be thread-safe."""

    dim: int
    window: int  # tokens, special tokens included; longer texts must not be compared
    name: str  # identifies weights and runtime: vectors of two names never share an index

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, untruncated, special tokens included."""

    def encode(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, each row of unit length. May raise anything; the worker translates."""


class Classifier(Protocol):
    """Vectors → categories, on the same embedding the look-up uses."""

    def label(self, vectors: Vector) -> list[tuple[str, float]]:
        """For each row of (n, dim): the category's name and a confidence in [0, 1]."""


class Verifier(Protocol):
    """A second opinion on candidates that the guard agrees to. Deterministic."""

    name: str  # identifies what it learned
    embedder: str  # the name of the embedder whose vectors it understands

    def scores(self, asked: str, stored: Sequence[str], vector: Vector, vectors: Vector) -> list[float]:
        """The probability that each of n stored texts asks the same: (n,) in [0, 1]. vector (d,), vectors (n, d)."""


class VectorIndex(Protocol):
    """Nearest neighbours by inner product over unit vectors. One owner thread."""

    def __len__(self) -> int: ...

    def search(self, vector: Vector, k: int) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity), most similar first."""

    def add(self, id: int, vector: Vector) -> None:
        """Insert, or replace the vector under this id."""

    def remove(self, id: int) -> None:
        """Forget an id; unknown ids are ignored."""

    def items(self) -> tuple[list[int], Vector]:
        """All live ids and their vectors (n, dim), for compaction."""


class DocumentStore(Protocol):
    """Where documents live; the truth of which the in-memory index is a rebuildable cache.

    Every method raises `StoreError` (and nothing else) when the store cannot do it.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def get(self, id: int) -> bytes | None:
        """The document stored under an entry id, or None."""

    async def put(self, records: Sequence[Record], seen: str | None = None) -> None:
        """Store all records durably, atomically each; returns once they would survive a crash.

        `seen`: the position up to which the caller has applied others' changes. Raises Outdated, and stores
        nothing, when a purge was announced after it.
        """

    async def delete(self, ids: Sequence[int]) -> None:
        """Forget entries; unknown ids are ignored."""

    def scan(self) -> AsyncIterator[list[tuple[Entry, bytes | None]]]:
        """Every unexpired entry with its vector bytes, in batches, without the documents."""

    async def get_meta(self, key: str) -> bytes | None:
        """A small durable value: the tenant secret, the policy book edited by API, the embedder's name."""

    async def put_meta(self, key: str, value: bytes) -> None: ...

    async def claim_meta(self, key: str, value: bytes) -> bytes:
        """`put_meta` unless there is a value already; returns the one that stands, to all the same."""

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        """Keep small records of one kind beside the entries, durably, atomically each; replaces by key."""

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None:
        """Forget records; unknown keys are ignored."""

    def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        """All of one kind, in batches, in no order. One replaced meanwhile may come twice, the newer last."""

    async def position(self) -> str:
        """Where the changes end now."""

    async def changes(self, after: str) -> list[Change] | None:
        """The next changes after a position, in order, own ones included; None: some of them are not known any more."""

    async def load(self, ids: Sequence[int]) -> list[tuple[Entry, bytes | None]]:
        """Of these entries those that exist, with their vectors' bytes."""

    async def announce(self, op: str, body: bytes) -> str:
        """Tell all who share the store; returns the position. A `purge` is also kept until `finish`."""

    async def unfinished(self) -> dict[str, bytes]:
        """Purges that were announced, and perhaps not carried out to the end: position → body."""

    async def finish(self, at: str) -> None:
        """A purge was carried out: nothing that it means is in the store any more."""

    async def append(self, journal: str, value: bytes, *, after: int | None = None, keep: int) -> int | None:
        """Add to a durable journal, of which the newest `keep` values stay; returns its number, from 1 on.

        `after`: the number the newest must have for it; None comes back, and nothing was added, if it has not.
        """

    async def journal(self, name: str, count: int) -> list[tuple[int, bytes]]:
        """The newest values with their numbers, the newest first."""


class Load(Protocol):
    """What a strategy may know of a backend. Seconds of the caller's clock throughout."""

    id: str
    weight: float

    @property
    def in_flight(self) -> int:
        """Requests in progress that we sent."""

    def price(self, work: Work) -> float:
        """Dollars this work would cost here."""

    def expected(self, work: Work, now: float) -> float:
        """Seconds until this work would be complete here, were it sent now."""

    def pressure(self, now: float) -> float:
        """Load factor: 0 idle, 1 at capacity, more beyond it."""

    def warm(self, work: Work, now: float) -> int:
        """Prompt tokens of this work that the engine probably has in its prefix cache."""

    def given(self, now: float) -> float:
        """Requests placed here of late, the older the less they count: what weights are held against."""


B = TypeVar("B", bound=Load)


class RoutingStrategy(Protocol):
    """Which of the available backends takes this work. Pure: no I/O, no clock of its own."""

    reach: int  # backends of a larger pool it need see for one choice; 0: all of them

    def pick(self, available: Sequence[B], work: Work, now: float) -> B | None: ...
