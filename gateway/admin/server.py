"""The admin port: operators read what the gateway did and steer its policies and memory.

It changes policies and cache only through the rooms that own them, never calls a model, and never shows a
secret. Names in the Host header are checked and writes must be JSON, so that no web page can reach it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway import metrics, savings
from gateway.admin.console import OPEN_PATHS as CONSOLE_PATHS
from gateway.admin.console import Ask, Console, whole
from gateway.admin.openapi import PURGED, document
from gateway.admin.operators import ANYBODY, Operator, Operators, needed
from gateway.admin.preview import preview
from gateway.audit import Audit
from gateway.cache.cache import Cache
from gateway.cache.purge import Criteria
from gateway.errors import (
    BadRequest,
    Forbidden,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    StoreError,
    TooLarge,
    UnsupportedMedia,
)
from gateway.exchange import Candidate, Endpoint, Entry, Exchange, Reuse, Ruling, request_digest, user_digest
from gateway.offload.examples import Example
from gateway.offload.room import Offloading
from gateway.pipeline import Pipeline
from gateway.policy.book import Book, diff, to_json
from gateway.policy.fields import seconds
from gateway.policy.live import LivePolicy
from gateway.policy.policy import Policy
from gateway.record import Receipts
from gateway.replica import Replica
from gateway.routing.fleet import Backend, Fleet
from gateway.sampling import Sampling
from gateway.tenant import Tenants
from gateway.traffic import Traffic
from gateway.wire.request import parse

log = logging.getLogger("gateway.admin")
_MAX_BODY = 8 << 20
_LISTED = 100  # examples or records, unless more are asked for
_operator: ContextVar[Operator] = ContextVar("operator", default=ANYBODY)  # who the request is from
_CATEGORY = "{category:(?!(?:validate|reload|versions|rollback)$)[^/]+}"  # these have paths of their own
_OPEN_PATHS = frozenset(("/livez", "/readyz", "/health", "/metrics"))
_PURGE_KEYS = frozenset((*PURGED, "all", "dry_run"))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminServer:
    """Routes of the admin port.

    Args:
        operators: whose tokens are asked for.
        status: the figures of `GET /cache`.
        readiness: (ready, detail).
        traffic: what the console shows, and a dry run is tried on.
        ask: sends a request to the data port.
        compiled: a book's policy as it would serve.
        further: routes of rooms that bring their own.
        usage: the answer of `GET /tenants`.
        hosts: names beside loopback and bare addresses that browsers may use.
    """

    def __init__(
        self,
        *,
        operators: Operators,
        open_metrics: bool,
        hosts: frozenset[str],
        policy: LivePolicy,
        pipeline: Pipeline,
        cache: Cache,
        fleet: Fleet,
        receipts: Receipts,
        offloading: Offloading,
        sampling: Sampling,
        savings: savings.Savings,
        replica: Replica,
        audit: Audit,
        published: metrics.Metrics,
        status: Callable[[], dict[str, Any]],
        readiness: Callable[[], tuple[bool, dict[str, Any]]],
        traffic: Traffic,
        tenants: Tenants,
        ask: Ask,
        compiled: Callable[[Book], Policy],
        usage: Callable[[], Awaitable[dict[str, Any]]],
        further: Iterable[web.RouteDef] = (),
    ) -> None:
        self._further = further
        self._operators = operators
        self._open_metrics = open_metrics
        self._hosts = hosts
        self._policy = policy
        self._pipeline = pipeline
        self._cache = cache
        self._fleet = fleet
        self._receipts = receipts
        self._offloading = offloading
        self._sampling = sampling
        self._savings = savings
        self._replica = replica
        self._audit = audit
        self._metrics = published
        self._status = status
        self._readiness = readiness
        self._traffic = traffic
        self._compiled = compiled
        self._console = Console(cache, traffic, tenants, self._explained, ask, _entry)
        self._usage = usage

    def application(self) -> web.Application:
        """The aiohttp application, ready to be served."""
        app = web.Application(middlewares=[self._guarded], client_max_size=_MAX_BODY)
        app.router.add_routes(
            [
                web.get("/livez", self._live),
                web.get("/readyz", self._ready),
                web.get("/health", self._ready),
                web.get("/metrics", self._scrape),
                web.get("/openapi.json", self._openapi),
                web.get("/whoami", self._whoami),
                web.get("/policies", self._read_book),
                web.put("/policies", self._replace_book),
                web.post("/policies/validate", self._validate),
                web.post("/policies/reload", self._reload),
                web.get("/policies/versions", self._versions),
                web.post("/policies/rollback", self._rollback),
                web.get("/audit", self._read_audit),
                web.get("/policies/" + _CATEGORY, self._read_category),
                web.put("/policies/" + _CATEGORY, self._replace_category),
                web.delete("/policies/" + _CATEGORY, self._delete_category),
                web.post("/explain", self._explain),
                web.get("/cache", self._read_cache),
                web.get("/cache/entries/{id}", self._read_entry),
                web.post("/cache/purge", self._purge),
                web.post("/erase", self._erase),
                web.get("/examples", self._examples),
                web.get("/examples/export", self._export_examples),
                web.delete("/examples/{id:(?!export$)[^/]+}", self._delete_example),
                web.get("/offload", self._read_offload),
                web.get("/savings", self._read_savings),
                web.get("/trust", self._read_trust),
                web.get("/trust/{category}", self._read_trust_in),
                web.get("/tenants", self._read_tenants),
                web.get("/backends", self._backends),
                web.post("/backends/{id:.+}/drain", self._drain),
                web.post("/backends/{id:.+}/enable", self._enable),
                *self._console.routes(),
                *self._further,
            ]
        )
        return app

    # ── who may, and how refusals look ──────────────────────────────────────────────────────────────────

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            return await handler(request)
        except GatewayError as error:
            return _answer(error.body(), error.status, error.headers)
        except web.HTTPNotFound:
            return _refused(NotFound(f"Unknown path: {request.path}"))
        except web.HTTPMethodNotAllowed as error:
            allow = ", ".join(sorted(error.allowed_methods))
            return _refused(MethodNotAllowed(f"Use {allow}.", headers={"Allow": allow}))
        except web.HTTPRequestEntityTooLarge:
            return _refused(TooLarge(f"The request body is larger than {_MAX_BODY} bytes."))
        except Exception:
            log.exception("admin request failed", extra={"fields": {"path": request.path}})
            return _refused(GatewayError("The gateway failed to handle this request."))

    def _admit(self, request: web.Request) -> None:
        if self._open_metrics and request.path in _OPEN_PATHS:
            return
        host = request.headers.get("Host", "").lower()
        if not self._known_host(host.rsplit(":", 1)[0] if not host.endswith("]") else host):
            raise Forbidden(
                "This Host name is not allowed on the admin port (admin.hosts).", code="host_not_allowed"
            )
        if (
            request.method in ("POST", "PUT")
            and request.body_exists
            and request.content_type != "application/json"
        ):
            raise UnsupportedMedia("Writes need Content-Type: application/json.")
        if (
            request.method in ("POST", "PUT", "DELETE")
            and request.headers.get("Sec-Fetch-Site") == "cross-site"
        ):
            raise Forbidden("Requests from other sites are refused.", code="cross_site")
        if request.path in CONSOLE_PATHS:  # the page holds no data
            return
        resource = request.match_info.route.resource
        role = needed(request.method, "" if resource is None else resource.canonical)
        _operator.set(self._operators.admit(request.headers.get("Authorization", ""), role))

    def _known_host(self, name: str) -> bool:
        if name in ("localhost", "") or name in self._hosts:
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    # ── health and metrics ──────────────────────────────────────────────────────────────────────────────

    async def _live(self, request: web.Request) -> web.Response:
        return _answer({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        ready, detail = self._readiness()
        return _answer({"status": "ok" if ready else "unavailable", **detail}, 200 if ready else 503)

    async def _scrape(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _openapi(self, request: web.Request) -> web.Response:
        return _answer(document())

    async def _whoami(self, request: web.Request) -> web.Response:
        return _answer(_operator.get()._asdict())

    # ── policies ────────────────────────────────────────────────────────────────────────────────────────

    async def _read_book(self, request: web.Request) -> web.Response:
        return self._book(self._policy.book)

    async def _read_category(self, request: web.Request) -> web.Response:
        return self._category(self._policy.book, request.match_info["category"])

    async def _replace_book(self, request: web.Request) -> web.Response:
        new = self._policy.parse(await _object(request))
        return self._book(await self._adopt(request, lambda book: new))

    async def _replace_category(self, request: web.Request) -> web.Response:
        name, given = request.match_info["category"], await _object(request)
        book = await self._adopt(request, lambda book: book.with_category(name, given))
        return self._category(book, name)

    async def _delete_category(self, request: web.Request) -> web.Response:
        name = request.match_info["category"]

        def without(book: Book) -> Book:
            _find_category(book, name)
            return book.without_category(name)

        return self._book(await self._adopt(request, without))

    async def _validate(self, request: web.Request) -> web.Response:
        book = self._policy.parse(await _object(request))
        return _answer(await self._difference(book))

    async def _difference(self, book: Book) -> dict[str, Any]:
        """What a book would change: keys, and recent decisions."""
        recent, present = list(self._traffic.recent), self._policy.current
        wanted = await asyncio.to_thread(self._compiled, book)
        decisions = await asyncio.to_thread(preview, recent, present, wanted)
        changes = diff(self._policy.book, book)
        return {"valid": True, "version": book.version, "changes": changes, "decisions": decisions}

    async def _reload(self, request: web.Request) -> web.Response:
        before = self._policy.book
        book = await self._policy.reload(_who(request))
        await self._note(request, "policies.reload", changes=diff(before, book), version=book.version)
        return self._book(book)

    async def _versions(self, request: web.Request) -> web.Response:
        number, found = self._policy.number, await self._policy.versions()
        return _answer({"versions": [{**v.told(), "current": v.number == number} for v in found]})

    async def _rollback(self, request: web.Request) -> web.Response:
        wanted = await _json(request)
        version: Any = wanted.get("version") if isinstance(wanted, dict) and len(wanted) == 1 else None
        if isinstance(version, float) and version.is_integer():  # JSON does not tell 3.0 from 3
            version = int(version)
        if type(version) not in (int, str):
            raise BadRequest("The body must be {version}: a version's number, or its book's version.")
        before = self._policy.book
        book = await self._policy.rollback(version, _who(request))
        await self._note(
            request, "policies.rollback", to=version, changes=diff(before, book), version=book.version
        )
        return self._book(book)

    async def _read_audit(self, request: web.Request) -> web.Response:
        """The newest first."""
        try:
            records = await self._audit.newest(whole(request, "limit", _LISTED, digits=6))
        except StoreError as error:
            log.warning("the audit log cannot be read: %s", error)
            raise Overloaded("The store cannot be reached.", code="store_unavailable") from error
        return _answer({"records": records})

    async def _note(self, request: web.Request, action: str, **detail: Any) -> None:
        await self._audit.note(_who(request), action, detail)

    async def _adopt(self, request: web.Request, edit: Callable[[Book], Book]) -> Book:
        """Put an edited book in force unless the caller's `If-Match` is stale or it is a dry run."""
        wanted = request.headers.get("If-Match", "").strip()
        version = None if wanted in ("", "*") else wanted.removeprefix("W/").strip('"')
        if _dry_run(request):
            return self._policy.edited(edit, version)
        before, what = self._policy.book, f"{request.method} {request.path}"
        book = await self._policy.change(edit, version, who=_who(request), what=what)
        await self._note(
            request, f"{request.method} {request.path}", changes=diff(before, book), version=book.version
        )
        return book

    def _book(self, book: Book) -> web.Response:
        return _answer(to_json(book), headers={"ETag": f'"{book.version}"'})

    def _category(self, book: Book, name: str) -> web.Response:
        return _answer(_find_category(book, name), headers={"ETag": f'"{book.version}"'})

    # ── explain ─────────────────────────────────────────────────────────────────────────────────────────

    async def _explain(self, request: web.Request) -> web.Response:
        headers = CIMultiDict(request.headers)
        told = await self._explained(
            await request.read(), headers, _tenant(headers.get("x-gateway-tenant", ""))
        )
        return _answer(told)

    async def _explained(self, raw: bytes, headers: CIMultiDict[str], tenant: str) -> dict[str, Any]:
        """What would become of a tenant's request."""
        fields = _decoded(raw)
        if not isinstance(fields, dict):
            raise BadRequest("The body must be a request as a client would send it.")
        x = Exchange(request_id="explain", headers=headers, tenant=tenant)
        x.request = parse(_endpoint(fields, headers), raw, headers)
        decision = await self._pipeline.decide(x)
        how = decision.how if isinstance(decision, Reuse) else None
        ruling = x.ruling
        return {
            "decision": decision.word,
            "how": how,
            "reason": decision.reason,
            "entry": decision.entry.name if isinstance(decision, Reuse) else None,
            "category": ruling.category
            if ruling
            else (decision.entry.category if isinstance(decision, Reuse) else None),
            "ruling": None if ruling is None else _ruling(ruling),
            "load": None if ruling is None else self._load(ruling),
            "similarity": x.similarity,
            "threshold": x.threshold,
            "candidates": [_candidate(c) for c in x.candidates],
            "offload": self._offloading.explain(x),
            "question": x.request.question,
            "barred": x.request.barred,
            "model": x.request.model,
            "backends": [b.state(time.monotonic()) for b in self._fleet.model(x.request.model).backends],
            "policy_version": self._policy.book.version,
            "steps_ms": {name: round(seconds * 1000, 3) for name, seconds in x.marks.items()},
        }

    def _load(self, ruling: Ruling) -> dict[str, Any]:
        """How far load has moved this ruling from what its category's policy says."""
        category = _find_category(self._policy.book, ruling.category)
        return {
            "factor": ruling.load.factor,
            "frozen": ruling.category in ruling.load.frozen,
            "policy_threshold": category["cache"]["threshold"],
            "policy_ttl": seconds(category["cache"]["ttl"]),
        }

    # ── cache and backends ──────────────────────────────────────────────────────────────────────────────

    async def _read_cache(self, request: web.Request) -> web.Response:
        return _answer(self._status())

    async def _read_entry(self, request: web.Request) -> web.Response:
        entry = self._cache.catalog.get(_entry_id(request.match_info["id"]))
        if entry is None:
            raise NotFound("There is no such entry.", code="entry_not_found")
        body = await self._cache.document(entry)
        durable = self._cache.durable(entry)
        return _answer(
            {**_entry(entry), "durable": durable, "document": None if body is None else _text(body)}
        )

    async def _purge(self, request: web.Request) -> web.Response:
        wanted = await _json(request)
        if not isinstance(wanted, dict) or not wanted.keys() <= _PURGE_KEYS:
            raise BadRequest(f"The body must be an object with some of: {', '.join(sorted(_PURGE_KEYS))}.")
        for key, value in wanted.items():
            if not isinstance(value, bool if key in ("all", "dry_run") else str):
                raise BadRequest(f"'{key}' has the wrong type.", param=key)
        criteria = wanted.keys() - {"dry_run", "all"}
        if not criteria and not wanted.get("all"):
            raise BadRequest("Say what to purge, or `all: true`.")
        meant = self._criteria(wanted)
        if wanted.get("dry_run"):
            entries = len(self._cache.matching(meant.means))
            examples = len(
                self._offloading.library.matching(
                    lambda e: meant.means_example(e.id, e.tenant, e.category, e.model, e.user)
                )
            )
            return _answer({"purged": entries, "examples": examples, "shared": False, "dry_run": True})
        counts, shared = await self._replica.purge(meant)
        entries, examples = counts["entries"], counts["examples"]
        await self._note(
            request, "cache.purge", criteria=_unnamed(wanted), entries=entries, examples=examples
        )
        return _answer({"purged": entries, "examples": examples, "shared": shared, "dry_run": False})

    async def _erase(self, request: web.Request) -> web.Response:
        """Forget every text of a tenant, an end user, or an end user of a tenant, wherever it is kept."""
        wanted = await _json(request)
        if not isinstance(wanted, dict) or not wanted or not wanted.keys() <= {"tenant", "user"}:
            raise BadRequest("The body must be an object with tenant, user or both.")
        for key, value in wanted.items():
            if not isinstance(value, str) or not value:
                raise BadRequest(f"'{key}' has the wrong type.", param=key)
        counts, shared = await self._replica.purge(replace(self._criteria(wanted), erase=True))
        await self._note(request, "erase", criteria=_unnamed(wanted), erased=dict(counts))
        return _answer({"erased": dict(counts), "shared": shared})

    def _criteria(self, wanted: dict[str, Any]) -> Criteria:
        """What only this replica knows, a request's receipts, is looked up here."""
        request = wanted.get("request_id")
        return Criteria(
            tenant=_tenant(wanted["tenant"]) if "tenant" in wanted else None,
            category=wanted.get("category"),
            model=wanted.get("model"),
            user=user_digest(wanted["user"]) if "user" in wanted else None,
            tag=wanted.get("tag"),
            entry=_entry_id(wanted["entry"]) if "entry" in wanted else None,
            request=None if request is None else request_digest(request),
            entries=() if request is None else _known(r.entry for r in self._receipts.find_any(request)),
            examples=None if request is None else tuple(self._offloading.made_of(request)),
        )

    # ── examples and small models ───────────────────────────────────────────────────────────────────────

    async def _examples(self, request: web.Request) -> web.Response:
        """The newest first."""
        found = sorted(self._wanted_examples(request), key=lambda e: -e.created)
        limit = whole(request, "limit", _LISTED, digits=6)
        return _answer({"count": len(found), "examples": [_example(e) for e in found[:limit]]})

    async def _export_examples(self, request: web.Request) -> web.Response:
        lines = b"".join(orjson.dumps(_example(e)) + b"\n" for e in self._wanted_examples(request))
        return web.Response(body=lines, content_type="application/jsonl")

    def _wanted_examples(self, request: web.Request) -> list[Example]:
        query = request.query
        tenant = _tenant(query["tenant"]) if query.get("tenant") else None
        return [
            e
            for e in self._offloading.examples
            if (tenant is None or e.tenant == tenant)
            and query.get("model") in (None, "", e.model)
            and query.get("category") in (None, "", e.category)
        ]

    async def _delete_example(self, request: web.Request) -> web.Response:
        if not self._offloading.library.remove(_entry_id(request.match_info["id"])):
            raise NotFound("There is no such example.", code="example_not_found")
        await self._offloading.library.save()
        await self._note(request, "examples.delete", id=request.match_info["id"])
        return _answer({"removed": 1})

    async def _read_offload(self, request: web.Request) -> web.Response:
        return _answer(self._offloading.state())

    async def _read_savings(self, request: web.Request) -> web.Response:
        """What reuse and small models have saved, of all replicas, and what is left of it without bad answers."""
        query = request.query
        if query.get("format", "json") not in ("json", "csv"):
            raise BadRequest("The format is json or csv.", param="format")
        if query.get("how") not in (None, *savings.WAYS):
            raise BadRequest(f"how is one of: {', '.join(savings.WAYS)}.", param="how")
        tenant = _tenant(query["tenant"]) if query.get("tenant") else None

        def wanted(*row: str) -> bool:
            given = (tenant, query.get("category"), query.get("how"))
            return all(not wish or wish == value for wish, value in zip(given, row, strict=True))

        merged = await self._savings.read()
        rows = self._savings.report(self._wrong(), wanted)
        if query.get("format") == "csv":
            named = {"Content-Disposition": 'attachment; filename="savings.csv"'}
            return web.Response(text=savings.to_csv(rows), content_type="text/csv", headers=named)
        return _answer({"merged": merged, "total": savings.total(rows), "rows": rows})

    def _wrong(self) -> Callable[[str, str, str], float | None]:
        """The share of answers that judged samples say were bad, by tenant where known, category and way."""
        hits, small = self._sampling.trust.report(), self._offloading.wrong()

        def share(tenant: str, category: str, how: str) -> float | None:
            if how == "offload":
                return small.get(category)
            report = hits.get(category) if how == "semantic" else None
            return None if report is None else report.tenants.get(tenant, report.hits).rate

        return share

    async def _read_trust(self, request: web.Request) -> web.Response:
        """How often semantic hits are wrong, in all and by category, and what withheld ones would have done."""
        return _answer(self._sampling.state())

    async def _read_trust_in(self, request: web.Request) -> web.Response:
        name, known = request.match_info["category"], self._sampling.state()["categories"]
        if name not in known:
            raise NotFound(f"No semantic hits are judged in '{name[:100]}'.", code="category_not_found")
        return _answer({"name": name, **known[name]})

    async def _read_tenants(self, request: web.Request) -> web.Response:
        """Names, labels, limits and use; never a key, nor its hash."""
        return _answer(await self._usage())

    async def _backends(self, request: web.Request) -> web.Response:
        return _answer(
            {
                "models": [
                    {"name": m.name, "backends": [b.state(time.monotonic()) for b in m.backends]}
                    for m in self._fleet.models
                ]
            }
        )

    async def _drain(self, request: web.Request) -> web.Response:
        """Take a backend out of service; requests it has run to their end."""
        backend = self._backend(request)
        backend.draining = True
        await self._note(request, "backends.drain", backend=backend.id)
        return _answer(backend.state(time.monotonic()))

    async def _enable(self, request: web.Request) -> web.Response:
        """Back into service, ejected or paused as it may be."""
        backend = self._backend(request)
        backend.draining = False
        backend.health.reset()
        await self._note(request, "backends.enable", backend=backend.id)
        return _answer(backend.state(time.monotonic()))

    def _backend(self, request: web.Request) -> Backend:
        id = unquote(request.match_info["id"])  # it holds a slash, plain or encoded
        for backend in self._fleet.backends:
            if backend.id == id:
                log.info("backend %s: %s", id, request.path.rsplit("/", 1)[1])
                return backend
        raise NotFound(f"There is no backend '{id[:100]}'.", code="backend_not_found")


def _dry_run(request: web.Request) -> bool:
    """Raises BadRequest for a word that is neither: who meant to try must not change anything."""
    words = {word.lower() for word in request.query.getall("dry_run", ("false",))}
    if not words <= {"true", "1", "false", "0"} or len(words) > 1:
        raise BadRequest("dry_run is true or false.", param="dry_run")
    return bool(words & {"true", "1"})


def _who(request: web.Request) -> str:
    """The name of the token, and where it came from; never the token."""
    return f"{_operator.get().name}@{request.remote or request.headers.get('X-Forwarded-For', 'local')}"


def _known(entries: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(id for id in entries if id is not None)


def _find_category(book: Book, name: str) -> dict[str, Any]:
    for category in to_json(book)["categories"]:
        if category["name"] == name:
            found: dict[str, Any] = category
            return found
    raise NotFound(f"There is no category '{name[:100]}'.", code="category_not_found")


def _endpoint(fields: dict[str, Any], headers: Mapping[str, str]) -> Endpoint:
    """Which endpoint a body is meant for; only their header tells Anthropic's clients from OpenAI's."""
    if "messages" in fields:
        return "messages" if "anthropic-version" in headers else "chat"
    return "completions" if "prompt" in fields else "responses"


def _tenant(given: str) -> str:
    """A configured tenant's name, or an open-mode tenant's id as logs show it."""
    return given if given.startswith(("k:", "t:")) else f"t:{given}"


def _entry_id(text: str) -> int:
    try:
        return int(text, 16) if len(text) <= 16 else -1
    except ValueError:
        return -1


def _unnamed(wanted: dict[str, Any]) -> dict[str, Any]:
    """Criteria as the audit log keeps them: who was to be forgotten is not written down anew."""
    return {**wanted, "user": f"{user_digest(wanted['user']):012x}"} if "user" in wanted else wanted


def _ruling(ruling: Ruling) -> dict[str, Any]:
    told = {name: getattr(ruling, name) for name in ruling.__slots__ if name != "load"}
    return {**told, "waived": sorted(ruling.waived)}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    told = {"similarity": candidate.similarity, "score": candidate.score, "verdict": candidate.verdict}
    return {**told, **_entry(candidate.entry)}


def _entry(entry: Entry) -> dict[str, Any]:
    shown = (
        "tenant",
        "category",
        "model",
        "endpoint",
        "question",
        "created",
        "expires",
        "size",
        "cost",
        "hits",
    )
    return {"entry": entry.name, **{name: getattr(entry, name) for name in shown}, "tags": list(entry.tags)}


def _example(example: Example) -> dict[str, Any]:
    shown = (
        "tenant",
        "model",
        "category",
        "question",
        "answer",
        "tokens",
        "cost",
        "created",
        "share",
        "quality",
        "uses",
        "successes",
        "replays",
    )
    return {"id": f"{example.id:016x}", **{name: getattr(example, name) for name in shown}}


def _text(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def _decoded(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}") from error


async def _object(request: web.Request) -> dict[str, Any]:
    """A book or a part of one. An empty file is an empty book; an empty body is a mistake."""
    given = await _json(request)
    if not isinstance(given, dict):
        raise BadRequest("The body must be an object.")
    return given


async def _json(request: web.Request) -> Any:
    return _decoded(await request.read())


def _answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value, default=str), status=status, headers=headers, content_type="application/json"
    )


def _refused(error: GatewayError) -> web.Response:
    return _answer(error.body(), error.status, error.headers)
