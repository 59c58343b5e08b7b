"""Backends without sockets: what each answers is a script, for tests of the dispatch loop."""

import asyncio
from collections.abc import Callable
from typing import Any

from multidict import CIMultiDict

from gateway.errors import BackendUnreachable
from gateway.exchange import Exchange
from gateway.routing.dispatch import Dispatch, Terms
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.mirror import Mirror
from gateway.routing.strategies import LeastInFlight
from gateway.routing.upstream import Failed, Sent


class Answer:
    """What a real Incoming is, from a list of pieces; an exception among them breaks the body off."""

    def __init__(self, backend: Backend, status: int, headers: dict[str, str], pieces: list[Any]) -> None:
        self.backend, self.status, self.headers = backend, status, CIMultiDict(headers)
        self._pieces = list(pieces)
        self.chunks: list[bytes] = []
        self.size, self.ended, self.closed = 0, False, False

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        self.ended = not piece
        return bytes(piece)

    async def hold(self, limit: int) -> bool:
        while not self.ended and self.size <= limit:
            chunk = await self.read()
            if chunk:
                self.chunks.append(chunk)
                self.size += len(chunk)
        return self.ended

    def close(self) -> None:
        self.closed = True


def failing(kind: Any, *, stale: bool = False) -> Failed:
    failed = Failed(kind, BackendUnreachable(f"scripted: {kind}"))
    failed.stale = stale
    return failed


class Engines:
    """In place of Upstream. `script[backend id]` gives (status, headers, pieces), raises, or sleeps first."""

    def __init__(self) -> None:
        self.script: dict[str, Callable[[], Any]] = {}
        self.asked: list[str] = []
        self.sent: list[Sent] = []
        self.cancelled: list[str] = []
        self.delays: dict[str, float] = {}

    async def open(self, backend: Backend, method: str, path: str, sent: Sent, *, once: bool) -> Any:
        self.asked.append(backend.id)
        self.sent.append(sent)
        try:
            await asyncio.sleep(self.delays.get(backend.id, 0))
        except asyncio.CancelledError:
            self.cancelled.append(backend.id)
            raise
        status, headers, pieces = self.script.get(backend.id, ok)()
        answer = Answer(backend, status, headers, pieces)
        first = await answer.read()
        answer.chunks, answer.size = ([first] if first else []), len(first)
        return answer

    async def fetch_json(self, *given: Any) -> Any:
        raise BackendUnreachable("scripted")


def ok() -> tuple[int, dict[str, str], list[Any]]:
    return (
        200,
        {"Content-Type": "application/json"},
        [b'{"usage": {"prompt_tokens": 3,', b'"completion_tokens": 5}}'],
    )


def refusing(status: int, **headers: str) -> Callable[[], Any]:
    return lambda: (
        status,
        {k.replace("_", "-"): v for k, v in headers.items()},
        [b"no: ", str(status).encode()],
    )


def raising(kind: Any, **how: Any) -> Callable[[], Any]:
    def script() -> Any:
        raise failing(kind, **how)

    return script


def breaking(*pieces: bytes, kind: str = "application/json") -> Callable[[], Any]:
    return lambda: (200, {"Content-Type": kind}, [*pieces, failing("broken")])


class Into:
    """In place of a Call."""

    def __init__(self) -> None:
        self.backend = self.fallback = ""
        self.attempts = self.status = 0
        self.usage_added = False
        self.headers: Any = None
        self.body = b""

    def begin(self, status: int, headers: Any) -> None:
        assert self.status == 0, "begun twice"
        self.status, self.headers = status, headers

    async def feed(self, chunk: bytes) -> None:
        self.body += chunk


class Pool:
    """A dispatcher over models given as name → number of backends, on a clock that stands still."""

    def __init__(
        self, terms: Terms | None = None, /, fallback: dict[str, tuple[str, ...]] | None = None, **sizes: int
    ) -> None:
        self.engines = Engines()
        self.now = 1000.0
        self.models = [
            Model(
                name,
                tuple(backend(f"{name}/{i}") for i in range(size)),
                0,
                0,
                fallback=(fallback or {}).get(name, ()),
            )
            for name, size in sizes.items()
        ]
        self.fleet = Fleet(self.models, LeastInFlight())
        upstream: Any = self.engines
        self.dispatch = Dispatch(self.fleet, upstream, terms or Terms(), Mirror(), clock=lambda: self.now)

    def backend(self, id: str) -> Backend:
        return next(b for b in self.fleet.backends if b.id == id)

    async def send(self, name: str = "m", *, tenant: str = "t", **options: Any) -> Into:
        into = Into()
        x = options.pop("x", None) or Exchange(request_id="r", headers=CIMultiDict(), tenant=tenant)
        prepare = options.pop("prepare", lambda model, backend: Sent(CIMultiDict(), model.name.encode()))
        await self.dispatch.send(
            x, self.fleet.model(name), "POST", "/p", prepare=prepare, into=into, **options
        )
        return into

    @property
    def in_flight(self) -> list[int]:
        return [b.in_flight for b in self.fleet.backends]


def backend(id: str, **fields: Any) -> Backend:
    return Backend(id=id, url="http://e/v1", model=None, api_key="", weight=1.0, stream_usage=True, **fields)
