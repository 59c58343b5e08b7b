"""Which neighbour, if any, may answer in place of the model. A wrong hit is the worst thing we can do.

The paper stops at the first node above the threshold (arXiv 2510.26835, section on early stopping); the
first is not the nearest, so we take the few best and serve the best one that every rule agrees on. Pure: no
store, no clock, no embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway.exchange import Candidate, Entry, Mode


class Judge(Protocol):
    """The guard: analyses a text once, and names the first check that disagrees, or None."""

    def facts(self, text: str) -> Any: ...

    def verdict(self, asked: Any, stored: Any) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The entry to reuse or None, why, and every neighbour that was compared, nearest first."""

    entry: Entry | None
    reason: str
    similarity: float | None
    threshold: float
    candidates: list[Candidate]


def choose(
    question: str,
    neighbours: Sequence[tuple[Entry, float]],
    *,
    threshold: float,
    demands: Callable[[Entry], tuple[Mode, float]],
    servable: Callable[[Entry], bool],
    guard: Judge,
) -> Choice:
    """Pick the nearest neighbour that threshold, lifetime, policy and guard all allow.

    Args:
        neighbours: (entry, cosine similarity), nearest first, of one compatibility partition.
        threshold: the question's own, told where nothing was compared.
        demands: mode and threshold for reusing an entry: the stricter of the question's and the entry's.
        servable: lifetime, age, temperature: everything in memory that is not about meaning.
    """
    asked: Any = None  # analysed only if any candidate gets as far as the guard
    compared: list[Candidate] = []
    reason, decisive = "partition-empty", threshold
    for entry, similarity in neighbours:
        mode, needed = demands(entry)
        candidate = Candidate(entry, similarity)
        if similarity < needed:
            verdict = "below-threshold"
        elif mode not in ("semantic", "shadow"):
            verdict = f"mode-{mode}"
        elif not servable(entry):
            verdict = "expired"
        else:
            asked = guard.facts(question) if asked is None else asked
            veto = guard.verdict(asked, guard.facts(entry.question))
            verdict = f"guard:{veto}" if veto else "ok"
        compared.append(replace(candidate, verdict=verdict))
        if verdict == "ok":
            shadow = mode == "shadow"
            return Choice(
                None if shadow else entry, "shadow" if shadow else "hit", similarity, needed, compared
            )
        if len(compared) == 1 or (reason == "below-threshold" and verdict != reason):
            reason, decisive = verdict, needed
    nearest = compared[0].similarity if compared else None
    return Choice(None, reason, nearest, decisive, compared)
