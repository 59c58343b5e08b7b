"""In-context caching as one room: what may be searched, who answers, what is learned, what is kept.

Everything here is synchronous and in memory, but for saving and restoring. It must never call a model, never
let an example cross tenants who do not both share, and never make a request wait for the store.
"""

import asyncio
import logging
import random
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import orjson

from gateway.errors import EmbedderBusy, EmbedderFailed, StoreError
from gateway.exchange import Answer, Endpoint, Exchange, Request
from gateway.interfaces import Vector
from gateway.offload import prompt
from gateway.offload.examples import Example, Examples, Pattern
from gateway.offload.pair import Pair, Plan, Terms, explanation, settings
from gateway.offload.selector import Asked

log = logging.getLogger("gateway.offload")
_DAY = 86_400.0
_AGAIN = 600.0  # seconds within which the same question asked anew speaks against the answer it got
_AGAIN_OUTCOME, _AGAIN_WEIGHT = 0.3, 0.2
_REMEMBERED = 4000  # plans whose outcome may yet become known; about 8 kB each
_OUTPUT = 512  # tokens left for an answer whose length the caller did not bound
_TOKEN_BYTES = 3.5
_BOUNDS = ("max_completion_tokens", "max_tokens")
_BATCH = 256  # examples saved at once
_PATIENCE, _SLOWER = (10.0, 60.0), 4.0  # seconds a small model is waited for: times what the large one takes

Reading = tuple[str, str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float]]]


class Index(Protocol):
    """The part of the worker that keeps vectors."""

    @property
    def embedder(self) -> Any: ...

    def add(self, id: int, partition: bytes, vector: Vector) -> Any: ...

    def remove(self, id: int, partition: bytes) -> Any: ...

    async def encode(self, texts: Sequence[str]) -> Vector: ...


class Shelf(Protocol):
    """The part of the store that keeps small records, kind by kind. Raises StoreError, nothing else."""

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None: ...

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None: ...

    def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]: ...


@dataclass(frozen=True, slots=True)
class Tenant:
    """What a tenant allows."""

    offload: bool = True
    share: bool = False
    personal: tuple[Pattern, ...] = ()


_ANYBODY = Tenant()


class Offloading:
    """The room's one face.

    Args:
        entry: a requested model's name → its entry's in the configuration, or None.
        load: a model's load factor.
        seconds: what a model's answers usually take, if known.
        busy: whether requests wait for a model already.
    """

    def __init__(
        self,
        examples: Examples,
        index: Index,
        shelf: Shelf,
        *,
        entry: Callable[[str], str | None],
        load: Callable[[str], float],
        seconds: Callable[[str], float | None],
        busy: Callable[[str], bool],
        role: prompt.Role = "system",
        compare_share: float = 0.01,
        clock: Callable[[], float] = time.time,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.examples = examples
        self.pairs: dict[str, Pair] = {}  # by the large model's entry
        self.ready = False
        self.failures: Counter[str] = Counter()  # by step
        self._index = index
        self._shelf = shelf
        self._entry = entry
        self._load = load
        self._seconds = seconds
        self._busy = busy
        self._role = role
        self._settings = settings(compare_share)
        self._clock = clock
        self._rng = rng or np.random.default_rng()
        self._tenants: Mapping[str, Tenant] = {}
        self._plans: OrderedDict[tuple[str, str], tuple[Plan, float]] = OrderedDict()
        self._asked: OrderedDict[bytes, tuple[Plan, float]] = OrderedDict()
        self._vectors: dict[int, Vector] = {}  # of new examples, until they are saved
        self._unsaved: set[int] = set()
        self._gone: set[int] = set()
        self._states: dict[str, bytes] = {}  # of pairs, as they were stored
        self._saving = asyncio.Lock()
        self._saved: set[int] = set()  # what the store is known to hold
        self._unwelcome: list[Callable[[Example], bool]] = []  # purged before they were loaded

    def configure(self, terms: Sequence[Terms], tenants: Mapping[str, Tenant]) -> None:
        """Adopt a configuration: pairs that stay keep what they learned."""
        pairs: dict[str, Pair] = {}
        for each in terms:
            known = self.pairs.get(each.large)
            if known is None or known.terms.small != each.small:
                known = Pair(each, self._settings, self._rng)
                self._recall(known)
            known.terms = each
            pairs[each.large] = known
        self.pairs, self._tenants = pairs, tenants

    # ── one request ─────────────────────────────────────────────────────────────────────────────────────

    def searches(self, x: Exchange) -> tuple[bytes, ...]:
        """The index's partitions in which examples for this request may lie; none: it is not for a small model."""
        request, tenant = x.request, self._tenant(x.tenant)
        assert request is not None
        if not self.ready or not tenant.offload or not _fit(request) or self.pair_of(request.model) is None:
            return ()
        own = _partition(x.tenant, request.model)
        return (own, _partition(None, request.model)) if tenant.share else (own,)

    def plan(self, x: Exchange) -> Plan | None:
        """What to do with a request whose `seen` and `ruling` are known; None where there is nothing to decide."""
        request, ruling = x.request, x.ruling
        assert request is not None
        pair = self.pair_of(request.model)
        if pair is None or ruling is None or not ruling.offload or x.seen is None:
            return None
        vector, found = x.seen
        tokens = 1 + int(len(request.raw) / _TOKEN_BYTES)
        left = pair.terms.context - tokens - _bound(request)
        if left < 0:
            return None
        if self._busy(pair.terms.small):
            if not x.explained:
                pair.decisions[ruling.category, "small-busy"] += 1
            return None
        asked = Asked.of(request.question or "", tokens, ruling.category)
        candidates = self._visible(x.tenant, request.model, found, ruling.share)
        room = left - prompt.overhead_tokens(self._role)
        plan = pair.plan(x.tenant, ruling, asked, candidates, room, vector, explain=x.explained)
        if not x.explained:
            self._remember(x, plan)
        return plan

    def compose(self, plan: Plan, request: Request, *, stream: bool) -> Request | None:
        """The request for the small model, or None where its form has no place for examples."""
        fields = prompt.compose(
            request.endpoint, request.fields, plan.pair.terms.small, plan.selection.examples, self._role
        )
        return None if fields is None else remade(request, fields, stream=stream)

    def dismiss(self, x: Exchange) -> None:
        """Another model than the pair's answered: nothing is to be learned of it."""
        x.plan = None
        self._plans.pop((x.tenant, x.request_id), None)

    def patience(self, plan: Plan) -> float:
        """Seconds the small model may take: who waits longer had better ask the large one."""
        least, most = _PATIENCE
        usual = self._seconds(plan.pair.terms.large)
        return most if usual is None else min(most, max(least, _SLOWER * usual))

    def refused(self, plan: Plan) -> None:
        """The gate did not let the small model's answer pass."""
        plan.pair.refuse(plan)
        self._record(plan, 0.0)

    def failed(self, plan: Plan) -> None:
        """The small model did not answer."""
        self.failures["small"] += 1
        plan.pair.withdraw(plan)

    def served(self, plan: Plan, endpoint: Endpoint, answer: Answer) -> None:
        """The small model's answer went out to the caller."""
        plan.small = said(endpoint, answer.body)
        plan.pair.served(plan, answer.usage, self._seconds(plan.pair.terms.large))

    def answered(self, x: Exchange, answer: Answer, keep: bool, cost: float) -> None:
        """The large model's answer: hindsight, and an example if it may be one.

        `keep`: policy and caller let it be stored. `cost`: dollars it took.
        """
        request, plan = x.request, x.plan
        assert request is not None
        plan.large = said(request.endpoint, answer.body)
        if answer.reuse != "semantic" or plan.large is None:
            return
        plan.pair.hindsight(plan, plan.large)
        if x.seen is not None and _alone(request):
            self._offer(x, plan, plan.large, keep, cost)

    # ── outcomes ────────────────────────────────────────────────────────────────────────────────────────

    def label(self, tenant: str, request_id: str, outcome: float) -> bool:
        """A verdict on an answer, in [0, 1], by the user or the application; False where nothing is known of it."""
        found = self._plans.get((tenant, request_id))
        if found is None or found[1] < self._clock() - _DAY:
            return False
        plan = found[0]
        if plan.choice.offload:
            if plan.pair.judge(plan, "feedback", small=outcome):
                self._record(plan, outcome)
        elif plan.pair.judge(plan, "feedback", large=outcome):
            self._rate(plan, outcome)
        return True

    def again(self, x: Exchange) -> None:
        """The same request, asked anew for a fresh answer: a weak sign against the small model's."""
        found = self._asked.get(x.exact)
        if found is None or found[1] < self._clock() - _AGAIN or not found[0].choice.offload:
            return
        plan = found[0]
        plan.pair.judge(plan, "again", small=_AGAIN_OUTCOME, weight=_AGAIN_WEIGHT)

    def compared(self, plan: Plan, agreement: float) -> None:
        """A judge's word on both answers: how far the small model's is as good as the large one's."""
        offloaded = plan.choice.offload
        plan.pair.judge(
            plan, "judge", small=agreement, large=1.0, share=plan.choice.share if offloaded else 1.0
        )
        if plan.selection.examples:
            self._record(plan, agreement)

    def replayed(self, id: int, answer: str, quality: float) -> None:
        """The best of an example's fresh answers."""
        example = self.examples.get(id)
        if example is not None:
            self.examples.replayed(id, answer, quality, prompt.example_tokens(example.question, answer))
            self._unsaved.add(id)

    def sample(self, now: float) -> None:
        """Take in the large models' load; about once a second."""
        for pair in self.pairs.values():
            pair.observe(self._load(pair.terms.large), now)

    # ── examples ────────────────────────────────────────────────────────────────────────────────────────

    def remove(self, id: int) -> bool:
        """Forget an example, everywhere."""
        example = self.examples.remove(id)
        if example is not None:
            self._forget(example)
        return example is not None

    def matching(self, wanted: Callable[[Example], bool]) -> list[Example]:
        """The examples that a predicate picks."""
        return [example for example in self.examples if wanted(example)]

    def purge(self, wanted: Callable[[Example], bool]) -> int:
        """Forget what a predicate picks; those that a start has not loaded yet will not appear. Returns how many."""
        gone = self.matching(wanted)
        for example in gone:
            self.remove(example.id)
        if not self.ready:
            self._unwelcome.append(wanted)
        return len(gone)

    def made_of(self, request_id: str) -> set[int]:
        """The examples made of the answers to requests of this id."""
        plans = [plan for (_, name), (plan, _) in self._plans.items() if name == request_id]
        return {plan.example for plan in plans if plan.example is not None}

    def _offer(self, x: Exchange, plan: Plan, text: str, keep: bool, cost: float) -> None:
        vector, found = x.seen
        assert x.request is not None
        assert x.ruling is not None
        tenant, question = self._tenant(x.tenant), x.request.question or ""
        tokens = prompt.example_tokens(question, text)
        if tokens > plan.pair.terms.context // 2:
            self.examples.refused["too-long"] = self.examples.refused.get("too-long", 0) + 1
            return
        example = Example(
            id=random.SystemRandom().getrandbits(63),
            tenant=x.tenant,
            model=x.request.model,
            category=plan.category,
            question=question,
            answer=text,
            tokens=tokens,
            cost=cost,
            created=self._clock(),
            share=tenant.share and x.ruling.share,
        )
        offer = self.examples.offer(
            example, complete=True, allowed=keep, personal=tenant.personal, neighbours=found
        )
        if offer.reason is None:
            plan.example = example.id
            self._vectors[example.id] = vector
            self._place(example, vector)
            self._unsaved.add(example.id)
        for gone in offer.gone:
            self._forget(gone)

    def _place(self, example: Example, vector: Vector) -> None:
        self._index.add(example.id, _partition(example.tenant, example.model), vector)
        if example.share:
            self._index.add(example.id, _partition(None, example.model), vector)

    def _forget(self, example: Example) -> None:
        self._index.remove(example.id, _partition(example.tenant, example.model))
        if example.share:
            self._index.remove(example.id, _partition(None, example.model))
        self._unsaved.discard(example.id)
        self._vectors.pop(example.id, None)
        self._saved.discard(example.id)
        self._gone.add(example.id)

    def _visible(
        self, tenant: str, model: str, found: Sequence[tuple[int, float]], share: bool
    ) -> list[tuple[Example, float]]:
        """Both sides are asked again, as they stand now: what was shared once may not be any more."""
        share = share and self._tenant(tenant).share
        seen = ((self.examples.visible(id, tenant, share), similarity) for id, similarity in found)
        return [
            (example, similarity)
            for example, similarity in seen
            if example is not None
            and example.model == model
            and (example.tenant == tenant or self._tenant(example.tenant).share)
        ]

    def _record(self, plan: Plan, outcome: float) -> None:
        self._unsaved.update(e.id for e in self.examples.record(plan.selection.ids, outcome))

    def _rate(self, plan: Plan, outcome: float) -> None:
        """What is said of a large model's answer is said of the example made of it."""
        example = None if plan.example is None else self.examples.get(plan.example)
        if example is None:
            return
        if outcome < 0.5:
            self.remove(example.id)
        else:
            example.quality = outcome
            self._unsaved.add(example.id)

    def _remember(self, x: Exchange, plan: Plan) -> None:
        now = self._clock()
        _keep(self._plans, (x.tenant, x.request_id), (plan, now))
        if x.exact:
            _keep(self._asked, x.exact, (plan, now))

    def _tenant(self, tenant: str) -> Tenant:
        return self._tenants.get(tenant, _ANYBODY)

    def pair_of(self, model: str) -> Pair | None:
        """The pair whose large model this is."""
        entry = self._entry(model)
        return None if entry is None else self.pairs.get(entry)

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────

    async def save(self) -> None:
        """Put on the shelf what has changed since; what the store does not take stays due."""
        async with self._saving:
            await self._save()

    async def _save(self) -> None:
        gone, due = list(self._gone), sorted(self._unsaved)[:_BATCH]
        states = {_key(pair): pair for pair in self.pairs.values() if pair.changed and self.ready}
        try:
            if due:
                await self._shelve(due)
            if gone:
                keys = [_hex(id) for id in gone]
                await self._shelf.unshelve("example", keys)
                await self._shelf.unshelve("example-vector", keys)
                self._gone.difference_update(gone)
            if states:
                name = self._embedder()
                packed = {key: pair.dump(name) for key, pair in states.items()}
                for pair in states.values():
                    pair.changed = False
                await self._shelf.shelve("pair", packed)
        except BaseException as error:  # cancelled at shutdown, too: what was begun is due again
            self._unsaved.update(id for id in due if self.examples.get(id) is not None)
            for pair in states.values():
                pair.changed = True
            if not isinstance(error, StoreError):
                raise
            self.failures["store"] += 1
            log.warning("examples are not saved yet: %s", error)

    async def _shelve(self, due: list[int]) -> None:
        examples = [e for id in due if (e := self.examples.get(id)) is not None]
        name = self._embedder().encode()
        vectors = {
            _hex(e.id): name + b"\0" + self._vectors[e.id].astype(np.float32, copy=False).tobytes()
            for e in examples
            if e.id in self._vectors
        }
        self._unsaved.difference_update(due)
        if vectors:  # first: an example without a vector is embedded anew, a vector alone is nothing
            await self._shelf.shelve("example-vector", vectors)
        await self._shelf.shelve("example", {_hex(e.id): e.pack() for e in examples})
        for example in examples:
            self._vectors.pop(example.id, None)
        self._saved.update(e.id for e in examples if self.examples.get(e.id) is not None)

    async def save_all(self) -> None:
        """At shutdown: as long as the store takes it."""
        before = -1
        await self.save()  # waits for one that was cancelled and has not noticed yet
        while (due := len(self._unsaved) + len(self._gone)) and due != before:
            before = due
            await self.save()

    async def restore(self) -> None:
        """Read examples and what pairs have learned; once the embedder has started.

        Raises:
            StoreError: the store cannot be read; what was loaded stays.
        """
        await self._load_examples()
        async for batch in self._shelf.shelf("pair"):
            self._states.update(batch)
        for pair in self.pairs.values():
            self._recall(pair)
        self.ready = True
        self._unwelcome.clear()

    async def refresh(self) -> None:
        """What other replicas have added and removed since. Raises as `restore` does."""
        before = set(self._saved)  # what is saved while the shelf is read may not be in what was read
        found = await self._load_examples()
        for id in before - found:
            example = self.examples.remove(id)
            if example is not None:
                self._forget(example)

    async def _load_examples(self) -> set[int]:
        """Take in what the shelf has and we have not; gives all ids that it has."""
        found: set[int] = set()
        fresh: list[Example] = []
        async for batch in self._shelf.shelf("example"):
            for key, value in batch:
                found.add(int(key, 16))
                example = None if self._known(int(key, 16)) else self._unpacked(value)
                if example is not None:
                    fresh.append(example)
        if not fresh:
            return found
        vectors = await self._stored_vectors({example.id for example in fresh})
        bare = []
        for example in fresh:
            if self._known(example.id) or not self._take(example):
                continue
            if example.id in vectors:
                self._place(example, vectors[example.id])
            else:
                bare.append(example)
        await self._embed(bare)
        return found

    def _known(self, id: int) -> bool:
        return id in self._gone or self.examples.get(id) is not None

    def _unpacked(self, value: bytes) -> Example | None:
        try:
            return Example.unpack(value)
        except ValueError as error:
            self.failures["restore"] += 1
            log.warning("an example cannot be read: %s", error)
            return None

    def _take(self, example: Example) -> bool:
        """Whether it stays: wanted still, and within the budget."""
        self._saved.add(example.id)
        if any(unwelcome(example) for unwelcome in self._unwelcome):
            self._forget(example)
            return False
        for gone in self.examples.add(example):
            self._forget(gone)
        return self.examples.get(example.id) is not None

    async def _stored_vectors(self, wanted: set[int]) -> dict[int, Vector]:
        """Of the embedder in use; those of another are not comparable."""
        name, vectors = self._embedder(), {}
        async for batch in self._shelf.shelf("example-vector"):
            for key, value in batch:
                made_by, _, raw = value.partition(b"\0")
                if (
                    int(key, 16) in wanted
                    and made_by.decode("utf-8", "replace") == name
                    and len(raw) % 4 == 0
                ):
                    vectors[int(key, 16)] = np.frombuffer(raw, dtype=np.float32)
        return vectors

    async def _embed(self, examples: Sequence[Example]) -> None:
        """Examples whose vector is missing, or another embedder's."""
        if not examples:
            return
        try:
            vectors = await self._index.encode([e.question for e in examples])
        except (EmbedderBusy, EmbedderFailed) as error:
            self.failures["restore"] += 1
            log.warning("%d examples cannot be found: %s", len(examples), error)
            return
        for example, vector in zip(examples, vectors, strict=True):
            self._vectors[example.id] = vector
            self._place(example, vector)
            self._unsaved.add(example.id)

    def _recall(self, pair: Pair) -> None:
        state = self._states.get(_key(pair))
        if state is None:
            return
        try:
            pair.load_state(state, self._embedder())
        except ValueError as error:
            self.failures["restore"] += 1
            log.warning("%r begins anew: %s", pair, error)

    def _embedder(self) -> str:
        embedder = self._index.embedder
        return "" if embedder is None else str(embedder.name)

    # ── what it tells ───────────────────────────────────────────────────────────────────────────────────

    def explain(self, x: Exchange) -> dict[str, Any] | None:
        """Why a request would be offloaded, or not; None where that was no question."""
        if x.plan is None or x.ruling is None:
            return None
        return explanation(x.plan, x.ruling.max_quality_loss)

    def state(self) -> dict[str, Any]:
        """The figures of the admin API."""
        return {
            "pairs": [pair.state() for pair in self.pairs.values()],
            "examples": {
                "count": len(self.examples),
                "bytes": self.examples.bytes,
                "budget": self.examples.budget,
                "evicted": self.examples.evicted,
                "refused": self.examples.refused,
            },
            "failures": dict(self.failures),
        }

    def readings(self) -> Iterator[Reading]:
        """Metrics, read when somebody scrapes."""
        pairs = list(self.pairs.values())
        yield (
            "gateway_offload_decisions",
            "Requests that a small model might have answered, by what was decided.",
            "counter",
            ("small", "category", "reason"),
            [((p.terms.small, *key), n) for p in pairs for key, n in p.decisions.items()],
        )
        yield (
            "gateway_offload_quality",
            "Quality of offloaded answers, where judged.",
            "gauge",
            ("small", "bound"),
            [
                ((p.terms.small, bound), p.total().quality()[bound])
                for p in pairs
                for bound in ("low", "mean", "high")
            ],
        )
        saved = [((p.terms.small,), max(0.0, p.total().dollars)) for p in pairs]
        yield "gateway_offload_saved_dollars", "Dollars saved by offloading.", "counter", ("small",), saved
        engines = [((p.terms.small,), p.total().seconds) for p in pairs]
        yield (
            "gateway_offload_saved_seconds",
            "Seconds of the large model saved.",
            "counter",
            ("small",),
            engines,
        )
        loss = [((p.terms.small,), p.router.ledger.rate) for p in pairs]
        yield "gateway_offload_loss", "Quality lost by offloading, per request.", "gauge", ("small",), loss
        yield "gateway_examples", "Examples kept.", "gauge", (), [((), len(self.examples))]
        yield (
            "gateway_examples_bytes",
            "Bytes charged for examples.",
            "gauge",
            (),
            [((), self.examples.bytes)],
        )
        failures = [((step,), n) for step, n in self.failures.items()]
        yield "gateway_offload_failures", "Offloading that failed.", "counter", ("step",), failures


def said(endpoint: Endpoint, body: bytes) -> str | None:
    """The text of a whole answer's first choice."""
    try:
        choice = orjson.loads(body)["choices"][0]
        text = choice["message"]["content"] if endpoint == "chat" else choice["text"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        return None
    return text if isinstance(text, str) else None


def remade(request: Request, fields: dict[str, Any], *, stream: bool) -> Request:
    """A request of the gateway's own making, like the caller's in all that `fields` does not say."""
    fields = {key: value for key, value in fields.items() if key not in ("stream", "stream_options")}
    if stream:
        fields["stream"] = True
        if "stream_options" in request.fields:
            fields["stream_options"] = request.fields["stream_options"]
    return Request(
        endpoint=request.endpoint,
        raw=orjson.dumps(fields),
        fields=fields,
        model=fields["model"],
        stream=stream,
        wants_usage=stream and request.wants_usage,
        question=request.question,
        barred=request.barred,
        uncacheable=request.uncacheable,
        controls=request.controls,
    )


def _fit(request: Request) -> bool:
    """Whether a small model may be asked at all: one plain text wanted for a plain text."""
    if request.endpoint not in ("chat", "completions") or request.barred or request.uncacheable:
        return False
    if not request.controls.offload or request.controls.only or request.question is None:
        return False
    one = request.fields.get("n") in (None, 1) and request.fields.get("best_of") in (None, 1)
    return one and (request.endpoint == "chat" or isinstance(request.fields.get("prompt"), str))


def _alone(request: Request) -> bool:
    """Whether the question stands by itself: one that leans on earlier turns teaches nothing.

    What is asked in a namespace stays there: it may be one of many users behind one key.
    """
    if request.controls.namespace:
        return False
    if request.endpoint != "chat":
        return True
    return all(m.get("role") in ("system", "developer") for m in request.fields["messages"][:-1])


def _bound(request: Request) -> int:
    """Tokens the answer may have."""
    given = (request.fields.get(name) for name in _BOUNDS)
    return next((n for n in given if type(n) is int and n > 0), _OUTPUT)


def _partition(tenant: str | None, model: str) -> bytes:
    """Where a tenant's examples lie, or (None) those that all who share may see.

    The personalisation keeps it apart from every request's partition: a question never meets an example there.
    """
    whose = b"shared" if tenant is None else b"own\0" + tenant.encode("utf-8", "surrogateescape")
    name = model.encode("utf-8", "surrogateescape")
    return blake2b(b"%d\0%s%s" % (len(whose), whose, name), digest_size=32, person=b"gw examples").digest()


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def _key(pair: Pair) -> str:
    return orjson.dumps([pair.terms.large, pair.terms.small]).decode()


def _hex(id: int) -> str:
    return f"{id:016x}"
