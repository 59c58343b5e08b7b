from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Usage
from gateway.wire.replay import stream
from gateway.wire.sse import events
from gateway.wire.usage import UsageFilter, usage, zero_usage
from tests.wire.shapes import chat_answer

COUNTS = {
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 2, "x": None},
}
ASKED = b'data: {"id":"1","choices": [ ],"usage":' + orjson.dumps(COUNTS) + b"}\n\n"
WORD = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"so"}}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"


def fed(data: bytes, cuts: list[int]) -> tuple[bytes, UsageFilter]:
    sieve, out, start = UsageFilter(), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        out += sieve.feed(data[start:cut])
        start = cut
    return out + sieve.finish(), sieve


@given(chat_answer(), st.lists(st.integers(0, 3000)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_only_the_usage_chunk_is_dropped_however_the_bytes_arrive(
    whole: dict[str, Any], cuts: list[int], end: bytes
) -> None:
    body = b": hi\n\n" + stream("chat", orjson.dumps(whole), True)
    kept = [event for event in body.split(b"\n\n") if b'"choices":[]' not in event]
    out, sieve = fed(body.replace(b"\n", end), [cut % (len(body) + 1) for cut in cuts])
    assert out == b"\n\n".join(kept).replace(b"\n", end)
    assert sieve.dropped == Usage(whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"])


def test_every_single_cut() -> None:
    for end in (b"\n", b"\r\n", b"\r"):
        body = (WORD + ASKED + DONE).replace(b"\n", end)
        for cut in range(len(body) + 1):
            assert fed(body, [cut])[0] == (WORD + DONE).replace(b"\n", end)
        assert fed(body, list(range(len(body))))[0] == (WORD + DONE).replace(b"\n", end)


@pytest.mark.parametrize(
    "event",
    [
        WORD,
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
        b'data: {"choices":[],"usage":{"prompt\n\n',
        b'data: {"choices":[{"delta":"\\"choices\\":[] \\"usage\\""}],"usage":{"prompt_tokens":1}}\n\n',
        b': comment with "usage" and "choices":[]\n\n',
        b'data: ["usage", {"choices":[]}]\n\n',
        b"\n\n\n\n",
        b"not an event at all",
        b"\xff\xfe\r\r",
    ],
)
def test_other_events_pass_byte_for_byte(event: bytes) -> None:
    assert fed(event + DONE, [])[0] == event + DONE
    assert fed(event, [])[0] == event


def test_whole_events_are_not_held_back() -> None:
    sieve = UsageFilter()
    assert sieve.feed(WORD) == WORD
    assert sieve.feed(WORD + WORD[:20]) == WORD
    assert sieve.feed(WORD[20:]) == WORD
    assert sieve.feed(ASKED) == b""
    assert "held" in repr(sieve)
    assert sieve.finish() == b""


def test_an_unfinished_usage_chunk_is_dropped_at_the_end() -> None:
    assert fed(WORD + ASKED.rstrip(), [])[0] == WORD


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_arbitrary_bytes_pass(data: bytes, cuts: list[int]) -> None:
    assert fed(data, [min(cut, len(data)) for cut in cuts])[0] == data


def test_one_huge_event_costs_linear_time() -> None:
    sieve = UsageFilter()
    out = b"".join(sieve.feed(b"x" * 1000) for _ in range(20_000)) + sieve.finish()
    assert len(out) == 20_000_000


def test_usage_of_a_body() -> None:
    assert usage(orjson.dumps({"usage": COUNTS})) == Usage(3, 4)
    assert usage(b'{"usage":{"input_tokens":3,"output_tokens":4}}') == Usage(3, 4)
    assert usage(b'{"usage":{"prompt_tokens":true}}') == Usage()
    assert usage(b"{}") == usage(b"[]") == usage(b"{") == Usage()


def test_zero_usage_touches_usage_alone() -> None:
    body = orjson.dumps({"id": "1", "created": 5, "usage": {**COUNTS, "list": [1, {"a": 1.5}], "ok": True}})
    zeros = {
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "x": None},
    }
    assert orjson.loads(zero_usage(body)) == {
        "id": "1",
        "created": 5,
        "usage": {**zeros, "list": [0, {"a": 0}], "ok": True},
    }
    assert zero_usage(b'{"id": 1}') == b'{"id": 1}'


def test_the_filter_agrees_with_the_replay() -> None:
    whole = {"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}], "usage": COUNTS}
    asked, plain = (list(events(stream("chat", orjson.dumps(whole), wants))) for wants in (True, False))
    assert len(asked) == len(plain) + 1
