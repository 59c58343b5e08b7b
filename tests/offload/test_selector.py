import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.offload.selector import FEATURES, Asked, Selector, Settings, Threshold
from tests.offload.made import example

ASKED = Asked.of("how do I open my card", 12, "support")
STILL = Settings(explore=0.0)


def selector(**settings):
    return Selector(dataclasses.replace(STILL, **settings), np.random.default_rng(0))


def near(*similarities, **fields):
    return [(example(n, answer=f"answer_{n}", **fields), s) for n, s in enumerate(similarities)]


def test_untrained_it_takes_the_most_similar_and_puts_the_best_last():
    chosen = selector().select(ASKED, near(0.7, 0.9, 0.8, 0.3), 4000)
    assert chosen.ids == (0, 2, 1)
    assert list(chosen.utilities) == sorted(chosen.utilities)
    assert chosen.similarity == 0.9
    assert [e.id for e, _, _ in chosen.candidates] == [1, 2, 0, 3]


@pytest.mark.parametrize("similarities", [(), (0.1,), (0.42, 0.3, 0.2)])
def test_what_is_not_similar_is_not_used_until_it_is_known_to_help(similarities):
    assert selector().select(ASKED, near(*similarities), 4000).examples == ()


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400)), max_size=20),
    st.integers(-50, 2000),
    st.integers(0, 5),
)
def test_it_never_exceeds_the_room_nor_the_limit(pairs, room, limit):
    candidates = [(example(n, answer=str(n), tokens=tokens), s) for n, (s, tokens) in enumerate(pairs)]
    chosen = selector(limit=limit).select(ASKED, candidates, room)
    assert len(chosen.examples) == len(set(chosen.ids)) <= limit
    assert chosen.tokens == sum(e.tokens for e in chosen.examples)
    assert not chosen.examples or chosen.tokens <= room - STILL.reserve


def test_one_too_long_leaves_its_place_to_a_shorter_one():
    candidates = near(0.9, 0.8)
    candidates[0][0].tokens = 5000
    assert selector().select(ASKED, candidates, 1000).ids == (1,)


def test_of_one_answer_said_again_each_further_time_counts_less():
    same = [(example(n, answer="the_same"), 0.9 - n / 100) for n in range(5)]
    other = (example(9, answer="another"), 0.8)
    chosen = selector().select(ASKED, [*same, other], 4000)
    assert 9 in chosen.ids
    assert len(chosen.ids) < len(selector(diversity=0.2).select(ASKED, [*same, other], 4000).ids)
    assert len(selector(diversity=0.0).select(ASKED, [*same, other], 4000).ids) == 6


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12), st.lists(st.integers(0, 3), min_size=12, max_size=12)
)
def test_a_lower_threshold_only_lengthens_the_list(similarities, answers):
    candidates = [(example(n, answer=f"a_{answers[n]}"), s) for n, s in enumerate(similarities)]
    sets = []
    for start in STILL.grid:
        chosen = selector(grid=(start,), start=start).select(ASKED, candidates, 4000)
        sets.append(set(chosen.ids))
    assert all(larger >= smaller for larger, smaller in itertools.pairwise(sets))


def contest(choose, rounds, seed=5):
    """A small model that repeats what it is shown, the nearest most of all.

    Similarity here says little (as the paper found, §4.1); that neighbours agree says much.
    """
    rng = np.random.default_rng(seed)
    right = []
    for _ in range(rounds):
        truth = rng.integers(6)
        answers = [truth if rng.random() < 0.5 else rng.integers(6) for _ in range(10)]
        candidates = [
            (example(n, answer=f"a_{a}"), float(rng.uniform(0.55, 0.9))) for n, a in enumerate(answers)
        ]
        chosen = choose(candidates)
        shown = [answers[id] for id in chosen.ids]
        nearer = 2.0 ** np.arange(len(shown))  # what stands nearest to the question counts most
        said = rng.choice(shown, p=nearer / nearer.sum()) if len(shown) else rng.integers(6)
        outcome = float(said == truth)
        right.append(outcome)
        yield chosen, outcome, f"a_{said}", f"a_{truth}"
    yield float(np.mean(right[rounds // 2 :])), None, None, None


def accuracy(choose, learn, rounds):
    for chosen, outcome, said, truth in contest(choose, rounds):
        if truth is None:
            return chosen
        learn(chosen, outcome, said, truth)
    raise AssertionError


@pytest.mark.parametrize(
    ("how", "rounds", "better", "weight"),
    [("answers", 400, 0.1, 1.0), ("hindsight", 400, 0.1, 1.0), ("outcomes", 3000, 0.03, 0.2)],
)
def test_it_learns_which_examples_help(how, rounds, better, weight):
    """Quickly where answers are known; from bare verdicts, which name no example, it takes thousands."""
    learner, naive = Selector(Settings(), np.random.default_rng(1)), selector()

    def learn(chosen, outcome, said, answer):
        if how == "hindsight":
            learner.hindsight(chosen, answer)
        else:
            learner.learn(chosen, outcome, said if how == "answers" else None)

    learned = accuracy(lambda c: learner.select(ASKED, c, 4000), learn, rounds)
    by_similarity = accuracy(lambda c: naive.select(ASKED, c, 4000), lambda *_: None, rounds)
    assert learned > by_similarity + better
    weights = dict(zip(FEATURES, learner.utility.mean, strict=True))
    assert weights["vote"] + weights["vote lead"] > weight


def test_the_threshold_moves_to_what_pays():
    threshold, rng = Threshold(Settings()), np.random.default_rng(2)
    for _ in range(2000):
        arm = threshold.pick(rng)
        threshold.learn([arm], float(rng.random() < (0.9 if arm == 1 else 0.6)), 100)
    assert threshold.best == 1


def test_at_equal_outcomes_the_threshold_moves_to_fewer_tokens():
    threshold, rng = Threshold(Settings(price=0.1)), np.random.default_rng(2)
    for _ in range(2000):
        arm = threshold.pick(rng)
        threshold.learn([arm], 0.8, 4000 - 500 * arm)
    assert threshold.best == len(Settings().grid) - 1


def test_a_threshold_learns_from_others_that_would_have_chosen_the_same():
    chosen = selector().select(ASKED, near(0.9), 4000)
    assert len(chosen.agreed) == len(STILL.grid)
    one = selector()
    one.learn(chosen, 1.0)
    assert one.threshold.weight == pytest.approx(1.0)


def test_explaining_leaves_no_trace_and_takes_no_chance():
    one = Selector(Settings(explore=1.0), np.random.default_rng(0))
    before = one.dump()
    sets = {one.select(ASKED, near(0.9, 0.7, 0.6), 4000, explore=False).ids for _ in range(20)}
    assert len(sets) == 1
    assert one.dump() == before


def test_what_was_learned_survives_bytes_and_other_bytes_are_refused():
    one, other = selector(), selector()
    for outcome in (1.0, 0.0, 1.0):
        one.learn(one.select(ASKED, near(0.9, 0.7), 4000), outcome)
    other.load(one.dump())
    assert (
        other.select(ASKED, near(0.8, 0.75), 4000).utilities
        == one.select(ASKED, near(0.8, 0.75), 4000).utilities
    )
    for bad in (b"{}", b"[]", b"nonsense", selector(grid=(0.5,), start=0.5).dump()):
        with pytest.raises(ValueError, match=r"."):
            other.load(bad)
