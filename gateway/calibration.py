"""How high a threshold must be: hit rate against false-hit rate, and the point that bounds the error.

Pure functions of similarities and labels. They choose nothing about policies and read no files.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# No stricter threshold than an identical vector exists; above it nothing is reused.
NEVER = 1.0 + 1e-6


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold does to labelled pairs. Rates are in [0, 1]."""

    threshold: float
    hit_rate: float  # share of duplicates that hit
    false_hit_rate: float  # share of known non-duplicates that hit
    error_rate: float  # wrong hits / look-ups (all pairs)
    wrong_share: float  # wrong hits / hits


def curve(
    similarities: ArrayLike,
    duplicate: ArrayLike,
    agreed: ArrayLike | None = None,
    thresholds: ArrayLike = (),
    *,
    weights: ArrayLike | None = None,
    examples: float | None = None,
) -> list[Point]:
    """One point per threshold for n pairs: similarities, labels, guard agreement, all (n,); None: all agree.

    weights (n,): how many pairs each stands for; None: one. `examples`: look-ups in all, where more than these.
    An empty class has rate 0. Raises ValueError if the lengths differ.
    """
    similarity, is_duplicate, allowed = _arrays(similarities, duplicate, agreed)
    weight = np.ones(len(similarity)) if weights is None else np.asarray(weights, dtype=np.float64)
    right, wrong = weight * is_duplicate, weight * ~is_duplicate
    lookups = float(weight.sum()) if examples is None else examples

    def point(threshold: float) -> Point:
        hit = (similarity >= threshold) & allowed
        hits, errors = float(right[hit].sum()), float(wrong[hit].sum())
        return Point(
            threshold=threshold,
            hit_rate=_share(hits, float(right.sum())),
            false_hit_rate=_share(errors, float(wrong.sum())),
            error_rate=_share(errors, lookups),
            wrong_share=_share(errors, hits + errors),
        )

    return [point(float(threshold)) for threshold in np.asarray(thresholds, dtype=np.float64)]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def needed(max_error: float, bound: float = 1.0) -> int:
    """Examples below which no threshold can be certified: n ≥ B/α − 1, B the most that one may weigh."""
    if not 0 < max_error < 1:
        raise ValueError("max_error must lie strictly between 0 and 1")
    return math.ceil(bound / max_error - 1 - 1e-9)


def operating_point(
    similarities: ArrayLike,
    wrong: ArrayLike,
    max_error: float,
    agreed: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    bound: float = 1.0,
    examples: int | None = None,
) -> float | None:
    """The lowest threshold whose wrong hits are certified to stay within `max_error` of the n examples.

    Conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster 2022, arXiv 2208.02814, section 2, loss
    bounded by B): λ̂ = inf{λ : n/(n+1)·R̂(λ) + B/(n+1) ≤ α}, R̂ the share of examples that are wrong and hit.
    The expectation of the error on an exchangeable further example is then at most α. Over look-ups, pass
    every pair; over known non-duplicates (stricter), pass those alone.

    similarities (n,), wrong (n,) true where reuse would be wrong, agreed (n,) where the guard agrees.
    Of sampled examples, each judged with probability q: weights (n,) of 1/q make the loss of one that was not
    drawn 0 and of one that was 1/q, unbiased; `bound` is the largest weight there may be, `examples` their
    number with those not drawn, which need not be passed.
    None where n is too small to certify anything. Above 1 (`NEVER`) when no threshold in [-1, 1] will do.
    """
    similarity, is_wrong, allowed = _arrays(similarities, wrong, agreed)
    n = len(similarity) if examples is None else examples
    if n < needed(max_error, bound):
        return None
    risky = is_wrong & allowed
    order = np.argsort(-similarity[risky], kind="stable")
    lost = np.ones(len(similarity)) if weights is None else np.asarray(weights, dtype=np.float64)
    budget = (n + 1) * max_error - bound + 1e-9  # the weight of wrong hits there may be
    first = int(np.searchsorted(np.cumsum(lost[risky][order]), budget, side="right"))
    if first == len(order):
        return -1.0
    threshold = float(np.nextafter(similarity[risky][order[first]], np.inf))
    return threshold if threshold <= 1.0 else NEVER


def _arrays(
    similarities: ArrayLike, labels: ArrayLike, agreed: ArrayLike | None
) -> tuple[Floats, Bools, Bools]:
    similarity = np.asarray(similarities, dtype=np.float64)
    label = np.asarray(labels, dtype=np.bool_)
    allowed = (
        np.ones(len(similarity), dtype=np.bool_) if agreed is None else np.asarray(agreed, dtype=np.bool_)
    )
    if not len(similarity) == len(label) == len(allowed):
        raise ValueError("similarities, labels and guard verdicts differ in length")
    return similarity, label, allowed
