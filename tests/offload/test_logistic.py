import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.offload.logistic import Estimate, Logistic, sigmoid


def fitted(n=1500, memory=1.0, seed=3):
    rng = np.random.default_rng(seed)
    truth = np.array([0.3, 1.5, -1.0])
    model = Logistic(np.zeros(3), np.full(3, 4.0), memory)
    x = np.hstack([np.ones((n, 1)), rng.standard_normal((n, 2))])
    y = rng.random(n) < sigmoid(x @ truth)
    for row, outcome in zip(x, y, strict=True):
        model.learn(row, float(outcome))
    return model, truth, x


def test_it_finds_the_weights_and_its_interval_holds_them():
    model, truth, _ = fitted()
    deviation = np.sqrt(np.diag(model.covariance))
    assert np.all(np.abs(model.mean - truth) < 3 * deviation)
    assert np.all(deviation < 0.12)


def test_its_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(40):
        model, truth, x = fitted(n=150, seed=seed)
        for row in x[:20]:
            estimate = model.estimate(row)
            held.append(estimate.bound(-1.28) <= sigmoid(row @ truth) <= estimate.bound(1.28))
    assert 0.72 < np.mean(held) < 0.92  # 0.80 in theory


def test_a_heavier_weight_is_that_many_observations():
    x = np.array([1.0, 0.5])
    once, twice = (Logistic(np.zeros(2), np.ones(2)) for _ in range(2))
    once.learn(x, 1.0, weight=2.0)
    for _ in range(2):
        twice.learn(x, 1.0)
    assert once.covariance == pytest.approx(twice.covariance, abs=0.05)
    assert once.mean == pytest.approx(twice.mean, rel=0.3)


def test_what_it_forgets_it_can_unlearn():
    x = np.array([1.0])
    forgetful, faithful = Logistic(np.zeros(1), np.ones(1), 0.95), Logistic(np.zeros(1), np.ones(1))
    for model in (forgetful, faithful):
        for outcome in [1.0] * 300 + [0.0] * 60:
            model.learn(x, outcome)
    assert forgetful.estimate(x).mean < 0.3
    assert faithful.estimate(x).mean > 0.6


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=60))
def test_it_stays_finite_and_the_covariance_positive(observations):
    model = Logistic(np.zeros(2), np.ones(2), 0.99)
    for a, b, outcome in observations:
        model.learn(np.array([a, b]), outcome)
    assert np.isfinite(model.mean).all()
    assert np.linalg.eigvalsh(model.covariance).min() > -1e-9


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(0, 3))
def test_a_mean_lies_within_its_bounds(logit, deviation, z):
    estimate = Estimate(logit, deviation)
    assert 0 <= estimate.bound(-z) <= estimate.bound(z) <= 1
    assert abs(estimate.mean - 0.5) <= abs(float(sigmoid(logit)) - 0.5) + 1e-12  # doubt draws to the middle


def test_what_was_learned_survives_bytes():
    model, _, x = fitted(n=50)
    other = Logistic(np.zeros(3), np.ones(3))
    other.load(orjson.loads(orjson.dumps(model.dump())))
    assert other.estimate(x[0]) == model.estimate(x[0])
    with pytest.raises(ValueError, match="3 features"):
        Logistic(np.zeros(2), np.ones(2)).load(model.dump())
