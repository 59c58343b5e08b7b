"""Logistic regression: what makes one probability of what several opinions say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


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


def weigh(inputs: Array, duplicate: Any, ridge: float = 3.0, steps: int = 30) -> Linear:
    """Logistic regression by Newton's method, the ridge on standardised inputs; its probabilities are calibrated."""
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-4)
    x = np.concatenate([(inputs - mean) / scale, np.ones((len(inputs), 1))], axis=1).astype(np.float64)
    y = np.asarray(duplicate, dtype=np.float64)
    penalty = np.diag([ridge] * (x.shape[1] - 1) + [1e-6])
    weight = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weight, -30, 30)))
        slope = x.T @ (p - y) + penalty @ weight
        weight -= np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, slope)
    w = weight[:-1] / scale
    return Linear(w.astype(np.float32), np.array([weight[-1] - w @ mean], dtype=np.float32))
