"""What operators did: who, when and what, durably and for all who share the store.

Decides how much of it is kept. Must never hold up what it records, nor hold a secret: it is told names, not tokens.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from gateway.errors import StoreError
from gateway.interfaces import DocumentStore

log = logging.getLogger("gateway.audit")
_JOURNAL = "audit"
_WAITING = 1_000  # records while the store is away
_SHOWN = 200  # changes of one record
_SECONDS = 1.0


class Audit:
    """A journal of the newest `keep` records. What the store does not take waits, within a bound, and is logged."""

    def __init__(
        self, store: DocumentStore, *, keep: int = 10_000, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._keep, self._clock = store, keep, clock
        self._waiting: deque[bytes] = deque(maxlen=_WAITING)
        self._turn = asyncio.Lock()

    async def note(self, who: str, action: str, detail: dict[str, Any]) -> None:
        """Something was done. Returns when it is durable, or will have to wait for that."""
        changes = detail.get("changes", [])
        if len(changes) > _SHOWN:
            detail = {**detail, "changes": changes[:_SHOWN], "further_changes": len(changes) - _SHOWN}
        record = {"at": self._clock(), "who": who, "action": action, **detail}
        log.info("audit", extra={"fields": record})
        self._waiting.append(orjson.dumps(record, default=str))
        await self._write()

    async def newest(self, count: int) -> list[dict[str, Any]]:
        """The newest first. Raises StoreError."""
        found = await self._store.journal(_JOURNAL, count)
        return [{"number": number, **orjson.loads(raw)} for number, raw in found]

    async def run(self) -> None:
        """Write what had to wait, for ever."""
        while True:
            await asyncio.sleep(_SECONDS)
            await self._write()

    async def _write(self) -> None:
        async with self._turn:
            try:
                while self._waiting:
                    await self._store.append(_JOURNAL, self._waiting[0], keep=self._keep)
                    self._waiting.popleft()
            except StoreError as error:
                log.warning("audit records wait for the store: %s", error)
