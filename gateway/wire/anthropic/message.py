"""Messages in their own form: a captured stream → the whole, a stored whole → its stream, and what a whole allows.

Decides how deltas add up and how a whole is cut. It must never guess: a delta that cannot be added with certainty
spoils the stream.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import orjson

from gateway.wire.assemble import Spoiled, decoded
from gateway.wire.pieces import pieces
from gateway.wire.sse import events

_Object = dict[str, Any]
_Verdict = tuple[Literal["semantic", "exact", "none"], str]
_GROWS = {"text_delta": "text", "thinking_delta": "thinking"}
_LATE = ("stop_details", "container")  # told at a message's end, where there are any
_CUT = {
    "max_tokens": "truncated",
    "model_context_window_exceeded": "truncated",
    "refusal": "refusal",
    "pause_turn": "stateful",
}


def assemble_message(body: bytes) -> tuple[_Object, str | None]:
    """The whole message, and "incomplete" if its stream did not end with `message_stop`.

    Raises `Spoiled` as `assemble.assemble` does.
    """
    whole: _Object | None = None
    texts: dict[int, list[str]] = {}  # of the blocks that grow
    for name, data in events(body):
        event = decoded(data)
        kind = event.get("type", name)
        if kind == "error":
            raise Spoiled("error")
        if kind == "ping":
            continue
        try:
            if kind == "message_start":
                whole = {**event["message"], "content": list(event["message"]["content"])}
            elif whole is None:
                raise Spoiled("unreadable")
            elif kind == "message_stop":
                return whole, None
            else:
                _add(whole, texts, kind, event)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise Spoiled("unreadable") from None
    return whole or {}, "incomplete"


def _add(whole: _Object, texts: dict[int, list[str]], kind: str, event: _Object) -> None:
    content = whole["content"]
    if kind == "content_block_start":
        if event["index"] != len(content):
            raise Spoiled("unreadable")
        content.append(dict(event["content_block"]))
        texts[event["index"]] = []
    elif kind == "content_block_delta":
        _grow(content[event["index"]], texts[event["index"]], event["delta"])
    elif kind == "content_block_stop":
        _settle(content[event["index"]], "".join(texts.pop(event["index"])))
    elif kind == "message_delta":
        whole |= event["delta"]
        usage = {name: count for name, count in (event.get("usage") or {}).items() if count is not None}
        whole["usage"] = {**(whole.get("usage") or {}), **usage}
        whole |= {key: value for key, value in event.items() if key not in ("type", "delta", "usage")}
    else:
        raise Spoiled("unknown-delta")


def _grow(block: _Object, texts: list[str], delta: _Object) -> None:
    kind = delta["type"]
    if kind in _GROWS or kind == "input_json_delta":
        texts.append(delta[_GROWS.get(kind, "partial_json")])
    elif kind == "signature_delta":
        block["signature"] = delta["signature"]
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
    else:
        raise Spoiled("unknown-delta")


def _settle(block: _Object, text: str) -> None:
    if block["type"] in ("text", "thinking"):
        block[block["type"]] += text
    elif text:
        block["input"] = orjson.loads(text)


def message_events(whole: Mapping[str, Any]) -> Iterator[bytes]:
    """The events Anthropic sends for a message, from `message_start` to `message_stop`."""
    usage = whole.get("usage") or {}
    begun = {**whole, "content": [], "stop_reason": None, "stop_sequence": None}
    yield _event("message_start", {"message": {**begun, "usage": {**usage, "output_tokens": 0}}})
    for index, block in enumerate(whole["content"]):
        opened, deltas = _parts(block)
        yield _event("content_block_start", {"index": index, "content_block": opened})
        for delta in deltas:
            yield _event("content_block_delta", {"index": index, "delta": delta})
        yield _event("content_block_stop", {"index": index})
    late = {key: whole[key] for key in _LATE if whole.get(key) is not None}
    ended = {"stop_reason": whole.get("stop_reason"), "stop_sequence": whole.get("stop_sequence"), **late}
    yield _event("message_delta", {"delta": ended, "usage": usage})
    yield _event("message_stop", {})


def _parts(block: _Object) -> tuple[_Object, list[_Object]]:
    """A block as it opens, and the deltas that make it whole; what does not grow opens whole."""
    match block.get("type"):
        case "text":
            opened = {**block, "text": ""} | ({"citations": []} if block.get("citations") else {})
            cited = [{"type": "citations_delta", "citation": c} for c in block.get("citations") or ()]
            return opened, [*({"type": "text_delta", "text": p} for p in pieces(block["text"])), *cited]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
            signed = [{"type": "signature_delta", "signature": block.get("signature", "")}]
            return {**block, "thinking": "", "signature": ""}, [*deltas, *signed]
        case "tool_use":
            text = orjson.dumps(block["input"]).decode()
            return {**block, "input": {}}, [
                {"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)
            ]
    return block, []


def judge_message(whole: Mapping[str, Any]) -> _Verdict:
    """How widely a message may be reused, and why not wider."""
    content, stop = whole.get("content"), whole.get("stop_reason")
    if whole.get("type") != "message" or not isinstance(content, list):
        return "none", "unreadable"
    if stop is None:
        return "none", "incomplete"
    if stop not in ("end_turn", "stop_sequence", "tool_use"):
        return "none", _CUT.get(stop, "unknown-finish") if isinstance(stop, str) else "unreadable"
    kinds = set()
    for block in content:
        fault = _fault(block)
        if fault is not None:
            return "none", fault
        kinds.add(block["type"])
    if (stop == "tool_use") != ("tool_use" in kinds):
        return "none", "incomplete"  # calls were announced and did not come, or came and were cut
    if "tool_use" in kinds:
        return "exact", "tool-calls"
    return ("semantic", "ok") if said_message(whole) else ("exact", "no-content")


def _fault(block: Any) -> str | None:
    if not isinstance(block, dict):
        return "unreadable"
    kind, text = block.get("type"), isinstance(block.get("text"), str)
    if kind == "text":
        return None if text else "unreadable"
    if kind == "tool_use":
        whole = isinstance(block.get("input"), dict) and block.get("name") and block.get("id")
        return None if whole else "incomplete"
    if kind == "thinking":
        return None if isinstance(block.get("thinking"), str) else "unreadable"
    return None if kind == "redacted_thinking" else "stateful"  # a tool that ran at the provider


def said_message(whole: Mapping[str, Any]) -> str:
    """The text of a message."""
    return "".join(block["text"] for block in whole["content"] if block.get("type") == "text")


def _event(kind: str, fields: _Object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))
