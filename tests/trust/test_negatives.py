"""A wrong pair is never served again, nor to near neighbours of its question; nothing else is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.interfaces import Vector
from gateway.trust.negatives import Negatives, normal

HERE, THERE = b"one", b"two"


def unit(seed: int, dimension: int = 32) -> Vector:
    vector = np.random.default_rng(seed).normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def near(vector: Vector, cosine: float) -> Vector:
    """A unit vector at this cosine."""
    aside = unit(99, len(vector))
    aside -= (aside @ vector) * vector
    aside /= np.linalg.norm(aside)
    return (cosine * vector + np.sqrt(1 - cosine**2) * aside).astype(np.float32)


@settings(max_examples=50)
@given(st.text(max_size=20), st.text(max_size=20))
def test_the_very_pair_is_refused_either_way_round_and_only_there(asked: str, stored: str) -> None:
    negatives = Negatives()
    negatives.add(HERE, asked, None, stored)
    assert negatives.vetoes(HERE, asked, unit(1), stored)
    assert negatives.vetoes(HERE, stored, None, asked)
    assert negatives.vetoes(HERE, f"  {asked.upper().lower()} ", None, stored) or normal(
        asked.upper().lower()
    ) != normal(asked)
    assert not negatives.vetoes(THERE, asked, unit(1), stored)
    assert negatives.any(HERE)
    assert not negatives.any(THERE)
    if normal("other") not in (normal(asked), normal(stored)):
        assert not negatives.vetoes(HERE, "other", None, stored)


@pytest.mark.parametrize(
    ("cosine", "refused", "margin"), [(0.99, True, 0.5), (0.88, False, 0.5), (0.8, False, 0.0)]
)
def test_near_neighbours_are_refused_that_text_and_all_candidates_must_come_nearer(
    cosine: float, refused: bool, margin: float
) -> None:
    negatives, asked = Negatives(), unit(1)
    for other in range(2, 20):
        negatives.add(HERE, f"unrelated {other}", unit(other), "elsewhere")
    negatives.add(HERE, "is it safe?", asked, "is it dangerous?")
    question = near(asked, cosine)
    assert negatives.vetoes(HERE, "is it really safe?", question, "Is it dangerous") is refused
    assert not negatives.vetoes(HERE, "is it really safe?", question, "another")
    assert negatives.tightened(HERE, question) == margin
    assert negatives.tightened(THERE, question) == 0.0


def test_without_a_vector_the_pair_alone_is_refused() -> None:
    negatives = Negatives()
    negatives.add(HERE, "asked", None, "stored")
    assert negatives.tightened(HERE, unit(1)) == 0.0
    assert negatives.tightened(HERE, None) == 0.0
    assert negatives.vetoes(HERE, "asked", unit(1), "stored")
    assert not negatives.vetoes(HERE, "else", unit(1), "stored")


def test_a_record_makes_another_process_refuse_the_same() -> None:
    mine, theirs, asked = Negatives(), Negatives(), unit(1)
    key, record = mine.add(HERE, "Asked?", asked, "Stored")
    assert mine.add(HERE, "stored", asked, "ASKED")[0] == key
    for _ in range(2):
        theirs.load([(key, record)])
    assert len(theirs) == 1
    assert theirs.vetoes(HERE, "asked", None, "stored")
    assert theirs.vetoes(HERE, "near", near(asked, 0.97), "stored")


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b'{"partition":1}', b'{"partition":"zz","stored":"s","vector":null}']
)
def test_a_record_of_another_form_is_counted(record: bytes) -> None:
    negatives = Negatives()
    for _ in range(3):
        negatives.load([("key", record)])
    assert (len(negatives), negatives.unread) == (0, 1)


def test_vectors_of_another_embedder_are_near_nothing() -> None:
    negatives = Negatives()
    negatives.add(HERE, "a", unit(1, 32), "s")
    negatives.add(HERE, "b", unit(1, 64), "s")
    assert negatives.tightened(HERE, unit(1, 64)) == 0.0
    assert not negatives.vetoes(HERE, "c", unit(1, 64), "s")
    assert negatives.vetoes(HERE, "b", unit(1, 64), "s")


def test_of_too_many_the_oldest_of_who_has_most_go_first() -> None:
    """Nobody's wrong hits come back because somebody else reports thousands."""
    negatives = Negatives(limit=6)
    negatives.add(HERE, "mine", unit(1), "s", "victim")
    for number in range(20):
        negatives.add(THERE, f"q{number}", unit(number), "s", "flood")
    assert negatives.vetoes(HERE, "mine", None, "s")
    assert [n for n in range(20) if negatives.vetoes(THERE, f"q{n}", None, "s")] == [15, 16, 17, 18, 19]
    assert len(negatives) == 6
    assert len(negatives.gone()) == 15
    assert negatives.gone() == []


def test_all_who_read_the_same_records_keep_the_same() -> None:
    writer = Negatives()
    records = [writer.add(HERE, f"q{n}", unit(n), "s", f"t{n % 7 and 1}") for n in range(40)]
    kept = []
    for seed in range(4):
        reader = Negatives(limit=10)
        reader.load(np.random.default_rng(seed).permutation(np.array(records, dtype=object)).tolist())
        kept.append({key for key, _ in records if key in reader})
        assert set(reader.gone()) == {key for key, _ in records} - kept[-1]
        reader.load([(key, record) for key, record in records if key in kept[-1]])
        assert reader.gone() == []
    assert all(each == kept[0] for each in kept)
    assert len(kept[0]) == 10


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([HERE, THERE]), st.integers(0, 9), st.integers(0, 3), st.booleans()),
        max_size=60,
    )
)
def test_what_is_kept_is_what_was_added_last(added: list[tuple[bytes, int, int, bool]]) -> None:
    negatives, model = Negatives(limit=8), {}
    for partition, asked, stored, embedded in added:
        vector = unit(asked) if embedded else None
        key, _ = negatives.add(partition, f"q{asked}", vector, f"s{stored}")
        model.pop(key, None)
        model[key] = (partition, asked, stored, embedded)
        while len(model) > 8:
            del model[next(iter(model))]
    assert len(negatives) == len(model)
    for partition in (HERE, THERE):
        assert negatives.any(partition) == any(kept[0] == partition for kept in model.values())
        for asked in range(10):
            expected = {
                (kept[2]) for kept in model.values() if kept[0] == partition and kept[1] == asked and kept[3]
            }
            for stored in range(4):
                new = negatives.vetoes(partition, "new", unit(asked), f"s{stored}")
                assert new == (stored in expected)
