"""A burst on made-up look-ups: what adaptation must add, and what it must leave."""

from random import Random

import pytest

from bench.burst.__main__ import bounds, saved
from bench.burst.simulate import Tally, play, relaxed
from bench.burst.workload import Asked, Look, Phases, draw, stored
from bench.fleet.arrivals import Arrival
from gateway.policy.book import Book
from gateway.policy.load import LoadTerms
from gateway.policy.policy import Policy

PHASES = Phases(before=40.0, burst=60.0, after=200.0)
RATE = 1.5  # requests a second: what one engine bears of these
QUICK = {"smoothing": 5.0}
TTL = 3600.0


def policy(**load: object) -> Policy:
    category = {"name": "default", "cache": {"threshold": 0.90, "ttl": TTL}, "load": load}
    return Policy(Book.model_validate({"categories": [category]}))


EASED = policy(threshold_slack=0.05, threshold_floor=0.80, ttl_factor=2.0)


def looks(count: int = 4000, age: float = 0.0) -> list[Look]:
    """Similarities from 0.8 to 1; three in four are right."""
    rng = Random(2)
    return [
        Look(stored(at, "default", age), ("default", 1.0), rng.uniform(0.8, 1.0), True, rng.random() < 0.75)
        for at in range(count)
    ]


def asked(found: list[Look]) -> list[Asked]:
    rng = Random(3)
    rows = [Arrival(0.0, rng.randrange(2000, 8000), rng.randrange(100, 400), (), "t") for _ in range(200)]
    return draw(found, rows, RATE, PHASES, 0.5, 4)


def run(
    book: Policy, *, enabled: bool = True, age: float = 0.0, judge: bool = False
) -> tuple[dict[str, Tally], list[tuple[float, float]]]:
    terms = LoadTerms(enabled=enabled, **QUICK)
    return play(book, terms, asked(looks(age=age)), 1, 5, PHASES, judge=judge)


def test_a_burst_gains_right_hits_and_wrong_ones_and_returns_to_none() -> None:
    (off, still), (on, moved) = run(EASED, enabled=False), run(EASED)
    assert off["before"] == on["before"]
    assert on["burst"].requests == off["burst"].requests
    assert on["burst"].right > 1.2 * off["burst"].right
    assert on["burst"].wrong > off["burst"].wrong
    assert relaxed(still, PHASES) == (0.0, None, None)
    plateau, up, down = relaxed(moved, PHASES)
    assert plateau == 1.0
    assert up is not None
    assert down is not None
    assert 5.0 < up < PHASES.burst
    assert 10.0 < down < PHASES.after


def test_without_slack_load_changes_nothing() -> None:
    assert run(policy())[0] == run(EASED, enabled=False)[0]


def test_load_stretches_a_ttl() -> None:
    (off, _), (on, _) = run(EASED, enabled=False, age=1.5 * TTL), run(EASED, age=1.5 * TTL)
    assert off["burst"].hits == on["before"].hits == 0
    assert on["burst"].hits > 0


def test_a_category_whose_hits_are_judged_wrong_is_left_alone() -> None:
    assert run(EASED, judge=True)[0] == run(EASED, enabled=False)[0]


def test_hits_and_calls_and_refusals_are_all_there_is() -> None:
    for t in run(EASED)[0].values():
        assert t.hits + t.sent + t.refused == t.requests
        assert t.looks == pytest.approx(t.requests / 2, rel=0.35)


def test_tables_tell_what_was_added() -> None:
    some = looks(400)
    right = sum(look.duplicate for look in some if 0.85 <= look.similarity < 0.90)
    wrong = sum(not look.duplicate for look in some if 0.85 <= look.similarity < 0.90)
    off, on = bounds(some, {"off": EASED, "eased": EASED}).rows
    assert off[6:8] == (0, 0)
    assert on[6:8] == (right, wrong)
    tallies = {"off": run(EASED, enabled=False)[0], "on": run(EASED)[0]}
    added = tallies["on"]["burst"].right - tallies["off"]["burst"].right
    assert [row[8] for row in saved(tallies, "x").rows if row[:2] == ("on", "burst")] == [added]


def test_a_burst_needs_enough_labelled_pairs() -> None:
    with pytest.raises(ValueError, match="fewer"):
        asked(looks(3))
