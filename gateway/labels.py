"""Labelled pairs as the first evidence of a running gateway: embedded, guarded, scored, sorted into categories.

Works beside the traffic, between requests' own embeddings; decides nothing, and must never keep a start waiting.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gateway.calibrate import REFUSED, Pair, agree, distinct, read_pairs
from gateway.interfaces import Classifier, Vector, Verifier
from gateway.policy.book import DEFAULT
from gateway.policy.policy import Policy, settled
from gateway.trust.room import Trust

log = logging.getLogger("gateway.labels")
_TEXTS = 256  # embedded at once


class Worker(Protocol):
    """The part of the worker that is asked here."""

    @property
    def classifier(self) -> Classifier | None: ...

    async def encode(self, texts: Sequence[str]) -> Vector: ...


async def seed(trust: Trust, policy: Policy, worker: Worker, verifier: Verifier | None, path: Path) -> int:
    """Tell what the pairs of a file say of each category; returns how many were used.

    Raises:
        Invalid: the file cannot be read as labelled pairs.
        EmbedderBusy, EmbedderFailed: it cannot be embedded.
    """
    pairs = await asyncio.to_thread(read_pairs, path)
    texts, left, right = distinct(pairs)
    vectors = await _encoded(worker, texts)
    found = await asyncio.to_thread(
        _sorted, pairs, vectors[left], vectors[right], policy, worker.classifier, verifier
    )
    used = 0
    for category, (statistics, wrong) in found.items():
        if trust.knows(category):
            trust.seed(category, statistics, wrong)
            used += len(wrong)
    log.info("labels read", extra={"fields": {"pairs": len(pairs), "used": used}})
    return used


async def _encoded(worker: Worker, texts: Sequence[str]) -> Vector:
    parts = [await worker.encode(texts[i : i + _TEXTS]) for i in range(0, len(texts), _TEXTS)]
    return np.concatenate(parts)


def _sorted(
    pairs: Sequence[Pair],
    left: Vector,
    right: Vector,
    policy: Policy,
    classifier: Classifier | None,
    verifier: Verifier | None,
) -> dict[str, tuple[list[float], list[bool]]]:
    """Category → the statistic of each of its pairs, and whether reuse would be wrong. On another thread."""
    found: defaultdict[str, tuple[list[float], list[bool]]] = defaultdict(lambda: ([], []))
    labels = [(DEFAULT, 0.0)] * len(pairs) if classifier is None else classifier.label(left)
    cosines = np.einsum("ij,ij->i", left, right).tolist()
    for row, pair in enumerate(pairs):
        category = pair.category or settled(*labels[row])
        statistics, wrong = found[category]
        statistics.append(
            _statistic(pair, cosines[row], left[row], right[row : row + 1], policy, category, verifier)
        )
        wrong.append(not pair.duplicate)
    return found


def _statistic(
    pair: Pair,
    cosine: float,
    left: Vector,
    right: Vector,
    policy: Policy,
    category: str,
    verifier: Verifier | None,
) -> float:
    verify = policy.category(category).cache.verify if verifier is not None else None
    if verify is not None and cosine < verify.above:
        return REFUSED
    if not agree(policy.guard, pair, () if verify is None else verify.waives):
        return REFUSED
    if verify is None or verifier is None:
        return cosine
    return verifier.scores(pair.a, [pair.b], left, right)[0]
