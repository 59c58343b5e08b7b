"""Headers that say when a backend wants to be asked again."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.routing.ratelimits import exhausted, pause


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After-Ms": "250"}, 0.25),
        ({"Retry-After-Ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "999999"}, 3600.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "later"}, None),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1s"}, None),
    ],
)
def test_what_a_refusal_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert pause(CIMultiDict(headers)) == seconds


def test_a_date_is_a_time_to_wait_for() -> None:
    waits = pause(CIMultiDict({"Retry-After": formatdate(time.time() + 30, usegmt=True)}))
    assert waits is not None
    assert 25 < waits <= 31


def test_of_two_limits_used_up_the_later_reset_counts() -> None:
    headers = CIMultiDict(
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "1m2s",
        }
    )
    assert exhausted(headers) == 62.0


@given(st.text(), st.text(), st.text())
def test_no_header_breaks_it(after: str, milliseconds: str, reset: str) -> None:
    headers = {
        "retry-after": after,
        "retry-after-ms": milliseconds,
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": reset,
    }
    waits = pause(headers)
    assert waits is None or 0 <= waits <= 3600
