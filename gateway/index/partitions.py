"""One vector index per compatibility partition, and their upkeep.

Decides which kind of index a partition deserves and when it must be rebuilt: promoted from exact to HNSW,
compacted, or demoted. Never searches across partitions. All methods belong to the owner thread, except
`Rebuild.build`, which may run anywhere because it touches nothing but the rebuild's own data.
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.index.flat import FlatIndex
from gateway.index.hnsw import CHUNK, HnswIndex
from gateway.interfaces import Vector

Change = tuple[int, Vector | None]  # an id with its new vector, or None where it was removed
SETTLE = 32  # changes replayed on the owner thread at the swap; more go back to the builder
ROUNDS = 8  # after so many rounds the rest is replayed at once: mutations outrun the builder


@dataclass(frozen=True, slots=True)
class Stats:
    partitions: int
    entries: int
    graphs: int  # partitions served by HNSW
    tombstones: int
    rebuilds: int


class Rebuild:
    """A fresh index for one partition, made from a snapshot while the old one serves and changes.

    `gather` on the owner thread until it returns True, `build` on any, `Partitions.settle` on the owner;
    while that returns False, `build` and `settle` again.
    """

    def __init__(self, partition: bytes, index: FlatIndex | HnswIndex, flat: bool, dim: int) -> None:
        self.partition = partition
        self.index: FlatIndex | HnswIndex = FlatIndex() if flat else HnswIndex(dim, len(index) * 5 // 4)
        self.rounds = 0
        self._snapshot: Iterator[tuple[list[int], Vector]] = index.chunks()
        self._bulk: deque[tuple[list[int], Vector]] = deque()
        self.pending: list[Change] = []

    def gather(self) -> bool:
        """Copy the next piece of the old index. True when the snapshot is complete."""
        piece = next(self._snapshot, None)
        if piece is not None:
            self._bulk.append(piece)
        return piece is None

    def build(self, stop: threading.Event | None = None) -> None:
        """Insert what has been gathered and what `settle` handed over. Returns early when `stop` is set."""
        self.rounds += 1
        while self._bulk and not (stop and stop.is_set()):
            ids, vectors = self._bulk.popleft()
            for start in range(0, len(ids), CHUNK):
                self._insert(ids[start : start + CHUNK], vectors[start : start + CHUNK])
        for change in self.pending:
            if stop and stop.is_set():
                return
            self.apply(change)
        self.pending = []

    def apply(self, change: Change) -> None:
        id, vector = change
        if vector is None:
            self.index.remove(id)
        else:
            self.index.add(id, vector)

    def _insert(self, ids: list[int], vectors: Vector) -> None:
        if isinstance(self.index, HnswIndex):
            self.index.extend(ids, vectors)
        else:
            for id, vector in zip(ids, vectors, strict=True):
                self.index.add(id, vector)


class Partitions:
    """Partition → index. Exact search up to `flat_limit` entries, HNSW above."""

    def __init__(
        self, *, flat_limit: int = 1000, tombstone_share: float = 0.25, tombstone_min: int = 100
    ) -> None:
        self._flat_limit = flat_limit
        self._tombstone_share = tombstone_share
        self._tombstone_min = tombstone_min
        self._indexes: dict[bytes, FlatIndex | HnswIndex] = {}
        self._due: dict[bytes, None] = {}  # ordered set
        self._journals: dict[bytes, list[Change]] = {}  # of partitions under rebuild
        self._entries = self._graphs = self._tombstones = self._rebuilds = 0
        self.dim: int | None = None  # of the first vector ever added

    def __len__(self) -> int:
        return self._entries

    def __repr__(self) -> str:
        return f"<Partitions {self.stats()}>"

    def stats(self) -> Stats:
        """Plain counters, safe to read from any thread."""
        return Stats(len(self._indexes), self._entries, self._graphs, self._tombstones, self._rebuilds)

    def search(self, partition: bytes, vector: Vector, k: int) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity) within the partition, most similar first."""
        index = self._indexes.get(partition)
        return [] if index is None else index.search(vector, k)

    def add(self, id: int, partition: bytes, vector: Vector) -> None:
        """Insert or replace. Raises ValueError where the dimension is not that of all other vectors."""
        if vector.ndim != 1 or (self.dim is not None and vector.shape[0] != self.dim):
            raise ValueError(f"a vector of shape {vector.shape} among vectors of {self.dim} dimensions")
        self.dim = vector.shape[0]
        index = self._indexes.get(partition)
        if index is None:
            index = self._indexes[partition] = FlatIndex()
        self._change(partition, index, (id, vector))

    def remove(self, id: int, partition: bytes) -> None:
        """Forget an id; unknown ids and partitions are ignored. An emptied partition disappears."""
        index = self._indexes.get(partition)
        if index is not None:
            self._change(partition, index, (id, None))
            if not len(index):
                self._install(partition, None)

    @property
    def due(self) -> bool:
        """Whether `begin` may have something to start."""
        return bool(self._due)

    def begin(self) -> Rebuild | None:
        """Start the rebuild that has been due longest, if any."""
        while self._due:
            partition = next(iter(self._due))
            del self._due[partition]
            index = self._indexes[partition]
            if self._is_due(index):  # it may have shrunk back since
                self._journals[partition] = []
                return Rebuild(partition, index, len(index) <= self._flat_limit, self.dim or 0)
        return None

    def settle(self, rebuild: Rebuild) -> bool:
        """Swap the rebuilt index in. False: too much has changed meanwhile, `build` must run once more."""
        journal = self._journals[rebuild.partition]
        if len(journal) > SETTLE and rebuild.rounds < ROUNDS:
            rebuild.pending = journal
            self._journals[rebuild.partition] = []
            return False
        for change in journal:
            rebuild.apply(change)
        del self._journals[rebuild.partition]
        self._rebuilds += 1
        self._install(rebuild.partition, rebuild.index if len(rebuild.index) else None)
        return True

    def abandon(self, rebuild: Rebuild) -> None:
        """The rebuild failed: the old index stays until a later change makes it due again."""
        self._journals.pop(rebuild.partition, None)

    def compact(self) -> None:
        """Do every rebuild that is due, here and now."""
        while rebuild := self.begin():
            while not rebuild.gather():
                pass
            rebuild.build()
            self.settle(rebuild)

    def _change(self, partition: bytes, index: FlatIndex | HnswIndex, change: Change) -> None:
        entries, tombstones = len(index), index.tombstones
        id, vector = change
        if vector is None:
            index.remove(id)
        else:
            index.add(id, vector)
        self._entries += len(index) - entries
        self._tombstones += index.tombstones - tombstones
        if self._journals and (journal := self._journals.get(partition)) is not None:
            journal.append(change)  # a partition under rebuild is looked at again at the swap
        elif self._is_due(index):
            self._due[partition] = None

    def _is_due(self, index: FlatIndex | HnswIndex) -> bool:
        if isinstance(index, FlatIndex):
            return len(index) > self._flat_limit
        dead = index.tombstones
        crowded = dead > self._tombstone_min and dead > self._tombstone_share * (dead + len(index))
        return crowded or 2 * len(index) < self._flat_limit

    def _install(self, partition: bytes, index: FlatIndex | HnswIndex | None) -> None:
        """Put an index in a partition's place, or (None) let the partition disappear; keep the counters."""
        old = self._indexes.pop(partition, None)
        if old is not None:
            self._entries -= len(old)
            self._tombstones -= old.tombstones
            self._graphs -= isinstance(old, HnswIndex)
        self._due.pop(partition, None)
        if index is not None:
            self._indexes[partition] = index
            self._entries += len(index)
            self._tombstones += index.tombstones
            self._graphs += isinstance(index, HnswIndex)
            if self._is_due(index):
                self._due[partition] = None
