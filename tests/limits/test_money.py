"""Sums of money are exact, and every moment lies in the period it is told to lie in."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import money
from gateway.limits.money import Period


@given(st.lists(st.integers(0, 10_000_000), max_size=100))
def test_sums_do_not_drift(amounts: list[int]) -> None:
    assert sum(money.nanos(a / 1e6) for a in amounts) == sum(amounts) * 1000


@given(st.floats(0, 4e9), st.sampled_from(["day", "month"]))
def test_a_period_ends_when_the_next_begins(now: float, period: Period) -> None:
    left = money.left(period, now)
    assert 0 < left <= (86400 if period == "day" else 31 * 86400)
    assert money.name(period, now + left * 0.999) == money.name(period, now)
    assert money.name(period, now + left + 0.001) != money.name(period, now)


@pytest.mark.parametrize(
    ("period", "name", "left"), [("day", "2028-02-29", 3600), ("month", "2028-02", 3600)]
)
def test_the_end_of_a_leap_years_february(period: Period, name: str, left: float) -> None:
    now = datetime(2028, 2, 29, 23, tzinfo=UTC).timestamp()
    assert (money.name(period, now), money.left(period, now)) == (name, left)
