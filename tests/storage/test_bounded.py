"""Foreign failures become StoreError; cancellation passes through."""

import asyncio

import pytest

from gateway.errors import StoreError
from gateway.storage.bounded import bounded


def test_any_failure_leaves_as_store_error_with_its_cause() -> None:
    async def body() -> None:
        with pytest.raises(StoreError, match="disk: get: OSError: gone") as caught:
            async with bounded("disk: get", 1):
                raise OSError("gone")
        assert isinstance(caught.value.__cause__, OSError)

    asyncio.run(body())


def test_a_wait_ends_at_its_bound() -> None:
    async def body() -> None:
        with pytest.raises(StoreError, match=r"no answer within 0\.01 s"):
            async with bounded("disk: get", 0.01):
                await asyncio.sleep(5)

    asyncio.run(body())


def test_cancellation_is_not_an_error_of_the_store() -> None:
    async def wait() -> None:
        async with bounded("disk: get", 5):
            await asyncio.sleep(5)

    async def body() -> None:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
