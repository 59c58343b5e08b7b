"""What rooms count beside requests, read when somebody scrapes: cache, store, embedder, backends, load,
small models.

Reads only; a name here is a line in docs/operations.md.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from gateway import log
from gateway.cache.cache import Cache
from gateway.embedding.worker import Worker
from gateway.limits.money import dollars
from gateway.limits.room import Limits
from gateway.metrics import Labels, Reading
from gateway.offload.pair import Pair
from gateway.offload.room import Offloading
from gateway.pipeline import Pipeline
from gateway.policy.live import LivePolicy
from gateway.policy.load import Adaptation
from gateway.policy.policy import adapt
from gateway.rehearsal import Rehearsal
from gateway.routing.dispatch import Dispatch
from gateway.routing.fleet import Backend, Fleet
from gateway.sampling import Sampling
from gateway.savings import Savings
from gateway.server import Server
from gateway.storage.writer import Writer
from gateway.tenant import Tenants
from gateway.tracing.trace import SpanExport

_TENANTS = 1000  # that have series of their own

Values = list[tuple[Labels, float]]


def by(counts: Mapping[str, float]) -> Values:
    """One label's values."""
    return [((name,), count) for name, count in counts.items()]


def cached(cache: Cache, writer: Writer) -> Iterator[Reading]:
    """What is held, and how the store does."""
    catalog, ledger, label = cache.catalog, cache.catalog.ledger, ("category",)
    names = ledger.categories()
    entries = {name: ledger.count_of(name) for name in names}
    held = {name: ledger.bytes_of(name) for name in names}
    yield "gateway_cache_entries", "Entries.", "gauge", label, by(entries)
    yield "gateway_cache_bytes", "Bytes charged.", "gauge", label, by(held)
    yield "gateway_cache_evicted", "Entries evicted by quota.", "counter", label, by(catalog.evicted)
    yield from _counters(
        ("gateway_cache_expired", "Entries whose lifetime ended.", catalog.expired),
        ("gateway_cache_stored", "Answers stored durably.", cache.stored),
        ("gateway_store_failures", "Store operations that failed.", cache.store_failures),
        ("gateway_store_dropped", "Answers not stored: the write queue was full.", writer.dropped),
    )


def walked(pipeline: Pipeline, worker: Worker, server: Server) -> Iterator[Reading]:
    """The embedder, and the gateway itself."""
    counts = worker.counts
    yield from _counters(
        ("gateway_embedder_texts", "Texts embedded.", counts.texts),
        ("gateway_embedder_batches", "Batches embedded.", counts.batches),
        ("gateway_embedder_failures", "Look-ups the embedder failed on.", counts.failed),
        ("gateway_log_dropped", "Log lines dropped.", log.dropped()),
        ("gateway_internal_errors", "Requests that failed inside the gateway.", server.internal_errors),
    )
    skipped, vetoes = by(pipeline.skipped), by(pipeline.vetoes)
    yield "gateway_semantic_skipped", "Semantic steps skipped.", "counter", ("reason",), skipped
    yield "gateway_guard_vetoes", "Neighbours the guard refused.", "counter", ("check",), vetoes
    yield "gateway_in_flight", "Requests in progress.", "gauge", (), [((), server.in_flight)]
    up = worker.state == "ready"
    yield "gateway_embedder_up", "1 while the embedder runs.", "gauge", (), [((), up)]


def routed(fleet: Fleet, dispatch: Dispatch) -> Iterator[Reading]:
    """Backends, and what it took to get answers from them."""
    now = time.monotonic()
    each: list[tuple[str, str, str, Callable[[Backend], float]]] = [
        ("gateway_backend_in_flight", "Requests at a backend.", "gauge", lambda b: b.in_flight),
        ("gateway_backend_load", "0 idle, 1 at capacity.", "gauge", lambda b: b.pressure(now)),
        ("gateway_backend_requests", "Requests sent.", "counter", lambda b: b.requests),
        ("gateway_backend_failures", "Requests it failed.", "counter", lambda b: b.failures),
        ("gateway_backend_ejections", "Times it was ejected.", "counter", lambda b: b.health.ejections),
        ("gateway_backend_ejected", "1 while ejected.", "gauge", lambda b: b.health.ejected),
        ("gateway_backend_throttled", "1 while left alone at its own wish.", "gauge",
         lambda b: b.health.throttled_until > now),
        ("gateway_backend_draining", "1 while drained.", "gauge", lambda b: b.draining),
    ]  # fmt: skip
    for name, text, kind, value in each:
        yield name, text, kind, ("backend",), [((b.id,), value(b)) for b in fleet.backends]
    hedges = {"sent": dispatch.hedging.sent, "won": dispatch.hedging.won}
    counted: list[tuple[str, str, str, Mapping[str, int]]] = [
        ("gateway_retries", "Further tries, by what went before.", "reason", dispatch.retries),
        ("gateway_fallbacks", "Answers of a fallback model.", "model", dispatch.fallbacks),
        ("gateway_refusals", "Requests that found no place.", "code", dispatch.refusals),
        ("gateway_hedges", "Second requests beside a slow first.", "outcome", hedges),
        ("gateway_mirrored", "Copies to mirrors.", "outcome", dispatch.mirror.counts()),
    ]
    for name, text, what, counts in counted:
        yield name, text, "counter", (what,), by(counts)
    waiting = {m.name: len(m.queue) for m in fleet.models}
    most = {m.name: m.queue.size for m in fleet.models}
    left = {m.name: dispatch.account(m.name).retries.left for m in fleet.models}
    yield "gateway_queue_length", "Requests waiting for a backend.", "gauge", ("model",), by(waiting)
    yield "gateway_queue_limit", "Requests that may wait.", "gauge", ("model",), by(most)
    yield "gateway_retry_budget", "Retries a model may still cause.", "gauge", ("model",), by(left)


def adapted(adaptation: Adaptation, policy: LivePolicy, fleet: Fleet) -> Iterator[Reading]:
    """How load shapes cache policies: thresholds of each category with a semantic step, under each model's load."""
    thresholds = [
        ((category.name, model.name), adapt(category, adaptation.of(model.name).of(category.name))[0])
        for category in policy.current.book.categories
        if category.cache.mode in ("semantic", "shadow")
        for model in fleet.models
    ]
    frozen = {name: float(name in adaptation.frozen) for name in policy.current.names}
    factors, label = by(adaptation.factors), ("model",)
    yield "gateway_load_factor", "How far load relaxes cache policies.", "gauge", label, factors
    text = "Least similarity of a semantic hit."
    yield "gateway_category_threshold", text, "gauge", ("category", "model"), thresholds
    yield "gateway_category_frozen", "1 while load must not relax it.", "gauge", ("category",), by(frozen)


def offloaded(offloading: Offloading, rehearsal: Rehearsal) -> Iterator[Reading]:
    """Small models in the place of large ones, and what is done beside the traffic so that they do better."""
    pairs, label = list(offloading.pairs.values()), ("small",)
    decisions = [((p.terms.small, *key), n) for p in pairs for key, n in p.decisions.items()]
    text = "Requests that a small model might have answered, by what was decided."
    yield "gateway_offload_decisions", text, "counter", ("small", "category", "reason"), decisions
    qualities = [
        ((p.terms.small, bound), p.total().quality()[bound])
        for p in pairs
        for bound in ("low", "mean", "high")
    ]
    text = "Quality of offloaded answers, where judged."
    yield "gateway_offload_quality", text, "gauge", ("small", "bound"), qualities
    each: list[tuple[str, str, str, Callable[[Pair], float]]] = [
        ("gateway_offload_loss", "Quality lost by offloading, per request.", "gauge",
         lambda p: p.router.ledger.rate),
        ("gateway_offload_saved_dollars", "Dollars saved by offloading.", "counter",
         lambda p: max(0.0, p.total().dollars)),
        ("gateway_offload_saved_seconds", "Seconds of the large model saved.", "counter",
         lambda p: p.total().seconds),
    ]  # fmt: skip
    for name, text, kind, value in each:
        yield name, text, kind, label, [((p.terms.small,), value(p)) for p in pairs]
    examples = offloading.examples
    yield "gateway_examples", "Examples kept.", "gauge", (), [((), len(examples))]
    yield "gateway_examples_bytes", "Bytes charged for examples.", "gauge", (), [((), examples.bytes)]
    counted: list[tuple[str, str, str, Mapping[str, int]]] = [
        ("gateway_offload_failures", "Offloading that failed.", "step", offloading.failures),
        ("gateway_comparisons", "Answers of both models compared.", "outcome", rehearsal.comparisons),
        ("gateway_replays", "Examples answered anew.", "outcome", rehearsal.replays),
    ]
    for name, text, what, counts in counted:
        yield name, text, "counter", (what,), by(counts)


def trusted(sampling: Sampling) -> Iterator[Reading]:
    """How often semantic hits are wrong, and what follows from it."""
    reports = sampling.trust.report()
    rates: Values = []
    for name, report in reports.items():
        for tenant, figures in {"*": report.hits, **report.tenants}.items():
            if figures.rate is not None:
                known = (("low", figures.low), ("mean", figures.rate), ("high", figures.high))
                rates += [((name, tenant, bound), value) for bound, value in known]
    text = "Share of semantic hits that were wrong, by judged samples, with its 95 % interval."
    yield "gateway_false_hit_rate", text, "gauge", ("category", "tenant", "bound"), rates
    errors = [((name,), r.error) for name, r in reports.items() if r.error is not None]
    yield "gateway_hit_error", "Wrong hits per semantic look-up.", "gauge", ("category",), errors
    closed = [((name,), float(r.closed is not None)) for name, r in reports.items()]
    text = "1 while a category serves no semantic hits."
    yield "gateway_category_closed", text, "gauge", ("category",), closed
    budgets = [((name,), r.max_error) for name, r in reports.items() if r.max_error is not None]
    yield "gateway_error_budget", "Wrong hits allowed per look-up.", "gauge", ("category",), budgets
    excess = [((name,), r.excess) for name, r in reports.items() if r.max_error is not None]
    text = "Estimated wrong hits beyond the error budget; at the allowance the category closes."
    yield "gateway_error_excess", text, "gauge", ("category",), excess
    judged = [
        ((name, outcome), count)
        for name, r in reports.items()
        for outcome, count in (("wrong", r.hits.wrong), ("right", r.hits.judged - r.hits.wrong))
    ]
    yield "gateway_judged_hits", "Semantic hits judged.", "counter", ("category", "outcome"), judged
    samples, label = by(sampling.samples), ("outcome",)
    yield "gateway_hit_samples", "Hits drawn to be judged, by outcome.", "counter", label, samples
    pairs = len(sampling.negatives)
    yield "gateway_negative_pairs", "Wrong pairs remembered.", "gauge", (), [((), pairs)]
    yield "gateway_trust_failures", "Learning that failed.", "counter", ("step",), by(sampling.failures)


def told(exporter: SpanExport | None, savings: Savings, *, up: bool) -> Iterator[Reading]:
    """The store's state, the ledger's, and spans on their way to a collector."""
    yield "gateway_store_up", "1 while the store takes what is written.", "gauge", (), [((), float(up))]
    yield from _counters(("gateway_savings_failures", "Savings not saved or read.", savings.failures))
    spans = [] if exporter is None else by(exporter.counts)
    yield "gateway_trace_spans", "Spans, by what became of them.", "counter", ("outcome",), spans


def limited(limits: Limits) -> Iterator[Reading]:
    """What tenants use of what they may. One series a configured tenant; beyond a thousand the rest go together."""
    shown = {id: id.removeprefix("t:") for id in list(limits.terms)[:_TENANTS]}

    def summed(counts: Iterable[tuple[Labels, float]]) -> Values:
        sums: dict[Labels, float] = {}
        for (id, *rest), value in counts:
            labels = (shown.get(id, "*"), *rest)
            sums[labels] = sums.get(labels, 0.0) + value
        return list(sums.items())

    label = ("tenant",)
    text = "Requests of limited tenants that were let in."
    yield "gateway_tenant_requests", text, "counter", label, summed(by(limits.admitted))
    refused = ((key, float(count)) for key, count in limits.refused.items())
    yield "gateway_tenant_refused", "Requests refused.", "counter", ("tenant", "reason"), summed(refused)
    yield "gateway_tenant_tokens", "Tokens charged.", "counter", label, summed(by(limits.tokens))
    spent = (((id,), dollars(nanos)) for id, nanos in limits.nanos.items())
    yield "gateway_tenant_dollars", "Dollars charged.", "counter", label, summed(spent)
    budgets = [(shown[id], terms, limits.seen(id)) for id, terms in limits.terms.items() if id in shown]
    known = [(name, terms, seen.spent) for name, terms, seen in budgets if seen is not None]
    left = [((n,), dollars(terms.hard - used)) for n, terms, used in known if terms.hard is not None]
    yield "gateway_tenant_budget_left_dollars", "Dollars left of the hard limit.", "gauge", label, left
    soft = [((n,), float(used > terms.soft)) for n, terms, used in known if terms.soft is not None]
    yield "gateway_tenant_over_soft", "1 while over the soft limit.", "gauge", label, soft
    yield from _counters(
        ("gateway_limits_local", "Requests counted here as the store was away.", limits.counts.local),
        ("gateway_limits_failures", "Times the store could not count.", limits.counts.failures),
    )


async def tenants(tenants: Tenants, limits: Limits, priority: Callable[[str], str]) -> dict[str, Any]:
    """As the admin API tells them; never a key, nor its hash."""
    keys: dict[str, list[dict[str, Any]]] = {}
    for key in tenants.keys:
        told = {"label": key.label, "expires": _date(key.expires), "uses": key.uses, "used": _date(key.used)}
        keys.setdefault(key.tenant, []).append(told)
    states = await limits.state()
    return {
        "tenants": [
            {"name": name, "priority": priority(name), "keys": listed, **states.get(f"t:{name}", {})}
            for name, listed in keys.items()
        ]
    }


def _date(seconds: float) -> str | None:
    if not 0 < seconds < math.inf:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def status(cache: Cache, policy: LivePolicy) -> dict[str, Any]:
    """What is held, as the admin API tells it."""
    catalog, ledger = cache.catalog, cache.catalog.ledger
    names = {c.name for c in policy.book.categories} | set(ledger.categories())
    return {
        "entries": len(catalog),
        "bytes": ledger.used,
        "capacity": ledger.capacity,
        "categories": [
            {
                "name": name,
                "entries": ledger.count_of(name),
                "bytes": ledger.bytes_of(name),
                "guarantee": ledger.guarantee_of(name),
                "evicted": catalog.evicted.get(name, 0),
            }
            for name in sorted(names)
        ],
        "expired": catalog.expired,
        "stored": cache.stored,
        "store_failures": cache.store_failures,
    }


def _counters(*counters: tuple[str, str, float]) -> Iterator[Reading]:
    for name, text, value in counters:
        yield name, text, "counter", (), [((), value)]
