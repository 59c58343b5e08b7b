"""Questions of labelled classes, asked by Zipf's law over the classes, and the answer that is right for each.

Two questions of one class want the same answer, two of different classes never do. Labels are incomplete: some
questions of two classes mean the same, so what is counted wrong here is at most too much.
"""

import gzip
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.accuracy.vectors import vectors
from gateway.interfaces import Embedder

WORDS = 40  # of an answer
_WORD = re.compile(r"[a-z]{4,}")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests by row of vector and text; two of one group are right for each other."""

    rows: Sequence[int]
    groups: Sequence[int]  # of each request
    texts: Sequence[str]
    vectors: Array


@dataclass(slots=True)
class Count:
    """What a cache did with a stream."""

    requests: int = 0
    hits: int = 0
    exact: int = 0  # of the hits: on the very text
    calls: int = 0  # of a model
    pairs: Counter[tuple[int, int]] = field(
        default_factory=Counter
    )  # wrong hits: row asked, group whose answer it got

    @property
    def wrong(self) -> int:
        return self.pairs.total()

    @property
    def lookups(self) -> int:
        """Requests that equality of text did not settle."""
        return self.requests - self.exact


def classes(data: Path) -> list[list[str]]:
    """Groups of questions that mean the same."""
    return [row["questions"] for row in _rows(data / "qqp_classes.jsonl.gz")]


def alone(data: Path, groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """The other questions of the labelled pairs, each a group of its own: the near misses are among them."""
    known = {text for questions in groups for text in questions}
    paired = {text for row in _rows(data / "qqp_pairs.jsonl.gz") for text in (row["a"], row["b"])}
    return [[text] for text in sorted(paired - known)]


def _rows(file: Path) -> Iterator[Any]:
    with gzip.open(file, "rb") as lines:
        yield from map(orjson.loads, lines)


def zipf(
    groups: Sequence[Sequence[str]],
    embedder: Embedder,
    folder: Path,
    requests: int,
    seed: int,
    *,
    offset: float = 1.0,
) -> Stream:
    """Groups in an order of the seed's, drawn with weight 1/(rank + offset), rank from 0; members drawn evenly."""
    texts = sorted({text for questions in groups for text in questions})
    row = {text: at for at, text in enumerate(texts)}
    rng = random.Random(seed)
    order = list(groups)
    rng.shuffle(order)
    weights = [1 / (rank + offset) for rank in range(len(order))]
    drawn = rng.choices(range(len(order)), weights, k=requests)
    rows = [row[rng.choice(order[group])] for group in drawn]
    return Stream(rows, drawn, texts, vectors(embedder, texts, folder))


def answers(stream: Stream) -> dict[int, str]:
    """Group → its answer: words drawn at random from all questions, so that no two answers are alike."""
    vocabulary = sorted({word for text in stream.texts for word in _WORD.findall(text.lower())})
    return {
        group: " ".join(random.Random(group).choices(vocabulary, k=WORDS)) + "."
        for group in set(stream.groups)
    }
