"""Answers and streams of each API in the other's form, and messages in their own."""

from contextlib import suppress
from itertools import pairwise
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from gateway.exchange import Usage
from gateway.wire.answer import read, said
from gateway.wire.anthropic.answer import Unsayable, completion, to_completion, to_message
from gateway.wire.anthropic.stream import ToCompletion, ToMessage
from gateway.wire.replay import stream, zero_usage
from gateway.wire.sse import events
from tests.wire.anthropic.shapes import message
from tests.wire.shapes import chat_answer, mutated

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(at % (len(body) + 1) for at in cuts), len(body)]
    return [body[start:end] for start, end in pairwise(places)]


def fed(translator: Any, body: bytes, cuts: list[int]) -> bytes:
    return b"".join(translator.feed(piece) for piece in cut(body, cuts)) + translator.finish()


def back(body: bytes) -> dict[str, Any]:
    answer = read("messages", "text/event-stream", None, body)
    return orjson.loads(answer.body)


# ── in their own form ───────────────────────────────────────────────────────────────────────────────────────


@given(message())
def test_a_message_survives_replay(whole: dict[str, Any]) -> None:
    body = orjson.dumps(whole)
    answer = read("messages", "text/event-stream", None, stream("messages", body, False))
    assert orjson.loads(answer.body) == whole
    direct = read("messages", "application/json", None, body)
    assert (answer.reuse, answer.reason, answer.usage) == (direct.reuse, direct.reason, direct.usage)
    cached = whole["usage"].get("cache_read_input_tokens", 0)
    assert direct.usage == Usage(whole["usage"]["input_tokens"] + cached, whole["usage"]["output_tokens"])


@given(message())
def test_a_replay_is_what_the_sdk_adds_up(whole: dict[str, Any]) -> None:
    snapshot, buffers = None, dict[int, bytes]()
    for name, data in events(stream("messages", orjson.dumps(whole), False)):
        event = EVENT.validate_json(data)
        assert event.type == name
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=buffers)
    assert Message.model_validate(snapshot.to_dict()) == Message.model_validate(whole)


TEXT = {"type": "text", "text": "so"}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"content": [TEXT]}, ("semantic", "ok")),
        ({"content": [TEXT], "stop_reason": "stop_sequence", "stop_sequence": "END"}, ("semantic", "ok")),
        ({"content": [{"type": "redacted_thinking", "data": "x"}, TEXT]}, ("semantic", "ok")),
        ({"content": [TEXT, USE], "stop_reason": "tool_use"}, ("exact", "tool-calls")),
        ({"content": []}, ("exact", "no-content")),
        ({"content": [TEXT], "stop_reason": "max_tokens"}, ("none", "truncated")),
        ({"content": [TEXT], "stop_reason": "refusal"}, ("none", "refusal")),
        ({"content": [TEXT], "stop_reason": "pause_turn"}, ("none", "stateful")),
        ({"content": [TEXT], "stop_reason": "new"}, ("none", "unknown-finish")),
        ({"content": [TEXT], "stop_reason": None}, ("none", "incomplete")),
        ({"content": [TEXT], "stop_reason": "tool_use"}, ("none", "incomplete")),
        ({"content": [USE], "stop_reason": "end_turn"}, ("none", "incomplete")),
        ({"content": [{**USE, "input": "{"}], "stop_reason": "tool_use"}, ("none", "incomplete")),
        ({"content": [{"type": "server_tool_use"}, TEXT]}, ("none", "stateful")),
        ({"content": [{"type": "text"}]}, ("none", "unreadable")),
        ({"content": ["so"]}, ("none", "unreadable")),
        ({"content": "so"}, ("none", "unreadable")),
        ({"type": "error", "error": {"type": "api_error", "message": "x"}}, ("none", "error")),
    ],
)
def test_how_widely_a_message_may_be_reused(fields: dict[str, Any], expected: tuple[str, str]) -> None:
    whole = {"type": "message", "stop_reason": "end_turn", **fields}
    answer = read("messages", "application/json", None, orjson.dumps(whole))
    assert (answer.reuse, answer.reason) == expected


@given(message(), st.data())
def test_a_spoiled_stream_is_never_reused(whole: dict[str, Any], data: st.DataObject) -> None:
    body = stream("messages", orjson.dumps(whole), False)
    told = body.split(b"\n\n")[:-1]
    kept = told[: data.draw(st.integers(0, len(told) - 1))]
    answer = read("messages", "text/event-stream", None, b"".join(event + b"\n\n" for event in kept))
    assert answer.reuse == "none"
    changed = orjson.loads(told[-2].partition(b"data: ")[2])
    odd = orjson.dumps(data.draw(mutated(changed)))
    read("messages", "text/event-stream", None, b"\n\n".join([*kept, b"data: " + odd, told[-1]]) + b"\n\n")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta"}},
        {"type": "content_block_delta", "index": 5, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_start", "index": 3, "content_block": TEXT},
        {"type": "new_event"},
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
    ],
)
def test_what_cannot_be_added_spoils_a_stream(event: dict[str, Any]) -> None:
    whole = {"type": "message", "content": [TEXT], "stop_reason": "end_turn", "usage": {}}
    told = stream("messages", orjson.dumps(whole), False).split(b"\n\n")
    told.insert(2, b"data: " + orjson.dumps(event))
    assert read("messages", "text/event-stream", None, b"\n\n".join(told)).reuse == "none"


def test_what_a_message_says_and_zeros() -> None:
    whole = {"type": "message", "content": [TEXT, USE, TEXT], "usage": {"input_tokens": 3, "cache": {"x": 2}}}
    assert said("messages", orjson.dumps(whole)) == "soso"
    assert said("messages", b'{"content": 5}') is None
    assert orjson.loads(zero_usage(orjson.dumps(whole)))["usage"] == {"input_tokens": 0, "cache": {"x": 0}}


# ── in the other's form ─────────────────────────────────────────────────────────────────────────────────────


def first(whole: dict[str, Any]) -> dict[str, Any]:
    """As a translated request asks: one choice, every call with JSON, told apart."""
    choice = {**whole["choices"][0], "logprobs": None}
    for number, call in enumerate(choice["message"].get("tool_calls") or ()):
        call["id"] = f"call_{number}"
    return {**whole, "choices": [choice]}


@given(message(signed=False))
def test_a_message_survives_the_way_there_and_back(whole: dict[str, Any]) -> None:
    there = to_completion(orjson.dumps(whole), 5)
    ChatCompletion.model_validate_json(there)
    again = orjson.loads(to_message(there))
    assert again == {**whole, "id": "msg_msg_7"}


@given(message(signed=False), st.lists(st.integers(0, 9999)))
def test_a_streamed_message_becomes_the_same_completion(whole: dict[str, Any], cuts: list[int]) -> None:
    body = stream("messages", orjson.dumps(whole), False)
    out = fed(ToCompletion(5, True), body, cuts)
    for _, data in events(out):
        if data != b"[DONE]":
            ChatCompletionChunk.model_validate_json(data)
    answer = read("chat", "text/event-stream", None, out)
    expected = completion(whole, 5)
    got = orjson.loads(answer.body)
    message, wanted = got["choices"][0].pop("message"), expected["choices"][0].pop("message")
    assert got == expected
    assert (message.get("content") or None) == wanted["content"]
    assert message.get("reasoning_content") == wanted.get("reasoning_content")
    for call, other in zip(message.get("tool_calls") or (), wanted.get("tool_calls") or (), strict=True):
        assert orjson.loads(call["function"].pop("arguments")) == orjson.loads(
            other["function"].pop("arguments")
        )
        assert call == other


@given(chat_answer(), st.lists(st.integers(0, 9999)))
def test_a_streamed_completion_becomes_the_same_message(whole: dict[str, Any], cuts: list[int]) -> None:
    whole = first(whole)
    out = fed(ToMessage(), stream("chat", orjson.dumps(whole), True), cuts)
    assert back(out) == orjson.loads(to_message(orjson.dumps(whole)))
    for _, data in events(out):
        EVENT.validate_json(data)


@given(chat_answer().flatmap(lambda whole: mutated(first(whole))))
def test_nothing_but_an_error_comes_of_any_completion(whole: Any) -> None:
    body = orjson.dumps(whole)
    for translate in (to_message, ToMessage().feed, lambda b: ToMessage().feed(b"data: " + b + b"\n\n")):
        with suppress(Unsayable):
            translate(body)


@pytest.mark.parametrize("usage", ["so", [1], 5])
def test_usage_that_is_no_object_is_an_error(usage: Any) -> None:
    message = {"id": "msg_7", "type": "message", "role": "assistant", "model": "large", "usage": usage}
    event = f"event: message_start\ndata: {orjson.dumps({'type': 'message_start', 'message': message}).decode()}\n\n"
    with pytest.raises(Unsayable):
        ToCompletion(5, True).feed(event.encode())


@given(message(signed=False).flatmap(lambda whole: mutated(whole)), st.data())
def test_nothing_but_an_error_comes_of_any_message(whole: Any, data: st.DataObject) -> None:
    with suppress(Unsayable):
        to_completion(orjson.dumps(whole), 5)
    told = stream("messages", orjson.dumps(data.draw(message())), False).split(b"\n\n")
    at = data.draw(st.integers(0, len(told) - 2))
    odd = data.draw(mutated(orjson.loads(told[at].partition(b"data: ")[2])))
    told[at] = b"data: " + orjson.dumps(odd)
    with suppress(Unsayable):
        ToCompletion(5, True).feed(b"\n\n".join(told))


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return b"data: " + orjson.dumps({"id": "c", "model": "m", "choices": [choice]}) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def test_a_stream_that_did_not_end_does_not_end() -> None:
    out = ToMessage().feed(chunk({"content": "so"}))
    assert b"message_stop" not in out
    assert b"message_stop" not in ToMessage().feed(chunk({"content": "so"}) + DONE), "no reason was told"
    out = ToCompletion(5, True).feed(b'data: {"type":"message_start","message":{"id":"m","model":"m"}}\n\n')
    assert b"[DONE]" not in out


def test_comments_and_pings_keep_a_connection_alive() -> None:
    assert ToMessage().feed(b": waiting\n\n") == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert ToCompletion(5, True).feed(b'event: ping\ndata: {"type": "ping"}\n\n') == b": ping\n\n"


def test_an_error_in_a_stream_is_told_and_ends_it() -> None:
    out = ToMessage().feed(b'data: {"error": {"message": "gone"}}\n\n' + chunk({"content": "so"}))
    ((name, data),) = events(out)
    assert (name, orjson.loads(data)["error"]) == ("error", {"type": "api_error", "message": "gone"})
    told = (
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "full"}}\n\n'
    )
    ((_, data),) = events(ToCompletion(5, True).feed(told + told))
    assert orjson.loads(data)["error"]["message"] == "full"


@pytest.mark.parametrize(
    ("finish", "more", "expected"),
    [
        ("stop", {}, ("end_turn", None)),
        ("stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ("stop", {"stop_reason": 128009}, ("end_turn", None)),
        ("length", {}, ("max_tokens", None)),
        ("content_filter", {}, ("refusal", None)),
        ("abort", {}, ("abort", None)),
    ],
)
def test_why_a_message_ended(finish: str, more: dict[str, Any], expected: tuple[str, str | None]) -> None:
    whole = back(ToMessage().feed(chunk({"content": "so"}) + chunk({}, finish, **more) + DONE))
    assert (whole["stop_reason"], whole["stop_sequence"]) == expected


def test_calls_without_numbers_and_forced_ones() -> None:
    def call(**fields: Any) -> bytes:
        return chunk({"tool_calls": [fields]})

    body = call(id="a", function={"name": "f", "arguments": '{"x":'}) + call(function={"arguments": "1}"})
    whole = back(ToMessage().feed(body + call(id="b", function={"name": "g"}) + chunk({}, "stop") + DONE))
    assert [(block["name"], block["input"]) for block in whole["content"]] == [("f", {"x": 1}), ("g", {})]
    assert whole["stop_reason"] == "tool_use"
    mixed = call(index=0, id="a", function={"name": "f"}) + call(index=1, id="b", function={"name": "g"})
    with pytest.raises(Unsayable):
        ToMessage().feed(mixed + call(index=0, function={"arguments": "{}"}))
    with pytest.raises(Unsayable):
        ToMessage().feed(call(index=0, function={"arguments": "{}"}))


def test_a_refusal_is_one_in_both_forms() -> None:
    message = {"role": "assistant", "content": None, "refusal": "no"}
    whole = {"id": "c", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    told = orjson.loads(to_message(orjson.dumps(whole)))
    assert (told["content"], told["stop_reason"]) == ([{"type": "text", "text": "no"}], "refusal")
    streamed = back(ToMessage().feed(chunk({"refusal": "no"}) + chunk({}, "stop") + DONE))
    assert (streamed["content"], streamed["stop_reason"]) == (told["content"], "refusal")


@pytest.mark.parametrize("block", [{"type": "server_tool_use"}, {"type": "redacted_thinking"}])
def test_a_block_that_chat_has_no_word_for_is_an_error(block: dict[str, Any]) -> None:
    whole = {"id": "m", "model": "m", "content": [block], "stop_reason": "end_turn"}
    with pytest.raises(Unsayable):
        to_completion(orjson.dumps(whole), 5)
    begun = b'data: {"type":"content_block_start","index":0,"content_block":%s}\n\n' % orjson.dumps(block)
    with pytest.raises(Unsayable):
        ToCompletion(5, True).feed(begun)
