"""Which prompts begin alike."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.prefix import ENDS, blocks, held

SYSTEM = {"role": "system", "content": "You are a careful assistant. " * 200}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat(*messages: Any, tenant: str = "t", **more: Any) -> tuple[int, ...]:
    fields = {"model": "m", "messages": list(messages), **more}
    return blocks("chat", fields, 10_000, tenant)


def shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(x == y for x, y in zip(a, b, strict=False))


def test_equal_beginnings_share_their_blocks_and_nothing_behind_them() -> None:
    one, two = chat(SYSTEM, user("a" * 2000)), chat(SYSTEM, user("b" * 2000))
    assert len(one) == len(two) == 15
    assert shared(one, two) == 11, "5.8 KB of system prompt in blocks of 512 bytes"
    assert one[:11] == two[:11]


def test_a_changed_first_message_shares_none() -> None:
    other = {**SYSTEM, "content": "Y" + SYSTEM["content"][1:].replace("careful", "Careful", 1)}
    assert shared(chat(SYSTEM, user("a" * 2000)), chat(other, user("a" * 2000))) == 0


def test_later_turns_share_all_blocks_of_the_earlier() -> None:
    turns: list[Any] = [SYSTEM]
    before: tuple[int, ...] = ()
    for number in range(6):
        turns.append(user(f"question {number} " * 40))
        now = chat(*turns)
        assert now[: len(before)] == before
        assert len(now) >= len(before)
        before = now
        turns.append({"role": "assistant", "content": f"answer {number} " * 60})
    assert len(before) > len(chat(*turns[:2]))


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "other"},
        {"model": "n"},
        {"cache_salt": "s"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)
def test_tenant_model_salt_and_tools_part_prompts(other: dict[str, Any]) -> None:
    assert shared(chat(SYSTEM), chat(SYSTEM, **other)) == 0


def test_settings_that_are_no_part_of_the_prompt_part_nothing() -> None:
    assert chat(SYSTEM) == chat(SYSTEM, temperature=1, stream=True, max_tokens=3)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("completions", {"prompt": "once " * 500}),
        ("completions", {"prompt": list(range(2000))}),
        ("responses", {"input": "once " * 500}),
        ("responses", {"instructions": "do " * 500, "input": [{"role": "user", "content": "x"}]}),
    ],
)
def test_other_endpoints_have_their_own_texts(endpoint: Any, fields: dict[str, Any]) -> None:
    assert len(blocks(endpoint, fields, 2500, "t")) >= 2


def test_what_has_no_prompt_to_share_has_no_blocks() -> None:
    assert blocks("embeddings", {"input": "x" * 5000}, 5000, "t") == ()
    assert blocks("responses", {"input": "x" * 5000, "previous_response_id": "r"}, 5000, "t") == ()
    assert chat(user("short")) == ()


def test_long_prompts_have_few_blocks_and_they_differ_to_the_end() -> None:
    one = chat(user("a" * 1_000_000))
    assert len(one) == len(ENDS) == 48
    assert shared(one, chat(user("a" * 100_000 + "b" + "a" * 900_000))) == 39
    assert blocks("chat", {"messages": [user("a")]}, 5 << 20, "t") == ()


@given(st.integers(0, 60), st.integers(0, 60))
def test_known_blocks_are_counted_from_the_front(length: int, known: int) -> None:
    names = tuple(range(length))
    assert held(names, set(range(known))) == min(length, known)


@given(st.lists(st.text(max_size=3000), min_size=1, max_size=4), st.integers(0, 3), st.text(max_size=3))
def test_blocks_are_a_chain(texts: list[str], place: int, change: str) -> None:
    """After the first block that differs, all differ."""
    changed = [text + change if number == place else text for number, text in enumerate(texts)]
    one, two = chat(*map(user, texts)), chat(*map(user, changed))
    alike = [a == b for a, b in zip(one, two, strict=False)]
    assert alike == sorted(alike, reverse=True)
