"""The ledger: booked per tenant, category and way, net of bad answers, kept over restarts, one sum over replicas."""

import asyncio
import csv
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import StoreError
from gateway.savings import COLUMNS, Credit, Savings, to_csv, told
from gateway.storage.memory import MemoryStore
from tests.harness import Running, ScriptedBackend

Start = Callable[..., Running]
ASKED, ALIKE = "How do I reverse a list in Python?", "How can I reverse a list in Python?"
DAY = 86_400.0


def priced(backend: ScriptedBackend) -> dict[str, Any]:
    price = {"input": 1e6, "output": 1e6}  # a dollar a token: 10 an answer
    tenants = [{"name": "acme", "keys": ["acme-key-1"]}, {"name": "bolt", "keys": ["bolt-key-1"]}]
    return {"models": [{"name": "m", "backends": [{"url": backend.url}], "price": price}], "tenants": tenants}


def ask(gateway: Running, question: str, key: str = "acme-key-1") -> Any:
    got = gateway.ask(question, Authorization=f"Bearer {key}")
    gateway.settle()
    return got


def rows(gateway: Running, **query: str) -> dict[tuple[str, str], dict[str, Any]]:
    time.sleep(0.05)  # booked after the last byte
    answer = gateway.http.get(f"{gateway.admin}/savings", params=query).json()
    assert answer["merged"]
    return {(row["tenant"], row["how"]): row for row in answer["rows"]}


def test_each_way_of_saving_is_booked_with_its_tenant_and_category(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(priced(backend))
    for question, key in [(ASKED, "acme-key-1"), (ASKED, "acme-key-1"), (ALIKE, "acme-key-1"),
                          (ASKED, "bolt-key-1"), (ASKED, "bolt-key-1")]:  # fmt: skip
        ask(gateway, question, key)
    found = rows(gateway)
    assert set(found) == {("t:acme", "exact"), ("t:acme", "semantic"), ("t:bolt", "exact")}
    row = found["t:acme", "exact"]
    assert (row["category"], row["calls"], row["dollars"]) == ("code", 1, 10.0)
    assert (row["input_tokens"], row["output_tokens"], row["net_dollars"]) == (7, 3, 10.0)
    assert set(rows(gateway, tenant="bolt")) == {("t:bolt", "exact")}
    assert set(rows(gateway, how="semantic")) == {("t:acme", "semantic")}
    assert rows(gateway, category="default") == {}


def test_a_join_saves_what_its_leaders_call_took(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(priced(backend))
    backend.delay = 0.4
    threads = [threading.Thread(target=ask, args=(gateway, ASKED)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = rows(gateway)["t:acme", "join"]
    assert (row["calls"], row["dollars"], row["output_tokens"]) == (2, 20.0, 6)


def test_engine_seconds_are_what_the_models_answers_usually_take(
    start: Start, backend: ScriptedBackend
) -> None:
    gateway = start(priced(backend))
    backend.delay = 0.3
    ask(gateway, ASKED)
    deadline = time.monotonic() + 10
    while not gateway.app.savings.seconds and time.monotonic() < deadline:
        time.sleep(0.02)
    ask(gateway, ASKED)
    assert 0.3 <= rows(gateway)["t:acme", "exact"]["engine_seconds"] < 3
    metrics = gateway.http.get(f"{gateway.admin}/metrics").text
    assert 'gateway_saved_seconds_total{category="code"} 0' in metrics.replace("} 0.", "} 0")


@pytest.mark.parametrize("question", [ASKED, ALIKE], ids=["exact", "semantic"])
def test_a_bad_answer_has_saved_nothing_and_counts_once(
    start: Start, backend: ScriptedBackend, question: str
) -> None:
    gateway = start(priced(backend))
    ask(gateway, ASKED)
    id = ask(gateway, question).headers["x-request-id"]
    time.sleep(0.05)
    for key in ("bolt-key-1", "acme-key-1", "acme-key-1"):  # another tenant's word counts for nothing
        given = {"request_id": id, "verdict": "bad"}
        gateway.post("/v1/feedback", given, Authorization=f"Bearer {key}")
    (row,) = rows(gateway).values()
    assert (row["calls"], row["bad_calls"], row["bad_by"]) == (1, 1, "feedback")
    assert (row["dollars"], row["net_dollars"], row["net_calls"]) == (10.0, 0.0, 0)


def test_the_table_is_the_same_as_csv(start: Start, backend: ScriptedBackend) -> None:
    gateway = start(priced(backend))
    for _ in range(2):
        ask(gateway, ASKED)
    time.sleep(0.05)
    got = gateway.http.get(f"{gateway.admin}/savings", params={"format": "csv"})
    assert got.headers["content-type"].startswith("text/csv")
    (line,) = csv.DictReader(io.StringIO(got.text))
    assert tuple(line) == COLUMNS
    assert (line["tenant"], line["how"], line["net_dollars"]) == ("t:acme", "exact", "10.0")
    for wrong in ({"format": "xml"}, {"how": "luck"}):
        assert gateway.http.get(f"{gateway.admin}/savings", params=wrong).status_code == 400


def test_it_is_kept_over_a_restart(start: Start, backend: ScriptedBackend, tmp_path: Path) -> None:
    tree = {**priced(backend), "store": {"kind": "sqlite", "path": str(tmp_path / "g.db")}}
    first = start(tree)
    for _ in range(3):
        ask(first, ASKED)
    first.run(first.app.stop())
    second = start(tree)
    assert rows(second)["t:acme", "exact"]["calls"] == 2
    ask(second, ASKED)
    assert rows(second)["t:acme", "exact"]["calls"] == 3


def test_a_name_is_no_formula() -> None:
    row = told("=HYPERLINK(1)", "c", "exact", [0.0] * 10, None)
    assert to_csv([row]).splitlines()[1].startswith("'=HYPERLINK(1),")


@given(st.lists(st.floats(0, 1e6), min_size=5, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_net_is_gross_less_the_larger_of_what_was_told_and_what_is_estimated(
    gross: list[float], told_bad: float, share: float
) -> None:
    row = told("t", "c", "semantic", [*gross, *(told_bad * value for value in gross)], share)
    lost = max(told_bad, share)
    for name, value in zip(("calls", "input_tokens", "dollars"), (gross[0], gross[1], gross[3]), strict=True):
        assert row[f"net_{name}"] == pytest.approx(value * (1 - lost), abs=1e-6 * (1 + value)) or not gross[0]
    assert row["net_dollars"] <= row["dollars"]


# ── replicas ────────────────────────────────────────────────────────────────────────────────────────────────


class Shelf(MemoryStore):
    """A store that is shared, and may be gone."""

    gone = False

    async def shelve(self, kind: str, items: Any) -> None:
        if self.gone:
            raise StoreError("gone")
        await super().shelve(kind, items)


def credit(tenant: str = "t:a", how: Any = "exact") -> Credit:
    return Credit(tenant, "code", how, 7, 3, 1.0, 0.5)


def calls(ledger: Savings, tenant: str = "t:a") -> float:
    return sum(row[0] for (name, _, _), row in ledger.rows().items() if name == tenant)


def test_replicas_tell_one_sum_and_the_dead_are_taken_over_once() -> None:
    async def body() -> None:
        shelf, now = Shelf(), [1000.0]
        ledgers = [Savings(shelf, clock=lambda: now[0]) for _ in range(4)]
        for number, ledger in enumerate(ledgers, 1):
            for _ in range(number):
                ledger.add(credit())
            await ledger.save()
        for ledger in ledgers:
            assert await ledger.read()
            assert calls(ledger) == 10
        alive, dead = ledgers[:2], ledgers[2:]
        now[0] += 2 * DAY
        for ledger in alive:
            await ledger.save()  # signs of life
        for _ in range(2):
            for ledger in alive:
                await ledger.read()
                assert calls(ledger) == 10
        kept = [key async for batch in shelf.shelf("savings") for key, _ in batch]
        assert len(kept) == 2
        await dead[0].save()  # it was not dead after all
        for ledger in alive:
            await ledger.read()
            assert calls(ledger) == 10

    asyncio.run(body())


def test_what_the_store_does_not_take_is_saved_later() -> None:
    async def body() -> None:
        shelf = Shelf()
        one, two = Savings(shelf), Savings(shelf)
        shelf.gone = True
        one.add(credit())
        await one.save()
        assert one.failures == 1
        shelf.gone = False
        one.add(credit())
        await one.save()
        await two.read()
        assert calls(two) == 2

    asyncio.run(body())


def test_what_cannot_be_read_leaves_the_last_word() -> None:
    async def body() -> None:
        shelf = Shelf()
        one, two = Savings(shelf), Savings(shelf)
        one.add(credit())
        await one.save()
        assert await two.read()
        await shelf.shelve("savings", {"x:t:a": b"not json"})
        assert not await two.read()
        assert calls(two) == 1

    asyncio.run(body())


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["exact", "join"])), max_size=200))
def test_rows_are_bounded_and_nothing_is_lost(booked: list[tuple[int, str]]) -> None:
    ledger = Savings(MemoryStore(), rows=8)
    for number, how in booked:
        ledger.add(credit(f"t:{number}", how))
    assert len(ledger.rows()) <= 8 + 2  # the others have a row a way
    assert sum(row[0] for row in ledger.rows().values()) == len(booked)
