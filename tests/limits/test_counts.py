"""What both adapters promise: limits hold at one moment, what is reserved is settled, and all sums end exact."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.limits.account import Ask, Standing, Terms, Use
from gateway.limits.counts import Counts, MemoryCounts
from gateway.storage.memory import MemoryStore
from gateway.storage.redis_counts import RedisCounts
from gateway.storage.redis_url import client
from tests.storage.conftest import Server

PERIOD = "2026-11"
Opened = Callable[[], Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("redis"))
    running.start()
    yield running
    running.kill()


@asynccontextmanager
async def running(counts: Counts) -> AsyncIterator[Counts]:
    await counts.open()
    task = asyncio.get_running_loop().create_task(counts.run())
    try:
        yield counts
    finally:
        task.cancel()
        await counts.close()


def on(server: Server, namespace: str, **options: Any) -> RedisCounts:
    return RedisCounts(
        lambda: client(server.url, timeout=1.0, connections=64), namespace=namespace, deadline=5.0, **options
    )


@pytest.fixture(params=["memory", "redis"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "memory":
        return lambda: running(MemoryCounts())
    server: Server = request.getfixturevalue("server")
    return lambda: running(on(server, uuid.uuid4().hex))


def ask(tokens: int = 0, nanos: int = 0, period: str = PERIOD) -> Ask:
    return Ask(uuid.uuid4().hex, tokens, nanos, period)


def use(asked: Ask, standing: Standing, tokens: int = 0, nanos: int = 0) -> Use:
    reserved = (0, 0) if standing.withheld else (asked.tokens, asked.nanos)
    return Use(asked, standing.counted, 1, tokens, nanos, *reserved)


async def settled(counts: Counts, terms: Terms, wanted: Callable[[Standing], bool]) -> Standing:
    """Once what was said has arrived."""
    deadline = time.monotonic() + 10
    while True:
        standing = (await counts.standings({"t": (terms, PERIOD)}))["t"]
        if wanted(standing) or time.monotonic() > deadline:
            return standing
        await asyncio.sleep(0.01)


def test_at_once_exactly_as_many_pass_as_may(opened: Opened) -> None:
    async def body() -> None:
        async with opened() as counts:
            for terms, reason in (
                (Terms(requests=7), "requests"),
                (Terms(in_flight=7), "in_flight"),
                (Terms(tokens=70), "tokens"),
                (Terms(hard=70), "budget"),
            ):
                name = reason
                taken = await asyncio.gather(*(counts.take(name, terms, ask(10, 10)) for _ in range(40)))
                said = [standing.refused or standing.withheld for standing in taken]
                assert (said.count(""), said.count(reason)) == (7, 33)

    asyncio.run(body())


def test_a_place_is_free_again_and_what_was_not_used_is_given_back(opened: Opened) -> None:
    terms = Terms(tokens=100, in_flight=1, hard=100)

    async def body() -> None:
        async with opened() as counts:
            first = ask(100, 100)
            standing = await counts.take("t", terms, first)
            assert (await counts.take("t", terms, ask())).refused == "in_flight"
            counts.settle("t", terms, use(first, standing, 30, 40))
            now = await settled(counts, terms, lambda s: s.spent == 40)
            assert (now.in_flight, now.spent) == (0, 40)
            assert 28 < now.tokens <= 30
            second = await counts.take("t", terms, ask(60, 60))
            assert (second.refused, second.withheld) == ("", "")
            assert second.spent == 100

    asyncio.run(body())


def test_what_is_withheld_is_not_reserved_but_the_request_counts(opened: Opened) -> None:
    terms = Terms(requests=10, hard=5)

    async def body() -> None:
        async with opened() as counts:
            asked = ask(3, 6)
            standing = await counts.take("t", terms, asked)
            assert (standing.refused, standing.withheld, standing.spent) == ("", "budget", 0)
            assert 0.9 < standing.requests <= 1
            counts.settle("t", terms, use(asked, standing))
            assert (await settled(counts, terms, lambda s: s.in_flight == 0)).in_flight == 0

    asyncio.run(body())


def test_periods_are_apart_and_an_answer_belongs_to_that_in_which_it_was_asked_for(opened: Opened) -> None:
    terms = Terms(hard=100)

    async def body() -> None:
        async with opened() as counts:
            old = ask(0, 80, "2026-10")
            standing = await counts.take("t", terms, old)
            assert (await counts.take("t", terms, ask(0, 80))).withheld == ""
            counts.settle("t", terms, use(old, standing, 0, 90))
            wanted = {"t": (terms, "2026-10")}
            deadline = time.monotonic() + 10
            while (await counts.standings(wanted))["t"].spent != 90 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert (await counts.standings(wanted))["t"].spent == 90
            assert (await counts.standings({"t": (terms, PERIOD)}))["t"].spent == 80

    asyncio.run(body())


amounts = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 10**9), st.integers(0, 10**9))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(amounts, max_size=25))
def test_money_ends_as_the_sum_of_what_was_used(opened: Opened, mix: list[tuple[int, int, int, int]]) -> None:
    terms = Terms(soft=1)

    async def one(counts: Counts, tokens: int, used: int, nanos: int, spent: int) -> None:
        asked = ask(tokens, nanos)
        standing = await counts.take("t", terms, asked)
        await asyncio.sleep(0)
        counts.settle("t", terms, use(asked, standing, used, spent))

    async def body() -> None:
        async with opened() as counts:
            await asyncio.gather(*(one(counts, *each) for each in mix))
            total = sum(spent for *_, spent in mix)
            standing = await settled(counts, terms, lambda s: s.spent == total and s.in_flight == 0)
            assert (standing.spent, standing.in_flight) == (total, 0)

    asyncio.run(body())


def test_money_outlives_a_restart_on_the_stores_shelf(tmp_path: Path) -> None:
    terms = Terms(hard=100)

    async def body() -> None:
        store = MemoryStore()
        async with running(MemoryCounts(store)) as counts:
            asked = ask(0, 50)
            counts.settle("t", terms, use(asked, await counts.take("t", terms, asked), 0, 70))
        async with running(MemoryCounts(store)) as counts:
            assert (await counts.take("t", terms, ask(0, 31))).withheld == "budget"
            assert (await counts.take("t", terms, ask(0, 30))).withheld == ""

    asyncio.run(body())


def test_replicas_share_one_limit(server: Server) -> None:
    terms, namespace = Terms(requests=9, in_flight=20), uuid.uuid4().hex

    async def body() -> None:
        async with running(on(server, namespace)) as one, running(on(server, namespace)) as two:
            both = [counts.take("t", terms, ask()) for _ in range(20) for counts in (one, two)]
            taken = await asyncio.gather(*both)
            assert sum(not standing.refused for standing in taken) == 9

    asyncio.run(body())
