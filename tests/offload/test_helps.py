"""Random examples hurt and ours do not: put a random selector in ours' place, and the second test fails.

The small model here mimics what was measured on real ones (IC-Cache §2, and bench.offload.icl): right one time
in three alone, nearly always if shown an example of the same topic, led astray by examples of other topics.
"""

import numpy as np
import pytest

from gateway.offload.selector import Asked, Selector
from tests.offload.made import example

TOPICS, WORDS = 40, 4


def vector(rng, topic):
    center = np.random.default_rng(topic).standard_normal(32)
    noisy = center + 0.6 * rng.standard_normal(32)
    return noisy / np.linalg.norm(noisy)


def answered(rng, topic, shown):
    relevant = sum(e.answer == f"topic_{topic}" for e in shown)
    chance = 0.95 if relevant else 0.33 * 0.8 ** len(shown)
    return float(rng.random() < chance - 0.02 * (len(shown) - relevant) * bool(relevant))


def quality(select, rounds=400):
    """Share of good answers of the small model, over requests whose candidates are what a search would find."""
    rng = np.random.default_rng(11)
    topics = rng.integers(TOPICS, size=600)
    stored = [example(n, answer=f"topic_{t}", question=f"about {t}") for n, t in enumerate(topics)]
    vectors = np.array([vector(rng, t) for t in topics])
    outcomes = []
    for _ in range(rounds):
        topic = int(rng.integers(TOPICS + 20))  # one in three is about nothing that is stored
        similarity = vectors @ vector(rng, topic)
        near = [(stored[n], float(similarity[n])) for n in np.argsort(-similarity)[:20]]
        outcomes.append(answered(rng, topic, select(near, stored, topic, rng)))
    return float(np.mean(outcomes))


def alone(near, stored, topic, rng):
    return ()


def at_random(near, stored, topic, rng):
    return [stored[n] for n in rng.choice(len(stored), 5, replace=False)]


def ours():
    selector = Selector(rng=np.random.default_rng(0))

    def select(near, stored, topic, rng):
        asked = Asked.of(f"about {topic}", 10, "support")
        chosen = selector.select(asked, near, 2000)
        selector.learn(chosen, answered(np.random.default_rng(rng.integers(1 << 30)), topic, chosen.examples))
        return chosen.examples

    return select


def helps(select):
    """Far better than alone: what is asserted of ours, and what no random choice may pass."""
    assert quality(select) > quality(alone) + 0.2


def test_ours_help():
    helps(ours())


def test_random_examples_hurt():
    assert quality(at_random) < quality(alone) - 0.03


def test_a_random_selector_in_ours_place_is_found_out():
    with pytest.raises(AssertionError):
        helps(at_random)
