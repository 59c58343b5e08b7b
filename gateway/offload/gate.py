"""Whether a small model's answer will do: the last look before it is returned.

Decides on form alone, in microseconds. It must never judge content, nor refuse what a large model would be
forgiven: every refusal here costs a second, dearer answer.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.exchange import Endpoint
from gateway.wire.anthropic.answer import Unsayable, completion

MIN_LOGPROB = -1.5  # mean over the answer's tokens; below it the model was guessing
_PERIOD = 400  # bytes of the longest passage looked for
_RUN = 4  # times a passage may not repeat without a break
_SPAN = 24  # bytes all repeats must cover together: "ha ha ha ha" is no loop
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am|we['’]?re|my apologies)?\s*(?:very |so |really )?(?:sorry|afraid|apologi[sz]e)\b.{0,80}?)?"
    r"\b(?:i|we)\s*(?:can['’]?t|cannot|can not|(?:am|['’]m|are) (?:not able|unable)|(?:do|am|will|wo)(?:n['’]t| not)"
    r" (?:able|allowed|have (?:access|enough information)|help|assist|answer|provide))\b"
    r"|\W*as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    re.IGNORECASE | re.DOTALL,
)


def check(
    endpoint: Endpoint, fields: Mapping[str, Any], whole: Mapping[str, Any], min_logprob: float = MIN_LOGPROB
) -> str | None:
    """Why the answer will not do, or None.

    `fields` is the caller's decoded body, `whole` the answer as a non-streaming caller would get it. The
    reasons: unreadable, truncated, filtered, empty, refusal, format, repetition, unsure.
    """
    if endpoint == "messages":
        try:
            endpoint, whole = "chat", completion(whole, 0)
            fields = {**fields, "max_tokens": None}  # every request has one there: it tells nothing
        except Unsayable:
            return "unreadable"
    choices = whole.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        return "unreadable"
    return next((reason for c in choices if (reason := _fault(endpoint, fields, c, min_logprob))), None)


def _fault(
    endpoint: Endpoint, fields: Mapping[str, Any], choice: Mapping[str, Any], min_logprob: float
) -> str | None:
    finish = choice.get("finish_reason")
    # A caller that sets max_tokens means to cut; the large model's answer would be cut there too.
    if finish == "content_filter":
        return "filtered"
    if finish is None or (finish == "length" and not _limited(fields)):
        return "truncated"
    message = choice.get("message") if endpoint == "chat" else None
    said = message if isinstance(message, dict) else {}
    if said.get("tool_calls") or said.get("function_call"):
        return _broken_calls(said)
    text = said.get("content") if endpoint == "chat" else choice.get("text")
    if not isinstance(text, str) or not text.strip():
        return "refusal" if said.get("refusal") else "empty"
    if said.get("refusal") or _REFUSAL.match(text[:400]):
        return "refusal"
    if _wants_json(fields) and not _json_object(text):
        return "format"
    if loops(text):
        return "repetition"
    mean = mean_logprob(choice)
    return "unsure" if mean is not None and mean < min_logprob else None


def loops(text: str) -> bool:
    """Whether the text ends in a passage of up to 400 bytes said four times or more without a break.

    Compares the end with itself, shifted by each period: a few thousand comparisons of short strings.
    """
    raw = text.rstrip().encode("utf-8", "replace")
    for period in range(1, min(_PERIOD, len(raw) // _RUN) + 1):
        span = max(_RUN * period, _SPAN)
        if span <= len(raw) and raw[-span:-period] == raw[period - span :]:
            return True
    return False


def mean_logprob(choice: Mapping[str, Any]) -> float | None:
    """Mean log-probability of the answer's tokens in chat or completion form; None where there are none."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return None
    content = logprobs.get("content")
    if isinstance(content, list):
        values = [token.get("logprob") for token in content if isinstance(token, dict)]
    else:
        values = list(logprobs.get("token_logprobs") or [])
    known = [float(v) for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    return sum(known) / len(known) if known else None


def _limited(fields: Mapping[str, Any]) -> bool:
    return fields.get("max_tokens") is not None or fields.get("max_completion_tokens") is not None


def _wants_json(fields: Mapping[str, Any]) -> bool:
    config = fields.get("output_config")  # of Anthropic's API
    wanted = fields.get("response_format") or (config.get("format") if isinstance(config, dict) else None)
    return isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema")


def _json_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _broken_calls(message: Mapping[str, Any]) -> str | None:
    calls = message.get("tool_calls") or [{"function": message.get("function_call")}]
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    for function in functions:
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if not isinstance(arguments, str) or not _json_object(arguments or "{}"):
            return "format"
    return None if functions else "unreadable"
