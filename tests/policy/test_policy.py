from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exchange import Controls, Entry, Load
from gateway.policy.book import from_json
from gateway.policy.policy import MAX_MATCH, MIN_CONFIDENCE, Policy, adapt, stricter, too_hot
from tests.policy.books import MODES, NAMES, books, patient

labels = st.one_of(st.none(), st.tuples(st.sampled_from([*NAMES, "default", "gone"]), st.floats(0, 1)))
factors = st.floats(0, 1)
loads = factors.map(Load)
RANK = {mode: rank for rank, mode in enumerate(MODES)}


def policy(*categories, rules=()):
    return Policy(from_json({"categories": list(categories), "rules": list(rules)}))


def entry(category, created=1000.0, expires=2000.0):
    return Entry(1, b"", b"", "t", category, "m", "chat", "q", created, expires, 10, 0.0)


def rule(category, **when):
    return {"when": when, "then": {"category": category}}


@patient
@given(books(), labels, loads, st.sampled_from([*NAMES, "default", "unknown"]))
def test_a_hint_never_loosens(obj, label, load, hint):
    compiled = Policy(from_json(obj))
    without = compiled.ruling(Controls(), None, label, load)
    hinted = compiled.ruling(Controls(category=hint), None, label, load)
    assert hinted.threshold >= without.threshold
    assert hinted.ttl <= without.ttl
    assert RANK[hinted.mode] >= RANK[without.mode]
    assert hinted.offload <= without.offload
    assert hinted.max_quality_loss <= without.max_quality_loss
    assert hinted.keep <= without.keep
    assert hinted.share <= without.share
    assert hinted.waived <= without.waived
    assert hinted.priority <= without.priority
    for temperature in (None, 0.0, 0.5, 2.0):
        assert compiled.may_store(hinted, temperature) <= compiled.may_store(without, temperature)
    if without.mode == "none":
        assert hinted == without


@patient
@given(books(), labels, loads, st.floats(0, 2), st.floats(0, 1e6), st.booleans(), st.booleans())
def test_a_caller_may_only_tighten(obj, label, load, threshold, ttl, semantic, offload):
    compiled = Policy(from_json(obj))
    controls = Controls(threshold=threshold, ttl=ttl, semantic=semantic, offload=offload)
    free, bound = compiled.ruling(Controls(), None, label, load), compiled.ruling(controls, None, label, load)
    assert bound.threshold == max(free.threshold, threshold)
    assert bound.ttl == min(free.ttl, ttl)
    assert bound.mode == (free.mode if semantic else stricter(free.mode, "exact"))
    assert bound.offload == (free.offload and offload)


@patient
@given(books(), factors, factors)
def test_load_eases_and_never_beyond_its_bounds(obj, low, high):
    low, high = sorted((low, high))
    for category in from_json(obj).categories:
        calm, busy = adapt(category, low), adapt(category, high)
        assert busy[0] <= calm[0] <= category.cache.threshold
        assert busy[0] >= min(category.cache.threshold, category.load.threshold_floor)
        assert category.cache.lifetime <= calm[1] <= busy[1] <= 2 * category.cache.lifetime


def test_the_papers_example_of_load():
    code = policy(
        {
            "name": "code",
            "cache": {"threshold": 0.90, "ttl": "7d"},
            "load": {"threshold_slack": 0.05, "threshold_floor": 0.80, "ttl_factor": 2},
        }
    ).category("code")
    assert adapt(code, 1.0) == pytest.approx((0.85, 14 * 86400))
    assert adapt(code, 0.5) == pytest.approx((0.875, 10.5 * 86400))
    assert adapt(code, 0.0) == (0.90, 7 * 86400)
    assert adapt(code, 9.0) == adapt(code, 1.0)
    assert adapt(code, -1.0) == adapt(code, 0.0)


@patient
@given(st.sampled_from(MODES), st.sampled_from(MODES))
def test_the_stricter_mode_wins(a, b):
    assert stricter(a, b) == stricter(b, a) == MODES[max(RANK[a], RANK[b])]


def test_a_rule_comes_before_hint_and_classifier():
    compiled = policy(
        {"name": "code"},
        {"name": "market-data", "cache": {"mode": "exact"}},
        rules=[rule("market-data", match="(?i)share price")],
    )
    ruled = compiled.rule("t", "m", "chat", {}, "What is the SHARE PRICE of X?")
    assert ruled == ("market-data", "rule:1")
    ruling = compiled.ruling(Controls(category="code"), ruled, ("code", 0.9))
    assert (ruling.category, ruling.rule, ruling.mode, ruling.confidence) == (
        "market-data",
        "rule:1",
        "exact",
        1.0,
    )


def test_all_conditions_of_a_rule_must_hold_and_the_first_rule_wins():
    compiled = policy(
        {"name": "a"},
        {"name": "b"},
        rules=[
            rule(
                "a", tenant="acme", model="large", endpoint="chat", header={"X-Team": "search"}, match="^hi"
            ),
            rule("b", tenant="acme"),
        ],
    )
    right = ("acme", "large", "chat", {"x-team": "search"}, "hi there")
    assert compiled.rule(*right) == ("a", "rule:1")
    for position, other in enumerate(("other", "small", "completions", {}, "oh hi")):
        wrong = [*right[:position], other, *right[position + 1 :]]
        assert compiled.rule(*wrong) == (None if position == 0 else ("b", "rule:2"))


def test_classification_hint_and_default_are_named():
    compiled = policy({"name": "code", "cache": {"ttl": "7d", "threshold": 0.9}}, {"name": "legal"})
    assert compiled.ruling(Controls(), None, ("code", 0.9)).rule == "classifier"
    assert compiled.ruling(Controls(category="legal"), None, ("code", 0.9)).rule == "hint"
    assert compiled.ruling(Controls(category="nonsense"), None, ("code", 0.9)).rule == "classifier"
    unsure = compiled.ruling(Controls(), None, ("code", MIN_CONFIDENCE - 0.01))
    assert (unsure.category, unsure.rule) == ("default", "default")
    assert compiled.ruling(Controls(), None, ("gone", 0.9)).category == "default"
    unknown = compiled.ruling(Controls(), None, None)
    assert (unknown.category, unknown.rule, unknown.confidence) == ("default", "unclassified", 0.0)


def test_what_nothing_could_classify_is_not_stored_beside_a_forbidden_category():
    secret = {"name": "secret", "cache": {"mode": "none"}}
    careful, easy = policy({"name": "code"}, secret), policy({"name": "code"})
    assert careful.any_none
    assert not easy.any_none
    for controls in (Controls(), Controls(category="code")):
        assert not careful.may_store(careful.ruling(controls, None, None), 0.0)
        assert easy.may_store(easy.ruling(controls, None, None), 0.0)
    assert careful.may_store(careful.ruling(Controls(), None, ("code", 0.9)), 0.0)
    assert careful.may_store(careful.ruling(Controls(), ("code", "rule:1"), None), 0.0)
    assert not careful.may_store(careful.ruling(Controls(), None, ("secret", 0.9)), 0.0)
    assert not careful.may_store(careful.ruling(Controls(category="secret"), None, ("code", 0.9)), 0.0)


def test_what_nothing_could_classify_is_offloaded_only_where_all_may_be():
    legal = {"name": "legal", "offload": {"allow": False}}
    assert not policy(legal).ruling(Controls(), None, None).offload
    assert not policy(legal).ruling(Controls(category="legal"), None, ("default", 0.9)).offload
    assert policy(legal).ruling(Controls(), None, ("default", 0.9)).offload
    assert policy({"name": "code"}).ruling(Controls(), None, None).offload


def test_load_written_in_similarities_leaves_a_verifiers_score_alone():
    """What `load` says is of cosines; on scores, only what their own labels certified moves under load."""
    verified = {
        "name": "default",
        "cache": {"threshold": 0.9, "verify": {"above": 0.75, "score": 0.8}},
        "load": {"threshold_slack": 0.1, "threshold_floor": 0.7, "budget": [0.85, 0.8], "max_error": 0.05},
    }
    tree = from_json({"categories": [verified]})
    learned = Load(0.5, points={"default": (0.9, 0.8, 0.7)})
    second, plain = Policy(tree, verifier="second"), Policy(tree)
    for load, threshold, score in ((Load(0.5), 0.85, 0.8), (Load(1.0), 0.8, 0.8), (learned, 0.8, 0.8)):
        without, with_it = (each.ruling(Controls(), None, None, load) for each in (plain, second))
        assert (without.threshold, without.score) == (pytest.approx(threshold), None)
        assert (with_it.threshold, with_it.score) == (0.75, pytest.approx(score))


def test_an_unset_temperature_counts_as_one():
    assert too_hot(0.7, None)
    assert too_hot(0.7, 0.8)
    assert not too_hot(0.7, 0.7)
    assert not too_hot(None, 2.0)
    cool = policy({"name": "code", "cache": {"max_temperature": 0.7}})
    ruling = cool.ruling(Controls(), None, ("code", 0.9))
    assert cool.may_store(ruling, 0.2)
    assert not cool.may_store(ruling, None)
    assert cool.exact_bar(entry("code"), None, 1001) == "temperature"
    assert cool.exact_bar(entry("code"), 0.2, 1001) is None


def test_an_exact_hit_obeys_its_entrys_category_as_it_stands_now():
    for mode in ("semantic", "shadow", "exact"):
        assert policy({"name": "code", "cache": {"mode": mode}}).exact_bar(entry("code"), 0.0, 1001) is None
    assert policy({"name": "code", "cache": {"mode": "none"}}).exact_bar(entry("code"), 0.0, 1) == "mode-none"
    short = policy({"name": "code", "cache": {"ttl": 60}, "load": {"ttl_factor": 2}})
    assert short.exact_bar(entry("code"), 0.0, 1059) is None
    assert short.exact_bar(entry("code"), 0.0, 1061) == "expired"
    assert short.exact_bar(entry("code"), 0.0, 1061, load=Load(1.0)) is None
    assert short.exact_bar(entry("code", expires=1010.0), 0.0, 1010) == "expired"
    assert short.exact_bar(entry("deleted"), 0.0, 1061) is None


def test_a_semantic_hit_takes_the_stricter_of_question_and_entry():
    compiled = policy(
        {"name": "code", "cache": {"threshold": 0.9}},
        {"name": "legal", "cache": {"threshold": 0.97, "mode": "shadow"}},
    )
    ruling = compiled.ruling(Controls(), None, ("code", 0.9))
    assert compiled.against(ruling, entry("legal"))[:2] == ("shadow", 0.97)
    assert compiled.against(ruling, entry("code"))[:2] == ("semantic", 0.9)
    tightened = replace(ruling, threshold=0.99, mode="exact")
    assert compiled.against(tightened, entry("legal"))[:2] == ("exact", 0.99)


def test_a_check_is_waived_only_where_both_sides_verify_without_it():
    def verified(*waives):
        return {"threshold": 0.9, "verify": {"above": 0.7, "score": 0.8, "waives": list(waives)}}

    book = from_json(
        {
            "categories": [
                {"name": "a", "cache": verified("content", "entity")},
                {"name": "b", "cache": verified("content")},
                {"name": "c", "cache": {"threshold": 0.9}},
                {"name": "default"},
            ]
        }
    )
    compiled, plain = Policy(book, verifier="v"), Policy(book)
    ruling = compiled.ruling(Controls(), ("a", "rule:1"), None)
    waived = {name: compiled.against(ruling, entry(name)).waived for name in "abc"}
    assert waived == {"a": {"content", "entity"}, "b": {"content"}, "c": frozenset()}
    assert plain.ruling(Controls(), ("a", "rule:1"), None).waived == frozenset()
    assert compiled.ruling(Controls(category="a"), None, ("c", 1.0)).waived == frozenset()


def test_padding_cannot_carry_a_question_past_a_rule_that_forbids_storing():
    compiled = policy(
        {"name": "secret", "cache": {"mode": "none"}},
        {"name": "code"},
        rules=[rule("secret", match="patient"), rule("code", match="python")],
    )
    padding = "x" * MAX_MATCH
    assert compiled.rule("t", "m", "chat", {}, f"{padding} the patient {padding}") == ("secret", "rule:1")
    assert compiled.rule("t", "m", "chat", {}, f"{padding} the patient") == ("secret", "rule:1")
    assert compiled.rule("t", "m", "chat", {}, f"{padding} the doctor") is None
    only_code = policy({"name": "code"}, rules=[rule("code", match="python")])
    assert only_code.rule("t", "m", "chat", {}, f"{padding} python {padding}") is None


def test_lone_surrogates_and_nul_do_not_stop_a_rule():
    compiled = policy({"name": "code"}, rules=[rule("code", match="python")])
    assert compiled.rule("t", "m", "chat", {}, "\ud800 \x00 python") == ("code", "rule:1")


def test_utterances_come_in_pairs():
    compiled = policy({"name": "code", "examples": ["a", "b"]}, {"name": "legal", "examples": ["c"]})
    assert compiled.utterances() == (["code", "code", "legal"], ["a", "b", "c"])
    assert "3 categories" in repr(compiled)
