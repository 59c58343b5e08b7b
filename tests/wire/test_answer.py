import gzip
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Answer, Endpoint, Usage
from gateway.wire.answer import read
from gateway.wire.replay import stream
from tests.wire.shapes import chat_answer, completion_answer, mutated, responses_answer

JSON = "application/json; charset=utf-8"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ENDPOINTS: list[Endpoint] = ["chat", "completions", "responses", "embeddings"]


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)  # the same bytes in every process: they are part of a test's name


def chat(*choices: dict[str, Any], **fields: Any) -> bytes:
    return orjson.dumps({"id": "1", "object": "chat.completion", "model": "m", "choices": choices, **fields})


def choice(content: Any = "so", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }


def verdict(endpoint: Endpoint, body: bytes) -> tuple[str, str]:
    answer = read(endpoint, JSON, None, body)
    return answer.reuse, answer.reason


def test_a_json_answer_stays_byte_for_byte() -> None:
    body = (
        b' {"id":"1", "choices":[{"message":{"content":"so","x":1.0e2},"finish_reason":"stop"}],"model":"m",'
    )
    body += b'"usage":{"prompt_tokens":3,"completion_tokens":4}}\n'
    assert read("chat", JSON, None, body) == Answer(body, "semantic", "ok", Usage(3, 4), "m")


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([choice()], ("semantic", "ok")),
        ([choice(), choice()], ("semantic", "ok")),
        ([], ("none", "incomplete")),
        ([choice(), choice(finish="length")], ("none", "truncated")),
        ([choice(finish="content_filter")], ("none", "filtered")),
        ([choice(finish=None)], ("none", "incomplete")),
        ([choice(finish="abort")], ("none", "unknown-finish")),
        ([choice(finish=["stop"])], ("none", "unreadable")),
        ([choice(refusal="no")], ("none", "refusal")),
        ([choice(None, "tool_calls", tool_calls=[CALL])], ("exact", "tool-calls")),
        ([choice(None, "stop", tool_calls=[CALL])], ("exact", "tool-calls")),
        ([choice(None, "tool_calls")], ("none", "incomplete")),
        ([choice(None, "tool_calls", tool_calls=[{"function": {"name": "f"}}])], ("none", "incomplete")),
        ([choice(None, "tool_calls", tool_calls=["f"])], ("none", "incomplete")),
        (
            [choice(None, "tool_calls", tool_calls=[{"function": {"name": "f", "arguments": '{"a'}}])],
            ("none", "incomplete"),
        ),
        (
            [choice(None, "tool_calls", tool_calls=[{"custom": {"name": "f", "input": "x"}}])],
            ("exact", "tool-calls"),
        ),
        ([choice(None, "function_call", function_call=CALL["function"])], ("exact", "tool-calls")),
        ([choice(None)], ("exact", "no-content")),
        ([choice("")], ("exact", "no-content")),
        ([choice([{"type": "text"}])], ("exact", "non-text")),
        ([choice(None, audio={"id": "a", "data": "AA"})], ("exact", "non-text")),
        ([{"index": 0, "finish_reason": "stop"}], ("none", "unreadable")),
        (["so"], ("none", "unreadable")),
    ],
)
def test_how_widely_a_chat_answer_may_be_reused(choices: list[Any], expected: tuple[str, str]) -> None:
    assert verdict("chat", chat(*choices)) == expected


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("chat", b'{"error":{"message":"x"},"choices":[]}', ("none", "error")),
        ("chat", b'{"object":"error","message":"x"}', ("none", "error")),
        ("chat", b"<html>", ("none", "unreadable")),
        ("chat", b"[]", ("none", "unreadable")),
        ("chat", b"", ("none", "unreadable")),
        ("chat", b'{"choices":5}', ("none", "unreadable")),
        ("chat", b'{"x":' + b"[" * 300 + b"]" * 300 + b"}", ("none", "unreadable")),
        ("completions", b'{"choices":[{"text":"so","finish_reason":"stop"}]}', ("semantic", "ok")),
        ("completions", b'{"choices":[{"text":"so","finish_reason":"length"}]}', ("none", "truncated")),
        ("completions", b'{"choices":[{"text":"","finish_reason":"stop"}]}', ("exact", "no-content")),
        ("completions", b'{"choices":[{"finish_reason":"stop"}]}', ("none", "unreadable")),
        ("embeddings", b'{"data":[{"embedding":[0.1]}]}', ("exact", "endpoint")),
        ("embeddings", b'{"data":[]}', ("none", "incomplete")),
    ],
)
def test_other_bodies(endpoint: Endpoint, body: bytes, expected: tuple[str, str]) -> None:
    assert verdict(endpoint, body) == expected


TEXT = {"type": "message", "status": "completed", "content": [{"type": "output_text", "text": "so"}]}
FUNCTION = {"type": "function_call", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"output": [TEXT]}, ("semantic", "ok")),
        ({"output": [{"type": "reasoning", "summary": []}, TEXT]}, ("semantic", "ok")),
        ({"output": [TEXT, FUNCTION]}, ("exact", "tool-calls")),
        ({"output": [{**FUNCTION, "arguments": "{"}]}, ("none", "incomplete")),
        ({"output": [{"type": "custom_tool_call", "name": "f", "input": "x"}]}, ("exact", "tool-calls")),
        ({"output": [{"type": "web_search_call", "status": "completed"}, TEXT]}, ("none", "stateful")),
        ({"output": [{**TEXT, "status": "incomplete"}]}, ("none", "truncated")),
        ({"output": [{**TEXT, "content": [{"type": "refusal", "refusal": "no"}]}]}, ("none", "refusal")),
        ({"output": [{**TEXT, "content": [{"type": "output_audio"}]}]}, ("exact", "non-text")),
        ({"output": [{**TEXT, "content": [{"type": "output_text", "text": 5}]}]}, ("none", "unreadable")),
        ({"output": [{"type": "custom_tool_call", "name": "f"}]}, ("none", "incomplete")),
        ({"output": []}, ("exact", "no-content")),
        ({"output": "so"}, ("none", "unreadable")),
        ({"output": [TEXT], "background": True}, ("none", "stateful")),
        ({"output": [TEXT], "conversation": {"id": "conv_1"}}, ("none", "stateful")),
        ({"output": [TEXT], "status": "queued"}, ("none", "incomplete")),
        ({"output": [TEXT], "status": None}, ("none", "incomplete")),
        ({"output": [], "status": "failed"}, ("none", "error")),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            ("none", "truncated"),
        ),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, ("none", "filtered")),
    ],
)
def test_how_widely_a_response_may_be_reused(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    assert verdict("responses", orjson.dumps({"status": "completed", "error": None, **fields})) == expected


def test_usage_in_both_words() -> None:
    counts = {"input_tokens": 3, "output_tokens": 4}
    body = orjson.dumps({"status": "completed", "output": [TEXT], "usage": counts, "model": "m"})
    assert read("responses", JSON, None, body).usage == Usage(3, 4)
    assert read("chat", JSON, None, chat(choice(), usage={"prompt_tokens": "3"})).usage == Usage(0, 0)


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", _gzip(chat(choice()))),
        ("GZIP ", _gzip(chat(choice())[:20]) + _gzip(chat(choice())[20:])),
        ("x-gzip", _gzip(chat(choice()))),
        ("deflate", zlib.compress(chat(choice()))),
        ("deflate", raw_deflate(chat(choice()))),
        ("identity", chat(choice())),
        ("", chat(choice())),
    ],
)
def test_compressed_answers_are_stored_plain(encoding: str, packed: bytes) -> None:
    answer = read("chat", JSON, encoding, packed)
    assert (answer.reuse, answer.body) == ("semantic", chat(choice()))


@pytest.mark.parametrize(
    ("encoding", "packed", "reason"),
    [
        ("br", b"xx", "encoding"),
        ("gzip, gzip", _gzip(_gzip(b"{}")), "encoding"),
        ("gzip", _gzip(b"") * 100, "encoding"),
        ("gzip", b"not gzip", "unreadable"),
        ("gzip", _gzip(chat(choice()))[:-9], "incomplete"),
        ("gzip", b"", "incomplete"),
        ("gzip", _gzip(b" " * 5_000_000), "too-large"),
        ("gzip", _gzip(b" " * 600_000) * 2, "too-large"),
        ("deflate", zlib.compress(b" " * 5_000_000), "too-large"),
    ],
)
def test_what_cannot_be_unpacked_is_not_reused(encoding: str, packed: bytes, reason: str) -> None:
    answer = read("chat", JSON, encoding, packed, limit=1_000_000)
    assert (answer.reuse, answer.reason, answer.body) == ("none", reason, b"")


def test_a_stream_is_known_by_its_type_or_without_one_by_its_beginning() -> None:
    streamed = stream("chat", chat(choice()), False)
    for kind in ("text/event-stream", "Text/Event-Stream; charset=utf-8", None, ""):
        assert read("chat", kind, None, streamed).reuse == "semantic"
    assert read("chat", JSON, None, streamed).reason == "unreadable"
    assert read("chat", "text/event-stream", "gzip", gzip.compress(streamed)).reuse == "semantic"


WHOLE: list[tuple[Endpoint, st.SearchStrategy[dict[str, Any]]]] = [
    ("chat", chat_answer()),
    ("completions", completion_answer()),
    ("responses", responses_answer()),
]


@pytest.mark.parametrize(("endpoint", "answers"), WHOLE)
@given(st.data())
def test_whatever_is_called_reusable_can_be_replayed(
    endpoint: Endpoint, answers: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    body = orjson.dumps(data.draw(mutated(data.draw(answers))))
    answer = read(endpoint, JSON, None, body)
    assert answer.body in (body, b"")
    if answer.reuse != "none":
        assert stream(endpoint, answer.body, True)


@given(
    st.sampled_from(ENDPOINTS), st.sampled_from([JSON, "text/event-stream", None]), st.binary(max_size=200)
)
def test_arbitrary_bytes_are_read_without_an_error(endpoint: Endpoint, kind: str | None, body: bytes) -> None:
    assert read(endpoint, kind, None, body).reuse == "none"
    assert read(endpoint, kind, "gzip", body).reuse == "none"
