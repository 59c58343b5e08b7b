"""Copies are bounded, discarded, and never in anybody's way."""

import asyncio

from gateway.routing.mirror import Mirror


def test_a_share_of_calls_is_copied() -> None:
    async def story() -> None:
        draws = iter([0.05, 0.5, 0.09, 0.99])
        mirror, copied = Mirror(lambda: next(draws)), []

        async def copy() -> None:
            copied.append(1)

        for _ in range(4):
            mirror.maybe(0.1, copy)
        assert copied == [], "it starts after the caller has gone on"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(copied) == 2
        assert mirror.counts() == {"sent": 2, "failed": 0, "dropped": 0}

    asyncio.run(story())


def test_beyond_its_bound_copies_are_dropped_and_failures_counted() -> None:
    async def story() -> None:
        mirror, gate = Mirror(lambda: 0.0, at_once=2), asyncio.Event()

        async def copy() -> None:
            await gate.wait()
            raise ConnectionError("gone")

        for _ in range(5):
            mirror.maybe(1.0, copy)
        await asyncio.sleep(0)
        assert mirror.in_flight == 2
        gate.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert mirror.in_flight == 0
        assert mirror.counts() == {"sent": 2, "failed": 2, "dropped": 3}

    asyncio.run(story())


def test_closing_gives_up_what_is_in_progress() -> None:
    async def story() -> None:
        mirror = Mirror(lambda: 0.0)
        mirror.maybe(1.0, asyncio.Event().wait)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await mirror.close()
        assert mirror.in_flight == 0

    asyncio.run(story())
