"""Caches that answer to load, from outside: thresholds relax and return, and the stale is better than nothing."""

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.harness import Running, ScriptedBackend

Start = Callable[..., Running]
FRANCE = "What is the capital of France?"
PARAPHRASE = "What is France's capital?"
LASTING = """
categories:
  - name: default
    cache: {mode: semantic, threshold: 0.90, ttl: 1, stale_if_error: 1h}
"""
FLEETING = LASTING.replace(", stale_if_error: 1h", "")
EASED = """
categories:
  - name: default
    cache: {mode: semantic, threshold: 0.99, ttl: 1h}
    load: {threshold_slack: 0.05, threshold_floor: 0.95, ttl_factor: 2}
"""


def remembered(gateway: Running) -> None:
    """An answer that is stored, and has expired."""
    assert gateway.ask(FRANCE).status_code == 200
    gateway.settle()
    time.sleep(1.1)


def explained(gateway: Running) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}]}
    headers = {"x-gateway-tenant": "t:acme"}
    return gateway.http.post(f"{gateway.admin}/explain", json=body, headers=headers).json()


def _threshold(gateway: Running) -> float:
    series = 'gateway_category_threshold{category="default",model="m"} '
    lines = gateway.http.get(f"{gateway.admin}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(series)).removeprefix(series))


def test_an_expired_answer_is_served_when_no_backend_can_answer(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(book=LASTING)
    remembered(gateway)
    backend.stop()
    try:
        for question, how in ((FRANCE, "exact"), (PARAPHRASE, "semantic")):
            stale = gateway.ask(question)
            assert stale.status_code == 200
            assert stale.headers["x-gateway-reason"] == "stale-if-error"
            assert (stale.headers["x-gateway-decision"], stale.headers["x-gateway-how"]) == ("reuse", how)
            assert "; hit; ttl=-" in stale.headers["cache-status"]
            assert int(stale.headers["age"]) >= 1
            assert "x-gateway-backend" not in stale.headers
    finally:
        backend.start()
    assert gateway.ask(FRANCE).headers["x-gateway-decision"] == "forward"


@pytest.mark.parametrize(
    "headers",
    [
        {"cache_control": "no-cache"},
        {"cache_control": "max-age=1000"},
        {"x_gateway_cache": "refresh"},
        {"x_gateway_cache": "off"},
        {"Authorization": "Bearer somebody-else"},
    ],
)
def test_who_asked_for_a_fresh_answer_or_never_had_it_gets_the_error(
    start: Start, backend: ScriptedBackend, headers: dict[str, str]
) -> None:
    gateway = start(book=LASTING)
    remembered(gateway)
    backend.stop()
    try:
        assert gateway.ask(FRANCE, **headers).status_code == 502
    finally:
        backend.start()


def test_an_engine_that_fails_counts_as_one_that_cannot_answer(
    start: Start, backend: ScriptedBackend
) -> None:
    from aiohttp import web

    gateway = start(book=LASTING)
    remembered(gateway)

    def failing(status: int) -> Callable[[object], Awaitable[web.Response]]:
        async def fail(_: object) -> web.Response:
            return web.json_response({"error": {"message": "boom", "type": "server_error"}}, status=status)

        return fail

    for status in (500, 503):
        backend.script = failing(status)
        assert gateway.ask(FRANCE).headers["x-gateway-reason"] == "stale-if-error"
    backend.script = failing(400)
    assert gateway.ask(FRANCE).status_code == 400  # the request's own fault


def test_without_leave_from_the_policy_or_once_purged_nothing_stale_is_served(
    start: Start, backend: ScriptedBackend
) -> None:
    strict, lasting = start(book=FLEETING), start(book=LASTING)
    remembered(strict)
    remembered(lasting)
    assert lasting.http.post(f"{lasting.admin}/cache/purge", json={"all": True}).json()["purged"] == 1
    backend.stop()
    try:
        assert strict.ask(FRANCE).status_code == 502
        assert lasting.ask(FRANCE).status_code == 502
    finally:
        backend.start()


def test_a_burst_relaxes_the_threshold_and_its_end_brings_it_back(
    start: Start, backend: ScriptedBackend
) -> None:
    adapt = {"queue_target": 1.0, "smoothing_seconds": 0.2, "latency_weight": 0.0, "x_max": 2.0}
    limited = [{"name": "m", "backends": [{"url": backend.url, "max_in_flight": 1, "metrics": "off"}]}]
    gateway = start({"models": limited, "adapt": adapt}, book=EASED)
    gateway.ask(FRANCE)
    gateway.settle()
    before = gateway.ask(PARAPHRASE)
    assert before.headers["x-gateway-reason"] == "below-threshold"
    assert "x-gateway-load" not in before.headers
    gateway.http.post(f"{gateway.admin}/cache/purge", json={"all": True})
    gateway.ask(FRANCE)
    gateway.settle()
    backend.delay = 0.6
    with ThreadPoolExecutor(8) as pool:
        burst = [pool.submit(gateway.ask, f"Number {n}?", x_gateway_cache="off") for n in range(8)]
        deadline = time.monotonic() + 10
        eased = None
        while time.monotonic() < deadline and not all(work.done() for work in burst):
            if explained(gateway)["load"]["factor"] == 1.0:
                eased = gateway.ask(PARAPHRASE)
                break
            time.sleep(0.05)
        assert eased is not None
        assert eased.headers["x-gateway-how"] == "semantic"
        assert eased.headers["x-gateway-load"] == "1.00"
        assert eased.headers["x-gateway-threshold"] == "0.9500"
        assert _threshold(gateway) == 0.95
        assert explained(gateway)["load"] == {
            "factor": 1.0,
            "frozen": False,
            "policy_threshold": 0.99,
            "policy_ttl": 3600.0,
        }
    backend.delay = 0.0
    deadline = time.monotonic() + 15
    while explained(gateway)["load"]["factor"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert explained(gateway)["ruling"]["threshold"] == 0.99
    assert _threshold(gateway) == 0.99


def test_a_category_whose_hits_are_called_bad_is_not_relaxed(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(book=LASTING.replace("ttl: 1,", "ttl: 1h,"))
    status = lambda: gateway.http.get(f"{gateway.admin}/cache").json()  # noqa: E731
    for subject in (
        "bread",
        "violins",
        "rust",
        "cats",
        "hoses",
        "thunder",
        "chess",
        "ink",
        "salt",
        "bees",
        "tax",
        "ice",
    ):
        gateway.ask(f"Where does the history of {subject} begin?")
        gateway.settle()
        hit = gateway.ask(f"Where did the history of {subject} begin?")
        assert hit.headers.get("x-gateway-how") == "semantic"
        verdict = {"request_id": hit.headers["x-request-id"], "verdict": "bad"}
        assert gateway.post("/v1/feedback", verdict).status_code == 200
    assert status()["frozen"] == ["default"]
