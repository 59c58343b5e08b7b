"""A caller's bytes → Request, with one JSON decode, and what the rest of the walk asks of a Request.

Decides which bodies are refused: only those the gateway cannot read or no engine would take. It must never be
stricter than an engine about what it does not need, and never raise anything but `BadRequest`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.errors import BadRequest
from gateway.exchange import Endpoint, Request
from gateway.wire import question
from gateway.wire.controls import CONTROL_HEADERS, controls
from gateway.wire.fingerprint import big_numbers, exact_fingerprint, partition_fingerprint
from gateway.wire.rewrite import rewrite

__all__ = ["Reader", "choices", "exact_fingerprint", "parse", "partition_fingerprint", "remade", "rewrite"]


def parse(
    endpoint: Endpoint, raw: bytes, headers: Mapping[str, str], *, honour_cache_control: bool = True
) -> Request:
    """Read a request body and the caller's controls.

    `headers` is looked up by lower-case names. Raises `BadRequest` with message, param and code.
    """
    fields = _decode(raw)
    model = _model(fields)
    _REQUIRED[endpoint](fields)
    options = _options(fields)
    asked, barred, uncacheable = question.read(endpoint, fields)
    if barred is None and big_numbers(raw):
        barred = "big-numbers"
    streams = endpoint != "embeddings"
    return Request(
        endpoint=endpoint,
        raw=raw,
        fields=fields,
        model=model,
        stream=streams and fields.get("stream") is True,
        wants_usage=streams and options.get("include_usage") is True,
        question=asked,
        barred=barred,
        uncacheable=uncacheable,
        controls=controls(headers, fields.get("cache"), honour_cache_control),
    )


def remade(request: Request, fields: dict[str, Any], *, stream: bool) -> Request:
    """A request of the gateway's own making, like the caller's in all that `fields` does not say."""
    fields = {key: value for key, value in fields.items() if key not in ("stream", "stream_options")}
    if stream:
        fields["stream"] = True
        if "stream_options" in request.fields:
            fields["stream_options"] = request.fields["stream_options"]
    return Request(
        endpoint=request.endpoint,
        raw=orjson.dumps(fields),
        fields=fields,
        model=fields["model"],
        stream=stream,
        wants_usage=stream and request.wants_usage,
        question=request.question,
        barred=request.barred,
        uncacheable=request.uncacheable,
        controls=request.controls,
    )


class Reader:
    """`parse` with a short memory: a body that comes again, byte for byte and with the same controls, is not
    read again. Exact hits are such bodies. Bounded by number and size; forgotten all at once when full.
    """

    def __init__(self, bodies: int = 512, size: int = 8192, *, honour_cache_control: bool = True) -> None:
        self._bodies, self._size = bodies, size
        self._honour = honour_cache_control
        self._read: dict[tuple[str | bytes | None, ...], Request] = {}

    def parse(self, endpoint: Endpoint, raw: bytes, headers: Mapping[str, str]) -> Request:
        """As the function of that name."""
        key = (endpoint, raw, *[headers.get(name) for name in CONTROL_HEADERS])
        known = self._read.get(key) if len(raw) <= self._size else None
        if known is None:
            known = parse(endpoint, raw, headers, honour_cache_control=self._honour)
            if sum(len(part) for part in key if part) > self._size:
                return known
            if len(self._read) >= self._bodies:
                self._read.clear()
            self._read[key] = known
        return known


def choices(request: Request) -> int:
    """How many choices a whole answer has: `n` for each prompt."""
    n = int(request.fields.get("n") or 1)
    prompt = request.fields.get("prompt")
    if request.endpoint != "completions" or not isinstance(prompt, list) or not prompt:
        return n
    return n if isinstance(prompt[0], int) else n * len(prompt)  # one prompt's token ids, or several prompts


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _unreadable(raw, error) from None
    if not isinstance(fields, dict):
        raise BadRequest("The request body must be a JSON object.", code="invalid_json")
    try:
        colons = orjson.dumps(fields).count(b":")
    except TypeError:  # orjson writes to a depth of 254 only
        raise _too_deep() from None
    # A member has one colon outside its strings. If none is lost by decoding, no member was; an escaped colon
    # would come back plain and could make up for a lost one.
    if raw.count(b":") != colons or b"\\u003" in raw:
        _refuse_duplicates(raw)
    return fields


def _unreadable(raw: bytes, error: orjson.JSONDecodeError) -> BadRequest:
    try:
        raw.decode()
    except UnicodeDecodeError as fault:
        return BadRequest(f"The request body is not valid UTF-8 (byte {fault.start}).", code="invalid_utf8")
    if not raw.strip():
        return BadRequest("The request body is empty; a JSON object is needed.", code="invalid_json")
    if error.msg.startswith("depth limit"):
        return _too_deep()
    where = f"line {error.lineno} column {error.colno}"
    return BadRequest(f"The request body is not valid JSON: {error.msg} ({where}).", code="invalid_json")


def _too_deep() -> BadRequest:
    return BadRequest("The request body is nested too deeply.", code="nesting_too_deep")


def _refuse_duplicates(raw: bytes) -> None:
    """The slow, certain check: which of two values an engine takes is anybody's guess."""
    json.loads(raw, object_pairs_hook=_unique, parse_int=str, parse_float=str)


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            name = key if len(key) <= 100 else key[:100] + "..."
            message = f"The key {name!r} occurs twice in one object."
            raise BadRequest(message, param=name, code="duplicate_key")
        seen.add(key)


def _missing(param: str) -> BadRequest:
    message = f"You must provide the parameter '{param}'."
    return BadRequest(message, param=param, code="missing_required_parameter")


def _wrong(param: str, wanted: str) -> BadRequest:
    return BadRequest(f"'{param}' must be {wanted}.", param=param, code="invalid_type")


def _model(fields: Mapping[str, Any]) -> str:
    model = fields.get("model")
    if model is None or model == "":
        raise _missing("model")
    if not isinstance(model, str):
        raise _wrong("model", "a string")
    return model


def _options(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check the few optional fields the walk reads; gives `stream_options`, empty if there are none."""
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "true or false")
    if not _number(fields.get("temperature")):
        raise _wrong("temperature", "a number")
    n = fields.get("n")
    if not _number(n) or (n is not None and n != int(n)):
        raise _wrong("n", "a whole number")
    options = fields.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise _wrong("stream_options", "an object")
    return options


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _chat(fields: Mapping[str, Any]) -> None:
    messages = fields.get("messages")
    if messages is None:
        raise _missing("messages")
    if not isinstance(messages, list):
        raise _wrong("messages", "an array of messages")
    if not messages:
        raise BadRequest("'messages' must not be empty.", param="messages", code="empty_array")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{index}]", "an object")
        if not isinstance(message.get("role"), str):
            raise _wrong(f"messages[{index}].role", "a string")


def _completions(fields: Mapping[str, Any]) -> None:
    if "prompt" not in fields and fields.get("prompt_embeds") is None:
        raise _missing("prompt")  # null is OpenAI's own default


def _responses(fields: Mapping[str, Any]) -> None:
    asked = fields.get("input")
    if asked is None:
        if not any(fields.get(key) is not None for key in ("prompt", "previous_response_id", "conversation")):
            raise _missing("input")
    elif not isinstance(asked, (str, list)):
        raise _wrong("input", "a string or an array of items")


def _embeddings(fields: Mapping[str, Any]) -> None:
    if fields.get("input") is None and fields.get("messages") is None:
        raise _missing("input")  # vLLM embeds chat messages too


_REQUIRED: dict[Endpoint, Callable[[Mapping[str, Any]], None]] = {
    "chat": _chat,
    "completions": _completions,
    "responses": _responses,
    "messages": _chat,
    "embeddings": _embeddings,
}
