"""Operating points: certified or none."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calibration import needed
from gateway.trust.points import points, risks


@given(
    st.lists(st.floats(0.7, 1.0), max_size=60),
    st.integers(1, 5000),
    st.floats(1, 50),
    st.floats(0.002, 0.05),
)
def test_every_step_keeps_its_risk_or_there_is_none(
    wrong: list[float], lookups: int, bound: float, alpha: float
) -> None:
    found = points(wrong, [bound] * len(wrong), lookups, bound, alpha, 3 * alpha, 0.7)
    if lookups < needed(alpha, bound):
        assert found is None
        return
    assert found is not None
    assert list(found.steps) == sorted(found.steps, reverse=True)
    for step, risk in zip(found.steps, risks(alpha, 3 * alpha), strict=True):
        lost = bound * sum(s >= step for s in wrong)
        assert (lost + bound) / (lookups + 1) <= risk + 1e-6
        assert step >= 0.7
    assert found.low <= found.steps[0]


def test_load_that_may_spend_nothing_has_one_point() -> None:
    assert risks(0.01, None) == risks(0.01, 0.005) == (0.01,)
    assert risks(0.01, 0.03) == pytest.approx((0.01, 0.015, 0.02, 0.025, 0.03))


@pytest.mark.parametrize("q", [1.0, 0.1])
def test_the_realised_error_is_at_most_what_was_asked_on_average(q: float) -> None:
    """400 calibrations of 2000 look-ups: s uniform, wrong with probability 0.2·(1 − s), judged with probability q."""
    draw, alpha, errors = random.Random(5), 0.02, []
    for _ in range(400):
        s = [draw.random() for _ in range(2000)]
        wrong = [each for each in s if draw.random() < 0.2 * (1 - each) and draw.random() < q]
        found = points(wrong, [1 / q] * len(wrong), 2000, 1 / q, alpha, None, 0.0)
        assert found is not None
        point = min(1.0, found.steps[0])
        errors.append(0.2 * (1 - point) ** 2 / 2)
    assert np.mean(errors) <= alpha + 3 * np.std(errors) / 20
    assert np.mean(errors) > 0.6 * alpha
