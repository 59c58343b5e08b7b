"""What the shipped policies do to labelled pairs, category by category: the numbers the README promises.

A pair hits as it would in the gateway: both questions are classified, the stricter mode and threshold of the
two categories count, and the guard must agree.
"""

from pathlib import Path

import numpy as np

from bench.accuracy.measure import Measured, Table
from bench.accuracy.vectors import vectors
from gateway.classify.prototypes import Prototypes
from gateway.interfaces import Embedder
from gateway.policy.policy import Policy, settled, stricter


def operating_points(
    name: str, measured: Measured, embedder: Embedder, policy: Policy, folder: Path
) -> Table:
    """One row a category (the first question's) and one for all together."""
    hits = _hits(measured, embedder, policy, folder)
    names = categories([pair.a for pair in measured.pairs], embedder, policy, folder)
    table = Table(
        f"{name} shipped policies",
        f"{name}: the shipped policies, guard and classifier together",
        (
            "category",
            "threshold",
            "duplicates",
            "non-duplicates",
            "dup % hit",
            "non-dup % hit",
            "wrong/look-ups %",
            "wrong/hits %",
        ),
    )
    everything = np.ones(len(hits), dtype=np.bool_)
    row_names = np.array(names, dtype=object)
    for category in ["all", *sorted(set(names))]:
        mine = everything if category == "all" else row_names == category
        table.rows.append([category, _threshold(policy, category), *_counts(measured, hits, mine)])
    return table


def _threshold(policy: Policy, category: str) -> str:
    return "" if category == "all" else f"{policy.category(category).cache.threshold:.3f}"


def _counts(measured: Measured, hits: np.ndarray, mine: np.ndarray) -> list[str]:
    duplicate = measured.duplicate[mine]
    right, wrong = int((hits[mine] & duplicate).sum()), int((hits[mine] & ~duplicate).sum())
    duplicates, others = int(duplicate.sum()), int((~duplicate).sum())
    return [
        str(duplicates),
        str(others),
        *(
            f"{100 * part / max(whole, 1):.2f}"
            for part, whole in (
                (right, duplicates),
                (wrong, others),
                (wrong, duplicates + others),
                (wrong, right + wrong),
            )
        ),
    ]


def _hits(measured: Measured, embedder: Embedder, policy: Policy, folder: Path) -> np.ndarray:
    asked = categories([pair.a for pair in measured.pairs], embedder, policy, folder)
    stored = categories([pair.b for pair in measured.pairs], embedder, policy, folder)
    demands = [_demand(policy, a, b) for a, b in zip(asked, stored, strict=True)]
    return np.array(
        [
            agreed and mode == "semantic" and similarity >= threshold
            for agreed, similarity, (mode, threshold) in zip(
                measured.agreed, measured.similarity, demands, strict=True
            )
        ],
        dtype=np.bool_,
    )


def _demand(policy: Policy, a: str, b: str) -> tuple[str, float]:
    one, other = policy.category(a).cache, policy.category(b).cache
    return stricter(one.mode, other.mode), max(one.threshold, other.threshold)


def categories(texts: list[str], embedder: Embedder, policy: Policy, folder: Path) -> list[str]:
    names, utterances = policy.utterances()
    classifier = Prototypes.fit(names, vectors(embedder, utterances, folder))
    distinct = sorted(set(texts))
    labels = classifier.label(vectors(embedder, distinct, folder))
    label_of = {
        text: settled(name, confidence) for text, (name, confidence) in zip(distinct, labels, strict=True)
    }
    return [label_of[text] for text in texts]
