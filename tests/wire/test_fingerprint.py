import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.exchange import Endpoint, Request
from gateway.wire.request import exact_fingerprint, parse, partition_fingerprint
from tests.wire.shapes import json_value, text

SYSTEM = {"role": "system", "content": "be brief"}
CHAT = {"model": "m", "messages": [SYSTEM, {"role": "user", "content": "why?"}], "temperature": 0.5}
printable = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
namespace = st.text(printable, max_size=128)  # all that a request may name, and none
field = st.sampled_from(["top_p", "tools", "user", "seed", "stop", "x-own", "response_format"])


def read(body: dict[str, Any], endpoint: Endpoint = "chat") -> Request:
    return parse(endpoint, orjson.dumps(body), {})


def exact(body: dict[str, Any], endpoint: Endpoint = "chat", tenant: str = "t") -> bytes:
    return exact_fingerprint(read(body, endpoint), tenant)


def partition(body: dict[str, Any], endpoint: Endpoint = "chat", tenant: str = "t") -> bytes:
    return partition_fingerprint(read(body, endpoint), tenant)


def asking(question: Any) -> dict[str, Any]:
    return {**CHAT, "messages": [SYSTEM, {"role": "user", "content": question}]}


def shuffled(value: Any, seed: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(item, seed) for item in value]
    if isinstance(value, dict):
        keys = list(value)
        seed.shuffle(keys)
        return {key: shuffled(value[key], seed) for key in keys}
    return value


@given(st.dictionaries(field, json_value), st.randoms(use_true_random=False))
def test_the_order_and_spelling_of_keys_do_not_part(extra: dict[str, Any], seed: random.Random) -> None:
    body = {"model": "m", "messages": CHAT["messages"], "p": extra}
    again = json.dumps(shuffled(body, seed), indent=2).encode()
    assert exact(body) == exact_fingerprint(parse("chat", again, {}), "t")
    assert partition(body) == partition_fingerprint(parse("chat", again, {}), "t")


@pytest.mark.parametrize(
    "ignored",
    [
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"cache": {"ttl": 5, "variants": 2}},
        {"cache": None},
    ],
)
def test_what_cannot_change_an_answer_does_not_part(ignored: dict[str, Any]) -> None:
    assert exact(CHAT | ignored) == exact(CHAT)
    assert partition(CHAT | ignored) == partition(CHAT)


@given(st.lists(st.tuples(field, json_value), min_size=2, max_size=2))
def test_any_other_field_parts(changes: list[tuple[str, Any]]) -> None:
    bodies = [{"model": "m", "messages": CHAT["messages"], key: value} for key, value in changes]
    assume(orjson.dumps(bodies[0]) != orjson.dumps(bodies[1]))
    keep = orjson.OPT_SORT_KEYS
    assume(orjson.dumps(bodies[0], option=keep) != orjson.dumps(bodies[1], option=keep))
    assert exact(bodies[0]) != exact(bodies[1])
    assert partition(bodies[0]) != partition(bodies[1])


@pytest.mark.parametrize(
    "change",
    [{"model": "n"}, {"messages": CHAT["messages"][1:]}, {"user": "u"}, {"cache": "own"}, {"n": None}],
)
def test_fields_that_part(change: dict[str, Any]) -> None:
    assert exact(CHAT | change) != exact(CHAT)
    assert partition(CHAT | change) != partition(CHAT)


def test_the_policy_book_may_ignore_more_but_never_the_prompt() -> None:
    ignore = frozenset({"user", "messages", "model"})
    one, two, three = read(CHAT | {"user": "u"}), read(CHAT), read(CHAT | {"model": "n"})
    assert exact_fingerprint(one, "t", ignore) == exact_fingerprint(two, "t", ignore)
    assert exact_fingerprint(three, "t", ignore) != exact_fingerprint(two, "t", ignore)
    assert exact_fingerprint(read(asking("how?")), "t", ignore) != exact_fingerprint(two, "t", ignore)


def test_store_parts_responses_only() -> None:
    body = {"model": "m", "input": "why?"}
    assert exact(body | {"store": False}, "responses") != exact(body, "responses")
    assert exact(body | {"metadata": {"a": "b"}}, "responses") == exact(body, "responses")


@given(text, text)
def test_the_question_alone_keeps_the_partition(one: str, two: str) -> None:
    assume(one.strip() and two.strip() and one != two)
    assume(not any(map(str.isdigit, one + two)))
    assert exact(asking(one)) != exact(asking(two))
    assert partition(asking(one)) == partition(asking(two))
    parts = [[{"type": "text", "text": question}] for question in (one, two)]
    assert partition(asking(parts[0])) == partition(asking(parts[1])) != partition(asking(one))
    for endpoint, key in (("completions", "prompt"), ("responses", "input")):
        bodies = [{"model": "m", key: question} for question in (one, two)]
        assert exact(bodies[0], endpoint) != exact(bodies[1], endpoint)
        assert partition(bodies[0], endpoint) == partition(bodies[1], endpoint)


def test_responses_items_keep_the_partition_too() -> None:
    def body(question: str) -> dict[str, Any]:
        part = {"type": "input_text", "text": question}
        return {"model": "m", "input": [SYSTEM, {"role": "user", "content": [part]}]}

    assert partition(body("why?"), "responses") == partition(body("how?"), "responses")
    assert exact(body("why?"), "responses") != exact(body("how?"), "responses")


def test_earlier_turns_part() -> None:
    turn = {"role": "assistant", "content": "so"}
    longer = {**CHAT, "messages": [CHAT["messages"][1], turn, *CHAT["messages"]]}
    assert partition(longer) != partition(CHAT)


def test_without_a_question_a_request_is_alone() -> None:
    one, two = ({"model": "m", "messages": [{"role": "assistant", "content": c}]} for c in "ab")
    assert len({partition(one), partition(two), exact(one), exact(two)}) == 4


@given(st.lists(st.tuples(text, namespace), min_size=2, max_size=2, unique=True))
def test_tenant_and_namespace_cannot_run_together(owners: list[tuple[str, str]]) -> None:
    def prints(tenant: str, namespace: str) -> tuple[bytes, bytes]:
        request = parse("chat", orjson.dumps(CHAT | {"cache": {"namespace": namespace}}), {})
        return exact_fingerprint(request, tenant), partition_fingerprint(request, tenant)

    one, two = owners
    assert not set(prints(*one)) & set(prints(*two))


def test_endpoints_and_kinds_are_domains_of_their_own() -> None:
    body = {"model": "m", "input": "why?", "prompt": "why?", "messages": CHAT["messages"]}
    endpoints: list[Endpoint] = ["chat", "completions", "responses", "embeddings"]
    found = [make(body, endpoint) for endpoint in endpoints for make in (exact, partition)]
    assert len(set(found)) == 8
    assert {len(print_) for print_ in found} == {32}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ('"é"', '"e\\u0301"'),
        ("18446744073709551616", "18446744073709551617"),
        ("18446744073709551616", "1.8446744073709552e19"),
        (
            '{"a":18446744073709551616,"b":18446744073709551617}',
            '{"b":18446744073709551616,"a":18446744073709551617}',
        ),
        ("18446744073709551616", '"18446744073709551616"'),
        ("18446744073709551616", "b'18446744073709551616'".join('""')),
        ('[18446744073709551616,{"a":[]}]', '[18446744073709551616,{"a":{}}]'),
        ("1", "1.0"),
        ("1", "true"),
    ],
)
def test_values_are_never_normalised(one: str, two: str) -> None:
    def request(value: str) -> Request:
        raw = f'{{"model":"m","messages":[{{"role":"user","content":"why?"}}],"seed":{value}}}'
        return parse("chat", raw.encode(), {})

    first, second = request(one), request(two)
    assert exact_fingerprint(first, "t") != exact_fingerprint(second, "t")
    assert partition_fingerprint(first, "t") != partition_fingerprint(second, "t")


def test_big_numbers_still_hit_exactly() -> None:
    tail = b',"messages":[{"role":"user","content":"why?"}],"model":"m"'
    one = parse("chat", b'{"seed":' + b"9" * 300 + tail + b"}", {})
    two = parse("chat", b'{"seed": ' + b"9" * 300 + tail + b',"stream":true}', {})
    assert exact_fingerprint(one, "t") == exact_fingerprint(two, "t")
