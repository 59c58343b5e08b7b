"""What judged samples do to a category: points, closing, reopening, reports, and what is kept."""

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.calibration import FLOOR
from gateway.trust.room import Terms, Trust

Wrong = Callable[[float], float]  # statistic → probability that its answer is wrong


def steep(s: float) -> float:
    return min(1.0, max(0.0, 0.5 - 5 * (s - 0.8)))  # nothing wrong from 0.9


def room(**terms: Any) -> Trust:
    trust = Trust(clock=lambda: 1000.0)
    trust.configure({"c": Terms(**{"max_error": 0.01, **terms})})
    return trust


def point(trust: Trust) -> float:
    return trust.conditions.points.get("c", (0.92,))[0]


def serve(
    trust: Trust, lookups: int, wrong: Wrong, draw: random.Random, *, low: float = 0.6
) -> dict[str, float]:
    """Look-ups of uniform statistic, judged as the gateway does. Counts of what happened."""
    hits = bad = shut = judged = 0
    excess = 0.0
    for at in range(lookups):
        trust.looked("c", "t")
        s = draw.uniform(low, 1.0)
        closed = "c" in trust.conditions.closed
        would = s >= point(trust)
        is_wrong = draw.random() < wrong(s)
        served = would and not closed
        hits += served
        bad += served and is_wrong
        shut += closed
        excess = max(excess, bad - 0.01 * (at + 1))
        if s < FLOOR:
            continue
        q = trust.share("c", s, "t", served=served) if would else trust.below("c")
        if draw.random() < q:
            judged += served
            trust.judged("c", "t", s, wrong=is_wrong, weight=1 / q, served=served)
    return {"hits": hits, "wrong": bad, "shut": shut, "judged": judged, "excess": excess}


def test_labels_give_points_at_once_and_the_same_again_change_nothing() -> None:
    trust, draw = room(load_max_error=0.03), random.Random(1)
    s = [draw.uniform(0.6, 1.0) for _ in range(2000)]
    labels = [draw.random() < steep(each) for each in s]
    trust.seed("c", s, labels)
    before = trust.conditions
    steps = before.points["c"]
    assert len(steps) == 5
    assert list(steps) == sorted(steps, reverse=True)
    assert 0.8 < steps[0] < 0.92
    trust.seed("c", s, labels)
    assert trust.conditions is before
    assert trust.report()["c"].labels == 2000
    with pytest.raises(ValueError, match="length"):
        trust.seed("c", s, labels[1:])
    with pytest.raises(KeyError):
        trust.seed("unknown", s, labels)


def test_too_few_labels_keep_the_policy_or_close() -> None:
    labels = ([0.95] * 98, [False] * 98)
    for wanted, closed in (("threshold", {}), ("exact", {"c": "uncalibrated"})):
        trust = room(uncalibrated=wanted)
        trust.seed("c", *labels)
        assert dict(trust.conditions.points) == {}
        assert dict(trust.conditions.closed) == closed
        assert trust.report()["c"].needed == 99


def test_a_stream_alone_is_certified_and_keeps_its_budget() -> None:
    trust, draw = room(uncalibrated="exact"), random.Random(2)
    serve(trust, 5000, steep, draw)
    later = serve(trust, 5000, steep, draw)
    assert later["shut"] == 0
    assert 0.8 < point(trust) < 0.91
    assert later["wrong"] <= 0.015 * 5000
    assert later["hits"] > 0.2 * 5000


def test_a_sudden_shift_closes_within_what_is_stated_and_opens_when_it_is_over() -> None:
    """Statistics do not change, only the truth: the hardest case, nothing but samples can tell."""
    within, runs = 0, 10
    for seed in range(runs):
        trust, draw = room(), random.Random(seed)
        serve(trust, 3000, steep, draw)
        stated = trust.report()["c"].stated
        shifted = serve(trust, 1500, lambda s: 0.5, draw)
        assert shifted["shut"] > 0
        within += shifted["excess"] <= stated
        serve(trust, 4000, steep, draw)
        assert dict(trust.conditions.closed) == {}
    assert within >= 0.9 * runs


def test_a_closed_category_says_since_when() -> None:
    trust = room()
    for _ in range(20):
        trust.looked("c")
        trust.judged("c", "t", 0.99, wrong=True)
    report = trust.report()["c"]
    assert dict(trust.conditions.closed) == {"c": "over-budget"}
    assert (report.closed, report.since) == ("over-budget", 1000.0)
    assert trust.share("c", 0.99, served=False) == 1.0
    for _ in range(2000):
        trust.looked("c")
    assert trust.report()["c"].closed is None
    assert trust.report()["c"].since is None


def test_without_a_budget_nothing_closes() -> None:
    trust = room(max_error=None)
    for _ in range(200):
        trust.looked("c")
        trust.share("c", 0.99)
        trust.judged("c", "t", 0.99, wrong=True)
    assert dict(trust.conditions.closed) == {}
    assert trust.report()["c"].hits.rate == 1.0


def test_no_point_goes_where_nothing_was_judged() -> None:
    trust = room(uncalibrated="exact")
    for _ in range(5000):
        trust.looked("c")
        trust.judged("c", "t", 0.95, wrong=False, weight=1.0)
    assert point(trust) == 0.92
    for _ in range(50):
        trust.judged("c", "t", 0.85, wrong=False, weight=1.0, served=False)
    for _ in range(500):
        trust.looked("c")
    trust.judged("c", "t", 0.85, wrong=False, weight=1.0, served=False)
    assert point(trust) == 0.85


def test_candidates_below_the_point_move_it_and_are_no_would_be_hits() -> None:
    trust = room()
    trust.looked("c")
    trust.share("c", 0.95, served=False)
    trust.judged("c", "t", 0.95, wrong=False, served=False)
    trust.judged("c", "t", 0.80, wrong=True, served=False)
    report = trust.report()["c"]
    assert (report.withheld.hits, report.withheld.judged, report.withheld.wrong) == (1, 1, 0)
    assert report.hits.judged == 0
    assert report.excess == 0.0


def test_praise_changes_nothing_and_complaints_count() -> None:
    trust = room()
    trust.looked("c", "t")
    before = trust.conditions
    for _ in range(100):
        trust.judged("c", "t", 0.95, wrong=False, source="feedback")
    assert trust.conditions is before
    trust.judged("c", "t", 0.95, wrong=True, source="feedback")
    report = trust.report()["c"]
    assert (report.good, report.bad, report.excess, report.hits.judged) == (100, 1, 1.0, 0)


def test_one_tenant_of_several_cannot_close_a_category_by_complaining() -> None:
    trust = room()
    for tenant in ("loud", "quiet"):
        trust.looked("c", tenant)
    for _ in range(100):
        trust.judged("c", "loud", 0.95, wrong=True, source="feedback")
    assert dict(trust.conditions.closed) == {}


def test_samples_that_could_not_be_judged_are_spoken_for() -> None:
    def excess(missed: int) -> float:
        trust = room(allowance=1000.0)
        for _ in range(20):
            trust.judged("c", "t", 0.95, wrong=False)
        for _ in range(missed):
            trust.missed("c")
        trust.judged("c", "t", 0.95, wrong=True)
        return trust.report()["c"].excess

    assert excess(0) == 1.0
    assert 1.8 < excess(20) < 2.3
    assert excess(10_000) <= 10.0


def test_tenants_have_their_own_figures_and_are_bounded() -> None:
    trust = room()
    for number in range(1000):
        trust.looked("c", f"t{number}")
        trust.share("c", 0.99, f"t{number}")
        trust.judged("c", f"t{number}", 0.99, wrong=False)
    tenants = trust.report()["c"].tenants
    assert len(tenants) <= 256
    last = tenants["t999"]
    assert (last.lookups, last.hits, last.judged, last.wrong, last.rate) == (1, 1, 1, 0, 0.0)


def test_another_statistic_begins_anew_and_forgotten_categories_go() -> None:
    trust = room()
    trust.looked("c")
    trust.configure({"c": Terms(max_error=0.02)})
    assert trust.report()["c"].hits.lookups == 1
    state = trust.to_json()
    trust.configure({"c": Terms(statistic="verifier")})
    assert trust.report()["c"].hits.lookups == 0
    trust.from_json(state)
    assert trust.report()["c"].hits.lookups == 0
    trust.configure({})
    assert trust.report() == {}
    assert not trust.knows("c")


@pytest.mark.parametrize("bound", ["conformal", "learned"])
def test_what_is_saved_is_taken_up(bound: str) -> None:
    trust, draw = room(bound=bound), random.Random(3)
    s = [draw.uniform(0.6, 1.0) for _ in range(1000)]
    labels = [draw.random() < steep(each) for each in s]
    trust.seed("c", s, labels)
    serve(trust, 1000, steep, draw)
    again = room(bound=bound)
    again.from_json(orjson.loads(orjson.dumps(trust.to_json())))
    again.seed("c", s, labels)
    assert again.report() == trust.report()
    assert again.conditions == trust.conditions
    assert again.to_json() == trust.to_json()


def test_those_judged_speak_for_the_lost_of_their_own_kind() -> None:
    """A busy model loses samples of served hits; what costs no call is judged all the same."""
    trust = room()
    for at in range(2000):
        trust.looked("c")
        if at % 2:
            trust.missed("c")
        else:
            trust.judged("c", "t", 0.95, wrong=False, weight=10.0)
        trust.judged("c", "t", 0.85, wrong=False, weight=4.0, served=False)
        trust.void("c")
    assert trust.report()["c"].covered == pytest.approx(0.5, abs=0.01)
    trust.judged("c", "t", 0.95, wrong=True, weight=10.0)
    trust.judged("c", "t", 0.85, wrong=True, weight=4.0, served=False)
    served, other = (weight for _, _, weight in trust.to_json()["c"]["risks"])
    assert (served, other) == (pytest.approx(20.0, rel=0.02), pytest.approx(4.0))


def test_memory_is_bounded() -> None:
    trust = Trust(window=500)
    trust.configure({"c": Terms(max_error=0.01)})
    for _ in range(5000):
        trust.looked("c")
        trust.judged("c", "t", 0.9, wrong=True)
    assert len(orjson.dumps(trust.to_json())) < 50_000


def test_the_learned_rule_explores_and_serves() -> None:
    trust, draw = room(bound="learned", max_error=0.05), random.Random(4)
    assert trust.conditions.points["c"] == (0.70,)
    hits = wrong = 0
    for number in range(3000):
        trust.looked("c", "t")
        s = draw.uniform(0.7, 1.0)
        right = draw.random() >= steep(s)
        if trust.explore("c", number % 50, s, draw.random()):
            trust.judged("c", "t", s, wrong=not right, served=False, entry=number % 50)
        else:
            hits += 1
            wrong += not right
    assert hits > 300
    assert wrong / 3000 <= 0.05
    assert not room().explore("c", 1, 0.99, 0.0)
    trust.forget(range(50))


def test_the_interval_told_covers_the_truth() -> None:
    covered = 0
    for seed in range(40):
        trust, draw = room(max_error=None), random.Random(seed)
        served = serve(trust, 1500, lambda s: 0.1, draw)
        figures = trust.report()["c"].hits
        covered += figures.low <= served["wrong"] / served["hits"] <= figures.high
    assert covered >= 36


def test_a_snapshot_is_replaced_only_when_something_changed() -> None:
    trust = room()
    trust.seed("c", [0.95] * 500, [False] * 500)
    before = trust.conditions
    for _ in range(200):
        trust.looked("c")
        trust.share("c", 0.95)
        trust.judged("c", "t", 0.95, wrong=False)
    assert trust.conditions is before
    for bad in ({"share": 0.0}, {"share": 1.5}, {"window": 0}):
        with pytest.raises(ValueError, match="share"):
            Trust(**bad)  # type: ignore[arg-type]


def test_all_categories_are_told_together() -> None:
    trust = Trust()
    trust.configure({"a": Terms(), "b": Terms()})
    for name, hits in (("a", 30), ("b", 10)):
        for _ in range(hits):
            trust.looked(name)
            trust.share(name, 0.99)
            trust.judged(name, "t", 0.99, wrong=name == "b")
    reports, together = trust.report(), trust.overall()
    assert (together.lookups, together.hits, together.judged, together.wrong) == (40, 40, 40, 10)
    assert together.rate == pytest.approx(0.25, abs=0.001)
    assert together.high - together.low < reports["b"].hits.high - reports["b"].hits.low
    assert Trust().overall().rate is None
