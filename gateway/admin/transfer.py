"""Routes of the admin port for moving answers in bulk; what they do is decided in `gateway.transfer`.

Must never answer half an export as if it were a whole one: a store that fails on the way cuts the connection.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from gateway.errors import BadRequest, Overloaded, StoreError
from gateway.exchange import Entry
from gateway.transfer.lines import BadLine, Terms, head
from gateway.transfer.room import MAX_LINES, Tally, Transfer

log = logging.getLogger("gateway.admin")
_TEXTS = ("model", "tenant", "key", "category")


def routes(transfer: Transfer, loaded: Callable[[], bool]) -> list[web.RouteDef]:
    """`loaded`: whether everything that is stored can be found yet."""

    async def export(request: web.Request) -> web.StreamResponse:
        _refuse_early(loaded)
        pieces = transfer.dump(_wanted(request.query))
        response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
        await response.prepare(request)
        try:
            async for piece in pieces:
                await response.write(piece)
        except StoreError as error:
            log.error("an export broke off: %s", error)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the export is not whole") from error
        await response.write_eof()
        return response

    async def restore(request: web.Request) -> web.Response:
        _refuse_early(loaded)
        given = await _object(request, {"head", "lines"})
        try:
            found = head(given.get("head"))
        except BadLine as fault:
            raise BadRequest(str(fault), param="head") from fault
        return _told(await transfer.restore(found, _lines(given)))

    async def warm(request: web.Request) -> web.Response:
        _refuse_early(loaded)
        given = await _object(request, {"lines", "fields", "replace", *_TEXTS})
        return _told(await transfer.warm(_terms(given), _lines(given)))

    return [
        web.get("/cache/export", export),
        web.post("/cache/import", restore),
        web.post("/cache/warm", warm),
    ]


def _refuse_early(loaded: Callable[[], bool]) -> None:
    if not loaded():
        raise Overloaded("The cache is being loaded; try again when /readyz says so.", code="not_ready")


def _wanted(query: Mapping[str, str]) -> Callable[[Entry], bool]:
    tenant = query.get("tenant", "")
    tenant = tenant if not tenant or tenant.startswith(("k:", "t:")) else f"t:{tenant}"
    category, model = query.get("category", ""), query.get("model", "")
    return lambda entry: (
        tenant in ("", entry.tenant) and category in ("", entry.category) and model in ("", entry.model)
    )


async def _object(request: web.Request, known: set[str]) -> dict[str, Any]:
    try:
        given = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}") from error
    if not isinstance(given, dict) or not given.keys() <= known:
        raise BadRequest(f"The body must be an object with some of: {', '.join(sorted(known))}.")
    return given


def _lines(given: dict[str, Any]) -> list[Any]:
    lines = given.get("lines")
    if not isinstance(lines, list) or len(lines) > MAX_LINES:
        raise BadRequest(f"'lines' must be an array of at most {MAX_LINES}.", param="lines")
    return lines


def _terms(given: dict[str, Any]) -> Terms:
    texts = {name: given.get(name, "") for name in _TEXTS}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise BadRequest(f"'{name}' must be a string.", param=name)
    fields, replace = given.get("fields"), given.get("replace", False)
    if not isinstance(fields, dict | None):
        raise BadRequest("'fields' must be an object.", param="fields")
    if not isinstance(replace, bool):
        raise BadRequest("'replace' must be true or false.", param="replace")
    return Terms(**texts, fields=fields, replace=replace)


def _told(tally: Tally) -> web.Response:
    faults = [{"at": at, "reason": reason} for at, reason in tally.faults]
    return web.Response(
        body=orjson.dumps({"outcomes": dict(tally.outcomes), "faults": faults}),
        content_type="application/json",
    )
