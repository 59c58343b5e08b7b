import copy

import orjson
import pytest
from hypothesis import given

from gateway.errors import Invalid
from gateway.policy.book import Book, diff, from_json, schema, to_json
from gateway.policy.faults import PolicyFaults
from tests.policy.books import bodies, books, patient


def faults(obj, **options):
    with pytest.raises(PolicyFaults) as caught:
        from_json(obj, **options)
    return {fault.path: fault.reason for fault in caught.value.faults}


def category(name="code", **rest):
    return {"categories": [{"name": name, **rest}]}


@patient
@given(books())
def test_what_get_answers_can_be_put_back(obj):
    book = from_json(obj)
    answer = orjson.loads(orjson.dumps(to_json(book)))
    again = from_json(answer)
    assert again == book
    assert again.version == book.version
    assert to_json(again) == answer


@patient
@given(books())
def test_there_is_always_a_default_and_always_a_threshold(obj):
    for row in to_json(from_json(obj))["categories"]:
        assert 0.70 <= row["cache"]["threshold"] <= 1
    assert from_json(obj).category("default") is not None


@patient
@given(books(), bodies)
def test_replacing_a_category_changes_nothing_else(obj, body):
    book = from_json(obj)
    changed = book.with_category("default", body)
    assert [c.name for c in changed.categories] == [c.name for c in book.categories]
    assert [c for c in changed.categories if c.name != "default"] == [
        c for c in book.categories if c.name != "default"
    ]
    assert (changed.rules, changed.ignore, changed.guard) == (book.rules, book.ignore, book.guard)


def test_the_version_tells_contents_apart():
    one, other = from_json(category(cache={"ttl": "1d"})), from_json(category(cache={"ttl": "2d"}))
    assert one.version != other.version
    assert one.version == from_json(category(cache={"ttl": "1d"})).version


def test_an_empty_book_has_a_default():
    assert from_json(None) == from_json({}) == from_json({"rules": None, "categories": []})
    assert from_json(None).category("default").cache.mode == "semantic"


def test_what_is_written_stays_written():
    cache = to_json(from_json(category(cache={"ttl": 90})))["categories"][0]["cache"]
    assert cache["ttl"] == 90
    assert from_json(category(cache={"ttl": "5m"})).category("code").cache.lifetime == 300


@pytest.mark.parametrize(("value", "word"), [(True, "on, yes"), (False, "off, no"), (None, "empty")])
def test_yaml_booleans_as_mode_are_explained(value, word):
    reason = faults(category(cache={"mode": value}))["categories[0].cache.mode"]
    assert word in reason
    assert "semantic, exact, shadow, none" in reason


@pytest.mark.parametrize(
    ("cache", "path"),
    [
        ({"threshold": 0.5}, "threshold"),
        ({"threshold": 1.01}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": "0.9"}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": "0s"}, "ttl"),
        ({"ttl": "400d"}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"ttl": "soon"}, "ttl"),
        ({"quota": {"share": 1.2}}, "quota.share"),
        ({"quota": {"bytes": 1}}, "quota.bytes"),
        ({"priority": -1}, "priority"),
        ({"max_temperature": -0.1}, "max_temperature"),
        ({"max_error": 0}, "max_error"),
        ({"mode": "fuzzy"}, "mode"),
    ],
)
def test_bounds(cache, path):
    assert list(faults(category(cache=cache))) == [f"categories[0].cache.{path}"]


@pytest.mark.parametrize("name", ["", "a b", "../x", "x" * 65, "versions", "reload", "-a", "é", 3, None])
def test_category_names_are_bounded(name):
    assert list(faults(category(name=name))) == ["categories[0].name"]


@pytest.mark.parametrize(
    "field", ["model", "messages", "input", "prompt", "tools", "temperature", "seed", "n"]
)
def test_a_field_that_changes_the_answer_cannot_be_ignored(field):
    assert "changes the answer" in faults({"ignore": [field]})["ignore[0]"]


def test_a_misspelt_key_is_named_with_the_likely_one():
    assert faults(category(cache={"treshold": 0.9})) == {
        "categories[0].cache.treshold": 'unknown key; did you mean "threshold"?'
    }


def test_every_fault_is_listed_at_once():
    found = faults(
        {
            "categories": [
                {"name": "a", "cache": {"mode": False, "threshold": 0.1, "quota": {"share": 0.8}}},
                {"name": "a", "cache": {"quota": {"share": 0.8}}, "examples": [""]},
                "text",
            ],
            "ignore": ["model"],
            "rules": [
                {"when": {"match": "(a"}, "then": {"category": "b"}},
                {"when": {"endpoint": "fax", "header": {"bad name": "x"}}},
            ],
            "extra": 1,
        }
    )
    assert set(found) >= {
        "categories[0].cache.mode",
        "categories[0].cache.threshold",
        "categories[1].name",
        "categories[1].examples[0]",
        "categories[2]",
        "categories",
        "ignore[0]",
        "rules[0].when.match",
        "rules[0].then.category",
        "rules[1].when.endpoint",
        "rules[1].then",
        "extra",
    }
    assert "1.60" in found["categories"]
    assert any(path.startswith("rules[1].when.header") for path in found)


def test_the_api_answers_422_with_the_faults():
    with pytest.raises(Invalid) as caught:
        from_json({"ignore": ["model"], "rules": 3})
    body = caught.value.body()["error"]
    assert caught.value.status == 422
    assert [fault["path"] for fault in body["faults"]] == ["ignore[0]", "rules"]
    assert "ignore[0]" in body["message"]
    assert orjson.loads(caught.value.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("obj", [[], "text", 3, True, {"categories": {}}, {"guard": []}])
def test_a_book_of_the_wrong_shape(obj):
    assert faults(obj)


def test_shares_of_exactly_one_are_right():
    rows = [{"name": f"c{i}", "cache": {"quota": {"share": 0.1}}} for i in range(10)]
    assert len(from_json({"categories": rows}).categories) == 11


def test_counts_are_bounded():
    many = [{"name": f"c{i}"} for i in range(256)]
    assert "257 in all" in faults({"categories": many})["categories"]
    assert len(from_json({"categories": [*many[:255], {"name": "default"}]}).categories) == 256
    rule = {"when": {}, "then": {"category": "default"}}
    assert "rules" in faults({"rules": [rule] * 1001})
    rows = [{"name": f"c{i}", "examples": ["x"] * 1001} for i in range(2)]
    assert "2002 examples" in faults({"categories": rows})["categories"]
    assert faults({"rules": [{"when": {"match": "a" * 1001}, "then": {"category": "default"}}]})


def test_unknown_guard_checks_are_refused_where_the_checks_are_known():
    obj = {"guard": {"checks": ["number"], "skip": ["numbr"]}}
    assert faults(obj, checks={"number", "order"}) == {
        "guard.skip[0]": 'no check is called "numbr"; did you mean "number"?'
    }
    assert from_json(obj).guard.skip == ("numbr",)


def test_with_category_adds_replaces_and_refuses():
    book = from_json(category(cache={"threshold": 0.9}))
    added = book.with_category("legal", {"cache": {"mode": "none"}})
    assert added.category("legal").cache.mode == "none"
    assert added.with_category("code", {"name": "code"}).category("code").cache.threshold == 0.95
    with pytest.raises(PolicyFaults, match="path says"):
        book.with_category("legal", {"name": "code"})
    with pytest.raises(PolicyFaults, match="too low") as caught:
        book.with_category("code", {"cache": {"threshold": 0.2}})
    assert caught.value.faults[0].path == "cache.threshold"
    with pytest.raises(PolicyFaults, match="sum to"):
        book.with_category("a", {"cache": {"quota": {"share": 0.9}}}).with_category(
            "b", {"cache": {"quota": {"share": 0.9}}}
        )
    with pytest.raises(PolicyFaults):
        book.with_category("code", ["not", "a", "mapping"])


def test_without_category_leaves_no_rule_dangling():
    book = from_json(category() | {"rules": [{"when": {"tenant": "a"}, "then": {"category": "code"}}]})
    with pytest.raises(PolicyFaults, match="no category"):
        book.without_category("code")
    assert from_json(category()).without_category("code").category("code") is None
    assert from_json(category("default", cache={"ttl": 5})).without_category("default") == from_json(None)


def test_a_book_cannot_be_changed():
    book = from_json(category())
    with pytest.raises(ValueError, match="frozen"):
        book.categories[0].cache.threshold = 0.8


def test_diff_names_the_changed_paths():
    old = from_json(category(cache={"threshold": 0.9}) | {"ignore": ["user"]})
    obj = copy.deepcopy(to_json(old))
    obj["categories"][0]["cache"]["threshold"] = 0.92
    obj["ignore"] = []
    new = from_json(obj).with_category("legal", {})
    changes = {change["path"]: (change["old"], change["new"]) for change in diff(old, new)}
    assert changes["categories.code.cache.threshold"] == (0.9, 0.92)
    assert changes["ignore"] == (["user"], [])
    assert changes["categories.legal"][0] is None
    assert len(changes) == 3
    assert diff(old, old) == []


def test_the_schema_speaks_json_schema():
    tree = orjson.loads(orjson.dumps(schema()))
    assert set(tree["properties"]) == {"categories", "ignore", "rules", "guard"}
    assert tree["additionalProperties"] is False
    threshold = tree["$defs"]["Cache"]["properties"]["threshold"]
    assert (threshold["minimum"], threshold["maximum"]) == (0.7, 1)
    assert isinstance(from_json({}), Book)


def test_a_flood_of_faults_is_bounded():
    found = faults({"k" * 5000 + str(i): 1 for i in range(5000)})
    assert max(map(len, found)) <= 64
    assert found[""] == "4800 further faults"
