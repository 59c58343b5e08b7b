"""What can be said of two texts by counting: shared words, weighed by how rare they are, numbers, order.

Cheap (about 50 µs a pair) and symmetric: which text was asked makes no difference. How rare a word is comes from
the training texts, kept as counts in hash buckets, so that no word of theirs is in the model's files.
"""

import re
import unicodedata
import zlib
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = (
    "cosine", "jaccard", "rare jaccard", "rare contained, least", "rare contained, most", "trigram dice",
    "rarest unmatched, least", "rarest unmatched, most", "unmatched weight, least", "unmatched weight, most",
    "unmatched words, least", "unmatched words, most", "length ratio", "words, least", "words, most",
    "numbers differ", "question words differ", "negations differ", "names jaccard", "names differ",
    "bigram jaccard", "order kept", "same first word", "same last word",
)  # fmt: skip
BUCKETS = 1 << 16
LONGEST = 2000  # characters of a text that are looked at

_WORD = re.compile(r"\w+(?:'\w+)?")
_QUESTIONS = frozenset(
    [
        "how",
        "what",
        "why",
        "when",
        "where",
        "who",
        "whom",
        "whose",
        "which",
        "can",
        "is",
        "are",
        "do",
        "does",
        "did",
        "should",
        "will",
    ]
)
_NEGATIONS = frozenset(["no", "not", "never", "none", "without", "cannot", "nor", "neither"])
Array = NDArray[np.float32]


def normal(text: str) -> str:
    """Compatibility form, folded case, single spaces: texts that differ in nothing else are equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True, slots=True)
class Read:
    """One text, taken apart."""

    normal: str
    words: tuple[str, ...]
    weights: dict[str, float]  # of its distinct words: how rare they are
    bigrams: frozenset[tuple[str, str]]
    trigrams: frozenset[str]
    numbers: frozenset[str]
    questions: frozenset[str]
    negations: int
    names: frozenset[str]  # capitalised within the text


class Rarity:
    """log((1 + texts) / (1 + texts with the word)), from counts (BUCKETS,) of training texts."""

    def __init__(self, counts: NDArray[Any], texts: int) -> None:
        self.counts = counts
        self.texts = texts
        self._weights = np.log((1 + texts) / (1 + np.minimum(counts.astype(np.float64), texts)))

    @classmethod
    def learn(cls, texts: Iterable[str]) -> "Rarity":
        counts, seen = np.zeros(BUCKETS, dtype=np.int32), 0
        for text in texts:
            seen += 1
            for bucket in {_bucket(word) for word in _words(normal(text[:LONGEST]))}:
                counts[bucket] += 1
        return cls(counts, seen)

    def read(self, text: str) -> Read:
        text = text[:LONGEST]
        plain = normal(text)
        words = _words(plain)
        raw = _WORD.findall(text)
        return Read(
            normal=plain,
            words=words,
            weights={word: float(self._weights[_bucket(word)]) for word in words},
            bigrams=frozenset(pairwise(words)),
            trigrams=frozenset(plain[at : at + 3] for at in range(max(1, len(plain) - 2))),
            numbers=frozenset(word for word in words if any(map(str.isdigit, word))),
            questions=_QUESTIONS.intersection(words),
            negations=sum(word in _NEGATIONS or word.endswith("n't") for word in words),
            names=frozenset(word.casefold() for word in raw[1:] if word[:1].isupper()),
        )


def _words(plain: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(plain.replace("’", "'")))


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS


def compare(one: Read, other: Read, cosine: float) -> Array:
    """(len(NAMES),) for one pair."""
    left, right = one.weights, other.weights
    shared = left.keys() & right.keys()
    both = sum(left[word] for word in shared)
    total, totals = sum(left.values()), sum(right.values())
    contained = sorted((_share(both, total), _share(both, totals)))
    alone = [[w for word, w in mine.items() if word not in shared] for mine in (left, right)]
    rarest = sorted(max(weights, default=0.0) for weights in alone)
    unmatched = sorted(map(sum, alone))
    counts = sorted(map(len, alone))
    lengths = sorted((len(one.normal), len(other.normal)))
    words = sorted((len(one.words), len(other.words)))
    row = (
        cosine, _jaccard(left.keys(), right.keys()), _share(both, total + totals - both), *contained,
        _share(2 * len(one.trigrams & other.trigrams), len(one.trigrams) + len(other.trigrams)),
        *rarest, *unmatched, *counts, _share(*lengths), *words,
        len(one.numbers ^ other.numbers), one.questions != other.questions,
        (one.negations - other.negations) % 2, _jaccard(one.names, other.names), len(one.names ^ other.names),
        _jaccard(one.bigrams, other.bigrams), _order(one.words, other.words, shared),
        one.words[:1] == other.words[:1], one.words[-1:] == other.words[-1:],
    )  # fmt: skip
    return np.array(row, dtype=np.float32)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _jaccard(left: Any, right: Any) -> float:
    return _share(len(left & right), len(left | right))


def _order(one: tuple[str, ...], other: tuple[str, ...], shared: Any) -> float:
    """Longest run of shared words that come in the same order in both, as a share of them."""
    place = {word: at for at, word in reversed(list(enumerate(other)))}
    ends: list[int] = []
    for word in dict.fromkeys(one):
        if word in shared:
            at = bisect_left(ends, place[word])
            ends[at : at + 1] = [place[word]]
    return _share(len(ends), len(shared))
