"""The console: a page on the admin port, its files, and what it asks for beyond the operators' API.

Serves files of this package and of one chart library's, without a build step and without a request to anywhere else.
The page holds no data: what it shows it asks the admin API for, with the operator's token.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.resources import files
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.cache.cache import Cache
from gateway.errors import BadRequest, NotFound, Unauthorized
from gateway.exchange import Entry
from gateway.tenant import Tenants
from gateway.traffic import KEPT, Traffic

_MODULES = ("console", "api", "dom", "charts", "live", "ledger", "entries", "policies", "playground")
FILES = {
    "index.html": "text/html",
    "console.css": "text/css",
    "icon.svg": "image/svg+xml",
    **{f"{name}.js": "text/javascript" for name in _MODULES},
}  # fmt: skip
CHARTS = "plotly.min.js"  # of the package plotly (extra `console`); without it the console shows tables
OPEN_PATHS = frozenset(["/", *(f"/console/{name}" for name in (*FILES, CHARTS))])
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)  # the chart library sets styles of its own
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PLAYED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
# What applications set; of the rest, some would break the request that is made with them (Content-Length, Expect).
HEADER = "^(?:[Aa]uthorization|[Aa]pi-[Kk]ey|[Cc]ache-[Cc]ontrol|[Xx]-[A-Za-z0-9-]{1,60})$"
_FOUND = 100  # entries a search lists, unless asked for fewer
_SLICE = 2_000  # entries looked at before others get their turn


class Told(NamedTuple):
    """A response of the data port."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Explain = Callable[[bytes, CIMultiDict[str], str], Awaitable[dict[str, Any]]]
Ask = Callable[[str, bytes, Mapping[str, str]], Awaitable[Told]]  # (path, body, headers)


class Console:
    """Routes beside those of the admin API.

    Args:
        explain: (body, headers, tenant) → what would become of the request.
        ask: sends a request to the gateway's own data port, as an application would.
        entry: an entry as JSON.
    """

    def __init__(
        self,
        cache: Cache,
        traffic: Traffic,
        tenants: Tenants,
        explain: Explain,
        ask: Ask,
        entry: Callable[[Entry], dict[str, Any]],
    ) -> None:
        self._cache, self._traffic, self._tenants = cache, traffic, tenants
        self._explain, self._ask, self._entry = explain, ask, entry

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/console/{file}", self._file),
            web.get("/traffic", self._recent),
            web.get("/cache/entries", self._search),
            web.post("/playground", self._play),
        ]

    async def _page(self, request: web.Request) -> web.Response:
        return await _packaged("index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name in FILES:
            return await _packaged(name)
        library = _charts() if name == CHARTS else None
        if library is None:
            raise NotFound(f"There is no console file '{name[:100]}'.")
        return web.FileResponse(library, headers={**_HEADERS, "Cache-Control": "max-age=86400"})

    async def _recent(self, request: web.Request) -> web.Response:
        """Decisions after a number, newest first, and counts a minute."""
        after, limit = whole(request, "after", 0), whole(request, "limit", 100)
        found = self._traffic.since(after, min(limit, KEPT))
        return _json(
            {
                "next": found[0].number if found else after,
                "decisions": [decided.told() for decided in found],
                "minutes": self._traffic.minutes(),
                "categories": self._traffic.categories(),
            }
        )

    async def _search(self, request: web.Request) -> web.Response:
        """Entries whose question holds a text, newest first."""
        query, limit = request.query, min(whole(request, "limit", _FOUND), 1_000)
        words = query.get("q", "").casefold()
        wanted = {name: query[name] for name in ("tenant", "category", "model") if query.get(name)}
        entries, found, looked = self._cache.catalog.entries(), [], 0
        for part in _parts(entries):
            found += [
                entry for entry in part
                if words in entry.question.casefold()
                and all(getattr(entry, name) == value for name, value in wanted.items())
            ]  # fmt: skip
            looked += len(part)
            await asyncio.sleep(0)
        newest = sorted(found, key=lambda entry: -entry.created)[:limit]
        return _json(
            {"count": len(found), "looked": looked, "entries": [self._entry(entry) for entry in newest]}
        )

    async def _play(self, request: web.Request) -> web.Response:
        """What would become of an application's request and, unless `send` is false, what does."""
        path, body, headers, send = _played(await request.read())
        raw, named = orjson.dumps({**body, "stream": False}), CIMultiDict(headers)
        try:
            tenant = self._tenants.resolve(named)
        except Unauthorized as error:  # a 401 would be taken for the operator's own token
            raise BadRequest(f"No tenant has this API key: {error.message}", param="headers") from error
        explained = await self._explain(raw, named, tenant)
        return _json(
            {"explained": explained, "answer": await self._answered(path, raw, headers) if send else None}
        )

    async def _answered(self, path: str, raw: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        told = await self._ask(path, raw, headers)
        try:
            body = orjson.loads(told.body)
        except orjson.JSONDecodeError:
            body = told.body.decode("utf-8", "replace")
        return {"status": told.status, "headers": {str(k): v for k, v in told.headers.items()}, "body": body}


def _played(raw: bytes) -> tuple[str, dict[str, Any], dict[str, str], bool]:
    """Path, body, headers, and whether to send it. Raises BadRequest."""
    try:
        given = orjson.loads(raw)
        path, body, headers, send = (
            given["path"],
            given["body"],
            given.get("headers", {}),
            given.get("send", True),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(
            f"The body must hold path and body, and may hold headers and send ({error})."
        ) from error
    if path not in PLAYED or not isinstance(body, dict) or not _plain(headers) or not isinstance(send, bool):
        raise BadRequest(
            f"path is one of {', '.join(PLAYED)}, body an object, headers an object of texts "
            "(authorization, api-key, cache-control, x-…), send a boolean."
        )
    return path, body, headers, send


def whole(request: web.Request, name: str, default: int, *, digits: int = 12) -> int:
    """A number from the query, of so many digits at most. Raises BadRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= digits):
        raise BadRequest(f"{name} is a whole number, zero or more.", param=name)
    return int(text)


def _plain(headers: Any) -> bool:
    return (
        isinstance(headers, dict)
        and len(headers) <= 20
        and all(re.fullmatch(HEADER, name) for name in headers)
        and all(isinstance(text, str) and text.isprintable() and text.isascii() for text in headers.values())
    )


def _parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    remaining = iter(entries)
    while part := list(islice(remaining, _SLICE)):
        yield part


async def _packaged(name: str) -> web.Response:
    body = await asyncio.to_thread(files("gateway.console").joinpath(name).read_bytes)
    return web.Response(
        body=body,
        content_type=FILES[name],
        charset="utf-8",
        headers={**_HEADERS, "Cache-Control": "no-cache"},
    )


def _charts() -> Path | None:
    """The chart library's script, where its package is installed. Does not import it."""
    spec = find_spec("plotly")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "package_data" / CHARTS
    return path if path is not None and path.is_file() else None


def _json(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value, default=str), content_type="application/json")
