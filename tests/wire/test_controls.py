import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.errors import BadRequest
from gateway.exchange import Controls
from gateway.wire.controls import controls
from tests.wire.shapes import json_value


def read(headers: dict[str, str] | None = None, body: Any = None, honour: bool = True) -> Controls:
    return controls(headers or {}, body, honour)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("on", Controls()),
        (" Exact ", Controls(semantic=False)),
        ("off", Controls(read=False, write=False, join=False)),
        ("refresh", Controls(read=False, join=False)),
        ("only", Controls(only=True)),
    ],
)
def test_modes(mode: str, expected: Controls) -> None:
    assert read({"x-gateway-cache": mode}) == expected


def test_every_header_of_ours() -> None:
    headers = CIMultiDict(
        {
            "X-Gateway-Category": " code ",
            "X-Gateway-Cache-TTL": "60",
            "X-Gateway-Threshold": "0.95",
            "X-Gateway-Tags": "a, b,,a",
            "X-Gateway-Offload": "off",
        }
    )
    expected = Controls(category="code", ttl=60.0, threshold=0.95, tags=("a", "b"), offload=False)
    assert controls(headers, None, True) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no-cache", Controls(read=False, join=False)),
        ("No-Store", Controls(write=False)),
        ("max-age=30, no-transform", Controls(max_age=30.0)),
        ('max-age="30"', Controls(max_age=30.0)),
        ("only-if-cached", Controls(only=True)),
        ("max-stale=5, , min-fresh", Controls()),
    ],
)
def test_cache_control(value: str, expected: Controls) -> None:
    assert read({"cache-control": value}) == expected
    assert read({"cache-control": value}, honour=False) == Controls()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, Controls()),
        ({}, Controls()),
        ("engine's own", Controls()),
        ({"no-cache": True}, Controls(read=False, join=False)),
        ({"no-store": True, "no-cache": False}, Controls(write=False)),
        ({"ttl": 5, "s-maxage": 2.5}, Controls(ttl=5.0, max_age=2.5)),
        ({"namespace": "team", "variants": 3}, Controls(namespace="team", variants=3)),
        ({"ttl": None, "namespace": None, "use-cache": True}, Controls()),
    ],
)
def test_litellm_form(body: Any, expected: Controls) -> None:
    assert read(body=body) == expected


def test_the_tightest_wins() -> None:
    headers = {"cache-control": "max-age=10", "x-gateway-cache-ttl": "7", "x-gateway-cache": "refresh"}
    found = read(headers, {"ttl": 9, "s-maxage": 20, "no-store": True})
    assert found == Controls(read=False, write=False, join=False, ttl=7.0, max_age=10.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-gateway-cache", "maybe"),
        ("x-gateway-cache", ""),
        ("x-gateway-cache-ttl", "-1"),
        ("x-gateway-cache-ttl", "nan"),
        ("x-gateway-cache-ttl", "1_0"),
        ("x-gateway-cache-ttl", "٣"),
        ("x-gateway-cache-ttl", "9" * 400),
        ("x-gateway-threshold", "1.01"),
        ("x-gateway-threshold", "high"),
        ("x-gateway-category", " "),
        ("x-gateway-category", "x" * 129),
        ("x-gateway-tags", ",".join(map(str, range(17)))),
        ("x-gateway-tags", "a\udcffb"),
        ("x-gateway-offload", "no"),
    ],
)
def test_a_bad_header_is_named(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=name) as caught:
        read({name: value})
    assert caught.value.param == name


def test_a_max_age_that_cannot_be_read_means_stale() -> None:
    assert read({"cache-control": "max-age=soon"}) == Controls(max_age=0.0)


def test_a_lifetime_of_nothing_is_not_written() -> None:
    assert not read({"x-gateway-cache-ttl": "0"}).write
    assert not read({}, {"ttl": 0}).write


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("no-cache", "yes"),
        ("no-store", 1),
        ("ttl", -1),
        ("ttl", True),
        ("s-maxage", "5"),
        ("namespace", 5),
        ("namespace", "a\nb"),
        ("variants", 0),
        ("variants", 2.0),
        ("variants", 10**9),
    ],
)
def test_a_bad_member_is_named(key: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body={key: value})
    assert caught.value.param == f"cache.{key}"


NAMES = ["x-gateway-cache", "x-gateway-cache-ttl", "x-gateway-threshold", "x-gateway-tags", "cache-control"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text()), json_value)
def test_arbitrary_values_raise_nothing_but_bad_request(headers: dict[str, str], body: Any) -> None:
    with contextlib.suppress(BadRequest):
        found = read(headers, body)
        assert found.read or not found.join
