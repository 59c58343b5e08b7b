"""The bytes to send upstream: the caller's own, but for what must change.

Decides where to cut. It must never re-encode a body: values it does not replace keep their spelling.
"""

import json
import re
from collections.abc import Iterator
from json.decoder import WHITESPACE, scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import orjson

from gateway.exchange import Request
from gateway.wire.fingerprint import ours

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # str: integers of any length
_VALUE = re.compile(rb'\s*:\s*("[^"\\]*")')
_ASK = '"stream_options":{"include_usage":true}'


class _Member(NamedTuple):
    """One member of the outermost object, as character offsets: its key, its value, its end."""

    key: str
    start: int
    value: int
    end: int


def rewrite(request: Request, *, model: str | None = None, include_usage: bool = False) -> bytes:
    """The body with the model renamed, our `cache` object removed and the usage chunk asked for.

    `raw` itself when none of this is needed. Usage is asked for only on chat and completions streams whose
    caller did not; a value of another type than ours is left for the engine to refuse.
    """
    raw, fields = request.raw, request.fields
    name = model if model != request.model else None
    strip = "cache" in fields and ours(fields["cache"])
    ask = include_usage and _lacks_usage(request)
    if strip or (ask and "stream_options" in fields):
        return _edited(request, name, strip, ask)
    if name is not None:
        span = _plain_model(raw)
        if span is None:
            return _edited(request, name, strip, ask)
        raw = raw[: span[0]] + orjson.dumps(name) + raw[span[1] :]
    if ask:
        end = raw.rindex(b"}")
        raw = b"%s,%s%s" % (raw[:end], _ASK.encode(), raw[end:])
    return raw


def _lacks_usage(request: Request) -> bool:
    if not request.stream or request.endpoint not in ("chat", "completions"):
        return False
    options = request.fields.get("stream_options")
    if not isinstance(options, dict):
        return options is None
    asked = options.get("include_usage")
    return asked is None or asked is False


def _plain_model(raw: bytes) -> tuple[int, int] | None:
    """Where the model's name stands, quotes included, if one look can tell; else None.

    The key is certain when its quoted letters occur once, begin no longer string's tail, and no key can be
    spelled with escapes of these letters (all of which begin alike).
    """
    at = raw.find(b'"model"')
    if at < 1 or raw[at - 1] == 0x5C or raw.find(b'"model"', at + 1) >= 0 or b"\\u006" in raw:
        return None
    found = _VALUE.match(raw, at + len(b'"model"'))
    return found.span(1) if found else None


def _edited(request: Request, model: str | None, strip: bool, ask: bool) -> bytes:
    """The body with every edit made at its member's place."""
    text = request.raw.decode()
    members = list(_members(text))
    at = {member.key: index for index, member in enumerate(members)}
    edits: list[tuple[int, int, str]] = []  # start, end, replacement
    if model is not None:
        edits.append((*members[at["model"]][2:], _json(model)))
    if strip:
        edits.append((*_with_comma(members, at["cache"]), ""))
    if ask and "stream_options" in at:
        options = request.fields["stream_options"] or {}
        edits.append((*members[at["stream_options"]][2:], _json({**options, "include_usage": True})))
    elif ask:
        end = text.rindex("}")
        edits.append((end, end, f",{_ASK}"))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text.encode()


def _with_comma(members: list[_Member], index: int) -> tuple[int, int]:
    """The span to cut so that commas still fit; another member is always there: the model."""
    if index == 0:
        return members[0].start, members[1].start
    return members[index - 1].end, members[index].end


def _members(text: str) -> Iterator[_Member]:
    """The outermost object's members, in order. `text` is known to be valid and not empty."""
    start = _skip(text, _skip(text, 0) + 1)
    while True:
        key, end = scanstring(text, start + 1)
        value = _skip(text, _skip(text, end) + 1)
        _, end = _DECODER.raw_decode(text, value)
        yield _Member(key, start, value, end)
        comma = _skip(text, end)
        if text[comma] == "}":
            return
        start = _skip(text, comma + 1)


def _skip(text: str, at: int) -> int:
    found = WHITESPACE.match(text, at)
    return found.end() if found else at


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
