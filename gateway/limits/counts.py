"""Where use is counted: the interface, and the adapter that counts in this process.

Limits are no isolation: whoever cannot count lets requests through and says so. Money outlives a restart on the store's
shelf; with several processes on one file each counts for itself, and the last to save is remembered.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import orjson

from gateway.errors import StoreError
from gateway.interfaces import DocumentStore
from gateway.limits.account import Account, Ask, Standing, Terms, Use

log = logging.getLogger("gateway.limits")
_SHELF = "tenant-money"
_SAVE_SECONDS = 1.0


class Counts(Protocol):
    """Counts requests, tokens and money of tenants, by their terms. Nothing here raises for a store that is gone."""

    local: int  # requests that were counted here because the store all share could not be asked
    failures: int  # times the store failed

    def now(self) -> float:
        """Unix seconds, by the clock that windows and periods go by."""

    async def take(self, tenant: str, terms: Terms, ask: Ask) -> Standing:
        """Count a request in with what it reserves, or say why not. What `withheld` names is not reserved."""

    def settle(self, tenant: str, terms: Terms, use: Use) -> None:
        """A request is over: what was used takes the place of what was reserved. Never waits."""

    async def standings(self, tenants: Mapping[str, tuple[Terms, str]]) -> dict[str, Standing]:
        """How tenants stand, each in the given period."""

    async def open(self) -> None:
        """Load what was counted before, if it can be had."""

    async def run(self) -> None:
        """What goes on beside requests, until cancelled."""

    async def close(self) -> None:
        """Write what is not written yet."""


class MemoryCounts:
    """Counts in this process. `shelf`: where money is kept over restarts."""

    def __init__(self, shelf: DocumentStore | None = None, clock: Callable[[], float] = time.time) -> None:
        self._shelf = shelf
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._restored = shelf is None
        self._unsaved: set[str] = set()
        self.local = 0
        self.failures = 0

    def now(self) -> float:
        return self._clock()

    def account(self, tenant: str) -> Account:
        found = self._accounts.get(tenant)
        if found is None:
            found = self._accounts[tenant] = Account()
        return found

    async def take(self, tenant: str, terms: Terms, ask: Ask) -> Standing:
        standing = self.account(tenant).take(terms, ask, self._clock())
        if ask.nanos and not standing.refused:
            self._unsaved.add(tenant)
        return standing

    def settle(self, tenant: str, terms: Terms, use: Use) -> None:
        account = self.account(tenant)
        account.settle(terms, use, self._clock())
        if use.last:
            account.leave()
        if use.nanos != use.reserved_nanos:
            self._unsaved.add(tenant)

    async def standings(self, tenants: Mapping[str, tuple[Terms, str]]) -> dict[str, Standing]:
        now = self._clock()
        return {
            name: self.account(name).standing(terms, period, now) for name, (terms, period) in tenants.items()
        }

    async def open(self) -> None:
        """Add what an earlier process had counted to what this one has."""
        if self._restored or self._shelf is None:
            return
        try:
            kept: dict[str, bytes] = {}
            async for batch in self._shelf.shelf(_SHELF):
                kept.update(batch)
        except StoreError as error:
            self.failures += 1
            log.warning("what tenants have spent is not known yet: %s", error)
            return
        self._restored = True
        for tenant, value in kept.items():
            account = self.account(tenant)
            for period, nanos in orjson.loads(value).items():
                account.spend(period, int(nanos))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            await self._save()

    async def close(self) -> None:
        await self._save()

    async def _save(self) -> None:
        """Money only: a minute's rates are whole again before a process is back."""
        await self.open()
        if self._shelf is None or not self._restored or not self._unsaved:
            return
        names, self._unsaved = self._unsaved, set()
        try:
            await self._shelf.shelve(_SHELF, {n: orjson.dumps(self.account(n).spent) for n in names})
        except StoreError as error:
            self._unsaved |= names
            self.failures += 1
            log.warning("what tenants have spent is not saved: %s", error)
