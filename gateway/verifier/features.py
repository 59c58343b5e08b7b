"""What can be told of two texts and their similarity in less than a millisecond: the verifier's cheap features.

Words are read as the guard reads them, and each of its checks is a feature: here it only weighs. What a word weighs
is learned from the training texts (`Words`). Decides nothing. Products and differences of the vectors' components
were tried beside the cosine and told no more.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gateway.cache.guard import CHECKS
from gateway.cache.guard.content import differences
from gateway.cache.guard.facts import Facts
from gateway.verifier.words import Words

WORDS = 64  # of a text that are compared in order; the rest only as a set
QUESTION = (
    "what",
    "how",
    "why",
    "who",
    "when",
    "where",
    "which",
    "is",
    "are",
    "can",
    "do",
    "does",
    "should",
    "will",
)
NAMES = (
    "cosine", "words", "stems", "content", "trigrams", "bigrams", "order", "weight", "content weight",
    "alone least", "alone most", "rarest least", "rarest most", "count least", "count most",
    "fatal most", "fatal sum", "differ least", "differ most", "length ratio", "log shorter", "log longer",
    "same first", "same question", "same last", "same numbers", "same negation", "same names",
    *(f"guard:{check}" for check in CHECKS), "guard",
)  # fmt: skip


def features(words: Words, a: Facts, b: Facts, cosine: float) -> list[float]:
    """The features called NAMES, in that order."""
    checks = [float(not agrees(a, b)) for agrees in CHECKS.values()]
    return [cosine, *_lexical(words, a, b), *checks, sum(checks)]


def _lexical(words: Words, a: Facts, b: Facts) -> list[float]:
    one, other = a.vocabulary, b.vocabulary
    alone = [words.rarities(one - other), words.rarities(other - one)]
    shared = math.fsum(words.rarities(one & other))
    sums = sorted(map(math.fsum, alone))
    rarest = sorted(max(found, default=0.0) for found in alone)
    counts = sorted(map(len, alone))
    fatal = words.fatal(one ^ other)
    bag, bags = a.bag & b.bag, a.bag ^ b.bag
    heavy = math.fsum(words.rarities(bag))
    left, right = differences(a, b)
    differ = sorted((len(left), len(right)))
    lengths = sorted((len(a.words), len(b.words)))
    return [
        _jaccard(one, other),
        _jaccard(a.stems, b.stems),
        _jaccard(a.bag, b.bag),
        _jaccard(a.of(_trigrams), b.of(_trigrams)),
        _jaccard(a.of(_bigrams), b.of(_bigrams)),
        _in_order(a.words[:WORDS], b.words[:WORDS]),
        shared / (shared + sum(sums) + 1e-9),
        heavy / (heavy + math.fsum(words.rarities(bags)) + 1e-9),
        *sums,
        *rarest,
        *counts,
        max(fatal, default=0.0),
        math.fsum(fatal),
        *differ,
        lengths[0] / max(1, lengths[1]),
        math.log1p(lengths[0]),
        math.log1p(lengths[1]),
        float(a.words[:1] == b.words[:1]),
        float(a.of(_question) == b.of(_question)),
        float(a.words[-1:] == b.words[-1:]),
        float(a.of(_numbers) == b.of(_numbers)),
        float(a.of(_negations) == b.of(_negations)),
        float(a.of(_names) == b.of(_names)),
    ]


def _jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def _trigrams(text: Facts) -> frozenset[str]:
    plain = f" {' '.join(text.words)} "
    return frozenset(plain[at : at + 3] for at in range(len(plain) - 2))


def _bigrams(text: Facts) -> frozenset[tuple[str, str]]:
    return frozenset(pairwise(["", *text.words, ""]))


def _question(text: Facts) -> str:
    return next((word for word in text.words if word in QUESTION), "")


def _numbers(text: Facts) -> frozenset[str]:
    return frozenset(word for word in text.words if any(map(str.isdigit, word)))


def _negations(text: Facts) -> int:
    return sum(word in ("not", "no", "never", "without", "cannot") for word in text.words)


def _names(text: Facts) -> frozenset[str]:
    """Words capitalised within the text."""
    return frozenset(word.lower() for word, at in text.tokens if at and word[0].isupper())


def _in_order(one: Sequence[str], other: Sequence[str]) -> float:
    """Length of the longest common subsequence over the longer length."""
    if not one or not other:
        return float(not one and not other)
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for at, theirs in enumerate(other, 1):
            diagonal, row[at] = row[at], diagonal + 1 if word == theirs else max(row[at], row[at - 1])
    return row[-1] / max(len(one), len(other))
