"""Requests there and back again, and what is refused on the way."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from openai.types.chat import completion_create_params

from gateway.wire.anthropic.reading import Untranslatable
from gateway.wire.anthropic.to_chat import chat_request
from gateway.wire.anthropic.to_messages import messages_request
from tests.wire.anthropic.shapes import messages_body
from tests.wire.shapes import mutated

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@given(messages_body())
def test_a_request_survives_the_way_there_and_back(body: dict[str, Any]) -> None:
    assert messages_request(chat_request(body)) == body


@given(messages_body())
def test_a_translated_request_is_one_the_openai_sdk_would_send(body: dict[str, Any]) -> None:
    chat = chat_request(body)
    roles = [message["role"] for message in chat["messages"]]
    assert roles[-1] in ("user", "tool")
    assert set(chat) <= set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"top_k"}
    for message in chat["messages"]:
        assert message["role"] != "tool" or set(message) == {"role", "tool_call_id", "content"}
        for call in message.get("tool_calls", ()):
            assert isinstance(orjson.loads(call["function"]["arguments"]), dict)


@given(messages_body().flatmap(lambda body: mutated(body)))
def test_nothing_but_a_refusal_comes_of_any_body(body: Any) -> None:
    if not isinstance(body, dict) or not _chatty(body):
        return
    with suppress(Untranslatable):
        messages_request(chat_request(body))


@given(messages_body().map(chat_request).flatmap(lambda body: mutated(body)))
def test_nothing_but_a_refusal_comes_of_any_chat_body(body: Any) -> None:
    if not isinstance(body, dict) or not _chatty(body):
        return
    with suppress(Untranslatable):
        messages_request(body)


def _chatty(body: dict[str, Any]) -> bool:
    """What `request.parse` has seen to before anything is translated."""
    messages = body.get("messages")
    if not isinstance(body.get("model"), str) or not isinstance(messages, list) or not messages:
        return False
    return all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages)


def user(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "so"}
TEXT = {"type": "text", "text": "so"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"max_tokens": None}, "max_tokens"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"service_tier": "standard_only"}, "service_tier"),
        ({"metadata": {"user_id": "u", "x": 1}}, "metadata.x"),
        ({"output_config": {"effort": "max"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format"),
        ({"cache": "engine's own"}, "cache"),
        ({"system": [IMAGE]}, "system[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tool_choice": {"type": "auto", "name": "f"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        (user({"type": "document", "source": {}}), "messages[0].content[0]"),
        (user({"type": "search_result"}), "messages[0].content[0]"),
        (user({**TEXT, "citations": [{"x": 1}]}), "messages[0].content[0].citations"),
        (user(TEXT, RESULT), "messages[0].content[1]"),
        (user({**RESULT, "content": [IMAGE]}), "messages[0].content[0].content[0]"),
        (
            user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages[0].content[0].source",
        ),
        (user(), "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "The"}]}, "messages[0]"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
                    *ASKED["messages"],
                ]
            },
            "messages[0].content[0]",
        ),
    ],
)
def test_what_chat_cannot_say(more: dict[str, Any], where: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        chat_request({**ASKED, **more})
    assert refused.value.param == where
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"seed": 1}, "seed"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"store": True}, "store"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options.include_obfuscation"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "minimal"}, "reasoning_effort"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        (user({"type": "input_audio", "input_audio": {}}), "messages[0].content[0]"),
        (
            user({"type": "image_url", "image_url": {"url": "ftp://x"}}),
            "messages[0].content[0].image_url.url",
        ),
        (
            user({"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}),
            "messages[0].content[0].image_url.detail",
        ),
        ({"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}, "messages[0].name"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*CHAT["messages"], {"role": "assistant", "content": "The"}]}, "messages"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "x", "reasoning_content": "y"},
                    *CHAT["messages"],
                ]
            },
            "messages[0].reasoning_content",
        ),
    ],
)
def test_what_messages_cannot_say(more: dict[str, Any], where: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        messages_request({**CHAT, **more})
    assert refused.value.param == where


def test_defaults_and_empty_fields_are_as_absent() -> None:
    given = {"n": 1, "logprobs": False, "presence_penalty": 0, "store": False, "seed": None, "logit_bias": {}}
    assert messages_request({**CHAT, **given, "response_format": {"type": "text"}}) == messages_request(CHAT)
    assert chat_request({**ASKED, "container": None, "mcp_servers": []}) == chat_request(ASKED)


def test_what_the_system_says_later_stays_where_it_is() -> None:
    said = [
        {"role": "developer", "content": "One."},
        {"role": "system", "content": "Two."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Three."},
        {"role": "user", "content": "So?"},
    ]
    body = messages_request({"model": "m", "messages": said})
    assert body["system"] == [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    assert [message["role"] for message in body["messages"]] == ["user", "system", "user"]
    assert [message["role"] for message in chat_request(body)["messages"]] == [
        "system",
        "user",
        "system",
        "user",
    ]


def test_that_a_tool_failed_is_told_in_words() -> None:
    failed = {**RESULT, "is_error": True}
    for content, told in (("so", "Error: so"), (None, "Error: "), ([TEXT, TEXT], None)):
        (message,) = chat_request({**ASKED, **user({**failed, "content": content})})["messages"]
        assert message["content"] == told if told else message["content"][0]["text"] == "Error: so"


def test_what_the_sdk_sends_back_is_understood() -> None:
    from anthropic.types import TextBlock, ToolUseBlock

    answer = [
        TextBlock(type="text", text="so", citations=None).model_dump(),
        ToolUseBlock(type="tool_use", id="t", name="f", input={}).model_dump(),
    ]
    turns = [*ASKED["messages"], {"role": "assistant", "content": answer}, user(RESULT)["messages"][0]]
    assert (
        chat_request({**ASKED, "messages": turns})["messages"][1]["tool_calls"][0]["function"]["arguments"]
        == "{}"
    )
