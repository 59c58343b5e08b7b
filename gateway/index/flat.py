"""Exact nearest neighbours for small partitions.

Decides nothing but order: every live vector is compared. There may be a hundred thousand of these with one
entry each, so a small instance must stay a few hundred bytes beside its vectors: no id map, no spare rows.
"""

import numpy as np

from gateway.interfaces import Vector

SMALL = 64  # entries up to which an id is found by looking at each: a microsecond, against a map's memory


def _products(rows: Vector, vector: Vector) -> Vector:
    """(n, d) · (d,) → (n,) on this thread alone.

    `rows @ vector` goes to BLAS, which wakes threads of its own: 0.1 ms on an idle machine, up to 16 ms on
    a busy one. `vecdot` is as fast and never does (NumPy 2; before that, einsum at half the speed).
    """
    if hasattr(np, "vecdot"):
        products: Vector = np.vecdot(rows, vector)
        return products
    return np.asarray(np.einsum("ij,j->i", rows, vector), dtype=np.float32)


def _roomy(n: int) -> int:
    """Rows to have for n and the next: an eighth more, as doubling keeps a third of all memory idle."""
    return n + n // 8 + 1


class FlatIndex:
    """Rows of one array; a removed row is overwritten by the last one."""

    __slots__ = ("_at", "_ids", "_rows")
    tombstones = 0  # removal leaves none

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._rows: Vector | None = None
        self._at: dict[int, int] | None = None  # id → row, beyond `SMALL`

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
        scores = _products(self._rows[:n], vector)
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
                self._resize(_roomy(row))
        self._rows[row] = vector
        if row == len(self._ids):
            self._ids.append(id)
            if self._at is not None:
                self._at[id] = row
            elif row >= SMALL:
                self._at = {id: row for row, id in enumerate(self._ids)}

    def extend(self, ids: list[int], vectors: Vector) -> None:
        """Insert (n, d) vectors."""
        for id, vector in zip(ids, vectors, strict=True):
            self.add(id, vector)

    def remove(self, id: int) -> None:
        """Forget an id; unknown ids are ignored."""
        row = self._row(id)
        if row < 0 or self._rows is None:
            return
        last = len(self._ids) - 1
        self._rows[row] = self._rows[last]
        moved = self._ids[row] = self._ids[last]
        self._ids.pop()
        if last <= SMALL // 2:
            self._at = None
        elif self._at is not None:
            self._at[moved] = row
            del self._at[id]
        if last == 0:
            self._rows = None
        elif 2 * last < len(self._rows):
            self._resize(_roomy(last))

    def ids(self) -> list[int]:
        """All live ids."""
        return self._ids.copy()

    def take(self, ids: list[int]) -> tuple[list[int], Vector]:
        """Those of the ids that are live, and copies of their vectors (n, d)."""
        if self._rows is None:
            return [], np.empty((0, 0), dtype=np.float32)
        found = [(id, row) for id in ids if (row := self._row(id)) >= 0]
        return [id for id, _ in found], self._rows[[row for _, row in found]]

    def items(self) -> tuple[list[int], Vector]:
        """All live ids and copies of their vectors (n, d)."""
        return self.take(self._ids)

    def _row(self, id: int) -> int:
        if self._at is not None:
            return self._at.get(id, -1)
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
