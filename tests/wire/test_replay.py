from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.exchange import Answer, Endpoint
from gateway.wire.answer import read
from gateway.wire.replay import stream
from gateway.wire.sse import events
from tests.wire.shapes import chat_answer, completion_answer, responses_answer, tokens_of

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def replayed(endpoint: Endpoint, whole: Any, wants_usage: bool = True) -> list[Any]:
    return [orjson.loads(data) for _, data in lines(endpoint, whole, wants_usage) if data != b"[DONE]"]


def lines(endpoint: Endpoint, whole: Any, wants_usage: bool = True) -> list[tuple[str, bytes]]:
    return list(events(stream(endpoint, orjson.dumps(whole), wants_usage)))


def back(endpoint: Endpoint, whole: Any, n: int = 1) -> Answer:
    return read(endpoint, "text/event-stream", None, stream(endpoint, orjson.dumps(whole), True), n=n)


@given(chat_answer())
def test_a_chat_answer_survives_the_round_trip(whole: dict[str, Any]) -> None:
    answer = back("chat", whole, len(whole["choices"]))
    assert orjson.loads(answer.body) == whole
    direct = read("chat", "application/json", None, orjson.dumps(whole))
    assert (answer.reuse, answer.reason, answer.usage, answer.model) == (
        direct.reuse,
        direct.reason,
        direct.usage,
        direct.model,
    )


@given(completion_answer())
def test_a_completion_survives_the_round_trip(whole: dict[str, Any]) -> None:
    assert orjson.loads(back("completions", whole, len(whole["choices"])).body) == whole
    for chunk in replayed("completions", whole):
        Completion.model_validate(
            {**chunk, "choices": [{**c, "finish_reason": "stop"} for c in chunk["choices"]]}
        )


@given(chat_answer(), st.booleans())
def test_chat_chunks_are_what_the_sdk_expects(whole: dict[str, Any], wants_usage: bool) -> None:
    chunks = replayed("chat", whole, wants_usage)
    assert lines("chat", whole, wants_usage)[-1] == ("message", b"[DONE]")
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    opened = set()
    for chunk in chunks[: len(chunks) - wants_usage]:
        assert ("usage" in chunk) == wants_usage
        [choice] = chunk["choices"]
        assert ("role" in choice["delta"]) == (choice["index"] not in opened)
        opened.add(choice["index"])
    if wants_usage:
        assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)


@given(chat_answer())
def test_the_sdk_adds_the_chunks_up_to_the_answer(whole: dict[str, Any]) -> None:
    state: ChatCompletionStreamState[Any] = ChatCompletionStreamState()
    for chunk in replayed("chat", whole):
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    found, expected = state.get_final_completion(), ChatCompletion.model_validate(whole)
    assert found.usage == expected.usage
    for ours, theirs in zip(expected.choices, found.choices, strict=True):
        assert (ours.finish_reason, ours.message.content or None) == (
            theirs.finish_reason,
            theirs.message.content or None,
        )
        assert ours.logprobs == theirs.logprobs or not ours.message.content
        calls = [
            (call.id, call.function.name, call.function.arguments) for call in ours.message.tool_calls or []
        ]
        assert calls == [
            (call.id, call.function.name, call.function.arguments) for call in theirs.message.tool_calls or []
        ]


@given(responses_answer())
def test_response_events_are_what_the_sdk_expects(whole: dict[str, Any]) -> None:
    Response.model_validate(whole)
    named = lines("responses", whole)
    decoded = [orjson.loads(data) for _, data in named]
    assert [name for name, _ in named] == [event["type"] for event in decoded]
    assert [event["sequence_number"] for event in decoded] == list(range(len(decoded)))
    assert [event["type"] for event in decoded[:2]] == ["response.created", "response.in_progress"]
    for event in decoded:
        assert EVENT.validate_python(event).type == event["type"]
    answer = back("responses", whole)
    assert orjson.loads(answer.body) == whole == decoded[-1]["response"]


@given(responses_answer())
def test_response_deltas_add_up_to_their_items(whole: dict[str, Any]) -> None:
    grown: dict[tuple[Any, ...], str] = {}
    for event in replayed("responses", whole):
        stem, _, step = event["type"].rpartition(".")
        place = (stem, event.get("output_index"), event.get("content_index"), event.get("summary_index"))
        if step == "delta":
            grown[place] = grown.get(place, "") + event["delta"]
        elif step == "done" and stem.endswith(("text", "arguments", "input")):
            final = next(event[key] for key in ("text", "arguments", "input") if key in event)
            assert grown.get(place, "") == final


def test_response_events_in_order() -> None:
    part = {"type": "output_text", "text": "so", "annotations": [{"type": "x"}], "logprobs": []}
    refusal = {"type": "refusal", "refusal": "no"}
    message = {"id": "m", "type": "message", "status": "completed", "content": [part, refusal]}
    unknown = {"id": "u", "type": "shell_call", "status": "completed"}
    decoded = replayed("responses", {"status": "completed", "output": [message, unknown], "usage": {}})
    assert [event["type"].removeprefix("response.") for event in decoded] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "output_item.done",
        "completed",
    ]
    assert decoded[0]["response"] == {"status": "in_progress", "output": [], "usage": None}
    assert decoded[2]["item"] == {"id": "m", "type": "message", "status": "in_progress", "content": []}
    assert decoded[3]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


@pytest.mark.parametrize(
    ("message", "logprobs"),
    [
        ({"content": "so", "function_call": {"name": "f", "arguments": '{"a": 1}'}}, None),
        ({"content": None, "refusal": None, "audio": {"id": "a", "data": "AA", "transcript": "so"}}, None),
        ({"content": "so", "annotations": [{"type": "url_citation"}], "thinking": "hm " * 50, "x": 5}, None),
        (
            {
                "content": None,
                "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}],
            },
            None,
        ),
        ({"content": None, "tool_calls": []}, {"content": tokens_of("calling"), "refusal": None}),
        ({"content": "so", "refusal": "no"}, {"content": tokens_of("so"), "refusal": tokens_of("no")}),
        ({"content": "so"}, {"content": None, "refusal": None}),
        ({"content": "so"}, {"content": [{"token": "other"}], "x": [1]}),
    ],
)
def test_rarer_fields_survive_the_round_trip(message: dict[str, Any], logprobs: Any) -> None:
    choice = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "logprobs": logprobs,
        "finish_reason": "stop",
    }
    whole = {
        "id": "1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [{**choice, "own": 1}],
    }
    whole |= {"timings": {"ms": 5}, "service_tier": "default"}
    found = orjson.loads(back("chat", whole).body)
    assert found["choices"][0]["message"] == whole["choices"][0]["message"]
    assert found["choices"][0]["own"] == 1
    assert (found["timings"], found["service_tier"]) == ({"ms": 5}, "default")
    if logprobs and any(logprobs.values()):
        assert found["choices"][0]["logprobs"] == logprobs


def test_a_bare_answer_of_a_modest_engine_can_be_streamed() -> None:
    whole = {"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}]}
    chunks = replayed("chat", whole)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "so", None]


def test_embeddings_have_no_stream() -> None:
    assert stream("embeddings", b'{"data":[1]}', True) == b'{"data":[1]}'
