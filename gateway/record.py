"""After the last byte: counts, one log line, and what the request id is remembered for.

It never delays the client, and never stores what is incomplete (that is settled before an answer gets here).
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gateway.exchange import Exchange, Join, Reuse
from gateway.metrics import Metrics
from gateway.traffic import Traffic

_DAY = 86_400.0


class Remembered(NamedTuple):
    """What feedback needs to know of an answered request."""

    tenant: str
    decision: str
    how: str
    category: str
    entry: int | None
    at: float
    pair: tuple[bytes, str, str] | None = (
        None  # of a semantic hit: partition, question asked, question stored
    )
    statistic: float = 0.0  # what it was decided by
    verdict: str = ""  # of a semantic hit, once there is one


class Receipts:
    """Request id → what became of it, for a day and within a bound. Ids of different tenants never meet."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def remember(self, exchange: Exchange) -> None:
        """Called before the response's headers are sent."""
        decision = exchange.decision
        kept = exchange.entry
        entry, category = (None, "") if kept is None else (kept.id, kept.category)
        how = decision.how if isinstance(decision, Reuse) else ""
        word = decision.word if decision is not None else ""
        key = (exchange.tenant, exchange.request_id)
        pair, statistic = None, 0.0
        if how == "semantic" and exchange.agreed is not None and exchange.request is not None:
            stored = exchange.agreed.entry.question
            pair = exchange.partition, exchange.request.question or "", stored
            statistic = exchange.agreed.statistic
            category = exchange.ruling.category if exchange.ruling is not None else category
        self._kept[key] = Remembered(
            exchange.tenant, word, how, category, entry, self._clock(), pair, statistic
        )
        self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def find(self, tenant: str, request_id: str) -> Remembered | None:
        found = self._kept.get((tenant, request_id))
        return found if found is not None and found.at > self._clock() - _DAY else None

    def judged(self, tenant: str, request_id: str, verdict: str) -> str:
        """Keep the verdict on a known answer; gives the one before."""
        found = self._kept[tenant, request_id]
        self._kept[tenant, request_id] = found._replace(verdict=verdict)
        return found.verdict

    def find_any(self, request_id: str) -> list[Remembered]:
        """For the admin, who sees all tenants."""
        limit = self._clock() - _DAY
        return [r for (_, name), r in self._kept.items() if name == request_id and r.at > limit]


class Recorder:
    """Counts and logs finished exchanges."""

    def __init__(
        self,
        metrics: Metrics,
        traffic: Traffic,
        lines: Callable[[dict[str, Any]], None] | None,
        *,
        prompts: bool,
    ) -> None:
        self._metrics = metrics
        self._traffic = traffic
        self._lines = lines
        self._prompts = prompts

    def finished(self, x: Exchange) -> None:
        """Once per request, after its last byte or its end for any other reason."""
        seconds = time.perf_counter() - x.started
        decision = x.decision
        word = decision.word if decision is not None else "pass"
        reason = decision.reason if decision is not None else "pass-through"
        how = decision.how if isinstance(decision, Reuse) else ""
        entry = x.entry
        category = x.ruling.category if x.ruling is not None else ""
        if isinstance(decision, Reuse | Join) and entry is not None and x.status == 200:
            category = category or entry.category
            self._metrics.saved(entry.category, entry.prompt_tokens, entry.completion_tokens, entry.cost)
        endpoint = x.request.endpoint if x.request is not None else "other"
        self._metrics.finished(
            endpoint, word, how, category, x.status, reason, seconds, x.marks.get("first_byte", seconds)
        )
        for step in ("embed", "search"):
            if step in x.marks:
                self._metrics.step(step, x.marks[step])
        self._traffic.finished(x, seconds)
        if self._lines is not None:
            self._lines(self._line(x, word, how, reason, category, endpoint, seconds))

    def _line(
        self, x: Exchange, word: str, how: str, reason: str, category: str, endpoint: str, seconds: float
    ) -> dict[str, Any]:
        line: dict[str, Any] = {
            "time": datetime.now(UTC),
            "level": "info",
            "logger": "gateway.access",
            "message": "request",
            "request_id": x.request_id,
            "tenant": x.tenant,
            "endpoint": endpoint,
            "status": x.status,
            "decision": word,
            "how": how,
            "reason": reason,
            "category": category,
            "model": x.request.model if x.request is not None else "",
            "backend": x.backend,
            "entry": x.entry.name if x.entry is not None else "",
            "milliseconds": round(seconds * 1000, 3),
        }
        if x.candidates:
            line["similarity"] = round(x.candidates[0].similarity, 4)
        if self._prompts and x.request is not None:
            line["question"] = x.request.question
        return line
