"""What a response tells its caller: the decision, its reasons, and where the time went.

Never another tenant's data, never a raw key; every value is built here, from the Exchange alone.
"""

import math
import time
from typing import Any
from urllib.parse import quote

from gateway.exchange import Exchange, Forward, Join, Offload, Reuse

_NAME = "semantic-gateway"


def tell(x: Exchange, headers: Any) -> None:
    """Add the gateway's headers to a response about to be sent."""
    headers["X-Request-Id"] = x.request_id
    decision = x.decision
    if x.grant is not None:
        x.grant.tell(headers, free=isinstance(decision, Reuse | Join))
    if decision is None:
        return
    headers["x-gateway-decision"] = decision.word
    headers["x-gateway-reason"] = decision.reason
    headers["Cache-Status"] = _cache_status(x)
    headers["Server-Timing"] = _timing(x)
    if x.ruling is not None:
        headers["x-gateway-category"] = x.ruling.category
        if x.load.factor:
            headers["x-gateway-load"] = f"{x.load.of(x.ruling.category):.2f}"
    if x.similarity is not None and x.threshold is not None:
        headers["x-gateway-similarity"] = f"{x.similarity:.4f}"
        headers["x-gateway-threshold"] = f"{x.threshold:.4f}"
        score = x.agreed.score if x.agreed is not None else x.candidates[0].score if x.candidates else None
        if score is not None:
            headers["x-gateway-score"] = f"{score:.4f}"
    if x.entry is not None and x.status < 300:  # a failure is never stored
        headers["x-gateway-entry"] = x.entry.name
    if isinstance(decision, Reuse):
        headers["x-gateway-how"] = decision.how
        headers["x-gateway-category"] = x.ruling.category if x.ruling else decision.entry.category
        headers["Age"] = str(max(int(time.time() - decision.entry.created), 0))
    if x.request is not None:
        headers["x-gateway-model"] = _shown(_answering(x))
    if isinstance(decision, Offload):
        headers["x-gateway-examples"] = str(decision.examples)
    if x.backend:
        headers["x-gateway-backend"] = x.backend
    if x.attempts > 1:
        headers["x-gateway-attempts"] = str(x.attempts)


def _answering(x: Exchange) -> str:
    """The model that answers, or was asked to."""
    if isinstance(x.decision, Offload):
        return x.decision.model
    assert x.request is not None
    return x.fallback or x.request.model


def _shown(text: str) -> str:
    """A caller's own word, made fit for a header."""
    text = text[:200]
    return text if text.isprintable() else quote(text)


def _cache_status(x: Exchange) -> str:
    """RFC 9211."""
    decision = x.decision
    if isinstance(decision, Reuse):
        detail = decision.how if decision.reason == "hit" else decision.reason
        return f"{_NAME}; hit; ttl={math.floor(decision.left)}; detail={detail}"
    if isinstance(decision, Join):
        return f"{_NAME}; fwd=miss; collapsed"
    reason = decision.reason if decision is not None else ""
    stored = "; stored" if x.entry is not None and x.status < 300 else ""
    forwarded = "miss" if isinstance(decision, Forward | Offload) and x.exact else "bypass"
    return f'{_NAME}; fwd={forwarded}{stored}; detail="{reason}"'


def _timing(x: Exchange) -> str:
    total = time.perf_counter() - x.started
    steps = [f"{name};dur={seconds * 1000:.2f}" for name, seconds in x.marks.items()]
    return ", ".join([*steps, f"total;dur={total * 1000:.2f}"])
