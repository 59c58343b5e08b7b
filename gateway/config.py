"""`gateway.yaml` as one frozen tree: every default, every bound, and the only place that reads the environment.

Unknown keys are refused, `${NAME}` and `${NAME:-default}` are resolved, relative paths start at the file.
"""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway import keys
from gateway.patterns import compile_pattern

Strategy = Literal[
    "least-completion",
    "two-choices",
    "least-in-flight",
    "weighted",
    "lowest-cost",
    "affinity",
    "rotation",
    "random",
]
Priority = Literal["interactive", "standard", "batch"]
Role = Literal["read", "policy", "admin"]

_SECRET = frozenset(("api_key", "keys", "key", "token", "tokens", "headers", "password", "encryption_keys"))
_TRACES = "/v1/traces"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class ConfigFault(Exception):
    """The configuration cannot be used; `faults` lists every (path, reason)."""

    def __init__(self, source: str, faults: list[tuple[str, str]]) -> None:
        self.source = source
        self.faults = faults
        super().__init__("\n".join(f"{source}: {path}: {reason}" for path, reason in faults))


def is_loopback(host: str) -> bool:
    """Whether a listening address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)


class TokenConfig(_Section):
    name: str = Field(min_length=1, max_length=64)  # as the audit log names it
    token: str = Field(min_length=1)  # itself, or its hash as `keys new` prints it
    role: Role
    expires: datetime | None = None  # UTC where it says nothing else

    @field_validator("token")
    @classmethod
    def _usable(cls, token: str) -> str:
        if keys.is_hash(token):
            keys.read(token)
        return token


class Admin(_Section):
    host: str = "127.0.0.1"
    port: int = Field(8081, ge=0, le=65535)
    token: str = ""  # of the role admin
    tokens: tuple[TokenConfig, ...] = Field((), max_length=100)
    open_metrics: bool = False  # /metrics and probes without a token
    hosts: tuple[str, ...] = ()  # names beside loopback by which browsers may reach the admin port

    @model_validator(mode="after")
    def _token_off_loopback(self) -> "Admin":
        if not self.token and not self.tokens and not is_loopback(self.host):
            raise ValueError("a token is required when the admin port listens off loopback")
        return self


class Price(_Section):
    """Dollars per million tokens."""

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)


class BackendConfig(_Section):
    url: str  # the engine's base URL, as an OpenAI SDK would take it
    model: str | None = None  # the engine's own name for the model
    api_key: str = ""
    weight: float = Field(1.0, gt=0)
    stream_usage: bool = True  # the engine understands stream_options.include_usage
    max_in_flight: int | None = Field(None, ge=1)  # requests; None: learned from rejections and its queue
    price: Price | None = None  # where it differs from the model's
    region: str = ""
    metrics: str = "auto"  # URL of the engine's own metrics; auto: /metrics beside /v1; off

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        return url.rstrip("/")


class MirrorConfig(_Section):
    """A backend that gets a copy of some requests; its answers are read and discarded."""

    backend: BackendConfig
    share: float = Field(0.01, gt=0, le=1)


class ModelConfig(_Section):
    name: str = Field(min_length=1)
    backends: tuple[BackendConfig, ...] = Field(min_length=1)
    api: Literal["openai", "anthropic", "both"] = "openai"  # which its backends and its mirror speak
    price: Price = Price()
    strategy: Strategy | None = None  # None: routing.strategy
    fallback: tuple[str, ...] = ()  # models asked, in this order, when none of its backends can answer
    mirror: MirrorConfig | None = None
    offload_to: str | None = None  # the small model that may answer in its place, given examples
    context: int = Field(8192, ge=256)  # tokens of its window, the answer included


class HedgeConfig(_Section):
    """A second request to another backend when the first is slower than usual, before its first byte."""

    quantile: float = Field(0.95, gt=0.5, lt=1)  # of the model's time to first token
    share: float = Field(0.0, ge=0, le=0.2)  # of the model's requests at most; 0: never


class QueueConfig(_Section):
    """Where requests wait when every backend of their model is full."""

    size: int = Field(1024, ge=0)  # requests, of one model
    seconds: float = Field(30.0, gt=0)  # longest wait, where the caller sets no deadline


class RoutingConfig(_Section):
    strategy: Strategy = "least-completion"
    queue: QueueConfig = QueueConfig()
    hedge: HedgeConfig = HedgeConfig()
    retry_share: float = Field(0.2, ge=0, le=1)  # retries per request over time, refusals not counted
    first_byte_seconds: float = Field(600.0, gt=0)
    ejection_failures: int = Field(5, ge=1)  # in a row
    ejection_seconds: float = Field(10.0, gt=0)  # doubled each time, at most tenfold
    probe_seconds: float = Field(5.0, gt=0)  # between looks at an ejected backend
    scrape_seconds: float = Field(2.0, gt=0)  # between readings of engines' metrics
    stale_seconds: float = Field(6.0, gt=0)  # an older reading is unknown


class AdaptConfig(_Section):
    """How load shapes cache policies: λ = clamp((x - 1) / (x_max - 1), 0, 1), x the weighted load ratio."""

    enabled: bool = True
    latency_target: float | None = Field(
        None, gt=0
    )  # seconds, P95 of whole answers; None: twice the unloaded
    queue_target: float = Field(8.0, gt=0)  # requests waiting a backend
    latency_weight: float = Field(0.5, ge=0, le=1)  # the queue has the rest
    x_max: float = Field(3.0, gt=1)
    smoothing_seconds: float = Field(60.0, gt=0)
    hysteresis: float = Field(0.1, ge=0, lt=1)
    false_hit_limit: float = Field(0.05, gt=0, le=1)  # beyond it a category is frozen at its own policy


class KeyConfig(_Section):
    key: str  # itself, or its hash as `keys new` prints it
    label: str = Field("", max_length=64)
    expires: datetime | None = None  # UTC where it says nothing else


class TenantLimits(_Section):
    """What a tenant may use; None: as much as it likes."""

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    in_flight: int | None = Field(None, ge=1)


class BudgetConfig(_Section):
    """Dollars a period, by the models' prices."""

    period: Literal["day", "month"] = "month"  # UTC
    soft: float | None = Field(None, gt=0, le=1e6)  # beyond it the operator and the caller are told
    hard: float | None = Field(None, gt=0, le=1e6)  # beyond it no engine is asked

    @model_validator(mode="after")
    def _ordered(self) -> "BudgetConfig":
        if self.soft is None and self.hard is None:
            raise ValueError("say soft, hard or both")
        if self.soft is not None and self.hard is not None and self.soft > self.hard:
            raise ValueError("soft is above hard")
        return self


class TenantConfig(_Section):
    name: str = Field(min_length=1, max_length=128)
    keys: tuple[str | KeyConfig, ...] = Field(min_length=1)
    models: tuple[str, ...] | None = Field(None, min_length=1)  # that it may ask for; None: all
    limits: TenantLimits = TenantLimits()
    budget: BudgetConfig | None = None
    priority: Priority = "standard"
    offload: bool = True  # small models may answer
    isolation: Literal["tenant", "user"] | None = None  # None: cache.isolation
    retention_days: float | None = Field(None, gt=0)  # may only shorten cache.retention_days
    share_examples: bool = False  # with other tenants that share theirs
    personal: tuple[str, ...] = ()  # RE2 patterns: a question or answer that one finds becomes no example

    @field_validator("personal")
    @classmethod
    def _compilable(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            compile_pattern(pattern)
        return patterns

    @field_validator("keys")
    @classmethod
    def _usable(cls, listed: tuple[str | KeyConfig, ...]) -> tuple[str | KeyConfig, ...]:
        for each in listed:
            key = each if isinstance(each, str) else each.key
            if not key.strip():
                raise ValueError("a key is empty")
            if keys.is_hash(key):
                keys.read(key)
        return listed

    @property
    def listed(self) -> list[KeyConfig]:
        """Its keys, all in the long form."""
        return [KeyConfig(key=each) if isinstance(each, str) else each for each in self.keys]


class EmbedderConfig(_Section):
    kind: Literal["sentence-transformers", "openai"] = "sentence-transformers"
    model: str = "auto"
    runtime: Literal["onnx-int8", "onnx", "torch"] = "onnx-int8"
    cache: Path | None = None  # where the exported model is kept
    url: str = ""  # kind openai
    api_key: str = ""
    window: int = Field(512, ge=8)  # tokens; kind openai
    batch: int = Field(16, ge=1, le=256)
    queue: int = Field(256, ge=1)
    deadline: float = Field(0.25, gt=0)  # seconds a request waits for its vector


class BookConfig(_Section):
    """Where policies are decided: the folder seeds the store, or is the book."""

    authority: Literal["store", "files"] = "store"
    versions: int = Field(100, ge=2, le=1000)  # of the book that are kept
    audit: int = Field(10_000, ge=1, le=1_000_000)  # records of what operators did that are kept


class StoreConfig(_Section):
    kind: Literal["memory", "sqlite", "redis"] = "sqlite"
    path: Path = Path("data/gateway.db")
    url: str = "redis://127.0.0.1:6379/0"
    namespace: str = "default"
    encryption_keys: tuple[str, ...] = Field((), max_length=10)  # the first one seals, all of them open

    @field_validator("encryption_keys")
    @classmethod
    def _readable(cls, listed: tuple[str, ...]) -> tuple[str, ...]:
        for key in listed:
            keys.sealing(key)
        return listed


class CacheConfig(_Section):
    max_bytes: int = Field(1 << 30, ge=1 << 20)  # documents, vectors and metadata of all categories
    max_entry_bytes: int = Field(1 << 20, ge=1 << 10)
    hot_bytes: int = Field(64 << 20, ge=0)  # documents kept in memory beside the store
    usage: Literal["original", "zero"] = "original"
    isolation: Literal["tenant", "user"] = "tenant"  # an answer is all of a tenant's, or one end user's
    retention_days: float | None = Field(None, gt=0)  # then nothing of a text is kept, whatever policies say
    cache_control: bool = True  # honour the standard Cache-Control request header
    shared_stream_bytes: int = Field(1 << 20, ge=1 << 10)  # a stream longer than this takes no more followers
    hit_seconds: float = Field(
        0.0, ge=0, le=60
    )  # a hit is answered no sooner, so that its time tells nothing


class ReplayConfig(_Section):
    """Off-peak, the answers of examples that gain most by it are made anew, and the best is kept."""

    enabled: bool = True
    seconds: float = Field(300.0, gt=0)  # between rounds
    of: int = Field(3, ge=1, le=16)  # fresh answers for one example
    cutoff: float = Field(0.0, ge=0)  # dollars of (1 - quality) x cost, below which it does not pay


class OffloadConfig(_Section):
    """Small models that answer in place of large ones (models[].offload_to)."""

    enabled: bool = True
    examples_bytes: int = Field(64 << 20, ge=1 << 16)
    gate: bool = True  # a small model's answer is looked at before it is returned
    compare_share: float = Field(0.01, ge=0, le=1)  # of requests both models answer; unsure ones ten times
    compare_in_flight: int = Field(2, ge=0)  # comparisons at once; 0: none
    role: Literal["system", "user"] = "system"  # who speaks the examples
    replay: ReplayConfig = ReplayConfig()


class VerifierConfig(_Section):
    """The pair classifier behind the guard, as `semantic-gateway verifier train` wrote it."""

    path: Path | None = None  # its folder; None: similarity alone decides


class JudgeConfig(_Section):
    """Who tells whether two answers say the same, for everything that is judged beside the traffic."""

    model: str | None = None  # a listed model; None: their embeddings


class TrustConfig(_Section):
    """Semantic hits that are judged beside the traffic."""

    share: float = Field(
        0.02, ge=0, le=1
    )  # of hits the model is asked about as well; unsure ones more; 0: none
    in_flight: int = Field(2, ge=1)  # asked at once
    per_minute: float = Field(60.0, ge=0)
    window: int = Field(10_000, ge=100)  # look-ups of a category that its operating point is taken from
    labels: Path | None = None  # labelled pairs (JSON lines), as the first content of that window


class Limits(_Section):
    body: int = Field(32 << 20, ge=1 << 10)
    in_flight: int = Field(4096, ge=1)  # requests in progress; beyond it 503
    body_seconds: float = Field(60.0, gt=0)
    idle_seconds: float = Field(75.0, gt=0)  # connection without a whole request head
    connect_seconds: float = Field(5.0, gt=0)
    upstream_idle_seconds: float = Field(600.0, gt=0)  # without a byte from the engine
    client_write_seconds: float = Field(60.0, gt=0)
    drain_seconds: float = Field(30.0, gt=0)
    connections: int = Field(1024, ge=1)  # to one backend
    feedback_ids: int = Field(100_000, ge=1)


class LogConfig(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: bool = False  # write question texts into the log
    tenants: bool = True  # and tenants' names


class OtelConfig(_Section):
    """Traces to a collector, as OTLP over HTTP; off without an endpoint. Unset keys follow OTEL_* variables."""

    endpoint: str = ""  # full URL of the traces' path, or a base URL
    headers: dict[str, str] = {}  # sent with every export
    service: str = "semantic-gateway"
    attributes: dict[str, str] = {}  # of the resource
    sample: float = Field(1.0, ge=0, le=1)  # of requests that come without a trace
    parent: bool = True  # a caller's sampled flag decides, where there is one
    prompts: bool = False  # questions in spans
    tenants: bool = True  # tenants' names in spans
    certificate: Path | None = None  # of the authorities the collector's is held against; None: the system's
    compression: Literal["none", "gzip"] = "none"
    queue: int = Field(2048, ge=1)  # requests whose spans may wait
    seconds: float = Field(1.0, gt=0)  # between exports
    timeout: float = Field(10.0, gt=0)  # seconds one try of an export may take

    @field_validator("endpoint")
    @classmethod
    def _traces_path(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        return url if parts.path.strip("/") else url.rstrip("/") + _TRACES


class Config(_Section):
    listen: Listen = Listen()
    admin: Admin = Admin()
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    tenants: tuple[TenantConfig, ...] = ()
    embedder: EmbedderConfig = EmbedderConfig()
    store: StoreConfig = StoreConfig()
    policies: Path | None = None  # None: the shipped book
    book: BookConfig = BookConfig()
    cache: CacheConfig = CacheConfig()
    routing: RoutingConfig = RoutingConfig()
    adapt: AdaptConfig = AdaptConfig()
    offload: OffloadConfig = OffloadConfig()
    verifier: VerifierConfig = VerifierConfig()
    trust: TrustConfig = TrustConfig()
    judge: JudgeConfig = JudgeConfig()
    limits: Limits = Limits()
    log: LogConfig = LogConfig()
    otel: OtelConfig = OtelConfig()

    def secrets(self) -> set[str]:
        """Whatever must not be told: keys, tokens, passwords in URLs."""
        return set(_secrets(self.model_dump()))

    @model_validator(mode="after")
    def _unique(self) -> "Config":
        _refuse_repeats("models", [m.name for m in self.models])
        _refuse_repeats("admin.tokens", ["admin", *(t.name for t in self.admin.tokens)])
        unknown = {name for m in self.models for name in m.fallback} - {m.name for m in self.models}
        if unknown:
            raise ValueError(f"models: fallback names no listed model: {', '.join(sorted(unknown))}")
        self._check_offload({m.name for m in self.models})
        _refuse_repeats("tenants", [t.name for t in self.tenants])
        listed = [each.key for t in self.tenants for each in t.listed]
        known = [keys.read(key).id if keys.is_hash(key) else key for key in listed]
        _refuse_repeats("tenants.keys", known, secret=True)
        names = {m.name for m in self.models}
        allowed = {name for t in self.tenants for name in t.models or ()}
        if "*" not in names and allowed - names:
            raise ValueError(f"tenants.models names no listed model: {', '.join(sorted(allowed - names))}")
        return self

    def _check_offload(self, names: set[str]) -> None:
        small = {m.name: m.offload_to for m in self.models if m.offload_to is not None}
        for name, to in small.items():
            if to not in names or to == "*":
                raise ValueError(f"models: offload_to names no listed model: {to}")
            if to == name:
                raise ValueError(f"models: {name} cannot be offloaded to itself")
        if self.judge.model is not None and self.judge.model not in names:
            raise ValueError(f"judge.model names no listed model: {self.judge.model}")


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read, resolve and validate a configuration file.

    Raises:
        ConfigFault: with the file, and every path and reason in it.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigFault(str(path), [("", error.strerror or str(error))]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigFault(str(path), [("", str(error))]) from error
    if not isinstance(tree, dict):
        raise ConfigFault(str(path), [("", "must be a mapping")])
    return build(tree, environ, source=str(path), base=path.resolve().parent)


def build(
    tree: dict[str, Any],
    environ: Mapping[str, str] = os.environ,
    *,
    source: str = "config",
    base: Path | None = None,
) -> Config:
    """Validate a configuration given as plain data; relative paths start at `base`."""
    faults: list[tuple[str, str]] = []
    resolved = _resolve(tree, environ, "", faults)
    if faults:
        raise ConfigFault(source, faults)
    told = _otel(environ)
    if told and isinstance(resolved.get("otel", {}), dict):
        resolved["otel"] = {**told, **resolved.get("otel", {})}
    try:
        config = Config.model_validate(resolved)
    except ValidationError as error:
        raise ConfigFault(
            source, [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        ) from error
    return _anchor(config, base or Path.cwd())


def _otel(environ: Mapping[str, str]) -> dict[str, Any]:
    """What OpenTelemetry's own variables say of traces; OTLP over HTTP is the only protocol spoken here."""

    def of(name: str, default: str = "") -> str:
        return environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or environ.get(
            f"OTEL_EXPORTER_OTLP_{name}", default
        )

    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp" or of("PROTOCOL").startswith("grpc"):
        return {}
    told: dict[str, Any] = {}
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (base and base.rstrip("/") + _TRACES)
    if endpoint:
        told["endpoint"] = endpoint
    for key in ("certificate", "compression"):
        if value := of(key.upper()):
            told[key] = value
    if headers := _pairs(of("HEADERS")):
        told["headers"] = headers
    if attributes := _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        told["attributes"] = attributes
    if name := environ.get("OTEL_SERVICE_NAME") or attributes.get("service.name"):
        told["service"] = name
    sampler = environ.get("OTEL_TRACES_SAMPLER", "")
    kind = sampler.removeprefix("parentbased_")
    if kind in ("always_on", "always_off", "traceidratio"):
        share = environ.get("OTEL_TRACES_SAMPLER_ARG") or 1.0
        told["sample"] = {"always_on": 1.0, "always_off": 0.0}.get(kind, share)
        told["parent"] = sampler != kind
    return told


def _pairs(text: str) -> dict[str, str]:
    """`a=1,b=2`, percent-encoded, as the variables have lists."""
    items = (item.partition("=") for item in text.split(",") if "=" in item)
    return {name.strip(): unquote(value.strip()) for name, _, value in items}


def _secrets(value: Any, *, secret: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _secrets(inner, secret=secret or name in _SECRET)
    elif isinstance(value, list | tuple):
        for inner in value:  # objects in a list of keys name their own secrets
            yield from _secrets(inner, secret=secret and not isinstance(inner, dict))
    elif isinstance(value, str) and secret:
        yield value
    elif isinstance(value, str) and "://" in value and "@" in value:
        password = urlsplit(value).password
        yield from (password, unquote(password)) if password else ()


def _resolve(value: Any, environ: Mapping[str, str], path: str, faults: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {k: _resolve(v, environ, f"{path}.{k}".strip("."), faults) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, environ, f"{path}.{i}", faults) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = environ.get(name) or default
        if found is None:
            faults.append((path, f"environment variable {name} is not set"))
            return ""
        return found

    return _REFERENCE.sub(lookup, value)


def _anchor(config: Config, base: Path) -> Config:
    """Relative paths start at the configuration file's folder."""
    store = config.store.model_copy(update={"path": base / config.store.path})
    update: dict[str, Any] = {"store": store}
    if config.policies is not None:
        update["policies"] = base / config.policies
    if config.verifier.path is not None:
        update["verifier"] = config.verifier.model_copy(update={"path": base / config.verifier.path})
    if config.trust.labels is not None:
        update["trust"] = config.trust.model_copy(update={"labels": base / config.trust.labels})
    if config.embedder.cache is not None:
        update["embedder"] = config.embedder.model_copy(update={"cache": base / config.embedder.cache})
    return config.model_copy(update=update)


def _refuse_repeats(what: str, names: list[str], *, secret: bool = False) -> None:
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{what}: listed twice" + ("" if secret else f": {', '.join(sorted(repeated))}"))
