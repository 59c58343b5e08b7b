"""Weighted rates: the interval holds the truth as often as it says."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.trust.rates import Rate, beta_cdf, beta_quantile, pooled


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 0.99))
def test_the_incomplete_beta_function_is_a_binomial_tail(a: int, b: int, x: float) -> None:
    n = a + b - 1
    tail = sum(math.comb(n, k) * x**k * (1 - x) ** (n - k) for k in range(a, n + 1))
    assert beta_cdf(x, a, b) == pytest.approx(tail, abs=1e-9)


def test_large_parameters_converge() -> None:
    assert beta_cdf(0.5, 5000, 5000) == pytest.approx(0.5, abs=1e-6)
    assert beta_quantile(0.975, 1, 1000) == pytest.approx(1 - 0.025 ** (1 / 1000), abs=1e-7)


def test_equal_weights_give_clopper_and_pearson() -> None:
    rate = Rate()
    for _ in range(60):
        rate.add(False, 50.0)
    assert rate.share == 0.0
    assert rate.interval() == (0.0, pytest.approx(1 - 0.025 ** (1 / 60), abs=1e-6))


def test_nothing_seen_says_nothing() -> None:
    assert Rate().share is None
    assert Rate().interval() == (0.0, 1.0)


@pytest.mark.parametrize("truth", [0.02, 0.1, 0.4])
def test_the_interval_of_unequal_samples_covers_the_truth(truth: float) -> None:
    """Hits are judged at one of three shares that tell nothing of whether they are wrong."""
    draw, covered, runs = random.Random(7), 0, 120
    for _ in range(runs):
        rate = Rate()
        for _ in range(1000):
            q = draw.choice((0.05, 0.1, 0.5))
            if draw.random() < q:
                rate.add(draw.random() < truth, 1 / q)
        low, high = rate.interval()
        covered += low <= truth <= high
    assert covered / runs >= 0.93


def test_the_estimate_is_unbiased_where_wrong_ones_are_judged_more_often() -> None:
    draw = random.Random(3)
    shares = []
    for _ in range(200):
        rate = Rate()
        for _ in range(1000):
            wrong = draw.random() < 0.1
            q = 0.5 if wrong else 0.1
            if draw.random() < q:
                rate.add(wrong, 1 / q)
        shares.append(rate.share or 0.0)
    assert sum(shares) / len(shares) == pytest.approx(0.1, abs=0.005)


def test_old_samples_fade() -> None:
    rate = Rate(memory=100)
    for at in range(100):
        rate.add(True, 1.0, at)
    for at in range(1000, 1100):
        rate.add(False, 1.0, at)
    assert rate.share is not None
    assert rate.share < 0.001


def test_what_is_saved_is_taken_up() -> None:
    rate, other = Rate(memory=50), Rate(memory=50)
    for at in range(20):
        rate.add(at % 5 == 0, 1 + at % 3, at)
    other.interval()
    other.load(rate.to_json())
    assert other.interval() == rate.interval()
    both = Rate()
    both.merge(rate)
    both.merge(rate)
    assert both.share == rate.share
    assert both.interval()[1] < rate.interval()[1]


def test_groups_together_are_no_better_known_than_the_one_that_is_hardly_judged() -> None:
    """A group judged at 9 % in which nothing was found, beside others judged throughout; 15 % were wrong."""
    hardly, well = (91.0, 0.0, 0.0, 0.38), (70.0, 0.047, 0.01, 0.12)
    rate, low, high = pooled([hardly, well])
    assert rate == pytest.approx(0.0204, abs=0.001)
    assert 0 < low < rate
    assert 0.15 < high < 0.38
    assert pooled([hardly]) == pytest.approx(hardly[1:])
    assert pooled([(10.0, None, 0.0, 1.0)]) == pooled([]) == (None, 0.0, 1.0)
    assert pooled([well, (7.0, None, 0.0, 1.0)])[2] > pooled([well])[2]
