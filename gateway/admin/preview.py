"""What a sample of recent semantic decisions would have become under another policy book.

Decided again by the very code that decides (`cache.semantic.choose`), on the neighbours that were compared then. Not
told: how new example utterances would classify, and what load or closed categories would change. Changes nothing.
"""

from collections.abc import Iterable
from typing import Any

from gateway.cache.semantic import choose
from gateway.exchange import UNLOADED, Controls
from gateway.policy.policy import Policy
from gateway.traffic import QUESTION, Decided

LISTED = 50


def preview(recent: Iterable[Decided], present: Policy, wanted: Policy) -> dict[str, Any]:
    """How many of the recent semantic look-ups would be decided otherwise, and the newest of those."""
    sampled, changed = 0, []
    for decided in recent:
        if not decided.candidates or decided.ruling is None or not decided.question:
            continue
        if len(decided.question) >= QUESTION:  # it was cut: the guard would read another text
            continue
        sampled += 1
        was, would = (_word(decided, policy) for policy in (present, wanted))
        if was != would:
            shown = {"request_id": decided.request_id, "tenant": decided.tenant, "category": decided.category}
            changed.append({**shown, "question": decided.question, "was": was, "would": would})
    gains = sum(change["would"] in ("hit", "shadow") for change in changed)
    return {
        "sampled": sampled,
        "changed": len(changed),
        "hits_gained": gains,
        "hits_lost": sum(change["was"] in ("hit", "shadow") for change in changed),
        "changes": changed[-LISTED:][::-1],
    }


def _word(decided: Decided, policy: Policy) -> str:
    assert decided.ruling is not None
    ruling = policy.ruling(Controls(), (decided.ruling.category, decided.ruling.rule), None, UNLOADED)
    scores = {c.entry.id: c.score for c in decided.candidates if c.score is not None}
    choice = choose(
        decided.question or "",
        [(candidate.entry, candidate.similarity) for candidate in decided.candidates],
        threshold=ruling.threshold,
        demands=lambda entry: policy.against(ruling, entry),
        servable=lambda entry: decided.at < entry.expires,
        guard=policy.guard,
        scores=scores,
    )
    return choice.reason if choice.agreed is None else "hit" if choice.entry is not None else "shadow"
