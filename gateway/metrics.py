"""What operators see: Prometheus metrics, published from what the rooms count. Nothing is decided here.

Names begin with `gateway_`; where OpenTelemetry's GenAI conventions have a name, it is used beside ours.
Labels are bounded: decisions, categories, configured models and backends; never a key, text or tenant's data.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# (name, help, kind, labels, values): values are read when metrics are scraped.
Reading = tuple[str, str, str, tuple[str, ...], Iterable[tuple[tuple[str, ...], float]]]


class Metrics:
    """Counters for finished exchanges, and readings taken from the rooms at scrape time."""

    def __init__(self, readings: Callable[[], Iterable[Reading]]) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._requests = Counter(
            "gateway_requests_total",
            "Requests by decision.",
            ("endpoint", "decision", "how", "category", "status"),
            registry=r,
        )
        self._reasons = Counter(
            "gateway_reasons_total",
            "Why requests were decided as they were.",
            ("decision", "reason"),
            registry=r,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request's head to the last byte of its answer.",
            ("decision", "endpoint"),
            buckets=_SECONDS,
            registry=r,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request's head to the first byte of its answer.",
            ("decision", "endpoint"),
            buckets=_SECONDS,
            registry=r,
        )
        self._step = Histogram(
            "gateway_step_seconds", "Time spent in each step.", ("step",), buckets=_SECONDS, registry=r
        )
        self._tokens = Counter(
            "gen_ai_client_token_usage_total", "Tokens engines reported.", ("model", "token_type"), registry=r
        )
        self._saved_tokens = Counter(
            "gateway_saved_tokens_total",
            "Tokens not generated again.",
            ("category", "token_type"),
            registry=r,
        )
        self._saved_cost = Counter(
            "gateway_saved_dollars_total",
            "Dollars not spent, by the models' prices.",
            ("category",),
            registry=r,
        )
        self._children: dict[tuple[Any, ...], Any] = {}
        self.registry.register(_Readings(readings))

    def render(self) -> bytes:
        """The exposition for one scrape."""
        return generate_latest(self.registry)

    def finished(
        self,
        endpoint: str,
        decision: str,
        how: str,
        category: str,
        status: int,
        reason: str,
        seconds: float,
        first: float,
    ) -> None:
        """Count one finished exchange."""
        self._child(self._requests, endpoint, decision, how, category, str(status)).inc()
        self._child(self._reasons, decision, reason).inc()
        self._child(self._duration, decision, endpoint).observe(seconds)
        self._child(self._first, decision, endpoint).observe(first)

    def step(self, name: str, seconds: float) -> None:
        self._child(self._step, name).observe(seconds)

    def used(self, model: str, prompt: int, completion: int) -> None:
        """Tokens an engine worked on."""
        self._child(self._tokens, model, "input").inc(prompt)
        self._child(self._tokens, model, "output").inc(completion)

    def saved(self, category: str, prompt: int, completion: int, dollars: float) -> None:
        """Tokens and money a reuse or join avoided."""
        self._child(self._saved_tokens, category, "input").inc(prompt)
        self._child(self._saved_tokens, category, "output").inc(completion)
        self._child(self._saved_cost, category).inc(dollars)

    def _child(self, metric: Any, *labels: str) -> Any:
        """Label children are resolved once: `labels()` locks and allocates."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child


class _Readings:
    """Publishes the rooms' plain integers at scrape time."""

    def __init__(self, readings: Callable[[], Iterable[Reading]]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, labels, values in self._readings():
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(name, text, labels=labels)
            for label_values, value in values:
                metric.add_metric(label_values, value)
            yield metric
