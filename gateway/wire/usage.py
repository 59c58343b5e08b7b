"""Token counts: reading them, zeroing them, and keeping from a caller the chunk only the gateway asked for.

Decides which chunk that is. It must never change a byte of any other.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.exchange import Usage
from gateway.wire.sse import END, events

_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


def usage(body: bytes) -> Usage:
    """Token counts of a JSON answer; zeros where it has none or cannot be read."""
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Usage()
    return usage_of(whole) if isinstance(whole, dict) else Usage()


def usage_of(whole: Mapping[str, Any]) -> Usage:
    """The same of a decoded answer, in chat's words or those of responses and messages.

    Messages count apart what was read from a prompt cache or written to it; chat counts it with the prompt.
    """
    counts = whole.get("usage")
    if not isinstance(counts, dict):
        return Usage()
    cached = _count(counts, "cache_read_input_tokens") + _count(counts, "cache_creation_input_tokens")
    return Usage(
        _count(counts, "prompt_tokens", "input_tokens") + cached,
        _count(counts, "completion_tokens", "output_tokens"),
    )


def zero_usage(body: bytes) -> bytes:
    """A JSON answer with every number in `usage` set to zero, for operators who bill by it."""
    whole = orjson.loads(body)
    if not isinstance(whole, dict) or not whole.get("usage"):
        return body
    return orjson.dumps({**whole, "usage": _zeroed(whole["usage"])})


class UsageFilter:
    """Drops the usage chunk from a live chat or completions stream; all other bytes pass as they are.

    At most one event is held back: the one whose end has not come.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self.dropped: Usage | None = None  # what the dropped chunk said

    def __repr__(self) -> str:
        return f"<UsageFilter: {len(self._held)} bytes held, dropped {self.dropped}>"

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on now."""
        held = self._held
        if not held and data.endswith(b"\n\n") and not _may_be_asked(data):
            return data  # whole events, none of them of interest: nearly every call
        at = max(0, len(held) - 3)  # an event's end may begin in what is held
        held += data
        out, start = [], 0
        while found := END.search(held, at):
            at = found.end()
            out.append(self._passed(bytes(held[start:at])))
            start = at
        del held[:start]
        return b"".join(out)

    def finish(self) -> bytes:
        """What is left when the stream has ended."""
        held, self._held = bytes(self._held), bytearray()
        return self._passed(held)

    def _passed(self, event: bytes) -> bytes:
        if not _may_be_asked(event):
            return event
        for _, data in events(event):
            counts = usage_chunk(data)
            if counts is not None:
                self.dropped = counts
                return b""
        return event


def _may_be_asked(data: bytes) -> bool:
    return b'"usage"' in data and _NO_CHOICES.search(data) is not None


def usage_chunk(data: bytes) -> Usage | None:
    """The counts of a chunk that carries usage and no choice; None for any other."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(chunk, dict) or chunk.get("choices") != [] or not isinstance(chunk.get("usage"), dict):
        return None
    return usage_of(chunk)


def _count(counts: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = counts.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return 0


def _zeroed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _zeroed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_zeroed(inner) for inner in value]
    return 0 if isinstance(value, (int, float)) and not isinstance(value, bool) else value
