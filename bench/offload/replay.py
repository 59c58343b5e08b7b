"""A stream of questions whose outcomes are known for both models, seen by the router one at a time."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.offload.data import Array, Questions
from gateway.offload.router import Router, situation
from gateway.offload.selector import Asked, Selector

NOTHING = Selector().select(Asked.of("", 0, ""), [], 0)  # past answers of these models had no examples
SHARES = (0.2, 0.5, 0.8)  # of calls that go to the large model


def recovered(loss: Array, small: Array, large: Array, share: float) -> float:
    """Share of the gap between both models recovered by sending the `share` of highest predicted loss to the large."""
    sent = np.argsort(-loss, kind="stable")[: round(share * len(loss))]
    mixed = small.copy()
    mixed[sent] = large[sent]
    return float((mixed.mean() - small.mean()) / (large.mean() - small.mean()))


def order(questions: Questions, seed: int) -> Array:
    return np.random.default_rng(seed).permutation(len(questions))


def ranked(questions: Questions, subjects: bool, seed: int = 0) -> Array:
    """(n,) predicted losses, each made before its own outcomes were learned; both outcomes are learned.

    `subjects`: the router is told the subject as the category; else it has the text alone.
    """
    router = Router(rng=np.random.default_rng(seed))
    losses = np.zeros(len(questions))
    for at in order(questions, seed):
        choice = router.choose(_features(questions, at, subjects), max_quality_loss=0.02)
        losses[at] = choice.loss
        router.learn(choice, small=questions.small[at], large=questions.large[at])
    return losses


def by_subject(questions: Questions, seed: int = 0) -> Array:
    """(n,) losses predicted by the running mean of the subject and nothing else, ten pseudo-outcomes strong."""
    lost: dict[str, float] = defaultdict(float)
    seen: dict[str, int] = defaultdict(int)
    losses, total = np.zeros(len(questions)), 0.0
    for count, at in enumerate(order(questions, seed), start=1):
        subject, gap = questions.subjects[at], float(questions.large[at] - questions.small[at])
        losses[at] = (lost[subject] + 10 * total / count) / (seen[subject] + 10)
        lost[subject] += gap
        seen[subject] += 1
        total += gap
    return losses


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run stands after `seen` requests."""

    seen: int
    offloaded: float  # share of all requests so far
    recent: float  # share of the last 500
    loss: float  # mean quality lost per request so far, against always asking the large model
    compared: float  # share of requests that both models answered


def served(
    questions: Questions, max_quality_loss: float, outcomes: float, seed: int = 0, every: int = 50
) -> Iterator[Point]:
    """As in production: the served arm's outcome is known for a share of requests, both only where compared."""
    rng = np.random.default_rng(seed)
    router = Router(rng=rng)
    offloaded = np.zeros(len(questions))
    lost, compared = 0.0, 0
    for count, at in enumerate(order(questions, seed), start=1):
        small, large = float(questions.small[at]), float(questions.large[at])
        choice = router.choose(_features(questions, at, True), max_quality_loss=max_quality_loss)
        offloaded[count - 1] = choice.offload
        lost += (large - small) if choice.offload else 0.0
        compared += choice.compare
        if choice.compare:
            router.learn(choice, small=small, large=large, share=max(outcomes, 0.1))
        elif rng.random() < outcomes:
            router.learn(choice, share=outcomes, **({"small": small} if choice.offload else {"large": large}))
        if count % every == 0:
            recent = offloaded[max(0, count - 500) : count].mean()
            yield Point(count, float(offloaded[:count].mean()), float(recent), lost / count, compared / count)


def _features(questions: Questions, at: int, subjects: bool) -> Array:
    text = questions.texts[at]
    asked = Asked.of(text, len(text) // 4, questions.subjects[at] if subjects else "default")
    return situation(asked, NOTHING, questions.vectors[at])
