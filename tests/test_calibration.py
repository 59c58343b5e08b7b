"""Curves and conformal operating points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.calibration import NEVER, curve, needed, operating_point


def test_a_curve_counts_hits_of_either_kind() -> None:
    points = curve([0.9, 0.8, 0.95, 0.7], [1, 1, 0, 0], None, [0.85, 0.75])
    strict, loose = points
    assert (strict.hit_rate, strict.false_hit_rate, strict.error_rate, strict.wrong_share) == (
        0.5,
        0.5,
        0.25,
        0.5,
    )
    assert (loose.hit_rate, loose.false_hit_rate) == (1.0, 0.5)


def test_the_guard_takes_hits_away() -> None:
    [point] = curve([0.9, 0.9], [1, 0], [True, False], [0.5])
    assert (point.hit_rate, point.false_hit_rate, point.wrong_share) == (1.0, 0.0, 0.0)


def test_a_curve_of_nothing_is_zero() -> None:
    [point] = curve([], [], None, [0.5])
    assert (point.hit_rate, point.false_hit_rate, point.error_rate, point.wrong_share) == (0, 0, 0, 0)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="length"):
        curve([0.9], [1, 0], None, [0.5])
    with pytest.raises(ValueError, match="length"):
        operating_point([0.9], [True], 0.5, [True, False])


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 99), (0.05, 19), (0.02, 49), (0.5, 1)])
def test_too_few_labels_certify_nothing(alpha: float, n: int) -> None:
    assert needed(alpha) == n
    assert operating_point(np.zeros(n - 1), np.ones(n - 1), alpha) is None
    assert operating_point(np.zeros(n), np.ones(n), alpha) is not None


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_an_impossible_error_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="max_error"):
        operating_point([0.5], [True], alpha)


def test_the_point_lies_just_above_the_first_wrong_hit_too_many() -> None:
    similarity = np.linspace(0.0, 0.99, 199)  # budget: floor(200 * 0.02 - 1) = 3 wrong hits
    threshold = operating_point(similarity, np.ones(199), 0.02)
    assert threshold is not None
    assert (similarity >= threshold).sum() == 3
    assert threshold == np.nextafter(similarity[-4], np.inf)


def test_a_guard_that_objects_lowers_the_point() -> None:
    similarity = np.linspace(0.0, 0.99, 199)
    agreed = similarity < 0.5
    open_, guarded = (operating_point(similarity, np.ones(199), 0.02, g) for g in (None, agreed))
    assert guarded < 0.5 < open_


def test_identical_vectors_that_are_wrong_leave_no_threshold() -> None:
    assert operating_point(np.ones(99), np.ones(99), 0.01) == NEVER


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.booleans(), st.booleans()), min_size=20, max_size=300),
    st.sampled_from([0.05, 0.1, 0.3]),
)
def test_the_bound_holds_and_is_tight(rows: list[tuple[float, bool, bool]], alpha: float) -> None:
    similarity, wrong, agreed = map(np.array, zip(*rows, strict=True))
    n = len(rows)
    threshold = operating_point(similarity, wrong, alpha, agreed)
    assert threshold is not None

    def risk(limit: float) -> float:
        return float((wrong & agreed & (similarity >= limit)).sum() / (n + 1) + 1 / (n + 1))

    assert risk(threshold) <= alpha + 1e-9
    if threshold > -1:
        assert risk(np.nextafter(threshold, -np.inf) if threshold <= 1 else 1.0) > alpha - 1e-9
