"""In-context caching as one room: whether an example is looked for, who answers, what is learned of the outcome.

Everything here is synchronous and in memory, but for saving and restoring. It must never call a model, and
never make a request wait for the store. Where examples lie and who may see them: gateway.offload.library.
"""

import asyncio
import logging
import random
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from gateway.errors import StoreError
from gateway.exchange import Answer, Endpoint, Exchange, Request, user_digest
from gateway.offload import prompt
from gateway.offload.examples import Example, Examples, Pattern
from gateway.offload.library import Index, Library, Shelf
from gateway.offload.pair import Pair, Plan, Spared, Terms, explanation, settings
from gateway.offload.selector import Asked
from gateway.wire.answer import said
from gateway.wire.request import remade

log = logging.getLogger("gateway.offload")
_DAY = 86_400.0
_SAVE_SECONDS, _REFRESH_SECONDS = 1.0, 60.0
_AGAIN = 600.0  # seconds within which the same question asked anew speaks against the answer it got
_AGAIN_OUTCOME, _AGAIN_WEIGHT = 0.3, 0.2
_REMEMBERED = 4000  # plans whose outcome may yet become known; about 8 kB each
_OUTPUT = 512  # tokens left for an answer whose length the caller did not bound
_TOKEN_BYTES = 3.5
_BOUNDS = ("max_completion_tokens", "max_tokens")
_PATIENCE, _SLOWER = (10.0, 60.0), 4.0  # seconds a small model is waited for: times what the large one takes


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
        self.failures: Counter[str] = Counter()  # by step
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
        self._states: dict[str, bytes] = {}  # of pairs, as they were stored
        self._saving = asyncio.Lock()
        self.library = Library(
            examples, index, shelf, shares=lambda tenant: self._tenant(tenant).share, failures=self.failures
        )

    @property
    def ready(self) -> bool:
        """What was stored is loaded; before that no request is for a small model."""
        return self.library.ready

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
        pair = self.pair_of(request.model)
        if x.apart:  # one user's answers are no examples for another
            return ()
        if not self.ready or not tenant.offload or not _fit(request) or pair is None:
            return ()
        if x.models is not None and pair.terms.small not in x.models:
            return ()
        return self.library.partitions(x.tenant, request.model)

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
        candidates = self.library.visible(x.tenant, request.model, found, ruling.share)
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
        self.library.record(plan.selection.ids, 0.0)

    def failed(self, plan: Plan) -> None:
        """The small model did not answer."""
        self.failures["small"] += 1
        plan.pair.withdraw(plan)

    def served(self, plan: Plan, endpoint: Endpoint, answer: Answer) -> Spared:
        """The small model's answer went out to the caller; what that spared the large one."""
        plan.small = said(endpoint, answer.body)
        return plan.pair.served(plan, answer.usage, self._seconds(plan.pair.terms.large))

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
                self.library.record(plan.selection.ids, outcome)
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
            self.library.record(plan.selection.ids, agreement)

    def replayed(self, id: int, answer: str, quality: float) -> None:
        """The best of an example's fresh answers."""
        example = self.examples.get(id)
        if example is not None:
            self.examples.replayed(id, answer, quality, prompt.example_tokens(example.question, answer))
            self.library.changed([id])

    def sample(self, now: float) -> None:
        """Take in the large models' load; about once a second."""
        for pair in self.pairs.values():
            pair.observe(self._load(pair.terms.large), now)

    def wrong(self) -> dict[str, float]:
        """The share of small models' answers that were not good enough, by category, where any were judged."""
        judged: defaultdict[str, float] = defaultdict(float)
        good: defaultdict[str, float] = defaultdict(float)
        for pair in self.pairs.values():
            for category, tally in pair.tallies.items():
                judged[category] += tally.judged
                good[category] += tally.good
        return {name: 1 - good[name] / count for name, count in judged.items() if count}

    # ── examples ────────────────────────────────────────────────────────────────────────────────────────

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
            user=user_digest(x.user),
            share=tenant.share and x.ruling.share,
        )
        if self.library.offer(example, vector, allowed=keep, personal=tenant.personal, neighbours=found):
            plan.example = example.id

    def _rate(self, plan: Plan, outcome: float) -> None:
        """What is said of a large model's answer is said of the example made of it."""
        example = None if plan.example is None else self.examples.get(plan.example)
        if example is None:
            return
        if outcome < 0.5:
            self.library.remove(example.id)
        else:
            example.quality = outcome
            self.library.changed([example.id])

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

    async def run(self) -> None:
        """Save once a second, for ever."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            if self.ready:
                await self.save()

    async def follow(self) -> None:
        """Replicas with one store see each other's examples: read once a minute, for ever."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            try:
                if self.ready and self.pairs:
                    await self.library.refresh()
            except StoreError as error:
                log.warning("other replicas' examples are not read: %s", error)

    async def save(self) -> None:
        """Put into the store what has changed since; what it does not take stays due."""
        async with self._saving:
            if await self.library.save():
                await self._save_pairs()

    async def _save_pairs(self) -> None:
        changed = {_key(pair): pair for pair in self.pairs.values() if pair.changed and self.ready}
        if not changed:
            return
        packed = {key: pair.dump(self.library.embedder) for key, pair in changed.items()}
        for pair in changed.values():
            pair.changed = False
        try:
            await self._shelf.shelve("pair", packed)
        except BaseException as error:  # cancelled at shutdown, too
            for pair in changed.values():
                pair.changed = True
            if not isinstance(error, StoreError):
                raise
            self.failures["store"] += 1
            log.warning("what was learned is not saved yet: %s", error)

    async def save_all(self) -> None:
        """At shutdown: as long as the store takes it."""
        before = -1
        await self.save()  # waits for one that was cancelled and has not noticed yet
        while (due := self.library.due) and due != before:
            before = due
            await self.save()

    async def restore(self) -> None:
        """Read what pairs have learned and the examples; once the embedder has started.

        Raises:
            StoreError: the store cannot be read; what was loaded stays.
        """
        async for batch in self._shelf.shelf("pair"):
            self._states.update(batch)
        for pair in self.pairs.values():
            self._recall(pair)
        await self.library.restore()

    def _recall(self, pair: Pair) -> None:
        state = self._states.get(_key(pair))
        if state is None:
            return
        try:
            pair.load_state(state, self.library.embedder)
        except ValueError as error:
            self.failures["restore"] += 1
            log.warning("%r begins anew: %s", pair, error)

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


def _fit(request: Request) -> bool:
    """Whether a small model may be asked at all: one plain text wanted for a plain text."""
    if request.endpoint not in ("chat", "completions", "messages") or request.barred or request.uncacheable:
        return False
    if not request.controls.offload or request.controls.only or request.question is None:
        return False
    one = request.fields.get("n") in (None, 1) and request.fields.get("best_of") in (None, 1)
    return one and (request.endpoint != "completions" or isinstance(request.fields.get("prompt"), str))


def _alone(request: Request) -> bool:
    """Whether the question stands by itself: one that leans on earlier turns teaches nothing.

    What is asked in a namespace stays there: it may be one of many users behind one key.
    """
    if request.controls.namespace:
        return False
    if request.endpoint == "completions":
        return True
    return all(m.get("role") in ("system", "developer") for m in request.fields["messages"][:-1])


def _bound(request: Request) -> int:
    """Tokens the answer may have."""
    given = (request.fields.get(name) for name in _BOUNDS)
    return next((n for n in given if type(n) is int and n > 0), _OUTPUT)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)


def _key(pair: Pair) -> str:
    return orjson.dumps([pair.terms.large, pair.terms.small]).decode()
