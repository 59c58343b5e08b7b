"""Semantic caches that decide by one similarity threshold, modelled: what they reuse of a stream, and how much of it wrongly.

Modelled is the decision: the nearest stored question by cosine over everything stored answers if it is at or above
the threshold; else the model is asked, and the question is stored with its answer. The same text again has cosine 1.
Not modelled: other embedders, approximate search, eviction and expiry, time; partitions by model or system prompt,
as all requests here agree in those. LiteLLM and RedisVL leave the threshold to the user (0.80 to 0.95 in their
examples). GPTCache's default evaluation, ported to cosine, takes 0.6 and more.
"""

from collections.abc import Mapping

import numpy as np

from bench.replay.stream import Array, Count, Stream

FLOOR = 0.60  # cosine, below which neighbours are not kept: the lowest threshold that can be replayed
THRESHOLDS = {
    "exact text alone": 1.1,
    "threshold 0.95": 0.95,
    "threshold 0.90": 0.90,
    "threshold 0.80": 0.80,
    "GPTCache's default (0.60)": 0.60,
}
_BLOCK = 512  # rows multiplied at once


def neighbours(stream: Stream) -> dict[int, tuple[Array, Array]]:
    """Row → rows of the stream at `FLOOR` and above it, nearest first, and their cosines (n,)."""
    asked = np.unique(np.asarray(stream.rows))
    found = stream.vectors[asked]
    near = {}
    for begin in range(0, len(asked), _BLOCK):
        cosines = found[begin : begin + _BLOCK] @ found.T
        for row, each in zip(asked[begin : begin + _BLOCK], cosines, strict=True):
            high = np.flatnonzero(each >= FLOOR)
            high = high[np.argsort(-each[high], kind="stable")]
            near[int(row)] = (asked[high], each[high])
    return near


def replay(stream: Stream, near: Mapping[int, tuple[Array, Array]], threshold: float) -> Count:
    """The stream from an empty cache, one request after the other."""
    count = Count()
    stored: dict[int, int] = {}  # row → group
    for row, group in zip(stream.rows, stream.groups, strict=True):
        count.requests += 1
        hit = row if row in stored else _nearest(stored, *near[row], threshold)
        if hit is None:
            count.calls += 1
            stored[row] = group
            continue
        count.hits += 1
        count.exact += hit == row
        if stored[hit] != group:
            count.pairs[row, stored[hit]] += 1
    return count


def _nearest(stored: Mapping[int, int], rows: Array, cosines: Array, threshold: float) -> int | None:
    """The nearest stored row, if it is near enough."""
    for row, cosine in zip(rows, cosines, strict=True):
        if cosine < threshold:
            break
        if int(row) in stored:
            return int(row)
    return None
