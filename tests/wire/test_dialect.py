import json
from typing import Any

import orjson
import pytest

from gateway.exchange import Endpoint, Request
from gateway.wire.anthropic.answer import Unsayable
from gateway.wire.dialect import LIMIT, Untranslatable, spoken
from gateway.wire.request import parse

MESSAGES = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def request(endpoint: Endpoint, fields: Any) -> Request:
    return parse(endpoint, fields if isinstance(fields, bytes) else orjson.dumps(fields), {})


@pytest.mark.parametrize(
    ("endpoint", "api", "elsewhere"),
    [
        ("chat", "openai", None),
        ("messages", "anthropic", None),
        ("chat", "both", None),
        ("messages", "both", None),
        ("chat", "anthropic", "messages"),
        ("messages", "openai", "chat"),
    ],
)
def test_only_what_must_be_is_translated(endpoint: Endpoint, api: Any, elsewhere: Endpoint | None) -> None:
    asked = request(endpoint, {**MESSAGES, "stream": True})
    said = spoken(asked, api, model="theirs", include_usage=True)
    assert said.endpoint == elsewhere
    assert (said.translator is None) == (elsewhere is None)
    assert orjson.loads(said.body)["model"] == "theirs"
    if elsewhere is None:
        assert spoken(asked, api).body == asked.raw


@pytest.mark.parametrize("endpoint", ["completions", "responses", "embeddings"])
def test_other_endpoints_have_no_form_at_anthropics(endpoint: Endpoint) -> None:
    with pytest.raises(Untranslatable, match=endpoint):
        spoken(request(endpoint, {"model": "m", "prompt": "Hi", "input": "Hi"}), "anthropic")


def test_our_controls_stay_here_and_an_engines_own_are_refused() -> None:
    ours = request("messages", {**MESSAGES, "cache": {"no-store": True}})
    assert "cache" not in orjson.loads(spoken(ours, "openai").body)
    with pytest.raises(Untranslatable):
        spoken(request("messages", {**MESSAGES, "cache": "theirs"}), "openai")


def test_long_whole_numbers_stay_exact() -> None:
    schema = {"type": "object", "properties": {"x": {"maximum": 2**80 + 1}}}
    tools = [{"name": "f", "input_schema": schema}]
    raw = json.dumps({**MESSAGES, "tools": tools}).encode()
    sent = json.loads(spoken(request("messages", raw), "openai").body)
    assert sent["tools"][0]["function"]["parameters"] == schema


def test_usage_is_asked_for_and_told_as_the_caller_wants() -> None:
    stream = {**MESSAGES, "stream": True}
    said = spoken(request("messages", stream), "openai", include_usage=True)
    assert (orjson.loads(said.body)["stream_options"], said.usage_added) == ({"include_usage": True}, True)
    assert "stream_options" not in orjson.loads(spoken(request("messages", stream), "openai").body)
    for wants in (True, False):
        chat = {**CHAT, "stream": True, "stream_options": {"include_usage": wants}}
        said = spoken(request("chat", chat), "anthropic", include_usage=True)
        assert said.usage_added is not wants
        assert said.translator is not None
        told = said.translator(200, "text/event-stream").feed(b'data: {"type": "message_stop"}\n\n')
        assert b'"usage"' in told
    assert not spoken(request("chat", CHAT), "anthropic", include_usage=True).usage_added


def test_an_answer_too_long_to_hold_is_an_error() -> None:
    said = spoken(request("messages", MESSAGES), "openai")
    assert said.translator is not None
    whole = said.translator(200, "application/json")
    assert whole.feed(b"x" * LIMIT) == b""
    with pytest.raises(Unsayable):
        whole.feed(b"x")
    assert b"The engine answered 418." in said.translator(418, "text/html").finish()
