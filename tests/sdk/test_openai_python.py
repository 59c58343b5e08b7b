"""The OpenAI Python SDK, unchanged but for its base URL."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.harness import Running, ScriptedBackend

USER = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def test_chat_and_the_same_again_from_memory(gateway: Running, backend: ScriptedBackend) -> None:
    client = gateway.client()
    first = client.chat.completions.create(model="m", messages=USER)
    gateway.settle()
    second = client.chat.completions.with_raw_response.create(model="m", messages=USER)
    assert second.parse() == first
    assert second.headers["x-gateway-how"] == "exact"
    assert backend.calls == 1
    assert second.parse()._request_id == second.headers["x-request-id"]


def test_streaming_live_and_replayed_are_the_same_to_the_sdk(
    gateway: Running, backend: ScriptedBackend
) -> None:
    def read() -> tuple[str, str | None, int]:
        options = {"include_usage": True}
        stream = gateway.client().chat.completions.create(
            model="m", messages=USER, stream=True, stream_options=options
        )
        chunks = list(stream)
        words = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert len({c.id for c in chunks}) == 1
        return words, ends[0], chunks[-1].usage.total_tokens

    live = read()
    gateway.settle()
    assert read() == live == ("answer 1", "stop", 10)
    assert backend.calls == 1


def test_the_usage_chunk_is_not_sent_to_who_did_not_ask(gateway: Running, backend: ScriptedBackend) -> None:
    for _ in range(2):
        chunks = list(gateway.client().chat.completions.create(model="m", messages=USER, stream=True))
        assert all(chunk.choices and chunk.usage is None for chunk in chunks)
        gateway.settle()
    assert backend.seen[0].json["stream_options"] == {"include_usage": True}, (
        "asked upstream, for the hits to come"
    )


def test_stream_helper_accumulates(gateway: Running) -> None:
    for _ in range(2):
        with gateway.client().chat.completions.stream(model="m", messages=USER) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.content == "answer 1"
        gateway.settle()


def test_tools_are_called_and_replayed_whole(gateway: Running, backend: ScriptedBackend) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
    }

    async def script(seen: Any) -> web.StreamResponse:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    backend.script = script
    client = gateway.client()
    first = client.chat.completions.create(model="m", messages=USER, tools=[TOOL])
    gateway.settle()
    assert client.chat.completions.create(model="m", messages=USER, tools=[TOOL]) == first
    with client.chat.completions.stream(model="m", messages=USER, tools=[TOOL]) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [(t.id, t.function.name, t.function.arguments) for t in streamed] == [
        ("call_1", "weather", '{"city":"Oslo"}')
    ]
    assert backend.calls == 1


class City(BaseModel):
    name: str
    country: str


def test_structured_output(gateway: Running, backend: ScriptedBackend) -> None:
    backend.reply = lambda seen: '{"name": "Paris", "country": "France"}'
    for _ in range(2):
        parsed = gateway.client().chat.completions.parse(model="m", messages=USER, response_format=City)
        assert parsed.choices[0].message.parsed == City(name="Paris", country="France")
        gateway.settle()
    assert backend.calls == 1
    assert backend.seen[0].json["response_format"]["type"] == "json_schema"


def test_several_choices_survive(gateway: Running) -> None:
    for _ in range(2):
        got = gateway.client().chat.completions.create(model="m", messages=USER, n=3)
        assert [c.index for c in got.choices] == [0, 1, 2]
        gateway.settle()
    chunks = list(gateway.client().chat.completions.create(model="m", messages=USER, n=3, stream=True))
    assert {c.choices[0].index for c in chunks} == {0, 1, 2}


def test_embeddings(gateway: Running, backend: ScriptedBackend) -> None:
    client = gateway.client()
    first = client.embeddings.create(model="e", input="hello", encoding_format="float")
    gateway.settle()
    assert client.embeddings.create(model="e", input="hello", encoding_format="float") == first
    assert client.embeddings.create(model="e", input="Hello", encoding_format="float") != first
    assert backend.calls == 2


def test_responses(gateway: Running, backend: ScriptedBackend) -> None:
    client = gateway.client()
    first = client.responses.create(model="m", input="What is the capital of France?")
    assert first.output_text == "answer 1"
    gateway.settle()
    paraphrase = client.responses.with_raw_response.create(model="m", input="What is France's capital?")
    assert paraphrase.headers["x-gateway-how"] == "semantic"
    assert paraphrase.parse().output_text == "answer 1"
    with client.responses.stream(model="m", input="What is the capital of France?") as stream:
        assert stream.get_final_response().output_text == "answer 1"
    assert backend.calls == 1
    client.responses.create(model="m", input="And Germany?", previous_response_id=first.id)
    client.responses.create(model="m", input="And Germany?", previous_response_id=first.id)
    assert backend.calls == 3, "answers that depend on state are never reused"


def test_legacy_completions(gateway: Running, backend: ScriptedBackend) -> None:
    client = gateway.client()
    first = client.completions.create(model="m", prompt="What is the capital of France?")
    gateway.settle()
    again = client.completions.with_raw_response.create(model="m", prompt="What is France's capital?")
    assert again.headers["x-gateway-how"] == "semantic"
    assert again.parse().choices[0].text == first.choices[0].text
    streamed = client.completions.create(model="m", prompt="What is the capital of France?", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == first.choices[0].text
    assert backend.calls == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_upstream_errors_arrive_unchanged(
    gateway: Running, backend: ScriptedBackend, status: int, error: type[openai.APIStatusError]
) -> None:
    told = {"error": {"message": "because", "type": "some_type", "param": "p", "code": "some_code"}}

    async def script(seen: Any) -> web.StreamResponse:
        return web.json_response(told, status=status, headers={"retry-after": "7", "x-should-retry": "false"})

    backend.script = script
    with pytest.raises(error) as caught:
        gateway.client().chat.completions.create(model="m", messages=USER)
    assert caught.value.body == told["error"]
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_the_sdks_own_retries_work(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Any) -> web.StreamResponse | None:
        if seen.number == 1:
            return web.json_response(
                {"error": {"message": "busy"}}, status=503, headers={"retry-after-ms": "10"}
            )
        return None

    backend.script = script
    answer = gateway.client(max_retries=2).chat.completions.create(model="m", messages=USER)
    assert answer.choices[0].message.content == "answer 2"


def test_the_gateways_own_errors_have_openais_shape(
    start: Callable[..., Running], backend: ScriptedBackend
) -> None:
    gateway = start(
        {
            "models": [{"name": "known", "backends": [{"url": backend.url}]}],
            "tenants": [{"name": "a", "keys": ["sk-a"]}],
        }
    )
    with pytest.raises(openai.AuthenticationError) as unauthorized:
        gateway.client("sk-wrong").chat.completions.create(model="known", messages=USER)
    assert unauthorized.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as unknown:
        gateway.client("sk-a").chat.completions.create(model="unknown", messages=USER)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        gateway.client("sk-a").chat.completions.create(model="known", messages=[])
    assert empty.value.param == "messages"


def test_models_are_listed_and_retrieved(gateway: Running) -> None:
    client = gateway.client()
    assert [m.id for m in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").id == "scripted"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_the_async_client_cancels_upstream_when_it_leaves(gateway: Running, backend: ScriptedBackend) -> None:
    backend.delay = 30.0

    async def scene() -> None:
        client = AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k", max_retries=0)
        task = asyncio.create_task(client.chat.completions.create(model="m", messages=USER))
        while not backend.calls:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(200):
            if backend.cancelled:
                break
            await asyncio.sleep(0.01)
        await client.close()

    asyncio.run(scene())
    assert backend.cancelled == 1
    assert gateway.app.fleet.backends[0].in_flight == 0
