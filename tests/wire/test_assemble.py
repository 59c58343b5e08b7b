from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Answer, Endpoint, Usage
from gateway.wire.answer import read
from gateway.wire.replay import stream
from gateway.wire.sse import events
from tests.wire.shapes import chat_answer, completion_answer, json_value, mutated

DONE = b"data: [DONE]\n\n"
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}


def sse(*chunks: Any, end: bytes = DONE) -> bytes:
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + end


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "1", "created": 5, "model": "m", "choices": [{"index": index, "delta": fields}]}


def assembled(*chunks: Any, endpoint: Endpoint = "chat", n: int = 1, end: bytes = DONE) -> Answer:
    return read(endpoint, "text/event-stream", None, sse(*chunks, end=end), n=n)


def message(*chunks: Any, finish: str = "stop") -> Any:
    answer = assembled(*chunks, {"choices": [{**STOP, "finish_reason": finish}]})
    assert answer.reuse != "none", answer.reason
    return orjson.loads(answer.body)["choices"][0]["message"]


def test_a_chat_stream_becomes_the_whole_answer() -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    answer = assembled(
        {"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [{"x": 1}]},
        {**delta(role="assistant", content="", refusal=None), "system_fingerprint": "fp", "usage": None},
        delta(content="so "),
        delta(content="what"),
        {"id": "1", "choices": [STOP], "timings": {"ms": 5}},
        {"id": "1", "choices": [], "usage": counts, "obfuscation": "xyz"},
    )
    assert (answer.reuse, answer.reason, answer.usage, answer.model) == ("semantic", "ok", Usage(3, 4), "m")
    assert orjson.loads(answer.body) == {
        "id": "1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "so what", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "prompt_filter_results": [{"x": 1}],
        "system_fingerprint": "fp",
        "timings": {"ms": 5},
        "usage": counts,
    }


def test_choices_are_told_apart_and_sorted() -> None:
    chunks = [delta(1, content="b"), delta(0, content="a"), delta(1, content="b")]
    stops = [{"choices": [{**STOP, "index": 1}]}, {"choices": [STOP]}]
    answer = assembled(*chunks, *stops, n=2)
    assert answer.reuse == "semantic"
    assert [choice["message"]["content"] for choice in orjson.loads(answer.body)["choices"]] == ["a", "bb"]


def test_fields_of_an_engine_s_own_are_kept() -> None:
    whole = message(
        delta(role="assistant", reasoning_content=None),
        delta(reasoning_content="I ", role="assistant", annotations=[1]),
        delta(reasoning_content="think", annotations=[1], details={"a": 1}),
        delta(content="so", details={"a": 1}),
    )
    assert whole == {
        "role": "assistant",
        "content": "so",
        "reasoning_content": "I think",
        "annotations": [1, 1],
        "details": {"a": 1},
    }


def test_tool_calls_add_up() -> None:
    def call(**fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[fields])

    whole = message(
        delta(role="assistant", content=None),
        call(index=1, id="b", type="function", function={"name": "g", "arguments": ""}),
        call(index=0, id="a", type="function", function={"name": "get_", "arguments": ""}, extra={"x": 1}),
        call(index=0, id=None, function={"name": "weather", "arguments": '{"c'}),
        call(index=0, id="a", type="function", function={"name": "", "arguments": 'ity":1}'}),
        call(index=1, id="b", function={"name": "g", "arguments": "{}"}),
        finish="tool_calls",
    )
    assert whole["content"] is None
    assert whole["tool_calls"] == [
        {
            "id": "a",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city":1}'},
            "extra": {"x": 1},
        },
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_calls_without_an_index_begin_with_their_id() -> None:
    whole = message(
        delta(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": "{"}}]),
        delta(tool_calls=[{"function": {"arguments": "}"}}]),
        delta(tool_calls=[{"id": "b", "function": {"name": "f", "arguments": "{}"}}]),
        finish="tool_calls",
    )
    assert [(call["id"], call["function"]["arguments"]) for call in whole["tool_calls"]] == [
        ("a", "{}"),
        ("b", "{}"),
    ]


def test_function_call_and_audio_add_up() -> None:
    called = message(
        delta(function_call={"name": "f", "arguments": ""}),
        delta(function_call={"arguments": "{}"}),
        finish="function_call",
    )
    assert called["function_call"] == {"name": "f", "arguments": "{}"}
    spoken = message(
        delta(audio={"id": "a", "transcript": "so "}),
        delta(audio={"id": "a", "transcript": "what", "data": "AA"}),
        delta(audio={"data": "BB", "expires_at": 9}),
    )
    assert spoken["audio"] == {"id": "a", "transcript": "so what", "data": "AABB", "expires_at": 9}


def test_logprobs_add_up() -> None:
    def piece(token: str) -> dict[str, Any]:
        return {
            "index": 0,
            "delta": {"content": token},
            "logprobs": {"content": [{"token": token}], "refusal": None},
        }

    answer = assembled(*({"choices": [piece(token)]} for token in "abc"), {"choices": [STOP]})
    expected = {"content": [{"token": "a"}, {"token": "b"}, {"token": "c"}], "refusal": None}
    assert orjson.loads(answer.body)["choices"][0]["logprobs"] == expected


def test_completions_add_up() -> None:
    def piece(text: str, finish: str | None = None) -> dict[str, Any]:
        logprobs = {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": None}
        return {"choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}]}

    answer = assembled(piece("a"), piece("b"), piece("", "stop"), endpoint="completions")
    whole = orjson.loads(answer.body)
    assert (answer.reuse, whole["object"], whole["choices"][0]["text"]) == (
        "semantic",
        "text_completion",
        "ab",
    )
    logprobs = {"tokens": ["a", "b", ""], "token_logprobs": [-1.0, -1.0, -1.0], "top_logprobs": None}
    assert whole["choices"][0]["logprobs"] == logprobs


GOOD = [delta(role="assistant", content="so"), {"choices": [STOP]}]


@pytest.mark.parametrize(
    ("chunks", "end", "n", "reason"),
    [
        (GOOD, DONE, 1, "ok"),
        (GOOD, b"data: [DONE]", 1, "ok"),
        (GOOD, b": bye\n\ndata:[DONE] \r\n\r\n", 1, "ok"),
        (GOOD, b"", 1, "incomplete"),
        (GOOD, b"data: [DO", 1, "unreadable"),
        (GOOD, DONE, 2, "incomplete"),
        (GOOD[:1], DONE, 1, "incomplete"),
        ([], DONE, 1, "incomplete"),
        ([*GOOD, delta(2, content="x")], DONE, 1, "incomplete"),
        ([delta(content="so"), {"choices": [{**STOP, "finish_reason": "length"}]}], DONE, 1, "truncated"),
        ([delta(refusal="no"), {"choices": [STOP]}], DONE, 1, "refusal"),
        ([*GOOD, {"error": {"message": "x"}}], DONE, 1, "error"),
        (GOOD, b'event: error\ndata: {"message":"x"}\n\n' + DONE, 1, "error"),
        ([*GOOD, [1]], DONE, 1, "unreadable"),
        ([*GOOD, {"choices": ["x"]}], DONE, 1, "unreadable"),
        ([*GOOD, {"choices": [{"index": "0"}]}], DONE, 1, "unreadable"),
        ([*GOOD, {"choices": [{"index": 0, "delta": "x"}]}], DONE, 1, "unreadable"),
        ([delta(x={"a": 1}), delta(x={"b": 1}), *GOOD], DONE, 1, "unknown-delta"),
        ([delta(x="a"), delta(x=["b"]), *GOOD], DONE, 1, "unknown-delta"),
        ([{"heartbeat": 1}, *GOOD], DONE, 1, "ok"),
    ],
)
def test_a_stream_must_end_properly(chunks: list[Any], end: bytes, n: int, reason: str) -> None:
    answer = assembled(*chunks, end=end, n=n)
    assert answer.reason == reason
    assert (answer.reuse == "none") == (reason != "ok")


def test_usage_of_an_unfinished_stream_is_still_known() -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 4}
    assert assembled(*GOOD, {"choices": [], "usage": counts}, end=b"").usage == Usage(3, 4)


RESPONSE = {"id": "r", "status": "completed", "model": "m", "output": [], "usage": {"input_tokens": 3}}


@pytest.mark.parametrize(
    ("kind", "response", "reason"),
    [
        ("response.completed", RESPONSE, "no-content"),
        ("response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "truncated"),
        ("response.incomplete", RESPONSE, "truncated"),
        ("response.failed", RESPONSE, "error"),
        ("response.output_text.delta", None, "incomplete"),
        ("error", None, "error"),
        ("response.completed", None, "unreadable"),
    ],
)
def test_a_responses_stream_is_its_closing_event(kind: str, response: Any, reason: str) -> None:
    created = {"type": "response.created", "response": {**RESPONSE, "status": "in_progress"}}
    answer = assembled(created, {"type": kind, "response": response}, endpoint="responses", end=b"")
    assert answer.reason == reason
    if reason == "no-content":
        assert orjson.loads(answer.body) == RESPONSE
        assert answer.usage == Usage(3, 0)


def test_a_responses_stream_may_end_with_done_and_with_nothing() -> None:
    assert assembled(endpoint="responses").reason == "incomplete"
    closed = {"type": "response.completed", "response": RESPONSE}
    assert assembled(closed, endpoint="responses").reuse == "exact"


def test_a_delta_of_the_other_endpoint_makes_no_answer() -> None:
    assert assembled(*GOOD, endpoint="completions").reason == "no-content"
    text = {"choices": [{"index": 0, "text": "so", "finish_reason": "stop"}]}
    assert assembled(text).reason == "no-content"


KEYS = ["id", "choices", "usage", "response", "type", "x"]
PIECE = st.dictionaries(
    st.sampled_from(["index", "delta", "text", "logprobs", "finish_reason", "x"]),
    st.one_of(
        json_value,
        st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "function_call", "x"]), json_value),
    ),
)


@given(
    st.sampled_from(["chat", "completions", "responses"]),
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), st.one_of(json_value, st.lists(PIECE, max_size=2))), max_size=4
    ),
)
def test_arbitrary_chunks_are_read_without_an_error(endpoint: Endpoint, chunks: list[dict[str, Any]]) -> None:
    assert assembled(*chunks, endpoint=endpoint).reason


@pytest.mark.parametrize(
    ("endpoint", "answers"), [("chat", chat_answer()), ("completions", completion_answer())]
)
@given(st.data())
def test_any_fault_in_a_chunk_is_read_without_an_error(
    endpoint: Endpoint, answers: st.SearchStrategy[dict[str, Any]], data: st.DataObject
) -> None:
    streamed = stream(endpoint, orjson.dumps(data.draw(answers)), True)
    chunks = [orjson.loads(chunk) for _, chunk in events(streamed) if chunk != b"[DONE]"]
    at = data.draw(st.integers(0, len(chunks) - 1))
    chunks[at] = data.draw(mutated(chunks[at]))
    answer = assembled(*chunks, endpoint=endpoint)
    if answer.reuse != "none":
        assert stream(endpoint, answer.body, True)


@pytest.mark.parametrize(
    "pieces",
    [
        [{"text": None}, {"text": "so"}],
        [{"text": 5}, {"text": "so"}],
        [{"message": 5}, {"delta": {"content": "so"}}],
        [
            {"delta": {"tool_calls": [{"id": "a", "function": None}]}},
            {"delta": {"tool_calls": [{"function": {"a": 1}}]}},
        ],
        [{"delta": {"tool_calls": None}}, {"delta": {"tool_calls": []}}],
        [{"logprobs": None}, {"logprobs": {"content": None}}, {"logprobs": {"content": []}}],
        [{"own": [1]}, {"own": 5}, {"own": [1]}],
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_fields_that_change_their_kind(endpoint: Endpoint, pieces: list[dict[str, Any]]) -> None:
    chunks = [{"choices": [{"index": 0, **piece}]} for piece in pieces]
    answer = assembled(*chunks, {"choices": [STOP]}, endpoint=endpoint)
    whole = endpoint == "completions" and pieces == [{"text": None}, {"text": "so"}]
    assert (answer.reuse == "semantic") == whole


def test_a_long_stream_is_read_in_linear_time() -> None:
    tokens = [{"token": "x" * 50}]
    piece = {"index": 0, "delta": {"content": "x" * 50}, "logprobs": {"content": tokens}}
    answer = assembled(*[{"choices": [piece]}] * 20_000, {"choices": [STOP]})
    assert len(orjson.loads(answer.body)["choices"][0]["message"]["content"]) == 1_000_000
