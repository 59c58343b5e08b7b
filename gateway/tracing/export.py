"""Finished spans on their way to a collector: a bounded queue, and a thread that sends what waits (OTLP over HTTP).

The only room that imports OpenTelemetry, and only where tracing is on. It must never hold up the event loop:
what the queue has no place for is dropped and counted, and a collector that fails costs its spans alone.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gateway.tracing.trace import Span, Trace

log = logging.getLogger("gateway.tracing")
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("semantic-gateway")
_BATCH = 32  # requests in one export: what is encoded at once keeps the interpreter from the event loop


class Exporter:
    """Takes finished spans and sends them, from a thread of its own.

    Args:
        endpoint: full URL, `/v1/traces` included.
        queue: requests whose spans may wait.
        seconds: between exports, unless a batch is full before.
        timeout: seconds that one export may take, its retries included.
    """

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        service: str,
        attributes: Mapping[str, str],
        queue: int,
        seconds: float,
        timeout: float,
    ) -> None:
        self.counts: Counter[str] = Counter(sent=0, dropped=0, failed=0)  # spans, by outcome
        self._resource = Resource.create({"service.name": service, **attributes})
        self._exporter: SpanExporter = OTLPSpanExporter(endpoint, headers=dict(headers), timeout=timeout)
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
        self._exporter.shutdown()

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
        epoch = time.time_ns() - time.perf_counter_ns()
        spans: list[ReadableSpan] = []
        try:
            for trace, noted in batch:
                spans += (self._span(trace, span, epoch) for span in noted)
                time.sleep(0)  # the event loop first
            sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("spans cannot be sent")
            sent = False
        self.counts["sent" if sent else "failed"] += sum(len(noted) for _, noted in batch)
        if sent == self._failing:
            self._failing = not sent
            log.warning("traces are sent again" if sent else "traces are not sent: the collector fails")

    def _span(self, trace: Trace, span: Span, epoch: int) -> ReadableSpan:
        state = TraceState.from_header([trace.state]) if trace.state else None

        def context(id: int, *, remote: bool = False) -> SpanContext:
            return SpanContext(trace.id, id, remote, _SAMPLED, state)

        links = []
        if span.link is not None:
            links = [Link(SpanContext(*span.link, is_remote=False, trace_flags=_SAMPLED))]
        return ReadableSpan(
            span.name,
            context(span.id),
            context(span.parent, remote=span.kind == "server") if span.parent else None,
            self._resource,
            span.attributes,
            links=links,
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
            start_time=epoch + int(span.started * 1e9),
            end_time=epoch + int(span.ended * 1e9),
            instrumentation_scope=_SCOPE,
        )
