"""The caller's header as the W3C's recommendation has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.exchange import Exchange
from gateway.tracing.trace import Parent, Terms, Tracer, described, parent

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_parent_is_read() -> None:
    assert parent(GOOD) == Parent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True)
    assert parent("cc" + GOOD[2:] + "-what-comes-later") == parent(GOOD)  # a version of the future
    assert parent(GOOD[:-2] + "02").sampled is False  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "header",
    [
        None, "", "x", GOOD.upper(), GOOD + "-more", "ff" + GOOD[2:], GOOD[:-1], GOOD + "0",
        f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        GOOD.replace("-", "_"),
    ],
)  # fmt: skip
def test_what_is_none_is_not(header: str | None) -> None:
    assert parent(header) is None


@given(st.text(max_size=80))
def test_nothing_a_caller_sends_breaks_it(header: str) -> None:
    found = parent(header)
    assert found is None or (found.trace and found.span)


@given(st.integers(1, 2**128 - 1), st.floats(0, 1))
def test_the_share_is_taken_by_the_trace_id_as_others_take_it(id: int, share: float) -> None:
    x = Exchange("r", CIMultiDict(traceparent=f"00-{id:032x}-b7ad6b7169203331-00"))
    Tracer(Terms(sample=share, parent=False), lambda trace, spans: None).begin(x, "POST", "/v1")
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    sampled = TraceIdRatioBased(share).should_sample(None, id, "x").decision.is_sampled()
    assert abs((id & (2**64 - 1)) - share * 2**64) < 2 or x.trace.recorded == sampled


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_answer_breaks_what_is_read_of_it(head: bytes, tail: bytes) -> None:
    assert set(described(head, tail)) <= {"gen_ai.response.model", "gen_ai.response.finish_reasons"}


def test_a_text_that_quotes_an_answer_is_not_taken_for_it() -> None:
    quoted = rb'{"content":"say \"finish_reason\": \"length\" and \"model\":\"x\"","finish_reason": "stop"}'
    assert described(quoted, quoted) == {"gen_ai.response.finish_reasons": ["stop"]}
