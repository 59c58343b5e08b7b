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
_BOUNDS = [*(str(bound) for bound in _SECONDS), "+Inf"]
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


class Durations:
    """A histogram of seconds by labels."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._buckets: defaultdict[Labels, list[int]] = defaultdict(lambda: [0] * len(_BOUNDS))
        self._sums: defaultdict[Labels, float] = defaultdict(float)

    def observe(self, labels: Labels, seconds: float) -> None:
        self._buckets[labels][bisect_left(_SECONDS, seconds)] += 1
        self._sums[labels] += seconds

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, counts in self._buckets.items():
            buckets = list(zip(_BOUNDS, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        return family


class Metrics:
    """Counters for finished exchanges, and readings taken from the rooms at scrape time."""

    def __init__(self, readings: Callable[[], Iterable[Reading]]) -> None:
        requests = ("endpoint", "decision", "how", "category", "status")
        self._requests = Counts("gateway_requests_total", "Requests by decision.", requests)
        self._reasons = Counts("gateway_reasons_total", "Why they were decided so.", ("decision", "reason"))
        self._duration = Durations(
            "gen_ai_server_request_duration_seconds", "From head to last byte.", ("decision", "endpoint")
        )
        self._first = Durations(
            "gen_ai_server_time_to_first_token_seconds", "From head to first byte.", ("decision", "endpoint")
        )
        self._step = Durations("gateway_step_seconds", "Time spent in each step.", ("step",))
        self._tokens = Counts(
            "gen_ai_client_token_usage_total", "Tokens engines reported.", ("model", "token_type")
        )
        saved = ("category", "token_type")
        self._saved_tokens = Counts("gateway_saved_tokens_total", "Tokens not generated again.", saved)
        self._saved_cost = Counts("gateway_saved_dollars_total", "Dollars not spent.", ("category",))
        self._readings = readings
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition for one scrape."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything counted, and what the rooms tell of themselves; asked by the registry."""
        for counts in (self._requests, self._reasons, self._tokens, self._saved_tokens, self._saved_cost):
            yield counts.family()
        for durations in (self._duration, self._first, self._step):
            yield durations.family()
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

    def used(self, model: str, prompt: int, completion: int) -> None:
        """Tokens an engine worked on."""
        self._tokens.values[model, "input"] += prompt
        self._tokens.values[model, "output"] += completion

    def saved(self, category: str, prompt: int, completion: int, dollars: float) -> None:
        """Tokens and money a reuse avoided."""
        self._saved_tokens.values[category, "input"] += prompt
        self._saved_tokens.values[category, "output"] += completion
        self._saved_cost.values[category,] += dollars
