"""The arithmetic of rates: what passes over any stretch of time, and that giving back is exact."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import rates
from gateway.limits.rates import SECONDS, SLACK, Bucket

RATES = st.integers(1, 10_000)
STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=60)


@given(RATES, STEPS)
def test_over_any_stretch_no_more_passes_than_one_minutes_share_and_the_rate(
    rate: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, passed = Bucket(), 1_800_000_000.0, []
    for gap, units in steps:
        now += gap
        if bucket.takes(units, rate, now):
            bucket.add(units, rate, now)
            passed.append((now, units))
    for i, (start, _) in enumerate(passed):
        total = 0
        for end, units in passed[i:]:
            total += units
            assert total <= rate + (end - start) * rate / SECONDS + len(passed) * SLACK + 1e-3


@given(RATES)
def test_at_one_moment_exactly_the_rate_passes(rate: int) -> None:
    bucket, now, passed = Bucket(), 1_800_000_000.123, 0
    rate = rate % 500 + 1
    for _ in range(rate + 20):
        if bucket.takes(1, rate, now):
            bucket.add(1, rate, now)
            passed += 1
    assert passed == rate


@given(RATES, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=30))
def test_reserved_and_settled_is_as_if_only_the_use_had_been_taken(
    rate: int, pairs: list[tuple[int, int]]
) -> None:
    reserved, plain, now = Bucket(), Bucket(), 1_800_000_000.0
    for first, used in pairs:
        reserved.add(first, rate, now)
        reserved.add(used - first, rate, now)
        plain.add(used, rate, now)
    assert abs(reserved.level - plain.level) < 1e-6


@given(RATES, STEPS, st.integers(1, 100))
def test_what_is_told_is_what_happens(rate: int, steps: list[tuple[float, int]], units: int) -> None:
    bucket, now = Bucket(), 1_800_000_000.0
    for gap, taken in steps:
        now += gap
        bucket.add(taken, rate, now)
    units = min(units, rate)
    level = bucket.drained(rate, now)
    after = rates.wait(level, units, rate)
    assert bucket.takes(units, rate, now + after + 1e-5 + SECONDS * SLACK / rate)
    if after > 1:
        assert not bucket.takes(units, rate, now + after - 0.01 - SECONDS * 2 * SLACK / rate)
    assert bucket.drained(rate, now + rates.reset(level, rate) + 1e-5) <= 1e-3 * rate / SECONDS + 1e-6
    assert 0 <= rates.left(level, rate) <= rate


@given(RATES, st.floats(-1e6, 0))
def test_a_clock_set_back_gives_nothing(rate: int, back: float) -> None:
    bucket, now = Bucket(), 1_800_000_000.0
    bucket.add(rate, rate, now)
    bucket.add(0, rate, now + back)
    assert not bucket.takes(1, rate, now + back)
    assert bucket.at == now
