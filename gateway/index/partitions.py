"""One vector index per compatibility partition, and their upkeep.

Decides which kind of index a partition deserves and when it must be rebuilt: promoted from exact to HNSW,
compacted, or demoted. Never searches across partitions. All methods belong to the owner thread, except
`Rebuild.build`, which may run anywhere because it touches nothing but the rebuild's own data.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.index.flat import FlatIndex
from gateway.index.hnsw import CHUNK, HnswIndex
from gateway.interfaces import Vector

Index = FlatIndex | HnswIndex
Piece = tuple[set[int], list[int], Vector]  # ids that are gone, ids that live, and their vectors (n, d)
PIECES = 8  # of `CHUNK` vectors, copied for one run of the builder: 3 MB at 384 dimensions
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
    """A fresh index for one partition, made while the old one serves and changes.

    `gather` on the owner thread until it returns True, `build` on any, `Partitions.settle` on the owner; while
    that returns False, the same again. What changes meanwhile is remembered by id alone, and read from the
    old index when its turn comes: beside the two indexes there is never more than `PIECES` of copies.
    """

    def __init__(self, partition: bytes, indexes: Mapping[bytes, Index], flat: bool, dim: int) -> None:
        old = indexes[partition]
        self.partition = partition
        self.index: Index = FlatIndex() if flat else HnswIndex(dim, len(old))
        self.rounds = 0
        self._indexes = indexes  # the old one may vanish and come back as another
        self._waiting = old.ids()
        self._pieces: list[Piece] = []

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is in the new index."""
        return not (self._waiting or self._pieces)

    def revisit(self, ids: list[int]) -> None:
        """These have changed: `gather` will look at them again."""
        self.rounds += 1
        self._waiting = ids

    def gather(self) -> bool:
        """Copy the next piece of the old index. True when it is time to build."""
        if self._waiting:
            self._pieces.append(self.copy(self._waiting[-CHUNK:]))
            del self._waiting[-CHUNK:]
        return not self._waiting or len(self._pieces) >= PIECES

    def build(self, stop: threading.Event | None = None) -> None:
        """Insert what has been gathered. Returns early when `stop` is set."""
        while self._pieces and not (stop and stop.is_set()):
            self.apply(self._pieces.pop())

    def copy(self, ids: list[int]) -> Piece:
        """What the old index says of these ids now."""
        old = self._indexes.get(self.partition)
        live, vectors = FlatIndex().take(ids) if old is None else old.take(ids)
        return set(ids).difference(live), live, vectors

    def apply(self, piece: Piece) -> None:
        gone, ids, vectors = piece
        for id in gone:
            self.index.remove(id)
        if ids:
            self.index.extend(ids, vectors)


class Partitions:
    """Partition → index. Exact search up to `flat_limit` entries, HNSW above.

    At 4,000 entries both take 0.13 ms; below, a graph gains nothing and its 2.6 MB of locks weigh more than
    2.5 kB an entry.
    """

    def __init__(
        self, *, flat_limit: int = 4000, tombstone_share: float = 0.25, tombstone_min: int = 100
    ) -> None:
        self._flat_limit = flat_limit
        self._tombstone_share = tombstone_share
        self._tombstone_min = tombstone_min
        self._indexes: dict[bytes, Index] = {}
        self._due: dict[bytes, None] = {}  # ordered set
        self._journals: dict[bytes, dict[int, None]] = {}  # partition under rebuild → ids changed meanwhile
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

    def take(self, partition: bytes, ids: list[int]) -> tuple[list[int], Vector]:
        """Those of the ids that are in the partition, and copies of their vectors (n, d).

        Each must have been there a moment ago: an index that was compacted since may raise RuntimeError.
        """
        index = self._indexes.get(partition)
        return FlatIndex().take(ids) if index is None else index.take(ids)

    def add(self, id: int, partition: bytes, vector: Vector) -> None:
        """Insert or replace. Raises ValueError where the dimension is not that of all other vectors."""
        if vector.ndim != 1 or (self.dim is not None and vector.shape[0] != self.dim):
            raise ValueError(f"a vector of shape {vector.shape} among vectors of {self.dim} dimensions")
        self.dim = vector.shape[0]
        index = self._indexes.get(partition)
        if index is None:
            index = self._indexes[partition] = FlatIndex()
        self._change(partition, index, id, vector)

    def remove(self, id: int, partition: bytes) -> None:
        """Forget an id; unknown ids and partitions are ignored. An emptied partition disappears."""
        index = self._indexes.get(partition)
        if index is not None:
            self._change(partition, index, id, None)
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
                self._journals[partition] = {}
                return Rebuild(partition, self._indexes, len(index) <= self._flat_limit, self.dim or 0)
        return None

    def settle(self, rebuild: Rebuild) -> bool:
        """Swap the rebuilt index in. False: there is more to copy, `gather` and `build` must run once more."""
        if not rebuild.complete:
            return False
        changed = list(self._journals[rebuild.partition])
        if len(changed) > SETTLE and rebuild.rounds < ROUNDS:
            rebuild.revisit(changed)
            self._journals[rebuild.partition] = {}
            return False
        rebuild.apply(rebuild.copy(changed))
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
            settled = False
            while not settled:
                while not rebuild.gather():
                    pass
                rebuild.build()
                settled = self.settle(rebuild)

    def _change(self, partition: bytes, index: Index, id: int, vector: Vector | None) -> None:
        entries, tombstones = len(index), index.tombstones
        if vector is None:
            index.remove(id)
            if len(index) == entries:
                return  # it was not there
        else:
            index.add(id, vector)
        self._entries += len(index) - entries
        self._tombstones += index.tombstones - tombstones
        if self._journals and (journal := self._journals.get(partition)) is not None:
            journal[id] = None  # a partition under rebuild is looked at again at the swap
        elif self._is_due(index):
            self._due[partition] = None

    def _is_due(self, index: Index) -> bool:
        if isinstance(index, FlatIndex):
            return len(index) > self._flat_limit
        dead = index.tombstones
        crowded = dead > self._tombstone_min and dead > self._tombstone_share * (dead + len(index))
        return crowded or 2 * len(index) < self._flat_limit

    def _install(self, partition: bytes, index: Index | None) -> None:
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
