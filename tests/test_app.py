"""The whole gateway through its life: restarts, reloads, draining, a store that comes late."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from gateway.config import Config, build
from gateway.errors import StoreError
from gateway.storage.sqlite import SqliteStore
from tests.harness import Running, ScriptedBackend
from tests.harness.gateway import BOOK

FRANCE = "What is the capital of France?"
PARAPHRASE = "What is France's capital?"
Start = Callable[..., Running]


def decision(response: Any) -> tuple[str, str]:
    headers = response.headers
    return headers["x-gateway-decision"], headers.get("x-gateway-how", headers["x-gateway-reason"])


def sqlite(folder: Path) -> dict[str, Any]:
    return {"store": {"kind": "sqlite", "path": str(folder / "gateway.db")}}


def restart(gateway: Running, start: Start, tree: dict[str, Any], **options: Any) -> Running:
    gateway.close()
    gateway.close = lambda: None  # type: ignore[method-assign]
    return start(tree, **options)


# ── reload ──────────────────────────────────────────────────────────────────────────────────────────────────


def reloads(gateway: Running, tree: dict[str, Any]) -> None:
    """As after an edit of gateway.yaml and SIGHUP."""
    base = gateway.config.model_dump(mode="json")
    changed: Config = build({**base, **tree}, {})
    gateway.app._reread = lambda: changed
    gateway.run(gateway.app.reload())


def test_after_a_reload_that_lists_tenants_no_client_key_goes_on(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start()
    gateway.ask(FRANCE, Authorization="Bearer sk-mine")
    assert backend.seen[-1].headers["Authorization"] == "Bearer sk-mine"
    reloads(gateway, {"tenants": [{"name": "a", "keys": ["sk-a"]}]})
    assert gateway.ask(FRANCE, Authorization="Bearer sk-a").status_code == 200
    assert "Authorization" not in backend.seen[-1].headers


def test_a_reload_with_bad_policies_changes_nothing_at_all(start: Start) -> None:
    gateway = start()
    (gateway.policies / "book.yaml").write_text("categories: 3")
    reloads(gateway, {"tenants": [{"name": "a", "keys": ["sk-a"]}]})
    assert gateway.ask(FRANCE, Authorization="Bearer sk-other").status_code == 200


def test_a_reload_can_say_that_an_engine_knows_no_stream_options(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start()
    reloads(gateway, {"models": [{"name": "*", "backends": [{"url": backend.url, "stream_usage": False}]}]})
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    gateway.post("/v1/chat/completions", body)
    assert "stream_options" not in backend.seen[-1].json


# ── restarts ────────────────────────────────────────────────────────────────────────────────────────────────


def test_vectors_of_another_embedder_are_not_used_after_any_number_of_restarts(
    start: Start, tmp_path: Path
) -> None:
    gateway = start(sqlite(tmp_path))
    gateway.ask(FRANCE)
    gateway.settle()
    gateway.run(gateway.app.store.put_meta("embedder", b"another"))
    for _ in range(2):
        gateway = restart(gateway, start, sqlite(tmp_path))
        assert gateway.ask(FRANCE, x_gateway_cache="only").status_code == 200
        assert gateway.ask(PARAPHRASE, x_gateway_cache="only").status_code == 504
    new = "Who wrote the novel Moby-Dick?"
    gateway.ask(new)
    gateway.settle()
    gateway = restart(gateway, start, sqlite(tmp_path))
    assert gateway.app.partitions.stats().entries == 1, "what was stored since is compared"


def test_what_a_changed_book_forbids_is_removed_at_the_next_start(start: Start, tmp_path: Path) -> None:
    gateway = start(sqlite(tmp_path))
    gateway.ask("How do I reverse a list in Python?")
    gateway.settle()
    gateway = restart(gateway, start, sqlite(tmp_path), book=BOOK.replace("mode: semantic", "mode: none", 1))
    gateway.settle()
    assert gateway.http.get(f"{gateway.admin}/cache").json()["entries"] == 0
    assert gateway.run(stored(gateway)) == 0


async def stored(gateway: Running) -> int:
    await gateway.app.writer.flush()
    return sum([len(batch) async for batch in gateway.app.store.scan()])


def test_of_two_answers_to_one_request_the_newer_is_served_after_a_restart(
    start: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    """As when the process dies after the newer one was written and before the older one was deleted."""
    gateway = start(sqlite(tmp_path))
    gateway.ask(FRANCE)
    gateway.settle()
    (entry,) = gateway.app.cache.catalog.entries()
    newer = gateway.ask(FRANCE, x_gateway_cache="refresh").json()
    gateway.settle()
    assert gateway.run(gateway.app.writer.flush())  # the older one is deleted
    gateway.run(put_again(gateway, entry))
    gateway = restart(gateway, start, sqlite(tmp_path))
    assert len(gateway.app.cache.catalog) == 2
    assert gateway.ask(FRANCE).json() == newer


def test_an_answer_is_found_by_its_request_id_after_a_restart(start: Start, tmp_path: Path) -> None:
    gateway = start(sqlite(tmp_path))
    for request_id in ("mine-1", "mine-2"):
        gateway.ask(f"What is {request_id}?", x_request_id=request_id)
    gateway.settle()
    gateway = restart(gateway, start, sqlite(tmp_path))
    for request_id, purged in (("mine-3", 0), ("mine-1", 1), ("mine-1", 0)):
        got = gateway.http.post(f"{gateway.admin}/cache/purge", json={"request_id": request_id}).json()
        assert got["purged"] == purged
    assert len(gateway.app.cache.catalog) == 1


async def put_again(gateway: Running, entry: Any) -> None:
    from gateway.exchange import Record

    await gateway.app.store.put([Record(entry, None, b"{}")])


# ── a store that comes late ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def unmounted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While set, a database cannot be opened or read."""
    shut = threading.Event()

    def refusing(method: Any) -> Any:
        async def call(store: SqliteStore, *arguments: Any) -> Any:
            if shut.is_set():
                raise StoreError("the disk is not mounted")
            return await method(store, *arguments)

        return call

    monkeypatch.setattr(SqliteStore, "open", refusing(SqliteStore.open))
    monkeypatch.setattr(SqliteStore, "get_meta", refusing(SqliteStore.get_meta))
    monkeypatch.setattr("gateway.app._WARM_RETRY_SECONDS", 0.2)
    return shut


def mounted(gateway: Running, shut: threading.Event) -> None:
    shut.clear()
    deadline = time.monotonic() + 10
    while not gateway.app.index_loaded:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_policies_edited_by_api_come_back_with_a_store_that_comes_late(
    start: Start, tmp_path: Path, unmounted: threading.Event
) -> None:
    gateway = start(sqlite(tmp_path))
    book = gateway.http.get(f"{gateway.admin}/policies").json()
    book["categories"][0]["cache"]["mode"] = "none"
    assert gateway.http.put(f"{gateway.admin}/policies", json=book).status_code == 200
    unmounted.set()
    gateway = restart(gateway, start, sqlite(tmp_path))
    assert gateway.http.get(f"{gateway.admin}/policies/code").json()["cache"]["mode"] == "semantic"
    mounted(gateway, unmounted)
    assert gateway.http.get(f"{gateway.admin}/policies/code").json()["cache"]["mode"] == "none"


def test_what_is_purged_before_the_index_is_loaded_does_not_come_back(
    start: Start, tmp_path: Path, unmounted: threading.Event
) -> None:
    gateway = start(sqlite(tmp_path))
    gateway.ask(FRANCE, x_gateway_tags="old")
    kept = "How do I reverse a list in Python?"
    gateway.ask(kept)
    gateway.settle()
    unmounted.set()
    gateway = restart(gateway, start, sqlite(tmp_path))
    assert gateway.http.get("/readyz").json()["store"] == "unavailable"
    assert gateway.http.post(f"{gateway.admin}/cache/purge", json={"tag": "old"}).status_code == 200
    mounted(gateway, unmounted)
    assert len(gateway.app.cache.catalog) == 1
    assert gateway.run(stored(gateway)) == 1
    assert decision(gateway.ask(kept)) == ("reuse", "exact"), "the caller is the same tenant as before"


# ── draining ────────────────────────────────────────────────────────────────────────────────────────────────


def test_draining_ends_within_its_bound(start: Start, backend: ScriptedBackend) -> None:
    backend.delay = 30.0
    gateway = start({"limits": {"drain_seconds": 1.0}})

    def ask() -> None:
        with contextlib.suppress(httpx.RemoteProtocolError):
            gateway.ask(FRANCE)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    gateway.run(gateway.app.stop())
    assert time.monotonic() - started < 3.0
    thread.join(5)
    gateway.app.stop = nothing  # type: ignore[method-assign]


async def nothing() -> None:
    return None
