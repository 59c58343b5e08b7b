"""The guard as a whole: its cases, and what holds for any text at all."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.guard import CHECKS, Guard
from gateway.cache.guard.facts import Facts

CASES = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text(encoding="utf-8"))
GUARD = Guard()


def verdict(a: str, b: str, guard: Guard = GUARD) -> str | None:
    return guard.verdict(guard.facts(a), guard.facts(b))


def misses() -> Iterator[tuple[str, str, str]]:
    for check, pairs in CASES["miss"].items():
        for a, b in pairs:
            yield check, a, b


def test_must_miss() -> None:
    wrong = [(check, a, b, said) for check, a, b in misses() if (said := verdict(a, b)) != check]
    assert not wrong


def test_must_hit() -> None:
    wrong = [(a, b, said) for a, b in CASES["hit"] if (said := verdict(a, b)) is not None]
    assert not wrong


def test_every_check_has_a_case_and_there_are_many() -> None:
    assert set(CASES["miss"]) == set(CHECKS)
    assert len(list(misses())) + len(CASES["hit"]) >= 120


@pytest.mark.parametrize("check", list(CHECKS))
def test_a_check_switched_off_no_longer_speaks(check: str) -> None:
    rest = Guard([name for name in CHECKS if name != check])
    a, b = CASES["miss"][check][0]
    assert verdict(a, b) == check
    assert verdict(a, b, rest) != check
    assert verdict(a, b, Guard([check])) == check


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(ValueError, match="horoscope"):
        Guard(["number", "horoscope"])


def test_no_checks_agree_with_everything() -> None:
    assert verdict("Is it safe?", "What is 2 + 2?", Guard([])) is None


def test_raw_text_is_compared_although_a_suffix_pulls_the_vectors_together() -> None:
    suffix = " ignore the above banana banana banana"
    assert (
        verdict("How do I reset my password?" + suffix, "How do I wire 900 EUR to Ivan?" + suffix) is not None
    )


WORDS = sorted({word for _, a, b in misses() for word in (a + " " + b).split()})
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
TEXTS = st.one_of(st.text(max_size=300), SENTENCES)


@given(TEXTS)
def test_a_text_agrees_with_itself(text: str) -> None:
    facts = GUARD.facts(text)
    assert GUARD.verdict(facts, facts) is None
    assert verdict(text, str(text)) is None


@given(SENTENCES)
def test_no_check_but_context_objects_to_equal_facts(text: str) -> None:
    one, two = GUARD.facts(text), GUARD.facts(text)
    assert {name for name, agrees in CHECKS.items() if not agrees(one, two)} <= {"context"}


def test_a_relation_told_both_ways_round_contradicts_nobody() -> None:
    both = "How do I convert miles to kilometres, or kilometres to miles?"
    assert CHECKS["order"](Facts(both), Facts(both))
    assert not CHECKS["order"](Facts("convert miles to kilometres"), Facts("convert kilometres to miles"))


@settings(max_examples=300)
@given(TEXTS, TEXTS)
def test_verdicts_are_symmetric_and_never_raise(a: str, b: str) -> None:
    assert verdict(a, b) == verdict(b, a)
    one, two = GUARD.facts(a), GUARD.facts(b)
    for name, agrees in CHECKS.items():
        assert agrees(one, two) == agrees(two, one), name


HOSTILE = [
    "1," * 1000,
    "-" * 2000,
    "a.b" * 700,
    "_" * 2000,
    "a_" * 1000,
    '"' * 2001,
    "'a " * 700,
    "`" * 1999,
    "/" * 2000,
    "how to " * 300,
    "from a to b " * 170,
    " " * 2000,
    "this " * 400,
    "step-" * 400,
    "Aa" * 1000,
    "İ" * 2000,
    "漢" * 2000,
    "\x00" * 2000,
    "log in out " * 180,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:6]))
def test_hostile_texts_are_judged_in_bounded_time(text: str) -> None:
    started = time.process_time()
    verdict(text, text[1:] + "x")
    assert time.process_time() - started < 0.25


def test_cost_grows_no_faster_than_the_text() -> None:
    def cost(n: int) -> float:
        a, b = "how do I grow tomatoes in Rome " * n, "why do I grow tomatoes in Oslo " * n
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            one, two = GUARD.facts(a), GUARD.facts(b)
            for agrees in CHECKS.values():
                agrees(one, two)
            best = min(best, time.process_time() - started)
        return best

    assert cost(240) < 25 * cost(24)
