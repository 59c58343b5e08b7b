"""The Anthropic Python SDK, unchanged but for its base URL, in front of engines of either API."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anthropic
import pytest
from aiohttp import web
from anthropic import Anthropic

from tests.harness import Running, ScriptedAnthropic, ScriptedBackend
from tests.harness.backend import Seen

Start = Callable[..., Running]
USER = [{"role": "user", "content": "What is the capital of France?"}]
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": USER}
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
PNG = {"type": "base64", "media_type": "image/png", "data": "aGk="}


@pytest.fixture
def claude() -> Iterator[ScriptedAnthropic]:
    engine = ScriptedAnthropic()
    yield engine
    engine.close()


@pytest.fixture
def native(start: Start, claude: ScriptedAnthropic) -> Running:
    return start({"models": [{"name": "*", "api": "anthropic", "backends": [{"url": claude.url}]}]})


@pytest.fixture(params=["openai", "anthropic"])
def either(request: pytest.FixtureRequest, start: Start, backend: ScriptedBackend, claude: ScriptedAnthropic):
    """(gateway, engine) for each API that an engine may speak."""
    engine = backend if request.param == "openai" else claude
    models = [{"name": "*", "api": request.param, "backends": [{"url": engine.url}]}]
    return start({"models": models}), engine


def client(gateway: Running, key: str = "test", **options: Any) -> Anthropic:
    return Anthropic(base_url=gateway.url, api_key=key, max_retries=options.pop("max_retries", 0), **options)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_create_and_the_same_again_from_memory(either: tuple[Running, ScriptedBackend]) -> None:
    gateway, engine = either
    first = client(gateway).messages.create(**ASKED)
    assert (text_of(first), first.stop_reason, first.role, first.type) == (
        "answer 1",
        "end_turn",
        "assistant",
        "message",
    )
    assert first.usage.output_tokens == 3
    assert first.usage.input_tokens + first.usage.cache_read_input_tokens in (7, 12)
    gateway.settle()
    raw = client(gateway).messages.with_raw_response.create(**ASKED)
    assert raw.parse() == first
    assert raw.headers["x-gateway-how"] == "exact"
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == raw.parse()._request_id
    assert engine.calls == 1


def test_a_paraphrase_hits_inside_the_dialect_and_not_across(either: tuple[Running, ScriptedBackend]) -> None:
    gateway, engine = either
    client(gateway).messages.create(**ASKED)
    gateway.settle()
    asked = {**ASKED, "messages": [{"role": "user", "content": "What is France's capital?"}]}
    again = client(gateway).messages.with_raw_response.create(**asked)
    assert again.headers["x-gateway-how"] == "semantic"
    assert text_of(again.parse()) == "answer 1"
    assert engine.calls == 1
    other = gateway.client().chat.completions.create(model="m", max_tokens=100, messages=USER)
    assert other.choices[0].message.content == "answer 2"


def test_streams_live_and_replayed_are_the_same_to_the_sdk(either: tuple[Running, ScriptedBackend]) -> None:
    gateway, engine = either

    def read() -> tuple[Any, str]:
        with client(gateway).messages.stream(**ASKED) as stream:
            words = "".join(stream.text_stream)
            return stream.get_final_message(), words

    live, words = read()
    gateway.settle()
    replayed, again = read()
    assert words == again == text_of(live) == "answer 1"
    assert replayed.model_dump() == live.model_dump()
    assert live.stop_reason == "end_turn"
    assert live.usage.output_tokens == 3
    assert engine.calls == 1
    whole = client(gateway).messages.create(**ASKED)
    assert whole.model_dump() == live.model_dump()


def test_a_whole_answer_is_replayed_as_a_stream(either: tuple[Running, ScriptedBackend]) -> None:
    gateway, engine = either
    whole = client(gateway).messages.create(**ASKED)
    gateway.settle()
    with client(gateway).messages.stream(**ASKED) as stream:
        assert stream.get_final_message().model_dump() == whole.model_dump()
    assert engine.calls == 1
    kinds = [event.type for event in client(gateway).messages.create(**ASKED, stream=True)]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


def test_tools_are_called_answered_and_replayed(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Seen) -> web.StreamResponse | None:
        if seen.json["messages"][-1]["role"] == "tool":
            return None
        whole = backend._whole(
            seen, "chat.completion", {"message": {"role": "assistant", "content": None, "tool_calls": [CALL]}}
        )
        whole["choices"][0]["finish_reason"] = "tool_calls"
        return web.json_response(whole)

    backend.script = script
    asked = {**ASKED, "tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    first = client(gateway).messages.create(**asked)
    (use,) = first.content
    assert (use.type, use.name, use.input, first.stop_reason) == (
        "tool_use",
        "weather",
        {"city": "Oslo"},
        "tool_use",
    )
    sent = backend.seen[0].json
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells the weather.",
                "parameters": TOOL["input_schema"],
            },
        }
    ]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    gateway.settle()
    with client(gateway).messages.stream(**asked) as stream:
        assert stream.get_final_message().model_dump() == first.model_dump()
    assert backend.calls == 1

    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain", "is_error": True}
    turns = [
        *USER,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "and tomorrow?"}]},
    ]
    backend.script = None
    assert text_of(client(gateway).messages.create(**{**asked, "messages": turns})) == "answer 2"
    assert backend.seen[1].json["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**CALL, "function": {**CALL["function"], "arguments": '{"city":"Oslo"}'}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "Error: rain"},
        {"role": "user", "content": "and tomorrow?"},
    ]


def test_a_call_streams(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        async def events():
            base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            parts: list[dict[str, Any]] = [
                {"role": "assistant", "content": "Let me see. "},
                {"tool_calls": [{"index": 0, **CALL, "function": {"name": "weather", "arguments": ""}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
            ]
            for part in parts:
                choice = {"index": 0, "delta": part, "finish_reason": None}
                yield f"data: {json.dumps({**base, 'choices': [choice]})}\n\n".encode()
            choice = {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
            yield f"data: {json.dumps({**base, 'choices': [choice]})}\n\n".encode()
            usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
            yield f"data: {json.dumps({**base, 'choices': [], 'usage': usage})}\n\n".encode()
            yield b"data: [DONE]\n\n"

        return await backend.sse(seen, events())

    backend.script = script
    for _ in range(2):
        with client(gateway).messages.stream(**ASKED, tools=[TOOL]) as stream:
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["text", "tool_use"]
        assert final.content[1].input == {"city": "Oslo"}
        assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("tool_use", 9, 4)
        gateway.settle()
    assert backend.calls == 1
    assert backend.seen[0].json["stream_options"] == {"include_usage": True}


def test_system_stop_and_settings_reach_the_engine(gateway: Running, backend: ScriptedBackend) -> None:
    client(gateway).messages.create(
        **ASKED,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7},
        metadata={"user_id": "u1"},
        thinking={"type": "disabled"},
    )
    assert backend.seen[0].path == "/v1/chat/completions"
    assert backend.seen[0].json == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, *USER],
        "max_tokens": 100,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "user": "u1",
    }


def test_an_image_is_translated(gateway: Running, backend: ScriptedBackend) -> None:
    content = [{"type": "image", "source": PNG}, {"type": "text", "text": "What is this?"}]
    raw = client(gateway).messages.with_raw_response.create(
        **{**ASKED, "messages": [{"role": "user", "content": content}]}
    )
    assert raw.headers["x-gateway-reason"] == "non-text"
    assert backend.seen[0].json["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "text", "text": "What is this?"},
    ]


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"extra_body": {"container": "c"}}, "container"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": PNG}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [*USER, {"role": "assistant", "content": "The"}]}, "messages[1]"),
    ],
)
def test_what_has_no_form_is_refused_or_passed(
    start: Start, backend: ScriptedBackend, claude: ScriptedAnthropic, more: dict[str, Any], where: str
) -> None:
    models = [
        {"name": "m", "backends": [{"url": backend.url}]},
        {"name": "claude", "api": "anthropic", "backends": [{"url": claude.url}]},
    ]
    gateway = start({"models": models})
    with pytest.raises(anthropic.BadRequestError) as refused:
        client(gateway).messages.create(**{**ASKED, **more})
    assert where in refused.value.message
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert backend.calls == 0
    assert text_of(client(gateway).messages.create(**{**ASKED, **more, "model": "claude"})) == "answer 1"


def test_errors_have_the_sdks_classes(start: Start, backend: ScriptedBackend) -> None:
    models = [{"name": "m", "backends": [{"url": backend.url, "api_key": "secret"}]}]
    gateway = start({"models": models, "tenants": [{"name": "acme", "keys": ["good"]}]})
    with pytest.raises(anthropic.AuthenticationError) as denied:
        client(gateway, "bad").messages.create(**ASKED)
    assert denied.value.body["error"]["type"] == "authentication_error"
    assert denied.value.request_id == denied.value.body["request_id"]
    with pytest.raises(anthropic.NotFoundError):
        client(gateway, "good").messages.create(**{**ASKED, "model": "none"})
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client(gateway, "good").messages.create(**{**ASKED, "messages": []})
    client(gateway, "good").messages.create(**ASKED)
    assert backend.seen[0].headers["Authorization"] == "Bearer secret"
    assert "x-api-key" not in backend.seen[0].headers


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"error": {"message": "too long", "type": "x"}}, anthropic.BadRequestError),
        (429, {"error": {"message": "slow down"}}, anthropic.RateLimitError),
        (500, {"error": {"message": "broken"}}, anthropic.InternalServerError),
        (422, {"detail": "no such field"}, anthropic.UnprocessableEntityError),
    ],
)
def test_an_engines_error_is_told_in_the_callers_words(
    gateway: Running, backend: ScriptedBackend, status: int, body: Any, error: type[anthropic.APIStatusError]
) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        return web.json_response(body, status=status)

    backend.script = script
    with pytest.raises(error) as told:
        client(gateway).messages.create(**ASKED)
    message = body["error"]["message"] if "error" in body else body["detail"]
    assert told.value.body["error"]["message"] == message
    assert told.value.body["type"] == "error"


def test_an_overloaded_engine_is_a_refusal(native: Running, claude: ScriptedAnthropic) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        return web.json_response(body, status=529)

    claude.script = script
    with pytest.raises(anthropic.APIStatusError) as told:
        client(native).messages.create(**ASKED)
    assert told.value.status_code == 529
    assert native.app.fleet.backends[0].health.throttled_until > 0


def test_a_stream_that_breaks_off_is_an_error(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        async def events():
            async for event in backend.chunks(seen):
                yield event
                assert seen.request.transport is not None
                if b'"answer"' in event:
                    seen.request.transport.abort()
                    return

        with suppress(ConnectionError):
            return await backend.sse(seen, events())
        return web.Response()

    backend.script = script
    with pytest.raises(anthropic.APIStatusError) as told, client(gateway).messages.stream(**ASKED) as stream:
        stream.get_final_message()
    assert told.value.body["error"]["type"] == "api_error"
    gateway.settle()
    backend.script = None
    assert text_of(client(gateway).messages.create(**ASKED)) == "answer 2"


def test_counting_tokens(native: Running, gateway: Running, backend: ScriptedBackend) -> None:
    asked = {"model": "m", "messages": USER}
    assert client(native).messages.count_tokens(**asked).input_tokens == 42
    estimated = client(gateway).messages.with_raw_response.count_tokens(**asked)
    assert 5 < estimated.parse().input_tokens < 50
    assert estimated.headers["x-gateway-reason"] == "estimate"
    assert backend.calls == 0
    with pytest.raises(anthropic.BadRequestError):
        client(gateway).messages.count_tokens(**asked, thinking={"type": "enabled", "budget_tokens": 2000})


def test_a_client_that_leaves_stops_the_engine(either: tuple[Running, ScriptedBackend]) -> None:
    gateway, engine = either
    engine.delay = 30.0
    with pytest.raises(anthropic.APITimeoutError):
        client(gateway, timeout=0.5).messages.create(**ASKED)
    deadline = time.monotonic() + 10
    while not engine.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.cancelled == 1


def test_reasoning_comes_as_thinking_and_goes_back(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Seen) -> web.StreamResponse | None:
        message = {"role": "assistant", "content": "Paris", "reasoning_content": "France: Paris."}
        return web.json_response(backend._whole(seen, "chat.completion", {"message": message}))

    backend.script = script
    first = client(gateway).messages.create(**ASKED)
    assert [block.type for block in first.content] == ["thinking", "text"]
    turns = [*USER, {"role": "assistant", "content": first.content}, {"role": "user", "content": "Sure?"}]
    client(gateway).messages.create(**{**ASKED, "messages": turns})
    assert backend.seen[1].json["messages"][1] == {
        "role": "assistant",
        "content": "Paris",
        "reasoning_content": "France: Paris.",
    }
    signed = {"type": "thinking", "thinking": "so", "signature": "EqQB"}
    turns[1] = {"role": "assistant", "content": [signed, {"type": "text", "text": "Paris"}]}
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        client(gateway).messages.create(**{**ASKED, "messages": turns})


def test_structured_output(gateway: Running, backend: ScriptedBackend) -> None:
    backend.reply = lambda seen: '{"city": "Paris"}'
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    client(gateway).messages.create(
        **ASKED, output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    )
    assert backend.seen[0].json["response_format"]["json_schema"]["schema"] == schema
    assert backend.seen[0].json["reasoning_effort"] == "low"
