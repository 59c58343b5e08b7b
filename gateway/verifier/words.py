"""What training pairs tell of single words: how rare each is, and what it means that one text alone has it.

Pure counting, kept in hash buckets: no word of the training texts is in the model's files.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.cache.guard.facts import Facts

BUCKETS = 1 << 16
LEAST = 4  # pairs, before anything is said of a word
PRIOR = 8.0  # pairs that a word is taken to have been seen in before, at the odds of all words


class Words:
    """From counts (BUCKETS,): of texts with a word, and of pairs of either label that only one text has it in."""

    def __init__(self, texts: int, seen: NDArray[Any], different: NDArray[Any], same: NDArray[Any]) -> None:
        if {array.shape for array in (seen, different, same)} != {(BUCKETS,)} or texts < 0:
            raise ValueError("counts of no use")
        self.texts, self.seen, self.different, self.same = texts, seen, different, same
        self._rarity = np.log((1 + texts) / (1 + np.clip(seen, 0, texts).astype(np.float64)))
        self._fatal = _odds(different.astype(np.float64), same.astype(np.float64))

    def rarities(self, words: Iterable[str]) -> list[float]:
        """log((1 + texts) / (1 + texts with the word)) of each."""
        return [float(self._rarity[bucket(word)]) for word in words]

    def fatal(self, words: Iterable[str]) -> list[float]:
        """Log odds against a duplicate that a word stands in one of the two texts only; 0 of words seldom seen."""
        return [float(self._fatal[bucket(word)]) for word in words]

    def arrays(self) -> dict[str, Any]:
        """For np.savez."""
        return {"texts": self.texts, "seen": self.seen, "different": self.different, "same": self.same}

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> "Words":
        """Raises KeyError or ValueError where arrays are missing or of no use."""
        return cls(
            int(arrays["texts"]), *(np.asarray(arrays[name]) for name in ("seen", "different", "same"))
        )


def learn(pairs: Sequence[tuple[str, str, bool]], facts: Callable[[str], Facts]) -> Words:
    """Rarity over the distinct texts, odds over the pairs."""
    seen, different, same = (np.zeros(BUCKETS, dtype=np.int32) for _ in range(3))
    texts = {text for a, b, _ in pairs for text in (a, b)}
    for text in texts:
        seen[_buckets(facts(text).vocabulary)] += 1
    for a, b, duplicate in pairs:
        (same if duplicate else different)[_buckets(facts(a).vocabulary ^ facts(b).vocabulary)] += 1
    return Words(len(texts), seen, different, same)


def bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS


def _buckets(words: Iterable[str]) -> list[int]:
    return list({bucket(word) for word in words})


def _odds(different: NDArray[np.float64], same: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shrunk towards the odds of all words together."""
    total = max(1.0, different.sum()), max(1.0, same.sum())
    prior = PRIOR / sum(total)
    odds = np.log(different / total[0] + prior) - np.log(same / total[1] + prior)
    return np.where(different + same >= LEAST, odds, 0.0)
