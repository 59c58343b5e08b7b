"""The one place where a foreign call's failure becomes `StoreError` and its wait gets a bound.

Must never swallow a cancellation, nor put a URL or a password into the message.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from gateway.errors import StoreAway, StoreError

T = TypeVar("T")
_left: set["asyncio.Task[Any]"] = set()  # cancelled, and not done yet


async def leaving(work: Coroutine[Any, Any, T]) -> T:
    """Its result, or a cancellation at once, however long the work takes to notice: redis-py may miss the first one."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        _left.add(task)
        task.add_done_callback(_gone)
        raise


def _gone(task: "asyncio.Task[Any]") -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # nobody else will ask for it


def _never(error: Exception) -> bool:
    return False


@asynccontextmanager
async def bounded(
    action: str, seconds: float, away: Callable[[Exception], bool] = _never
) -> AsyncIterator[None]:
    """Run the body for at most `seconds`; what goes wrong inside leaves as StoreError naming the action.

    `away`: whether an error means that the other side is not there, which makes it a StoreAway.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except StoreError:
        raise
    except Exception as error:  # the store contract promises StoreError and nothing else
        late = isinstance(error, TimeoutError)
        told = f"no answer within {seconds:g} s" if late else f"{type(error).__name__}: {error}"
        raise (StoreAway if away(error) else StoreError)(f"{action}: {told}") from error
