"""A lane: one thread, first come first served, bounded, never in the event loop's way."""

import asyncio
import threading
from functools import partial

import pytest

from gateway.errors import StoreError
from gateway.storage.lane import Lane


def test_all_work_runs_in_order_on_one_other_thread() -> None:
    async def body() -> None:
        lane, order = Lane("test", depth=100), []

        def work(number: int) -> int:
            order.append(number)
            return threading.get_ident()

        threads = await asyncio.gather(*(lane.run(lambda number=n: work(number)) for n in range(50)))
        assert order == list(range(50))
        assert len(set(threads)) == 1
        assert threads[0] != threading.get_ident()
        await lane.finish(lambda: None)

    asyncio.run(body())


def test_exceptions_come_back_and_the_thread_lives_on() -> None:
    async def body() -> None:
        lane = Lane("test", depth=10)
        with pytest.raises(ZeroDivisionError):
            await lane.run(lambda: 1 // 0)
        assert await lane.run(lambda: 2) == 2
        await lane.finish(lambda: None)

    asyncio.run(body())


def test_a_full_lane_refuses_at_once_and_a_cancelled_job_never_runs() -> None:
    async def body() -> None:
        lane, release, ran = Lane("test", depth=2), threading.Event(), []
        begun = asyncio.Event()
        begin = partial(asyncio.get_running_loop().call_soon_threadsafe, begun.set)
        busy = asyncio.create_task(lane.run(lambda: (begin(), release.wait(5))))
        await begun.wait()
        waiting = [asyncio.create_task(lane.run(lambda n=n: ran.append(n))) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(StoreError, match="2 calls are waiting"):
            await lane.run(lambda: None)
        waiting[0].cancel()
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(busy, *waiting, return_exceptions=True)
        assert ran == [1]
        await lane.finish(lambda: None)

    asyncio.run(body())


def test_after_finish_nothing_is_taken() -> None:
    async def body() -> None:
        lane, done = Lane("test", depth=2), []
        await lane.finish(lambda: done.append("last"))
        with pytest.raises(StoreError, match="closed"):
            await lane.run(lambda: done.append("later"))
        assert done == ["last"]

    asyncio.run(body())
