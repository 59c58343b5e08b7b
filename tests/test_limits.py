"""Tenants' keys, models, limits and budgets as applications and operators see them."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from aiohttp import ClientSession, TCPConnector, web

from gateway import keys
from tests.harness import Running, ScriptedBackend
from tests.harness.backend import Seen
from tests.storage.conftest import Server

Start = Callable[..., Running]
PRICE = {"input": 1.0, "output": 10.0}  # dollars per million: 1,000 and 10,000 billionths a token
WHOLE = 7 * 1000 + 3 * 10_000  # what the scripted engine's answers cost
RATES = [
    f"x-ratelimit-{part}-{kind}"
    for kind in ("requests", "tokens")
    for part in ("limit", "remaining", "reset")
]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


def tree(backend: ScriptedBackend, **tenant: Any) -> dict[str, Any]:
    """One model with a price, one tenant whose key is `test`."""
    models = [{"name": name, "price": PRICE, "backends": [{"url": backend.url}]} for name in ("m", "other")]
    return {"models": models, "tenants": [{"name": "acme", "keys": ["test"], **tenant}]}


def tenant(gateway: Running) -> Any:
    """The first tenant as the admin port tells of it, once nothing is in progress."""
    deadline = time.monotonic() + 10
    while True:
        known = gateway.http.get(f"{gateway.admin}/tenants").json()["tenants"][0]
        if known["used"] is None or not known["used"]["in_flight"] or time.monotonic() > deadline:
            return known
        time.sleep(0.01)


def nanos(gateway: Running) -> int:
    return round(tenant(gateway)["used"]["dollars"] * 1e9)


async def break_off(seen: Seen) -> web.StreamResponse:
    """A stream that says what it has used, and then is cut."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(seen.request)
    usage = {"prompt_tokens": 11, "completion_tokens": 5}
    await response.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
    await asyncio.sleep(0.3)  # a reset takes along what the other side has not read yet
    assert seen.request.transport is not None
    seen.request.transport.abort()
    return response


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_rotated_by_listing_two_and_expire(start: Start, backend: ScriptedBackend) -> None:
    old, new, gone = keys.generate(), keys.generate(), keys.generate()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    listed = [
        {"key": str(keys.hashed(old)), "label": "old", "expires": tomorrow},
        str(keys.hashed(new)),
        {"key": str(keys.hashed(gone)), "expires": "2020-01-01"},
        {"key": "plain-key", "label": "by hand"},
    ]
    gateway = start(tree(backend, keys=listed))
    for key in (old, new, "plain-key"):
        assert gateway.client(key).models.list().data
    for key in (gone, keys.generate(), old[:-1] + ("a" if old[-1] != "a" else "b"), listed[1], "x"):
        with pytest.raises(openai.AuthenticationError) as refused:
            gateway.client(key).models.list()
        expected = "expired_api_key" if key == gone else "invalid_api_key"
        assert refused.value.code == expected
    told = gateway.http.get(f"{gateway.admin}/tenants")
    shown = told.json()["tenants"][0]["keys"]
    assert [key["label"] for key in shown] == ["old", keys.id_of(new), keys.id_of(gone), "by hand"]
    assert [key["uses"] for key in shown] == [1, 1, 0, 1]
    hashes = [each if isinstance(each, str) else each["key"] for each in listed]
    for secret in (old, new, gone, *hashes, *(h.rsplit(":", 1)[-1] for h in hashes)):
        assert secret not in told.text
    gateway.reload(tree(backend, keys=listed[1:]))
    assert gateway.client(new).models.list().data
    with pytest.raises(openai.AuthenticationError):
        gateway.client(old).models.list()


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────


def test_only_allowed_models_are_listed_and_answer(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(tree(backend, models=["m"]))
    client = gateway.client()
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.chat.completions.create(model="m", messages=user("a question")).choices
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model="other", messages=user("a question"))
    assert (refused.value.code, refused.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    calls = backend.calls
    assert gateway.post("/v1/moderations", {"model": "other", "input": "x"}).status_code == 403
    upload = gateway.http.post(
        "/v1/files", headers={"Authorization": "Bearer test"}, files={"file": b"x"}, data={"purpose": "batch"}
    )
    assert upload.status_code == 403  # nobody can tell which model a file asks for
    assert backend.calls == calls
    metrics = gateway.http.get(f"{gateway.admin}/metrics").text
    assert 'gateway_tenant_refused_total{reason="model",tenant="acme"} 3.0' in metrics


def test_a_fallback_that_is_not_allowed_does_not_answer(start: Start, backend: ScriptedBackend) -> None:
    new = tree(backend, models=["m"])
    new["models"][0]["fallback"] = ["other"]

    async def fail(seen: Seen) -> web.StreamResponse | None:
        return None if seen.json["model"] == "other" else web.json_response({"error": {}}, status=503)

    backend.script = fail
    gateway = start(new)
    assert gateway.ask("a question").status_code == 503
    gateway.reload({**new, "tenants": [{"name": "acme", "keys": ["test"], "models": ["m", "other"]}]})
    assert gateway.ask("a question").headers["x-gateway-model"] == "other"


# ── rates ───────────────────────────────────────────────────────────────────────────────────────────────


def test_requests_per_minute_count_hits_too(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(tree(backend, limits={"requests_per_minute": 3, "tokens_per_minute": 10_000}))
    first = gateway.ask("What is the capital of France?")
    assert {name: name in first.headers for name in RATES} == dict.fromkeys(RATES, True)
    assert first.headers["x-ratelimit-remaining-requests"] == "2"
    gateway.settle()
    tenant(gateway)
    again = gateway.ask("What is the capital of France?")
    assert again.headers["x-gateway-how"] == "exact"
    assert again.headers["x-ratelimit-remaining-requests"] == "1"
    assert int(again.headers["x-ratelimit-remaining-tokens"]) >= 10_000 - 10
    assert gateway.ask("And of Italy?").status_code == 200
    with pytest.raises(openai.RateLimitError) as refused:
        gateway.client().chat.completions.create(model="m", messages=user("And of Spain?"))
    error = refused.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(error.response.headers["retry-after"]) <= 20
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert error.response.headers["x-gateway-decision"] == "refuse"
    assert backend.calls == 2


def test_tokens_are_reserved_and_settled_and_do_not_keep_hits_away(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(tree(backend, limits={"tokens_per_minute": 400}))
    assert gateway.post("/v1/chat/completions", {"model": "m", "messages": user("one"), "max_tokens": 100}).status_code == 200  # fmt: skip
    gateway.settle()
    assert tenant(gateway)["used"]["tokens"] <= 10
    backend.delay = 0.5
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(gateway.post, "/v1/chat/completions", {"model": "m", "messages": user(f"{n}"), "max_tokens": 120})
            for n in ("two", "three", "four", "five")
        ]  # fmt: skip
        statuses = sorted(each.result().status_code for each in asked)
    assert statuses == [200, 200, 200, 429] or statuses == [200, 200, 429, 429]
    assert tenant(gateway)["used"]["tokens"] <= 40


def test_a_request_larger_than_a_minutes_tokens_waits_for_all_of_it(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(tree(backend, limits={"tokens_per_minute": 5}))
    assert gateway.ask("What is the capital of France?").status_code == 200
    refused = gateway.ask("What is the height of the Eiffel Tower?")
    assert refused.json()["error"]["type"] == "tokens"
    assert int(refused.headers["retry-after"]) >= 60


def test_requests_in_progress_are_limited_and_their_places_come_back(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(tree(backend, limits={"in_flight": 1}))
    backend.pause = asyncio.Event()
    body = {"model": "m", "messages": user("a long story"), "stream": True}
    with gateway.http.stream(
        "POST", "/v1/chat/completions", json=body, headers={"Authorization": "Bearer test"}
    ) as stream:
        pieces = stream.iter_bytes()  # held on to: dropping it would hang up
        next(pieces)
        refused = gateway.ask("another question")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        backend.call(backend.pause.set)
        for _ in pieces:
            pass
    tenant(gateway)
    assert gateway.ask("another question").status_code == 200


# ── money ───────────────────────────────────────────────────────────────────────────────────────────────


def test_money_ends_exact_after_answers_disconnects_and_failures(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(tree(backend, budget={"hard": 10}))
    backend.pause = asyncio.Event()
    body = {"model": "m", "messages": user("a story that nobody hears to its end"), "stream": True}
    sent = len(json.dumps(body, separators=(",", ":"), ensure_ascii=False))
    with gateway.http.stream(
        "POST", "/v1/chat/completions", json=body, headers={"Authorization": "Bearer test"}
    ) as stream:
        assert int(stream.request.headers["content-length"]) == sent
        seen = b""
        for chunk in stream.iter_bytes():
            seen += chunk
            if b"answer" in seen:
                break
    expected = round(sent * 0.25) * 1000 + 2 * 10_000  # its prompt by size, and the two events that came
    assert nanos(gateway) == expected
    backend.call(backend.pause.set)

    assert gateway.ask("What is the capital of France?").status_code == 200
    list(gateway.client().chat.completions.create(model="m", messages=user("And of Italy?"), stream=True))
    expected += 2 * WHOLE
    gateway.settle()
    assert gateway.ask("What is the capital of France?").headers["x-gateway-decision"] == "reuse"
    assert nanos(gateway) == expected

    async def fail(seen: Seen) -> web.StreamResponse | None:
        return web.json_response({"error": {"message": "no"}}, status=400)

    backend.script = fail
    assert gateway.ask("And of Spain?").status_code == 400
    assert nanos(gateway) == expected

    backend.script = break_off
    with contextlib.suppress(openai.APIError, httpx.HTTPError):
        list(gateway.client().chat.completions.create(model="m", messages=user("Portugal?"), stream=True))
    expected += 11 * 1000 + 5 * 10_000  # what the engine had told until then
    assert nanos(gateway) == expected
    backend.stop()
    assert gateway.ask("And of Greece?").status_code >= 500
    assert nanos(gateway) == expected
    backend.start()
    backend.script = None
    embedded = gateway.post("/v1/embeddings", {"model": "m", "input": "words"})
    assert embedded.status_code == 200
    assert nanos(gateway) == expected + 3 * 1000
    metrics = gateway.http.get(f"{gateway.admin}/metrics").text
    assert f'gateway_tenant_dollars_total{{tenant="acme"}} {(expected + 3000) / 1e9}' in metrics


def test_who_leaves_before_the_answer_pays_for_the_prompt(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(tree(backend, budget={"hard": 10}))
    backend.delay = 5.0
    body = {"model": "m", "messages": user("something that takes long")}
    with pytest.raises(httpx.TimeoutException):
        gateway.http.post(
            "/v1/chat/completions", json=body, headers={"Authorization": "Bearer test"}, timeout=0.5
        )
    sent = len(json.dumps(body, separators=(",", ":")))
    assert nanos(gateway) == round(sent * 0.25) * 1000


def test_compressed_answers_are_charged_as_any(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(tree(backend, budget={"hard": 10}))

    async def packed(seen: Seen) -> web.StreamResponse | None:
        assert seen.headers["Accept-Encoding"] == "identity"
        return None

    backend.script = packed
    assert gateway.ask("What is the capital of France?", Accept_Encoding="gzip").status_code == 200
    assert nanos(gateway) == WHOLE


def test_a_small_model_that_is_not_allowed_is_not_asked(start: Start, backend: ScriptedBackend) -> None:
    new = tree(backend, models=["m"])
    new["models"][0]["offload_to"] = "other"
    gateway = start(new)
    room, asked = gateway.app.offloading, []
    room.library.partitions, known = lambda *given: asked.append(given) or (), room.library.partitions
    try:
        assert gateway.ask("What is the capital of France?").status_code == 200
        assert asked == []
        gateway.reload({**new, "tenants": [{"name": "acme", "keys": ["test"]}]})
        assert gateway.ask("What is the capital of Spain?").status_code == 200
        assert len(asked) == 1
    finally:
        room.library.partitions = known


def test_a_hard_budget_refuses_engines_and_not_the_cache(start: Start, backend: ScriptedBackend) -> None:
    reserved = (100 * 1000 + 256 * 10_000) / 1e9  # more than a first question is expected to cost
    gateway = start(tree(backend, budget={"period": "day", "soft": 0.000_01, "hard": reserved}))
    first = gateway.ask("What is the capital of France?")
    assert first.status_code == 200
    gateway.settle()
    tenant(gateway)
    backend.reply = lambda seen: "x"
    refused = None
    for number in range(200):
        answer = gateway.ask(f"Question number {number} about something else?")
        if answer.status_code != 200:
            refused = answer
            break
        tenant(gateway)
    assert refused is not None
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "insufficient_quota", "insufficient_quota")  # fmt: skip
    assert refused.headers["x-should-retry"] == "false"
    assert 1 <= int(refused.headers["retry-after"]) <= 86400
    assert refused.headers["x-gateway-budget"].startswith("used=")
    hit = gateway.ask("What is the capital of France?")
    assert (hit.status_code, hit.headers["x-gateway-how"]) == (200, "exact")
    known = tenant(gateway)
    assert known["budget"] == {"period": "day", "soft": 0.000_01, "hard": reserved}
    metrics = gateway.http.get(f"{gateway.admin}/metrics").text
    assert 'gateway_tenant_over_soft{tenant="acme"} 1.0' in metrics
    assert 'gateway_tenant_refused_total{reason="budget",tenant="acme"} 1.0' in metrics


def test_a_small_models_answer_costs_what_the_small_model_costs(
    start: Start, backend: ScriptedBackend
) -> None:
    """Whichever model answers, its own price counts: here a fallback's."""
    new = tree(backend, budget={"hard": 10})
    new["models"][0]["fallback"] = ["other"]
    new["models"][1]["price"] = {"input": 0.5, "output": 0.5}

    async def fail(seen: Seen) -> web.StreamResponse | None:
        return None if seen.json["model"] == "other" else web.json_response({"error": {}}, status=503)

    backend.script = fail
    gateway = start(new)
    assert gateway.ask("a question").headers["x-gateway-model"] == "other"
    assert nanos(gateway) == 10 * 500


# ── replicas ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def two(start: Start, redis: Server, tmp_path: Path) -> Callable[[dict[str, Any]], list[Running]]:
    """Two gateways on one Redis."""

    def begin(new: dict[str, Any]) -> list[Running]:
        store = {"kind": "redis", "url": redis.url, "namespace": tmp_path.name}
        gateways = [start({**new, "store": store}) for _ in range(2)]
        for gateway in gateways:
            gateway.app.counts._deadline = 10.0  # the machine may be busy, and late answers count here alone
        return gateways

    return begin


def told_by_both(gateways: list[Running], expected: int) -> list[int]:
    """Billionths of a dollar by `GET /tenants`; settlements reach Redis in the background."""
    deadline = time.monotonic() + 10
    while [nanos(g) for g in gateways] != [expected] * 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(gateway.app.counts.local == 0 for gateway in gateways)
    return [nanos(gateway) for gateway in gateways]


async def all_at_once(gateways: list[Running], bodies: list[Any]) -> list[tuple[int, Any, Any]]:
    """Status, headers and JSON of as many requests at the same time, in turn to either gateway."""
    connector, key = TCPConnector(limit=0), {"Authorization": "Bearer test"}
    async with ClientSession(connector=connector, headers=key) as session:

        async def one(number: int, body: Any) -> tuple[int, Any, Any]:
            url = f"{gateways[number % 2].url}/v1/chat/completions"
            async with session.post(url, json=body) as answer:
                return answer.status, answer.headers, await answer.json()

        return await asyncio.gather(*(one(n, body) for n, body in enumerate(bodies)))


def test_of_200_requests_at_once_on_two_gateways_exactly_50_pass(
    two: Callable[..., list[Running]], backend: ScriptedBackend
) -> None:
    gateways = two(tree(backend, limits={"requests_per_minute": 50}, budget={"hard": 1}))
    bodies = [{"model": "m", "messages": user(f"Question {n}: what is it?")} for n in range(200)]
    began = time.monotonic()
    answers = asyncio.run(all_at_once(gateways, bodies))
    refilled = int((time.monotonic() - began) * 50 / 60)  # nothing, unless the machine is slow
    passed = [headers for status, headers, _ in answers if status == 200]
    refused = [headers for status, headers, _ in answers if status == 429]
    assert 50 <= len(passed) <= 50 + refilled
    assert len(passed) + len(refused) == 200
    for headers in (*passed, *refused):
        assert headers["x-ratelimit-limit-requests"] == "50"
    assert {headers["x-ratelimit-remaining-requests"] for headers in refused} == {"0"}
    assert all(int(headers["retry-after"]) >= 1 for headers in refused)
    assert backend.calls <= len(passed)
    assert told_by_both(gateways, backend.calls * WHOLE) == [backend.calls * WHOLE] * 2


def test_a_hard_budget_holds_over_two_gateways_at_once(
    two: Callable[..., list[Running]], backend: ScriptedBackend
) -> None:
    hard = 30 * WHOLE
    gateways = two(tree(backend, budget={"hard": hard / 1e9}))
    backend.delay = 0.2
    bodies = [
        {"model": "m", "max_tokens": 10, "messages": user(f"Tell me of number {n}.")} for n in range(60)
    ]
    answers = asyncio.run(all_at_once(gateways, bodies))
    codes = [body["error"]["code"] for status, _, body in answers if status != 200]
    assert set(codes) == {"insufficient_quota"}
    assert 0 < backend.calls <= 30
    assert 60 - len(codes) == backend.calls
    assert told_by_both(gateways, backend.calls * WHOLE) == [backend.calls * WHOLE] * 2


def test_tokens_and_money_end_exact_over_two_gateways_whatever_becomes_of_the_answers(
    two: Callable[..., list[Running]], backend: ScriptedBackend
) -> None:
    rate = 3000  # tokens a minute, of which some drain away while this runs
    gateways = two(tree(backend, limits={"tokens_per_minute": rate}, budget={"hard": 1}))
    began = time.monotonic()

    async def behave(seen: Seen) -> web.StreamResponse | None:
        asked = seen.body.decode()
        if "refuse" in asked:
            return web.json_response({"error": {"message": "no"}}, status=400)
        return await break_off(seen) if "break off" in asked else None

    def stream(gateway: Running, text: str, *, until: bytes = b"") -> int:
        """Read to the end, or leave once something has come; bytes sent."""
        body = {"model": "m", "max_tokens": 10, "messages": user(text), "stream": True}
        seen = b""
        with (
            contextlib.suppress(httpx.HTTPError),
            gateway.http.stream(
                "POST", "/v1/chat/completions", json=body, headers={"Authorization": "Bearer test"}
            ) as answer,
        ):
            for chunk in answer.iter_bytes():
                seen += chunk
                if until and until in seen:
                    break
        return len(json.dumps(body, separators=(",", ":")))

    backend.script, backend.pause = behave, asyncio.Event()
    with ThreadPoolExecutor(6) as pool:
        # First those who leave, before anything is known of how many tokens a prompt has.
        gone = [pool.submit(stream, gateways[n % 2], f"leave {n}", until=b"answer") for n in range(6)]
        prompts = [round(sent.result() * 0.25) for sent in gone]
        backend.call(backend.pause.set)
        asked = [pool.submit(gateways[n % 2].ask, f"Whole answer number {n}?") for n in range(8)]
        for kind in ("whole stream", "break off", "refuse"):
            asked += [pool.submit(stream, gateways[n % 2], f"{kind} {n}") for n in range(4)]
        for each in asked:
            each.result()
    whole = 8 + 4
    expected = (sum(prompts) * 1000 + 6 * 2 * 10_000) + whole * WHOLE + 4 * (11 * 1000 + 5 * 10_000)
    used = sum(prompts) + 6 * 2 + whole * (7 + 3) + 4 * (11 + 5)
    assert told_by_both(gateways, expected) == [expected] * 2
    backend.stop()
    for gateway in gateways:
        assert gateway.ask("Nobody is there to answer this?").status_code >= 500
    assert told_by_both(gateways, expected) == [expected] * 2
    backend.start()
    tokens = [tenant(gateway)["used"]["tokens"] for gateway in gateways]
    drained = (time.monotonic() - began) * rate / 60
    assert all(used - drained - 1 <= told <= used + 1 for told in tokens), (used, drained, tokens)


def test_while_redis_is_gone_requests_go_on_and_afterwards_the_sums_agree(
    start: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = Server(folder)
    server.start()
    try:
        store = {"kind": "redis", "url": server.url}
        gateway = start({**tree(backend, budget={"hard": 1}), "store": store})
        assert gateway.ask("What is the capital of France?").status_code == 200
        assert nanos(gateway) == WHOLE
        server.kill()
        for name in ("Italy", "Spain", "Peru"):
            assert gateway.ask(f"What do people eat in {name}?").status_code == 200
        assert gateway.app.counts.local == 3
        server.start()
        deadline = time.monotonic() + 15
        while gateway.app.counts.pending and time.monotonic() < deadline:
            time.sleep(0.05)
        assert gateway.app.counts.pending == 0
        assert nanos(gateway) == 4 * WHOLE
    finally:
        server.kill()
