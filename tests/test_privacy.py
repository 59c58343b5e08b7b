"""Whose an answer is, how long it is kept, and that it is gone when it is to be forgotten."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.keys import generate_sealing
from tests.harness import Running, ScriptedBackend

Start = Callable[..., Running]
FRANCE = "What is the capital of France?"
AGAIN = "what is the capital of france"
LARGE = """
categories:
  - name: default
    cache: {mode: semantic, threshold: 0.90, ttl: 1d}
"""


def tenants(**options: Any) -> list[dict[str, Any]]:
    return [{"name": name, "keys": [f"{name}-key"], **options} for name in ("acme", "zeta")]


def decided(response: Any) -> tuple[str, str]:
    assert response.status_code == 200, response.text
    return response.headers["x-gateway-decision"], response.headers["x-gateway-reason"]


def ask(gateway: Running, question: str, named: str = "", *, tenant: str = "acme", **more: Any) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": question}], **more}
    headers = {"Authorization": f"Bearer {tenant}-key"} | ({"x_gateway_user": named} if named else {})
    answer = gateway.post("/v1/chat/completions", body, **headers)
    gateway.settle()
    return answer


# ── isolation by end user ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def apart(start: Start) -> Running:
    return start({"tenants": tenants(isolation="user")})


def test_an_end_user_gets_back_only_what_they_asked(apart: Running, backend: ScriptedBackend) -> None:
    assert decided(ask(apart, FRANCE, "ana"))[0] == "forward"
    assert decided(ask(apart, FRANCE, "ana"))[0] == "reuse"
    assert decided(ask(apart, AGAIN, "ana"))[0] == "reuse"
    for question in (FRANCE, AGAIN):
        other = ask(apart, question, "ben", cache={"no-store": True})
        assert decided(other) == ("forward", "partition-empty")
        assert "x-gateway-similarity" not in other.headers
    assert decided(ask(apart, FRANCE, "ana", tenant="zeta"))[0] == "forward"
    assert backend.calls == 4


@pytest.mark.parametrize("field", ["user", "safety_identifier"])
def test_the_apis_own_field_names_the_user_and_our_header_wins(apart: Running, field: str) -> None:
    ask(apart, FRANCE, **{field: "ana"})
    assert decided(ask(apart, FRANCE, **{field: "ana"}))[0] == "reuse"
    assert decided(ask(apart, FRANCE, **{field: "ben"}))[0] == "forward"
    assert decided(ask(apart, FRANCE, "cyd", **{field: "ana"}))[0] == "forward"


def test_anthropics_field_names_the_user_too(apart: Running) -> None:
    def told(user: str) -> tuple[str, str]:
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": FRANCE}]}
        answer = apart.post(
            "/v1/messages", body | {"metadata": {"user_id": user}}, Authorization="Bearer acme-key"
        )
        apart.settle()
        return decided(answer)

    assert [told(user)[0] for user in ("ana", "ana", "ben")] == ["forward", "reuse", "forward"]


def test_without_a_user_nothing_is_remembered(apart: Running, backend: ScriptedBackend) -> None:
    assert [decided(ask(apart, FRANCE)) for _ in range(2)] == [("forward", "no-user")] * 2
    assert len(apart.app.cache.catalog) == 0
    assert ask(apart, FRANCE, "x" * 513).status_code == 400


def test_of_users_kept_apart_nothing_becomes_an_example(start: Start, backend: ScriptedBackend) -> None:
    models = [
        {"name": "m", "backends": [{"url": backend.url}], "offload_to": "small", "price": {"output": 8.0}},
        {"name": "small", "backends": [{"url": backend.url}]},
    ]
    for isolation, examples in (("user", 0), ("tenant", 1)):
        gateway = start(
            {"models": models, "tenants": tenants(isolation=isolation), "offload": {"compare_share": 0}},
            book=LARGE,
        )
        ask(gateway, FRANCE, "ana")
        assert len(gateway.app.offloading.examples) == examples


# ── erasure ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pair(start: Start, backend: ScriptedBackend, tmp_path: Path) -> tuple[Running, Running]:
    """Two gateways on one sealed store, that offload and so keep examples."""
    models = [
        {"name": "m", "backends": [{"url": backend.url}], "offload_to": "small", "price": {"output": 8.0}},
        {"name": "small", "backends": [{"url": backend.url}]},
    ]
    store = {"kind": "sqlite", "path": str(tmp_path / "shared.db"), "encryption_keys": [generate_sealing()]}
    tree = {"models": models, "store": store, "tenants": tenants(), "offload": {"compare_share": 0}}
    return start(tree, book=LARGE), start(tree, book=LARGE)


def within(seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def held(gateway: Running) -> dict[str, int]:
    app = gateway.app
    return {
        "entries": len(app.cache.catalog),
        "examples": len(app.offloading.examples),
        "pairs": len(app.sampling.negatives),
        "decisions": len(app.traffic.recent),
    }


async def stored(gateway: Running) -> list[int]:
    store = gateway.app.store
    entries = [entry async for page in store.scan() for entry, _ in page]
    shelves = [
        [key async for batch in store.shelf(kind) for key, _ in batch]
        for kind in ("example", "example-vector", "negative")
    ]
    return [len(entries), *map(len, shelves)]


def test_a_user_is_forgotten_everywhere_and_nobody_else(pair: tuple[Running, Running]) -> None:
    one, two = pair
    ask(one, FRANCE, "ana")
    hit = ask(one, AGAIN, "ben")  # within a tenant, answers are shared
    assert decided(hit)[0] == "reuse"
    verdict = {"request_id": hit.headers["x-request-id"], "verdict": "bad"}
    assert one.post("/v1/feedback", verdict, Authorization="Bearer acme-key").status_code == 200
    ask(one, "How do I prune an apple tree in winter?", "ben")
    ask(one, "Why do cats purr when they sleep?", "ana", tenant="zeta")
    within(5, lambda: held(two)["entries"] == 3 and held(two)["pairs"] == 1)
    assert held(one) == {"entries": 3, "examples": 3, "pairs": 1, "decisions": 4}

    told = one.http.post(f"{one.admin}/erase", json={"tenant": "acme", "user": "ana"}).json()
    assert told["shared"]
    # Her answer, its example, the pair with her question, three decisions that show it (twice as a candidate), a receipt.
    assert told["erased"] == {"entries": 1, "examples": 1, "pairs": 1, "decisions": 4}
    within(5, lambda: held(two)["entries"] == 2 and held(two)["pairs"] == 0)
    within(5, lambda: one.run(stored(one)) == [2, 2, 2, 0])
    assert [e.question for e in one.app.cache.catalog.entries() if e.tenant == "t:acme"] == [
        "How do I prune an apple tree in winter?"
    ]
    record = one.http.get(f"{one.admin}/audit").json()["records"][0]
    assert record["action"] == "erase"
    assert "ana" not in str(record)

    told = two.http.post(f"{two.admin}/erase", json={"tenant": "acme"}).json()
    assert told["erased"]["entries"] == 1
    within(5, lambda: held(one)["entries"] == 1)
    assert decided(ask(one, "Why do cats purr when they sleep?", tenant="zeta"))[0] == "reuse"


@pytest.mark.parametrize("body", [{}, [], {"tenant": ""}, {"user": 1}, {"user": "a", "all": True}])
def test_an_erasure_that_is_not_understood_erases_nothing(start: Start, body: Any) -> None:
    gateway = start({"tenants": tenants()})
    ask(gateway, FRANCE, "ana")
    assert gateway.http.post(f"{gateway.admin}/erase", json=body).status_code == 400
    assert len(gateway.app.cache.catalog) == 1


def test_answers_can_be_purged_by_user(start: Start) -> None:
    gateway = start({"tenants": tenants()})
    ask(gateway, FRANCE, "ana")
    ask(gateway, "Why do cats purr when they sleep?", "ben")
    purge = {"user": "ana", "dry_run": True}
    assert gateway.http.post(f"{gateway.admin}/cache/purge", json=purge).json()["purged"] == 1
    assert len(gateway.app.cache.catalog) == 2
    assert gateway.http.post(f"{gateway.admin}/cache/purge", json={"user": "ana"}).json()["purged"] == 1
    assert [entry.question[:3] for entry in gateway.app.cache.catalog.entries()] == ["Why"]


# ── retention ───────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_kept_beyond_its_tenants_retention(start: Start, tmp_path: Path) -> None:
    listed = tenants()
    listed[0]["retention_days"] = 0.5
    store = {"kind": "sqlite", "path": str(tmp_path / "gateway.db")}
    tree = {"tenants": listed, "cache": {"retention_days": 3}, "store": store}
    gateway = start(tree, book=LARGE.replace("1d", "30d"))
    for tenant in ("acme", "zeta"):
        ask(gateway, FRANCE, tenant=tenant)
    kept = {e.tenant: e.expires - e.created for e in gateway.app.cache.catalog.entries()}
    assert kept == {"t:acme": 43_200.0, "t:zeta": 259_200.0}
    listed[1]["retention_days"] = 1e-9  # shorter than when it was stored
    again = start(tree, book=LARGE.replace("1d", "30d"))
    within(5, lambda: [e.tenant for e in again.app.cache.catalog.entries()] == ["t:acme"])
    within(5, lambda: again.run(stored(again))[0] == 1)
