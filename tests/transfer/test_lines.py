"""The form in which answers travel: what is written is what is read, and nothing else is."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Entry, Record
from gateway.transfer.lines import BadLine, Head, Terms, decode, encode, head, pair, vector

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def record(question: str = "q", document: str = "{}", raw: bytes | None = None) -> Record:
    entry = Entry(
        id=7, exact=b"e" * 32, partition=b"p" * 32, tenant="t:a", category="c", model="m", endpoint="chat",
        question=question, created=1.5, expires=9.5, size=3, cost=0.25, temperature=None, tags=("x",), hits=2,
    )  # fmt: skip
    return Record(entry, raw, document.encode())


@given(TEXT, TEXT, st.none() | st.binary(max_size=40), st.integers(1, 64))
def test_an_entry_comes_back_as_it_went(
    question: str, document: str, raw: bytes | None, variants: int
) -> None:
    line = encode(record(question, document, raw), variants)
    assert b"\n" not in line
    assert decode(orjson.loads(line)) == (record(question, document, raw), variants)


@given(st.sampled_from(["entry", "variants", "vector", "document"]), JSON)
def test_a_malformed_line_is_a_bad_line_or_a_whole_entry(part: str, value: Any) -> None:
    line = orjson.loads(encode(record(), 1))
    line[part] = value
    try:
        read, variants = decode(line)
    except BadLine:
        return
    assert isinstance(read.entry, Entry)
    assert 1 <= variants <= 64


@given(JSON)
def test_only_a_head_is_a_head(value: Any) -> None:
    with pytest.raises(BadLine):
        head(value)


def test_a_head_comes_back_as_it_went() -> None:
    told = Head("embedder", "sorting", "tenants")
    assert head(orjson.loads(told.line())) == told


def test_a_vector_of_another_length_or_not_of_unit_length_is_none() -> None:
    good = np.array([0.6, 0.8], dtype=np.float32)
    found = vector(good.tobytes(), 2)
    assert found is not None
    assert found.tolist() == good.tolist()
    assert vector(good.tobytes(), 3) is None
    assert vector((good * 2).tobytes(), 2) is None
    assert vector(np.array([np.nan, 0.8], dtype=np.float32).tobytes(), 2) is None
    assert vector(None, 2) is None


@given(JSON, JSON, JSON)
def test_a_pair_is_read_whole_or_refused(line: Any, request: Any, response: Any) -> None:
    for given_line in (
        line,
        {"request": request, "response": response},
        {"question": request, "answer": response},
    ):
        try:
            read = pair(given_line, Terms(model="m"))
        except BadLine:
            continue
        assert orjson.loads(read.request)["model"]


@pytest.mark.parametrize(
    ("body", "response", "endpoint"),
    [
        ({"messages": []}, {}, "chat"),
        ({"prompt": "x"}, {}, "completions"),
        ({"input": "x"}, {"data": []}, "embeddings"),
        ({"input": "x"}, {"output": []}, "responses"),
    ],
)
def test_the_endpoint_is_told_by_the_bodies(body: Any, response: Any, endpoint: str) -> None:
    assert pair({"request": {"model": "m", **body}, "response": response}, Terms()).endpoint == endpoint
