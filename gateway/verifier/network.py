"""Small neural networks in numpy: what `fit` learned, answered without torch.

Several of one shape, their logits averaged: each is unsure in its own way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
ARRAYS = ("mean", "scale", "w1", "b1", "w2", "b2")


@dataclass(frozen=True, slots=True)
class Network:
    """k networks of d inputs and h hidden units.

    mean, scale: (d,); w1: (k, d, h); b1: (k, h); w2: (k, h); b2: (k,).
    """

    mean: Array
    scale: Array
    w1: Array
    b1: Array
    w2: Array
    b2: Array

    def __post_init__(self) -> None:
        k, d, h = self.w1.shape
        shapes = {"mean": (d,), "scale": (d,), "b1": (k, h), "w2": (k, h), "b2": (k,)}
        wrong = [name for name, shape in shapes.items() if getattr(self, name).shape != shape]
        if wrong or not all(np.isfinite(getattr(self, name)).all() for name in ARRAYS):
            raise ValueError(f"network: {', '.join(wrong) or 'weights'} of no use")

    def logits(self, inputs: Array) -> Array:
        """(n, d) → (n,), each row for itself: a batch changes nothing but the last digits."""
        x = (inputs - self.mean) / self.scale
        found = np.zeros(len(x), dtype=np.float32)
        for w1, b1, w2, b2 in zip(self.w1, self.b1, self.w2, self.b2, strict=True):
            found += np.maximum(x @ w1 + b1, 0.0) @ w2 + b2
        return found / np.float32(len(self.w1))

    def arrays(self, prefix: str) -> dict[str, Any]:
        """For np.savez, under `prefix`."""
        return {f"{prefix}.{name}": getattr(self, name) for name in ARRAYS}

    @classmethod
    def of(cls, arrays: Mapping[str, Any], prefix: str) -> "Network":
        """Raises KeyError or ValueError where arrays are missing or of no use."""
        found = [np.asarray(arrays[f"{prefix}.{name}"], dtype=np.float32) for name in ARRAYS]
        return cls(*found)


@dataclass(frozen=True, slots=True)
class Linear:
    """Logistic regression's logit: weight (d,), bias (1,)."""

    weight: Array
    bias: Array

    def __post_init__(self) -> None:
        if self.weight.ndim != 1 or self.bias.shape != (1,) or not np.isfinite(self.weight).all():
            raise ValueError("weights of no use")

    def probability(self, inputs: Array) -> Array:
        """(n, d) → (n,) in [0, 1]."""
        logits = np.clip(inputs @ self.weight + self.bias[0], -30.0, 30.0)
        found: Array = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        return found

    def arrays(self, prefix: str) -> dict[str, Any]:
        return {f"{prefix}.weight": self.weight, f"{prefix}.bias": self.bias}

    @classmethod
    def of(cls, arrays: Mapping[str, Any], prefix: str) -> "Linear":
        """Raises KeyError or ValueError where arrays are missing or of no use."""
        return cls(*(np.asarray(arrays[f"{prefix}.{name}"], dtype=np.float32) for name in ("weight", "bias")))


def between(vector: Array, vectors: Array) -> Array:
    """|u - v| and u * v, (d,) against (n, d) or (n, d) each → (n, 2d)."""
    return np.concatenate([np.abs(vector - vectors), vector * vectors], axis=1, dtype=np.float32)
