"""One attempt at one backend over HTTP. Bytes go through as they are; foreign errors are translated here.

An answer with any status is an answer; whether another backend is asked is `dispatch`'s business.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.errors import BackendTimeout, BackendUnreachable, GatewayError, Overloaded
from gateway.routing.fleet import Backend
from gateway.routing.headers import credentials
from gateway.routing.health import Kind, Sight

_LARGE = 1 << 20  # bytes; a longer body is written in pieces, so that others get their turn
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Translator(Protocol):
    """Says an answer in another API's form as it comes. Both raise GatewayError where it has none."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


@dataclass(slots=True)
class Sent:
    """What one backend is sent."""

    headers: CIMultiDict[str]
    body: Any
    usage_added: bool = False  # the gateway asks for a usage chunk that the caller did not
    path: str | None = None  # where to, if the backend speaks another API than the caller
    translator: Callable[[int, str], Translator] | None = None  # (status, content type) → of its answer


class Failed(Exception):
    """An attempt that gave no answer to pass on yet.

    Attributes:
        kind: what happened.
        error: what the caller is told if nobody else answers.
        held: the engine's own answer, whole, where there is one: then that is what the caller is told.
    """

    def __init__(self, kind: Kind, error: GatewayError, *, held: "Incoming | None" = None) -> None:
        super().__init__(error.message)
        self.kind = kind
        self.error = error
        self.held = held
        self.stale = False  # perhaps a kept connection that the engine closed just as it was reused


class Incoming:
    """An answer whose head and first piece are here. `close` it, however reading ends."""

    __slots__ = ("_response", "_translator", "backend", "chunks", "ended", "headers", "size", "status")

    def __init__(self, response: aiohttp.ClientResponse, backend: Backend, sent: Sent) -> None:
        self._response = response
        self.backend = backend
        self.status = response.status
        self.headers: CIMultiDict[str] | CIMultiDictProxy[str] = response.headers
        self._translator: Translator | None = None
        if sent.translator is not None:
            self.headers = CIMultiDict(response.headers)
            self.headers.popall("Content-Length", None)
            self._translator = sent.translator(self.status, response.headers.get("Content-Type", ""))
        self.chunks: list[bytes] = []  # read so far by `first` and `hold`
        self.size = 0
        self.ended = False

    async def first(self) -> None:
        """Wait for the first byte of the body, or for its end."""
        self._keep(await self.read())
        if self._translator is not None and self.ended and isinstance(self.headers, CIMultiDict):
            self.headers["Content-Length"] = str(self.size)

    async def hold(self, limit: int) -> bool:
        """Read to the end, or to `limit` bytes; tells whether the body is whole."""
        while not self.ended and self.size <= limit:
            self._keep(await self.read())
        return self.ended

    async def read(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            Failed: the body broke off.
        """
        chunk = await self._read()
        while self._translator is not None:
            chunk = self._said(self._translator, chunk)
            if chunk or self.ended:
                break
            chunk = await self._read()
        return chunk

    def _said(self, translator: Translator, chunk: bytes) -> bytes:
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Failed("broken", BackendUnreachable(f"The backend '{self.backend.id}' packs its answers."))
        try:
            said = translator.feed(chunk)
            return said + translator.finish() if self.ended else said
        except GatewayError as error:
            raise Failed("broken", error) from error

    async def _read(self) -> bytes:
        content = self._response.content
        try:
            chunk = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _translated(error, self.backend) from error
        if content.at_eof():
            self.ended = True
            self._response.release()
        return chunk

    def _keep(self, chunk: bytes) -> None:
        if chunk:
            self.chunks.append(chunk)
            self.size += len(chunk)

    def close(self) -> None:
        """Give the connection back if the body is over, else cut it, which stops the engine's work."""
        if not self.ended:
            self._response.close()


class Upstream:
    """The HTTP client in front of all backends.

    Args:
        connections: at most this many to one backend.
        connect: seconds to a connection.
        idle: seconds without a byte from the engine.
    """

    def __init__(self, *, connections: int, connect: float, idle: float) -> None:
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect, sock_connect=connect, sock_read=idle
        )
        self._session = self._open_session(force_close=False)
        # A body that can be read only once must not meet a kept connection that the engine is just closing.
        self._fresh = self._open_session(force_close=True)

    def _open_session(self, *, force_close: bool) -> aiohttp.ClientSession:
        kept: dict[str, Any] = {"force_close": True} if force_close else {"keepalive_timeout": 15}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._connections, **kept),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
        )

    async def close(self) -> None:
        await self._session.close()
        await self._fresh.close()

    async def open(self, backend: Backend, method: str, path: str, sent: Sent, *, once: bool) -> Incoming:
        """Send a request; returns at the first byte of the answer's body.

        Args:
            path: below the base URL, with its query, raw, such as `/chat/completions`.
            once: the body can be read only once.

        Raises:
            Failed: no answer came.
            GatewayError: the caller's own body could not be read to its end.
        """
        body = sent.body
        if isinstance(body, bytes) and len(body) > _LARGE:
            body = io.BytesIO(body)
        session = self._fresh if once else self._session
        try:
            response = await session.request(
                method,
                _url(backend.url, sent.path or path),
                headers=sent.headers,
                data=body,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__, GatewayError):
                raise error.__cause__ from error
            raise self._unopened(error, backend) from error
        incoming = Incoming(response, backend, sent)
        try:
            await incoming.first()
        except BaseException:
            incoming.close()
            raise
        return incoming

    def _unopened(self, error: Exception, backend: Backend) -> Failed:
        if isinstance(error, aiohttp.ConnectionTimeoutError) and backend.in_flight > self._connections:
            # All connections to it are in use: that says nothing about the engine's health.
            message = f"Every connection to the backend '{backend.id}' is in use."
            return Failed("rejected", Overloaded(message, headers={"Retry-After": "1"}))
        return _translated(error, backend)

    async def look(self, backend: Backend) -> Sight:
        """A small GET beside the traffic, to see whether anybody is there."""
        headers = credentials(backend.api_key, backend.api)
        try:
            async with self._session.get(backend.url + "/models", headers=headers) as response:
                return "alive" if response.status < 500 else "ill"
        except (aiohttp.ClientError, OSError):
            return "dead"

    async def fetch_json(self, backend: Backend, path: str, headers: CIMultiDict[str], seconds: float) -> Any:
        """A small GET, such as the engine's list of models."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.get(backend.url + path, headers=headers, timeout=timeout) as response:
                return await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise BackendUnreachable(f"The backend '{backend.id}' cannot be reached.") from error

    async def fetch_text(self, url: str, *, limit: int, seconds: float) -> str | None:
        """A page of at most `limit` bytes; None if it does not exist.

        Raises:
            BackendUnreachable: it cannot be read.
        """
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.get(url, timeout=timeout) as response:
                if response.status in (401, 403, 404, 405, 501):
                    return None
                body = await _up_to(response.content, limit)
        except (aiohttp.ClientError, OSError) as error:
            raise BackendUnreachable(f"{url} cannot be read.") from error
        if response.status != 200 or body is None:
            raise BackendUnreachable(f"{url} cannot be read.")
        return body.decode("utf-8", "replace")


@lru_cache(1024)
def _url(base: str, path: str) -> URL:
    return URL(base + path, encoded=True)


async def _up_to(stream: aiohttp.StreamReader, limit: int) -> bytes | None:
    body = bytearray()
    while chunk := await stream.readany():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _translated(error: Exception, backend: Backend) -> Failed:
    unreachable = BackendUnreachable(f"The backend '{backend.id}' cannot be reached or broke off.")
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return Failed("refused", unreachable)
    if isinstance(error, TimeoutError):
        return Failed("timeout", late(backend))
    failed = Failed("broken", unreachable)
    failed.stale = isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionResetError))
    return failed


def late(backend: Backend) -> BackendTimeout:
    return BackendTimeout(f"The backend '{backend.id}' did not answer in time.")
