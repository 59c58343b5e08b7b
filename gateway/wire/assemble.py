"""A captured stream → the JSON a caller without `stream` would have got.

Decides how deltas add up. It must never guess: a delta that cannot be added with certainty spoils the stream.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.exchange import Endpoint
from gateway.wire.sse import events

_ONCE = ("id", "type", "name", "role", "expires_at")  # sent once, or again unchanged; never in pieces
_NOT_IN_WHOLE = ("object", "obfuscation")


class Spoiled(Exception):
    """The captured bytes are no answer; the argument is the reason code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Text(list[str]):
    """A string still growing: pieces, joined once at the end."""


class _Calls(dict[int, dict[str, Any]]):
    """Tool calls still growing, by their index."""


def assemble(endpoint: Endpoint, body: bytes, n: int) -> tuple[dict[str, Any], str | None]:
    """The whole answer, and "incomplete" if the stream did not end as it must with `n` choices.

    Raises `Spoiled` for an error event ("error"), for what cannot be read ("unreadable") and for a delta of
    unknown kind ("unknown-delta").
    """
    if endpoint == "responses":
        return _response(body)
    chunks, done = _chunks(body)
    whole = _whole(chunks, "chat.completion" if endpoint == "chat" else "text_completion")
    indices = [choice["index"] for choice in whole["choices"]]
    complete = done and len(indices) >= max(n, 1) and indices == list(range(len(indices)))
    return whole, None if complete else "incomplete"


def failed(answer: Mapping[str, Any]) -> bool:
    """Whether a decoded body or event is an error object in one of the forms engines use."""
    return bool(answer.get("error")) or "error" in (answer.get("object"), answer.get("type"))


def decoded(data: bytes) -> dict[str, Any]:
    """A JSON object; raises `Spoiled`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise Spoiled("unreadable") from None
    return _object(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Spoiled("unreadable")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Spoiled("unreadable")
    return value


def _response(body: bytes) -> tuple[dict[str, Any], str | None]:
    """The `response` object of the closing event; that of the first event if none closes."""
    first: dict[str, Any] = {}
    for name, data in events(body):
        if data.strip() == b"[DONE]":
            break
        event = decoded(data)
        kind = event.get("type", name)
        if failed(event) or kind in ("error", "response.failed"):
            raise Spoiled("error")
        if kind == "response.completed":
            return _object(event.get("response")), None
        if kind == "response.incomplete":
            return {**_object(event.get("response")), "status": "incomplete"}, None
        first = first or event
    response = first.get("response")
    return response if isinstance(response, dict) else {}, "incomplete"


def _chunks(body: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The chunks before `[DONE]`, and whether it came. Events of another shape are not part of the answer."""
    chunks: list[dict[str, Any]] = []
    for name, data in events(body):
        if data.strip() == b"[DONE]":
            return chunks, True
        chunk = decoded(data)
        if name == "error" or failed(chunk):
            raise Spoiled("error")
        if isinstance(chunk.get("choices"), list):
            chunks.append(chunk)
    return chunks, False


def _whole(chunks: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    whole: dict[str, Any] = {"id": "", "object": kind, "created": 0, "model": "", "choices": []}
    choices: dict[int, dict[str, Any]] = {}
    before: dict[str, Any] = {}
    for chunk in chunks:
        pieces = chunk.pop("choices")
        if chunk != before:  # nearly always the same: one comparison instead of a walk
            _add_head(whole, chunk)
            before = chunk
        for piece in pieces:
            index = _object(piece).get("index", 0)
            if not isinstance(index, int):
                raise Spoiled("unreadable")
            _add_choice(choices.setdefault(index, {}), piece)
    whole["choices"] = [_choice(index, choices[index], kind) for index in sorted(choices)]
    return whole


def _add_head(whole: dict[str, Any], chunk: Mapping[str, Any]) -> None:
    for key, value in chunk.items():
        if key in ("id", "created", "model"):
            whole[key] = whole[key] or value
        elif key not in _NOT_IN_WHOLE and value is not None:
            whole[key] = value


def _choice(index: int, grown: Mapping[str, Any], kind: str) -> dict[str, Any]:
    own = {key: _settled(value) for key, value in grown.items()}
    choice: dict[str, Any] = {"index": index}
    if kind == "chat.completion":
        choice["message"] = {"role": "assistant", "content": None, **own.pop("message", {})}
    else:
        choice["text"] = own.pop("text", "")
    return {**choice, "logprobs": None, "finish_reason": None, **own}


def _settled(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Calls):
        return [_settled(value[index]) for index in sorted(value)]
    if isinstance(value, dict):
        return {key: _settled(inner) for key, inner in value.items()}
    return value


def _add_choice(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for key, value in piece.items():
        if key == "delta":
            _add_delta(choice.setdefault("message", {}), _object(value or {}))
        elif key == "text":
            _add_field(choice, key, value)
        elif key == "message":
            raise Spoiled("unknown-delta")  # a whole where a difference belongs
        elif value is None:
            choice.setdefault(key, None)
        elif key == "logprobs":
            choice["logprobs"] = choice.get("logprobs") or {}
            _add_lists(choice["logprobs"], _object(value))
        elif isinstance(value, list):
            _add_lists(choice, {key: value})
        elif key != "index":
            choice[key] = value


def _add_lists(lists: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for key, value in piece.items():
        if value is None:
            lists.setdefault(key, None)
        elif lists.get(key) is None:
            lists[key] = list(_list(value))
        else:
            _list(lists[key]).extend(_list(value))


def _add_delta(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for key, value in delta.items():
        before = message.get(key)
        if type(before) is _Text and type(value) is str:
            before.append(value)  # nearly every delta is this one
        elif key == "tool_calls" and value is not None:
            if message.get(key) is None:
                message[key] = _Calls()
            for call in _list(value):
                _add_call(message[key], _object(call))
        elif key in ("function_call", "audio") and value is not None:
            message[key] = message.get(key) or {}
            _add_fields(message[key], _object(value))
        else:
            _add_field(message, key, value)


def _add_call(calls: _Calls, piece: Mapping[str, Any]) -> None:
    index = piece.get("index")
    if not isinstance(index, int):  # left out by some engines: an id opens a call, what follows belongs to it
        index = len(calls) if piece.get("id") or not calls else max(calls)
    call = calls.setdefault(index, {})
    for key, value in piece.items():
        if key in ("function", "custom") and value is not None:
            call[key] = call.get(key) or {}
            _add_fields(call[key], _object(value))
        elif key != "index":
            _add_field(call, key, value)


def _add_fields(grown: dict[str, Any], piece: Mapping[str, Any]) -> None:
    for key, value in piece.items():
        _add_field(grown, key, value)


def _add_field(grown: dict[str, Any], key: str, value: Any) -> None:
    """Strings grow, lists are extended, anything else comes once."""
    before = grown.get(key)
    if value is None:
        grown.setdefault(key, None)
    elif isinstance(value, list) and not isinstance(before, _Text):
        _add_lists(grown, {key: value})
    elif isinstance(before, _Text) and isinstance(value, str):
        before.append(value)
    elif before is None or before == "":
        grown[key] = _Text((value,)) if isinstance(value, str) and key not in _ONCE else value
    elif key == "name" and isinstance(value, str) and value != before:
        grown[key] = before + value
    elif value != before and key not in _ONCE:
        raise Spoiled("unknown-delta")
