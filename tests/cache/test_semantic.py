from gateway.cache.semantic import Choice, choose
from gateway.exchange import Entry, Mode
from gateway.policy.policy import Demand
from tests.cache.entries import entry


class WordGuard:
    """Vetoes when only one side says `not`."""

    def facts(self, text: str) -> bool:
        return "not" in text.split()

    def verdict(self, asked: bool, stored: bool, waived: frozenset[str]) -> str | None:
        return None if asked == stored or "negation" in waived else "negation"


def pick(
    neighbours: list[tuple[Entry, float]],
    question: str = "is it safe",
    mode: Mode = "semantic",
    threshold: float = 0.9,
) -> Choice:
    return choose(
        question,
        neighbours,
        threshold=0.9,
        demands=lambda _: Demand(mode, threshold),
        servable=lambda e: e.expires > 10.0,
        guard=WordGuard(),
    )


def test_the_nearest_allowed_neighbour_is_reused() -> None:
    near, far = entry(question="is this safe"), entry(question="is that safe")
    choice = pick([(near, 0.97), (far, 0.93)])
    assert choice.entry is near
    assert (choice.reason, choice.similarity, choice.threshold) == ("hit", 0.97, 0.9)


def test_a_guarded_or_expired_neighbour_does_not_hide_a_good_one_behind_it() -> None:
    opposite, stale, good = (
        entry(question="is it not safe"),
        entry(expires=5.0),
        entry(question="is this safe"),
    )
    choice = pick([(opposite, 0.99), (stale, 0.98), (good, 0.95)])
    assert choice.entry is good
    assert [c.verdict for c in choice.candidates] == ["guard:negation", "expired", "ok"]


def test_the_reason_names_what_stopped_the_nearest() -> None:
    opposite = entry(question="is it not safe")
    assert pick([(opposite, 0.99)]).reason == "guard:negation"
    assert pick([(entry(), 0.89)]).reason == "below-threshold"
    assert pick([]).reason == "partition-empty"


def test_the_stricter_threshold_wins() -> None:
    assert pick([(entry(), 0.92)], threshold=0.95).reason == "below-threshold"
    assert pick([(entry(), 0.92)], threshold=0.95).threshold == 0.95


def test_an_entry_whose_category_went_exact_or_shadow_is_not_reused() -> None:
    assert pick([(entry(), 0.99)], mode="exact").reason == "mode-exact"
    shadow = pick([(entry(), 0.99)], mode="shadow")
    assert (shadow.entry, shadow.reason) == (None, "shadow")


def judged(
    neighbours: list[tuple[Entry, float]], scores: dict[int, float] | None, margin: float = 0.0
) -> Choice:
    return choose(
        "is it safe",
        neighbours,
        threshold=0.8,
        demands=lambda _: Demand("semantic", 0.8, 0.5),
        servable=lambda e: True,
        guard=WordGuard(),
        scores=scores,
        margin=margin,
    )


def test_where_the_verifier_decides_it_is_asked_about_those_the_guard_agrees_to() -> None:
    first, opposite, second, far = (
        entry(question="is this safe"),
        entry(question="is it not safe"),
        entry(question="is that safe"),
        entry(question="is what safe"),
    )
    neighbours = [(first, 0.95), (opposite, 0.94), (second, 0.9), (far, 0.7)]
    asked = judged(neighbours, None)
    assert asked.entry is None
    assert asked.unscored == (first, second)
    chosen = judged(neighbours, {first.id: 0.3, second.id: 0.6})
    assert chosen.entry is second
    assert chosen.agreed is not None
    assert chosen.agreed.statistic == 0.6
    assert [c.verdict for c in chosen.candidates] == ["verifier", "guard:negation", "ok"]


def test_a_candidate_the_verifier_could_not_be_asked_about_is_a_miss() -> None:
    choice = judged([(entry(question="is this safe"), 0.99)], {})
    assert choice.entry is None
    assert choice.reason == "verifier"


def test_a_margin_is_a_share_of_what_is_left_above_the_bound() -> None:
    near = entry(question="is this safe")
    assert judged([(near, 0.95)], {near.id: 0.8}, margin=0.5).entry is near  # 0.8 → 0.9, 0.5 → 0.75
    assert judged([(near, 0.95)], {near.id: 0.7}, margin=0.5).reason == "verifier"
    assert judged([(near, 0.89)], {near.id: 0.9}, margin=0.5).reason == "below-threshold"


def test_a_pair_that_was_found_wrong_is_refused_before_the_guard_is_asked() -> None:
    wrong, right = entry(question="is this safe"), entry(question="is that safe")
    choice = choose(
        "is it safe",
        [(wrong, 0.99), (right, 0.95)],
        threshold=0.9,
        demands=lambda _: Demand("semantic", 0.9),
        servable=lambda e: True,
        guard=WordGuard(),
        refused=lambda e: e is wrong,
    )
    assert choice.entry is right
    assert choice.candidates[0].verdict == "feedback"


def test_a_check_that_the_score_stands_in_for_is_not_asked() -> None:
    opposite = entry(question="is it not safe")
    for waived, reason in ((frozenset(), "guard:negation"), (frozenset({"negation"}), "hit")):
        choice = choose(
            "is it safe",
            [(opposite, 0.95)],
            threshold=0.8,
            demands=lambda _, waived=waived: Demand("semantic", 0.8, 0.5, waived),
            servable=lambda _: True,
            guard=WordGuard(),
            scores={opposite.id: 0.9},
        )
        assert choice.reason == reason
