"""Nearest example utterances on the query's own vector: the category whose k best examples are closest.

Decides a category and how sure it is, for a whole batch in one product. A query far from every example gets
a low confidence, so that policy falls back to `default`. Must never embed anything.

Why k nearest: on the labelled prompts of `bench.classify` it beat class means, ridge and logistic heads by 6
to 12 points of mean accuracy; a broad category is many small clusters, not one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.interfaces import Vector

K = 6  # examples averaged; 4 to 8 are within a point of each other
STRANGER = 0.05  # quantile of the examples' own closeness below which a query counts as a stranger
TEMPERATURE, CLOSENESS = 0.03, 0.35  # where there are too few examples to calibrate on
ENOUGH = 50
CELLS = 4_000_000  # of the gathered array: bounds memory for large books and batches
_TEMPERATURES = np.geomspace(0.01, 0.2, 40)

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prototypes:
    """A fitted classifier. Frozen; a new book gets a new one."""

    names: tuple[str, ...]
    vectors: Vector  # (n, d)
    slots: NDArray[np.intp]  # (categories, width): the rows of each, n where it has no more
    discounts: Scores  # (categories,): what a category with fewer than K examples has too much
    temperature: float
    closeness: float  # score at which "none of these" is as likely as the best category

    def __repr__(self) -> str:
        return f"Prototypes({len(self.names)} categories, {len(self.vectors)} examples)"

    @classmethod
    def fit(cls, names: Sequence[str], vectors: Vector) -> "Prototypes":
        """From one category name and one unit vector (n, d) per example utterance."""
        labels = tuple(dict.fromkeys(names))
        rank = np.array([labels.index(name) for name in names], dtype=np.intp)
        rows = np.asarray(vectors, dtype=np.float32)
        slots = _slots(rank, len(labels))
        near = rows @ rows.T if labels else np.zeros((0, 0), np.float32)
        np.fill_diagonal(near, -1.0)  # leave one out
        sizes = np.bincount(rank, minlength=len(labels))
        discounts = _discounts(near, rank, sizes)
        judged = sizes[rank] > K
        scores = _scores(near[judged], slots) - discounts
        temperature, closeness = _calibrate(scores, rank[judged])
        return cls(labels, rows, slots, discounts, temperature, closeness)

    def label(self, vectors: Vector) -> list[tuple[str, float]]:
        """For each row of (n, d): the category and a confidence in [0, 1]. Without examples: "default", 0."""
        if not self.names:
            return [("default", 0.0)] * len(vectors)
        scores = _scores(vectors @ self.vectors.T, self.slots) - self.discounts
        best, top = scores.argmax(axis=1), scores.max(axis=1, keepdims=True)
        odds = np.exp((scores - top) / self.temperature).sum(axis=1)  # of any category to the best
        stranger = np.exp(np.minimum((self.closeness - top[:, 0]) / self.temperature, 80.0))
        confidence = 1.0 / (odds + stranger)
        return [(self.names[c], p) for c, p in zip(best.tolist(), confidence.tolist(), strict=True)]


def _slots(rank: NDArray[np.intp], categories: int) -> NDArray[np.intp]:
    """Rows of each category, padded to equal width. Fewer than K examples are counted repeatedly."""
    rows = [np.flatnonzero(rank == c) for c in range(categories)]
    rows = [np.resize(own, max(len(own), K)) for own in rows]
    width = max((len(own) for own in rows), default=K)
    slots = np.full((categories, width), len(rank), dtype=np.intp)
    for c, own in enumerate(rows):
        slots[c, : len(own)] = own
    return slots


def _scores(near: Scores, slots: NDArray[np.intp]) -> Scores:
    """(b, n) cosines → (b, categories): the mean of each category's K best."""
    padded = np.full((near.shape[0], near.shape[1] + 1), -1.0, np.float32)
    padded[:, :-1] = near
    step = max(1, CELLS // max(1, slots.size))
    parts = [_best(padded[i : i + step].take(slots, axis=1), K) for i in range(0, len(padded), step)]
    return np.concatenate(parts) if parts else np.zeros((0, len(slots)), np.float32)


def _best(cosines: Scores, k: int) -> Scores:
    """Mean of the k largest along the last axis."""
    least = cosines.shape[-1] - k
    largest = np.partition(cosines, least, axis=-1)[..., least:]
    return np.asarray(np.add.reduce(largest, axis=-1) / np.float32(k))


def _discounts(near: Scores, rank: NDArray[np.intp], sizes: NDArray[np.intp]) -> Scores:
    """The mean of few best is higher than that of K: by how much, seen where a category has enough."""
    out = np.zeros(len(sizes), np.float32)
    large = [near[np.ix_(rank == c, rank == c)] for c in np.flatnonzero(sizes > K)]
    if large:
        for c in np.flatnonzero(sizes < K):
            out[c] = np.concatenate([_best(own, int(sizes[c])) - _best(own, K) for own in large]).mean()
    return out


def _calibrate(scores: Scores, rank: NDArray[np.intp]) -> tuple[float, float]:
    """Softmax temperature of the least leave-one-out log loss, and the closeness of a stranger."""
    if len(rank) < ENOUGH or scores.shape[1] < 2:
        return TEMPERATURE, CLOSENESS
    own = scores[np.arange(len(rank)), rank]
    gaps = scores - own[:, None]
    losses = [np.logaddexp.reduce(gaps / t, axis=1).mean() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))]), float(np.quantile(own, STRANGER))
