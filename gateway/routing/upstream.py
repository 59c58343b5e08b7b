"""Calls to serving engines over HTTP. Bytes go through as they are; foreign errors are translated here.

An answer with any status is an answer. Only a connection that fails is a failure, and then the next backend
of the model is tried, as long as no byte has come back.
"""

import asyncio
import io
import time
from collections.abc import Callable
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from gateway.errors import BackendTimeout, BackendUnreachable, GatewayError
from gateway.exchange import Exchange, Work
from gateway.routing.fleet import Backend, Fleet, Model

_UNKNOWN = Work(prompt=0, output=0)
_LARGE = 1 << 20  # bytes; a longer body is written in pieces, so that others get their turn
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Upstream:
    """The HTTP client in front of all backends.

    Args:
        connections: at most this many to one backend.
        connect: seconds to a connection, waiting for a free one included.
        idle: seconds without a byte from the engine.
    """

    def __init__(self, fleet: Fleet, *, connections: int, connect: float, idle: float) -> None:
        self._fleet = fleet
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=connections, keepalive_timeout=15),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=idle),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        exchange: Exchange,
        model: Model,
        method: str,
        path: str,
        *,
        headers: Callable[[Backend], CIMultiDict[str]],
        body: Callable[[Backend], Any],
        into: Any,
        once: bool = False,
    ) -> None:
        """Call one of the model's backends and pump its answer `into` a Call (begin, then feed).

        Args:
            path: below the base URL, with its query, raw, such as `/chat/completions`.
            headers, body: what a given backend is sent.
            once: the body can be read only once, so there is no second try.

        Raises:
            GatewayError: no backend could be reached, or the answer broke off.
        """
        tried: set[str] = set()
        stale = 0
        while True:
            with self._fleet.lease(model, exchange.work or _UNKNOWN, tried, time.monotonic()) as lease:
                backend = lease.backend
                into.backend = backend.id
                try:
                    payload = body(backend)
                    return await self._attempt(backend, method, path, headers(backend), payload, into)
                except GatewayError as error:
                    if error.status < 500:
                        raise  # the caller's fault: it says nothing about the engine
                    # A kept-alive connection may have been closed by the engine just as it was reused: that
                    # says nothing about the engine, so the same one may be asked once more.
                    stale += isinstance(error.__cause__, aiohttp.ServerDisconnectedError)
                    if not (isinstance(error.__cause__, aiohttp.ServerDisconnectedError) and stale == 1):
                        tried.add(backend.id)
                        backend.failures += 1
                    if into.status or once or not self._untried(model, tried):
                        if len(tried) > 1:
                            error.headers = {**error.headers, "x-should-retry": "false"}
                        raise

    def _untried(self, model: Model, tried: set[str]) -> bool:
        return any(b.id not in tried and not b.draining for b in model.backends)

    async def _attempt(
        self, backend: Backend, method: str, path: str, headers: CIMultiDict[str], body: Any, into: Any
    ) -> None:
        if isinstance(body, bytes) and len(body) > _LARGE:
            body = io.BytesIO(body)
        try:
            async with self._session.request(
                method,
                URL(backend.url + path, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            ) as response:
                into.begin(response.status, response.headers)
                async for chunk in response.content.iter_any():
                    await into.feed(chunk)
        except TimeoutError as error:
            raise BackendTimeout(f"The backend '{backend.id}' did not answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__, GatewayError):
                raise error.__cause__ from error  # the caller's body could not be read to its end
            raise BackendUnreachable(f"The backend '{backend.id}' cannot be reached or broke off.") from error

    async def fetch_json(self, backend: Backend, path: str, headers: CIMultiDict[str], seconds: float) -> Any:
        """A small GET beside the traffic, such as the engine's list of models."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.get(backend.url + path, headers=headers) as response,
            ):
                return await response.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise BackendUnreachable(f"The backend '{backend.id}' cannot be reached.") from error
