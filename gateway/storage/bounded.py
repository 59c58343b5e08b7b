"""The one place where a foreign call's failure becomes `StoreError` and its wait gets a bound.

Must never swallow a cancellation, nor put a URL or a password into the message.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import StoreError


@asynccontextmanager
async def bounded(action: str, seconds: float) -> AsyncIterator[None]:
    """Run the body for at most `seconds`; what goes wrong inside leaves as StoreError naming the action."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except StoreError:
        raise
    except TimeoutError as error:
        raise StoreError(f"{action}: no answer within {seconds:g} s") from error
    except Exception as error:  # the store contract promises StoreError and nothing else
        raise StoreError(f"{action}: {type(error).__name__}: {error}") from error
