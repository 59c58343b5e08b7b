"""One attempt over real HTTP: what its failures are called, and what it leaves behind."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from gateway.errors import BackendUnreachable, RequestTimeout
from gateway.routing.fleet import Backend
from gateway.routing.upstream import Failed, Sent, Upstream
from tests.harness import ScriptedBackend
from tests.harness.backend import Seen
from tests.routing.engines import backend as made


def at(url: str) -> Backend:
    found = made("m/0")
    found.url = url
    return found


def run(story: Callable[[Upstream], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        upstream = Upstream(**{"connections": 8, "connect": 1.0, "idle": 5.0, **options})
        try:
            await story(upstream)
        finally:
            await upstream.close()
            await asyncio.sleep(0.02)  # cut connections are taken off the loop

    asyncio.run(whole())


async def post(upstream: Upstream, backend: Backend, body: Any = b"{}", *, once: bool = False) -> Any:
    sent = Sent(CIMultiDict({"Content-Type": "application/json"}), body)
    return await upstream.open(backend, "POST", "/other", sent, once=once)


def test_an_answer_comes_with_its_first_byte(backend: ScriptedBackend) -> None:
    async def story(upstream: Upstream) -> None:
        incoming = await post(upstream, at(backend.url))
        assert incoming.status == 200
        assert await incoming.hold(1000)
        assert b'"method": "POST"' in b"".join(incoming.chunks)
        assert incoming.ended
        incoming.close()

    run(story)


def test_nobody_there_is_a_refusal() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"

    async def story(upstream: Upstream) -> None:
        with pytest.raises(Failed) as told:
            await post(upstream, at(url))
        assert told.value.kind == "refused"
        assert isinstance(told.value.error, BackendUnreachable)
        assert await upstream.look(at(url)) == "dead"

    run(story)


def scripted(backend: ScriptedBackend, act: Callable[[web.Request], Awaitable[Any]]) -> None:
    async def script(seen: Seen) -> Any:
        return await act(seen.request)

    backend.script = script


def test_a_body_that_breaks_off_is_broken_before_and_within(backend: ScriptedBackend) -> None:
    async def at_once(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def within(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    async def story(upstream: Upstream) -> None:
        scripted(backend, at_once)
        with pytest.raises(Failed) as told:
            await post(upstream, at(backend.url))
        assert (told.value.kind, told.value.stale) == ("broken", True)
        scripted(backend, within)
        incoming = await post(upstream, at(backend.url))
        assert incoming.chunks == [b"half"]
        with pytest.raises(Failed) as told:
            await incoming.read()
        assert told.value.kind == "broken"
        incoming.close()

    run(story)


def test_silence_within_a_body_is_a_timeout(backend: ScriptedBackend) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        await asyncio.sleep(5)
        return response

    async def story(upstream: Upstream) -> None:
        scripted(backend, hang)
        incoming = await post(upstream, at(backend.url))
        with pytest.raises(Failed) as told:
            await incoming.read()
        assert told.value.kind == "timeout"
        incoming.close()

    run(story, idle=0.2)


def test_waiting_for_a_free_connection_is_not_the_engines_failure(backend: ScriptedBackend) -> None:
    async def story(upstream: Upstream) -> None:
        backend.delay = 2.0
        busy = at(backend.url)
        first = asyncio.create_task(post(upstream, busy))
        await asyncio.sleep(0.1)
        busy.signals.in_flight = 2
        with pytest.raises(Failed) as told:
            await post(upstream, busy)
        assert told.value.kind == "rejected"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    run(story, connections=1, connect=0.2)


def test_giving_up_stops_the_engines_work(backend: ScriptedBackend) -> None:
    async def story(upstream: Upstream) -> None:
        backend.delay = 30.0
        task = asyncio.create_task(post(upstream, at(backend.url)))
        while not backend.seen:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(200):
            if backend.cancelled:
                break
            await asyncio.sleep(0.01)
        assert backend.cancelled == 1

    run(story)


def test_a_body_read_once_gets_a_connection_of_its_own(backend: ScriptedBackend) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    async def story(upstream: Upstream) -> None:
        ports = []

        async def note(request: web.Request) -> web.Response:
            assert request.transport is not None
            ports.append(request.transport.get_extra_info("peername")[1])
            return web.Response(body=b"ok")

        scripted(backend, note)
        for once in (False, False, True, True):
            incoming = await post(upstream, at(backend.url), pieces() if once else b"{}", once=once)
            await incoming.hold(100)
            incoming.close()
            await asyncio.sleep(0.01)
        assert ports[0] == ports[1]
        assert len(set(ports)) == 3

    run(story)


def test_a_callers_own_failure_keeps_its_name(backend: ScriptedBackend) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        raise RequestTimeout("The request body did not arrive.")

    async def story(upstream: Upstream) -> None:
        with pytest.raises(RequestTimeout):
            await post(upstream, at(backend.url), pieces(), once=True)

    run(story)


def test_looks_beside_the_traffic(backend: ScriptedBackend) -> None:
    async def story(upstream: Upstream) -> None:
        engine = at(backend.url)
        assert await upstream.look(engine) == "alive"
        page = backend.url.removesuffix("/v1") + "/metrics"
        assert await upstream.fetch_text(page, limit=100, seconds=1.0) is None
        backend.metrics = "tgi_queue_size 1\n"
        assert await upstream.fetch_text(page, limit=100, seconds=1.0) == "tgi_queue_size 1\n"
        backend.metrics = "x" * 200
        with pytest.raises(BackendUnreachable):
            await upstream.fetch_text(page, limit=100, seconds=1.0)

        async def ill(request: web.Request) -> web.Response:
            return web.Response(status=503)

        scripted(backend, ill)
        assert await upstream.look(engine) == "ill"

    run(story)
