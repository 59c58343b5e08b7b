"""One of several gateways that share a store: it follows what the others store, delete, purge and decide.

Decides what a change means here, and when everything must be read anew. Must never make a request wait, never let
what was purged come back (a purge is applied in the order of the store, and before anything of ours is stored after
it), and never stop: what cannot be read is counted, and tried again.
"""

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson

from gateway.cache.cache import Cache
from gateway.cache.purge import Criteria
from gateway.errors import StoreError
from gateway.exchange import Change, Entry
from gateway.interfaces import DocumentStore

log = logging.getLogger("gateway.replica")
_SECONDS = 0.1  # between looks at what has changed
_LONGEST = 1.0  # the same while the store is away
_OWED = 1_000  # purges that wait for the store
_ANSWER_SECONDS = 0.6  # the others have to answer a question
_ASKED = 100  # questions of others that are being answered at once


class Shelved(Protocol):
    """Further texts that the store keeps, where they can be purged and read again."""

    def purge_by(self, criteria: Criteria) -> int: ...

    async def save(self) -> object: ...

    async def refresh(self) -> None: ...


class Replica:
    """Follows the store's changes from a position that it keeps.

    Args:
        policies: follow the store's policies.
        since: unix seconds; stored vectors older than that are another embedder's.
        answer: to a question of another replica, if it can be answered here.
        forget: what is in memory alone.
    """

    def __init__(
        self,
        store: DocumentStore,
        cache: Cache,
        examples: Shelved,
        *,
        policies: Callable[[], Awaitable[None]],
        since: Callable[[], Awaitable[float]],
        answer: Callable[[Any], Awaitable[Any]] | None = None,
        forget: Callable[[Criteria], int] = lambda criteria: 0,
        seconds: float = _SECONDS,
    ) -> None:
        self._answer = answer
        self._asking: dict[str, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._store, self._cache, self._forget = store, cache, forget
        self._kept: dict[str, Shelved] = {"examples": examples}
        self._policies, self._since, self._seconds = policies, since, seconds
        self._turn = asyncio.Lock()  # changes are applied in order
        self._loaded = False
        self._lost = False  # a gap was found, and what came of it is not mended yet
        self._owed: deque[Criteria] = deque(maxlen=_OWED)  # purges to announce
        self._carried: deque[str] = deque(maxlen=_OWED)  # purges carried out here, to be finished
        self.position: str | None = None
        self.applied = self.resyncs = self.purges = self.failures = 0

    def __repr__(self) -> str:
        return f"<Replica at {self.position}: {self.applied} changes applied, {self.resyncs} times read anew>"

    def also(self, name: str, kept: Shelved) -> None:
        """A purge means these as well."""
        self._kept[name] = kept

    def unwanted(self, entry: Entry) -> bool:
        """Whether an entry that waits to be stored was purged meanwhile."""
        return self._cache.doomed(entry)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────

    async def load(self) -> None:
        """Take in what the store has. To be called once, before `run`. Raises StoreError."""
        async with self._turn:
            if not self._loaded:
                await self._read_all()
                self._loaded = True

    async def run(self) -> None:
        """Follow, for ever."""
        pause = self._seconds
        while True:
            await asyncio.sleep(pause)
            try:
                await self._announce_owed()
                await self.catch_up()
                await self._finish()
                pause = self._seconds
            except StoreError as error:
                self.failures += 1
                pause = min(pause * 2, _LONGEST)
                log.debug("others' changes are not read: %s", error)
            except Exception:
                self.failures += 1
                pause = _LONGEST
                log.exception("a change could not be applied")

    async def catch_up(self) -> None:
        """Apply everything that has happened up to now. Raises StoreError."""
        async with self._turn:
            if self.position is None:
                self.position = await self._store.position()
            if self._lost:
                await self._mend()
            while changes := await self._store.changes(self.position):
                for change in changes:
                    await self._apply(change)
                    self.position = change.at
                    self.applied += 1
            if changes is None:
                self._lost = True
                await self._mend()

    async def _mend(self) -> None:
        """Some changes are not known any more."""
        if self._loaded:
            log.warning("changes are missing: the store is read anew")
            await self._read_all()
            for kept in self._kept.values():
                await kept.refresh()
            await self._policies()
            self.resyncs += 1
        else:
            self.position = await self._store.position()
        self._lost = False

    async def _read_all(self) -> None:
        """What happens while the store is read is followed afterwards. Purges that may not have ended are carried out."""
        position, unfinished = await self._store.position(), await self._store.unfinished()
        purged = [Criteria.load(body) for body in unfinished.values()]
        for criteria in purged:
            self._purge_here(criteria)
        await self._cache.warm(vectors_since=await self._since(), purged=[c.means for c in purged])
        self._carried.extend(unfinished)
        self.position = position

    async def _apply(self, change: Change) -> None:
        if change.op == "purge":
            self._purge_here(Criteria.load(change.body))
            await self._save()
            self._carried.append(change.at)
        elif change.op in ("ask", "answer"):
            self._spoken(change.op, orjson.loads(change.body))
        elif not self._loaded:
            return  # it will be in what is read
        elif change.op == "put":
            await self._cache.adopt(change.ids, change.variants)
        elif change.op == "delete":
            found = (self._cache.catalog.get(id) for id in change.ids)
            self._cache.forget([entry for entry in found if entry is not None], durable=False)
        elif change.op == "journal" and change.body == b"policies":
            await self._policies()

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, question: Any) -> Any:
        """What the replica says that knows; None when none does, or the store is away."""
        name = secrets.token_hex(8)
        self._asking[name] = asyncio.get_running_loop().create_future()
        try:
            await self._store.announce("ask", orjson.dumps({"name": name, "body": question}))
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._asking[name]
        except (StoreError, TimeoutError):
            return None
        finally:
            del self._asking[name]

    def _spoken(self, op: str, said: Any) -> None:
        waiting = self._asking.get(said["name"])
        if op == "answer":
            if waiting is not None and not waiting.done():
                waiting.set_result(said["body"])
        elif waiting is None and self._answer is not None and len(self._answering) < _ASKED:
            task = asyncio.get_running_loop().create_task(self._answered(said["name"], said["body"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answered(self, name: str, question: Any) -> None:
        assert self._answer is not None
        try:
            answer = await self._answer(question)
            if answer is not None:
                await self._store.announce("answer", orjson.dumps({"name": name, "body": answer}))
        except Exception:
            self.failures += 1
            log.exception("another replica's question could not be answered")

    # ── purging ─────────────────────────────────────────────────────────────────────────────────────────

    async def purge(self, criteria: Criteria) -> tuple[Counter[str], bool]:
        """Forget what is meant, here at once, then everywhere: how many of what, and whether the others know already.

        If they do not, because the store is away, they will be told when it is back.
        """
        try:
            await self.catch_up()  # what others have stored up to now is meant, too
        except StoreError as error:
            log.warning("the purge may not count what others have stored: %s", error)
        counts = self._purge_here(criteria)
        self._owed.append(criteria)
        try:
            await self._announce_owed()
            await self.catch_up()
            await self._save()
        except StoreError as error:
            log.warning("a purge waits for the store: %s", error)
        return counts, criteria not in self._owed

    def _purge_here(self, criteria: Criteria) -> Counter[str]:
        self.purges += 1
        counts = Counter(entries=len(self._cache.purge(criteria.means)), decisions=self._forget(criteria))
        for name, kept in self._kept.items():
            counts[name] = kept.purge_by(criteria)
        return counts

    async def _save(self) -> None:
        for kept in self._kept.values():
            await kept.save()

    async def _announce_owed(self) -> None:
        while self._owed:
            criteria = self._owed[0]
            await self._store.announce("purge", criteria.dump())
            if self._owed and self._owed[0] is criteria:
                self._owed.popleft()

    async def _finish(self) -> None:
        """A purge that is carried out need not be carried out by those who start later."""
        if self._carried and self._loaded and await self._cache.settled():
            while self._carried:
                await self._store.finish(self._carried[0])
                self._carried.popleft()
