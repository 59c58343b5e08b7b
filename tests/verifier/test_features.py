"""Counting: symmetric, finite, robust."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.verifier.features import BUCKETS, NAMES, Rarity, compare, normal

RARITY = Rarity.learn(["the cat sat", "the dog sat", "the end"])
ANY = st.text(st.characters(), max_size=60)  # lone surrogates included


def row(one: str, other: str) -> dict[str, float]:
    found = compare(RARITY.read(one), RARITY.read(other), 0.5)
    return dict(zip(NAMES, found.tolist(), strict=True))


@given(ANY, ANY)
def test_any_two_texts_compare_alike_in_either_order(one: str, other: str) -> None:
    found, turned = row(one, other), row(other, one)
    assert all(np.isfinite(list(found.values())))
    assert found == turned


def test_rare_words_weigh_more() -> None:
    weights = RARITY.read("the cat flies").weights
    assert weights["the"] < weights["cat"] < weights["flies"]


@pytest.mark.parametrize(
    ("one", "other", "name", "value"),
    [
        ("Is it 3?", "Is it 4?", "numbers differ", 2),
        ("Why so?", "How so?", "question words differ", 1),
        ("Is it on?", "Isn't it on?", "negations differ", 1),
        ("See Rome", "See Oslo", "names differ", 2),
        ("a b c d", "a b d c", "order kept", 0.75),
        ("a b c", "a b c", "jaccard", 1),
        ("", "", "trigram dice", 1),
    ],
)
def test_what_is_counted(one: str, other: str, name: str, value: float) -> None:
    assert row(one, other)[name] == pytest.approx(value)


def test_forms_of_one_text_are_one() -> None:
    assert normal("  ＷＨＡＴ\tis\nthis ") == normal("what is THIS")


def test_no_word_is_kept() -> None:
    assert RARITY.counts.shape == (BUCKETS,)
