"""What one tenant sees does not depend on the others: fuzzed from outside, with the ids and tricks they may know.

Three tenants share a gateway, and each has beside it a gateway of its own that gets the same requests and nobody
else's. Whatever is asked, judged, purged and rotated, a tenant is told the same by both, and nothing that an engine
answered another. ISOLATION_EXAMPLES sets how many sequences are tried (10).
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.harness import Running, ScriptedBackend
from tests.harness.backend import Seen

Start = Callable[..., Running]
Case = dict[str, Any]
EXAMPLES = int(os.environ.get("ISOLATION_EXAMPLES", "10"))
SETTINGS = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TENANTS = ("acme", "globex", "initech")
QUESTIONS = (
    "What is the capital of France?",
    "What is France's capital?",
    "How do I reverse a list in Python?",
    "How can I reverse a Python list?",
    "This one the engine refuses.",
)
# What tenants share by design decides nothing here: a category's budget of wrong hits.
BOOK = """
categories:
  - name: code
    examples: ["How do I reverse a list in Python?", "Write a SQL query that joins two tables"]
    cache: {mode: semantic, threshold: 0.85, max_error: 0.99, ttl: 7d}
  - name: default
    cache: {mode: semantic, threshold: 0.85, max_error: 0.99, ttl: 1d}
    offload: {max_quality_loss: 1.0, share: true}
"""
MARK = re.compile(r"secret-([a-z]+)-\d+")
OWN_ID = re.compile(r"req_[0-9a-f]{32}")


class Engine(ScriptedBackend):
    """Every answer of it, errors and headers included, says for which tenant it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.reply = mark

    async def _answer(self, seen: Seen) -> web.StreamResponse:
        body = seen.json if seen.body else {}
        if QUESTIONS[-1] in json.dumps(body):
            return web.json_response({"error": {"message": f"refused: {mark(seen)}"}}, status=400)
        if seen.path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [float(seen.number)]}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            answer = {"object": "list", "data": data, "model": mark(seen), "usage": usage}
            return web.json_response(answer)
        response = await super()._answer(seen)
        if not response.prepared:
            response.headers["X-Request-Id"] = response.headers["X-Note"] = mark(seen)
            response.set_cookie("session", mark(seen))
        return response


def mark(seen: Seen) -> str:
    """By a header that passes through the gateway and means nothing to it."""
    return f"secret-{seen.headers.get('X-Probe', 'nobody')}-{seen.number}"


# ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────


def body_of(shape: str, question: str, model: str) -> tuple[str, Case]:
    """Path and body of one question in one of the forms it can be asked in."""
    messages = [{"role": "user", "content": question}]
    chat = {"model": model, "messages": messages}
    function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
    match shape:
        case "stream":
            return "/v1/chat/completions", {**chat, "stream": True}
        case "tools":
            return "/v1/chat/completions", {**chat, "tools": [{"type": "function", "function": function}]}
        case "system":
            return "/v1/chat/completions", {
                **chat,
                "messages": [{"role": "system", "content": "Be brief."}, *messages],
            }
        case "completions":
            return "/v1/completions", {"model": model, "prompt": question}
        case "responses":
            return "/v1/responses", {"model": model, "input": question}
        case "messages":
            return "/v1/messages", {**chat, "max_tokens": 50}
        case "messages-stream":
            return "/v1/messages", {**chat, "max_tokens": 50, "stream": True}
        case "embeddings":
            return "/v1/embeddings", {"model": model, "input": question}
    return "/v1/chat/completions", chat


SHAPES = ("chat", "stream", "tools", "system", "completions", "responses", "messages", "messages-stream")
shapes = st.sampled_from(("chat",) * 6 + (*SHAPES, "embeddings"))
questions = st.sampled_from(QUESTIONS)
who = st.sampled_from(TENANTS)
names = st.sampled_from(("shared", "t:acme", *TENANTS))
controls = st.fixed_dictionaries(
    {},
    optional={
        "x-gateway-cache": st.sampled_from(("on", "exact", "off", "only", "refresh")),
        "x-gateway-category": st.sampled_from(("code", "default", "none such")),
        "x-gateway-threshold": st.sampled_from(("0", "0.5", "0.999", "2")),
        "x-gateway-cache-ttl": st.sampled_from(("0", "3600")),
        "x-gateway-tags": names,
        "x-gateway-offload": st.just("off"),
        "x-gateway-priority": st.sampled_from(("batch", "interactive")),
        "x-gateway-deadline": st.just("20"),
        "x-gateway-session": names,
        "Cache-Control": st.sampled_from(
            ("no-cache", "no-store", "max-age=0", "max-age=600", "only-if-cached")
        ),
    },
)
spoofs = st.fixed_dictionaries(
    {},
    optional={
        "x-gateway-tenant": names,
        "x-tenant": names,
        "tenant": names,
        "OpenAI-Organization": names,
        "OpenAI-Project": names,
        "X-Forwarded-User": names,
        "x-gateway-entry": st.just("0123456789abcdef"),
    },
)
caches = st.fixed_dictionaries(
    {},
    optional={
        "no-cache": st.booleans(),
        "no-store": st.booleans(),
        "ttl": st.sampled_from((0, 600)),
        "s-maxage": st.sampled_from((0, 600)),
        "namespace": names,
        "variants": st.integers(1, 3),
        "tenant": names,
    },
)
# Mostly plain requests: what is barred from the cache meets nobody there.
plain = st.just({})
asked = st.tuples(
    shapes, questions, plain | plain | controls, plain | spoofs, plain | plain | caches, st.none() | names
)
CHOSEN = "req_{:032x}"  # as if it were one of the gateway's
ids = st.none() | st.sampled_from(("one-{}", "two-{}", CHOSEN))


# ── the gateways ────────────────────────────────────────────────────────────────────────────────────────────


class World:
    """The gateway that all share, and for each tenant one that is its own."""

    def __init__(self, start: Start, backend: ScriptedBackend) -> None:
        self.backend = backend
        self.rotations = self.sequences = 0
        self.told: Counter[str] = Counter()
        tree = {"tenants": self._listed(), "models": [{"name": "*", "backends": [{"url": backend.url}]}]}
        self.shared = start(tree, book=BOOK)
        self.alone = {tenant: start(tree, book=BOOK) for tenant in TENANTS}
        self.gateways = (self.shared, *self.alone.values())

    def keys(self, tenant: str) -> tuple[str, str]:
        """The second is rotated."""
        return f"sk-{tenant}-First", f"sk-{tenant}-Second-{self.rotations}"

    def _listed(self) -> list[Case]:
        return [{"name": tenant, "keys": list(self.keys(tenant))} for tenant in TENANTS]

    def rotate(self) -> None:
        self.rotations += 1
        for gateway in self.gateways:
            gateway.reload({"tenants": self._listed()})

    def settle(self) -> None:
        for gateway in self.gateways:
            gateway.settle()

    def purge(self, **criteria: Any) -> int:
        """Of all, by the same words; what the shared one says."""
        counts = [purged(gateway, criteria) for gateway in self.gateways]
        assert counts[0] == sum(counts[1:]), criteria
        return counts[0]


def purged(gateway: Running, criteria: Case) -> int:
    answer = gateway.http.post(f"{gateway.admin}/cache/purge", json=criteria)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["purged"])


def text_of(answer: httpx.Response) -> str:
    """All that a client gets to see."""
    return f"{answer.status_code}\n{answer.headers.multi_items()}\n{answer.text}"


def alike(answer: httpx.Response) -> Case:
    """What must not depend on others: everything but numbers that count calls, time and random ids."""
    names = ("decision", "how", "reason", "category", "model", "threshold", "examples")
    headers = {name: answer.headers.get(f"x-gateway-{name}") for name in names}
    return {
        **headers,
        "status": answer.status_code,
        "names": sorted(set(answer.headers) - {"x-gateway-load"}),
        "cache": re.sub(r"ttl=-?\d+", "", answer.headers.get("cache-status", "")),
        "body": re.sub(r"\d+(\.\d+)?", "#", OWN_ID.sub("#", answer.text)),
    }


def machine(world: World) -> type[RuleBasedStateMachine]:
    class Isolation(RuleBasedStateMachine):
        """Sequences of what three tenants and an operator do."""

        def __init__(self) -> None:
            super().__init__()
            self.number = world.sequences = world.sequences + 1  # gateways go on, and remember ids
            for gateway in world.gateways:
                purged(gateway, {"all": True})
            self.entries: dict[
                str, tuple[str, str]
            ] = {}  # name in the shared gateway → owner, name in its own
            self.requests: list[tuple[str, str, str]] = []  # owner, id in the shared gateway, id in its own

        # ── tenants ──────────────────────────────────────────────────────────────────────────────────────

        @rule(
            tenant=who,
            key=st.integers(0, 1),
            what=asked,
            id=ids,
            place=st.sampled_from(("bearer", "api-key")),
        )
        def ask(self, tenant: str, key: int, what: Any, id: str | None, place: str) -> None:
            path, body, headers = self._request(tenant, world.keys(tenant)[key], what, place)
            if id is not None:
                headers["X-Request-Id"] = id.format(self.number)
            answers = [g.http.post(path, json=body, headers=headers) for g in self._both(tenant)]
            world.settle()
            self._compare(tenant, *answers)

        @rule(
            pair=st.permutations(TENANTS),
            shape=st.sampled_from(("chat", "stream", "messages")),
            question=questions,
        )
        def ask_at_once(self, pair: list[str], shape: str, question: str) -> None:
            """Two tenants, one question, an engine that takes its time: there is a flight to join."""
            sent = {
                tenant: self._request(
                    tenant, world.keys(tenant)[0], (shape, question, {}, {}, {}, None), "bearer"
                )
                for tenant in pair[:2]
            }
            world.backend.delay = 0.03
            with ThreadPoolExecutor(2) as pool:
                shared = {t: pool.submit(post, world.shared, *sent[t]) for t in sent}
            world.backend.delay = 0.0
            alone = {t: post(world.alone[t], *sent[t]) for t in sent}
            world.settle()
            for tenant in sent:
                self._compare(tenant, shared[tenant].result(), alone[tenant])

        @rule(tenant=who, verdict=st.sampled_from(("good", "bad")), pick=st.integers(0, 1 << 16))
        def judge(self, tenant: str, verdict: str, pick: int) -> None:
            """Any request id there ever was, and one that there was not."""
            owner, shared, own = [*self.requests, ("", "never", "never")][pick % (len(self.requests) + 1)]
            key = {"Authorization": f"Bearer {world.keys(tenant)[0]}"}
            answers = [
                gateway.http.post("/v1/feedback", json={"request_id": name, "verdict": verdict}, headers=key)
                for gateway, name in zip(
                    self._both(tenant), (shared, own if owner == tenant else shared), strict=True
                )
            ]
            world.settle()
            if owner and owner != tenant and shared not in {s for o, s, _ in self.requests if o == tenant}:
                assert answers[0].status_code == 404
            self._compare(tenant, *answers, knows={shared, own})

        @rule(tenant=who, other=who, what=asked, trick=st.integers(0, 5))
        def come_with_a_wrong_key(self, tenant: str, other: str, what: Any, trick: int) -> None:
            """No door, whoever's key it resembles, and nothing that tells one wrong key from another."""
            first, second = world.keys(other)
            wrong = (first.lower(), first.upper(), first[:-1], second + "x", f"sk-{other}-Second--1", other)[
                trick
            ]
            path, body, headers = self._request(tenant, wrong, what, "bearer")
            answer = world.shared.http.post(path, json=body, headers=headers)
            headers["Authorization"] = "Bearer nothing like it"
            unknown = world.shared.http.post(path, json=body, headers=headers)
            assert answer.status_code == 401
            assert alike(answer) == alike(unknown)
            self._harmless(answer, "", {})

        @rule(tenant=who, path=st.sampled_from(("/v1/models", "/v1/models/m", "/v1/threads/t", "/v1/files")))
        def look_elsewhere(self, tenant: str, path: str) -> None:
            headers = {"Authorization": f"Bearer {world.keys(tenant)[1]}", "X-Probe": tenant}
            self._compare(tenant, *(g.http.get(path, headers=headers) for g in self._both(tenant)))

        # ── the operator ─────────────────────────────────────────────────────────────────────────────────

        @rule(
            tenant=who,
            more=st.fixed_dictionaries(
                {}, optional={"tag": names, "category": st.sampled_from(("code", "default"))}
            ),
        )
        def purge_a_tenant(self, tenant: str, more: Case) -> None:
            others = held(world.shared, but=tenant)
            world.purge(tenant=tenant, **more)
            assert held(world.shared, but=tenant) == others
            if not more:
                assert held(world.shared) == others

        @rule(
            by=st.sampled_from(("tag", "category", "model")),
            name=names | st.sampled_from(("code", "default", "m")),
        )
        def purge_of_all(self, by: str, name: str) -> None:
            world.purge(**{by: name})

        @rule(pick=st.integers(0, 1 << 16), of=st.none() | who)
        def purge_an_entry(self, pick: int, of: str | None) -> None:
            """By its id; with a tenant named that need not be its owner."""
            if not self.entries:
                return
            name = sorted(self.entries)[pick % len(self.entries)]
            owner, own = self.entries[name]
            others = held(world.shared, but=owner)
            more = {} if of is None else {"tenant": of}
            count = purged(world.shared, {"entry": name, **more})
            assert count == purged(world.alone[owner], {"entry": own, **more})
            assert count == 0 or of in (None, owner)
            assert held(world.shared, but=owner) == others

        @rule(pick=st.integers(0, 1 << 16), of=who)
        def purge_a_request(self, pick: int, of: str) -> None:
            """Ids are the callers' own choice: what a tenant's request has left is not another's."""
            if not self.requests:
                return
            _, shared, own = self.requests[pick % len(self.requests)]
            others = held(world.shared, but=of)
            count = purged(world.shared, {"request_id": shared, "tenant": of})
            assert count == purged(world.alone[of], {"request_id": own, "tenant": of})
            assert held(world.shared, but=of) == others

        @rule()
        def rotate_keys(self) -> None:
            gone = {tenant: world.keys(tenant)[1] for tenant in TENANTS}
            world.rotate()
            for key in gone.values():
                assert world.shared.ask("x", Authorization=f"Bearer {key}").status_code == 401

        # ── what holds ───────────────────────────────────────────────────────────────────────────────────

        def _both(self, tenant: str) -> tuple[Running, Running]:
            return world.shared, world.alone[tenant]

        def _request(self, tenant: str, key: str, what: Any, place: str) -> tuple[str, Case, Case]:
            shape, question, control, spoof, cache, user = what
            path, body = body_of(shape, question, "m")
            if cache:
                body["cache"] = cache
            if user is not None:
                body["user"] = user
            headers = {"X-Probe": tenant, **spoof, **control}
            headers |= {"Authorization": f"Bearer {key}"} if place == "bearer" else {"x-api-key": key}
            return path, body, headers

        def _compare(
            self,
            tenant: str,
            shared: httpx.Response,
            own: httpx.Response,
            knows: set[str] = frozenset(),  # type: ignore[assignment]
        ) -> None:
            """The same with others and without; and what was learned of ids by it."""
            assert alike(shared) == alike(own), (tenant, shared.headers, own.headers)
            near = [float(a.headers.get("x-gateway-similarity", 0)) for a in (shared, own)]
            assert abs(near[0] - near[1]) < 0.02, "the same neighbour"
            self._harmless(shared, tenant, knows)
            decision = shared.headers.get("x-gateway-how") or shared.headers.get("x-gateway-decision", "none")
            world.told[decision] += 1
            if "x-gateway-entry" in shared.headers:
                name = shared.headers["x-gateway-entry"]
                self.entries[name] = tenant, own.headers["x-gateway-entry"]
            if "x-gateway-decision" in shared.headers:
                self.requests.append((tenant, shared.headers["x-request-id"], own.headers["x-request-id"]))

        def _harmless(self, answer: httpx.Response, tenant: str, knows: Any) -> None:
            """Nothing of an engine's answer to another, no id of an entry or a request that is another's, no key."""
            text = text_of(answer)
            assert set(MARK.findall(text)) <= {tenant}, text
            assert not [name for name, (owner, _) in self.entries.items() if owner != tenant and name in text]
            others = {id for owner, id, _ in self.requests if owner != tenant and OWN_ID.fullmatch(id)}
            assert not [id for id in others - {CHOSEN.format(self.number)} - set(knows) if id in text]
            assert not [key for each in TENANTS for key in world.keys(each) if key in text]

    return Isolation


def post(gateway: Running, path: str, body: Case, headers: Case) -> httpx.Response:
    return gateway.http.post(path, json=body, headers=headers)


def held(gateway: Running, but: str = "") -> set[str]:
    """Entries in the cache, as the gateway itself knows them, of all tenants but one."""
    return {entry.name for entry in gateway.app.cache.catalog.entries() if entry.tenant != f"t:{but}"}


def test_no_sequence_shows_a_tenant_another(start: Start) -> None:
    engine = Engine()
    try:
        world = World(start, engine)
        run_state_machine_as_test(machine(world), settings=SETTINGS)  # type: ignore[no-untyped-call]
        assert {"exact", "semantic", "forward", "refuse"} <= set(world.told), world.told
    finally:
        engine.close()


# ── examples for small models ───────────────────────────────────────────────────────────────────────────────

CITIES = ("Paris", "Rome", "Madrid", "Vienna", "Lisbon")
SHARING = {"acme", "initech"}
steps = st.lists(
    st.tuples(who, st.sampled_from(CITIES), st.sampled_from(("teach", "teach", "ask", "ask", "purge"))),
    min_size=6,
    max_size=14,
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=steps)
def play(around: tuple[Running, Engine, Counter[str]], told: list[tuple[str, str, str]]) -> None:
    """Every prompt the small model gets holds answers to its tenant, or to one that shares as it does, not purged."""
    gateway, small, crossed = around
    gone: set[str] = set()
    purged(gateway, {"all": True})
    for tenant, city, what in told:
        if what == "purge":
            gone |= {e.answer for e in gateway.app.offloading.examples if e.tenant == f"t:{tenant}"}
            purged(gateway, {"tenant": tenant})
            continue
        for pair in gateway.app.offloading.pairs.values():  # as after many requests with or without a loss
            seen, lost = (0.0, 1e9) if what == "teach" else (1000.0, 0.0)
            pair.router.ledger.seen, pair.router.ledger.lost = seen, lost
        small.seen.clear()
        key = {"Authorization": f"Bearer sk-{tenant}", "X-Probe": tenant, "x-gateway-cache": "refresh"}
        answer = gateway.ask(f"Tell me in one sentence what {city} is best known for.", model="large", **key)
        gateway.settle()
        assert set(MARK.findall(text_of(answer))) == {tenant}
        for seen in small.seen:
            found = {match[0]: match[1] for match in MARK.finditer(seen.body.decode())}
            allowed = SHARING if tenant in SHARING else {tenant}
            assert set(found.values()) <= allowed, seen.body
            assert not gone & set(found), "a purged answer is still an example"
            crossed.update("own" if owner == tenant else "shared" for owner in found.values())


def test_examples_stay_with_those_who_share_them(start: Start) -> None:
    large, small = Engine(), Engine()
    try:
        listed = [{"name": t, "keys": [f"sk-{t}"], "share_examples": t in SHARING} for t in TENANTS]
        models = [
            {"name": "large", "backends": [{"url": large.url}], "offload_to": "small"},
            {"name": "small", "backends": [{"url": small.url}]},
        ]
        offload = {"compare_share": 0.0, "replay": {"enabled": False}}
        tree = {"models": models, "tenants": listed, "offload": offload}
        gateway = start(tree, book=BOOK.replace("mode: semantic", "mode: exact"))
        crossed: Counter[str] = Counter()
        play((gateway, small, crossed))
        assert crossed["own"], crossed
        assert crossed["shared"], crossed
    finally:
        large.close()
        small.close()
