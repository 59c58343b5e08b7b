import time

import pytest

from gateway.offload.gate import check, loops


def chat(content, finish="stop", **message):
    return {
        "choices": [
            {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ]
    }


def scored(content, logprobs):
    whole = chat(content)
    whole["choices"][0]["logprobs"] = {"content": [{"token": "t", "logprob": value} for value in logprobs]}
    return whole


JSON = {"response_format": {"type": "json_object"}}
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
BROKEN = {"type": "function", "function": {"name": "f", "arguments": '{"a": '}}


@pytest.mark.parametrize(
    ("fields", "whole", "reason"),
    [
        ({}, chat("Paris."), None),
        ({}, {}, "unreadable"),
        ({}, {"choices": []}, "unreadable"),
        ({}, chat(""), "empty"),
        ({}, chat(" \n"), "empty"),
        ({}, chat(None), "empty"),
        ({}, chat("Paris is", "length"), "truncated"),
        ({"max_tokens": 2}, chat("Paris is", "length"), None),
        ({}, chat("Paris", None), "truncated"),
        ({}, chat("Paris", "content_filter"), "filtered"),
        ({}, chat("", refusal="no"), "refusal"),
        ({}, chat("I'm sorry, but I can't help with that."), "refusal"),
        ({}, chat("I cannot answer this."), "refusal"),
        ({}, chat("I’m unable to access the page."), "refusal"),
        ({}, chat("As an AI language model, I have no opinion."), "refusal"),
        ({}, chat("As an airline, we carry dogs."), None),
        ({}, chat("Sorry to hear that! Restart the router."), None),
        ({}, chat("The key cannot be found: I can't stress this enough."), None),
        (JSON, chat('{"a": 1}'), None),
        (JSON, chat('{"a": 1'), "format"),
        (JSON, chat("[1]"), "format"),
        ({}, chat('{"a": 1'), None),
        ({}, chat("It is the same and the same " + "and so on and so on " * 4), "repetition"),
        ({}, chat("ha ha ha ha"), None),
        ({}, chat(None, "tool_calls", tool_calls=[CALL]), None),
        ({}, chat(None, "tool_calls", tool_calls=[CALL, BROKEN]), "format"),
        ({}, scored("Paris", [-0.1, -0.2]), None),
        ({}, scored("Paris", [-3.0, -2.0]), "unsure"),
    ],
)
def test_what_will_not_do(fields, whole, reason):
    assert check("chat", fields, whole) == reason


def test_the_completion_form():
    whole = {
        "choices": [{"text": "Paris", "finish_reason": "stop", "logprobs": {"token_logprobs": [None, -0.5]}}]
    }
    assert check("completions", {}, whole) is None
    assert check("completions", {}, whole, min_logprob=-0.4) == "unsure"
    whole["choices"][0]["text"] = ""
    assert check("completions", {}, whole) == "empty"


def test_every_choice_must_do():
    whole = {"choices": [*chat("Paris")["choices"], *chat("")["choices"]]}
    assert check("chat", {}, whole) == "empty"


def test_loops_are_found_at_the_end_only_and_quickly():
    assert loops("x" * 40)
    assert loops("good start. " + "and then the loop goes on, " * 4)
    assert not loops("and then the loop goes on, " * 4 + "until it is over, and other things are said")
    started = time.perf_counter()
    assert not loops(" ".join(f"word{n}" for n in range(20_000)))
    assert time.perf_counter() - started < 0.05
