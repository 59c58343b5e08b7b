"""Gateways that share a store: what one stores, purges and decides is so for all, whatever breaks meanwhile."""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.replicas import play
from tests.harness import Running, ScriptedBackend
from tests.storage.conftest import Server

Start = Callable[..., Running]
FRANCE, PARAPHRASE = "What is the capital of France?", "What is France's capital?"


def call(gateway: Running, method: str, path: str, **options: Any) -> Any:
    return gateway.http.request(method, gateway.admin + path, **options)


def within(seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def pair(start: Start, tmp_path: Path) -> tuple[Running, Running]:
    tree = {"store": {"kind": "sqlite", "path": str(tmp_path / "shared.db")}}
    return start(tree), start(tree)


def decision(gateway: Running, question: str, **headers: str) -> str:
    return str(gateway.ask(question, **headers).headers["x-gateway-decision"])


def threshold(gateway: Running, category: str = "code") -> float:
    return float(call(gateway, "GET", f"/policies/{category}").json()["cache"]["threshold"])


def with_threshold(gateway: Running, value: float, category: str = "code", **headers: str) -> Any:
    policy = call(gateway, "GET", f"/policies/{category}").json()
    policy["cache"]["threshold"] = value
    return call(gateway, "PUT", f"/policies/{category}", json=policy, headers=headers)


def test_three_replicas_on_redis_while_things_break(tmp_path: Path, model_cache: Path) -> None:
    told = asyncio.run(play(tmp_path, model_cache, away=2.0, rate=20.0))
    assert told.failed == []
    assert told.lost == []
    assert told.resurrected == []
    assert told.acknowledged > 20
    assert len(set(told.counts.values())) == 1, told.counts
    assert told.seconds["stored here, semantic hit there"] < 5, (
        "a tenth of a second, where there is a processor"
    )
    assert told.seconds["purged everywhere"] < 5


def test_what_one_stores_is_a_semantic_hit_on_the_other(pair: tuple[Running, Running]) -> None:
    here, there = pair
    first = here.ask(FRANCE)
    within(5, lambda: there.ask(PARAPHRASE, x_gateway_cache="only").status_code == 200)
    hit = there.ask(PARAPHRASE)
    assert hit.headers["x-gateway-how"] == "semantic"
    assert hit.json() == first.json()
    assert hit.headers["x-gateway-entry"] == first.headers["x-gateway-entry"]


def test_a_bad_verdict_told_to_the_other_replica_is_taken(pair: tuple[Running, Running]) -> None:
    here, there = pair
    asked = here.ask(FRANCE)
    here.settle()
    within(5, lambda: there.ask(FRANCE, x_gateway_cache="only").status_code == 200)
    verdict = {"request_id": asked.headers["x-request-id"], "verdict": "bad"}
    assert there.post("/v1/feedback", verdict).json()["removed"] == 1
    within(5, lambda: there.ask(FRANCE, x_gateway_cache="only").status_code == 504)
    unknown = {"request_id": "nobody's", "verdict": "bad"}
    assert there.post("/v1/feedback", unknown).status_code == 404
    others = there.post("/v1/feedback", verdict, Authorization="Bearer another")
    assert others.status_code == 404, "another tenant's request does not exist"


def test_a_purge_reaches_answers_that_are_still_being_made_elsewhere(
    pair: tuple[Running, Running], backend: ScriptedBackend
) -> None:
    here, there = pair
    backend.delay = 0.6
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(here.ask, FRANCE, x_gateway_tags="old")
        within(5, lambda: backend.calls == 1)
        purged = call(there, "POST", "/cache/purge", json={"tag": "old"})
        assert purged.json() == {"purged": 0, "examples": 0, "shared": True, "dry_run": False}
        assert asked.result().status_code == 200
    here.settle()
    assert [len(g.app.cache.catalog) for g in pair] == [0, 0]
    assert here.run(_stored(here)) == 0


async def _stored(gateway: Running) -> int:
    return sum([len(batch) async for batch in gateway.app.store.scan()])


def test_one_question_asked_of_both_at_once_is_kept_once(
    pair: tuple[Running, Running], backend: ScriptedBackend
) -> None:
    backend.delay = 0.3
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda gateway: gateway.ask(FRANCE), pair))
    assert backend.calls == 2
    within(5, lambda: [len(g.app.cache.catalog) for g in pair] == [1, 1])
    within(5, lambda: pair[0].run(_stored(pair[0])) == 1)

    def kept() -> set[str]:
        return {g.app.cache.catalog.entries()[0].name for g in pair}

    within(5, lambda: len(kept()) == 1)
    assert kept() <= {a.headers["x-gateway-entry"] for a in answers}


def test_a_gap_in_the_changes_means_reading_anew(start: Start, tmp_path: Path) -> None:
    tree = {"store": {"kind": "sqlite", "path": str(tmp_path / "shared.db")}}
    here, there = start(tree), start(tree)
    here.ask(FRANCE)
    here.settle()
    within(5, lambda: len(there.app.cache.catalog) == 1)

    async def lose() -> None:
        """As if this replica had slept while the others did more than is kept."""
        async with there.app.replica._turn:
            entry = here.app.cache.catalog.entries()[0]
            await there.app.store.delete([entry.id])
            await there.app.store._write("trim", lambda db: db.execute("DELETE FROM changes"))

    there.run(lose())
    within(5, lambda: len(there.app.cache.catalog) == 0)
    within(5, lambda: there.app.replica.resyncs == 1)
    here.ask(PARAPHRASE + " ")
    within(5, lambda: len(there.app.cache.catalog) == 1)


def test_a_policy_change_reaches_the_other_and_survives(pair: tuple[Running, Running], start: Start) -> None:
    here, there = pair
    assert with_threshold(here, 0.97).status_code == 200
    within(5, lambda: threshold(there) == 0.97)
    versions = call(there, "GET", "/policies/versions").json()["versions"]
    assert [(v["number"], v["source"], v["current"]) for v in versions] == [
        (2, "api", True),
        (1, "files", False),
    ]
    assert versions[0]["who"].endswith("@127.0.0.1")
    back = call(there, "POST", "/policies/rollback", json={"version": 1})
    assert back.status_code == 200
    within(5, lambda: threshold(here) == 0.90)
    assert (
        call(here, "POST", "/policies/rollback", json={"version": versions[0]["version"]}).status_code == 200
    )
    assert call(here, "POST", "/policies/rollback", json={"version": 99}).status_code == 404
    assert call(here, "POST", "/policies/rollback", json={"version": None}).status_code == 400
    store = here.config.store
    late = start({"store": {"kind": "sqlite", "path": str(store.path)}})
    assert threshold(late) == 0.97
    assert len(call(late, "GET", "/policies/versions").json()["versions"]) == 4


def in_force(gateway: Running, value: float) -> bool:
    """Whether a replica tells of a threshold, and decides by it: whether the paraphrase still hits."""
    hits = gateway.ask(PARAPHRASE, x_gateway_cache="only").status_code == 200
    return threshold(gateway, "default") == value and hits == (value < 0.95)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_a_policy_is_in_force_elsewhere_within_a_second_and_after_everything_was_restarted(
    start: Start, tmp_path: Path, kind: str
) -> None:
    """A second where there is a processor; Redis has on disk what it has confirmed (`appendfsync always`)."""
    server = Server(tmp_path)
    store = {"kind": "sqlite", "path": str(tmp_path / "shared.db")}
    if kind == "redis":
        server.start()
        store = {"kind": "redis", "url": server.url}
    try:
        here, there = start({"store": store}), start({"store": store})
        here.ask(FRANCE)
        here.settle()
        within(5, lambda: in_force(there, 0.90))
        taken = []
        for value in (0.999, 0.91, 0.998):
            started = time.perf_counter()
            assert with_threshold(here, value, "default").status_code == 200
            within(5, lambda value=value: in_force(there, value))
            taken.append(time.perf_counter() - started)
        assert min(taken) < 1, f"in force elsewhere after {taken} s"
        for gateway in (here, there):
            gateway.close()
        if kind == "redis":
            server.kill()
            server.start()
        for gateway in (start({"store": store}), start({"store": store})):
            assert in_force(gateway, 0.998)
            assert gateway.ask(FRANCE, x_gateway_cache="only").status_code == 200, (
                "only the paraphrase is barred"
            )
    finally:
        if kind == "redis":
            server.kill()


def test_of_two_edits_at_once_on_two_replicas_one_is_stale(pair: tuple[Running, Running]) -> None:
    tag = call(pair[0], "GET", "/policies").headers["etag"]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        edits = [
            pool.submit(with_threshold, gateway, value, **{"If-Match": tag})
            for gateway, value in zip(pair, (0.95, 0.96), strict=True)
        ]
        assert sorted(edit.result().status_code for edit in edits) == [200, 412]
    within(5, lambda: threshold(pair[0]) == threshold(pair[1]))


def test_what_operators_do_is_on_record_for_all(pair: tuple[Running, Running]) -> None:
    here, there = pair
    with_threshold(here, 0.97)
    call(there, "POST", "/cache/purge", json={"category": "code"})
    call(there, "PUT", "/policies/code", params={"dry_run": "true"}, json={"cache": {"threshold": 0.5}})
    call(here, "POST", "/backends/any/0/drain")
    records = call(there, "GET", "/audit").json()["records"]
    assert [r["action"] for r in records] == ["backends.drain", "cache.purge", "PUT /policies/code"]
    assert records[1]["criteria"] == {"category": "code"}
    assert records[2]["changes"] == [{"path": "categories.code.cache.threshold", "old": 0.9, "new": 0.97}]
    assert all(r["who"].endswith("@127.0.0.1") and r["at"] > 1e9 for r in records)
    assert len(call(here, "GET", "/audit", params={"limit": 1}).json()["records"]) == 1


def test_where_files_are_the_authority_edits_are_refused_and_a_reload_is_not_shared(
    start: Start, tmp_path: Path
) -> None:
    tree = {
        "store": {"kind": "sqlite", "path": str(tmp_path / "shared.db")},
        "book": {"authority": "files"},
    }
    gateway = start(tree)
    assert with_threshold(gateway, 0.97).status_code == 409
    file = gateway.policies / "book.yaml"
    file.write_text(file.read_text().replace("threshold: 0.90, ttl: 7d", "threshold: 0.93, ttl: 7d"))
    assert call(gateway, "POST", "/policies/reload").status_code == 200
    assert threshold(gateway) == 0.93
    versions = call(gateway, "GET", "/policies/versions").json()["versions"]
    assert [v["source"] for v in versions] == ["files", "files"]


def test_an_edit_that_cannot_be_written_down_changes_nothing(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.errors import StoreAway

    async def gone(*given: Any, **named: Any) -> None:
        raise StoreAway("gone")

    monkeypatch.setattr(gateway.app.store, "append", gone)
    assert with_threshold(gateway, 0.97).status_code == 503
    assert threshold(gateway) == 0.90
    call(gateway, "POST", "/cache/purge", json={"all": True})
    monkeypatch.undo()
    within(5, lambda: len(call(gateway, "GET", "/audit").json()["records"]) == 1)
