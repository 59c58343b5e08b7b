"""Exact nearest neighbours for small partitions.

Decides nothing but order: every live vector is compared. There may be a hundred thousand of these with one
entry each, so an instance must stay a few hundred bytes beside its vectors: no id map, no spare capacity.
"""

from collections.abc import Iterator

import numpy as np

from gateway.interfaces import Vector


class FlatIndex:
    """Rows of one array; a removed row is overwritten by the last one."""

    __slots__ = ("_ids", "_rows")
    tombstones = 0  # removal leaves none

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._rows: Vector | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return f"<FlatIndex {len(self)} entries>"

    def search(self, vector: Vector, k: int) -> list[tuple[int, float]]:
        """Up to k (id, cosine similarity), most similar first. `vector` is float32 (d,), of unit length."""
        n = len(self._ids)
        k = min(k, n)
        if k <= 0 or self._rows is None:
            return []
        scores = self._rows[:n] @ vector
        best = np.argpartition(scores, n - k)[n - k :] if k < n else np.arange(n)
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(self._ids[row], min(float(scores[row]), 1.0)) for row in best]

    def add(self, id: int, vector: Vector) -> None:
        """Insert, or replace the vector under this id. Raises ValueError where the dimension differs."""
        if self._rows is None:
            self._rows = np.empty((1, len(vector)), dtype=np.float32)  # a copy: never a view of a batch
            self._rows[0] = vector
            self._ids.append(id)
            return
        row = self._row(id)
        if row < 0:
            row = len(self._ids)
            if row == len(self._rows):
                self._resize(2 * row)
        self._rows[row] = vector
        if row == len(self._ids):
            self._ids.append(id)

    def remove(self, id: int) -> None:
        """Forget an id; unknown ids are ignored."""
        row = self._row(id)
        if row < 0 or self._rows is None:
            return
        last = len(self._ids) - 1
        self._rows[row] = self._rows[last]
        self._ids[row] = self._ids[last]
        self._ids.pop()
        if last == 0:
            self._rows = None
        elif 4 * last < len(self._rows):
            self._resize(2 * last)

    def items(self) -> tuple[list[int], Vector]:
        """All live ids and copies of their vectors (n, d)."""
        if self._rows is None:
            return [], np.empty((0, 0), dtype=np.float32)
        return self._ids.copy(), self._rows[: len(self._ids)].copy()

    def chunks(self) -> Iterator[tuple[list[int], Vector]]:
        """`items` in pieces, between which the index may change. Small as it is, one piece."""
        yield self.items()

    def _row(self, id: int) -> int:
        """Linear on purpose: 10 µs at 1,000 entries, against 200 bytes of dictionary for a lone one."""
        try:
            return self._ids.index(id)
        except ValueError:
            return -1

    def _resize(self, capacity: int) -> None:
        assert self._rows is not None
        n = len(self._ids)
        rows = np.empty((capacity, self._rows.shape[1]), dtype=np.float32)
        rows[:n] = self._rows[:n]
        self._rows = rows
