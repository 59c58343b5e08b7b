"""Export and restoration of a running gateway, over its admin port."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from gateway.errors import EmbedderFailed
from tests.harness import Running

Start = Callable[..., Running]
TENANTS = {"tenants": [{"name": "acme", "keys": ["test"]}, {"name": "other", "keys": ["other-key"]}]}
FRANCE = "What is the capital of France?"


def exported(gateway: Running, query: str = "") -> tuple[Any, list[Any]]:
    gateway.settle()
    answer = gateway.http.get(f"{gateway.admin}/cache/export{query}")
    assert answer.status_code == 200
    first, *lines = [json.loads(line) for line in answer.text.splitlines()]
    return first, lines


def restored(gateway: Running, head: Any, lines: list[Any]) -> dict[str, int]:
    answer = gateway.http.post(f"{gateway.admin}/cache/import", json={"head": head, "lines": lines})
    assert answer.status_code == 200, answer.text
    outcomes: dict[str, int] = answer.json()["outcomes"]
    return outcomes


def how(gateway: Running, question: str = FRANCE) -> str:
    return str(gateway.ask(question).headers.get("x-gateway-how"))


def test_vectors_of_another_embedder_are_made_anew(start: Start) -> None:
    first, second = start(TENANTS), start(TENANTS)
    first.ask(FRANCE)
    head, (line,) = exported(first)
    head["embedder"] = "another"
    texts = second.app.worker.counts.texts
    assert restored(second, head, [line]) == {"stored": 1}
    assert second.app.worker.counts.texts == texts + 1
    assert how(second, "What is France's capital?") == "semantic"


def test_what_cannot_be_embedded_now_is_not_stored_by_half(start: Start) -> None:
    first, second = start(TENANTS), start(TENANTS)
    first.ask(FRANCE)
    head, (line,) = exported(first)
    look = second.app.worker.look

    async def fails(*_: Any) -> Any:
        raise EmbedderFailed("gone")

    second.app.worker.look = fails  # type: ignore[method-assign]
    assert restored(second, {**head, "embedder": "another"}, [line]) == {"embedder-failed": 1}
    assert second.app.status()["entries"] == 0
    second.app.worker.look = look  # type: ignore[method-assign]
    assert restored(second, head, [line]) == {"stored": 1}


def test_a_line_that_comes_twice_at_once_is_stored_once(start: Start) -> None:
    first, second = start(TENANTS), start(TENANTS)
    first.ask(FRANCE)
    head, (line,) = exported(first)
    assert restored(second, head, [line] * 20) == {"stored": 1, "present": 19}
    assert second.app.status()["entries"] == 1


def test_newer_answers_stay_and_variants_come_along(start: Start) -> None:
    first, second = start(TENANTS), start(TENANTS)
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}], "cache": {"variants": 3}}
    for _ in range(3):
        first.post("/v1/chat/completions", body, **{"x-gateway-cache": "exact"})
        first.settle()
    head, lines = exported(first)
    assert [line["variants"] for line in lines] == [3, 3, 3]
    assert restored(second, head, lines) == {"stored": 3}
    assert second.app.status()["entries"] == 3
    third = start(TENANTS)
    third.ask(FRANCE)
    third.settle()
    old = [{**line, "variants": 1} for line in lines]
    assert restored(third, head, old) == {"older": 3}


def test_what_has_expired_or_belongs_to_nobody_here_is_not_restored(start: Start) -> None:
    first, second = start(TENANTS), start({"tenants": [{"name": "else", "keys": ["test"]}]})
    first.ask(FRANCE)
    head, (line,) = exported(first)
    assert restored(second, head, [line]) == {"unknown-tenant": 1}
    line["entry"]["expires"] = line["entry"]["created"] + 1e-3
    line["entry"]["id"] += 1
    assert restored(first, head, [line]) == {"expired": 1}


def test_an_export_is_of_those_asked_for(start: Start) -> None:
    gateway = start(TENANTS)
    gateway.ask(FRANCE)
    gateway.ask("How do I reverse a list in Python?")
    gateway.ask(FRANCE, Authorization="Bearer other-key")
    assert len(exported(gateway)[1]) == 3
    assert [line["entry"]["category"] for line in exported(gateway, "?category=code")[1]] == ["code"]
    assert [line["entry"]["tenant"] for line in exported(gateway, "?tenant=other")[1]] == ["t:other"]
    assert exported(gateway, "?model=n")[1] == []


def test_vectors_travel_bit_by_bit(start: Start) -> None:
    first, second = start(TENANTS), start(TENANTS)
    first.ask(FRANCE)
    head, (line,) = exported(first)
    restored(second, head, [line])
    again = exported(second)[1][0]
    assert again["vector"] == line["vector"]
    assert again["document"] == line["document"]
    assert again["entry"] == line["entry"]
    assert abs(np.linalg.norm(np.frombuffer(base64.b64decode(line["vector"]), dtype=np.float32)) - 1) < 1e-3


def test_a_purge_takes_what_was_restored(start: Start) -> None:
    first, second = start(TENANTS), start(TENANTS)
    first.ask(FRANCE)
    head, lines = exported(first)
    restored(second, head, lines)
    assert how(second) == "exact"
    second.http.post(f"{second.admin}/cache/purge", json={"tenant": "acme"})
    assert how(second) == "None"


def test_bodies_that_are_none_are_refused(start: Start) -> None:
    gateway = start(TENANTS)
    for path, body in (
        ("import", {"lines": []}),
        ("import", {"head": {"format": "x"}, "lines": []}),
        ("import", {"head": {}, "lines": [], "more": 1}),
        ("warm", {"lines": 3}),
        ("warm", {"lines": [{}] * 257}),
        ("warm", {"lines": [], "model": 3}),
        ("warm", {"lines": [], "fields": []}),
        ("warm", {"lines": [], "replace": 1}),
        ("warm", []),
    ):
        assert gateway.http.post(f"{gateway.admin}/cache/{path}", json=body).status_code == 400


def test_nothing_moves_before_the_index_is_loaded(start: Start) -> None:
    gateway = start(TENANTS)
    gateway.app.index_loaded = False
    assert gateway.http.get(f"{gateway.admin}/cache/export").status_code == 503
    assert gateway.http.post(f"{gateway.admin}/cache/warm", json={"lines": []}).status_code == 503
    gateway.app.index_loaded = True
