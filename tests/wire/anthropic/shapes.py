"""Generated bodies in Anthropic's form, and in OpenAI's as far as both can say the same."""

from typing import Any

from hypothesis import strategies as st

from tests.wire.shapes import json_value, prose, text

said = prose.filter(bool)
name = st.sampled_from(["weather", "run", "a-b_c"])
ident = st.sampled_from(["toolu_1", "toolu_2", "call_x"])
arguments = st.dictionaries(text, json_value, max_size=3)
schema = st.just({"type": "object", "properties": {"city": {"type": "string"}}})
text_block = said.map(lambda words: {"type": "text", "text": words})
image_block = st.sampled_from(
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ]
)
use_block = st.builds(
    lambda i, n, a: {"type": "tool_use", "id": i, "name": n, "input": a}, ident, name, arguments
)
thinking_block = st.builds(
    lambda words, sign: {"type": "thinking", "thinking": words, "signature": sign},
    prose,
    st.sampled_from(["", "EqQB"]),
)
usage = st.fixed_dictionaries(
    {"input_tokens": st.integers(0, 9999), "output_tokens": st.integers(0, 9999)},
    optional={"cache_read_input_tokens": st.integers(1, 99)},
)


def joined(blocks: list[dict[str, Any]]) -> Any:
    """One text is a string: the form in which both directions agree."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else blocks


texts = st.lists(text_block, min_size=1, max_size=3).map(joined)
parts = st.lists(st.one_of(text_block, image_block), min_size=1, max_size=3).map(joined)
result_block = st.builds(lambda i, c: {"type": "tool_result", "tool_use_id": i, "content": c}, ident, texts)


@st.composite
def assistant_turn(draw: st.DrawFn) -> dict[str, Any]:
    blocks = draw(st.lists(text_block, max_size=2)) + draw(st.lists(use_block, max_size=2))
    return {"role": "assistant", "content": joined(blocks or [draw(text_block)])}


@st.composite
def user_turn(draw: st.DrawFn) -> dict[str, Any]:
    results = draw(st.lists(result_block, max_size=2))
    if not results:
        return {"role": "user", "content": draw(parts)}
    return {
        "role": "user",
        "content": [*results, *draw(st.lists(st.one_of(text_block, image_block), max_size=2))],
    }


@st.composite
def messages_body(draw: st.DrawFn) -> dict[str, Any]:
    """A request that both APIs can say."""
    turns: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 3))):
        turns += [draw(user_turn()), draw(assistant_turn())]
    body: dict[str, Any] = {
        "model": "m",
        "max_tokens": draw(st.integers(1, 9999)),
        "messages": [*turns, draw(user_turn())],
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "system": texts,
        "temperature": st.sampled_from([0, 0.5, 1.0]),
        "top_p": st.just(0.9),
        "top_k": st.just(5),
        "stop_sequences": st.lists(said, min_size=1, max_size=3),
        "metadata": st.just({"user_id": "u1"}),
        "tools": st.lists(tool(), min_size=1, max_size=2),
        "tool_choice": st.sampled_from(
            [
                {"type": "auto"},
                {"type": "none"},
                {"type": "any", "disable_parallel_tool_use": True},
                {"type": "tool", "name": "run", "disable_parallel_tool_use": False},
            ]
        ),
        "output_config": st.sampled_from(
            [{"effort": "low"}, {"format": {"type": "json_schema", "schema": {"type": "object"}}}]
        ),
    }
    for key, values in optional.items():
        if draw(st.booleans()):
            body[key] = draw(values)
    return body


@st.composite
def tool(draw: st.DrawFn) -> dict[str, Any]:
    given = {"name": draw(name), "input_schema": draw(schema)}
    return given | draw(st.fixed_dictionaries({}, optional={"description": text, "strict": st.booleans()}))


@st.composite
def message(draw: st.DrawFn, signed: bool = True) -> dict[str, Any]:
    """A whole answer. Unsigned: as a chat completion can say it, one text of each kind and calls behind."""
    if signed:
        blocks = draw(st.lists(st.one_of(text_block, thinking_block, use_block), max_size=4))
    else:
        thought = said.map(lambda words: {"type": "thinking", "thinking": words, "signature": ""})
        blocks = [*draw(st.lists(thought, max_size=1)), *draw(st.lists(text_block, max_size=1))]
        blocks += draw(st.lists(use_block, max_size=3))
    called = any(block["type"] == "tool_use" for block in blocks)
    return {
        "id": "msg_7",
        "type": "message",
        "role": "assistant",
        "model": "large",
        "content": blocks,
        "stop_reason": "tool_use" if called else draw(st.sampled_from(["end_turn", "max_tokens"])),
        "stop_sequence": None,
        "usage": draw(usage),
    }
