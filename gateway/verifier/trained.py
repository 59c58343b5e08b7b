"""A trained verifier: cheap features first, the cross-encoder only where they leave it open.

Scores a candidate; what score is enough is the policy's to say. Deterministic, symmetric, each candidate for
itself, and 1.0 for texts that are the same but for case, spacing and compatibility forms.
"""

from collections.abc import Sequence

import numpy as np

from gateway.interfaces import Vector
from gateway.verifier.cross import CrossEncoder
from gateway.verifier.features import LONGEST, NAMES, Array, Rarity, compare, normal
from gateway.verifier.linear import Linear
from gateway.verifier.trees import Trees

FEATURES = (*NAMES, "trees", "cross-encoder")


class Trained:
    """Implements `interfaces.Verifier`.

    Args:
        trees: asked with the counted features.
        early: makes their logit a probability.
        late: makes one of both logits and the cosine; None, as `cross`, where there is no cross-encoder.
        least: early probability below which the cross-encoder is not asked.
    """

    def __init__(
        self,
        name: str,
        embedder: str,
        rarity: Rarity,
        trees: Trees,
        early: Linear,
        late: Linear | None = None,
        cross: CrossEncoder | None = None,
        least: float = 0.0,
    ) -> None:
        self.name = name
        self.embedder = embedder
        self.rarity = rarity
        self.trees, self.early, self.late = trees, early, late
        self.cross = cross
        self.least = least

    def __repr__(self) -> str:
        kind = "features" if self.cross is None else f"features, cross-encoder from {self.least:.2f}"
        return f"<Verifier {self.name} for {self.embedder}: {kind}>"

    def scores(self, asked: str, stored: Sequence[str], vector: Vector, vectors: Vector) -> list[float]:
        """The probability that each stored text asks the same, (n,) in [0, 1]. vector (d,), vectors (n, d)."""
        if not stored:
            return []
        counted = self.counted(asked, stored, vector, vectors)
        hints = self.trees.logits(counted)
        found = self.early.probability(hints[:, None])
        same = np.array([_same(asked, text) for text in stored], dtype=np.bool_)
        if self.cross is not None and self.late is not None:
            open_ = np.flatnonzero((found >= self.least) & ~same)
            read = self.cross.logits([(asked, stored[int(at)]) for at in open_])
            found[open_] = self.late.probability(evidence(counted[open_], hints[open_], read))
        found[same] = 1.0
        return [float(score) for score in np.nan_to_num(found, nan=0.0)]

    def counted(self, asked: str, stored: Sequence[str], vector: Vector, vectors: Vector) -> Array:
        """(n, len(NAMES))"""
        question, cosines = self.rarity.read(asked), vectors @ vector
        read = map(self.rarity.read, stored)
        return np.stack([compare(question, it, float(c)) for it, c in zip(read, cosines, strict=True)])


def evidence(counted: Array, hints: Array, cross: Array) -> Array:
    """(n, 3): the trees' logit, the cross-encoder's, the cosine."""
    return np.stack([hints, cross, counted[:, 0]], axis=1).astype(np.float32)


def _same(one: str, other: str) -> bool:
    return one == other or (len(one) + len(other) < 2 * LONGEST and normal(one) == normal(other))
