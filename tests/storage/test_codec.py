"""Entry ↔ bytes: nothing lost, nothing wrong let in."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Entry
from gateway.storage.codec import Undecodable, decode, encode, pack, unpack
from tests.storage.conftest import make_record

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_entries = st.builds(
    Entry,
    id=st.integers(0, 2**63 - 1),
    exact=st.binary(max_size=32),
    partition=st.binary(max_size=32),
    tenant=_text,
    category=_text,
    model=_text,
    endpoint=_text,
    question=_text,
    created=_finite,
    expires=_finite,
    size=st.integers(0, 2**40),
    cost=_finite,
    temperature=st.none() | _finite,
    tags=st.lists(_text, max_size=3).map(tuple),
    request=st.integers(0, 2**48 - 1),
    prompt_tokens=st.integers(0, 2**53),
    completion_tokens=st.integers(0, 2**53),
    hits=st.integers(0, 2**40),
)


@given(_entries, st.none() | st.binary(max_size=64))
def test_round_trip(entry: Entry, vector: bytes | None) -> None:
    assert decode(encode(entry)) == entry
    assert unpack(pack(entry, vector)) == (entry, vector)


@given(st.binary(max_size=200))
def test_noise_is_undecodable(noise: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(noise)
    with pytest.raises(Undecodable):
        unpack(noise)


@given(_entries, st.data())
def test_a_value_cut_short_before_its_vector_is_undecodable(entry: Entry, data: st.DataObject) -> None:
    value = pack(entry, None)
    with pytest.raises(Undecodable):
        unpack(value[: data.draw(st.integers(0, len(value) - 1))])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "1"),
        ("id", True),
        ("expires", None),
        ("tags", "ab"),
        ("tags", [1]),
        ("exact", "xy"),
        ("hits", 1.5),
    ],
)
def test_a_field_of_the_wrong_type_is_undecodable(field: str, value: object) -> None:
    values = orjson.loads(encode(make_record(1).entry)) | {field: value}
    with pytest.raises(Undecodable):
        decode(orjson.dumps(values))


def test_unknown_fields_are_ignored_and_optional_ones_may_be_missing() -> None:
    entry = make_record(1).entry
    values = orjson.loads(encode(entry)) | {"mood": "fine"}
    del values["hits"]
    decoded = decode(orjson.dumps(values))
    assert (decoded.hits, decoded.question) == (0, entry.question)


@pytest.mark.parametrize("field", ["created", "expires", "cost"])
def test_numbers_json_cannot_say_are_refused(field: str) -> None:
    entry = make_record(1).entry
    setattr(entry, field, float("inf"))
    with pytest.raises(ValueError, match="finite"):
        encode(entry)
