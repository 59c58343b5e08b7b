"""Streams of one API → the same in the other's form, event by event as they come.

Decides which events an event becomes. It must never end a stream properly that did not: what breaks off, or
cannot be said, breaks off for the caller too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.wire.anthropic.answer import (
    Unsayable,
    counts,
    failure_to_completion,
    failure_to_message,
    finished,
    opening,
    stopped,
    thought_of,
    tokens,
)
from gateway.wire.sse import END, events

_Object = dict[str, Any]
_LONGEST = 8 << 20  # bytes of one event


class Events:
    """Cuts a stream into whole events; what follows the last end is held back."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        held = self._held
        at, start = max(0, len(held) - 3), 0  # an event's end may begin in what is held
        held += data
        while found := END.search(held, at):
            at = found.end()
            yield bytes(held[start:at])
            start = at
        del held[:start]
        if len(held) > _LONGEST:
            raise Unsayable("an event has no end")


class ToMessage:
    """A chat completion's chunks → the events of a message.

    Token counts come last there, so the message begins with zeros and its end has all of them.
    """

    def __init__(self) -> None:
        self._events = Events()
        self._begun = self._over = self._refused = False
        self._open: tuple[str, int] | None = None  # kind of the open block, and which call
        self._index = -1  # of the latest block
        self._calls = -1  # the latest call's number
        self._choice: _Object | None = None  # the one that told why it ends
        self._usage: Any = None

    def feed(self, data: bytes) -> bytes:
        """The events that this piece of the stream completes.

        Raises:
            Unsayable: something in it has no form there.
        """
        return b"".join(part for event in self._events.feed(data) for part in self._event(event))

    def finish(self) -> bytes:
        """A stream that ended without `[DONE]` ends without `message_stop`."""
        return b""

    def _event(self, event: bytes) -> Iterator[bytes]:
        told = list(events(event))
        if not told:
            yield _named("ping", {})  # a comment keeps the connection alive
        for name, data in told:
            if self._over:
                return
            if data.strip() == b"[DONE]":
                yield from self._end()
                return
            chunk = _object(data)
            if name == "error" or chunk.get("error"):
                self._over = True
                yield b"event: error\ndata: " + failure_to_message(500, data) + b"\n\n"
                return
            try:
                yield from self._chunk(chunk)
            except (TypeError, AttributeError):
                raise Unsayable("a chunk cannot be read") from None

    def _chunk(self, chunk: _Object) -> Iterator[bytes]:
        if not self._begun and chunk.get("choices"):  # some services send a chunk of their own before
            self._begun = True
            empty: _Object = {
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": counts(None),
            }
            yield _named("message_start", {"message": {**opening(chunk), **empty}})
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            yield from self._delta(choice.get("delta") or {})
            if choice.get("finish_reason") is not None:
                self._choice = choice

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[bytes]:
        if thought := thought_of(delta):
            yield from self._block(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""})
            yield self._grown({"type": "thinking_delta", "thinking": thought})
        self._refused = self._refused or bool(delta.get("refusal"))
        for kind in ("content", "refusal"):
            if text := delta.get(kind):
                if not isinstance(text, str):
                    raise Unsayable("its content is no text")
                yield from self._block((kind, 0), {"type": "text", "text": ""})
                yield self._grown({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or ():
            yield from self._call(call)

    def _call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        function, number = call.get("function") or {}, call.get("index")
        if not isinstance(number, int):  # left out by some engines: an id opens a call
            number = self._calls + 1 if call.get("id") or self._calls < 0 else self._calls
        if number > self._calls:
            if not call.get("id") or not function.get("name"):
                raise Unsayable("a call begins without its name")
            self._calls = number
            block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            yield from self._block(("call", number), block)
        elif self._open != ("call", number):
            raise Unsayable("the pieces of two calls are mixed")
        if text := function.get("arguments"):
            yield self._grown({"type": "input_json_delta", "partial_json": text})

    def _block(self, kind: tuple[str, int], block: _Object) -> Iterator[bytes]:
        """Make this the open block."""
        if self._open == kind:
            return
        yield from self._close()
        self._open, self._index = kind, self._index + 1
        yield _named("content_block_start", {"index": self._index, "content_block": block})

    def _grown(self, delta: _Object) -> bytes:
        return _named("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _named("content_block_stop", {"index": self._index})

    def _end(self) -> Iterator[bytes]:
        self._over = True
        if self._choice is None:
            return
        yield from self._close()
        stop = stopped(self._choice, called=self._calls >= 0, refused=self._refused)
        yield _named("message_delta", {"delta": stop, "usage": counts(self._usage)})
        yield _named("message_stop", {})


class ToCompletion:
    """The events of a message → a chat completion's chunks. `now`: unix seconds; `usage`: told in a last chunk."""

    def __init__(self, now: int, usage: bool) -> None:
        self._events = Events()
        self._head: _Object = {"object": "chat.completion.chunk", "created": now}
        self._wants_usage = usage
        self._usage: _Object = {}
        self._kinds: dict[int, str] = {}
        self._calls = -1  # the latest call's number
        self._bare = False  # the latest call has no arguments yet
        self._over = False

    def feed(self, data: bytes) -> bytes:
        """The chunks that this piece of the stream completes.

        Raises:
            Unsayable: something in it has no form there.
        """
        return b"".join(part for event in self._events.feed(data) for part in self._event(event))

    def finish(self) -> bytes:
        """A stream that ended without `message_stop` ends without `[DONE]`."""
        return b""

    def _event(self, event: bytes) -> Iterator[bytes]:
        for _, data in events(event):
            told = _object(data)
            kind = told.get("type")
            if self._over:
                return
            if kind == "error":
                self._over = True
                yield b"data: " + failure_to_completion(500, data) + b"\n\n"
                return
            try:
                yield from self._told(kind, told)
            except (KeyError, TypeError, AttributeError, ValueError):
                raise Unsayable(f"an event of type '{kind}' cannot be read") from None

    def _told(self, kind: Any, told: _Object) -> Iterator[bytes]:
        match kind:
            case "message_start":
                message = told["message"]
                self._usage.update(message.get("usage") or {})
                self._head = {"id": message["id"], **self._head, "model": message["model"]}
                yield self._chunk({"role": "assistant", "content": ""})
            case "content_block_start":
                yield from self._begin(told["index"], told["content_block"])
            case "content_block_delta":
                yield from self._grown(told["delta"])
            case "content_block_stop":
                if self._kinds.get(told["index"]) == "tool_use" and self._bare:
                    yield self._argument("{}")
            case "message_delta":
                usage = told.get("usage") or {}
                self._usage.update((name, count) for name, count in usage.items() if count is not None)
                yield self._chunk({}, finished(told["delta"]))
            case "message_stop":
                self._over = True
                if self._wants_usage:
                    yield _data({**self._head, "choices": [], "usage": tokens(self._usage)})
                yield b"data: [DONE]\n\n"
            case "ping":
                yield b": ping\n\n"

    def _begin(self, index: int, block: _Object) -> Iterator[bytes]:
        kind = self._kinds[index] = block["type"]
        if kind == "tool_use":
            self._calls, self._bare = self._calls + 1, True
            function = {"name": block["name"], "arguments": ""}
            call = {"index": self._calls, "id": block["id"], "type": "function", "function": function}
            yield self._chunk({"tool_calls": [call]})
        elif kind not in ("text", "thinking"):
            raise Unsayable(f"a block of type '{kind}'")

    def _grown(self, delta: _Object) -> Iterator[bytes]:
        match delta["type"]:
            case "text_delta":
                yield self._chunk({"content": delta["text"]})
            case "thinking_delta":
                yield self._chunk({"reasoning_content": delta["thinking"]})
            case "input_json_delta":
                if delta["partial_json"]:
                    self._bare = False
                    yield self._argument(delta["partial_json"])
            case "signature_delta":
                pass  # only thinking that was asked for is ever sent back, and a chat request cannot ask for it
            case kind:
                raise Unsayable(f"a delta of type '{kind}'")

    def _argument(self, text: str) -> bytes:
        return self._chunk({"tool_calls": [{"index": self._calls, "function": {"arguments": text}}]})

    def _chunk(self, delta: _Object, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**self._head, "choices": [choice]})


def _object(data: bytes) -> _Object:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise Unsayable("an event is no JSON object")
    return value


def _named(kind: str, fields: _Object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _data(value: _Object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
