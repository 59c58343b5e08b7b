"""The one place where a foreign call's failure becomes `StoreError` and its wait gets a bound.

Must never swallow a cancellation, nor put a URL or a password into the message.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.errors import StoreAway, StoreError


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
