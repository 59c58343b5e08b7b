import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.offload.examples import REPLAYS, Example, Examples, sketch
from tests.offload.made import Clock, example

BIG = 10_000_000


def offered(examples, one, **terms):
    return examples.offer(one, **({"complete": True, "allowed": True} | terms)).reason


@pytest.mark.parametrize(
    ("one", "terms", "reason"),
    [
        (example(), {}, None),
        (example(), {"allowed": False}, "category"),
        (example(), {"complete": False}, "incomplete"),
        (example(answer="  "), {}, "incomplete"),
        (example(answer="call 555-1234"), {"personal": [re.compile(r"\d{3}-\d{4}")]}, "personal"),
        (example(question="I am 555-1234"), {"personal": [re.compile(r"\d{3}-\d{4}")]}, "personal"),
    ],
)
def test_what_is_admitted(one, terms, reason):
    examples = Examples(BIG)
    assert offered(examples, one, **terms) == reason
    assert len(examples) == (reason is None)
    assert examples.refused == ({} if reason is None else {reason: 1})


@pytest.mark.parametrize(
    ("fields", "similarity", "reason"),
    [
        ({}, 0.99, "duplicate"),
        ({}, 0.97, None),
        ({"question": "how do I close my card"}, 0.99, None),  # near in meaning, other words
        ({"tenant": "b"}, 0.99, None),
        ({"model": "other"}, 0.99, None),
    ],
)
def test_the_same_question_is_kept_once_for_each_tenant_and_model(fields, similarity, reason):
    examples = Examples(BIG)
    examples.add(example(1, question="how do I open my card"))
    newcomer = example(2, **({"question": "how do I open my card?"} | fields))
    assert offered(examples, newcomer, neighbours=[(1, similarity)]) == reason


@pytest.mark.parametrize(
    ("theirs", "tenant", "mine", "seen"),
    [
        (False, "a", False, True),
        (True, "b", True, True),
        (True, "b", False, False),
        (False, "b", True, False),
        (False, "b", False, False),
    ],
)
def test_an_example_is_seen_by_its_tenant_or_where_both_sides_share(theirs, tenant, mine, seen):
    examples = Examples(BIG)
    examples.add(example(1, share=theirs))
    assert (examples.visible(1, tenant, mine) is not None) == seen
    assert examples.visible(2, tenant, mine) is None


def test_the_least_valuable_byte_goes_first_and_value_fades():
    clock = Clock()
    long, useful, plain = example(1, answer="x" * 3000), example(2), example(3)
    examples = Examples(long.size + useful.size + plain.size, clock=clock)
    for one in (long, useful, plain):
        examples.add(one)
    examples.record([2], 1.0)
    assert [e.id for e in examples.add(example(4))] == [1]
    clock.now += 24 * 3600
    assert useful.worth(clock.now) == pytest.approx(2 * 0.9**24)
    fresh = [example(n, created=clock.now, answer="y" * 900) for n in (5, 6, 7)]
    gone = [e.id for one in fresh for e in examples.add(one)]
    assert gone == [3, 4, 2]  # yesterday's success is worth less than a newcomer's trust
    assert examples.evicted == 4


def test_a_newcomer_too_large_for_its_worth_leaves_the_others_in_peace():
    first, second = example(1), example(2)
    examples = Examples(first.size + second.size)
    examples.add(first)
    examples.add(second)
    assert offered(examples, example(3, answer="z" * 10_000)) == "no-room"
    assert {e.id for e in examples} == {1, 2}
    assert examples.evicted == 0
    assert examples.bytes == first.size + second.size


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4000), st.booleans()), max_size=40))
def test_the_budget_is_never_exceeded_and_always_right(steps):
    clock = Clock()
    examples = Examples(12_000, clock=clock)
    for id, length, used in steps:
        clock.now += 60
        if used:
            examples.record([id], 1.0)
        else:
            examples.add(example(id, answer="w" * (length + 1), created=clock.now))
        assert examples.bytes == sum(e.size for e in examples) <= 12_000


def test_an_outcome_counts_for_every_example_and_is_shared_as_value():
    examples = Examples(BIG, clock=Clock())
    examples.add(example(1))
    examples.add(example(2))
    assert len(examples.record([1, 2, 99], 1.0)) == 2
    examples.record([2], 0.0)
    first, second = examples.get(1), examples.get(2)
    assert (first.uses, first.successes, first.value) == (1, 1, 1.5)
    assert (second.uses, second.successes, second.value) == (2, 1, 1.5)
    assert first.quality > 0.8 > second.quality


def test_replay_goes_by_gain_stops_at_the_cutoff_and_tires():
    examples = Examples(BIG)
    for id, quality, cost, uses in [(1, 0.5, 0.1, 1), (2, 0.9, 1.0, 1), (3, 0.9, 0.01, 1), (4, 0.0, 9.0, 0)]:
        examples.add(example(id, quality=quality, cost=cost, uses=uses))
    assert [e.id for e in examples.replay(cutoff=0.01, limit=9)] == [2, 1]  # G = 0.1 and 0.05
    assert [e.id for e in examples.replay(cutoff=0.01, limit=1)] == [2]
    examples.replayed(2, "worse", 0.5, 7)
    assert examples.get(2).answer == "answer 2"
    examples.replayed(2, "a better answer", 0.95, 9)
    assert (examples.get(2).answer, examples.get(2).tokens) == ("a better answer", 9)
    assert float(examples.get(2).said @ sketch("a better answer")) == pytest.approx(1)
    assert examples.bytes == sum(e.size for e in examples)
    for _ in range(REPLAYS):
        examples.replayed(1, "", 0.0, 1)
    assert [e.id for e in examples.replay(cutoff=0.01, limit=9)] == [2]


@given(st.text(), st.text(min_size=1), st.integers(0, 9), st.booleans())
def test_an_example_survives_bytes(question, answer, uses, share):
    question, answer = (text.encode("utf-8", "replace").decode() for text in (question, answer))
    one = example(7, question=question, answer=answer, uses=uses, share=share)
    assert Example.unpack(one.pack()) == one


@pytest.mark.parametrize("packed", [b"", b"[]", b'{"id": 1}', b'{"nonsense": 1}'])
def test_other_bytes_are_refused_in_one_way(packed):
    with pytest.raises(ValueError, match=r"."):
        Example.unpack(packed)


def test_a_sketch_tells_equal_words_from_others():
    assert float(sketch("card_arrival") @ sketch("Card_Arrival!")) == pytest.approx(1)
    labels = [f"label_{n}" for n in range(77)]
    alike = [abs(float(sketch(a) @ sketch(b))) for a in labels for b in labels if a < b]
    assert max(alike) < 0.99
    assert sum(alike) / len(alike) < 0.05
