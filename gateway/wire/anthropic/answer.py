"""Whole answers and errors of one API → the same in the other's form.

Decides what an answer's parts and ends are called. It must never pass off as whole what it could not read: that
is an error, as if the engine had broken off.
"""

from collections.abc import Mapping
from typing import Any

from gateway.errors import BackendUnreachable
from gateway.wire.anthropic.reading import dumps, loads
from gateway.wire.anthropic.refusal import refusal

_Object = dict[str, Any]
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_REASONING = ("reasoning_content", "reasoning")  # of a chat message: what engines call it


class Unsayable(BackendUnreachable):
    """The engine's answer cannot be said in the caller's API."""

    code = "untranslatable_answer"

    def __init__(self, what: str) -> None:
        super().__init__(f"The engine's answer cannot be translated: {what}.")


def to_message(body: bytes) -> bytes:
    """A chat completion as a message of Anthropic's.

    Raises:
        Unsayable: some part of it has no form there.
    """
    whole = _read(body)
    try:
        choice = whole["choices"][0]
        said = choice["message"]
        content = [*_texts(said), *[_use(call) for call in said.get("tool_calls") or ()]]
        stop = stopped(choice, called=bool(said.get("tool_calls")), refused=bool(said.get("refusal")))
        message = {**opening(whole), "content": content, **stop, "usage": counts(whole.get("usage"))}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unsayable("it is no chat completion") from None
    return dumps(message)


def to_completion(body: bytes, now: int) -> bytes:
    """A message of Anthropic's as a chat completion. `now`: unix seconds.

    Raises:
        Unsayable: some part of it has no form there.
    """
    return dumps(completion(_read(body), now))


def completion(whole: Mapping[str, Any], now: int) -> _Object:
    """The same of a decoded message."""
    message: _Object = {"role": "assistant", "content": None, "refusal": None}
    calls = []
    try:
        for block in whole["content"]:
            match block["type"]:
                case "text":
                    message["content"] = (message["content"] or "") + block["text"]
                case "thinking":
                    message["reasoning_content"] = message.get("reasoning_content", "") + block["thinking"]
                case "tool_use":
                    function = {"name": block["name"], "arguments": dumps(block["input"]).decode()}
                    calls.append({"id": block["id"], "type": "function", "function": function})
                case kind:
                    raise Unsayable(f"a block of type '{kind}'")
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished(whole)}
        head = {"id": whole["id"], "object": "chat.completion", "created": now, "model": whole["model"]}
        return {**head, "choices": [choice], "usage": tokens(whole.get("usage"))}
    except (KeyError, TypeError, AttributeError):
        raise Unsayable("it is no message") from None


def failure_to_message(status: int, body: bytes) -> bytes:
    """An error of an engine in Anthropic's shape."""
    return refusal(status, _told(status, body))


def failure_to_completion(status: int, body: bytes) -> bytes:
    """An error of Anthropic's in OpenAI's shape; the type keeps its name."""
    kind = loads(refusal(status, ""))["error"]["type"]
    return dumps({"error": {"message": _told(status, body), "type": kind, "param": None, "code": kind}})


def opening(whole: Mapping[str, Any]) -> _Object:
    """A message before its content, from any part of a chat completion that has the head's fields."""
    id = whole.get("id") or ""
    return {"id": f"msg_{id}", "type": "message", "role": "assistant", "model": whole.get("model") or ""}


def stopped(choice: Mapping[str, Any], *, called: bool, refused: bool) -> _Object:
    """Why a message ended. A finish reason of the engine's own keeps its word.

    A forced call ends with `stop` at OpenAI. vLLM tells the stop sequence that matched; others do not.
    """
    finish, told = choice.get("finish_reason"), choice.get("stop_reason")
    if refused:
        finish = "content_filter"
    elif finish in ("stop", "function_call") and called:
        finish = "tool_calls"
    if finish == "stop" and isinstance(told, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": told}
    reason = _STOPS.get(finish, finish) if isinstance(finish, str) else None
    return {"stop_reason": reason, "stop_sequence": None}


def finished(message: Mapping[str, Any]) -> str | None:
    """Why a chat completion ended; a reason without a counterpart keeps its word."""
    reason = message.get("stop_reason")
    return _FINISHES.get(reason, reason) if isinstance(reason, str) else None


def counts(usage: Any) -> _Object:
    """Token counts in Anthropic's words: what was read from a cache is counted apart."""
    if not isinstance(usage, dict):
        return {"input_tokens": 0, "output_tokens": 0}
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else 0
    out = {"input_tokens": max(_count(usage, "prompt_tokens") - cached, 0)}
    out |= {"cache_read_input_tokens": cached} if cached else {}
    return {**out, "output_tokens": _count(usage, "completion_tokens")}


def tokens(usage: Any) -> _Object:
    """Token counts in OpenAI's words: what was read from a cache, or written to it, is part of the prompt."""
    given = usage if isinstance(usage, dict) else {}
    cached = _count(given, "cache_read_input_tokens")
    prompt = _count(given, "input_tokens") + cached + _count(given, "cache_creation_input_tokens")
    output = _count(given, "output_tokens")
    out: _Object = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return out | ({"prompt_tokens_details": {"cached_tokens": cached}} if cached else {})


def thought_of(said: Mapping[str, Any]) -> str | None:
    """The reasoning in a chat message or a piece of one."""
    found = next((text for name in _REASONING if (text := said.get(name))), None)
    return found if isinstance(found, str) else None


def _count(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    return value if type(value) is int else 0


def _texts(said: Mapping[str, Any]) -> list[_Object]:
    """What a chat message says in words, in the order it was thought and said."""
    blocks: list[_Object] = []
    if thought := thought_of(said):
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    for text in (said.get("content"), said.get("refusal")):
        if text and not isinstance(text, str):
            raise Unsayable("its content is no text")
        blocks += [{"type": "text", "text": text}] if text else []
    return blocks


def _use(call: Mapping[str, Any]) -> _Object:
    function = call["function"]
    try:
        given = loads(function.get("arguments") or "{}")
    except (ValueError, RecursionError):
        raise Unsayable("the arguments of a call are not JSON") from None
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": given}


def _read(body: bytes) -> _Object:
    try:
        whole = loads(body)
    except (ValueError, RecursionError):
        raise Unsayable("it is not JSON") from None
    if not isinstance(whole, dict):
        raise Unsayable("it is no object")
    return whole


def _told(status: int, body: bytes) -> str:
    """The message of an error in any of the forms engines use."""
    try:
        error = loads(body)
    except (ValueError, RecursionError):
        error = None
    inner = error.get("error", error) if isinstance(error, dict) else None
    message = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
    return message if isinstance(message, str) and message else f"The engine answered {status}."
