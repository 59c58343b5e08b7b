"""Routing through a whole gateway: fallback models, held answers, refusals, mirrors, engines' own figures."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from tests.harness import Running, ScriptedBackend
from tests.harness.backend import Seen

Start = Callable[..., Running]
FRANCE = "What is the capital of France?"


@pytest.fixture
def other() -> Iterator[ScriptedBackend]:
    engine = ScriptedBackend()
    yield engine
    engine.close()


def answering(status: int, **headers: str) -> Callable[[Seen], Any]:
    async def script(seen: Seen) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": f"scripted {status}"}}, status=status, headers=named)

    return script


def with_fallback(backend: ScriptedBackend, other: ScriptedBackend) -> dict[str, Any]:
    return {
        "models": [
            {"name": "large", "backends": [{"url": backend.url}], "fallback": ["small"]},
            {"name": "small", "backends": [{"url": other.url}]},
        ]
    }


def test_a_fallback_answers_under_its_own_name_and_is_not_remembered(
    start: Start, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    gateway = start(with_fallback(backend, other))
    backend.script = answering(503)
    for _ in range(2):
        answer = gateway.ask(FRANCE, model="large")
        assert answer.status_code == 200
        assert answer.headers["x-gateway-decision"] == "forward"
        assert answer.headers["x-gateway-reason"] == "fallback"
        assert answer.headers["x-gateway-model"] == "small"
        assert answer.headers["x-gateway-backend"] == "small/0"
        assert "x-gateway-entry" not in answer.headers
        assert "stored" not in answer.headers["Cache-Status"]
        gateway.settle()
        time.sleep(0.15)  # the pause after a refusal that names no time
    assert other.seen[-1].json["model"] == "small"
    assert gateway.http.get(f"{gateway.admin}/cache").json()["entries"] == 0
    backend.script = None
    assert gateway.ask(FRANCE, model="large").headers["x-gateway-model"] == "large"


def test_a_fallbacks_answer_is_not_shared_with_who_waits_for_the_large_model(
    start: Start, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    gateway = start(with_fallback(backend, other))
    refused = asyncio.Event()

    async def script(seen: Seen) -> web.Response | None:
        if seen.number > 1:
            return None
        await refused.wait()
        return web.json_response({}, status=503)

    backend.script = script
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as threads:
        leader = threads.submit(gateway.ask, FRANCE, model="large")
        while not backend.seen:
            time.sleep(0.01)
        follower = threads.submit(gateway.ask, FRANCE, model="large")
        time.sleep(0.2)
        backend.call(refused.set)
        assert leader.result().headers["x-gateway-model"] == "small"
        assert follower.result().headers["x-gateway-decision"] == "forward"


def test_refused_by_all_the_caller_hears_the_engine_itself(
    start: Start, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    gateway = start({"models": [{"name": "m", "backends": [{"url": backend.url}, {"url": other.url}]}]})
    backend.script = other.script = answering(429, Retry_After="7")
    answer = gateway.ask(FRANCE)
    assert answer.status_code == 429
    assert answer.json() == {"error": {"message": "scripted 429"}}
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-gateway-attempts"] == "2"
    assert (backend.calls, other.calls) == (1, 1)


def test_one_answer_broken_in_its_middle_is_had_from_another_engine(
    start: Start, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    gateway = start({"models": [{"name": "m", "backends": [{"url": backend.url}, {"url": other.url}]}]})

    async def half(seen: Seen) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(seen.request)
        await response.write(b'{"choices": [')
        assert seen.request.transport is not None
        seen.request.transport.abort()
        return response

    backend.script = half
    answer = gateway.ask(FRANCE)
    assert answer.status_code == 200
    assert answer.headers["x-gateway-backend"] == "m/1"
    assert answer.headers["x-gateway-attempts"] == "2"
    assert 'gateway_retries_total{reason="broken"} 1.0' in gateway.http.get(f"{gateway.admin}/metrics").text


def test_a_mirror_sees_what_the_engine_sees(
    start: Start, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    models = [
        {
            "name": "m",
            "backends": [{"url": backend.url}],
            "mirror": {"backend": {"url": other.url}, "share": 1.0},
        }
    ]
    gateway = start({"models": models})
    other.delay = 0.1
    answer = gateway.ask(FRANCE)
    assert answer.headers["x-gateway-backend"] == "m/0"
    deadline = time.monotonic() + 5
    while not other.seen or gateway.app.dispatch.mirror.in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert other.seen[0].body == backend.seen[0].body
    assert "Authorization" not in other.seen[0].headers
    assert backend.seen[0].headers["Authorization"] == "Bearer test"


def test_drain_and_enable_name_backends_as_they_are_listed(start: Start, backend: ScriptedBackend) -> None:
    gateway = start()
    for path, draining in (("any/0/drain", True), ("any%2F0/enable", False), ("any%2F0/drain", True)):
        told = gateway.http.post(f"{gateway.admin}/backends/{path}")
        assert (told.status_code, told.json()["draining"]) == (200, draining)
    refused = gateway.ask(FRANCE)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_backend"
    assert int(refused.headers["Retry-After"]) >= 1
    gateway.http.post(f"{gateway.admin}/backends/any/0/enable")
    assert gateway.ask(FRANCE).status_code == 200
    missing = gateway.http.post(f"{gateway.admin}/backends/nobody/drain")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "backend_not_found")


def test_an_engines_own_figures_are_read(start: Start, backend: ScriptedBackend) -> None:
    backend.metrics = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n"
    gateway = start({"routing": {"scrape_seconds": 0.05}})
    deadline = time.monotonic() + 5
    while gateway.app.fleet.backends[0].signals.report is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    report = gateway.app.fleet.backends[0].signals.report
    assert (report.running, report.waiting, report.kv_use) == (2, 5, None)
