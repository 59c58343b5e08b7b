"""Finished spans on their way to a collector: a bounded queue, and a thread that sends what waits (OTLP over HTTP).

The only room that imports OpenTelemetry, its wire format alone, and only where tracing is on. Spans are encoded
a few requests at a time, so that the event loop gets the interpreter in between; the SDK's exporter takes five
times the time, in one go. It must never hold up the loop: what the queue has no place for is dropped and counted, and a
collector that fails costs its spans alone.
"""

import gzip
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import urllib3
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp

from gateway.tracing.trace import Span, Trace

log = logging.getLogger("gateway.tracing")
_KINDS = {
    "server": otlp.Span.SPAN_KIND_SERVER,
    "client": otlp.Span.SPAN_KIND_CLIENT,
    "internal": otlp.Span.SPAN_KIND_INTERNAL,
}
_FAILED = otlp.Status(code=otlp.Status.STATUS_CODE_ERROR)
_BATCH = 256  # requests in one export
_TURN = 4  # requests encoded at once: a quarter of a millisecond
_TRIES = urllib3.Retry(
    total=3, backoff_factor=0.2, backoff_max=2.0, status_forcelist=(429, 502, 503, 504), allowed_methods=None,
    raise_on_status=False,
)  # fmt: skip


class Exporter:
    """Takes finished spans and sends them, from a thread of its own.

    Args:
        endpoint: full URL, `/v1/traces` included.
        certificate: file of the authorities that the collector's certificate is held against; empty: the system's.
        packed: whether bodies are sent as gzip.
        queue: requests whose spans may wait.
        seconds: between exports, unless a batch is full before.
        timeout: seconds that one try may take.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        service: str,
        attributes: Mapping[str, str],
        certificate: str,
        packed: bool,
        queue: int,
        seconds: float,
        timeout: float,
    ) -> None:
        self.counts: Counter[str] = Counter(sent=0, dropped=0, failed=0)  # spans, by outcome
        self._endpoint, self._packed = endpoint, packed
        self._headers = {"Content-Type": "application/x-protobuf", **headers}
        if packed:
            self._headers["Content-Encoding"] = "gzip"
        self._resource = Resource(
            attributes=[_attribute(*each) for each in {**attributes, "service.name": service}.items()]
        )
        self._pool = urllib3.PoolManager(
            maxsize=1, timeout=timeout, retries=_TRIES, ca_certs=certificate or None
        )
        self._limit, self._seconds = queue, seconds
        self._waiting: deque[tuple[Trace, Sequence[Span]]] = deque()
        self._wake, self._stopping = threading.Event(), False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, trace: Trace, spans: Sequence[Span]) -> None:
        """Queue what is over of a request; never waits."""
        if len(self._waiting) >= self._limit:
            self.counts["dropped"] += len(spans)
            return
        self._waiting.append((trace, spans))
        if len(self._waiting) == _BATCH:
            self._wake.set()

    def close(self, seconds: float = 2.0) -> None:
        """Send what waits, within a time, and end the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join(seconds)
        self._pool.clear()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seconds)
            self._wake.clear()
            stopping = self._stopping  # read before the queue: what was put before goes out
            while self._waiting:
                self._export([self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))])
            if stopping:
                return

    def _export(self, batch: Sequence[tuple[Trace, Sequence[Span]]]) -> None:
        try:
            sent = self._sent(self._encoded(batch))
        except Exception:  # of the encoding: a name or a value that nobody thought of
            log.exception("spans cannot be sent")
            sent = False
        self.counts["sent" if sent else "failed"] += sum(len(noted) for _, noted in batch)
        if sent == self._failing:
            self._failing = not sent
            log.warning("traces are sent again" if sent else "traces are not sent: the collector fails")

    def _encoded(self, batch: Sequence[tuple[Trace, Sequence[Span]]]) -> bytes:
        epoch = time.time_ns() - time.perf_counter_ns()
        scope = otlp.ScopeSpans(scope=InstrumentationScope(name="semantic-gateway"))
        for number, (trace, noted) in enumerate(batch):
            scope.spans.extend(_span(trace, span, epoch) for span in noted)
            if number % _TURN == 0:
                time.sleep(0)  # the event loop first
        spans = otlp.ResourceSpans(resource=self._resource, scope_spans=[scope])
        body = ExportTraceServiceRequest(resource_spans=[spans]).SerializeToString()
        return gzip.compress(body, 1) if self._packed else body

    def _sent(self, body: bytes) -> bool:
        try:
            answer = self._pool.request("POST", self._endpoint, body=body, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            log.debug("the collector cannot be reached: %s", error)
            return False
        return answer.status < 300


def _span(trace: Trace, span: Span, epoch: int) -> otlp.Span:
    """As OTLP has it. `epoch`: unix nanoseconds at which the clock of spans was zero."""
    encoded = otlp.Span(
        trace_id=trace.id.to_bytes(16),
        span_id=span.id.to_bytes(8),
        parent_span_id=span.parent.to_bytes(8) if span.parent else b"",
        trace_state=trace.state,
        flags=_flags(span),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=epoch + int(span.started * 1e9),
        end_time_unix_nano=epoch + int(span.ended * 1e9),
        attributes=[_attribute(*each) for each in span.attributes.items()],
        status=_FAILED if span.error else None,
    )
    if span.link is not None:
        id, at = span.link
        encoded.links.add(trace_id=id.to_bytes(16), span_id=at.to_bytes(8), flags=_flags(span))
    return encoded


def _flags(span: Span) -> int:
    """Sampled, and whether the parent is somebody else's."""
    remote = otlp.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    return 1 | remote | (otlp.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK if span.kind == "server" else 0)


def _attribute(name: str, value: Any) -> KeyValue:
    return _text(name, value) if type(value) is str else KeyValue(key=name, value=_value(value))


def _text(name: str, value: str) -> KeyValue:
    return _short(name, value) if len(value) <= 40 else KeyValue(key=name, value=AnyValue(string_value=value))


@lru_cache(4096)
def _short(name: str, value: str) -> KeyValue:
    """Most attributes say the same in most spans."""
    return KeyValue(key=name, value=AnyValue(string_value=value))


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, list | tuple):
        return AnyValue(array_value=ArrayValue(values=[_value(each) for each in value]))
    return AnyValue(string_value=str(value))
