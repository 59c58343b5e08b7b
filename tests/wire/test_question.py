from typing import Any

import orjson
import pytest

from gateway.exchange import Endpoint, Request
from gateway.wire.request import parse

USER = {"role": "user", "content": "why?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(*messages: dict[str, Any], **fields: Any) -> Request:
    return parse("chat", orjson.dumps({"model": "m", "messages": messages or [USER], **fields}), {})


def other(endpoint: Endpoint, **fields: Any) -> Request:
    return parse(endpoint, orjson.dumps({"model": "m", **fields}), {})


def test_chat_asks_its_last_user_message() -> None:
    request = chat(
        {"role": "system", "content": "be brief"}, USER, {"role": "assistant", "content": "so"}, USER
    )
    assert (request.question, request.barred) == ("why?", None)


def test_parts_are_joined_by_newlines() -> None:
    parts = [{"type": "text", "text": "why"}, {"type": "text", "text": "so?"}]
    assert chat({"role": "user", "content": parts}).question == "why\nso?"


@pytest.mark.parametrize(
    ("messages", "question", "barred"),
    [
        ([USER, {"role": "assistant", "content": "Because"}], None, "no-question"),
        ([{"role": "user", "content": " \n"}], None, "no-question"),
        ([{"role": "user", "content": None}], None, "no-question"),
        ([{"role": "user", "content": []}], None, "no-question"),
        ([{"role": "user", "content": [{"type": "text", "text": "why?"}, IMAGE]}], "why?", "non-text"),
        ([{"role": "user", "content": [IMAGE]}, USER], "why?", "non-text"),
        ([{"role": "user", "content": {"text": "why?"}}], None, "non-text"),
        ([{"role": "assistant", "audio": {"id": "a"}}, USER], "why?", "non-text"),
        ([USER, {"role": "tool", "tool_call_id": "c", "content": "4"}], None, "tools"),
        ([{"role": "function", "name": "f", "content": "4"}, USER], "why?", "tools"),
        ([{"role": "assistant", "content": None, "tool_calls": [TOOL]}, USER], "why?", "tools"),
        ([{"role": "assistant", "content": None, "function_call": {"name": "f"}}, USER], "why?", "tools"),
    ],
)
def test_what_bars_a_chat(messages: list[dict[str, Any]], question: str | None, barred: str) -> None:
    request = chat(*messages)
    assert (request.question, request.barred) == (question, barred)


@pytest.mark.parametrize(
    ("fields", "barred"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": []}, None),
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "auto"}, "tools"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"modalities": ["text"]}, None),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "non-text"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": False}, None),
        ({"prompt_logprobs": 0}, "echo"),
        ({"return_token_ids": False}, None),
        ({"seed": 1234567890123456789}, "big-numbers"),
        ({"n": 4, "logit_bias": {"5": 1}, "temperature": 2}, None),
    ],
)
def test_fields_that_bar_a_chat(fields: dict[str, Any], barred: str | None) -> None:
    assert chat(**fields).barred == barred
    assert chat(**fields).question == "why?"


@pytest.mark.parametrize(
    ("fields", "question", "barred"),
    [
        ({"prompt": "why?"}, "why?", None),
        ({"prompt": ["why?"]}, "why?", None),
        ({"prompt": ["why?", "how?"]}, None, "no-question"),
        ({"prompt": [1, 2]}, None, "no-question"),
        ({"prompt": None}, None, "no-question"),
        ({"prompt": " "}, None, "no-question"),
        ({"prompt": "why?", "suffix": "."}, "why?", "suffix"),
        ({"prompt": "why?", "echo": True}, "why?", "echo"),
        ({"prompt": "why?", "logprobs": 0}, "why?", "logprobs"),
        ({"prompt_embeds": "AAAA"}, None, "non-text"),
    ],
)
def test_completions(fields: dict[str, Any], question: str | None, barred: str | None) -> None:
    request = other("completions", **fields)
    assert (request.question, request.barred) == (question, barred)


PART = {"type": "input_text", "text": "why?"}


@pytest.mark.parametrize(
    ("fields", "question", "barred"),
    [
        ({"input": "why?"}, "why?", None),
        ({"input": [USER]}, "why?", None),
        ({"input": [{"type": "message", "role": "user", "content": [PART, PART]}]}, "why?\nwhy?", None),
        ({"input": [{"type": "reasoning", "summary": []}, USER]}, "why?", None),
        ({"input": [{"type": "function_call_output", "output": "4"}, USER]}, "why?", "tools"),
        ({"input": [USER, {"type": "function_call_output", "output": "4"}]}, None, "tools"),
        ({"input": [{"role": "user", "content": [PART, {"type": "input_image"}]}]}, "why?", "non-text"),
        ({"input": [{"role": "assistant", "content": "So"}]}, None, "no-question"),
        ({"input": ["why?"]}, None, "non-text"),
        ({"input": "why?", "tools": [{"type": "function", "name": "f"}]}, "why?", "tools"),
        ({"input": "why?", "include": ["message.output_text.logprobs"]}, "why?", "logprobs"),
    ],
)
def test_responses(fields: dict[str, Any], question: str | None, barred: str | None) -> None:
    request = other("responses", **fields)
    assert (request.question, request.barred, request.uncacheable) == (question, barred, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"prompt": {"id": "pmpt_1"}},
        {"tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ],
)
def test_what_names_state_is_never_reused(fields: dict[str, Any]) -> None:
    assert other("responses", **{"input": "why?", **fields}).uncacheable == "stateful"


def test_a_provider_s_own_tools_are_never_reused_in_chat_either() -> None:
    assert chat(web_search_options={}).uncacheable == "stateful"
    assert chat(tools=[{"type": "builtin_function"}]).uncacheable == "stateful"
    assert chat(tools=[TOOL], store=True).uncacheable is None
