"""A change of the statistics is noticed within a few dozen, chance is not."""

import random

from gateway.trust.drift import Drift


def known(draw: random.Random) -> Drift:
    drift = Drift()
    drift.expect([draw.betavariate(5, 2) for _ in range(2000)])
    return drift


def test_the_usual_is_no_surprise() -> None:
    draw = random.Random(1)
    drift, alarmed = known(draw), 0
    for _ in range(20_000):
        drift.add(draw.betavariate(5, 2))
        alarmed += drift.alarmed
    assert alarmed < 0.05 * 20_000


def test_a_shift_is_noticed_at_once_and_becomes_the_usual() -> None:
    draw = random.Random(2)
    drift = known(draw)
    for _ in range(50):
        drift.add(draw.betavariate(30, 2))
    assert drift.alarmed
    late = 0
    for at in range(20_000):
        drift.add(draw.betavariate(30, 2))
        late += drift.alarmed and at > 10_000
    assert late < 1000


def test_without_labels_the_first_ones_are_what_is_expected() -> None:
    draw = random.Random(3)
    drift = Drift()
    for _ in range(200):
        drift.add(draw.random())
    assert len(drift.expected) == 5
    assert sum(drift.expected) > 0.99


def test_equal_statistics_are_no_surprise() -> None:
    drift = Drift()
    drift.expect([0.9] * 500)
    for _ in range(200):
        drift.add(0.9)
    assert not drift.alarmed
