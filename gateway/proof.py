"""Whether a verifier's score beats plain similarity on labelled pairs of a category, and at what score it hits.

Pure functions of similarities, scores and labels. In doubt plain similarity stays: a verifier that was trained on
other questions than are asked here can be worse than none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from gateway.calibration import FLOOR, operating_point
from gateway.policy import fields

ABOVE = FLOOR  # similarity from which candidates are scored
LEAST = 0.5  # no operating point of the score goes lower: a hit is more probably right than wrong
WORDING: tuple[str, ...] = get_args(fields.Wording)  # checks of the guard that a score may stand in for
SIGNIFICANT = 0.025  # with and without the guard's checks of wording: two chances, 5 % together
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Proof:
    """Duplicates that hit by score alone, and by similarity alone, each at its own certified point."""

    above: float
    score: float
    gained: int
    lost: int
    p: float  # of a gain this large were both equally good
    waives: tuple[str, ...] = ()  # checks of the guard that the score stands in for

    @property
    def holds(self) -> bool:
        return self.p <= SIGNIFICANT and self.score <= 1


def prove(
    similarity: Array,
    scores: Array,
    duplicate: Array,
    agreed: Array,
    max_error: float,
    permitted: Array | None = None,
    waives: tuple[str, ...] = (),
    above: float = ABOVE,
) -> Proof | None:
    """n pairs: similarity, score, label and the guard's agreement, (n,) each; None: too few labels.

    permitted: the agreement of a guard without the checks it `waives`, by which the scores are judged.

    Both statistics get the conformal point of the known non-duplicates at `max_error`. Those are not the duplicates
    that are then compared, so given the points the paired sign test (McNemar's, exact, one-sided) is valid: of the
    duplicates that only one of the two lets hit, as many fall to the score by chance as to similarity.
    """
    others = ~duplicate
    wrong = np.ones(int(others.sum()), dtype=np.bool_)
    scored = (agreed if permitted is None else permitted) & (similarity >= above)
    plain = operating_point(similarity[others], wrong, max_error, agreed[others])
    score = operating_point(scores[others], wrong, max_error, scored[others])
    if plain is None or score is None:
        return None
    score = max(score, LEAST)
    by_score = scored & (scores >= score) & duplicate
    by_similarity = agreed & (similarity >= max(plain, FLOOR)) & duplicate
    gained, lost = int((by_score & ~by_similarity).sum()), int((by_similarity & ~by_score).sum())
    return Proof(above, score, gained, lost, at_least(gained, gained + lost), waives)


def proven(
    similarity: Array,
    scores: Array,
    duplicate: Array,
    agreed: Array,
    permitted: Array,
    max_error: float,
) -> Proof | None:
    """`prove` with the whole guard and with one that waives the checks of wording: the better of both."""
    known = similarity, scores, duplicate, agreed, max_error
    return better([prove(*known), prove(*known, permitted, WORDING)])


def better(proofs: Sequence[Proof | None]) -> Proof | None:
    """Of several ways to use a score the one that holds and gains most, or that comes nearest to holding."""
    return max(
        (proof for proof in proofs if proof is not None),
        key=lambda proof: (proof.holds, proof.gained - proof.lost),
        default=None,
    )


def at_least(heads: int, tosses: int) -> float:
    """The probability of so many heads or more of a fair coin; exact."""
    return float(sum(math.comb(tosses, k) for k in range(heads, tosses + 1)) / 2**tosses)
