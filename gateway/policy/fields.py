"""The scalar types of the policy book and what each refuses, with messages an operator can act on.

Bounds live here so that schema, API and files agree. Nothing here knows a request.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, Strict, StringConstraints

from gateway.calibration import FLOOR
from gateway.exchange import Mode
from gateway.patterns import compile_pattern

MODES: tuple[Mode, ...] = ("semantic", "shadow", "exact", "none")  # from the most permissive to the strictest
DEFAULT_THRESHOLD = 0.95
MAX_TTL = 365 * 86400.0
MAX_PATTERN = 1000  # characters of a rule's regular expression
MAX_EXAMPLE = 2000  # characters of one utterance: beyond an embedder's window anyway
RESERVED = frozenset({"versions", "rollback", "reload"})  # admin paths beside /policies/{category}

# Ignoring one of these would serve one request the answer of another.
_ANSWER_FIELDS = """
    audio background best_of cache chat_template chat_template_kwargs conversation dimensions echo
    encoding_format extra_body frequency_penalty function_call functions grammar guided_choice
    guided_decoding_backend guided_grammar guided_json guided_regex include input instructions
    json_schema logit_bias logprobs max_completion_tokens max_output_tokens max_tokens
    max_tool_calls messages min_p min_tokens modalities model n parallel_tool_calls prediction
    presence_penalty previous_response_id prompt reasoning reasoning_effort repetition_penalty
    response_format seed stop stop_token_ids structured_outputs suffix system temperature text
    thinking tool_choice tools top_a top_k top_logprobs top_p truncation typical_p verbosity
    web_search_options
"""
ANSWER_FIELDS = frozenset(_ANSWER_FIELDS.split())

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def seconds(ttl: str | float) -> float:
    """A duration as written ("7d", "5m", "30s", 90) in seconds. Raises ValueError."""
    if not isinstance(ttl, str):
        return float(ttl)
    match = _DURATION.fullmatch(ttl.strip())
    if match is None:
        raise ValueError(
            f'"{ttl[:40]}" is no duration; write a number and s, m, h, d or w ("7d", "5m"), or seconds'
        )
    return float(match[1]) * _UNITS[match[2]]


def _ttl(value: Any) -> str | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('should be a duration such as "7d", "5m", "30s", or a number of seconds')
    length = seconds(value)
    if not 1 <= length <= MAX_TTL:
        raise ValueError("must lie between 1 second and 365 days; to cache nothing, write mode: none")
    return value


def _grace(value: Any) -> str | float:
    return value if value == 0 and not isinstance(value, bool) else _ttl(value)


def _mode(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        written = {True: "on, yes or true", False: "off, no or false", None: "an empty value"}[value]
        raise ValueError(f"YAML read {written} here; write one of semantic, exact, shadow, none")
    return value


def _threshold(value: float) -> float:
    if value < FLOOR:
        raise ValueError(
            f"{value:g} is too low: under {FLOOR:.2f} unrelated questions match each other; "
            "raise it, or use mode: shadow to see what would have hit"
        )
    if value > 1:
        raise ValueError(f"{value:g} is above 1, the largest cosine similarity")
    return value


def _category_name(value: str) -> str:
    if value in RESERVED:
        raise ValueError(f'"{value}" is a path of the admin API; choose another name')
    return value


def _ignorable(value: str) -> str:
    if value in ANSWER_FIELDS:
        raise ValueError(f'"{value}" changes the answer, so it must part two requests')
    return value


def _pattern(value: str) -> str:
    compile_pattern(value)
    return value


Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Ttl = Annotated[str | int | float, PlainValidator(_ttl, json_schema_input_type=str | int | float)]
Grace = Annotated[str | int | float, PlainValidator(_grace, json_schema_input_type=str | int | float)]
CacheMode = Annotated[Mode, BeforeValidator(_mode)]
Threshold = Annotated[
    Number, AfterValidator(_threshold), Field(json_schema_extra={"minimum": FLOOR, "maximum": 1})
]
Share = Annotated[Number, Field(ge=0, le=1)]
CategoryName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"), AfterValidator(_category_name)
]
Example = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXAMPLE, pattern=r"\S")]
Ignorable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), AfterValidator(_ignorable)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN), AfterValidator(_pattern)]
Wording = Literal["content", "entity", "person", "question", "template"]
CheckName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$", to_lower=True)]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=256)]
