"""A verifier is used where labels prove it better, and nowhere else."""

import numpy as np
import pytest

from gateway.calibration import needed
from gateway.proof import LEAST, WORDING, Proof, at_least, better, prove


def made(n: int, seed: int, helps: float) -> Proof:
    """n pairs, half of them duplicates; the score knows the label by `helps` standard deviations."""
    rng = np.random.default_rng(seed)
    duplicate = np.arange(n) % 2 == 0
    similarity = np.clip(0.85 + 0.03 * duplicate + rng.normal(0, 0.05, n), -1, 1)
    scores = 1 / (1 + np.exp(-(helps * (duplicate - 0.5) + rng.normal(0, 1, n))))
    found = prove(similarity, scores, duplicate, np.ones(n, dtype=bool), 0.05)
    assert found is not None
    return found


def test_a_score_that_knows_more_is_used() -> None:
    proof = made(1000, 1, helps=4)
    assert proof.holds
    assert proof.gained > proof.lost
    assert LEAST <= proof.score <= 1


def test_a_score_that_knows_nothing_is_not() -> None:
    assert not any(made(600, seed, helps=0).holds for seed in range(10))


def test_equally_good_is_seldom_taken_for_better() -> None:
    assert sum(made(600, seed, helps=0.55).holds for seed in range(40)) <= 8


def test_too_few_labels_prove_nothing() -> None:
    n = needed(0.05) - 1
    none = np.zeros(n, dtype=bool)
    assert prove(np.full(n, 0.9), np.full(n, 0.9), none, ~none, 0.05) is None


def test_what_the_guard_objects_to_and_what_is_far_is_not_counted() -> None:
    duplicate = np.array([True] * 30 + [False] * 30)
    similarity = np.where(np.arange(60) % 2 == 0, 0.5, 0.95)
    agreed = np.zeros(60, dtype=bool)
    for allowed in (agreed, similarity < 0.7):
        proof = prove(similarity, duplicate.astype(float), duplicate, allowed, 0.05)
        assert proof is not None
        assert (proof.gained, proof.lost, proof.p, proof.holds) == (0, 0, 1.0, False)


@pytest.mark.parametrize(("heads", "tosses", "p"), [(0, 0, 1), (5, 5, 1 / 32), (1, 2, 0.75), (3, 4, 5 / 16)])
def test_a_fair_coin(heads: int, tosses: int, p: float) -> None:
    assert at_least(heads, tosses) == pytest.approx(p)


def test_wording_is_waived_only_where_that_gains_more() -> None:
    less, more, none = (
        Proof(0.7, 0.9, gained, 10, p) for gained, p in ((30, 0.001), (40, 0.0001), (60, 0.4))
    )
    assert better([less, more]) is more
    assert better([more, none]) is more, "the other does not hold"
    assert better([less, less]) is less
    assert better([None, none]) is none
    assert better([None, None]) is None


def test_a_score_is_judged_by_the_checks_that_stay() -> None:
    duplicate = np.arange(800) % 2 == 0
    similarity, scores = np.full(800, 0.9), duplicate * 0.9
    agreed, permitted = np.arange(800) % 4 != 0, np.ones(800, dtype=bool)
    kept = prove(similarity, scores, duplicate, agreed, 0.01)
    waived = prove(similarity, scores, duplicate, agreed, 0.01, permitted, WORDING)
    assert kept is not None
    assert waived is not None
    assert (kept.gained, kept.waives) == (200, ())
    assert (waived.gained, waived.waives) == (400, WORDING)
