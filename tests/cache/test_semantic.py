from gateway.cache.semantic import Choice, choose
from gateway.exchange import Entry, Mode
from tests.cache.entries import entry


class WordGuard:
    """Vetoes when only one side says `not`."""

    def facts(self, text: str) -> bool:
        return "not" in text.split()

    def verdict(self, asked: bool, stored: bool) -> str | None:
        return None if asked == stored else "negation"


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
        demands=lambda _: (mode, threshold),
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
