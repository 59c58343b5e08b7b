"""What rooms are made of, from the configuration: adapters, and each room's own terms.

Part of the composition layer: only this file and `gateway.app` name concrete adapters. Nothing is started here.
"""

import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.admin.operators import Token
from gateway.cache.guard import CHECKS, Guard
from gateway.calibration import FLOOR
from gateway.config import (
    AdaptConfig,
    BackendConfig,
    Config,
    ConfigFault,
    EmbedderConfig,
    ModelConfig,
    OffloadConfig,
    OtelConfig,
    Priority,
    StoreConfig,
    TrustConfig,
)
from gateway.config import Limits as ServerLimits
from gateway.embedding.worker import Worker
from gateway.errors import StoreError
from gateway.exchange import Request, Usage
from gateway.index.partitions import Partitions
from gateway.interfaces import DocumentStore, Embedder, Verifier
from gateway.limits.account import Terms as LimitTerms
from gateway.limits.counts import Counts, MemoryCounts
from gateway.limits.money import nanos
from gateway.limits.room import Foreseen, Limits
from gateway.offload.examples import Examples
from gateway.offload.pair import Terms as PairTerms
from gateway.offload.room import Offloading, Tenant
from gateway.patterns import compile_pattern
from gateway.pipeline import Settings
from gateway.policy.book import Book
from gateway.policy.load import LoadTerms
from gateway.policy.policy import Policy
from gateway.proof import LEAST
from gateway.rehearsal import Terms as RehearsalTerms
from gateway.routing.admission import Queue
from gateway.routing.estimate import foreseen
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.health import Health
from gateway.routing.scrape import metrics_url
from gateway.routing.signals import Signals
from gateway.routing.strategies import strategy
from gateway.routing.trip import Terms
from gateway.routing.upstream import Upstream
from gateway.sampling import Terms as SamplingTerms
from gateway.storage.codec import SEALING
from gateway.tenant import Listed, Privacy
from gateway.tracing.trace import SpanExport, Tracer
from gateway.tracing.trace import Terms as TraceTerms
from gateway.trust.room import Terms as TrustTerms
from gateway.trust.room import Trust

_COUNTING = 64  # connections on which tenants' use is counted


def store(config: StoreConfig) -> DocumentStore:
    """Sealed, where there are keys."""
    if not config.encryption_keys:
        return _store(config)
    try:
        from gateway.storage.sealed import SealedStore
    except ImportError as error:
        raise ConfigFault(
            "gateway.yaml", [("store.encryption_keys", 'install "semantic-gateway[encryption]"')]
        ) from error
    return SealedStore(_store(config), config.encryption_keys)


async def open_store(store: DocumentStore, config: StoreConfig) -> None:
    """Raises StoreError, also where it is sealed and there are no keys."""
    await store.open()
    if not config.encryption_keys and await store.get_meta(SEALING) is not None:
        await store.close()
        raise StoreError("the store is sealed, and store.encryption_keys names no key")


def _store(config: StoreConfig) -> DocumentStore:
    match config.kind:
        case "memory":
            from gateway.storage.memory import MemoryStore

            return MemoryStore()
        case "redis":
            from gateway.storage.redis import RedisStore

            return RedisStore(config.url, namespace=config.namespace)
        case "sqlite":
            from gateway.storage.sqlite import SqliteStore

            return SqliteStore(config.path)


def embedder(config: EmbedderConfig) -> Embedder:
    """Runs on the worker's thread: loading may take seconds."""
    if config.kind == "openai":
        from gateway.embedding.openai import OpenAIEmbedder

        return OpenAIEmbedder(config.url, config.model, api_key=config.api_key, window=config.window)
    from gateway.embedding.sentence import SentenceEmbedder

    cache = config.cache or Path.home() / ".cache" / "semantic-gateway"
    return SentenceEmbedder(config.model, config.runtime, cache=cache)


def worker(config: EmbedderConfig, partitions: Partitions) -> Worker:
    return Worker(
        lambda: embedder(config),
        partitions,
        max_batch=config.batch,
        max_queue=config.queue,
        deadline=config.deadline,
    )


def upstream(limits: ServerLimits) -> Upstream:
    return Upstream(
        connections=limits.connections,
        connect=limits.connect_seconds,
        idle=limits.upstream_idle_seconds,
    )


def exporter(config: OtelConfig) -> SpanExport | None:
    """Sends spans to a collector; None where none is named, and then nothing of OpenTelemetry is imported.

    Raises ImportError where the extra `otel` is not installed.
    """
    if not config.endpoint:
        return None
    from gateway.tracing.export import Exporter

    return Exporter(
        config.endpoint,
        config.headers,
        service=config.service,
        attributes=config.attributes,
        certificate=str(config.certificate or ""),
        packed=config.compression == "gzip",
        queue=config.queue,
        seconds=config.seconds,
        timeout=config.timeout,
    )


def tracer(config: OtelConfig, exporter: SpanExport | None) -> Tracer | None:
    if exporter is None:
        return None
    terms = TraceTerms(config.sample, config.parent, config.prompts, config.tenants)
    return Tracer(terms, exporter.put)


def settings(
    config: Config, own_credentials: Callable[[], bool], privacy: Callable[[str], Privacy]
) -> Settings:
    """Of the walk. `own_credentials`: whether callers bring their own keys for the engines."""
    return Settings(
        max_entry_bytes=config.cache.max_entry_bytes,
        shared_stream_bytes=config.cache.shared_stream_bytes,
        zero_usage=config.cache.usage == "zero",
        hit_seconds=config.cache.hit_seconds,
        gate=config.offload.gate,
        privacy=privacy,
        trust_client_key=own_credentials,
    )


def offloading(config: Config, index: Worker, shelf: DocumentStore, fleet: Callable[[], Fleet]) -> Offloading:
    """The room of in-context caching; without pairs it costs nothing."""

    def entry(name: str) -> str | None:
        model = fleet().find(name)
        return None if model is None else model.name

    def seconds(name: str) -> float | None:
        model = fleet().find(name)
        return None if model is None else model.latency.quantile(0.5, time.monotonic())

    room = Offloading(
        Examples(config.offload.examples_bytes),
        index,
        shelf,
        entry=entry,
        load=lambda name: fleet().model(name).pressure(time.monotonic()),
        seconds=seconds,
        busy=lambda name: len(fleet().model(name).queue) > 0,
        role=config.offload.role,
        compare_share=config.offload.compare_share,
    )
    room.configure(pairs(config), offload_tenants(config))
    return room


def trust(config: Config) -> Trust:
    return Trust(config.trust.share or 0.02, config.trust.window)


def verifier(path: Path, embedder: str) -> Verifier:
    """Raises ConfigFault-like GatewayErrors where it cannot be used with these vectors."""
    from gateway.verifier import load

    return load(path, embedder)


def trust_terms(policy: Policy) -> dict[str, TrustTerms]:
    """What the book asks of each category's semantic hits."""
    return {
        category.name: TrustTerms(
            threshold=policy.point(category.name),
            max_error=category.cache.max_error,
            load_max_error=category.load.max_error,
            bound=category.cache.bound,
            uncalibrated=category.cache.uncalibrated,
            floor=FLOOR if policy.statistic(category.name) == "cosine" else LEAST,
            statistic=policy.statistic(category.name),
        )
        for category in policy.book.categories
        if category.cache.mode in ("semantic", "shadow")
    }


def sampling_terms(config: TrustConfig) -> SamplingTerms:
    return SamplingTerms(config.share, config.in_flight, config.per_minute)


def priorities(config: Config) -> dict[str, Priority]:
    return {tenant.name: tenant.priority for tenant in config.tenants}


def pairs(config: Config) -> list[PairTerms]:
    """Which model may be answered for by which; none where offloading is off."""
    models = {model.name: model for model in config.models}

    def prices(model: ModelConfig) -> tuple[float, float]:
        return model.price.input / 1e6, model.price.output / 1e6

    return [
        PairTerms(
            large.name,
            large.offload_to,
            models[large.offload_to].context,
            prices(large),
            prices(models[large.offload_to]),
        )
        for large in config.models
        if large.offload_to is not None and config.offload.enabled
    ]


def rehearsal_terms(config: OffloadConfig) -> RehearsalTerms:
    replay = config.replay
    return RehearsalTerms(config.compare_in_flight, replay.enabled, replay.seconds, replay.of, replay.cutoff)


def offload_tenants(config: Config) -> dict[str, Tenant]:
    return {
        f"t:{t.name}": Tenant(t.offload, t.share_examples, tuple(compile_pattern(p) for p in t.personal))
        for t in config.tenants
    }


def keys(config: Config) -> list[Listed]:
    return [
        Listed(key.key, tenant.name, key.label, math.inf if key.expires is None else _unix(key.expires))
        for tenant in config.tenants
        for key in tenant.listed
    ]


def privacies(config: Config) -> tuple[Privacy, dict[str, Privacy]]:
    """How texts are kept: of everybody, and by tenant's id where one has terms of its own."""

    def terms(isolation: str, days: float | None) -> Privacy:
        return Privacy(isolation == "user", math.inf if days is None else days * 86_400.0)

    cache = config.cache
    own = {
        f"t:{t.name}": terms(t.isolation or cache.isolation, _shorter(t.retention_days, cache.retention_days))
        for t in config.tenants
    }
    return terms(cache.isolation, cache.retention_days), own


def _shorter(one: float | None, other: float | None) -> float | None:
    return min((days for days in (one, other) if days is not None), default=None)


def operators(config: Config) -> list[Token]:
    """Tokens of the admin port."""
    admin = config.admin
    own = [Token("admin", admin.token, "admin")] if admin.token else []
    return own + [
        Token(t.name, t.token, t.role, math.inf if t.expires is None else _unix(t.expires))
        for t in admin.tokens
    ]


def _unix(moment: datetime) -> float:
    """Seconds; a moment that names no zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def counts(config: StoreConfig, store: DocumentStore) -> Counts:
    """Where tenants' use is counted: on the Redis that replicas share, or in this process."""
    if config.kind != "redis":
        return MemoryCounts(store)
    from gateway.storage.redis_counts import RedisCounts
    from gateway.storage.redis_url import client

    def own() -> Any:
        """Connections that are not those of documents."""
        return client(config.url, timeout=1.0, connections=_COUNTING)

    return RedisCounts(own, namespace=config.namespace, connections=_COUNTING)


def limits(counted: Counts, fleet: Callable[[], Fleet]) -> Limits:
    """The room of limits. What a request will cost is foreseen as routing foresees it."""

    def foresee(request: Request | None) -> Foreseen:
        model = None if request is None else fleet().find(request.model)
        if request is None or model is None:
            return Foreseen(0, 0, 0.0)
        prompt, output = foreseen(request, model.name, fleet().lengths)
        if request.uncacheable == "pass-through":  # it may be no generation at all
            output = 0
        return Foreseen(prompt, output, model.cost(Usage(prompt, output)))

    def entry(name: str) -> str | None:
        model = fleet().find(name)
        return None if model is None else model.name

    return Limits(counted, foresee, entry)


def limit_terms(config: Config) -> dict[str, LimitTerms]:
    """By tenant's id; nothing for those that are not limited."""
    terms = {}
    for tenant in config.tenants:
        budget = tenant.budget
        terms[f"t:{tenant.name}"] = LimitTerms(
            requests=tenant.limits.requests_per_minute,
            tokens=tenant.limits.tokens_per_minute,
            in_flight=tenant.limits.in_flight,
            period="month" if budget is None else budget.period,
            soft=None if budget is None or budget.soft is None else nanos(budget.soft),
            hard=None if budget is None or budget.hard is None else nanos(budget.hard),
            models=None if tenant.models is None else frozenset(tenant.models),
        )
    return terms


def models(config: Config) -> list[Model]:
    """The fleet as configured. The mirror of a model is a backend that no strategy sees."""
    routing, draw = config.routing, random.Random()
    return [
        Model(
            model.name,
            tuple(_backend(config, model, i, backend) for i, backend in enumerate(model.backends)),
            model.price.input / 1e6,
            model.price.output / 1e6,
            strategy=strategy(model.strategy, draw) if model.strategy else None,
            fallback=model.fallback,
            queue=Queue(routing.queue.size, routing.queue.seconds),
            mirror=_backend(config, model, "mirror", model.mirror.backend) if model.mirror else None,
            mirror_share=model.mirror.share if model.mirror else 0.0,
        )
        for model in config.models
    ]


def dispatch_terms(config: Config, own_credentials: Callable[[], bool]) -> Terms:
    routing = config.routing
    return Terms(
        retry_share=routing.retry_share,
        first_byte=routing.first_byte_seconds,
        hedge_share=routing.hedge.share,
        hedge_quantile=routing.hedge.quantile,
        own_credentials=own_credentials,
    )


def _backend(config: Config, model: ModelConfig, place: int | str, backend: BackendConfig) -> Backend:
    price, routing = backend.price or model.price, config.routing
    return Backend(
        id=f"{model.name}/{place}" if model.name != "*" else f"any/{place}",
        url=backend.url,
        model=backend.model,
        api_key=backend.api_key,
        weight=backend.weight,
        stream_usage=backend.stream_usage,
        api=model.api,
        price_input=price.input / 1e6,
        price_output=price.output / 1e6,
        region=backend.region,
        max_in_flight=backend.max_in_flight,
        metrics=metrics_url(backend.url, backend.metrics),
        signals=Signals(stale=routing.stale_seconds),
        health=Health(failures=routing.ejection_failures, seconds=routing.ejection_seconds),
    )


def load_terms(config: AdaptConfig) -> LoadTerms:
    return LoadTerms(
        enabled=config.enabled,
        latency_target=config.latency_target,
        queue_target=config.queue_target,
        latency_weight=config.latency_weight,
        x_max=config.x_max,
        smoothing=config.smoothing_seconds,
        hysteresis=config.hysteresis,
        false_hit_limit=config.false_hit_limit,
    )


def policy(book: Book, verifier: Verifier | None = None) -> Policy:
    chosen = CHECKS if book.guard.checks is None else book.guard.checks
    name = "" if verifier is None else verifier.name
    return Policy(book, Guard([name for name in chosen if name not in book.guard.skip]), verifier=name)


def quotas(policy: Policy, capacity: int) -> tuple[dict[str, int], Callable[[str], float]]:
    """Guaranteed bytes per category, and the categories' weights in the eviction score."""
    categories = policy.book.categories
    weights = {c.name: c.cache.priority for c in categories}
    return {c.name: int(c.cache.quota.share * capacity) for c in categories}, lambda name: weights.get(
        name, 1.0
    )
