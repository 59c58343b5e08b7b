"""Counting while Redis is gone, deaf or late: requests go on, and afterwards every sum is exact, nothing doubled."""

import asyncio
import contextlib
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.limits.account import Ask, Standing, Terms, Use
from gateway.storage.redis_counts import RedisCounts
from gateway.storage.redis_url import client
from tests.storage.conftest import Server

PERIOD = "2026-11"
RATE = 120  # requests a minute: two a second drain away
TERMS = Terms(requests=RATE, tokens=1_000_000, soft=1)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


class Line:
    """The line to a server: it passes, is `mute` (what is asked arrives, no answer comes back), or is `cut`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.mode = "pass"
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Line":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: Any) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        onward, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, back]
        copies = [
            asyncio.ensure_future(self._copy(reader, back, ("cut",))),
            asyncio.ensure_future(self._copy(onward, writer, ("cut", "mute"))),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            writer.close()
            back.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: tuple[str, ...]
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.mode in ends:
                    return
                writer.write(data)
                await writer.drain()


def counts_at(port: int, namespace: str = "", **options: Any) -> RedisCounts:
    url = f"redis://127.0.0.1:{port}/0"
    options = {"deadline": 0.3, "rest": 0.05, **options}
    return RedisCounts(
        lambda: client(url, timeout=1.0, connections=64), namespace=namespace or uuid.uuid4().hex, **options
    )


def run(counts: RedisCounts, body: Callable[[RedisCounts], Any]) -> None:
    async def whole() -> None:
        task = asyncio.get_running_loop().create_task(counts.run())
        try:
            await body(counts)
        finally:
            task.cancel()
            await counts.close()

    asyncio.run(whole())


def ask(nanos: int = 0, tokens: int = 0) -> Ask:
    return Ask(uuid.uuid4().hex, tokens, nanos, PERIOD)


def use(asked: Ask, standing: Standing, nanos: int, tokens: int = 0) -> Use:
    reserved = (0, 0) if standing.withheld else (asked.tokens, asked.nanos)
    return Use(asked, standing.counted, 1, tokens, nanos, *reserved)


async def known(port: int, namespace: str, wanted: Callable[[Standing], bool]) -> Standing:
    """What Redis itself says, asked over a line of its own."""
    looker = counts_at(port, namespace, deadline=5.0)
    try:
        deadline = time.monotonic() + 15
        while True:
            standing = (await looker.standings({"t": (TERMS, PERIOD)}))["t"]
            if wanted(standing) or time.monotonic() > deadline:
                return standing
            await asyncio.sleep(0.02)
    finally:
        await looker.close()


def test_a_redis_that_hangs_costs_its_deadline_and_nothing_is_counted_twice(own_server: Server) -> None:
    namespace = uuid.uuid4().hex
    assert own_server.process is not None
    process = own_server.process.pid

    async def body(counts: RedisCounts) -> None:
        await counts.take("t", TERMS, ask())  # connected, with the script loaded
        os.kill(process, signal.SIGSTOP)
        try:
            asked = ask(500, 50)
            standing = await counts.take("t", TERMS, asked)
            assert (standing.refused, standing.withheld, standing.counted) == ("", "", "unsure")
            started = time.monotonic()
            second = ask(100, 10)
            after = await counts.take("t", TERMS, second)
            assert after.counted == "unsent" or time.monotonic() - started >= 0.2
            counts.settle("t", TERMS, use(asked, standing, 700, 70))
            counts.settle("t", TERMS, use(second, after, 30, 3))
            await asyncio.sleep(0.4)
        finally:
            os.kill(process, signal.SIGCONT)
        # What hung in the socket is now done by Redis as well, before or after what it is told.
        found = await known(own_server.port, namespace, lambda s: s.spent == 730 and s.in_flight == 1)
        await asyncio.sleep(0.3)
        found = await known(own_server.port, namespace, lambda s: s.spent == 730 and s.in_flight == 1)
        assert (found.spent, found.in_flight) == (730, 1)
        assert found.requests <= 3
        assert counts.local == 2
        assert counts.pending == 0

    run(counts_at(own_server.port, namespace), body)


def test_who_finds_all_connections_taken_waits_and_is_not_counted_apart(redis_server: Server) -> None:
    url, terms = f"redis://127.0.0.1:{redis_server.port}/0", Terms(requests=7)
    counts = RedisCounts(
        lambda: client(url, timeout=1.0, connections=3),
        namespace=uuid.uuid4().hex,
        connections=3,
        deadline=5.0,
    )

    async def body(counts: RedisCounts) -> None:
        taken = await asyncio.gather(*(counts.take("t", terms, ask()) for _ in range(60)))
        assert sum(not standing.refused for standing in taken) == 7
        assert counts.local == 0

    run(counts, body)


def test_limits_hold_in_each_replica_while_redis_is_gone_and_add_up_when_it_is_back(tmp_path: Path) -> None:
    server, namespace = Server(tmp_path), uuid.uuid4().hex
    terms = Terms(requests=5, soft=1)

    async def body(counts: RedisCounts) -> None:
        taken = []
        for _ in range(8):
            asked = ask(1000)
            taken.append((asked, await counts.take("t", terms, asked)))
        passed = [(asked, standing) for asked, standing in taken if not standing.refused]
        assert len(passed) == 5
        for asked, standing in passed:
            counts.settle("t", terms, use(asked, standing, 1234))
        await asyncio.to_thread(server.start)
        found = await known(server.port, namespace, lambda s: s.spent == 5 * 1234)
        assert (found.spent, found.in_flight) == (5 * 1234, 0)
        deadline = time.monotonic() + 5
        while counts.pending and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert (await counts.take("t", terms, ask())).refused == "requests"

    try:
        run(counts_at(server.port, namespace), body)
    finally:
        server.kill()


def test_a_killed_replicas_requests_are_no_longer_in_progress_after_their_lease(own_server: Server) -> None:
    namespace, terms = uuid.uuid4().hex, Terms(in_flight=1)

    async def body(counts: RedisCounts) -> None:
        await counts.take("t", terms, ask())
        assert (await counts.take("t", terms, ask())).refused == "in_flight"
        key = f"gw:{{{namespace}}}:limits:open:t"
        member = await counts._redis.zrange(key, 0, -1)
        await counts._redis.zadd(key, {member[0]: time.time() - 1})  # as a minute later
        assert (await counts.take("t", terms, ask())).refused == ""

    run(counts_at(own_server.port, namespace), body)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_line_does_sums_end_exact(redis_server: Server, seed: int) -> None:
    namespace, draw = uuid.uuid4().hex, random.Random(seed)
    spent = passed = left = 0
    began = time.time()

    async def one(counts: RedisCounts) -> None:
        nonlocal spent, passed, left
        asked = ask(draw.randrange(1000), draw.randrange(100))
        nanos, used, pause = draw.randrange(1000), draw.randrange(100), draw.random() * 0.05
        leaves = draw.random() < 0.1
        try:
            async with asyncio.timeout(0.001 if leaves else 5):
                standing = await counts.take("t", TERMS, asked)
        except TimeoutError:
            left += 1
            return  # the client went away before anybody answered
        await asyncio.sleep(pause)
        counts.settle("t", TERMS, use(asked, standing, nanos, used))
        spent, passed = spent + nanos, passed + 1

    async def body() -> None:
        async with Line(redis_server.port) as line:
            counts = counts_at(line.port, namespace, deadline=0.15)
            task = asyncio.get_running_loop().create_task(counts.run())
            for _ in range(8):
                line.mode = draw.choice(["pass", "mute", "cut"])
                await asyncio.gather(*(one(counts) for _ in range(draw.randrange(1, 8))))
            line.mode = "pass"
            found = await known(redis_server.port, namespace, lambda s: s.spent == spent and s.in_flight == 0)
            deadline = time.monotonic() + 10
            while counts.pending and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            assert counts.pending == 0
            found = await known(redis_server.port, namespace, lambda s: True)
            assert (found.spent, found.in_flight) == (spent, 0)
            drained = (time.time() - began) * RATE / 60
            assert passed - drained - 1 <= found.requests <= passed + left  # who left may have been counted
            task.cancel()
            await counts.close()

    asyncio.run(body())
