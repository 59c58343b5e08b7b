"""Random examples hurt and ours do not, through a whole gateway: put a random selector in ours' place and it shows.

The small engine does what small models do with examples: it says what most of them say.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gateway.offload.selector import Selection, Selector
from tests.harness import Running, ScriptedBackend
from tests.harness.backend import Seen

Start = Callable[..., Running]
BOOK = """
categories:
  - name: default
    cache: {mode: exact, threshold: 0.90, ttl: 1d}
    offload: {max_quality_loss: 1.0}
"""
INTENTS = {
    "lost_card": ["I lost my card {}", "My bank card is gone {}", "I cannot find my card {}"],
    "exchange_rate": ["What exchange rate do I get {}?", "How are currencies converted {}?", "Is the rate good {}?"],
    "top_up": ["How do I top up my account {}?", "I want to add money to my balance {}", "My top up failed {}"],
    "change_pin": ["How do I change my PIN {}?", "I need a new PIN {}", "My PIN is blocked {}"],
    "close_account": ["Please close my account {}", "I want to leave your bank {}", "Delete my account {}"],
    "salary": ["When does my salary arrive {}?", "My wages have not come {}", "Is my pay there {}?"],
}  # fmt: skip
KNOWN = ["in Rome", "at the weekend", "from my phone", "while travelling"]
FRESH = ["in Japan", "on a Monday"]


def asked(places: list[str]) -> list[tuple[str, str]]:
    """(question, label), in an order that tells nothing."""
    pairs = [(form.format(at), label) for label, forms in INTENTS.items() for form in forms for at in places]
    random.Random(5).shuffle(pairs)
    return pairs


class Random(Selector):
    """As many examples as ours may choose, from all there are."""

    def __init__(self, everything: Callable[[], list[Any]]) -> None:
        super().__init__()
        self._everything = everything
        self._draw = random.Random(7)

    def select(self, *_: Any, **__: Any) -> Selection:
        chosen = tuple(self._draw.sample(self._everything(), 5))
        none = np.zeros((0, self.utility.mean.size))
        return Selection(chosen, (0.5,) * 5, sum(e.tokens for e in chosen), 0.05, none, (), none)


@pytest.fixture
def small() -> Iterator[ScriptedBackend]:
    def majority(seen: Seen) -> str:
        shown = re.findall(r"^Answer: (.*)$", seen.json["messages"][0]["content"], re.MULTILINE)
        return Counter(shown).most_common(1)[0][0] if shown else "I wonder."

    engine = ScriptedBackend()
    engine.reply = majority
    yield engine
    engine.close()


@pytest.fixture
def taught(start: Start, backend: ScriptedBackend, small: ScriptedBackend) -> Running:
    """A gateway that has seen the large model label some messages."""
    labels = dict(asked(KNOWN))
    backend.reply = lambda seen: labels[seen.json["messages"][-1]["content"]]
    models = [
        {"name": "large", "backends": [{"url": backend.url}], "offload_to": "small"},
        {"name": "small", "backends": [{"url": small.url}]},
    ]
    gateway = start({"models": models, "offload": {"compare_share": 0.0}}, book=BOOK)
    router = gateway.app.offloading.pairs["large"].router
    router.ledger.lost = 1e9
    for question in labels:
        assert gateway.ask(question, model="large").headers["x-gateway-decision"] == "forward"
    gateway.settle()
    router.ledger.seen, router.ledger.lost = 1000.0, 0.0
    return gateway


def as_good_as_the_large_model(gateway: Running) -> None:
    right = 0
    for question, label in asked(FRESH):
        answer = gateway.ask(question, model="large")
        assert answer.headers["x-gateway-decision"] == "offload"
        right += answer.json()["choices"][0]["message"]["content"] == label
    assert right >= 0.9 * len(asked(FRESH)), f"{right} of {len(asked(FRESH))}"


def test_with_our_examples_the_small_model_does_as_well(taught: Running) -> None:
    as_good_as_the_large_model(taught)


def test_with_random_examples_it_does_not(taught: Running) -> None:
    room = taught.app.offloading
    room.pairs["large"].selector = Random(lambda: list(room.examples))
    with pytest.raises(AssertionError, match=" of 36"):
        as_good_as_the_large_model(taught)
