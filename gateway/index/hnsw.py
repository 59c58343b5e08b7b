"""Approximate nearest neighbours for large partitions, by hnswlib.

Decides nothing but order. A removed entry leaves a tombstone that is never returned and never reused: using a
deleted slot again costs six fresh inserts, so the owner rebuilds instead. Never shared between threads:
hnswlib is safe for queries beside queries, not for queries beside inserts.
"""

import numpy as np

from gateway.interfaces import Vector

M = 16  # links a node; Malkov & Yashunin 2018, section 4.1: 5 to 48, higher for more dimensions
EF_CONSTRUCTION = 100
EF_SEARCH = 50
CHUNK = 256  # vectors copied or inserted at a time; keeps every single step around a few milliseconds


class HnswIndex:
    """Labels are the 63-bit entry ids; inner product on unit vectors, so similarity is 1 - distance."""

    def __init__(self, dim: int, capacity: int = 1024) -> None:
        import hnswlib

        self._graph = hnswlib.Index("ip", dim)
        self._graph.init_index(max(capacity, 1), M=M, ef_construction=EF_CONSTRUCTION)
        self._graph.set_ef(EF_SEARCH)
        self._graph.set_num_threads(1)
        self._dim = dim
        self._capacity = max(capacity, 1)
        self._slots = 0
        self._dead: set[int] = set()

    def __len__(self) -> int:
        return self._slots - len(self._dead)

    def __repr__(self) -> str:
        return f"<HnswIndex {len(self)} entries, {self.tombstones} tombstones>"

    @property
    def tombstones(self) -> int:
        return len(self._dead)

    def search(self, vector: Vector, k: int) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity), most similar first. `vector` is float32 (d,), of unit length."""
        k = min(k, len(self))
        while k > 0:
            try:
                labels, distances = self._graph.knn_query(vector, k=k, num_threads=1)
            except RuntimeError:
                # Fewer than k are reachable: many equal vectors split the graph. Fewer is a right answer.
                k //= 2
                continue
            found = zip(labels[0].tolist(), distances[0].tolist(), strict=True)
            return [(id, min(1.0 - distance, 1.0)) for id, distance in found]
        return []

    def add(self, id: int, vector: Vector) -> None:
        """Insert, or replace the vector under this id. Raises ValueError where the dimension differs."""
        self.extend([id], np.asarray(vector, dtype=np.float32).reshape(1, -1))

    def extend(self, ids: list[int], vectors: Vector) -> None:
        """Insert (n, d) vectors; the ids of one call must differ from each other."""
        if vectors.shape[1] != self._dim:
            raise ValueError(f"vectors of {vectors.shape[1]} dimensions in an index of {self._dim}")
        if self._slots + len(ids) > self._capacity:
            self._capacity = max(self._slots + len(ids), self._capacity * 5 // 4)
            self._graph.resize_index(self._capacity)
        self._graph.add_items(vectors, ids, num_threads=1)  # wakes a tombstone of the same id
        self._slots = self._graph.get_current_count()
        self._dead.difference_update(ids)

    def remove(self, id: int) -> None:
        """Forget an id; unknown ids are ignored."""
        if id in self._dead:
            return
        try:
            self._graph.mark_deleted(id)
        except RuntimeError:  # "Label not found": the only other cause, a second deletion, is excluded above
            return
        self._dead.add(id)

    def ids(self) -> list[int]:
        """All live ids."""
        labels: list[int] = self._graph.get_ids_list() if self._slots else []
        return [id for id in labels if id not in self._dead]

    def take(self, ids: list[int]) -> tuple[list[int], Vector]:
        """Those of the ids that are still live, and copies of their vectors (n, d). Each must have been added."""
        live = [id for id in ids if id not in self._dead]
        if not live:
            return [], np.empty((0, self._dim), dtype=np.float32)
        return live, np.asarray(self._graph.get_items(live), dtype=np.float32)

    def items(self) -> tuple[list[int], Vector]:
        """All live ids and copies of their vectors (n, d)."""
        return self.take(self.ids())
