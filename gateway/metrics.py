"""What operators see: Prometheus metrics, published from what the rooms count. Nothing is decided here.

Names begin with `gateway_`; where OpenTelemetry's GenAI conventions have a name, it is used beside ours.
Labels are bounded: decisions, categories, configured models and backends; never a key, text or tenant's data.
Counting is plain additions on the event loop; families are made when somebody scrapes.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = tuple(4**power for power in range(14))  # as the GenAI conventions advise
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]
# (name, help, kind, labels, values): values are read when metrics are scraped.
Reading = tuple[str, str, str, Labels, Iterable[tuple[Labels, float]]]


class Counts:
    """A counter by labels."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.values: defaultdict[Labels, float] = defaultdict(float)

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name.removesuffix("_total"), self.text, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Histogram:
    """Values by labels, of seconds unless other bounds are given."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...] = _SECONDS) -> None:
        self.name, self.text, self.labels, self._bounds = name, text, labels, bounds
        self._names = [*(str(bound) for bound in bounds), "+Inf"]
        self._buckets: defaultdict[Labels, list[int]] = defaultdict(lambda: [0] * len(self._names))
        self._sums: defaultdict[Labels, float] = defaultdict(float)

    def observe(self, labels: Labels, value: float) -> None:
        self._buckets[labels][bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, counts in self._buckets.items():
            buckets = list(zip(self._names, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        return family


class Metrics:
    """Counters for finished exchanges, and readings taken from the rooms at scrape time."""

    def __init__(self, readings: Callable[[], Iterable[Reading]]) -> None:
        requests = ("endpoint", "decision", "how", "category", "status")
        self._requests = Counts("gateway_requests_total", "Requests by decision.", requests)
        self._reasons = Counts("gateway_reasons_total", "Why they were decided so.", ("decision", "reason"))
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "From head to last byte.", ("decision", "endpoint")
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "From head to first byte.", ("decision", "endpoint")
        )
        self._step = Histogram("gateway_step_seconds", "Time spent in each step.", ("step",))
        asked = ("gen_ai_operation_name", "gen_ai_request_model")
        self._calls = Histogram(
            "gen_ai_client_operation_duration_seconds", "Calls of engines.", (*asked, "error_type")
        )
        self._chunks = Histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds", "Streams' first bytes.", asked
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage", "Tokens of a call, as engines reported them.",
            ("gen_ai_request_model", "gen_ai_token_type"), _TOKENS,
        )  # fmt: skip
        saved = ("category", "token_type")
        self._saved_tokens = Counts("gateway_saved_tokens_total", "Tokens not generated again.", saved)
        self._saved_seconds = Counts(
            "gateway_saved_seconds_total", "Engine seconds not spent.", ("category",)
        )
        self._saved_cost = Counts("gateway_saved_dollars_total", "Dollars not spent.", ("category",))
        self._readings = readings
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition for one scrape."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything counted, and what the rooms tell of themselves; asked by the registry."""
        saved = (self._saved_tokens, self._saved_cost, self._saved_seconds)
        for counts in (self._requests, self._reasons, *saved):
            yield counts.family()
        asked = (self._calls, self._chunks, self._tokens)
        for histogram in (self._duration, self._first, self._step, *asked):
            yield histogram.family()
        for name, text, kind, labels, values in self._readings():
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(name, text, labels=labels)
            for label_values, value in values:
                metric.add_metric(label_values, value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """Nothing to tell before the first scrape."""
        return iter(())

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
        self._requests.values[endpoint, decision, how, category, str(status)] += 1
        self._reasons.values[decision, reason] += 1
        labels = (decision, endpoint)
        self._duration.observe(labels, seconds)
        self._first.observe(labels, first)

    def step(self, name: str, seconds: float) -> None:
        self._step.observe((name,), seconds)

    def called(self, operation: str, model: str, seconds: float, first: float | None, error: str) -> None:
        """One call of an engine is over. `first`: seconds to the first byte of a stream; `error`: empty if none."""
        self._calls.observe((operation, model, error), seconds)
        self._step.observe(("upstream",), seconds)
        if first is not None:
            self._chunks.observe((operation, model), first)

    def used(self, model: str, prompt: int, completion: int) -> None:
        """Tokens an engine worked on."""
        self._tokens.observe((model, "input"), prompt)
        self._tokens.observe((model, "output"), completion)

    def saved(self, category: str, prompt: int, completion: int, dollars: float, seconds: float) -> None:
        """Tokens, money and an engine's time that a reuse avoided."""
        self._saved_tokens.values[category, "input"] += prompt
        self._saved_tokens.values[category, "output"] += completion
        self._saved_cost.values[category,] += dollars
        self._saved_seconds.values[category,] += seconds
