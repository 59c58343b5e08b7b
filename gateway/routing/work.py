"""How long answers will be and how many tokens a prompt has, learned from what engines report.

Predictions only order and place work; nothing is refused or cut because of one alone.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from gateway.exchange import Work
from gateway.routing.signals import Histogram, Ratio

K = TypeVar("K")
V = TypeVar("V")

TOKENS_PER_BYTE = 0.25  # of English text in JSON, before anything was reported
OUTPUT = 256  # tokens, before anything was reported
_ENOUGH = 8  # samples from which a category is believed
OUTPUT_WEIGHT = 4  # prompt tokens an engine reads in the time one output token costs it, in a full batch


def cost(work: Work) -> int:
    """Engine work in prompt-token equivalents, as virtual token counters weigh it (arXiv 2401.00588, section 4)."""
    return work.prompt + OUTPUT_WEIGHT * work.output


class Lengths:
    """Predicted tokens per (model, category, size class of the prompt). Bounded: the longest unused are forgotten."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._outputs: OrderedDict[tuple[str, ...], Histogram] = OrderedDict()
        self._ratios: OrderedDict[str, Ratio] = OrderedDict()

    def prompt(self, model: str, size: int) -> int:
        """Tokens in a prompt of `size` bytes."""
        ratio = self._ratios.get(model)
        return max(1, round(size * (TOKENS_PER_BYTE if ratio is None else ratio.get(TOKENS_PER_BYTE))))

    def output(self, model: str, category: str, bound: int | None = None) -> int:
        """Mean output tokens of such requests, none longer than `bound` (the caller's max_tokens)."""
        limit = math.inf if bound is None else float(bound)
        for key in ((model, category), (model,)):
            seen = self._outputs.get(key)
            if seen is not None and seen.total >= _ENOUGH:
                return max(1, round(seen.mean(limit) or 1))
        return max(1, int(min(OUTPUT, limit)))

    def learn(self, work: Work, prompt: int | None, output: int | None) -> None:
        """An answer ended by itself: what the engine counted, None where it did not."""
        if prompt and work.size:
            self._ratio(work.model).add(prompt, work.size)
        if output:
            self._histogram((work.model, work.category)).add(output)
            self._histogram((work.model,)).add(output)

    def _ratio(self, model: str) -> Ratio:
        return _kept(self._ratios, model, Ratio, self._capacity)

    def _histogram(self, key: tuple[str, ...]) -> Histogram:
        return _kept(self._outputs, key, lambda: Histogram(1.0), self._capacity)


def _kept(held: "OrderedDict[K, V]", key: K, make: Callable[[], V], capacity: int) -> V:
    """The value under a key, made if it is new; the one unused for longest goes when there are too many."""
    value = held.get(key)
    if value is None:
        value = held[key] = make()
        if len(held) > capacity:
            held.popitem(last=False)
    else:
        held.move_to_end(key)
    return value
