"""Boosted oblivious trees in numpy (Prokhorenkova et al. 2018, CatBoost): every level asks all rows one question.

So a tree is a few feature numbers and thresholds, and a row's answers are the bits of its leaf's number: growing
them and asking them is a handful of array operations, without a library.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
BINS = 64
DEPTH, TREES, RATE, RIDGE = 4, 400, 0.06, 20.0


@dataclass(frozen=True, slots=True)
class Trees:
    """t trees of depth k: feature (t, k), threshold (t, k), leaf (t, 2^k): adds to the logit."""

    feature: NDArray[np.int64]
    threshold: Array
    leaf: Array

    def __post_init__(self) -> None:
        trees, depth = self.feature.shape
        if self.threshold.shape != (trees, depth) or self.leaf.shape != (trees, 1 << depth):
            raise ValueError("trees of no use")

    def logits(self, inputs: Array) -> Array:
        """(n, d) → (n,)"""
        bits = inputs[:, self.feature] > self.threshold  # (n, t, k)
        number = bits @ (1 << np.arange(self.feature.shape[1]))
        found: Array = self.leaf[np.arange(len(self.leaf)), number].sum(axis=1, dtype=np.float32)
        return found

    def arrays(self, prefix: str) -> dict[str, Any]:
        """For np.savez, under `prefix`."""
        return {f"{prefix}.{name}": getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, arrays: Mapping[str, Any], prefix: str) -> "Trees":
        """Raises KeyError or ValueError where arrays are missing or of no use."""
        return cls(*(np.asarray(arrays[f"{prefix}.{name}"]) for name in cls.__slots__))


def grow(inputs: Array, duplicate: Any, trees: int = TREES, depth: int = DEPTH, rate: float = RATE) -> Trees:
    """Gradient boosting of the log loss with Newton's leaf values, for (n, d) inputs and (n,) labels."""
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])) for column in inputs.T]
    binned = np.stack([np.searchsorted(e, c, side="left") for e, c in zip(edges, inputs.T, strict=True)])
    label = np.asarray(duplicate, dtype=np.float64)
    logit = np.zeros(len(label))
    grown = []
    for _ in range(trees):
        p = 1 / (1 + np.exp(-logit))
        slope, curve = label - p, p * (1 - p)
        splits, leaf_of = _tree(binned, edges, slope, curve, depth)
        sums = (np.bincount(leaf_of, weights=w, minlength=1 << depth) for w in (slope, curve))
        value = rate * next(sums) / (next(sums) + RIDGE)
        logit += value[leaf_of]
        grown.append(([f for f, _ in splits], [edges[f][b] for f, b in splits], value))
    feature, threshold, leaf = zip(*grown, strict=True)
    return Trees(np.array(feature), np.array(threshold, dtype=np.float32), np.array(leaf, dtype=np.float32))


def _tree(
    binned: Any, edges: list[Floats], slope: Floats, curve: Floats, depth: int
) -> tuple[list[tuple[int, int]], Any]:
    """(feature, bin) of each level, and each row's leaf."""
    leaf_of = np.zeros(len(slope), dtype=np.int64)
    splits: list[tuple[int, int]] = []
    for level in range(depth):
        _, feature, at = max(_gains(binned, edges, leaf_of, 1 << level, slope, curve))
        splits.append((feature, at))
        leaf_of += (binned[feature] > at).astype(np.int64) << level
    return splits, leaf_of


def _gains(
    binned: Any, edges: list[Floats], leaf_of: Any, leaves: int, slope: Floats, curve: Floats
) -> Iterator[tuple[float, int, int]]:
    """Of each feature the best bin to split all leaves at: (gain, feature, bin)."""
    for feature, bins in enumerate(binned):
        if not len(edges[feature]):
            continue
        cell = leaf_of * BINS + bins
        g, h = (
            np.bincount(cell, weights=w, minlength=leaves * BINS).reshape(leaves, BINS).cumsum(axis=1)
            for w in (slope, curve)
        )
        left, right = g**2 / (h + RIDGE), (g[:, -1:] - g) ** 2 / (h[:, -1:] - h + RIDGE)
        gain = (left + right).sum(axis=0)[: len(edges[feature])]
        at = int(gain.argmax())
        yield float(gain[at]), feature, at
