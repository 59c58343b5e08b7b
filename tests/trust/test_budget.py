"""An error budget closes what runs away, leaves alone what keeps it, and opens again."""

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.trust.budget import REFERENCE, Budget


def run(budget: Budget, lookups: int, error: float, alpha: float, draw: random.Random) -> int | None:
    """The look-up at which it closes."""
    for at in range(lookups):
        budget.passed(alpha)
        if draw.random() < error and budget.lost(1.0):
            return at
    return None


def test_what_keeps_its_budget_is_left_alone() -> None:
    closed = [run(Budget(10.0), 20_000, 0.01, 0.01, random.Random(seed)) for seed in range(10)]
    assert sum(at is not None for at in closed) <= 1


def test_what_runs_away_is_closed_soon() -> None:
    for seed in range(10):
        at = run(Budget(10.0), 5000, 0.1, 0.01, random.Random(seed))
        assert at is not None
        assert 0.1 * at < 30


@given(st.lists(st.one_of(st.none(), st.floats(1.0, 100.0)), max_size=300))
def test_what_is_owed_is_bounded_and_is_earned_back_in_a_known_time(events: list[float | None]) -> None:
    budget = Budget(10.0)
    for weight in events:
        if weight is None:
            budget.passed(0.01)
        else:
            budget.lost(weight)
        assert 0.0 <= budget.excess <= 12.5
    needed = int(12.5 / (REFERENCE * 0.01)) + 1
    for _ in range(needed):
        budget.passed(0.01)
    assert not budget.closed
    assert not budget.alarmed


def test_one_heavy_sample_does_not_close() -> None:
    budget = Budget(10.0)
    assert not budget.lost(1000.0)
    assert budget.alarmed


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(1, 5)), max_size=30))
def test_restating_never_raises_what_is_owed(observed: list[tuple[int, float]]) -> None:
    budget = Budget(10.0)
    for _ in range(6):
        budget.lost(2.0)
    assert budget.closed
    before = budget.excess
    opened = budget.restate(sorted(observed), 500, 0.01)
    assert budget.excess <= before
    assert opened == (not budget.closed)


def test_a_point_that_would_have_prevented_it_opens() -> None:
    budget = Budget(10.0)
    while not budget.lost(2.0):
        pass
    assert budget.restate([], 1000, 0.01)
    assert not budget.closed
