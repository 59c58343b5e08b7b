"""A stored Responses object → the events OpenAI sends for it.

Decides which events an item has. It must never leave out an item: an unknown one is announced and closed.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import orjson

from gateway.wire.pieces import pieces, token_pieces

_Object = Mapping[str, Any]
_Event = tuple[str, dict[str, Any]]


def response_events(whole: _Object) -> Iterator[bytes]:
    """Numbered server-sent events from `response.created` to `response.completed`; there is no `[DONE]`."""
    numbers = count()
    for kind, fields in _events(whole):
        data = {"type": kind, **fields, "sequence_number": next(numbers)}
        yield b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(data))


def _events(whole: _Object) -> Iterator[_Event]:
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    for late in ("completed_at", "output_text"):
        if late in begun:
            begun[late] = None if late == "completed_at" else ""
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(whole["output"]):
        yield "response.output_item.added", {"output_index": index, "item": _begun(item)}
        place = {"item_id": item.get("id") or "", "output_index": index}
        for kind, fields in _inside(item):
            yield kind, {**place, **fields}
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield "response.completed", {"response": whole}


def _begun(item: _Object) -> dict[str, Any]:
    """The item as it was before anything of it had come."""
    empty = {"content": [], "summary": [], "arguments": "", "input": ""}
    begun = {key: empty.get(key, value) if value is not None else None for key, value in item.items()}
    if "status" in begun:
        begun["status"] = "in_progress"
    return begun


def _inside(item: _Object) -> Iterator[_Event]:
    kind = item.get("type")
    if kind == "function_call":
        yield from _text(
            "response.function_call_arguments", "arguments", item["arguments"], name=item["name"]
        )
    elif kind == "custom_tool_call":
        yield from _text("response.custom_tool_call_input", "input", item["input"])
    elif kind in ("message", "reasoning"):
        for index, part in enumerate(_parts(item.get("summary"))):
            yield from _summary(index, part)
        for index, part in enumerate(_parts(item.get("content"))):
            yield from _part(index, part)


def _text(stem: str, key: str, text: str, /, name: str | None = None) -> Iterator[_Event]:
    for piece in pieces(text):
        yield f"{stem}.delta", {"delta": piece}
    yield f"{stem}.done", {key: text} if name is None else {key: text, "name": name}


def _summary(index: int, part: _Object) -> Iterator[_Event]:
    place = {"summary_index": index}
    yield "response.reasoning_summary_part.added", {**place, "part": {**part, "text": ""}}
    for kind, fields in _text("response.reasoning_summary_text", "text", _string(part.get("text"))):
        yield kind, {**place, **fields}
    yield "response.reasoning_summary_part.done", {**place, "part": part}


def _part(index: int, part: _Object) -> Iterator[_Event]:
    kind = part.get("type")
    key = "refusal" if kind == "refusal" else "text"
    begun = {**part, **{name: [] for name in ("annotations", "logprobs") if part.get(name)}}
    if isinstance(part.get(key), str):
        begun[key] = ""
    yield "response.content_part.added", {"content_index": index, "part": begun}
    for name, fields in _part_text(part):
        yield name, {"content_index": index, **fields}
    yield "response.content_part.done", {"content_index": index, "part": part}


def _part_text(part: _Object) -> Iterator[_Event]:
    kind = part.get("type")
    if kind == "output_text":
        tokens = _parts(part.get("logprobs"))
        for piece, given in token_pieces(part["text"], tokens):
            yield "response.output_text.delta", {"delta": piece, "logprobs": given}
        for index, annotation in enumerate(_parts(part.get("annotations"))):
            fields = {"annotation": annotation, "annotation_index": index}
            yield "response.output_text.annotation.added", fields
        yield "response.output_text.done", {"text": part["text"], "logprobs": tokens}
    elif kind == "refusal":
        yield from _text("response.refusal", "refusal", _string(part.get("refusal")))
    elif kind == "reasoning_text":
        yield from _text("response.reasoning_text", "text", _string(part.get("text")))


def _parts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; what an engine put elsewhere is in the item, but no event of its own."""
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
