"""Boosted trees as flat arrays, walked with numpy: a model that is data and can never be code.

Decides nothing but a logit. All trees lie in one array of nodes; a leaf is its own child, so that every walk may
go on to the depth of the deepest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Trees:
    """m nodes: feature, threshold, children, value (m,); the first node of each tree (t,)."""

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]  # where the feature is at most the threshold
    right: NDArray[np.int32]
    value: NDArray[np.float64]  # of a leaf; 0 elsewhere
    roots: NDArray[np.int32]
    depth: int
    baseline: float

    def logits(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, features) → (n,)."""
        rows = np.arange(len(x))[:, None]
        at = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        for _ in range(self.depth):
            below = x[rows, self.feature[at]] <= self.threshold[at]
            at = np.where(below, self.left[at], self.right[at])
        return np.asarray(self.value[at].sum(axis=1) + self.baseline, dtype=np.float64)

    def arrays(self) -> dict[str, Any]:
        """For np.savez."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, arrays: Mapping[str, Any], features: int) -> "Trees":
        """From what `arrays` gave. Raises ValueError or KeyError where a walk could leave the arrays."""
        feature, left, right, roots = (
            np.asarray(arrays[name], dtype=np.int32) for name in ("feature", "left", "right", "roots")
        )
        threshold, value = (np.asarray(arrays[name], dtype=np.float64) for name in ("threshold", "value"))
        nodes = len(feature)
        if not len(left) == len(right) == len(threshold) == len(value) == nodes:
            raise ValueError("the arrays of nodes differ in length")
        for pointers in (left, right, roots):
            if pointers.ndim != 1 or ((pointers < 0) | (pointers >= nodes)).any():
                raise ValueError("a tree points to a node that is not there")
        if ((feature < 0) | (feature >= features)).any():
            raise ValueError("a tree asks for a feature that is not there")
        depth, baseline = int(arrays["depth"]), float(arrays["baseline"])
        if not (0 <= depth <= 64 and np.isfinite(baseline) and np.isfinite(value).all()):
            raise ValueError("a tree's depth or values are out of bounds")
        return cls(feature, threshold, left, right, value, roots, depth, baseline)


def grow(x: NDArray[np.float32], wanted: NDArray[np.bool_]) -> Trees:
    """Gradient boosting by scikit-learn, taken apart. Raises RuntimeError if the parts answer differently."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=400, learning_rate=0.04, max_leaf_nodes=16, max_depth=6, max_features=0.3,
        min_samples_leaf=int(np.clip(len(x) // 200, 5, 60)), l2_regularization=5.0, early_stopping=False,
        random_state=0,
    )  # fmt: skip
    # Its many short steps would wait for each other on a busy machine.
    with threadpool_limits(1, user_api="openmp"):
        model.fit(x, wanted)
    found = _flat([predictors[0].nodes for predictors in model._predictors], model._baseline_prediction)
    if not np.allclose(found.logits(x[:256]), model.decision_function(x[:256]), atol=1e-5):
        raise RuntimeError("this release of scikit-learn keeps its trees in another form")
    return found


def _flat(trees: list[Any], baseline: Any) -> Trees:
    starts = np.concatenate([[0], np.cumsum([len(nodes) for nodes in trees])])[:-1]
    nodes = np.concatenate(trees)
    mine = np.arange(len(nodes))
    start = np.repeat(starts, [len(one) for one in trees])
    leaf = nodes["is_leaf"].astype(bool)
    return Trees(
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
        left=np.where(leaf, mine, nodes["left"] + start).astype(np.int32),
        right=np.where(leaf, mine, nodes["right"] + start).astype(np.int32),
        value=np.where(leaf, nodes["value"], 0.0),
        roots=starts.astype(np.int32),
        depth=int(nodes["depth"].max()),
        baseline=float(np.ravel(baseline)[0]),
    )
