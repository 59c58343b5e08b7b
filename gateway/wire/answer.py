"""What an upstream sent, once it is all there → Answer: its canonical form, and how widely it may be reused.

Decides whether an answer is whole. It must never call reusable what it could not read to its proper end.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import orjson

from gateway.exchange import Answer, Endpoint, Usage
from gateway.wire.anthropic.message import assemble_message, judge_message, said_message
from gateway.wire.assemble import Spoiled, assemble, decoded, failed
from gateway.wire.usage import usage_of

_Verdict = tuple[Literal["semantic", "exact", "none"], str]
_WIDTH = ("none", "exact", "semantic")
_OK: _Verdict = ("semantic", "ok")
_CUT = {"length": "truncated", "max_tokens": "truncated", "content_filter": "filtered"}
_WINDOW_BITS = {
    "gzip": (31,),
    "x-gzip": (31,),
    "deflate": (15, -15),
}  # deflate: zlib's form, or some servers' raw one
LIMIT = 64 * 2**20  # bytes
_MEMBERS = 64  # of one gzip body


def read(
    endpoint: Endpoint,
    content_type: str | None,
    content_encoding: str | None,
    body: bytes,
    *,
    n: int = 1,
    limit: int = LIMIT,
) -> Answer:
    """Read a captured 2xx answer.

    `n` is the number of choices the request asked for, which a stream must bring; `limit` bounds a compressed
    body's size in bytes. Never raises: what cannot be read has reuse "none" and a reason. The body of a
    JSON answer stays byte for byte.
    """
    try:
        body = _inflated(content_encoding, body, limit)
        fault = None
        if _is_stream(content_type, body):
            whole, fault = assemble_message(body) if endpoint == "messages" else assemble(endpoint, body, n)
            body = orjson.dumps(whole)
        else:
            whole = decoded(body)
            if endpoint != "embeddings":
                orjson.dumps(whole)  # what is nested too deeply to be written could not be replayed
    except Spoiled as spoiled:
        return Answer(b"", "none", spoiled.reason, Usage(), "")
    except TypeError:
        return Answer(b"", "none", "unreadable", Usage(), "")
    verdict: _Verdict = ("none", fault) if fault else _judge(endpoint, whole)

    model = whole.get("model")
    return Answer(body, *verdict, usage_of(whole), model if isinstance(model, str) else "")


def said(endpoint: Endpoint, body: bytes) -> str | None:
    """The text of a whole answer's first choice."""
    try:
        whole = orjson.loads(body)
        if endpoint == "responses":
            parts = [part for item in whole["output"] for part in item.get("content") or ()]
            return "".join(part["text"] for part in parts if part.get("type") == "output_text")
        if endpoint == "messages":
            return said_message(whole)
        choice = whole["choices"][0]
        text = choice["message"]["content"] if endpoint == "chat" else choice["text"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return text if isinstance(text, str) else None


def _is_stream(content_type: str | None, body: bytes) -> bool:
    if content_type:
        return content_type.lower().lstrip().startswith("text/event-stream")
    return body.lstrip()[:6].startswith((b"data:", b"event:", b":"))


def _inflated(encoding: str | None, body: bytes, limit: int) -> bytes:
    names = [
        name for part in (encoding or "").lower().split(",") if (name := part.strip()) not in ("", "identity")
    ]
    if not names:
        return body
    if len(names) > 1 or names[0] not in _WINDOW_BITS:
        raise Spoiled("encoding")
    for bits in _WINDOW_BITS[names[0]]:
        try:
            return _inflate(body, bits, limit)
        except zlib.error:
            continue
    raise Spoiled("unreadable")


def _inflate(body: bytes, bits: int, limit: int) -> bytes:
    """Every member of a gzip body; stops as soon as the limit is passed, however well it was packed."""
    whole = b""
    for _ in range(_MEMBERS):
        member = zlib.decompressobj(bits)
        whole += member.decompress(body, limit + 1 - len(whole))
        if len(whole) > limit:
            raise Spoiled("too-large")
        if not member.eof:
            raise Spoiled("incomplete")
        body = member.unused_data
        if not body.startswith(b"\x1f\x8b"):
            return whole
    raise Spoiled("encoding")


def _judge(endpoint: Endpoint, whole: Mapping[str, Any]) -> _Verdict:
    return ("none", "error") if failed(whole) else _JUDGES[endpoint](whole)


def _narrowest(verdicts: Iterable[_Verdict], empty: _Verdict) -> _Verdict:
    return min(verdicts, key=lambda verdict: _WIDTH.index(verdict[0]), default=empty)


def _choices(judge: Callable[[Mapping[str, Any]], _Verdict]) -> Callable[[Mapping[str, Any]], _Verdict]:
    def judged(whole: Mapping[str, Any]) -> _Verdict:
        choices = whole.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return "none", "unreadable"
        return _narrowest(map(judge, choices), ("none", "incomplete"))

    return judged


def _unfinished(choice: Mapping[str, Any]) -> str | None:
    """Why a choice is not whole by its finish reason, or None."""
    reason = choice.get("finish_reason")
    if reason is None or reason == "":
        return "incomplete"
    if reason in ("stop", "tool_calls", "function_call"):
        return None
    return _CUT.get(reason, "unknown-finish") if isinstance(reason, str) else "unreadable"


def _message(choice: Mapping[str, Any]) -> _Verdict:
    message = choice.get("message")
    if not isinstance(message, dict):
        return "none", "unreadable"
    if fault := _unfinished(choice):
        return "none", fault
    if message.get("refusal"):
        return "none", "refusal"
    if message.get("tool_calls") or message.get("function_call"):
        return ("exact", "tool-calls") if _whole_calls(message) else ("none", "incomplete")
    if choice["finish_reason"] != "stop":
        return "none", "incomplete"  # calls were announced and did not come
    content = message.get("content")
    if message.get("audio") or (content is not None and not isinstance(content, str)):
        return "exact", "non-text"
    return _OK if content else ("exact", "no-content")


def _whole_calls(message: Mapping[str, Any]) -> bool:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        return False
    if message.get("function_call"):
        calls = [*calls, {"function": message["function_call"]}]
    return all(isinstance(call, dict) and _whole_call(call) for call in calls)


def _whole_call(call: Mapping[str, Any]) -> bool:
    """A named call; a function's arguments are JSON, or nothing (some engines' form for no arguments)."""
    custom = call.get("custom")
    if isinstance(custom, dict):
        return bool(custom.get("name")) and isinstance(custom.get("input"), str)
    function = call.get("function")
    return isinstance(function, dict) and _whole_function(function)


def _whole_function(function: Mapping[str, Any]) -> bool:
    arguments = function.get("arguments")
    if not function.get("name") or not isinstance(arguments, str):
        return False
    try:
        return not arguments.strip() or orjson.loads(arguments) is not None
    except orjson.JSONDecodeError:
        return False


def _text(choice: Mapping[str, Any]) -> _Verdict:
    if fault := _unfinished(choice):
        return "none", fault
    if not isinstance(choice.get("text"), str):
        return "none", "unreadable"
    return _OK if choice["text"] else ("exact", "no-content")


def _response(whole: Mapping[str, Any]) -> _Verdict:
    status, output = whole.get("status"), whole.get("output")
    if status == "incomplete":
        details = whole.get("incomplete_details")
        cause = details.get("reason") if isinstance(details, dict) else None
        return "none", "filtered" if cause == "content_filter" else "truncated"
    if status != "completed":
        return "none", "error" if status == "failed" else "incomplete"
    if whole.get("background") or whole.get("conversation"):
        return "none", "stateful"
    if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
        return "none", "unreadable"
    verdicts = (_item(item) for item in output if item.get("type") != "reasoning")
    return _narrowest(verdicts, ("exact", "no-content"))


def _item(item: Mapping[str, Any]) -> _Verdict:
    kind = item.get("type")
    if item.get("status", "completed") not in ("completed", None):
        return "none", "truncated"
    if kind == "function_call":
        return ("exact", "tool-calls") if _whole_function(item) else ("none", "incomplete")
    if kind == "custom_tool_call":
        return ("exact", "tool-calls") if isinstance(item.get("input"), str) else ("none", "incomplete")

    if kind != "message":
        return "none", "stateful"  # a tool that ran at the provider
    parts = item.get("content")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        return "none", "unreadable"
    return _narrowest(map(_part, parts), ("exact", "no-content"))


def _part(part: Mapping[str, Any]) -> _Verdict:
    if part.get("type") == "refusal":
        return "none", "refusal"
    if part.get("type") != "output_text":
        return "exact", "non-text"
    if not isinstance(part.get("text"), str):
        return "none", "unreadable"
    return _OK if part["text"] else ("exact", "no-content")


def _embeddings(whole: Mapping[str, Any]) -> _Verdict:
    data = whole.get("data")
    return ("exact", "endpoint") if isinstance(data, list) and data else ("none", "incomplete")


_JUDGES: dict[Endpoint, Callable[[Mapping[str, Any]], _Verdict]] = {
    "chat": _choices(_message),
    "completions": _choices(_text),
    "responses": _response,
    "messages": judge_message,
    "embeddings": _embeddings,
}
