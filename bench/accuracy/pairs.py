"""Labelled pairs: read them, name the connected group of each, cut the groups in two halves.

The guard's word lists and the default thresholds were chosen on errors of the `tune` half. The other half's figures were
seen along the way, and the order check was shaped on PAWS: expect a little less on data that nobody here has seen.
"""

import gzip
import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson

from gateway.verifier.split import groups

SEED = "tune"


@dataclass(frozen=True, slots=True)
class Labelled:
    a: str
    b: str
    duplicate: bool
    group: str  # the alphabetically first text of the pair's connected component
    category: str | None = None

    @property
    def tune(self) -> bool:
        return int(hashlib.sha256((SEED + self.group).encode()).hexdigest(), 16) % 2 == 0


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def question_pairs(path: Path) -> list[Labelled]:
    """QQP or PAWS: a, b and a human label."""
    labelled = [(row["a"], row["b"], bool(row["duplicate"])) for row in rows(path)]
    group = groups((a, b) for a, b, _ in labelled)
    return [Labelled(a, b, duplicate, group[a]) for a, b, duplicate in labelled]


def intent_pairs(path: Path, per_intent: int = 40, seed: int = 7) -> list[Labelled]:
    """BANKING77: for each intent, pairs within it, and as many with texts of other intents.

    Of a hundred drawn texts of other intents the one that shares most words is taken: any one is too easy.
    The group is the intent (of the first text), so that no intent's own pairs are in both halves.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for row in rows(path):
        texts[row["intent"]].append(row["text"])
    draw = random.Random(seed)
    pairs = []
    for intent in sorted(texts):
        mine = sorted(set(texts[intent]))
        others = sorted({text for other in texts if other != intent for text in texts[other]})
        same = list(combinations(mine, 2))
        pairs += [Labelled(a, b, True, intent) for a, b in draw.sample(same, min(per_intent, len(same)))]
        for text in draw.choices(mine, k=per_intent):
            pairs.append(Labelled(text, _likest(text, draw.choices(others, k=100)), False, intent))
    return pairs


def _likest(text: str, others: list[str]) -> str:
    """The text with the largest Jaccard overlap of words; the first of equals."""
    words = set(text.lower().split())

    def overlap(other: str) -> float:
        theirs = set(other.lower().split())
        return len(words & theirs) / len(words | theirs)

    return max(others, key=overlap)
