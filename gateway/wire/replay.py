"""A stored answer → the stream a caller with `stream` would have got.

Decides how the whole is cut into events. It must never change what adding them up gives.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gateway.exchange import Endpoint
from gateway.wire.anthropic.message import message_events
from gateway.wire.pieces import pieces, token_pieces
from gateway.wire.responses import response_events
from gateway.wire.usage import UsageFilter, usage, zero_usage

__all__ = ["UsageFilter", "stream", "usage", "zero_usage"]

_Object = Mapping[str, Any]
_Change = dict[str, Any]
_DONE = b"data: [DONE]\n\n"
_HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
_STREAMED = ("tool_calls", "function_call")
_OWN = ("index", "message", "text", "logprobs", "finish_reason")


def stream(endpoint: Endpoint, body: bytes, wants_usage: bool) -> bytes:
    """A whole event stream for a JSON answer that `answer.read` found reusable.

    The chat and completions forms bring usage only if wanted and end with `[DONE]`; embeddings have no stream
    and stay as they are.
    """
    if endpoint == "embeddings":
        return body
    whole = orjson.loads(body)
    if endpoint == "responses":
        return b"".join(response_events(whole))
    if endpoint == "messages":
        return b"".join(message_events(whole))
    chunks = _chat(whole) if endpoint == "chat" else _completions(whole)
    return b"".join([*(_event(chunk) for chunk in _with_usage(chunks, whole, wants_usage)), _DONE])


def _event(data: _Object) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def _head(whole: _Object, kind: str) -> dict[str, Any]:
    head = {"id": "", "object": kind, "created": 0, "model": ""}
    head.update((key, whole[key]) for key in _HEAD if key in whole and key != "object")
    return head


def _with_usage(chunks: Iterator[_Change], whole: _Object, wants_usage: bool) -> Iterator[_Change]:
    """As OpenAI does it: a null on every chunk, then the counts on one without choices.

    Fields of the engine's own come with the last chunk that has a choice.
    """

    own = {key: value for key, value in whole.items() if key not in (*_HEAD, "choices", "usage")}
    counts = whole.get("usage") if wants_usage else None
    last: _Change | None = None
    for chunk in chunks:
        if last is not None:
            yield last
        last = {**chunk, "usage": None} if wants_usage else chunk
    if last is not None:
        yield {**last, **own}
        if counts is not None:
            yield {**last, "choices": [], "usage": counts}


def _chat(whole: _Object) -> Iterator[_Change]:
    head = _head(whole, "chat.completion.chunk")
    choices = whole["choices"]
    for choice in choices:
        yield {**head, "choices": [_choice(choice, {"delta": _opening(choice["message"])})]}
    for choice in choices:
        for delta, logprobs in _deltas(choice):
            yield {**head, "choices": [_choice(choice, {"delta": delta, "logprobs": logprobs})]}
        yield {**head, "choices": [_closing(choice, {"delta": {}})]}


def _completions(whole: _Object) -> Iterator[_Change]:
    head = _head(whole, "text_completion")
    for choice in whole["choices"]:
        logprobs = choice.get("logprobs")  # offsets run through the text: they go with the first piece
        for piece in pieces(choice["text"]):
            yield {**head, "choices": [_choice(choice, {"text": piece, "logprobs": logprobs})]}
            logprobs = None
        yield {**head, "choices": [_closing(choice, {"text": "", "logprobs": logprobs})]}


def _choice(choice: _Object, change: _Object) -> _Change:
    logprobs = change.get("logprobs")
    return {"index": choice.get("index", 0), **change, "logprobs": logprobs, "finish_reason": None}


def _closing(choice: _Object, change: _Object) -> _Change:
    """The choice's last chunk: its finish reason and the fields of the engine's own."""
    own = {key: value for key, value in choice.items() if key not in _OWN}
    return {**_choice(choice, change), "finish_reason": choice.get("finish_reason"), **own}


def _opening(message: _Object) -> _Change:
    """The role, every field that does not grow, and the empty beginning of those that do."""
    delta: _Change = {"role": message.get("role", "assistant")}
    for key, value in message.items():
        if key not in _STREAMED and key != "role":
            delta[key] = "" if isinstance(value, str) else value
        elif key in _STREAMED and not value:
            delta[key] = value
    return delta


def _deltas(choice: _Object) -> Iterator[tuple[_Change, Any]]:
    """(delta, logprobs) after the opening: reasoning before content, content before refusal and calls."""
    message, logprobs = choice["message"], choice.get("logprobs")
    given = logprobs if isinstance(logprobs, dict) else {}
    texts = {key: value for key, value in message.items() if isinstance(value, str) and key != "role"}
    first = [key for key in texts if key not in ("content", "refusal")]
    for key in (*first, "content", "refusal"):
        tokens = given.get(key)
        if isinstance(tokens, list) and texts.get(key):
            for piece, part in token_pieces(texts[key], tokens):
                yield {key: piece}, {**dict.fromkeys(given, None), key: part}
            given = {**given, key: None}
        else:
            yield from (({key: piece}, None) for piece in pieces(texts.get(key, "")))
    if any(value is not None for value in given.values()):
        yield {}, given  # those that belong to no text, as for a call
    for delta in _calls(message):
        yield delta, None


def _calls(message: _Object) -> Iterator[_Change]:
    if called := message.get("function_call"):
        for part in _call_parts(called, "arguments"):
            yield {"function_call": part}
    for index, call in enumerate(message.get("tool_calls") or ()):
        kind, text = (
            ("custom", "input") if isinstance(call.get("custom"), dict) else ("function", "arguments")
        )
        opening, *parts = _call_parts(call[kind], text)
        yield {"tool_calls": [{"index": index, **call, kind: opening}]}
        for part in parts:
            yield {"tool_calls": [{"index": index, kind: part}]}


def _call_parts(called: _Object, text: str) -> Iterator[_Change]:
    """The name with an empty text, then the text in pieces."""
    yield {**called, text: ""}
    yield from ({text: piece} for piece in pieces(called[text]))
