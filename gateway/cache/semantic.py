"""Which neighbour, if any, may answer in place of the model. A wrong hit is the worst thing we can do.

The paper stops at the first node above the threshold (arXiv 2510.26835, section on early stopping); the
first is not the nearest, so we take the few best and serve the best one that every rule agrees on. Pure: no
store, no clock, no embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gateway.exchange import Candidate, Entry, Mode


class Judge(Protocol):
    """The guard: analyses a text once, and names the first check that disagrees, or None."""

    def facts(self, text: str) -> Any: ...

    def verdict(self, asked: Any, stored: Any, waived: frozenset[str]) -> str | None: ...


class Demand(Protocol):
    """What a hit on an entry takes: the stricter of the question's category and the entry's."""

    @property
    def mode(self) -> Mode: ...
    @property
    def threshold(self) -> float: ...
    @property
    def score(self) -> float | None: ...
    @property
    def waived(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate every rule agrees on or None, why not, and every neighbour that was compared, nearest first."""

    agreed: Candidate | None
    mode: Mode  # what the agreed one's policies permit: "shadow" is observed, not served
    reason: str
    similarity: float | None
    threshold: float
    candidates: list[Candidate]
    unscored: tuple[Entry, ...] = ()  # the verifier must be asked about these first

    @property
    def entry(self) -> Entry | None:
        """The entry to reuse."""
        return self.agreed.entry if self.agreed is not None and self.mode == "semantic" else None


def choose(
    question: str,
    neighbours: Sequence[tuple[Entry, float]],
    *,
    threshold: float,
    demands: Callable[[Entry], Demand],
    servable: Callable[[Entry], bool],
    guard: Judge,
    refused: Callable[[Entry], bool] = lambda entry: False,
    margin: float = 0.0,
    scores: Mapping[int, float] | None = None,
) -> Choice:
    """Pick the nearest neighbour that threshold, lifetime, policy, guard and verifier all allow.

    Args:
        neighbours: (entry, cosine similarity), nearest first, of one compatibility partition.
        threshold: the question's own, told where nothing was compared.
        demands: what reusing an entry takes.
        servable: lifetime, age, temperature: everything in memory that is not about meaning.
        refused: somebody said that this entry does not answer this question.
        margin: demanded on top, near questions that were answered wrongly.
        scores: entry id → the verifier's score. None: it has not been asked; then the choice names those it must
            be asked about.
    """
    asked: Any = None  # analysed only if any candidate gets as far as the guard
    compared: list[Candidate] = []
    unscored: list[Entry] = []
    reason, decisive = "partition-empty", threshold
    for entry, similarity in neighbours:
        demand = demands(entry)
        needed = _with(demand.threshold, margin)
        candidate = Candidate(entry, similarity)
        if similarity < needed:
            verdict = "below-threshold"
        elif demand.mode not in ("semantic", "shadow"):
            verdict = f"mode-{demand.mode}"
        elif not servable(entry):
            verdict = "expired"
        elif refused(entry):
            verdict = "feedback"
        else:
            asked = guard.facts(question) if asked is None else asked
            veto = guard.verdict(asked, guard.facts(entry.question), demand.waived)
            verdict = f"guard:{veto}" if veto else "ok"
        if verdict == "ok" and demand.score is not None:
            if scores is None:
                unscored.append(entry)
                verdict = "verifier"
            else:
                score = scores.get(entry.id)
                candidate = replace(candidate, score=score)
                verdict = "ok" if score is not None and score >= _with(demand.score, margin) else "verifier"
        compared.append(replace(candidate, verdict=verdict))
        if verdict == "ok" and not unscored:
            why = "shadow" if demand.mode == "shadow" else "hit"
            return Choice(compared[-1], demand.mode, why, similarity, needed, compared)
        if len(compared) == 1 or (reason == "below-threshold" and verdict != reason):
            reason, decisive = verdict, needed
    nearest = compared[0].similarity if compared else None
    return Choice(None, "none", reason, nearest, decisive, compared, tuple(unscored))


def _with(bound: float, margin: float) -> float:
    """A bound raised by `margin`, a share of what is left above it."""
    return bound + (1 - bound) * margin if margin else bound
