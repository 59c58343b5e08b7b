"""Extra traffic never exceeds its share of the requests and the floor."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.budget import Budget


@given(st.floats(0, 1), st.floats(0, 20), st.lists(st.booleans(), max_size=300))
def test_spent_never_exceeds_floor_and_share(share: float, floor: float, events: list[bool]) -> None:
    budget, earned = Budget(share, floor), 0
    for request in events:
        if request:
            budget.earn()
            earned += 1
        elif budget.covers():
            budget.spend()
        assert budget.spent <= floor + share * earned + 1e-6


def test_a_reserve_is_left_for_others() -> None:
    budget = Budget(0.5, 3.0)
    assert budget.covers(reserve=2.0)
    budget.spend()
    assert not budget.covers(reserve=2.0)
    assert budget.covers()


def test_what_is_saved_in_good_times_is_bounded() -> None:
    budget = Budget(1.0, 0.0)
    for _ in range(10_000):
        budget.earn()
    assert budget.left == 500.0
