"""The cheap features: finite, symmetric, telling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.guard.facts import Facts
from gateway.verifier.features import NAMES, features
from gateway.verifier.words import BUCKETS, Words, learn

ANY = st.text(st.characters(), max_size=60)  # lone surrogates included
PLACES = [(f"what is in {place}", "what is there", False) for place in ("paris", "rome") for _ in range(9)]
WORDS = learn([*PLACES, *[("so what is it", "what is it", True)] * 18], Facts)


def named(a: str, b: str) -> dict[str, float]:
    return dict(zip(NAMES, features(WORDS, Facts(a), Facts(b), 0.9), strict=True))


@given(ANY, ANY)
def test_any_two_texts_compare_alike_in_either_order(a: str, b: str) -> None:
    found = named(a, b)
    assert all(math.isfinite(value) for value in found.values())
    turned = named(b, a)
    assert {k: v for k, v in found.items() if not k.startswith("guard")} == {
        k: v for k, v in turned.items() if not k.startswith("guard")
    }


@given(ANY)
def test_a_text_differs_from_itself_in_nothing(text: str) -> None:
    found = named(text, text)
    assert found["words"] == found["trigrams"] == found["order"] == found["same numbers"] == 1
    assert found["alone most"] == found["count most"] == found["fatal sum"] == 0


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("Is it 3?", "Is it 4?", "same numbers"),
        ("Why so?", "How so?", "same question"),
        ("Is it on?", "Isn't it on?", "same negation"),
        ("See Rome", "See Oslo", "same names"),
        ("does a dog bite a man", "does a man bite a dog", "order"),
    ],
)
def test_what_differs_is_told(one: str, other: str, name: str) -> None:
    assert named(one, other)[name] < 1 == named(one, one)[name]


def test_each_check_of_the_guard_is_a_feature() -> None:
    found = named("What is 3 plus 4?", "What is 3 plus 5?")
    assert found["guard:number"] == 1 <= found["guard"]
    assert found["guard:negation"] == 0


def test_rare_words_weigh_more_and_so_do_words_that_part() -> None:
    what, paris, unseen = WORDS.rarities(["what", "paris", "zebra"])
    assert what < paris <= unseen
    parting, idle, never = WORDS.fatal(["paris", "so", "zebra"])
    assert parting > 0 > idle
    assert never == 0
    assert named("what is in paris", "what is in")["fatal most"] == parting


def test_words_seen_in_few_pairs_are_not_judged() -> None:
    assert learn([("a strange word", "a word", False)] * 3, Facts).fatal(["strange"]) == [0.0]


def test_no_word_is_kept() -> None:
    assert all(np.shape(array) in ((), (BUCKETS,)) for array in WORDS.arrays().values())


def test_counts_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        Words(1, *[np.zeros(3, dtype=np.int32)] * 3)
