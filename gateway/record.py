"""After the last byte: counts, one log line, and what the request id is remembered for.

It never delays the client, and never stores what is incomplete (that is settled before an answer gets here).
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from gateway.cache.purge import Criteria
from gateway.exchange import Exchange, Join, Offload, Reuse, Usage, operation, user_digest
from gateway.metrics import Metrics
from gateway.savings import Credit, Savings, Way
from gateway.tracing.trace import parent
from gateway.traffic import Traffic
from gateway.trust.negatives import Wrong

_DAY = 86_400.0
_TEXT = 8192  # characters of a question in a span


class Remembered(NamedTuple):
    """What feedback needs to know of an answered request."""

    tenant: str
    decision: str
    how: str
    category: str
    entry: int | None
    at: float
    pair: Wrong | None = None  # of a semantic hit: the question asked and the one stored, right or wrong
    statistic: float = 0.0  # what it was decided by
    verdict: str = ""  # of a semantic hit, once there is one
    credit: Credit | None = None  # what it has saved, until it is called bad


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
            stored, users = exchange.agreed.entry, (user_digest(exchange.user), exchange.agreed.entry.user)
            pair = Wrong(exchange.partition, exchange.request.question or "", stored.question, users)
            statistic = exchange.agreed.statistic
            category = exchange.ruling.category if exchange.ruling is not None else category
        self._kept[key] = Remembered(
            exchange.tenant, word, how, category, entry, self._clock(), pair, statistic, exchange.credit
        )
        self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def credit(self, x: Exchange) -> None:
        """What a request that is remembered has saved, known only now."""
        kept = self._kept.get((x.tenant, x.request_id))
        if kept is not None:
            self._kept[x.tenant, x.request_id] = kept._replace(credit=x.credit)

    def void(self, tenant: str, request_id: str) -> Credit | None:
        """What a request had saved, once: it was called bad."""
        kept = self.find(tenant, request_id)
        if kept is None or kept.credit is None:
            return None
        self._kept[tenant, request_id] = kept._replace(credit=None)
        return kept.credit

    def find(self, tenant: str, request_id: str) -> Remembered | None:
        found = self._kept.get((tenant, request_id))
        return found if found is not None and found.at > self._clock() - _DAY else None

    def judged(self, tenant: str, request_id: str, verdict: str) -> str:
        """Keep the verdict on a known answer; gives the one before."""
        found = self._kept[tenant, request_id]
        self._kept[tenant, request_id] = found._replace(verdict=verdict)
        return found.verdict

    def forget(self, wanted: Callable[[str, tuple[int, ...]], bool]) -> int:
        """Forget the texts of hits, by tenant and by the users who asked; feedback on them finds nothing then."""
        gone = [key for key, r in self._kept.items() if r.pair is not None and wanted(r.tenant, r.pair.users)]
        for key in gone:
            del self._kept[key]
        return len(gone)

    def find_any(self, request_id: str) -> list[Remembered]:
        """For the admin, who sees all tenants."""
        limit = self._clock() - _DAY
        return [r for (_, name), r in self._kept.items() if name == request_id and r.at > limit]


class Recorder:
    """Counts, logs and traces finished exchanges.

    Args:
        price: dollars that a model's tokens take.
        tenants: whether their names may be in log lines.
    """

    def __init__(
        self,
        metrics: Metrics,
        traffic: Traffic,
        lines: Callable[[dict[str, Any]], None] | None,
        savings: Savings,
        receipts: Receipts,
        price: Callable[[str, Usage], float],
        *,
        prompts: bool,
        tenants: bool,
    ) -> None:
        self._metrics = metrics
        self._traffic = traffic
        self._lines = lines
        self._savings = savings
        self._receipts = receipts
        self._price = price
        self._prompts = prompts
        self._tenants = tenants

    def forget(self, criteria: Criteria) -> int:
        """What an erasure means of what is only in memory. Returns how many."""
        return self._traffic.forget(criteria.erases) + self._receipts.forget(criteria.erases)

    def finished(self, x: Exchange) -> None:
        """Once per request, after its last byte or its end for any other reason."""
        seconds = time.perf_counter() - x.started
        decision = x.decision
        word = decision.word if decision is not None else "pass"
        reason = decision.reason if decision is not None else "pass-through"
        how = decision.how if isinstance(decision, Reuse) else ""
        category = x.ruling.category if x.ruling is not None else ""
        if isinstance(decision, Reuse | Join) and x.entry is not None and x.status == 200:
            category = category or x.entry.category
            self._reused(x, how or "join", category)
        endpoint = x.request.endpoint if x.request is not None else "other"
        self._metrics.finished(
            endpoint, word, how, category, x.status, reason, seconds, x.marks.get("first_byte", seconds)
        )
        for step in ("embed", "search"):
            if step in x.marks:
                self._metrics.step(step, x.marks[step])
        self._traffic.finished(x, seconds)
        if x.trace is not None and x.trace.recorded:
            self._trace(x, word, how, reason, category, endpoint, seconds)
        if self._lines is not None:
            self._lines(self._line(x, word, how, reason, category, endpoint, seconds))

    def _reused(self, x: Exchange, how: Way, category: str) -> None:
        """What the model would have taken for this answer."""
        entry, request = x.entry, x.request
        assert entry is not None
        assert request is not None
        prompt, output, dollars = entry.prompt_tokens, entry.completion_tokens, entry.cost
        if not (prompt or output) and x.call is not None:  # joined: its entry is not stored yet
            prompt, output = (tokens or 0 for tokens in x.call.spent)
            dollars = self._price(request.model, Usage(prompt, output))
        self._save(x, Credit(x.tenant, category, how, prompt, output, dollars, self._usual(request.model)))

    def offloaded(
        self, x: Exchange, category: str, usage: Usage, dollars: float, seconds: float | None
    ) -> None:
        """A small model answered. `usage`: what the large one was spared; dollars and seconds likewise."""
        self._save(
            x, Credit(x.tenant, category, "offload", usage.prompt, usage.completion, dollars, seconds or 0.0)
        )

    def _usual(self, model: str) -> float:
        seconds = self._savings.seconds
        return seconds.get(model) or seconds.get("*", 0.0)

    def _save(self, x: Exchange, credit: Credit) -> None:
        x.credit = credit
        self._savings.add(credit)
        self._receipts.credit(x)
        if credit.how != "offload":  # that has metrics of its own
            self._metrics.saved(credit.category, credit.prompt, credit.output, credit.dollars, credit.seconds)

    def _trace(
        self, x: Exchange, word: str, how: str, reason: str, category: str, endpoint: str, seconds: float
    ) -> None:
        trace, request = x.trace, x.request
        told: dict[str, Any] = {
            "http.request.method": trace.method,
            "url.path": trace.path,
            "http.response.status_code": x.status,
            "server.address": x.headers.get("Host", ""),
            "gateway.request_id": x.request_id,
            "gateway.decision": word,
            "gateway.reason": reason,
            **_known(how=how, category=category, backend=x.backend, tenant=x.tenant if trace.terms.tenants else ""),
            **trace.answer,
        }  # fmt: skip
        name = f"{trace.method} {trace.path if endpoint != 'other' else '/v1'}"
        if request is not None:
            asked = operation(x)
            name = f"{asked} {request.model[:200]}"
            told |= {
                "gen_ai.operation.name": asked,
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": request.model[:200],
                "gen_ai.request.stream": request.stream,
            }
            if trace.terms.prompts and request.question:
                told["gen_ai.input.messages"] = _message(request.question)
        if "parse" in x.marks:
            trace.step("parse", x.started, x.started + x.marks["parse"])
        if x.similarity is not None and x.threshold is not None:
            told |= {"gateway.similarity": x.similarity, "gateway.threshold": x.threshold}
        if x.entry is not None:
            told["gateway.entry"] = x.entry.name
        prompt, output = _tokens(x)
        if prompt or output:
            told |= {"gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": output}
        if "first_byte" in x.marks:
            told["gen_ai.response.time_to_first_chunk"] = x.marks["first_byte"]
        failed = str(x.status) if x.status >= 500 or x.status == 499 else ""
        if failed:
            told["error.type"] = failed
        trace.finish(name, x.started, seconds, told, failed)

    def _line(
        self, x: Exchange, word: str, how: str, reason: str, category: str, endpoint: str, seconds: float
    ) -> dict[str, Any]:
        line: dict[str, Any] = {
            "time": datetime.now(UTC),
            "level": "info",
            "logger": "gateway.access",
            "message": "request",
            "request_id": x.request_id,
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
        if self._tenants:
            line["tenant"] = x.tenant
        if x.trace is not None:
            line["trace_id"], line["span_id"] = f"{x.trace.id:032x}", f"{x.trace.span:016x}"
        elif (above := parent(x.headers.get("traceparent"))) is not None:  # the caller's own
            line["trace_id"], line["span_id"] = f"{above.trace:032x}", f"{above.span:016x}"
        prompt, output = _tokens(x)
        if prompt or output:
            line["input_tokens"], line["output_tokens"] = prompt, output
        if x.request is not None and x.request.stream:
            line["first_byte_milliseconds"] = round(x.marks.get("first_byte", seconds) * 1000, 3)
        if x.attempts > 1:
            line["attempts"] = x.attempts
        if x.credit is not None:
            line["saved_dollars"] = x.credit.dollars
        if x.candidates:
            line["similarity"] = round(x.candidates[0].similarity, 4)
        if x.threshold is not None:
            line["threshold"] = round(x.threshold, 4)
        if self._prompts and x.request is not None:
            line["question"] = x.request.question
        return line


def _tokens(x: Exchange) -> tuple[int, int]:
    """Of the answer that went out, as its engine reported them."""
    if isinstance(x.decision, Reuse) and x.entry is not None:
        return x.entry.prompt_tokens, x.entry.completion_tokens
    if x.call is not None:
        prompt, output = x.call.spent
        return prompt or 0, output or 0
    if isinstance(x.decision, Offload) and x.credit is not None:
        return x.credit.prompt, x.credit.output
    return 0, 0


def _known(**given: str) -> dict[str, str]:
    return {f"gateway.{name}": value for name, value in given.items() if value}


def _message(question: str) -> str:
    """The last user message in the form the GenAI conventions give it."""
    parts = [{"type": "text", "content": question[:_TEXT]}]
    return orjson.dumps([{"role": "user", "parts": parts}]).decode()
