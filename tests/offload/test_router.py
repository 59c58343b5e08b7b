import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.offload.router import FEATURES, FIGURES, Pressure, Router, Settings, situation
from gateway.offload.selector import Asked, Selector
from gateway.offload.selector import Settings as Choosing
from tests.offload.made import example

FLOOR = 0.02
VECTOR = np.eye(1, 384, dtype=np.float32)[0]


def at(category, similarity=0.8):
    asked = Asked.of("a question", 20, category)
    chosen = Selector(Choosing(explore=0.0)).select(asked, [(example(1), similarity)], 4000)
    return situation(asked, chosen, VECTOR)


def router(seed=0, **fields):
    return Router(Settings(**fields), np.random.default_rng(seed))


def taught(small, large, n=400, category="easy", seed=0, **fields):
    one, rng, x = router(seed, **fields), np.random.default_rng(seed + 1), at(category)
    for _ in range(n):
        choice = one.choose(x, max_quality_loss=FLOOR, explain=True)
        one.learn(choice, small=float(rng.random() < small), large=float(rng.random() < large))
    one.ledger.seen, one.ledger.lost = 500.0, 0.0
    return one


def offloads(one, x, n=100, **fields):
    return np.mean([one.choose(x, **({"max_quality_loss": FLOOR} | fields)).offload for _ in range(n)])


def test_knowing_nothing_it_stays_with_the_large_model_and_asks_for_comparisons():
    one = router(explore=0.0)
    choices = [one.choose(at("easy"), max_quality_loss=FLOOR) for _ in range(400)]
    assert not any(c.offload for c in choices)
    assert {c.reason for c in choices} == {"budget", "quality"}
    assert [c.reason for c in choices[:50]] == [
        "budget"
    ] * 50  # a floor of 2 in 100 permits nothing before that
    assert 0.05 < np.mean([c.compare for c in choices]) < 0.16


def test_it_offloads_what_is_as_good_and_keeps_what_is_not():
    assert offloads(taught(0.99, 0.99), at("easy")) > 0.6
    assert offloads(taught(0.5, 0.95), at("easy")) == 0


def test_what_it_is_sure_of_it_hardly_asks_about():
    one = taught(0.3, 0.95, n=1500)
    compared = np.mean([one.choose(at("easy"), max_quality_loss=FLOOR).compare for _ in range(1000)])
    assert compared < 0.03


def test_one_category_says_little_of_another():
    one, rng = router(), np.random.default_rng(3)
    for _ in range(1500):
        easy = rng.random() < 0.5
        choice = one.choose(at("easy" if easy else "hard"), max_quality_loss=FLOOR, explain=True)
        one.learn(
            choice, small=float(rng.random() < (0.98 if easy else 0.2)), large=float(rng.random() < 0.98)
        )
    easy, hard = (one.choose(at(name), max_quality_loss=FLOOR, explain=True) for name in ("easy", "hard"))
    assert easy.loss < 0.03 < 0.5 < hard.loss


def test_load_moves_what_is_good_enough_and_never_what_is_not():
    one = taught(0.87, 0.99, n=3000, explore=0.0)
    idle, busy = offloads(one, at("easy"), 10, excess=0.0), offloads(one, at("easy"), 10, excess=2.0)
    assert idle < 0.4 < 0.8 < busy
    hopeless = taught(0.5, 0.95, explore=0.0)
    assert offloads(hopeless, at("easy"), excess=100.0) == 0


def test_the_load_bias_is_the_papers():
    one = taught(0.99, 0.99)
    idle = one.choose(at("easy"), max_quality_loss=FLOOR, cost=0.2, excess=0.0, explain=True)
    busy = one.choose(at("easy"), max_quality_loss=FLOOR, cost=0.2, excess=0.3, explain=True)
    bias = 0.5 * np.tanh(2.0 * 0.3)
    assert (idle.small.bias, idle.large.bias) == (0.0, 0.0)
    assert busy.large.bias == pytest.approx(bias)
    assert busy.small.bias == pytest.approx(0.2 * bias)
    assert busy.large.score == pytest.approx(idle.large.score - bias)


@pytest.mark.parametrize(("floor", "allowed", "reason"), [(FLOOR, False, "off"), (0.0, True, "budget")])
def test_what_turns_it_off(floor, allowed, reason):
    choice = taught(0.97, 0.99).choose(at("easy"), max_quality_loss=floor, allowed=allowed, explain=True)
    assert not choice.offload
    assert choice.reason == reason


def test_a_full_ledger_stops_all_offload_until_there_is_room_again():
    one = taught(0.99, 0.99)
    one.ledger.lost = 1.1 * FLOOR * one.ledger.seen
    choice = one.choose(at("easy"), max_quality_loss=FLOOR, excess=5.0)
    assert (choice.offload, choice.reason) == (False, "budget")
    for _ in range(200):
        one.choose(at("easy"), max_quality_loss=FLOOR, allowed=False)
    assert offloads(one, at("easy")) > 0


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0), st.booleans(), st.integers(0, 5))
def test_the_loss_over_a_stream_stays_within_the_floor(easy, hard, turns, seed):
    """Whatever the two categories are like, and though one gets worse halfway through."""
    one, rng, lost = router(seed, compare=0.2), np.random.default_rng(seed), 0.0
    for n in range(1500):
        category, good = ("easy", easy) if rng.random() < 0.5 else ("hard", hard)
        good = good * 0.5 if turns and n > 750 else good
        choice = one.choose(at_known(category), max_quality_loss=FLOOR, excess=float(n % 3))
        small, large = float(rng.random() < good), float(rng.random() < 0.97)
        lost += (large - small) * choice.offload
        if choice.compare or rng.random() < 0.3:
            one.learn(choice, small=small, large=large, share=0.3)
    assert lost / 1500 < FLOOR + 0.01  # a hundred outcomes are uncertain by about a point


KNOWN = {name: at(name) for name in ("easy", "hard")}


def at_known(category):
    return KNOWN[category]


def test_a_judged_offload_corrects_the_ledger_for_those_that_were_not():
    one = taught(0.99, 0.99)
    choice = next(c for c in iter(lambda: one.choose(at("easy"), max_quality_loss=FLOOR), None) if c.offload)
    before = one.ledger.lost
    one.learn(choice, small=0.0, large=1.0, share=0.5)
    assert one.ledger.lost == pytest.approx(before + (1.0 - choice.charged) / 0.5)


def test_explaining_leaves_no_trace():
    one = taught(0.99, 0.99)
    before = one.dump()
    first, second = (one.choose(at("easy"), max_quality_loss=FLOOR, explain=True) for _ in range(2))
    assert one.dump() == before
    assert (first.reason, first.small) == (second.reason, second.small)
    assert first.small.low < first.small.quality < first.small.high


def test_what_was_learned_survives_bytes_and_other_bytes_are_refused():
    one, other = taught(0.9, 0.95, n=50), router()
    other.load(one.dump())
    mine, theirs = (r.choose(at("easy"), max_quality_loss=FLOOR, explain=True) for r in (one, other))
    assert (mine.loss, mine.loss_bound, mine.limit) == (theirs.loss, theirs.loss_bound, theirs.limit)
    for bad in (b"{}", b"[]", b"nonsense"):
        with pytest.raises(ValueError, match=r"."):
            other.load(bad)


def test_pressure_is_a_moving_average_above_its_threshold():
    pressure = Pressure(threshold=1.0, seconds=10.0)
    assert pressure.observe(0.5, now=0.0) == 0.0
    assert pressure.observe(3.0, now=0.01) == 0.0  # one look is no load
    assert pressure.observe(3.0, now=60.0) == pytest.approx(2.0, abs=0.01)
    assert pressure.observe(0.0, now=200.0) == 0.0


def test_a_situation_is_the_same_in_every_process_and_of_one_size():
    assert at("easy").shape == (FEATURES,)
    assert at("easy") == pytest.approx(at("easy"))
    assert np.linalg.norm(at("easy")[-64:]) == pytest.approx(1.0, abs=0.3)
    assert (
        situation(Asked.of("q", 1, "c"), Selector().select(Asked.of("q", 1, "c"), [], 0), None)[
            FIGURES:
        ].sum()
        == 1
    )
