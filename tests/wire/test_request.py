import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import BadRequest, GatewayError
from gateway.exchange import Endpoint
from gateway.wire.request import choices, exact_fingerprint, parse, partition_fingerprint
from tests.wire.shapes import json_value

USER = {"role": "user", "content": "why?"}
ENDPOINTS: list[Endpoint] = ["chat", "completions", "responses", "embeddings"]
MINIMAL: dict[Endpoint, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [USER]},
    "completions": {"model": "m", "prompt": "why?"},
    "responses": {"model": "m", "input": "why?"},
    "embeddings": {"model": "m", "input": "why?"},
}


def refused(endpoint: Endpoint, body: Any) -> BadRequest:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    with pytest.raises(BadRequest) as caught:
        parse(endpoint, raw, {})
    assert caught.value.status == 400
    assert caught.value.message
    return caught.value


def status(endpoint: Endpoint, raw: bytes) -> int:
    """200, or the status of our own error; anything else that is raised fails the test."""
    try:
        request = parse(endpoint, raw, {})
    except GatewayError as error:
        return error.status
    choices(request)
    exact_fingerprint(request, "t")
    partition_fingerprint(request, "t")
    return 200


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_minimal_body_gives_its_facts(endpoint: Endpoint) -> None:
    raw = orjson.dumps({**MINIMAL[endpoint], "stream": True, "stream_options": {"include_usage": True}})
    request = parse(endpoint, raw, {})
    assert (request.endpoint, request.raw, request.model) == (endpoint, raw, "m")
    streams = endpoint != "embeddings"
    assert (request.stream, request.wants_usage) == (streams, streams)
    assert request.question == ("why?" if streams else None)
    assert request.barred == (None if streams else "endpoint")
    assert request.uncacheable is None


@pytest.mark.parametrize(
    ("raw", "code", "said"),
    [
        (b'{"model": "\xff"}', "invalid_utf8", "byte 11"),
        (b'{"model": }', "invalid_json", "column 11"),
        (b"", "invalid_json", "empty"),
        (b"  \n", "invalid_json", "empty"),
        (b"[]", "invalid_json", "object"),
        (b'"x"', "invalid_json", "object"),
        (b'{"a":NaN}', "invalid_json", "column"),
        (b'{"a":"\x00"}', "invalid_json", "column"),
        (b'{"a":"\\ud800"}', "invalid_json", "surrogate"),
        (b'{"a":' * 5000, "nesting_too_deep", "deeply"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nesting_too_deep", "deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nesting_too_deep", "deeply"),
    ],
)
def test_a_body_that_cannot_be_read(raw: bytes, code: str, said: str) -> None:
    error = refused("chat", raw)
    assert error.code == code
    assert said in error.message


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"model":"n"}',
        b'{"model" : "m","messages":[{"role":"user","content":"a"}],"model":"n"}',
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"mod\\u0065l":"n"}',
        b'{"model":"m","messages":[{"role":"user","content":"\\u003a \\u003A"}],"model":"n"}',
        b'{"x":{"model":1,"y":[{"model":2,"model":3}]},"model":"m","messages":[{"role":"user"}]}',
    ],
)
def test_a_duplicate_key_is_named(raw: bytes) -> None:
    error = refused("chat", raw)
    assert (error.code, error.param) == ("duplicate_key", "model")
    assert "'model'" in error.message


@pytest.mark.parametrize("separators", [(", ", ": "), (",", " : "), (" ,\n", "\t:\n")])
def test_white_space_is_no_duplicate(separators: tuple[str, str]) -> None:
    body = {**MINIMAL["chat"], "x": {"model": 'a ":" b', "y": "\\:"}, "big": 10**30}
    assert parse("chat", json.dumps(body, separators=separators).encode(), {}).fields["x"] == body["x"]


def test_an_escaped_colon_is_no_duplicate() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"\\u003a"}]}'
    assert parse("chat", raw, {}).question == ":"


@pytest.mark.parametrize(
    ("endpoint", "change", "param", "code"),
    [
        ("chat", {"model": None}, "model", "missing_required_parameter"),
        ("chat", {"model": ""}, "model", "missing_required_parameter"),
        ("chat", {"model": 5}, "model", "invalid_type"),
        ("chat", {"messages": None}, "messages", "missing_required_parameter"),
        ("chat", {"messages": "hi"}, "messages", "invalid_type"),
        ("chat", {"messages": []}, "messages", "empty_array"),
        ("chat", {"messages": [USER, "hi"]}, "messages[1]", "invalid_type"),
        ("chat", {"messages": [{"content": "hi"}]}, "messages[0].role", "invalid_type"),
        ("chat", {"messages": [{"role": 1}]}, "messages[0].role", "invalid_type"),
        ("chat", {"stream": "yes"}, "stream", "invalid_type"),
        ("chat", {"stream": 1}, "stream", "invalid_type"),
        ("chat", {"n": "2"}, "n", "invalid_type"),
        ("chat", {"n": True}, "n", "invalid_type"),
        ("chat", {"n": 1.5}, "n", "invalid_type"),
        ("chat", {"temperature": "0"}, "temperature", "invalid_type"),
        ("chat", {"temperature": False}, "temperature", "invalid_type"),
        ("chat", {"stream_options": []}, "stream_options", "invalid_type"),
        ("responses", {"input": None}, "input", "missing_required_parameter"),
        ("responses", {"input": {"role": "user"}}, "input", "invalid_type"),
        ("embeddings", {"input": None}, "input", "missing_required_parameter"),
    ],
)
def test_wrong_fields_are_named(endpoint: Endpoint, change: dict[str, Any], param: str, code: str) -> None:
    error = refused(endpoint, {**MINIMAL[endpoint], **change})
    assert (error.param, error.code) == (param, code)


def test_a_missing_prompt_is_named() -> None:
    assert refused("completions", {"model": "m"}).param == "prompt"


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", {"n": None, "temperature": None, "stream": None, "stream_options": None, "tools": None}),
        ("chat", {"n": 2.0, "temperature": 1, "max_tokens": "many", "stop": 5, "unheard_of": {"a": [1]}}),
        ("chat", {"messages": [{"role": "assistant", "content": None}, USER]}),
        ("chat", {"messages": [{"role": "narrator", "content": 5}, {"role": "user"}]}),
        ("chat", {"messages": [{"role": "user", "content": [5, {"type": []}, {"type": "text"}]}]}),
        ("chat", {"tools": "all", "modalities": 3, "include": {}, "cache": "engine's own"}),
        ("chat", {"tools": [1, {"type": []}], "web_search_options": {}}),
        ("completions", {"prompt": None}),
        ("completions", {"prompt": [1, 2, 3]}),
        ("completions", {"prompt": [[1], [2]]}),
        ("responses", {"input": [5, {"type": {}}, {"role": "user"}]}),
        ("responses", {"input": []}),
        ("responses", {"input": None, "prompt": {"id": "pmpt_1"}}),
        ("embeddings", {"input": {"anything": 1}}),
        ("embeddings", {"input": None, "messages": [USER]}),
    ],
)
def test_never_stricter_than_an_engine(endpoint: Endpoint, body: dict[str, Any]) -> None:
    raw = orjson.dumps({**MINIMAL[endpoint], **body})
    assert parse(endpoint, raw, {}).raw == raw


@given(st.sampled_from(ENDPOINTS), st.binary(max_size=200))
@example("chat", b'{"model":"m","messages":[{"role":"user","content":' + b"9" * 5000 + b"}]}")
@example("chat", b'\xef\xbb\xbf{"model":"m"}')
def test_arbitrary_bytes_raise_nothing_but_our_errors(endpoint: Endpoint, raw: bytes) -> None:
    assert status(endpoint, raw) in (200, 400)


KEYS = [
    "messages",
    "prompt",
    "input",
    "tools",
    "stream",
    "n",
    "cache",
    "stream_options",
    "content",
    "role",
    "type",
]


@given(
    st.sampled_from(ENDPOINTS),
    st.dictionaries(st.sampled_from(KEYS), json_value),
    st.lists(json_value, max_size=3),
)
def test_arbitrary_json_raises_nothing_but_our_errors(
    endpoint: Endpoint, fields: dict[str, Any], parts: list[Any]
) -> None:
    asked = {
        "role": "user",
        "content": parts,
        **{key: fields[key] for key in ("type", "tool_calls") if key in fields},
    }
    for body in (
        {**MINIMAL[endpoint], **fields},
        {"model": "m", "messages": [asked], "input": [asked, *parts]},
    ):
        assert status(endpoint, orjson.dumps(body)) in (200, 400)


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("chat", {}, 1),
        ("chat", {"n": 3}, 3),
        ("completions", {"prompt": ["a", "b"], "n": 2}, 4),
        ("completions", {"prompt": [[1, 2], [3]]}, 2),
        ("completions", {"prompt": [1, 2, 3]}, 1),
        ("completions", {"prompt": []}, 1),
    ],
)
def test_choices_of_a_whole_answer(endpoint: Endpoint, body: dict[str, Any], expected: int) -> None:
    assert choices(parse(endpoint, orjson.dumps({**MINIMAL[endpoint], **body}), {})) == expected
