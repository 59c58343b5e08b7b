"""What callers are told, in the form OpenAI's clients and this gateway's own reader know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import tell
from gateway.limits.account import Standing, Terms
from gateway.routing.ratelimits import granted

TERMS = Terms(requests=60, tokens=6000, soft=2_000_000_000, hard=3_000_000_000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.02, "20ms"), (1.5, "1.5s"), (59.9996, "1m0s"), (360, "6m0s"), (3723, "1h2m3s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert tell.duration(seconds) == text


@given(st.floats(0, 60), st.floats(0, 6000))
def test_the_reader_of_such_headers_reads_ours(requests: float, tokens: float) -> None:
    told = granted(tell.headers(TERMS, Standing(requests=requests, tokens=tokens)))
    by = {grant.limit: grant for grant in told}
    assert by["requests"].left == int(60 - requests + 1e-6)
    assert abs(by["tokens"].seconds - tokens / 100) <= 1.0


def test_only_what_is_limited_is_told_and_an_engines_own_figures_make_way() -> None:
    told = tell.headers(Terms(requests=3), Standing(requests=2.0))
    assert told == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "40s",
    }
    response = {"x-ratelimit-remaining-tokens": "5", "x-other": "1"}
    tell.put(told, response)
    assert response == {"x-other": "1", **told}


def test_a_refusal_says_how_long() -> None:
    error = tell.over_rate(TERMS, Standing(refused="requests", requests=60.0), 10)
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.headers["Retry-After"] == "1"
    assert "Limit 60, Used 60, Requested 1. Please try again in 1s." in error.message
    error = tell.over_rate(TERMS, Standing(withheld="tokens", tokens=6000.0), 100)
    assert (error.type, error.headers["Retry-After"]) == ("tokens", "1")


def test_an_empty_purse_is_told_as_openai_tells_it() -> None:
    error = tell.over_budget(TERMS, Standing(withheld="budget", spent=3_000_000_000), 0.0)
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.headers["x-should-retry"] == "false"
    assert error.headers["Retry-After"] == str(31 * 86400)


def test_the_soft_limit_is_told_once_it_is_passed() -> None:
    assert tell.budget(TERMS, Standing(spent=2_000_000_000)) == ""
    assert tell.budget(TERMS, Standing(spent=2_500_000_000)) == "used=2.5; soft=2; hard=3; period=month"
