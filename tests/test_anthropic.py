"""Both APIs on both sides of one gateway, seen from outside: bytes, headers, keys, flights, fallbacks, offload."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import openai
import pytest
from aiohttp import web

from tests.harness import Running, ScriptedAnthropic, ScriptedBackend
from tests.harness.backend import Seen

Start = Callable[..., Running]
USER = [{"role": "user", "content": "What is the capital of France?"}]
ASKED: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": USER}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo", "days": 2**70}}


@pytest.fixture
def claude() -> Iterator[ScriptedAnthropic]:
    engine = ScriptedAnthropic()
    yield engine
    engine.close()


@pytest.fixture
def native(start: Start, claude: ScriptedAnthropic) -> Running:
    return start({"models": [{"name": "*", "api": "anthropic", "backends": [{"url": claude.url}]}]})


def ask(gateway: Running, body: Any = ASKED, **headers: str) -> httpx.Response:
    named = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.http.post(
        "/v1/messages", content=body if isinstance(body, bytes) else json.dumps(body), headers=named
    )


# ── Anthropic's client, Anthropic's engine ──────────────────────────────────────────────────────────────────


def test_bytes_pass_as_they_are_both_ways(native: Running, claude: ScriptedAnthropic) -> None:
    given: list[bytes] = []

    async def script(seen: Seen) -> web.StreamResponse:
        if not seen.json.get("stream"):
            given.append(json.dumps(claude.message(seen), indent=3).encode())
            return web.Response(body=given[-1], content_type="application/json", headers={"request-id": "r1"})

        async def events() -> Any:
            async for event in claude.message_events(seen):
                given.append(event)
                yield event

        return await claude.sse(seen, events())

    claude.script = script
    body = b'{ "max_tokens":1e2, "model" : "m","messages":[{"role":"user","content":"Hi\\u0021 1.50"}],"new":{"a":[]} }'
    whole = ask(native, body, anthropic_beta="one,two")
    seen = claude.seen[0]
    assert (seen.body, seen.path) == (body, "/v1/messages")
    assert (seen.headers["x-api-key"], seen.headers["anthropic-beta"]) == ("k", "one,two")
    assert whole.content == given[0]
    assert whole.headers["x-gateway-upstream-request-id"] == "r1"
    given.clear()
    streamed = ask(native, body.replace(b'"new"', b'"stream":true,"new"'), x_gateway_cache="off")
    assert streamed.content == b"".join(given)
    assert claude.seen[1].body == body.replace(b'"new"', b'"stream":true,"new"')


def test_versions_and_betas_part_requests(native: Running, claude: ScriptedAnthropic) -> None:
    ask(native)
    native.settle()
    assert ask(native).headers["x-gateway-how"] == "exact"
    assert ask(native, anthropic_beta="one").headers["x-gateway-decision"] == "forward"
    assert ask(native, anthropic_version="2024-01-01").headers["x-gateway-decision"] == "forward"


@pytest.mark.parametrize("stop", ["max_tokens", "pause_turn", "refusal"])
def test_what_is_not_whole_is_not_kept(native: Running, claude: ScriptedAnthropic, stop: str) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        return web.json_response(claude.message(seen, stop=stop))

    claude.script = script
    for _ in range(2):
        assert ask(native).json()["stop_reason"] == stop
        native.settle()
    assert claude.calls == 2


def test_tools_of_anthropics_own_are_never_reused(native: Running, claude: ScriptedAnthropic) -> None:
    body = {**ASKED, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    ask(native, body)
    native.settle()
    again = ask(native, body)
    assert (again.headers["x-gateway-decision"], again.headers["x-gateway-reason"]) == ("forward", "stateful")


def test_thinking_is_replayed_with_its_signature(native: Running, claude: ScriptedAnthropic) -> None:
    thought = {"type": "thinking", "thinking": "France. Paris.", "signature": "EqQBsig"}
    text = {"type": "text", "text": "Paris"}

    async def script(seen: Seen) -> web.StreamResponse:
        return await claude.sse(seen, claude.message_events(seen, thought, text))

    claude.script = script
    body = {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    ask(native, {**body, "stream": True})
    native.settle()
    whole = ask(native, body)
    assert whole.headers["x-gateway-how"] == "exact"
    assert whole.json()["content"] == [thought, text]
    assert whole.json()["usage"] == {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 5}
    assert b"EqQBsig" in ask(native, {**body, "stream": True}).content


def test_identical_requests_share_one_call(native: Running, claude: ScriptedAnthropic) -> None:
    claude.delay = 0.3
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(native), range(4)))
    assert len({answer.content for answer in answers}) == 1
    assert claude.calls == 1
    assert sorted(answer.headers["x-gateway-decision"] for answer in answers)[-1] in ("join", "reuse")


# ── OpenAI's client, Anthropic's engine ─────────────────────────────────────────────────────────────────────


def test_a_chat_completion_from_an_anthropic_engine(native: Running, claude: ScriptedAnthropic) -> None:
    system = {"role": "system", "content": "Be brief."}
    asked: dict[str, Any] = {
        "model": "m",
        "messages": [system, *USER],
        "stop": "END",
        "user": "u1",
        "temperature": 0,
    }
    first = native.client("secret").chat.completions.create(**asked)
    seen = claude.seen[0]
    assert seen.path == "/v1/messages"
    assert seen.json == {
        "model": "m",
        "max_tokens": 4096,
        "system": "Be brief.",
        "messages": USER,
        "temperature": 0,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
    }
    assert seen.headers["x-api-key"] == "secret"
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in seen.headers
    assert first.choices[0].message.content == "answer 1"
    assert first.choices[0].finish_reason == "stop"
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.total_tokens) == (12, 3, 15)
    assert first.usage.prompt_tokens_details.cached_tokens == 5
    native.settle()
    again = native.client("secret").chat.completions.with_raw_response.create(**asked)
    assert again.headers["x-gateway-how"] == "exact"
    assert again.parse() == first


@pytest.mark.parametrize("usage", [True, False])
def test_a_chat_stream_from_an_anthropic_engine(
    native: Running, claude: ScriptedAnthropic, usage: bool
) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        text = {"type": "text", "text": "Let me see."}
        return await claude.sse(
            seen, claude.message_events(seen, text, USE, {**USE, "input": {}}, stop="tool_use")
        )

    claude.script = script
    options = {"stream_options": {"include_usage": True}} if usage else {}
    for _ in range(2):
        stream = native.client().chat.completions.create(
            model="m", messages=USER, tools=[TOOL], stream=True, **options
        )
        chunks = list(stream)
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert "".join(delta.content or "" for delta in deltas) == "Let me see."
        arguments = ["", ""]
        for delta in deltas:
            for call in delta.tool_calls or ():
                arguments[call.index] += call.function.arguments or ""
        assert [json.loads(text) for text in arguments] == [USE["input"], {}]
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"
        assert [c.usage.total_tokens for c in chunks if c.usage] == ([15] if usage else [])
        native.settle()
    assert claude.calls == 1


def test_a_chat_request_that_has_no_form_there_is_refused(native: Running, claude: ScriptedAnthropic) -> None:
    for more in ({"seed": 7}, {"n": 2}, {"logprobs": True}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(openai.BadRequestError) as refused:
            native.client().chat.completions.create(model="m", messages=USER, **more)
        assert refused.value.code == "untranslatable"
        assert next(iter(more)) in refused.value.message
    for path, body in (
        ("completions", {"prompt": "Hi"}),
        ("responses", {"input": "Hi"}),
        ("embeddings", {"input": "Hi"}),
    ):
        answer = native.post(f"/v1/{path}", {"model": "m", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "untranslatable")
    assert claude.calls == 0


def test_an_error_of_anthropics_is_told_in_openais_words(native: Running, claude: ScriptedAnthropic) -> None:
    async def script(seen: Seen) -> web.StreamResponse:
        body = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
        return web.json_response(body, status=429, headers={"retry-after": "7"})

    claude.script = script
    answer = native.ask("Hello?")
    error = {"message": "slow down", "type": "rate_limit_error", "param": None, "code": "rate_limit_error"}
    assert (answer.status_code, answer.json()) == (429, {"error": error})
    assert answer.headers["retry-after"] == "7"


# ── models of several APIs ──────────────────────────────────────────────────────────────────────────────────


def test_a_backend_that_speaks_both_gets_each_as_it_is(start: Start, claude: ScriptedAnthropic) -> None:
    gateway = start({"models": [{"name": "*", "api": "both", "backends": [{"url": claude.url}]}]})
    assert ask(gateway).json()["content"][0]["text"] == "answer 1"
    assert gateway.ask("Hello?").json()["choices"][0]["message"]["content"] == "answer 2"
    assert [seen.path for seen in claude.seen] == ["/v1/messages", "/v1/chat/completions"]


def test_a_fallback_may_speak_the_other_api(
    start: Start, backend: ScriptedBackend, claude: ScriptedAnthropic
) -> None:
    models = [
        {"name": "m", "api": "anthropic", "fallback": ["spare"], "backends": [{"url": claude.url}]},
        {"name": "spare", "backends": [{"url": backend.url}]},
    ]
    gateway = start({"models": models})
    claude.stop()
    answer = ask(gateway)
    assert (answer.json()["type"], answer.json()["content"][0]["text"]) == ("message", "answer 1")
    assert answer.headers["x-gateway-model"] == "spare"
    refused = ask(gateway, {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 2000}})
    assert (
        refused.status_code == 502
    )  # it has no form there, so the engine that would know it is the last word
    assert refused.json()["error"]["type"] == "api_error"
    claude.start()


def test_keys_of_the_backend_go_as_it_takes_them(start: Start, claude: ScriptedAnthropic) -> None:
    backends = [{"url": claude.url, "api_key": "theirs"}]
    gateway = start({"models": [{"name": "*", "api": "anthropic", "backends": backends}]})
    ask(gateway)
    gateway.ask("Hello?")
    for seen in claude.seen:
        assert seen.headers["x-api-key"] == "theirs"
        assert "Authorization" not in seen.headers
    assert (
        gateway.http.post("/v1/messages/batches", json={}, headers={"x-api-key": "k"}).json()["path"]
        == "/v1/messages/batches"
    )
    assert claude.seen[-1].headers["x-api-key"] == "theirs"


def test_an_anthropic_clients_key_reaches_an_openai_engine(start: Start, backend: ScriptedBackend) -> None:
    gateway = start()
    ask(gateway)
    assert backend.seen[0].headers["Authorization"] == "Bearer k"
    assert "x-api-key" not in backend.seen[0].headers
    gateway.settle()
    assert ask(gateway, x_api_key="other").headers["x-gateway-decision"] == "forward", (
        "another key, another tenant"
    )


def test_controls_and_errors_as_for_chat(start: Start, backend: ScriptedBackend) -> None:
    gateway = start({"limits": {"body": 2048}})
    missed = ask(gateway, x_gateway_cache="only")
    assert (missed.status_code, missed.json()["error"]["type"]) == (504, "timeout_error")
    assert missed.json()["request_id"] == missed.headers["request-id"]
    large = ask(gateway, {**ASKED, "system": "x" * 4096})
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    assert gateway.http.get("/v1/messages").json()["error"]["type"] == "invalid_request_error"
    body = {**ASKED, "cache": {"no-store": True}}
    assert ask(gateway, body).status_code == 200
    assert "cache" not in backend.seen[-1].json
    gateway.settle()
    assert ask(gateway).headers["x-gateway-decision"] == "forward"


def test_a_policy_rule_may_name_the_endpoint(start: Start, backend: ScriptedBackend) -> None:
    book = """
categories:
  - name: open
    cache: {mode: exact, threshold: 0.9, ttl: 1d}
  - name: default
    cache: {mode: none, threshold: 0.9, ttl: 1d}
rules:
  - when: {endpoint: messages}
    then: {category: open}
"""
    gateway = start(book=book)
    assert ask(gateway).headers["x-gateway-category"] == "open"
    assert gateway.ask("Hello?").headers["x-gateway-reason"] == "mode-none"


def test_the_admin_explains_a_message(native: Running, claude: ScriptedAnthropic) -> None:
    ask(native)
    native.settle()
    (entry,) = native.app.cache.catalog.entries()
    named = {"x-gateway-tenant": entry.tenant}
    told = httpx.post(f"{native.admin}/explain", json=ASKED, headers=named).json()
    assert told["reason"] == "partition-empty", "the same body as a chat completion is another question"
    body = {**ASKED, "messages": [{"role": "user", "content": "What is France's capital?"}]}
    named["anthropic-version"] = "2023-06-01"
    told = httpx.post(f"{native.admin}/explain", json=body, headers=named).json()
    assert (told["decision"], told["how"], told["entry"]) == ("reuse", "semantic", entry.name)
    assert claude.calls == 1


def test_a_small_model_of_the_other_api_answers(
    start: Start, backend: ScriptedBackend, claude: ScriptedAnthropic
) -> None:
    book = """
categories:
  - name: default
    cache: {mode: exact, threshold: 0.90, ttl: 1d}
    offload: {max_quality_loss: 1.0}
"""
    models = [
        {
            "name": "m",
            "api": "anthropic",
            "backends": [{"url": claude.url}],
            "offload_to": "small",
            "price": {"input": 2.0, "output": 8.0},
        },
        {"name": "small", "backends": [{"url": backend.url}], "price": {"input": 0.1, "output": 0.4}},
    ]
    offload = {"compare_share": 0.0, "replay": {"enabled": False}}
    gateway = start({"models": models, "offload": offload}, book=book)
    backend.reply = lambda seen: f"small answer {seen.number}"
    words = []
    for city in ("Paris", "Rome", "Madrid", "Vienna", "Lisbon", "Prague"):
        body = {
            **ASKED,
            "stream": city == "Prague",
            "messages": [{"role": "user", "content": f"Tell me about {city}."}],
        }
        words.append(ask(gateway, body).headers["x-gateway-decision"])
        gateway.settle()
    assert "offload" in words
    sent = backend.seen[-1].json
    assert backend.seen[-1].path == "/v1/chat/completions"
    assert sent["messages"][-1]["content"].startswith("Tell me about")


def test_slow_streams_are_passed_on_as_they_come(start: Start, backend: ScriptedBackend) -> None:
    gateway = start()
    backend.pause = asyncio.Event()
    with gateway.http.stream("POST", "/v1/messages", json={**ASKED, "stream": True}) as answer:
        pieces = answer.iter_text()
        seen = ""
        while "text_delta" not in seen:
            seen += next(pieces)
        assert "message_stop" not in seen
        backend.call(backend.pause.set)
        assert "message_stop" in "".join(pieces)


def test_prompts_read_from_a_cache_are_counted(native: Running, claude: ScriptedAnthropic) -> None:
    for body in (ASKED, {**ASKED, "stream": True}):
        ask(native, body, x_gateway_cache="off")
        native.settle()
    told = httpx.get(f"{native.admin}/metrics").text
    (line,) = [
        line
        for line in told.splitlines()
        if line.startswith("gen_ai_client_token_usage_sum") and "input" in line
    ]
    assert float(line.split()[-1]) == 24
