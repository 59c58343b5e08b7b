"""The data plane: HTTP in, HTTP out. Routes, bounds, request ids, and errors in the shape of the API asked; no policy.

aiohttp's low-level server is used, without its router and middlewares: the walk is one straight line, and a
streaming body passes through no wrapper.
"""

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict

from gateway.cache.flight import Call
from gateway.errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestTimeout,
    TooLarge,
    UnsupportedMedia,
)
from gateway.exchange import Controls, Endpoint, Exchange, Forward, Refuse, Reply, Request
from gateway.headers import tell
from gateway.limits.room import Limits
from gateway.pipeline import Pipeline
from gateway.record import Receipts, Recorder
from gateway.routing.dispatch import Dispatch
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.headers import is_plain_sse, to_client, to_upstream
from gateway.routing.upstream import Sent
from gateway.tenant import Tenants
from gateway.tracing.trace import Tracer
from gateway.wire.anthropic.refusal import refusal, refusal_event
from gateway.wire.anthropic.to_chat import chat_request
from gateway.wire.request import Reader, parse, rewrite

log = logging.getLogger("gateway.server")

_ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
}
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,200}")
_RANDOM = random.Random(secrets.randbits(256))  # ids must not collide; nobody is kept from guessing them
_PASS_KEEP = 64 << 10  # bytes in flight of a pass-through body
_INLINE = 256 << 10  # bytes; a longer body is read on another thread
_BUFFERED = 64 << 10  # bytes a connection takes at once, however slowly its client reads


class Server:
    """Answers requests on the data port.

    Args:
        feedback: (tenant, decoded body) → answer, for `/v1/feedback`.
        readiness: (ready, detail) as `/readyz` tells it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tenants: Tenants,
        fleet: Fleet,
        dispatch: Dispatch,
        recorder: Recorder,
        receipts: Receipts,
        limits: Limits,
        *,
        feedback: Callable[[str, Any], Any],
        readiness: Callable[[], tuple[bool, dict[str, Any]]],
        max_body: int,
        body_seconds: float,
        write_seconds: float,
        max_in_flight: int,
        honour_cache_control: bool,
        tracer: Tracer | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._tenants = tenants
        self._fleet = fleet
        self._dispatch = dispatch
        self._recorder = recorder
        self._receipts = receipts
        self._limits = limits
        self._feedback = feedback
        self._readiness = readiness
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._write_seconds = write_seconds
        self._max_in_flight = max_in_flight
        self._tracer = tracer
        self._reader = Reader(honour_cache_control=honour_cache_control)
        self.in_flight = 0
        self.draining = False
        self.internal_errors = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request from its head to its last byte."""
        given = request.headers.get("X-Request-Id", "")
        query = request.rel_url.raw_query_string
        x = Exchange(
            request_id=given if given and _REQUEST_ID.fullmatch(given) else _new_id(),
            headers=request.headers,
            query=f"?{query}" if query else "",
        )
        if self._tracer is not None and request.rel_url.raw_path.startswith("/v1/"):
            self._tracer.begin(x, request.method, request.rel_url.raw_path)
        self.in_flight += 1
        try:
            return await self._handle(request, x)
        finally:
            self.in_flight -= 1
            self._limits.over(x)

    async def _handle(self, request: web.BaseRequest, x: Exchange) -> web.StreamResponse:
        try:
            reply = await self._route(request, x)
        except GatewayError as error:
            reply = self._refusal(request, x, error)
        except (asyncio.CancelledError, ConnectionError):
            x.status = 499  # the client left; nginx's number, for logs only
            self._recorder.finished(x)
            raise
        except Exception:
            self.internal_errors += 1
            log.exception("request failed", extra={"fields": {"request_id": x.request_id}})
            reply = self._refusal(request, x, GatewayError("The gateway failed to handle this request."))
        return await self._send(request, x, reply)

    async def _route(self, request: web.BaseRequest, x: Exchange) -> Reply:
        path = request.rel_url.raw_path
        endpoint = _ENDPOINTS.get(path)
        if endpoint is not None:
            return await self._cached(request, x, endpoint)
        match path:
            case "/livez":
                return _json(200, {"status": "ok"})
            case "/readyz" | "/health":
                return self._ready()
        if not path.startswith("/v1/") or "/." in path or "%2e" in path.lower() or "//" in path:
            raise NotFound(f"Unknown path: {request.method} {path}", code="unknown_url")
        x.tenant = self._tenants.resolve(request.headers)
        if path == "/v1/feedback":
            _require(request, "POST")
            return _json(200, await self._feedback(x.tenant, _decode(await self._read(request))))
        listed = any(model.name != "*" for model in self._fleet.models)
        if request.method == "GET" and (path.startswith("/v1/models/") or (listed and path == "/v1/models")):
            return await self._models(x, unquote(path.removeprefix("/v1/models").removeprefix("/")))
        if path == "/v1/messages/count_tokens":
            return await self._count_tokens(request, x)
        return await self._pass(request, x, path.removeprefix("/v1"))

    async def _cached(self, request: web.BaseRequest, x: Exchange, endpoint: Endpoint) -> Reply:
        """An endpoint whose answers can be reused."""
        _require(request, "POST")
        self._admit()
        x.tenant = self._tenants.resolve(request.headers)
        raw = await self._read(request)
        if len(raw) <= _INLINE:
            self._open(x, endpoint, raw)
        else:
            await asyncio.to_thread(self._open, x, endpoint, raw)
        x.marks["parse"] = time.perf_counter() - x.started
        await self._limits.admit(x, x.request)
        reply = await self._pipeline.answer(x)
        self._receipts.remember(x)
        if endpoint == "messages":
            reply.headers["request-id"] = x.request_id
        return reply

    def _open(self, x: Exchange, endpoint: Endpoint, raw: bytes) -> None:
        x.request = self._reader.parse(endpoint, raw, x.headers)
        self._pipeline.open(x)

    def _admit(self) -> None:
        if self.in_flight > self._max_in_flight:
            raise Overloaded("Too many requests in progress.", headers={"Retry-After": "1"})

    async def _read(self, request: web.BaseRequest) -> bytes:
        """The whole request body, within size and time."""
        if (request.content_length or 0) > self._max_body:
            raise self._too_large()
        await _continue(request)
        try:
            if request.content.is_eof():  # it came with the head: nothing to wait for
                return await request.read()
            async with asyncio.timeout(self._body_seconds):
                return await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise self._too_large() from error
        except TimeoutError as error:
            raise self._too_slow() from error
        except web.RequestPayloadError as error:
            raise BadRequest(f"The request body cannot be read: {error}") from error

    async def _upload(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        """The request body as it comes; a client that stops sending must not hold the engine."""
        while True:
            try:
                async with asyncio.timeout(self._body_seconds):
                    piece = await request.content.readany()
            except TimeoutError as error:
                raise self._too_slow() from error
            if not piece:
                return
            yield piece

    def _too_slow(self) -> RequestTimeout:
        return RequestTimeout(f"The request body did not arrive within {self._body_seconds:g} s.")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request body is larger than {self._max_body} bytes.")

    async def _models(self, x: Exchange, wanted: str) -> Reply:
        """The models clients may ask for; behind "*", those of its engine as well."""

        def allowed(name: str) -> bool:
            return self._limits.allows(x.tenant, name)

        known = {m.name: _model_card(m.name) for m in self._fleet.models if m.name != "*" and allowed(m.name)}
        wildcard = next((m for m in self._fleet.models if m.name == "*"), None)
        if wildcard is not None and wanted not in known and (not wanted or allowed(wanted)):
            backend = wildcard.backends[0]
            try:
                headers = self._headers(x, backend)
                headers["Accept-Encoding"] = "identity"  # it is read here, not passed on
                listed = await self._dispatch.fetch_json(backend, "/models", headers, 5.0)
                for card in listed["data"]:
                    if allowed(str(card["id"])):
                        known.setdefault(str(card["id"]), card)
            except (GatewayError, KeyError, TypeError) as error:
                log.warning("the engine's models are unknown: %s", error)
        if not wanted:
            return _json(200, {"object": "list", "data": list(known.values())})
        if wanted not in known:
            raise NotFound(f"The model '{wanted}' does not exist.", param="model", code="model_not_found")
        return _json(200, known[wanted])

    async def _count_tokens(self, request: web.BaseRequest, x: Exchange) -> Reply:
        """By the engine, if it speaks Anthropic's API; else estimated from what it has counted before."""
        _require(request, "POST")
        self._admit()
        raw = await self._read(request)
        asked = parse("messages", raw, {})
        model = self._fleet.model(asked.model)
        if model.backends[0].api != "openai":
            return await self._pass(request, x, "/messages/count_tokens")
        chat_request({"max_tokens": 1, **asked.fields})  # what would be refused has no count
        reply = _json(200, {"input_tokens": self._fleet.lengths.prompt(model.name, len(raw))})
        reply.headers["x-gateway-reason"] = "estimate"
        reply.headers["request-id"] = x.request_id
        return reply

    async def _pass(self, request: web.BaseRequest, x: Exchange, path: str) -> Reply:
        """Any other path: to the engine and back, as it is."""
        self._admit()
        model = self._fleet.default
        body: Any = None
        once = False
        named: Request | None = None
        if request.content_type == "application/json" and request.body_exists:
            body = await self._read(request)
            named = _named(body)
            model = model if named is None else self._fleet.model(named.model)
        elif request.body_exists:
            await _continue(request)
            body, once = self._upload(request), True
        await self._limits.admit(x, named, blind=request.body_exists and named is None)
        if x.withheld is not None:
            raise x.withheld

        def prepare(asked: Model, backend: Backend) -> Sent:
            name = backend.model or (asked.name if asked is not model else None)
            sent = body if named is None else rewrite(named, model=name)
            return Sent(self._headers(x, backend), sent)

        async def run(call: Call) -> None:
            await self._dispatch.send(
                x, model, request.method, path + x.query, prepare=prepare, into=call, once=once
            )

        call = Call(run, _PASS_KEEP)
        reader = call.subscribe()
        try:
            await reader.head()
        except BaseException:
            reader.leave()
            raise
        x.call, x.backend, x.attempts = call, call.backend, call.attempts
        sse = is_plain_sse(call.headers)
        headers = to_client(call.headers)
        if (length := call.headers.get("Content-Length")) is not None:
            headers["Content-Length"] = length
        return Reply(call.status, headers, reader.chunks(), sse, reader.leave)

    def _headers(self, x: Exchange, backend: Backend) -> CIMultiDict[str]:
        return to_upstream(
            x.headers,
            api_key=backend.api_key,
            trust_client=self._tenants.open,
            request_id=x.request_id,
            api=backend.api,
        )

    def _ready(self) -> Reply:
        ready, detail = self._readiness()
        if self.draining:
            ready, detail = False, {**detail, "draining": True}
        return _json(200 if ready else 503, {"status": "ok" if ready else "unavailable", **detail})

    def _refusal(self, request: web.BaseRequest, x: Exchange, error: GatewayError) -> Reply:
        if not isinstance(x.decision, Forward):
            x.decision = Refuse(error, error.code or "error")
        headers: CIMultiDict[str] = CIMultiDict(error.headers)
        headers["Content-Type"] = "application/json"
        if not _anthropic(request):
            return Reply(error.status, headers, error.json())
        headers["request-id"] = x.request_id
        return Reply(error.status, headers, refusal(error.status, error.message, x.request_id))

    async def _send(self, request: web.BaseRequest, x: Exchange, reply: Reply) -> web.StreamResponse:
        x.status = reply.status
        tell(x, reply.headers)
        if self.draining:
            reply.headers["Connection"] = "close"
        try:
            if isinstance(reply.body, bytes):
                response: web.StreamResponse = web.Response(
                    status=reply.status, headers=reply.headers, body=reply.body
                )
                await response.prepare(request)
                x.marks["first_byte"] = time.perf_counter() - x.started
                if len(reply.body) > _BUFFERED or request.protocol.writing_paused:
                    await self._write(request, response.write_eof())
                else:  # cannot wait, so it needs no timer
                    await response.write_eof()
            else:
                response = web.StreamResponse(status=reply.status, headers=reply.headers)
                await response.prepare(request)
                await self._stream(request, x, reply, response)
            return response
        finally:
            reply.leave()
            self._recorder.finished(x)

    async def _stream(
        self, request: web.BaseRequest, x: Exchange, reply: Reply, response: web.StreamResponse
    ) -> None:
        """Write chunks as they come. After the first byte an error can no longer become a status."""
        assert not isinstance(reply.body, bytes)
        chunk = b""
        try:
            async for chunk in reply.body:
                x.marks.setdefault("first_byte", time.perf_counter() - x.started)
                await self._write(request, response.write(chunk))
        except GatewayError as error:
            log.warning("answer broke off: %s", error, extra={"fields": {"request_id": x.request_id}})
            x.status = error.status
            if not reply.sse:
                _abort(request)  # a half answer must not look like a whole one
                raise ConnectionResetError("the backend broke off") from error
            cut = chunk and not chunk.endswith((b"\n\n", b"\r\n\r\n"))
            event = refusal_event(error.status, error.message) if _anthropic(request) else error.event()
            await self._write(request, response.write((b"\n\n" if cut else b"") + event))
        await self._write(request, response.write_eof())

    async def _write(self, request: web.BaseRequest, writing: Awaitable[None]) -> None:
        """Wait for a client to take what is written, but not for ever."""
        try:
            async with asyncio.timeout(self._write_seconds):
                await writing
        except TimeoutError:
            _abort(request)
            raise ConnectionResetError("the client does not read") from None


class Protocol(RequestHandler):
    """aiohttp's connection, with its own refusals (bad request lines, absurd headers) in OpenAI's shape."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            log.error("connection failed: %s", exc or message)
        error = (
            BadRequest("The request is not valid HTTP.")
            if status < 500
            else GatewayError("The gateway failed.")
        )
        error.status = status
        response = web.Response(status=status, body=error.json(), content_type="application/json")
        response.headers["X-Request-Id"] = _new_id()
        response.force_close()
        return response


class HttpServer(web.Server):
    """The listener: bounds on heads, bodies and idle connections; a client that leaves cancels its handler."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        max_body: int,
        idle: float,
    ) -> None:
        super().__init__(
            handler,
            request_factory=self._bounded_request,
            handler_cancellation=True,
            keepalive_timeout=idle,
            access_log=None,
        )
        self._max_body = max_body

    def _bounded_request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: "asyncio.Task[None]"
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=self._max_body
        )

    def __call__(self) -> RequestHandler:
        return Protocol(self, loop=self._loop, **self._kwargs)


def _anthropic(request: web.BaseRequest) -> bool:
    """Whether the caller speaks Anthropic's API, as far as its path tells."""
    return request.rel_url.raw_path.startswith("/v1/messages")


def _new_id() -> str:
    return f"req_{_RANDOM.getrandbits(128):032x}"


def _require(request: web.BaseRequest, method: str) -> None:
    if request.method != method:
        raise MethodNotAllowed(
            f"Not allowed: {request.method} {request.rel_url.raw_path}. Use {method}.",
            headers={"Allow": method},
        )
    kind = request.content_type
    if (
        method == "POST"
        and "Content-Type" in request.headers
        and kind not in ("application/json", "text/plain")
    ):
        raise UnsupportedMedia(f"Content-Type '{kind}' is not supported here. Use application/json.")


async def _continue(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`, which the low-level server leaves to us."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _abort(request: web.BaseRequest) -> None:
    """Cut the connection, so that a half answer cannot be taken for a whole one."""
    if request.transport is not None:
        request.transport.abort()


def _decode(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}") from error


def _named(raw: bytes) -> Request | None:
    """A pass-through body that is JSON and names a model, as far as choosing and renaming it needs."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    name = fields.get("model") if isinstance(fields, dict) else None
    if not isinstance(name, str):
        return None
    return Request(
        endpoint="responses",
        raw=raw,
        fields={"model": name},  # nothing else of it is ours to read or change
        model=name,
        stream=False,
        wants_usage=False,
        question=None,
        barred="pass-through",
        uncacheable="pass-through",
        controls=Controls(),
    )


def _model_card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "semantic-gateway"}


def _json(status: int, value: Any) -> Reply:
    return Reply(status, CIMultiDict({"Content-Type": "application/json"}), orjson.dumps(value))
