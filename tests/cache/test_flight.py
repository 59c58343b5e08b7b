import asyncio
from typing import Any

import pytest

from gateway.cache.flight import Call, Flights
from gateway.errors import BackendUnreachable


def scripted(*chunks: bytes, gate: asyncio.Event | None = None, fail: bool = False) -> Any:
    async def run(call: Call) -> None:
        call.begin(200, {})
        for place, chunk in enumerate(chunks):
            if place == 1 and gate is not None:
                await gate.wait()
            await call.feed(chunk)
        if fail:
            raise BackendUnreachable("cut")

    return run


async def read(call: Call) -> list[bytes]:
    reader = call.subscribe()
    try:
        await reader.head()
        return [chunk async for chunk in reader.chunks()]
    finally:
        reader.leave()


def test_a_follower_reads_a_live_stream_from_its_beginning() -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        call = Call(scripted(b"a", b"b", b"c", gate=gate), keep=100)
        first = asyncio.create_task(read(call))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(read(call))
        await asyncio.sleep(0.01)
        gate.set()
        assert await first == await second == [b"a", b"b", b"c"]
        assert call.whole == b"abc"

    asyncio.run(scene())


def test_the_call_outlives_its_leader_as_long_as_somebody_reads() -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        call = Call(scripted(b"a", b"b", gate=gate), keep=100)
        leader = asyncio.create_task(read(call))
        follower = asyncio.create_task(read(call))
        await asyncio.sleep(0.01)
        leader.cancel()
        await asyncio.sleep(0.01)
        assert not call.task.done()
        gate.set()
        assert await follower == [b"a", b"b"]

    asyncio.run(scene())


def test_the_call_is_cancelled_when_the_last_reader_leaves() -> None:
    async def scene() -> None:
        call = Call(scripted(b"a", b"b", gate=asyncio.Event()), keep=100)
        readers = [asyncio.create_task(read(call)) for _ in range(2)]
        await asyncio.sleep(0.01)
        for reader in readers:
            reader.cancel()
        await asyncio.wait([call.task], timeout=1)
        assert call.task.cancelled()

    asyncio.run(scene())


def test_a_call_that_the_last_reader_left_takes_no_followers() -> None:
    async def scene() -> None:
        flights = Flights()
        flight = flights.open("key")
        call = Call(scripted(b"a", b"b", gate=asyncio.Event()), keep=100)
        flight.land(call)
        reader = call.subscribe()
        await reader.head()
        reader.leave()
        assert flights.find("key") is None, "its task has not run yet, but it is being cancelled"
        await asyncio.wait([call.task], timeout=1)

    asyncio.run(scene())


def test_an_unexpected_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async def run(call: Call) -> None:
            raise ZeroDivisionError("a bug")

        async def after(call: Call) -> None:
            raise ZeroDivisionError("another bug")

        with pytest.raises(BackendUnreachable):
            await read(Call(run, keep=100))
        call = Call(scripted(b"a"), keep=100, after=after)
        assert await read(call) == [b"a"]
        await call.task

    asyncio.run(scene())
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError] * 2


def test_what_is_stored_is_only_what_is_complete() -> None:
    async def scene() -> None:
        stored: list[bytes | None] = []

        async def after(call: Call) -> None:
            stored.append(call.whole)

        with pytest.raises(BackendUnreachable):
            await read(Call(scripted(b"a", fail=True), keep=100, after=after))
        whole = Call(scripted(b"a", b"b"), keep=100, after=after)
        await read(whole)
        await whole.task
        assert stored == [b"ab"]

    asyncio.run(scene())


def test_a_long_body_is_neither_kept_nor_joined_and_waits_for_its_slowest_reader() -> None:
    async def scene() -> None:
        fed = 0

        async def run(call: Call) -> None:
            nonlocal fed
            call.begin(200, {})
            for _ in range(100):
                await call.feed(b"x" * 10)
                fed += 1

        call = Call(run, keep=50)
        reader = call.subscribe()
        await reader.head()
        await asyncio.sleep(0.01)
        assert fed < 10, "nobody reads: the engine waits"
        body = await reader.body()
        assert len(body) == 1000
        assert call.whole is None
        assert not call.joinable
        reader.leave()

    asyncio.run(scene())


def test_a_flight_whose_leader_leaves_tells_its_followers() -> None:
    async def scene() -> None:
        flights = Flights()
        flight = flights.open("key")
        assert flights.find("key") is flight
        flights.close(flight)
        assert flight.landed.result() is None
        assert flights.find("key") is None
        assert len(flights) == 0

    asyncio.run(scene())


def test_closing_an_old_flight_does_not_close_its_successor() -> None:
    async def scene() -> None:
        flights = Flights()
        old = flights.open("key")
        new = flights.open("key")
        flights.close(old)
        assert flights.find("key") is new

    asyncio.run(scene())
