"""The walk of one request: decide, perform, and what follows the last byte.

    exact ─► join ─► embed + classify + search ─► ruling ─► semantic ─► guard ─► verifier ─► offload ─► forward

`decide` sends nothing to a model and nothing to the client, which is why explaining costs nothing. `perform`
is the only place where a Decision is matched. Whatever fails in memory, store or embedder, the request goes
on to the engine.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import orjson
from multidict import CIMultiDict

from gateway.asking import OFF_LOOP, Asked, Asker, aside, path, prepared, taken_apart
from gateway.cache.cache import Cache
from gateway.cache.catalog import random_id
from gateway.cache.flight import Call, Flight, Flights, Reader
from gateway.cache.semantic import Choice, choose
from gateway.errors import EmbedderBusy, EmbedderFailed, GatewayError, NotCached
from gateway.exchange import (
    UNLOADED,
    Answer,
    Decision,
    Entry,
    Exchange,
    Forward,
    How,
    Join,
    Load,
    Offload,
    Refuse,
    Reply,
    Request,
    Reuse,
    Usage,
    request_digest,
    user_digest,
)
from gateway.interfaces import Vector
from gateway.metrics import Metrics
from gateway.offload import gate
from gateway.offload.room import Offloading
from gateway.policy.policy import too_hot
from gateway.routing.dispatch import Dispatch
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.headers import accept_readable, is_plain_sse, to_client
from gateway.routing.upstream import Sent
from gateway.tenant import Privacy
from gateway.wire import replay
from gateway.wire.request import choices, exact_fingerprint, partition_fingerprint
from gateway.wire.user import end_user

log = logging.getLogger("gateway.pipeline")
_NEIGHBOURS = 5  # compared per look-up: the first above the threshold need not be the best allowed
_OVERHEAD = 900  # bytes of metadata and index links an entry costs beside its vector and document
_UNABLE = frozenset(
    (429, 500, 502, 503, 504, 529)
)  # statuses of an engine, or a gateway, that cannot answer now
_EXAMPLES = 24  # compared, where a small model may be asked
_REJOINS = 3  # leaders may leave before they land; after that a follower goes alone


class Looker(Protocol):
    """The part of the worker that answers requests."""

    async def look(
        self, text: str, partition: bytes | None, k: int, also: tuple[bytes, ...], also_k: int
    ) -> Any: ...

    async def verify(
        self, asked: str, vector: Vector, partition: bytes, stored: Mapping[int, str]
    ) -> dict[int, float]: ...


class Trusting(Protocol):
    """What was learned of semantic hits, and who learns from them."""

    def refused(self, x: Exchange) -> tuple[Callable[[Entry], bool], float]: ...

    def looked(self, x: Exchange) -> bool: ...

    def served(self, x: Exchange, hit: Reuse) -> None: ...

    def answered(self, x: Exchange, fresh: Answer, keep: Callable[[], None] | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the walk takes from the configuration."""

    max_entry_bytes: int
    shared_stream_bytes: int
    zero_usage: bool
    hit_seconds: float  # a hit is answered no sooner
    gate: bool  # small models' answers are looked at before they go out
    privacy: Callable[[str], Privacy]  # of a tenant
    trust_client_key: Callable[[], bool]  # open mode: the client's key goes on to backends that have none


class Pipeline:
    """Decides and performs. Rooms are given; nothing here knows which adapters they use."""

    def __init__(
        self,
        cache: Cache,
        flights: Flights,
        worker: Looker,
        policy: Callable[[], Any],
        load: Callable[[str], Load],
        fleet: Fleet,
        dispatch: Dispatch,
        metrics: Metrics,
        offloading: Offloading,
        asker: Asker,
        trusting: Trusting,
        settings: Settings,
        *,
        compare: Callable[[Exchange], None],
        spared: Callable[[Exchange, str, Usage, float, float | None], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._flights = flights
        self._worker = worker
        self._policy = policy
        self._load = load
        self._fleet = fleet
        self._dispatch = dispatch
        self._metrics = metrics
        self._offloading = offloading
        self._asker = asker
        self._trusting = trusting
        self._compare = compare
        self._spared = spared
        self._settings = settings
        self._clock = clock
        self.skipped: dict[str, int] = {}  # semantic steps skipped, by reason
        self.vetoes: dict[str, int] = {}  # neighbours the guard refused, by check
        self._calls: set[asyncio.Task[None]] = set()

    # ── decide ──────────────────────────────────────────────────────────────────────────────────────────

    async def decide(self, x: Exchange) -> Decision:
        """The decision for a request on its own, without joining others; used as it is by `explain`."""
        self.open(x)
        x.explained = True
        return await self._exact(x) or await self._weigh(x)

    def open(self, x: Exchange) -> None:
        """Name the request in the book now in force. Long bodies: on another thread, before `answer`."""
        x.policy = x.policy or self._policy()
        request = _request(x)
        if x.load is UNLOADED:
            x.load = self._load(request.model)
        x.user = end_user(request, x.headers)
        x.apart = self._settings.privacy(x.tenant).apart
        if _remembers(request) and not x.exact and (x.user or not x.apart):
            x.exact = exact_fingerprint(request, _owner(x), x.policy.ignore)

    async def _exact(self, x: Exchange) -> Reuse | None:
        """The stored answer to this very request, under its entry's category as the policy stands now."""
        request = _request(x)
        if not x.exact or not request.controls.read:
            return None
        stored = [e for e in self._cache.catalog.exact(x.exact) if self._servable(x, e)]
        if not stored or len(stored) < request.controls.variants:
            return None
        entry = max(stored, key=_age) if request.controls.variants == 1 else random.choice(stored)
        document = await self._cache.document(entry)
        return None if document is None else self._hit(x, entry, "exact", document)

    def _hit(self, x: Exchange, entry: Entry, how: How, document: bytes, reason: str = "hit") -> Reuse:
        left = x.policy.fresh_until(entry, x.load) - self._clock()
        return Reuse(entry, how, document, left, reason)

    def _servable(self, x: Exchange, entry: Entry, *, stale: bool = False) -> bool:
        """Lifetime, caller's max-age and the entry's policy as it stands now, all from memory."""
        request, now = _request(x), self._clock()
        limit = request.controls.max_age
        if limit is not None and now - entry.created > limit:
            return False
        return x.policy.exact_bar(entry, _temperature(request), now, x.load, stale=stale) is None

    async def _weigh(self, x: Exchange) -> Decision:
        """Everything after the exact step: one embedding at most, one ruling, one choice."""
        examples = self._offloading.searches(x) if self._offloading.pairs else ()
        decision = await self._reusable(x, examples)
        return self._offload(x, decision) if examples and isinstance(decision, Forward) else decision

    async def _reusable(self, x: Exchange, examples: tuple[bytes, ...]) -> Decision:
        """Whether a stored answer will do. `examples`: partitions to be searched as well, for a small model."""
        request = _request(x)
        if not x.exact and not examples:
            return self._forward(x, _not_remembered(x))
        skipped = await self._look(x, examples)
        ruling = x.ruling
        assert ruling is not None
        if not x.exact:
            return self._forward(x, _not_remembered(x))
        if ruling.mode == "none":
            return self._forward(x, "mode-none")
        if too_hot(ruling.max_temperature, _temperature(request)):
            return self._forward(x, "temperature")
        if not request.controls.read:
            return self._forward(x, "refresh")
        if request.barred or not request.controls.semantic or ruling.mode == "exact":
            return self._forward(
                x, request.barred or ("exact-only" if not request.controls.semantic else "mode-exact")
            )
        if skipped:
            return self._forward(x, skipped)
        return await self._semantic(x)

    async def _look(self, x: Exchange, examples: tuple[bytes, ...]) -> str | None:
        """Embed, classify and search in one hop, as far as this request needs; sets the ruling.

        Returns why the semantic step was skipped, or None.
        """
        request, policy = _request(x), x.policy
        text = request.question or ""
        tenant = x.tenant.removeprefix("t:")
        ruled = policy.rule(tenant, request.model, request.endpoint, x.headers, text)
        semantic = bool(x.exact) and request.barred is None and request.controls.semantic
        if ruled is not None:  # the category is known: embed only where a semantic step can follow
            x.ruling = policy.ruling(request.controls, ruled, None, x.load)
            semantic = semantic and x.ruling.mode not in ("exact", "none")
            if not semantic and not (examples and x.ruling.offload):
                return None
        skipped: str | None = "no-question"
        label = None
        if semantic:
            x.partition = partition_fingerprint(request, _owner(x), policy.ignore)
        if text.strip():
            look, skipped = await self._embed(x, text, semantic and request.controls.read, examples)
            if look is not None:
                x.marks["embed"], x.marks["search"] = look.embed_s, look.search_s
                if x.trace is not None:
                    now = (
                        time.perf_counter()
                    )  # the worker's two steps end about here; what was before is waiting
                    x.trace.step("embed", now - look.search_s - look.embed_s, now - look.search_s)
                    x.trace.step("search", now - look.search_s, now, candidates=len(look.candidates))
                label = None if look.label is None else (look.label, look.confidence)
                x.vector = look.vector if semantic else None
                if examples and look.vector is not None:
                    x.seen = look.vector, look.also
                x.neighbours = look.candidates
        x.ruling = policy.ruling(request.controls, ruled, label, x.load)
        return skipped

    async def _embed(
        self, x: Exchange, text: str, search: bool, examples: tuple[bytes, ...]
    ) -> tuple[Any, str | None]:
        partition = x.partition if search else None
        try:
            look = await self._worker.look(text, partition, _NEIGHBOURS, examples, _EXAMPLES)
        except EmbedderBusy:
            return None, self._skip("embedder-busy")
        except EmbedderFailed:
            return None, self._skip("embedder-failed")
        return look, (self._skip("beyond-window") if look.beyond_window else None)

    def _skip(self, reason: str) -> str:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        return reason

    async def _chosen(self, x: Exchange, *, stale: bool = False) -> Choice:
        """What the neighbours found are worth to this request, the verifier's word included where it counts."""
        choice = self._choice(x, None, stale)
        if not choice.unscored:
            return choice
        scores: dict[int, float] = {}
        stored = {entry.id: entry.question for entry in choice.unscored}
        started = time.perf_counter()
        try:
            scores = await self._worker.verify(_request(x).question or "", x.vector, x.partition, stored)
        except (EmbedderBusy, EmbedderFailed):
            self._skip("verifier")
        x.marks["verify"] = time.perf_counter() - started
        if x.trace is not None:
            x.trace.step("verify", started, candidates=len(stored))
        return self._choice(x, scores, stale)

    def _choice(self, x: Exchange, scores: dict[int, float] | None, stale: bool) -> Choice:
        ruling, started = x.ruling, time.perf_counter()
        assert ruling is not None
        refused, margin = self._trusting.refused(x)
        known = ((self._cache.catalog.get(id), similarity) for id, similarity in x.neighbours)
        choice = choose(
            _request(x).question or "",
            [(entry, similarity) for entry, similarity in known if entry is not None],
            threshold=ruling.threshold,
            demands=lambda entry: x.policy.against(ruling, entry),
            servable=lambda entry: self._servable(x, entry, stale=stale),
            guard=x.policy.guard,
            refused=refused,
            margin=margin,
            scores=scores,
        )
        if x.trace is not None:
            x.trace.step("guard", started, candidates=len(choice.candidates), verdict=choice.reason)
        return choice

    async def _semantic(self, x: Exchange) -> Decision:
        choice, ruling = await self._chosen(x), x.ruling
        assert ruling is not None
        x.candidates, x.threshold, x.similarity = choice.candidates, choice.threshold, choice.similarity
        x.agreed = choice.agreed
        if not x.explained:
            x.explored = self._trusting.looked(x) and x.withheld is None
        if x.explored:
            return self._forward(x, "explore")
        if choice.entry is not None:
            document = await self._cache.document(choice.entry)
            if document is not None:
                return self._hit(x, choice.entry, "semantic", document)
            return self._forward(x, "document-gone")
        return self._forward(
            x, x.policy.withheld(ruling, choice.agreed.entry) if choice.agreed else choice.reason
        )

    def _forward(self, x: Exchange, reason: str) -> Decision:
        if _request(x).controls.only:
            return Refuse(
                NotCached("The answer is not in the cache, and the request allows nothing else."),
                "not-cached",
            )
        if x.withheld is not None and not x.explained:
            return Refuse(x.withheld, x.withheld.code or "limit")
        return Forward(reason)

    def _offload(self, x: Exchange, forward: Forward) -> Decision:
        """A small model in the large one's place, where it will do as well; whatever fails, the large one."""
        room = self._offloading
        try:
            if not _request(x).controls.read and not x.explained:
                room.again(x)
            plan = x.plan = room.plan(x)
        except Exception:
            room.failures["plan"] += 1
            log.exception("offloading failed, the large model answers")
            return forward
        if plan is None or not plan.choice.offload:
            return forward
        examples = len(plan.selection.examples)
        return Offload(plan.choice.reason, plan.pair.terms.small, examples, forward.reason)

    # ── perform ─────────────────────────────────────────────────────────────────────────────────────────

    async def answer(self, x: Exchange) -> Reply:
        """Decide and perform, sharing the work of identical requests in progress.

        Raises:
            GatewayError: refused, or no backend could be reached.
        """
        request = _request(x)
        model = self._fleet.model(request.model)
        self.open(x)
        started = time.perf_counter()
        known = await self._exact(x)
        self._decided(x, "exact", started)
        if known is not None:
            return await self._reuse(x, known)
        key = _flight_key(x)
        for _ in range(_REJOINS if key else 0):
            flight = self._flights.find(key)
            if flight is None or self._spoiled(flight):
                return await self._lead(x, model, self._flights.open(key))
            joined = await self._join(x, flight)
            if joined is not None:
                return joined
            x.decision, x.entry = None, None
            if flight.landed.result() is not None:
                break  # the leader's call failed: followers call for themselves
        return await self._lead(x, model, None)

    def _decided(self, x: Exchange, step: str, started: float, link: Any = None) -> None:
        """One of the three steps that end in a decision is over; what they take together is told as `decide`."""
        now = time.perf_counter()
        x.marks["decide"] = x.marks.get("decide", 0.0) + now - started
        if x.trace is not None:
            x.trace.step(step, started, now, link=link)

    def _spoiled(self, flight: Flight) -> bool:
        """Whether the answer on its way was purged, by an operator, a verdict or a change of policy."""
        call = flight.landed.result() if flight.landed.done() else None
        return isinstance(call, Call) and call.entry is not None and self._cache.doomed(call.entry)

    async def _lead(self, x: Exchange, model: Model, flight: Flight | None) -> Reply:
        """Decide alone, and perform; the flight, if any, gets whatever may be shared of it."""
        call: Call | None = None
        started = time.perf_counter()
        try:
            x.decision = decision = await self._weigh(x)
            self._decided(x, "decide", started)
            self._count_vetoes(x)
            match decision:
                case Reuse():
                    if flight:
                        flight.land(decision)
                    return await self._reuse(x, decision)
                case Refuse(error):
                    raise error
                case Offload():
                    if flight:  # nobody waits for what may yet be refused
                        self._flights.close(flight)
                        flight = None
                    reply = await self._small(x, decision)
                    if reply is not None:
                        return reply
                    call = self._call(x, model, None)
                    return await self._answered(x, call)
                case Forward():
                    call = self._call(x, model, flight)
                    return await self._answered(x, call)
                case Join():
                    raise AssertionError("a leader joins nobody")
        finally:
            if flight and call is None:
                self._flights.close(flight)

    # ── the small model ─────────────────────────────────────────────────────────────────────────────────

    async def _small(self, x: Exchange, decision: Offload) -> Reply | None:
        """The small model's answer; None, and another decision, where the large one must be asked after all."""
        request, gated = _request(x), self._settings.gate
        x.decision = Forward(decision.instead)  # until there is an answer
        try:
            asked = self._offloading.compose(x.plan, request, stream=request.stream and not gated)
            if asked is None:
                raise GatewayError("The request has no place for examples.")
            async with asyncio.timeout(self._offloading.patience(x.plan)):
                if asked.stream:
                    return await self._live(x, aside(x, asked), decision)
                found = await self._asker.ask(aside(x, asked), decision.model)
            return await self._whole(x, found, decision)
        except Exception as error:
            if not isinstance(error, GatewayError | TimeoutError):
                log.exception("offloading failed, the large model answers")
            self._offloading.failed(x.plan)
            x.decision = Forward(decision.instead)
            return None

    async def _whole(self, x: Exchange, asked: Asked, decision: Offload) -> Reply | None:
        """An answer that is all there: past the gate, and in the form the caller wants."""
        request, found = _request(x), asked.answer
        whole = orjson.loads(found.body) if found.body else {}
        reason = gate.check(request.endpoint, request.fields, whole) if self._settings.gate else None
        if reason is not None:
            self._offloading.refused(x.plan)
            x.decision = Forward(f"gate:{reason}")
            return None
        headers = to_client(asked.headers)
        headers.popall("Content-Encoding", None)
        body = found.body
        if request.stream:
            if len(body) <= OFF_LOOP:
                body = replay.stream(request.endpoint, body, request.wants_usage)
            else:
                body = await asyncio.to_thread(replay.stream, request.endpoint, body, request.wants_usage)
        headers["Content-Type"] = "text/event-stream; charset=utf-8" if request.stream else "application/json"
        x.decision, x.backend, x.attempts = decision, asked.backend, asked.attempts
        x.marks["upstream"] = time.perf_counter() - x.started
        self._served(x, decision.model, found)
        return Reply(200, headers, body, request.stream)

    async def _live(self, x: Exchange, small: Exchange, decision: Offload) -> Reply:
        """A stream as it comes, where no gate is wanted.

        Raises:
            GatewayError: the small model did not begin to answer.
        """
        request, model = _request(small), self._asker.alone(decision.model)

        async def run(call: Call) -> None:
            await self._forward_to_engine(small, model, call, asks_usage=True)

        async def after(call: Call) -> None:
            if call.whole is not None:
                found = await taken_apart(request.endpoint, call.headers, call.whole)
                self._metrics.used(model.name, found.usage.prompt, found.usage.completion)
                self._served(x, model.name, found)

        call = Call(run, self._settings.shared_stream_bytes, after)
        self._track(call.task)
        reply = await self._read(x, call)
        assert reply is not None
        if not 200 <= reply.status < 300:
            reply.leave()
            raise GatewayError(f"The model '{model.name}' answered {reply.status}.")
        x.decision = decision
        return reply

    def _served(self, x: Exchange, model: str, found: Answer) -> None:
        """The small model's answer goes out: learned from, and kept only where the policy says so."""
        self._spared(x, *self._offloading.served(x.plan, _request(x).endpoint, found))
        self._compare(x)
        if x.ruling is None or not x.ruling.keep:
            return
        self._plan_entry(x)
        self._keep_aside(x, self._asker.alone(model), found)

    # ── the engine ──────────────────────────────────────────────────────────────────────────────────────

    async def _answered(self, x: Exchange, call: Call) -> Reply:
        """The engine's answer; where no engine can give one, what expired lately, if the policy allows it."""
        try:
            reply = await self._read(x, call)
            assert reply is not None
        except GatewayError as error:
            stale = await self._stale(x) if error.status in _UNABLE else None
            if stale is None:
                raise
        else:
            stale = await self._stale(x) if reply.status in _UNABLE else None
            if stale is None:
                return reply
            reply.leave()
        x.decision, x.backend = stale, ""
        return await self._reuse(x, stale)

    async def _stale(self, x: Exchange) -> Reuse | None:
        """An answer past its time, for a caller who would otherwise get none and did not ask for a fresh one."""
        request, controls = _request(x), _request(x).controls
        if not x.exact or not controls.read or controls.max_age is not None:
            return None
        how: How = "exact"
        stored = [e for e in self._cache.catalog.exact(x.exact) if self._servable(x, e, stale=True)]
        entry = max(stored, key=_age, default=None)
        if entry is None and x.ruling is not None and x.ruling.mode == "semantic":
            how, entry = "semantic", (await self._chosen(x, stale=True)).entry if not request.barred else None
        document = None if entry is None else await self._cache.document(entry)
        if entry is None or document is None:
            return None
        return self._hit(x, entry, how, document, "stale-if-error")

    def _count_vetoes(self, x: Exchange) -> None:
        for candidate in x.candidates:
            kind, _, check = (candidate.verdict or "").partition(":")
            if kind == "guard":
                self.vetoes[check] = self.vetoes.get(check, 0) + 1

    async def _join(self, x: Exchange, flight: Flight) -> Reply | None:
        """Share what the leader gets; None where there is nothing to share."""
        started = time.perf_counter()
        outcome = await asyncio.shield(flight.landed)
        self._decided(x, "join", started, outcome.origin if isinstance(outcome, Call) else None)
        if isinstance(outcome, Reuse):
            x.decision = Join()
            return await self._reuse(x, outcome)
        if outcome is None or not outcome.joinable:
            return None
        x.decision, x.entry = Join(), outcome.entry
        if outcome.entry is not None and _request(x).controls.tags:
            outcome.entry.tags = tuple({*outcome.entry.tags, *_request(x).controls.tags})
        try:
            return await self._read(x, outcome, follower=True)
        except GatewayError:
            return None

    async def _reuse(self, x: Exchange, hit: Reuse) -> Reply:
        """Serve a stored answer in the form the caller asked for."""
        request = _request(x)
        x.decision = x.decision or hit
        x.entry = hit.entry
        if hit.how == "semantic" and x.decision is hit:
            self._trusting.served(x, hit)
        hit.entry.hits += 1
        if x.trace is not None:
            x.trace.describe(hit.document[:4096], hit.document[-4096:])
        if self._settings.hit_seconds:  # how soon it comes must not tell that somebody asked before
            await asyncio.sleep(self._settings.hit_seconds - (time.perf_counter() - x.started))
        if len(hit.document) <= OFF_LOOP:
            body = self._replayed(request, hit.document)
        else:
            body = await asyncio.to_thread(self._replayed, request, hit.document)
        headers: CIMultiDict[str] = CIMultiDict()
        if not request.stream or request.endpoint == "embeddings":
            headers["Content-Type"] = "application/json"
            return Reply(200, headers, body)
        headers["Content-Type"] = "text/event-stream; charset=utf-8"
        headers["Cache-Control"] = "no-cache"
        return Reply(200, headers, body, sse=True)

    def _replayed(self, request: Request, document: bytes) -> bytes:
        body = replay.zero_usage(document) if self._settings.zero_usage else document
        if not request.stream or request.endpoint == "embeddings":
            return body
        return replay.stream(request.endpoint, body, request.wants_usage)

    def _call(self, x: Exchange, model: Model, flight: Flight | None) -> Call:
        """Start the upstream call; with a flight, others may read it, and it stays open until stored."""
        self._plan_entry(x)
        request = _request(x)
        asks_usage = request.stream and (
            x.entry is not None or x.grant is not None or request.endpoint == "messages"
        )

        async def run(call: Call) -> None:
            await self._forward_to_engine(x, model, call, asks_usage)

        async def after(call: Call) -> None:
            await self._store(x, model, call)

        call = Call(run, self._settings.shared_stream_bytes, after)
        call.entry, call.origin = x.entry, x.trace
        entry = x.entry
        self._track(call.task, entry, flight)
        if flight and entry is None:  # not to be kept, not for a moment: not to be shared either
            self._flights.close(flight)
        elif flight:
            flight.land(call)
        return call

    def _track(
        self, task: "asyncio.Task[None]", entry: Entry | None = None, flight: Flight | None = None
    ) -> None:
        """Shutdown waits for this task; at its end its entry is stored, or never will be, and its flight closed."""

        def over(task: "asyncio.Task[None]") -> None:
            self._calls.discard(task)
            if entry is not None:
                self._cache.settle(entry)
            if flight is not None:
                self._flights.close(flight)

        self._calls.add(task)
        if entry is not None:
            self._cache.expect(entry)
        task.add_done_callback(over)

    async def _forward_to_engine(self, x: Exchange, model: Model, call: Call, asks_usage: bool) -> None:
        request = _request(x)

        def prepare(asked: Model, backend: Backend) -> Sent:
            name = backend.model or (asked.name if asked is not model else None)
            asks = asks_usage and backend.stream_usage
            trust = self._settings.trust_client_key()
            sent = prepared(x, backend, model=name, trust_client=trust, include_usage=asks)
            if x.entry is not None or x.plan is not None:
                accept_readable(sent.headers)
            return sent

        hold = 0 if request.stream else self._settings.shared_stream_bytes
        await self._dispatch.send(x, model, "POST", path(x), prepare=prepare, into=call, hold=hold)

    async def _read(self, x: Exchange, call: Call, *, follower: bool = False) -> Reply | None:
        """The call's answer for one reader; None for a follower of a call that did not succeed."""
        reader = call.subscribe()
        try:
            await reader.head()
            if follower and (call.status >= 300 or call.fallback):
                reader.leave()
                return None
            x.call, x.backend, x.attempts = call, call.backend, call.attempts
            if call.fallback:  # neither kept nor shared as the answer of the model that was asked for
                x.fallback, x.decision, x.entry = call.fallback, Forward("fallback"), None
                self._offloading.dismiss(x)
            x.marks["upstream"] = time.perf_counter() - x.started
            headers = to_client(call.headers)
            if follower:
                headers.popall("Set-Cookie", None)  # it was the leader's
            sse = is_plain_sse(call.headers)
            if (
                not sse
                and int(call.headers.get("Content-Length") or 1 << 62) <= self._settings.shared_stream_bytes
            ):
                whole = await reader.body()
                reader.leave()
                return Reply(call.status, headers, whole)
        except BaseException:
            reader.leave()
            raise
        body = _without_usage(reader) if sse and call.usage_added else reader.chunks()
        return Reply(call.status, headers, body, sse, reader.leave)

    # ── what follows the last byte ──────────────────────────────────────────────────────────────────────

    def _plan_entry(self, x: Exchange) -> None:
        """Name the entry this answer will be stored under, if policy and caller allow it to be stored."""
        request, ruling = _request(x), x.ruling
        if ruling is None or not keeps(x) or _waits(x):
            return
        now = self._clock()
        x.entry = Entry(
            id=random_id(),
            exact=x.exact,
            partition=x.partition,
            tenant=x.tenant,
            category=ruling.category,
            model=request.model,
            endpoint=request.endpoint,
            question=(request.question or "") if x.vector is not None else "",
            created=now,
            expires=now + self._kept_for(x),
            size=0,
            cost=0.0,
            temperature=_temperature(request),
            tags=request.controls.tags,
            request=request_digest(x.request_id),
            user=user_digest(x.user),
        )

    def _kept_for(self, x: Exchange) -> float:
        """Seconds; what policy says at look-up decides for how much of it the answer is served."""
        assert x.ruling is not None
        asked = _request(x).controls.ttl
        kept: float = min(x.policy.kept_for(x.ruling), self._settings.privacy(x.tenant).retention)
        return kept if asked is None else min(kept, asked)

    async def _store(self, x: Exchange, model: Model, call: Call) -> None:
        """Keep a complete answer, and count what it cost."""
        request, whole = _request(x), call.whole
        if whole is None or not 200 <= call.status < 300:
            return
        if call.fallback:
            x.entry, x.plan, model = None, None, self._fleet.model(call.fallback)
            x.candidates.clear()  # another model's answer tells nothing of what this one's would have been
        prompt, output = call.spent
        if not (x.entry or x.plan or x.candidates) and prompt is not None:
            self._metrics.used(model.name, prompt, output or 0)  # all there is to learn of what is not kept
            return
        result = await taken_apart(request.endpoint, call.headers, whole, choices(request))
        self._metrics.used(model.name, result.usage.prompt, result.usage.completion)
        if x.plan is not None:
            self._learn(x, model, result)
        if x.candidates:
            self._trusting.answered(x, result, self._later(x, model, result) if _waits(x) else None)
        await self._admit(x, model, result)

    async def remember(self, x: Exchange, result: Answer) -> Entry | None:
        """Keep an answer to a request that was decided and sent to nobody; None where it may not be kept."""
        self._plan_entry(x)
        await self._admit(x, self._fleet.model(_request(x).model), result)
        return x.entry

    def _later(self, x: Exchange, model: Model, result: Answer) -> Callable[[], None]:
        """Stores an answer that was held back, once its neighbour's was found wrong."""

        def keep() -> None:
            x.explored = False
            self._plan_entry(x)
            self._keep_aside(x, model, result)

        return keep

    def _keep_aside(self, x: Exchange, model: Model, result: Answer) -> None:
        if x.entry is not None:
            self._track(asyncio.get_running_loop().create_task(self._admit(x, model, result)), x.entry)

    def _learn(self, x: Exchange, model: Model, result: Answer) -> None:
        """A large model's answer teaches, and may become an example: at once, before it is durable."""
        try:
            self._offloading.answered(x, result, x.entry is not None, model.cost(result.usage))
            self._compare(x)
        except Exception:
            self._offloading.failures["learn"] += 1
            log.exception("nothing is learned from an answer")

    async def _admit(self, x: Exchange, model: Model, result: Answer) -> None:
        """Store an answer under the entry that was promised, if it may be reused."""
        request, entry = _request(x), x.entry
        if entry is None or result.reuse == "none" or len(result.body) > self._settings.max_entry_bytes:
            return
        vector: Vector | None = x.vector if result.reuse == "semantic" else None
        if vector is None:
            entry.question = ""
        entry.created = self._clock()
        entry.expires = entry.created + self._kept_for(x)  # its life begins when it was answered
        entry.prompt_tokens, entry.completion_tokens = result.usage.prompt, result.usage.completion
        entry.cost = model.cost(result.usage)
        entry.size = charge(result.body, vector)
        started = time.perf_counter()
        kept = await self._cache.keep(entry, vector, result.body, request.controls.variants)
        if x.trace is not None:
            x.trace.step("store", started, kept=kept, bytes=entry.size)

    async def adopt(self, x: Exchange, result: Answer) -> str:
        """Store an answer that came from elsewhere under the policy of its question; what became of it.

        "stored", or a short reason: "present" (this very request is answered already, and `x` does not
        refresh), "not-stored" (by the store, or purged meanwhile), or why policy, caller or answer forbid it.

        Raises:
            GatewayError: its model is not listed.
        """
        request, model = _request(x), self._fleet.model(_request(x).model)
        self.open(x)
        if result.reuse == "none" or not x.exact:
            return result.reason if result.reuse == "none" else request.uncacheable or "cache-off"
        if request.controls.read and self._cache.catalog.exact(x.exact):
            return "present"
        if not request.controls.write:
            return "no-store"
        if await self._look(x, ()) == "embedder-busy":
            return "embedder-busy"
        self._plan_entry(x)
        entry = x.entry
        if entry is None:
            return x.policy.store_bar(x.ruling, _temperature(request)) or "not-stored"
        if len(result.body) > self._settings.max_entry_bytes:
            return "too-large"
        self._cache.expect(entry)
        try:
            await self._admit(x, model, result)
        finally:
            self._cache.settle(entry)
        return "stored" if self._cache.catalog.get(entry.id) is not None else "not-stored"

    async def drain(self, seconds: float) -> None:
        """Wait for calls in progress and their storing, within a bound."""
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=seconds)


async def _without_usage(reader: Reader) -> AsyncIterator[bytes]:
    """A live stream less the usage chunk that the gateway itself asked for."""
    usage = replay.UsageFilter()
    async for chunk in reader.chunks():
        if kept := usage.feed(chunk):
            yield kept
    if rest := usage.finish():
        yield rest


def charge(document: bytes, vector: Vector | None) -> int:
    """Bytes an entry counts for in its category's quota."""
    return len(document) + _OVERHEAD + (0 if vector is None else vector.nbytes)


def keeps(x: Exchange) -> bool:
    """Whether policy and caller let the answer to this request be stored."""
    request, ruling = _request(x), x.ruling
    if ruling is None or not x.exact or not request.controls.write:
        return False
    allowed: bool = x.policy.may_store(ruling, _temperature(request))
    return allowed


def _waits(x: Exchange) -> bool:
    """Whether the answer is stored only if its neighbour's turns out to be wrong."""
    if not x.explored or x.ruling is None:
        return False
    return bool(x.policy.category(x.ruling.category).cache.insert == "if-wrong")


def _request(x: Exchange) -> Request:
    assert x.request is not None
    return x.request


def _remembers(request: Request) -> bool:
    return request.uncacheable is None and (request.controls.read or request.controls.write)


def _temperature(request: Request) -> float | None:
    value = request.fields.get("temperature")
    return float(value) if isinstance(value, int | float) else None


def _not_remembered(x: Exchange) -> str:
    """Why an exchange without a fingerprint has none."""
    nobody = "no-user" if x.apart and not x.user else "cache-off"
    return _request(x).uncacheable or nobody


def _owner(x: Exchange) -> str:
    """Who asks, and in which query: an engine may read options, or even a key, from there."""
    who = x.tenant
    if x.apart:  # hashed, as a name may hold anything
        user = blake2b(x.user.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        who = f"{x.tenant} user {user}"
    if _request(x).endpoint == "messages":  # Anthropic's API reads its version and options from headers
        told = [x.headers.getall(name, ()) for name in ("anthropic-version", "anthropic-beta")]
        return orjson.dumps([x.query, *map(list, told), who]).decode()
    return f"{x.query} {who}" if x.query else who


def _age(entry: Entry) -> float:
    return entry.created


def _flight_key(x: Exchange) -> Any:
    """What makes two requests in progress the same: the request, its form, and what may answer it."""
    request = _request(x)
    c = request.controls
    if not x.exact or not c.join or c.variants > 1 or not (c.read and c.write):
        return None
    return (
        x.exact,
        x.policy.version,
        x.headers.get("Accept-Encoding"),  # followers get the leader's bytes as they come
        request.stream,
        request.wants_usage,
        c.semantic,
        c.only,
        c.threshold,
        c.category,
        c.max_age,
    )
