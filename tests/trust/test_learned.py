"""vCache's rule: nothing before six, seldom wrong after."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.trust.learned import LEAST, Learned, fit, tau


def truth(s: float, draw: random.Random) -> bool:
    """Right answers become likely above 0.9."""
    return draw.random() < 1 / (1 + 10 ** (-40 * (s - 0.9)))


@pytest.mark.parametrize("pooled", [True, False])
def test_everything_is_explored_until_enough_was_observed(pooled: bool) -> None:
    learned = Learned(0.02, pooled=pooled)
    for _ in range(LEAST - 1):
        learned.observe(1, 0.99, True)
    assert all(learned.explore(1, 0.999, u / 100) for u in range(100))


@given(st.floats(0.001, 0.1), st.floats(0, 1), st.floats(0, 1))
def test_nearer_is_explored_less_and_a_larger_delta_less(delta: float, one: float, two: float) -> None:
    draw = random.Random(1)
    statistics = [draw.uniform(0.7, 1) for _ in range(200)]
    found = fit(statistics, [truth(s, draw) for s in statistics])
    assert found is not None
    low, high = sorted((one, two))
    assert 0 <= tau(found, high, delta) <= tau(found, low, delta) <= 1
    assert tau(found, high, delta) <= tau(found, high, delta / 2)


def test_labels_that_say_nothing_explore_always() -> None:
    statistics = [i / 100 for i in range(100)]
    assert fit(statistics, [s < 0.5 for s in statistics]) is None
    assert tau(None, 1.0, 0.5) == 1.0


@pytest.mark.parametrize("delta", [0.01, 0.03])
def test_wrong_answers_stay_within_delta_of_all_requests(delta: float) -> None:
    draw, learned, wrong, hits, total = random.Random(2), Learned(delta), 0, 0, 4000
    for _ in range(total):
        entry, s = draw.randrange(500), draw.uniform(0.7, 1.0)
        right = truth(s, draw)
        if learned.explore(entry, s, draw.random()):
            learned.observe(entry, s, right)
        else:
            hits += 1
            wrong += not right
    assert wrong / total <= delta
    assert hits > 0.1 * total


def test_an_entry_that_was_wrong_must_convince_by_its_own() -> None:
    draw, learned = random.Random(3), Learned(0.02)
    for _ in range(400):
        s = draw.uniform(0.7, 1.0)
        learned.observe(None, s, truth(s, draw))
    assert not learned.explore(7, 0.99, 0.99)
    learned.observe(7, 0.99, False)
    assert learned.explore(7, 0.99, 0.99)
    learned.forget([7])
    assert not learned.explore(7, 0.99, 0.99)


def test_bounded_and_saved() -> None:
    learned, other = Learned(0.02, entries=10, pool=50), Learned(0.02, entries=10, pool=50)
    draw = random.Random(4)
    for entry in range(100):
        s = draw.uniform(0.7, 1.0)
        learned.observe(entry, s, truth(s, draw))
    state = learned.to_json()
    assert len(state["own"]) == 10
    assert len(state["pool"]) == 50
    other.from_json(state)
    assert other.to_json() == state
