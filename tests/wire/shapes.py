"""Generated bodies shared by the wire tests."""

from typing import Any

from hypothesis import strategies as st

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
words = st.lists(
    st.sampled_from(
        ["why", "naïve", "e\u0301", "👩‍💻", "🇩🇪", "\n\n", "  ", "数据", "x" * 70, "\r\n", "\u0000"]
    )
)
prose = st.one_of(text, words.map(" ".join), words.map("".join))
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
)
json_value = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
junk = st.sampled_from([None, True, 5, 0.5, "", "so", [], [None], ["so"], {}, {"so": 5}, [{}], [[]]])
usage = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 9999), "completion_tokens": st.integers(0, 9999)},
    optional={"prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 99)})},
).map(lambda counts: {**counts, "total_tokens": counts["prompt_tokens"] + counts["completion_tokens"]})


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """The value with one node, somewhere inside, replaced by any other."""
    if not isinstance(value, (list, dict)) or not value or draw(st.integers(0, 9)) == 0:
        return draw(junk)
    at = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    inner = draw(mutated(value[at]))
    if isinstance(value, dict):
        return {**value, at: inner}
    return [*value[:at], inner, *value[at + 1 :]]


def tokens_of(spelled: str) -> list[dict[str, Any]]:
    """Log probabilities of a text, three characters a token."""
    cuts = [spelled[at : at + 3] for at in range(0, len(spelled), 3)]
    return [{"token": cut, "logprob": -0.5, "bytes": list(cut.encode()), "top_logprobs": []} for cut in cuts]


@st.composite
def tool_call(draw: st.DrawFn) -> dict[str, Any]:
    arguments = draw(st.sampled_from(["{}", '{"city": "Köln"}', '{"long": "' + "ab " * 60 + '"}', ""]))
    return {
        "id": draw(st.sampled_from(["call_1", "call_2", "call_x"])),
        "type": "function",
        "function": {"name": draw(st.sampled_from(["weather", "run"])), "arguments": arguments},
    }


@st.composite
def chat_choice(draw: st.DrawFn, index: int) -> dict[str, Any]:
    calls = draw(st.one_of(st.none(), st.lists(tool_call(), min_size=1, max_size=3)))
    content = draw(st.one_of(st.none(), prose) if calls else prose)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(prose)
    if calls:
        message["tool_calls"] = calls
    logprobs = None
    if content is not None and draw(st.booleans()):
        logprobs = {"content": tokens_of(content), "refusal": None}
    reason = "tool_calls" if calls else "stop"
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


@st.composite
def chat_answer(draw: st.DrawFn) -> dict[str, Any]:
    choices = [draw(chat_choice(index)) for index in range(draw(st.integers(1, 3)))]
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "large",
        "system_fingerprint": "fp_1",
        "choices": choices,
        "usage": draw(usage),
    }


@st.composite
def completion_answer(draw: st.DrawFn) -> dict[str, Any]:
    choices = [
        {"index": index, "text": draw(prose), "logprobs": None, "finish_reason": "stop"}
        for index in range(draw(st.integers(1, 3)))
    ]
    return {
        "id": "cmpl-7",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "large",
        "choices": choices,
        "usage": draw(usage),
    }


@st.composite
def responses_answer(draw: st.DrawFn) -> dict[str, Any]:
    spelled = draw(prose)
    logprobs = tokens_of(spelled) if draw(st.booleans()) else []
    part = {"type": "output_text", "text": spelled, "annotations": [], "logprobs": logprobs}
    items: list[dict[str, Any]] = [
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": draw(prose)}],
            "content": [{"type": "reasoning_text", "text": draw(prose)}],
        },
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]},
        {
            "id": "fc_1",
            "type": "function_call",
            "status": "completed",
            "call_id": "call_1",
            "name": "weather",
            "arguments": draw(st.sampled_from(["{}", '{"city": "Köln"}'])),
        },
        {
            "id": "ct_1",
            "type": "custom_tool_call",
            "call_id": "call_2",
            "name": "shell",
            "input": draw(prose),
        },
    ]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "large",
        "output": draw(st.lists(st.sampled_from(items), min_size=1, unique_by=id)),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
    }
