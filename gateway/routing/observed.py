"""What is told of an attempt that is over: a measurement, and its span where the request is traced. Decides nothing."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from gateway.exchange import Exchange, operation
from gateway.routing.fleet import Model
from gateway.routing.trip import Attempt, Outcome

_PORTS = {"http": 80, "https": 443}

# (operation, model, seconds, seconds to the first byte of a stream or None, error type or empty)
Observe = Callable[[str, str, float, float | None, str], None]


def unobserved(operation: str, model: str, seconds: float, first: float | None, error: str) -> None:
    """Nobody wants to know."""


def told(observe: Observe, x: Exchange, model: Model, attempt: Attempt, outcome: Outcome) -> None:
    """To whoever counts, and to the trace."""
    lease, name = attempt.lease, operation(x)
    first = None if lease.first_at is None else lease.first_at - lease.sent_at
    error = outcome.error or (str(outcome.status) if outcome.status >= 400 else "")
    observe(name, model.name, attempt.now() - attempt.started, first if attempt.sse else None, error)
    if attempt.span is not None:
        attempt.span.end(name, lease.backend.model or model.name, error, _attributes(attempt, outcome, first))


def _attributes(attempt: Attempt, outcome: Outcome, first: float | None) -> dict[str, Any]:
    backend = attempt.lease.backend
    host, port = _address(backend.url)
    told: dict[str, Any] = {"server.address": host, "server.port": port, "gateway.backend": backend.id}
    if outcome.status:
        told["http.response.status_code"] = outcome.status
    if first is not None:
        told["gen_ai.response.time_to_first_chunk"] = first
    if outcome.prompt is not None:
        told["gen_ai.usage.input_tokens"] = outcome.prompt
    if outcome.output is not None:
        told["gen_ai.usage.output_tokens"] = outcome.output
    return told


@lru_cache(1024)
def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
