import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Endpoint
from gateway.wire.request import parse, rewrite
from tests.wire.shapes import json_value, text

TAIL = b'"messages":[{"role":"user","content":"a \\"model\\": b"}]'


def rewritten(
    raw: bytes, model: str | None = None, usage: bool = False, endpoint: Endpoint = "chat"
) -> bytes:
    return rewrite(parse(endpoint, raw, {}), model=model, include_usage=usage)


@pytest.mark.parametrize("model", [None, "m"])
def test_nothing_to_change_gives_the_same_object(model: str | None) -> None:
    raw = b' { "model" : "m" , ' + TAIL + b"} "
    request = parse("chat", raw, {})
    assert rewrite(request, model=model, include_usage=True) is raw


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"m",%s}', b'{"model":"n\\"",%s}'),
        (b'{ %s ,\n "model" :\t"m", "seed": 123456789012345678901 }', None),
        (b'{"x":{"model":"m"},%s,"model":"m"}', b'{"x":{"model":"m"},%s,"model":"n\\""}'),
        (b'{"mod\\u0065l":"m","x":{"model":"m"},%s}', b'{"mod\\u0065l":"n\\"","x":{"model":"m"},%s}'),
        (b'{"a":"model",%s,"model":"m"}', b'{"a":"model",%s,"model":"n\\""}'),
        (b'{"a\\"model":"m",%s,"mod\\u0065l":"m"}', b'{"a\\"model":"m",%s,"mod\\u0065l":"n\\""}'),
        (b'{"model":"\\u006d",%s}', b'{"model":"n\\"",%s}'),
        ('{"é😀":"é😀",%s,"model":"m"}'.encode(), '{"é😀":"é😀",%s,"model":"n\\""}'.encode()),
    ],
)
def test_the_model_is_renamed_in_its_place(before: bytes, after: bytes | None) -> None:
    expected = after or b'{ %s ,\n "model" :\t"n\\"", "seed": 123456789012345678901 }'
    assert rewritten(before % TAIL, 'n"') == expected % TAIL


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":null', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{}', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{"include_usage":false}', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{"x":1}', b',"stream_options":{"x":1,"include_usage":true}'),
        (b',"stream_options":{"include_usage":true}', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{"include_usage":"yes"}', b',"stream_options":{"include_usage":"yes"}'),
    ],
)
def test_usage_is_asked_for(options: bytes, expected: bytes) -> None:
    raw = b'{"model":"m",' + TAIL + b', "stream": true' + options + b" }"
    found = rewritten(raw, usage=True)
    assert orjson.loads(found) == orjson.loads(
        b'{"model":"m",' + TAIL + b', "stream": true' + expected + b"}"
    )
    assert found.startswith(b'{"model":"m",' + TAIL + b', "stream": true')
    assert rewritten(raw, usage=False) is raw


@pytest.mark.parametrize("endpoint", ["responses", "embeddings"])
def test_usage_is_asked_for_in_streams_that_have_the_option_only(endpoint: Endpoint) -> None:
    raw = b'{"model":"m","input":"x","stream":true}'
    assert rewritten(raw, usage=True, endpoint=endpoint) is raw


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"cache": {"ttl": 5}, "model":"m",%s}', b'{"model":"m",%s}'),
        (b'{"model":"m" , "cache":null,%s}', b'{"model":"m",%s}'),
        (b'{"model":"m",%s, "cache":{} }', b'{"model":"m",%s }'),
        (b'{"model":"m",%s, "cache":"own"}', b'{"model":"m",%s, "cache":"own"}'),
        (b'{"model":"m",%s, "x":{"cache":{}}}', b'{"model":"m",%s, "x":{"cache":{}}}'),
    ],
)
def test_our_cache_object_is_stripped(before: bytes, after: bytes) -> None:
    assert rewritten(before % TAIL) == after % TAIL


@given(
    st.dictionaries(text, json_value, max_size=4),
    st.sampled_from(["absent", "null", "object"]),
    st.booleans(),
    st.booleans(),
    st.permutations(["model", "messages", "stream", "cache", "stream_options"]),
    st.sampled_from([(",", ":"), (" , ", " : "), (",\n\t", ":\r\n")]),
    st.booleans(),
)
def test_any_mixture_of_edits(
    extra: dict[str, Any],
    options: str,
    cache: bool,
    ask: bool,
    order: list[str],
    separators: tuple[str, str],
    ascii_only: bool,
) -> None:
    known: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "model"}], "stream": True}
    if cache:
        known["cache"] = {"no-store": True}
    if options != "absent":
        known["stream_options"] = None if options == "null" else {"x": 1}
    others = {
        key: value for key, value in extra.items() if key not in order and key not in ("n", "temperature")
    }
    body = {**others, **{key: known[key] for key in order if key in known}}
    raw = json.dumps(body, separators=separators, ensure_ascii=ascii_only).encode()
    expected = {key: value for key, value in {**body, "model": "näme"}.items() if key != "cache"}
    if ask:
        expected["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    assert orjson.loads(rewritten(raw, "näme", ask)) == expected
