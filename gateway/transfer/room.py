"""Export, restoration and warming of a running gateway's cache.

What is restored keeps its id, age and vector; what warms is sorted and ruled like the answer to a request. A line
that comes again changes nothing. It must never store under a tenant that nobody here is.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from multidict import CIMultiDict

from gateway.asking import taken_apart
from gateway.cache.cache import Cache
from gateway.errors import EmbedderBusy, EmbedderFailed, GatewayError
from gateway.exchange import Controls, Entry, Exchange, Record, Ruling
from gateway.interfaces import Classifier, Embedder, Vector
from gateway.pipeline import Pipeline, charge
from gateway.policy.book import Book
from gateway.policy.policy import Policy
from gateway.tenant import Tenants
from gateway.transfer.lines import BadLine, Head, Pair, Terms, decode, encode, pair, vector
from gateway.wire.request import choices, parse

MAX_LINES = 256  # of one call
_AT_ONCE = 8  # embedded for one caller: requests have their turn in between
_TRIES = 20  # with a busy embedder
_PAUSE = 0.1  # seconds between them
_SLICE = 8  # lines begun between two looks at requests
_HEADERS: dict[str, str] = {}  # none: whether an answer is a stream shows in its first bytes


@dataclass(slots=True)
class Tally:
    """What became of the lines of one call: how many of each outcome, and which could not be used, and why."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)  # (place, reason)


class Transfer:
    """Moves answers in bulk.

    Args:
        policy: the book now in force.
        look: (text) → vector and label, or raises as the worker does.
        vectors_since: unix seconds; vectors of older entries are of another embedder.
    """

    def __init__(
        self,
        cache: Cache,
        pipeline: Pipeline,
        worker: Any,
        policy: Callable[[], Policy],
        tenants: Tenants,
        *,
        vectors_since: Callable[[], float],
        max_entry_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._pipeline = pipeline
        self._worker = worker
        self._policy = policy
        self._tenants = tenants
        self._vectors_since = vectors_since
        self._max_entry_bytes = max_entry_bytes
        self._clock = clock
        self._under_way: set[Any] = set()  # ids and requests that another line is about to store
        self._embedding = asyncio.Semaphore(_AT_ONCE)

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def head(self) -> Head:
        embedder: Embedder | None = self._worker.embedder
        name = "" if embedder is None else embedder.name
        return Head(name, sorting(self._policy().book), self._tenants.mark)

    async def dump(self, wanted: Callable[[Entry], bool]) -> AsyncIterator[bytes]:
        """An export in pieces: its head, then the entries that a predicate picks, a line each.

        Raises:
            StoreError: the store cannot be read; what came before is no whole export.
        """
        yield self.head.line() + b"\n"
        since, now = self._vectors_since(), self._clock()
        async for records in self._cache.dump():
            lines = [self._line(r, since) for r in records if r.entry.expires > now and wanted(r.entry)]
            yield b"".join(lines)

    def _line(self, record: Record, since: float) -> bytes:
        raw = record.vector if record.entry.created >= since else None
        variants = len(self._cache.catalog.exact(record.entry.exact))
        return encode(Record(record.entry, raw, record.document), max(variants, 1)) + b"\n"

    # ── in: what was exported ───────────────────────────────────────────────────────────────────────────

    async def restore(self, head: Head, lines: Sequence[Any]) -> Tally:
        """Store exported entries as they were."""
        embedder: Embedder | None = self._worker.embedder
        dim = embedder.dim if embedder is not None and embedder.name == head.embedder else 0
        trusted = head.sorting == sorting(self._policy().book)
        return await self._each(lines, lambda line: self._restored(head, dim, trusted, line))

    async def _restored(self, head: Head, dim: int, trusted: bool, line: Any) -> str:
        record, variants = decode(line)
        entry = record.entry
        if not self._tenants.knows(entry.tenant):
            return "unknown-tenant"
        if entry.tenant.startswith("k:") and head.tenants != self._tenants.mark:
            return "other-secret"
        known = self._known(entry, variants)
        if known is not None:
            return known
        if len(record.document) > self._max_entry_bytes:
            return "too-large"
        read = await taken_apart(entry.endpoint, _HEADERS, record.document)
        if read.reuse == "none":
            raise BadLine(f"its document is no whole answer: {read.reason}")
        if entry.id in self._under_way:
            return "present"
        self._under_way.add(entry.id)
        try:
            return await self._kept(record, vector(record.vector, dim) if dim else None, trusted, variants)
        finally:
            self._under_way.discard(entry.id)

    def _known(self, entry: Entry, variants: int) -> str | None:
        """Why it need not be stored: it is there, has expired, or as many newer answers to its request are there."""
        if self._cache.catalog.get(entry.id) is not None:
            return "present"
        if entry.expires <= self._clock():
            return "expired"
        held = self._cache.catalog.exact(entry.exact)
        return "older" if len(held) >= variants and entry.created <= min(e.created for e in held) else None

    async def _kept(self, record: Record, known: Vector | None, trusted: bool, variants: int) -> str:
        entry = record.entry
        label = None
        if entry.question and known is None:
            known, label = await self._look(entry.question)
        elif known is not None and not trusted:
            label = self._label(known)
        if known is None:
            entry.question = ""  # as an answer whose question has no vector is stored
        policy = self._policy()
        ruling = self._ruling(policy, entry, label, trusted)
        bar = policy.store_bar(ruling, entry.temperature)
        if bar is not None:
            return bar
        entry.category = ruling.category
        entry.expires = min(entry.expires, entry.created + policy.kept_for(ruling))
        entry.size = charge(record.document, known)
        self._cache.expect(entry)
        try:
            kept = await self._cache.keep(entry, known, record.document, variants)
        finally:
            self._cache.settle(entry)
        return "stored" if kept else "not-stored"

    def _ruling(self, policy: Policy, entry: Entry, label: tuple[str, float] | None, trusted: bool) -> Ruling:
        """Under policies that sort as those it was stored under, its category; else that is but a caller's hint."""
        if trusted:
            return policy.ruling(Controls(), (entry.category, "export"), None)
        tenant = entry.tenant.removeprefix("t:")
        ruled = policy.rule(tenant, entry.model, entry.endpoint, {}, entry.question)
        return policy.ruling(Controls(category=entry.category), ruled, label)

    def _label(self, known: Vector) -> tuple[str, float] | None:
        classifier: Classifier | None = self._worker.classifier
        return None if classifier is None else classifier.label(known.reshape(1, -1))[0]

    async def _look(self, text: str) -> tuple[Vector | None, tuple[str, float] | None]:
        """A text's vector and category; neither, where it is beyond the embedder's window.

        Raises:
            EmbedderBusy, EmbedderFailed: it could not be embedded.
        """
        for attempt in range(_TRIES):
            try:
                async with self._embedding:
                    look = await self._worker.look(text, None)
                return look.vector, None if look.label is None else (look.label, look.confidence)
            except EmbedderBusy:
                if attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_PAUSE)
        raise AssertionError("the last try returns or raises")

    # ── in: what is known beforehand ────────────────────────────────────────────────────────────────────

    async def warm(self, terms: Terms, lines: Sequence[Any]) -> Tally:
        """Store answers as if they had just come, each under its own question's policy."""
        return await self._each(lines, lambda line: self._warmed(pair(line, terms), terms))

    async def _warmed(self, given: Pair, terms: Terms) -> str:
        tenant = self._tenant(given.tenant, terms.key)
        headers: CIMultiDict[str] = CIMultiDict()
        if given.category:
            headers["x-gateway-category"] = given.category
        if terms.replace:
            headers["x-gateway-cache"] = "refresh"
        request = parse(given.endpoint, given.request, headers)
        answer = await taken_apart(given.endpoint, _HEADERS, given.answer, choices(request))
        if answer.reuse == "none":
            raise BadLine(f"no whole answer: {answer.reason}")
        x = Exchange("warm", headers, tenant=tenant, request=request)
        self._pipeline.open(x)
        if x.exact in self._under_way:
            return "present"
        self._under_way.add(x.exact)
        try:
            for _ in range(_TRIES):
                async with self._embedding:
                    outcome = await self._pipeline.adopt(x, answer)
                if outcome != "embedder-busy":
                    break
                await asyncio.sleep(_PAUSE)
            return outcome
        finally:
            self._under_way.discard(x.exact)

    def _tenant(self, named: str, key: str) -> str:
        if named:
            tenant = named if named.startswith(("k:", "t:")) else f"t:{named}"
        elif key:
            tenant = self._tenants.resolve({"Authorization": f"Bearer {key}"})
        else:
            raise BadLine("no tenant: say whose it is, by name or by an API key")
        if not self._tenants.knows(tenant):
            raise BadLine("nobody here is that tenant")
        return tenant

    # ── both ────────────────────────────────────────────────────────────────────────────────────────────

    async def _each(self, lines: Sequence[Any], store: Callable[[Any], Any]) -> Tally:
        """All lines, side by side, so that the store commits them together."""

        async def one(line: Any) -> tuple[str, str]:
            try:
                return await store(line), ""
            except (BadLine, GatewayError) as fault:
                return "bad", str(fault)
            except EmbedderBusy:
                return "embedder-busy", ""
            except EmbedderFailed:
                return "embedder-failed", ""

        jobs = []
        for at, line in enumerate(lines):
            jobs.append(asyncio.create_task(one(line)))
            if at % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        tally = Tally()
        for at, (outcome, fault) in enumerate(await asyncio.gather(*jobs)):
            tally.outcomes[outcome] += 1
            if fault:
                tally.faults.append((at, fault))
        return tally


def sorting(book: Book) -> str:
    """What two books have in common that sort the same questions the same way and forbid the same: one word."""
    told = {
        "categories": [[c.name, c.cache.mode == "none", c.examples] for c in book.categories],
        "rules": [rule.model_dump() for rule in book.rules],
    }
    return hashlib.blake2b(orjson.dumps(told), digest_size=8).hexdigest()
