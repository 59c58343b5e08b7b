"""One whole answer from a model, for the gateway itself: behind the gate, for a judge, beside the traffic.

It goes through dispatch like any request and is counted like any. It must never be a client's stream, and
never hide that the model asked was not the one that answered.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson
from multidict import CIMultiDict

from gateway.cache.flight import Call
from gateway.errors import BackendUnreachable
from gateway.exchange import Answer, Controls, Endpoint, Exchange, Request
from gateway.metrics import Metrics
from gateway.routing.dispatch import Dispatch
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.headers import accept_readable, to_upstream
from gateway.routing.upstream import Sent
from gateway.wire import answer
from gateway.wire.dialect import spoken
from gateway.wire.request import remade

PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "messages": "/messages",
    "embeddings": "/embeddings",
}
OFF_LOOP = 64 << 10  # bytes; longer answers are taken apart on another thread


@dataclass(frozen=True, slots=True)
class Asked:
    """A complete 2xx answer, and who gave it."""

    answer: Answer
    headers: Any  # as upstream sent them
    backend: str
    attempts: int
    cost: float  # dollars


class Asker:
    """Asks listed models. `keep`: bytes of an answer at most."""

    def __init__(
        self,
        fleet: Fleet,
        dispatch: Dispatch,
        metrics: Metrics,
        trust_client_key: Callable[[], bool],
        keep: int,
    ) -> None:
        self._fleet = fleet
        self._dispatch = dispatch
        self._metrics = metrics
        self._trust_client_key = trust_client_key
        self._keep = keep

    async def ask(self, x: Exchange, name: str) -> Asked:
        """The model's own answer to `x.request`, which does not stream; no fallback's.

        Raises:
            GatewayError: there is none, or not a 2xx, or it is too long.
        """
        model = self.alone(name)

        async def run(call: Call) -> None:
            await self._dispatch.send(
                x, model, "POST", path(x), prepare=self._prepare(x), into=call, hold=self._keep
            )

        call = Call(run, self._keep)
        reader = call.subscribe()
        try:
            await reader.head()
            async for _ in reader.chunks():
                pass
        finally:
            reader.leave()
        return await self._read(x, model, call)

    async def again(self, x: Exchange, name: str) -> Asked:
        """What the model says to the caller's own request, beside the traffic. `name`: of its request id.

        Raises as `ask` does.
        """
        request = x.request
        assert request is not None
        fields = {key: value for key, value in request.fields.items() if key != "cache"}
        return await self.ask(beside(x, remade(request, fields, stream=False), name), request.model)

    def alone(self, name: str) -> Model:
        """A model's entry without its fallbacks. Raises NotFound."""
        model = self._fleet.model(name)
        return replace(model, fallback=()) if model.fallback else model

    def _prepare(self, x: Exchange) -> Callable[[Model, Backend], Sent]:
        def prepare(_: Model, backend: Backend) -> Sent:
            sent = prepared(x, backend, model=backend.model, trust_client=self._trust_client_key())
            accept_readable(sent.headers)
            return sent

        return prepare

    async def _read(self, x: Exchange, model: Model, call: Call) -> Asked:
        request, whole = x.request, call.whole
        assert request is not None
        if whole is None or not 200 <= call.status < 300:
            raise BackendUnreachable(
                f"The model '{model.name}' gave no answer that can be used ({call.status})."
            )
        read = await taken_apart(request.endpoint, call.headers, whole)
        self._metrics.used(model.name, read.usage.prompt, read.usage.completion)
        return Asked(read, call.headers, call.backend, call.attempts, model.cost(read.usage))


async def taken_apart(endpoint: Endpoint, head: Any, whole: bytes, n: int = 1) -> Answer:
    """A whole answer in its canonical form. `head`: the headers it came with; `n`: choices it must have."""
    given = (endpoint, head.get("Content-Type", ""), head.get("Content-Encoding", ""), whole)
    if len(whole) <= OFF_LOOP:
        return answer.read(*given, n=n)
    return await asyncio.to_thread(answer.read, *given, n=n)


def prepared(
    x: Exchange, backend: Backend, *, model: str | None, trust_client: bool, include_usage: bool = False
) -> Sent:
    """What a backend is sent for `x.request`, in the API it speaks.

    Raises:
        Untranslatable: the request has no form there.
    """
    assert x.request is not None
    said = spoken(x.request, backend.api, model=model, include_usage=include_usage)
    translated = said.translator is not None
    headers = to_upstream(
        x.headers,
        api_key=backend.api_key,
        trust_client=trust_client,
        request_id=x.request_id,
        api=backend.api,
        translated=translated,
    )
    if said.usage_added or translated:  # something can be taken out of plain text only, or said anew
        headers["Accept-Encoding"] = "identity"
    elsewhere = None if said.endpoint is None else PATHS[said.endpoint] + x.query
    return Sent(headers, said.body, said.usage_added, elsewhere, said.translator)


def path(x: Exchange) -> str:
    """Below the base URL, with the caller's query."""
    assert x.request is not None
    return PATHS[x.request.endpoint] + x.query


def aside(x: Exchange, request: Request) -> Exchange:
    """The caller's exchange with another request in it: a small model's."""
    return Exchange(
        x.request_id,
        x.headers,
        x.query,
        tenant=x.tenant,
        grant=x.grant,
        request=request,
        ruling=x.ruling,
        plan=x.plan,
        trace=x.trace,
    )


def beside(x: Exchange | None, request: Request, name: str) -> Exchange:
    """An exchange that nobody waits for: it takes its place after all others. `name`: of its request id.

    With the credentials of the caller whose request gave rise to it, where there is one.
    """
    headers: CIMultiDict[str] = CIMultiDict() if x is None else CIMultiDict(x.headers)
    for each in ("x-gateway-deadline", "x-gateway-session", "traceparent", "tracestate"):
        headers.popall(each, None)
    headers["x-gateway-priority"] = "batch"
    headers["Content-Type"] = "application/json"
    id = f"{name}-{time.time_ns():x}" if x is None else f"{x.request_id[:180]}-{name}"
    return Exchange(
        id, headers, "" if x is None else x.query, tenant="" if x is None else x.tenant, request=request
    )


def question(model: str, text: str, **fields: Any) -> Request:
    """A chat request of one user message."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return Request("chat", orjson.dumps(body), body, model, False, False, text, None, None, Controls())
