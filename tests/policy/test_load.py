"""λ: the dead zone, smoothing over time, hysteresis, the way back, and the categories it leaves alone."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Load
from gateway.policy.book import Category
from gateway.policy.load import Adaptation, Factor, LoadTerms
from gateway.policy.policy import adapt

TERMS = LoadTerms(latency_target=2.0, queue_target=4.0, smoothing=10.0)


def run(factor: Factor, p95: float | None, queue: float, seconds: int, start: float = 0.0) -> list[float]:
    return [factor.sample(p95, queue, start + second) for second in range(seconds)]


def test_nominal_load_relaxes_nothing() -> None:
    assert set(run(Factor(TERMS), p95=2.0, queue=4.0, seconds=300)) == {0.0}


def test_a_lasting_burst_relaxes_fully_and_its_end_returns_to_exactly_the_policy() -> None:
    factor = Factor(TERMS)
    rise = run(factor, p95=10.0, queue=40.0, seconds=120)
    assert rise[-1] == 1.0
    assert rise == sorted(rise)
    fall = run(factor, p95=1.0, queue=0.0, seconds=120, start=120.0)
    assert fall[-1] == 0.0
    assert fall == sorted(fall, reverse=True)


def test_a_moment_is_not_a_burst() -> None:
    factor = Factor(TERMS)
    run(factor, p95=1.0, queue=0.0, seconds=10)
    assert factor.sample(10.0, 40.0, 10.0) == 0.0 or factor.value < 0.2


def test_no_latency_is_not_a_latency_of_zero() -> None:
    """When nobody gets an answer, the queue alone tells of load."""
    assert run(Factor(TERMS), p95=None, queue=40.0, seconds=120)[-1] == 1.0


def test_without_a_target_latency_is_held_against_what_it_is_without_load() -> None:
    slow, fast = Factor(LoadTerms(smoothing=10.0)), Factor(LoadTerms(smoothing=10.0))
    for factor, usual in ((slow, 30.0), (fast, 0.3)):
        assert set(run(factor, usual, 0.0, 60)) == {0.0}
        assert run(factor, 20 * usual, 8.0, 60, start=60.0)[-1] > 0.9


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=2, max_size=200))
def test_steps_are_no_smaller_than_the_hysteresis(queues: list[float]) -> None:
    factor = Factor(TERMS)
    values = [factor.sample(None, queue, float(second)) for second, queue in enumerate(queues)]
    for before, after in itertools.pairwise(values):
        assert 0.0 <= after <= 1.0
        assert before == after or after in (0.0, 1.0) or abs(after - before) >= TERMS.hysteresis - 1e-9


@given(st.floats(min_value=0.0, max_value=0.049))
def test_a_wobble_within_the_band_changes_nothing(wobble: float) -> None:
    factor = Factor(LoadTerms(queue_target=1.0, smoothing=0.001))
    run(factor, None, 2.0, 5)
    settled = factor.value
    assert settled == pytest.approx(0.5)
    for second in range(5, 50):
        factor.sample(None, 2.0 + 2 * wobble * (1 if second % 2 else -1), float(second))
        assert factor.value == settled


def test_a_category_whose_hits_are_wrong_is_frozen_until_they_are_right_again() -> None:
    adaptation = Adaptation(TERMS)
    for second in range(120):
        adaptation.sample("m", 10.0, 40.0, float(second))
    assert adaptation.of("m").of("code") == 1.0
    adaptation.judged("code", wrong=True)
    assert not adaptation.frozen  # one verdict is no evidence
    for _ in range(20):
        adaptation.judged("code", wrong=False)
    for _ in range(3):
        adaptation.judged("code", wrong=True)
    assert adaptation.frozen == {"code"}
    assert (adaptation.of("m").of("code"), adaptation.of("m").of("chat")) == (0.0, 1.0)
    for _ in range(200):
        adaptation.judged("code", wrong=False)
    assert adaptation.of("m").of("code") == 1.0


def test_switched_off_nothing_is_relaxed() -> None:
    adaptation = Adaptation(LoadTerms(enabled=False))
    adaptation.sample("m", 100.0, 100.0, 0.0)
    assert adaptation.of("m") == Load()
    assert adaptation.factors == {}


categories = st.builds(
    lambda threshold, slack, floor, factor, budget: Category.model_validate(
        {
            "name": "c",
            "cache": {"threshold": threshold, "ttl": "1h"},
            "load": {
                "threshold_slack": slack,
                "threshold_floor": floor,
                "ttl_factor": factor,
                "budget": sorted(budget, reverse=True),
            },
        }
    ),
    st.floats(min_value=0.8, max_value=1.0),
    st.floats(min_value=0.0, max_value=0.2),
    st.floats(min_value=0.7, max_value=1.0),
    st.floats(min_value=1.0, max_value=2.0),
    st.lists(st.floats(min_value=0.7, max_value=1.0), max_size=5),
)
loads = st.floats(min_value=0, max_value=1)


@given(categories, loads, loads)
def test_more_load_never_tightens_and_bounds_hold(category: Category, one: float, other: float) -> None:
    less, more = sorted((one, other))
    (tight, short), (eased, long) = adapt(category, less), adapt(category, more)
    base = category.cache.threshold
    assert eased <= tight + 1e-12 or (category.load.budget and category.load.budget[0] > base)
    assert short <= long <= 2 * category.cache.lifetime
    for threshold in (tight, eased):
        assert min(base, category.load.threshold_floor) <= threshold <= base


@given(categories)
def test_without_load_the_policy_is_exactly_as_written(category: Category) -> None:
    assert adapt(category, 0.0) == (category.cache.threshold, category.cache.lifetime)


def test_a_budget_is_spent_in_certified_steps() -> None:
    tree = {"name": "c", "cache": {"threshold": 0.95}, "load": {"budget": [0.93, 0.92], "max_error": 0.03}}
    category = Category.model_validate(tree)
    assert [round(adapt(category, load)[0], 4) for load in (0, 0.25, 0.5, 1)] == [0.95, 0.94, 0.93, 0.92]
