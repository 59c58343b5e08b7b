"""What is learned of semantic hits beside the traffic: samples judged, verdicts taken, wrong pairs remembered.

Decides which hits are asked about, and when there is time for it. It must never delay a request, never ask a
model that is busy with requests, never outlive its bounds, and never serve again what was found wrong.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from gateway.asking import Asker
from gateway.cache.purge import Criteria
from gateway.calibration import FLOOR
from gateway.errors import EmbedderBusy, EmbedderFailed, GatewayError, StoreError
from gateway.exchange import Answer, Candidate, Entry, Exchange, Reuse, user_digest
from gateway.interfaces import Vector
from gateway.journal import Journal
from gateway.journal import Shelf as Records
from gateway.judge import Judge
from gateway.trust.negatives import Known, Negatives, Wrong
from gateway.trust.room import Report, Trust
from gateway.wire.answer import said

log = logging.getLogger("gateway.judged")
_PRESSED = 0.7  # load of a model above which none of its answers is asked for again
_SAVE_SECONDS = 30.0
_FOLLOW_SECONDS = 0.25
_NEGATIVES, _VERSION = "negative", "negatives"  # the shelf of wrong pairs, and its counter
_SURE = ("model", "plain")  # how a hit must have been judged wrong to be remembered as a pair


class Documents(Protocol):
    """The part of the cache that is read here."""

    async def document(self, entry: Entry) -> bytes | None: ...


class Worker(Protocol):
    """The part of the worker that is asked here."""

    async def encode(self, texts: list[str]) -> Vector: ...

    async def verify(
        self, asked: str, vector: Vector, partition: bytes, stored: Mapping[int, str]
    ) -> dict[int, float]: ...


class Shelf(Records, Protocol):
    """The part of the store that keeps small records. Raises StoreError, nothing else."""

    async def get_meta(self, key: str) -> bytes | None: ...

    async def put_meta(self, key: str, value: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What sampling takes from the configuration."""

    share: float = 0.02  # of semantic hits, at least; unsure ones more
    in_flight: int = 2
    per_minute: float = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A hit, or what would have been one, that was drawn to be judged."""

    x: Exchange
    candidate: Candidate
    weight: float  # one over the probability with which it was drawn
    served: bool

    @property
    def category(self) -> str:
        assert self.x.ruling is not None
        return self.x.ruling.category


class Sampling:
    """Judges samples. Counters are plain; others publish them.

    Args:
        load: of a model, in [0, ...), 1 at capacity.
        found: called with a category and whether a served hit of it was found wrong.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        trust: Trust,
        negatives: Negatives,
        cache: Documents,
        worker: Worker,
        shelf: Shelf,
        asker: Asker,
        judge: Judge,
        terms: Terms,
        *,
        load: Callable[[str], float],
        found: Callable[[str, bool], None],
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.trust = trust
        self.negatives = negatives
        self._cache = cache
        self._worker = worker
        self._shelf = shelf
        self._asker = asker
        self._judge = judge
        self._terms = terms
        self._load = load
        self._found = found
        self._clock = clock
        self._draw = draw
        self._known = trust.conditions
        self._tasks: set[asyncio.Task[None]] = set()
        self._allowed, self._at = terms.per_minute, clock()
        self._journal = Journal(trust, shelf)
        self._due: dict[str, bytes] = {}  # wrong pairs that the store has not taken yet
        self._gone: set[str] = set()  # and those it has not forgotten yet
        self._unwelcome: list[Callable[[Known], bool]] = []  # forgotten before they were loaded
        self._version = b""
        self.ready = False  # what was learned before has been read
        self.samples: Counter[str] = Counter()  # by outcome
        self.withheld: dict[str, list[float]] = {}  # category → what its withheld hits would have saved
        self.failures: Counter[str] = Counter()  # by step

    # ── on the way of a request ─────────────────────────────────────────────────────────────────────────

    def refused(self, x: Exchange) -> tuple[Callable[[Entry], bool], float]:
        """Which entries were found not to answer this question, and what is demanded on top near such questions."""
        negatives, partition, vector = self.negatives, x.partition, x.vector
        if not negatives.any(partition):
            return _never, 0.0
        question = _question(x)

        def refuses(entry: Entry) -> bool:
            return negatives.vetoes(partition, question, vector, entry.question)

        return refuses, negatives.tightened(partition, vector)

    def looked(self, x: Exchange) -> bool:
        """A semantic look-up was decided; whether its hit is to be forwarded, to learn from it."""
        ruling, agreed = x.ruling, x.agreed
        assert ruling is not None
        self.trust.looked(ruling.category, x.tenant, x.load.of(ruling.category))
        self._tell()
        if agreed is None or ruling.mode != "semantic":
            return False
        return self.trust.explore(ruling.category, agreed.entry.id, agreed.statistic, self._draw())

    def served(self, x: Exchange, hit: Reuse) -> None:
        """A semantic hit goes out: a few of them are asked of the model as well, in the background."""
        if x.agreed is None or hit.reason != "hit":
            return
        sample = self._drawn(x, x.agreed, served=True)
        if sample is not None:
            self._begin(sample, self._recheck(sample, hit.document))

    def answered(self, x: Exchange, fresh: Answer, keep: Callable[[], None] | None = None) -> None:
        """The model answered a request that had a candidate: whether that would have done costs no call.

        keep: stores the answer; called only if the candidate was wrong.
        """
        if x.agreed is not None:
            self._withhold(x, x.agreed)
            sample = self._drawn(x, x.agreed, served=False)
            if sample is not None:
                self._begin(sample, self._compare(sample, fresh, keep), free=True)
        elif x.candidates and x.ruling is not None and self._terms.share:
            share = self.trust.below(x.ruling.category)
            if self._draw() < share:
                sample = Sample(x, x.candidates[0], 1 / share, False)
                self._begin(sample, self._unmatched(sample, fresh), free=True)

    def _drawn(self, x: Exchange, candidate: Candidate, *, served: bool) -> Sample | None:
        assert x.ruling is not None
        if not self._terms.share:
            return None
        share = self.trust.share(x.ruling.category, candidate.statistic, x.tenant, served=served)
        if x.explored:
            share = 1.0
        return Sample(x, candidate, 1 / share, served) if self._draw() < share else None

    def _withhold(self, x: Exchange, candidate: Candidate) -> None:
        entry, category = candidate.entry, x.ruling.category if x.ruling is not None else ""
        saved = self.withheld.setdefault(category, [0, 0.0, 0.0])
        saved[0] += 1
        saved[1] += entry.prompt_tokens + entry.completion_tokens
        saved[2] += entry.cost

    # ── beside the traffic ──────────────────────────────────────────────────────────────────────────────

    def _begin(self, sample: Sample, work: Any, *, free: bool = False) -> None:
        """Start judging, where there is time for it. `free`: it takes no call of the model that answers."""
        why = self._prevented(sample, free)
        if why:
            work.close()
            self._drop(sample, why)
            return
        task = asyncio.get_running_loop().create_task(self._judged(sample, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _prevented(self, sample: Sample, free: bool) -> str:
        now = self._clock()
        self._allowed = min(
            self._terms.per_minute, self._allowed + (now - self._at) * self._terms.per_minute / 60
        )
        self._at = now
        if len(self._tasks) >= self._terms.in_flight * (8 if free else 1):
            return "crowded"
        if free:
            return ""
        assert sample.x.request is not None
        if self._load(sample.x.request.model) > _PRESSED:
            return "busy"
        if self._allowed < 1:
            return "over-rate"
        self._allowed -= 1
        return ""

    def _drop(self, sample: Sample, why: str) -> None:
        self.samples[why] += 1
        self.trust.missed(sample.category, served=sample.served)

    async def _judged(self, sample: Sample, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            self._drop(sample, "cancelled")
            raise
        except (GatewayError, EmbedderBusy, EmbedderFailed) as error:
            self._drop(sample, "failed")
            log.info("a sample was not judged: %s", error)
        except Exception:
            self._drop(sample, "failed")
            log.exception("judging a sample failed")

    async def _recheck(self, sample: Sample, document: bytes) -> None:
        """Ask the model what the cache has answered."""
        asked = await self._asker.again(sample.x, "sample")
        await self._weigh(sample, asked.answer, document)

    async def _compare(self, sample: Sample, fresh: Answer, keep: Callable[[], None] | None) -> None:
        document = await self._cache.document(sample.candidate.entry)
        if document is None:
            self._drop(sample, "gone")
        wrong = True if document is None else await self._weigh(sample, fresh, document)
        if wrong and keep is not None:
            keep()

    async def _unmatched(self, sample: Sample, fresh: Answer) -> None:
        """The nearest candidate below the operating point that all else agrees to teaches where that should be."""
        for each in sample.x.candidates:
            if each.verdict != "below-threshold" and not (
                each.verdict == "verifier" and each.score is not None
            ):
                continue
            candidate = await self._scored(sample.x, each)
            if candidate is not None:
                await self._compare(replace(sample, candidate=candidate), fresh, None)
                return
        self.samples["void"] += 1
        self.trust.void(sample.category)

    async def _scored(self, x: Exchange, candidate: Candidate) -> Candidate | None:
        """The candidate as it would have been, had it been near enough; None where guard or policy refuse it."""
        entry, guard, ruling = candidate.entry, x.policy.guard, x.ruling
        assert ruling is not None
        least = FLOOR if ruling.score is None else ruling.threshold  # from which the verifier is asked
        if candidate.similarity < least or not self.trust.knows(ruling.category):
            return None
        if candidate.score is not None:  # it has been through all of this
            return candidate
        demand = x.policy.against(ruling, entry)
        if guard.verdict(guard.facts(_question(x)), guard.facts(entry.question), demand.waived) is not None:
            return None
        if demand.score is None:
            return candidate
        scores = await self._worker.verify(_question(x), x.vector, x.partition, {entry.id: entry.question})
        return replace(candidate, score=scores[entry.id]) if entry.id in scores else None

    async def _weigh(self, sample: Sample, fresh: Answer, document: bytes) -> bool | None:
        """Whether the stored answer is wrong, by the fresh one; None where that cannot be told."""
        x, request = sample.x, sample.x.request
        assert request is not None
        new, old = said(request.endpoint, fresh.body), said(request.endpoint, document)
        if fresh.reuse != "semantic" or not new or not old:
            self._drop(sample, "unanswered")
            return None
        same, how = await self._judge.same(_question(x), new, old, x)
        self._learn(sample, wrong=not same, how=how)
        if not same and sample.served and how in _SURE:
            entry = sample.candidate.entry
            pair = Wrong(x.partition, _question(x), entry.question, (user_digest(x.user), entry.user))
            await self._remember(x.tenant, pair, x.vector)
        return not same

    def _learn(self, sample: Sample, *, wrong: bool, how: str) -> None:
        x, candidate = sample.x, sample.candidate
        self.samples["wrong" if wrong else "right"] += 1
        self.trust.judged(
            sample.category,
            x.tenant,
            candidate.statistic,
            wrong=wrong,
            weight=sample.weight,
            served=sample.served,
            entry=candidate.entry.id,
        )
        self._told(sample.category, wrong, sample.served)
        fields = {
            "request_id": x.request_id,
            "category": sample.category,
            "tenant": x.tenant,
            "similarity": round(candidate.similarity, 4),
            "score": candidate.score,
            "threshold": x.threshold,
            "wrong": wrong,
            "weight": round(sample.weight, 4),
            "served": sample.served,
            "how": how,
        }
        log.info("judged", extra={"fields": fields})

    def _told(self, category: str, wrong: bool, served: bool) -> None:
        if served:
            self._found(category, wrong)
        self._tell()

    def _tell(self) -> None:
        if self.trust.conditions is not self._known:
            for name in self.trust.conditions.closed.keys() - self._known.closed.keys():
                log.warning("no semantic hits for now", extra={"fields": {"category": name}})
            self._known = self.trust.conditions

    def state(self) -> dict[str, Any]:
        """What is known, as the admin API tells it."""
        return {
            "all": asdict(self.trust.overall()),
            "categories": {
                name: self._state_of(name, report) for name, report in self.trust.report().items()
            },
            "samples": dict(self.samples),
            "judged_by": dict(self._judge.counts),
            "negative_pairs": len(self.negatives),
            "in_progress": len(self._tasks),
        }

    def _state_of(self, name: str, report: Report) -> dict[str, Any]:
        hits, tokens, dollars = self.withheld.get(name, (0, 0.0, 0.0))
        told = asdict(report)
        told["withheld"] |= {
            "would_serve": hits,
            "would_save_tokens": int(tokens),
            "would_save_dollars": dollars,
        }
        return told

    # ── feedback ────────────────────────────────────────────────────────────────────────────────────────

    async def told(
        self,
        category: str,
        tenant: str,
        statistic: float,
        *,
        wrong: bool,
        entry: int | None,
        pair: Wrong,
        instead: str = "",
    ) -> None:
        """A user's verdict on a semantic hit.

        instead: the verdict that it replaces. A pair once called wrong is refused for good, whatever is said later.
        """
        if instead:
            self.trust.retract(category, tenant, statistic, wrong=instead == "bad")
        self.trust.judged(
            category, tenant, statistic, wrong=wrong, served=True, entry=entry, source="feedback"
        )
        self._told(category, wrong, True)
        if not wrong:
            return
        try:
            vector: Vector | None = (await self._worker.encode([pair.asked]))[0]
        except (EmbedderBusy, EmbedderFailed):
            vector = None  # the very pair is remembered all the same
        await self._remember(tenant, pair, vector)

    async def _remember(self, tenant: str, pair: Wrong, vector: Vector | None) -> None:
        """A wrong pair: at once here, then durably, for all who share the store."""
        key, record = self.negatives.add(pair.partition, pair.asked, vector, pair.stored, tenant, pair.users)
        self._due[key] = record
        self._gone.discard(key)
        await self._keep_pairs()

    async def _keep_pairs(self) -> None:
        """What the store does not take stays due, as long as it is known here; what it does not forget, too."""
        due = self._due = {key: record for key, record in self._due.items() if key in self.negatives}
        self._gone.update(self.negatives.gone())
        gone = self._gone - self._due.keys()
        try:
            if due:
                await self._shelf.shelve(_NEGATIVES, due)
                await self._shelf.put_meta(_VERSION, f"{time.time_ns()}".encode())
                for key in [key for key, record in due.items() if self._due.get(key) is record]:
                    self._due.pop(key)
            if gone:
                await self._shelf.unshelve(_NEGATIVES, sorted(gone))
                self._gone -= gone
        except StoreError as error:
            self.failures["remember"] += 1
            log.warning("a wrong pair is not saved: %s", error)

    def forget(self, wanted: Callable[[Known], bool]) -> int:
        """Forget wrong pairs that a predicate picks; in the store with the next save. Returns how many."""
        self._unwelcome += [] if self.ready else [wanted]
        return self.negatives.forget(wanted)

    def purge_by(self, criteria: Criteria) -> int:
        """The pairs that an erasure means; any other purge leaves them, as they protect from wrong answers."""
        return self.forget(lambda pair: criteria.erases(pair.tenant, pair.users))

    async def refresh(self) -> None:
        """What others have added and forgotten since. Raises StoreError."""
        self.negatives.hold(await self._read_negatives() | self._due.keys())

    # ── what is kept ────────────────────────────────────────────────────────────────────────────────────

    async def restore(self) -> None:
        """Read what was learned before. Raises StoreError."""
        await self._read_negatives()
        for wanted in self._unwelcome:  # erased before they were loaded
            self.negatives.forget(wanted)
        self._unwelcome.clear()
        await self._journal.read()
        self.ready = True
        self._heard()

    def _heard(self) -> None:
        """What others have learned counts here now."""
        if unread := self._journal.unread + self.negatives.unread:
            self.failures["unreadable"] = unread
        self._tell()

    async def _read_negatives(self) -> set[str]:
        """Those not known here; what is too much for us is too much for the store. Gives the keys of all."""
        found = set(self._due)
        self._version = await self._shelf.get_meta(_VERSION) or b""
        unknown: list[tuple[str, bytes]] = []
        async for batch in self._shelf.shelf(_NEGATIVES):
            found.update(key for key, _ in batch)
            unknown += [
                (key, raw) for key, raw in batch if key not in self.negatives and key not in self._gone
            ]
        self.negatives.load(unknown)
        await self._keep_pairs()
        return found

    async def follow(self) -> None:
        """What others who share the store remember is known here within a moment; for ever."""
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            try:
                if self.ready and (await self._shelf.get_meta(_VERSION) or b"") != self._version:
                    await self._read_negatives()
            except StoreError as error:
                self.failures["follow"] += 1
                log.debug("others' wrong pairs are not read: %s", error)

    async def run(self) -> None:
        """Save now and then, for ever."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Put what was learned into the store; what it does not take stays due."""
        await self._keep_pairs()
        if not self.ready:
            return
        try:
            await self._journal.save()
            self._heard()
        except StoreError as error:
            self.failures["save"] += 1
            log.warning("what judged hits have taught is not saved yet: %s", error)

    async def close(self) -> None:
        """Give up what is in progress, keep what is known."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.save()


def _never(entry: Entry) -> bool:
    return False


def _question(x: Exchange) -> str:
    return x.request.question or "" if x.request is not None else ""
