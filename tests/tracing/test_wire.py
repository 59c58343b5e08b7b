"""Traces as a collector gets them: a real gateway, a real engine, OTLP over the wire."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.harness import Running, ScriptedBackend
from tests.harness.backend import Seen
from tests.harness.collector import Collector, attributes

Start = Callable[..., Running]
ROOT = Path(__file__).resolve().parent.parent.parent
TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
QUESTION = "How do I reverse a list in Python?"


def traced(start: Start, collector: Collector, tree: dict[str, Any] | None = None, **otel: Any) -> Running:
    return start({"otel": {"endpoint": collector.url, "seconds": 0.02, **otel}, **(tree or {})})


def metric(gateway: Running, line: str) -> float:
    found = re.search(
        rf"^{re.escape(line)} (\S+)$", gateway.http.get(f"{gateway.admin}/metrics").text, re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def test_one_trace_runs_from_the_client_through_the_gateway_to_the_engine(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    gateway = traced(start, collector, headers={"x-team": "search"}, service="edge", attributes={"zone": "a"})
    gateway.ask(QUESTION, traceparent=f"00-{TRACE}-{ABOVE}-01", tracestate="v=1")
    spans = collector.named(
        "chat m", "parse", "exact", "embed", "search", "guard", "decide", "store", "chat *"
    )
    server, attempt = spans["chat m"], spans["chat *"]
    assert server.trace_id.hex() == TRACE
    assert server.parent_span_id.hex() == ABOVE
    assert server.trace_state == "v=1"
    assert {s.trace_id.hex() for s in collector.spans} == {TRACE}
    assert {s.parent_span_id for s in collector.spans if s is not server} == {server.span_id}
    sent = backend.seen[0].headers
    assert sent["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert sent["tracestate"] == "v=1"
    assert (server.kind, attempt.kind, spans["embed"].kind) == (2, 3, 1)  # server, client, internal
    assert collector.headers[0]["x-team"] == "search"
    assert collector.resources[0]["service.name"] == "edge"
    assert collector.resources[0]["zone"] == "a"


def test_spans_lie_within_their_request_and_carry_the_genai_conventions(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    gateway = traced(start, collector)
    before = time.time_ns()
    gateway.ask(QUESTION)
    spans = collector.named("chat m", "parse", "decide", "chat *", "store")
    server = spans["chat m"]
    assert before - 50_000_000 < server.start_time_unix_nano < time.time_ns()
    for name in ("parse", "decide", "chat *"):
        span = spans[name]
        assert server.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= server.end_time_unix_nano
    told, asked = attributes(server), attributes(spans["chat *"])
    assert told["gen_ai.operation.name"] == asked["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "m"
    assert told["gen_ai.response.finish_reasons"] == asked["gen_ai.response.finish_reasons"] == ["stop"]
    assert (told["gen_ai.usage.input_tokens"], asked["gen_ai.usage.output_tokens"]) == (7, 3)
    assert told["gateway.decision"] == "forward"
    assert told["gateway.reason"] == "partition-empty"
    assert (asked["server.address"], asked["server.port"]) == ("127.0.0.1", backend.port)
    assert asked["http.response.status_code"] == told["http.response.status_code"] == 200


def test_a_hit_has_no_attempt_and_says_how_it_was_one(collector: Collector, start: Start) -> None:
    gateway = traced(start, collector)
    gateway.ask(QUESTION)
    gateway.settle()
    collector.named("store")
    collector.spans.clear()
    gateway.ask(QUESTION)
    told = attributes(collector.named("chat m")["chat m"])
    assert (told["gateway.decision"], told["gateway.how"]) == ("reuse", "exact")
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["gen_ai.usage.output_tokens"] == 3
    assert {span.name for span in collector.spans} == {"chat m", "parse", "exact"}


def test_a_join_points_at_the_trace_it_joined(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    import threading

    gateway = traced(start, collector)
    backend.delay = 0.3
    first = threading.Thread(target=gateway.ask, args=(QUESTION,))
    first.start()
    deadline = time.monotonic() + 5
    while not backend.calls and time.monotonic() < deadline:
        time.sleep(0.005)
    assert gateway.ask(QUESTION).headers["x-gateway-decision"] == "join"
    first.join()
    spans = collector.named("join", "store", "chat *")
    assert spans["join"].links[0].trace_id == spans["store"].trace_id != spans["join"].trace_id


def test_each_attempt_is_a_span_and_a_failed_one_says_what_failed(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    async def script(seen: Seen) -> web.StreamResponse | None:
        return web.json_response({}, status=503) if seen.number == 1 else None

    backend.script = script
    model = {"name": "m", "backends": [{"url": backend.url}, {"url": f"{backend.url}/.."}]}
    model["backends"][1]["url"] = backend.url.replace("127.0.0.1", "localhost")  # type: ignore[index]
    gateway = traced(start, collector, {"models": [model]})
    gateway.ask(QUESTION)
    spans = collector.wait(lambda spans: sum(s.kind == 3 for s in spans) == 2)
    first, second = sorted((s for s in spans if s.kind == 3), key=lambda s: s.start_time_unix_nano)
    assert (first.status.code, attributes(first)["http.response.status_code"]) == (2, 503)
    assert (second.status.code, attributes(second)["gateway.attempt"]) == (0, 2)
    parents = [seen.headers["traceparent"].split("-")[2] for seen in backend.seen]
    assert parents == [first.span_id.hex(), second.span_id.hex()]


@pytest.mark.parametrize("stream", [False, True])
def test_no_text_is_in_a_span_unless_a_switch_says_so(
    collector: Collector, start: Start, backend: ScriptedBackend, stream: bool
) -> None:
    backend.reply = lambda seen: "MARZIPAN, of course."
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Whose AVOCADO is it?"}]}
    gateway = traced(start, collector)
    for _ in range(2):
        gateway.post("/v1/chat/completions", body)
        gateway.settle()
    collector.wait(lambda spans: sum(s.name == "chat m" for s in spans) == 2)
    assert "AVOCADO" not in str(collector.spans)
    assert "MARZIPAN" not in str(collector.spans)
    assert "test" not in [attributes(s).get("gateway.tenant") for s in collector.spans]


def test_the_switches_for_text_and_tenants(collector: Collector, start: Start) -> None:
    gateway = traced(start, collector, prompts=True, tenants=False)
    gateway.ask("Whose AVOCADO is it?")
    told = attributes(collector.named("chat m")["chat m"])
    assert "AVOCADO" in told["gen_ai.input.messages"]
    assert "gateway.tenant" not in told


def test_the_callers_sampling_is_honoured_and_passed_on(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    gateway = traced(start, collector, sample=0.0)
    gateway.ask("one", traceparent=f"00-{TRACE}-{ABOVE}-00")
    gateway.ask("two")
    gateway.ask("three", traceparent=f"00-{TRACE}-{ABOVE}-01")
    gateway.ask("four", traceparent=f"00-{'0' * 32}-{ABOVE}-01", tracestate="v=1")  # not one that counts
    sent = [seen.headers["traceparent"].split("-") for seen in backend.seen]
    assert [(trace == TRACE, flags) for _, trace, _, flags in sent] == [
        (True, "00"), (False, "00"), (True, "01"), (False, "00"),
    ]  # fmt: skip
    assert "tracestate" not in backend.seen[3].headers
    collector.named("store")
    assert sum(span.name == "chat m" for span in collector.spans) == 1


def test_a_sampled_flag_counts_for_nothing_where_the_operator_says_so(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    gateway = traced(start, collector, sample=0.0, parent=False)
    gateway.ask("one", traceparent=f"00-{TRACE}-{ABOVE}-01")
    assert backend.seen[0].headers["traceparent"].endswith("-00")


def test_a_pass_through_and_a_refusal_are_traced_too(
    collector: Collector, start: Start, backend: ScriptedBackend
) -> None:
    gateway = traced(start, collector)
    gateway.post("/v1/audio/speech", {"model": "m", "input": "x"})
    gateway.post("/v1/chat/completions", {"model": "m"})
    spans = collector.wait(lambda spans: sum(s.kind == 2 for s in spans) == 2)
    told = {attributes(s)["url.path"]: attributes(s) for s in spans if s.kind == 2}
    assert told["/v1/audio/speech"]["gateway.decision"] == "pass"
    assert told["/v1/chat/completions"]["http.response.status_code"] == 400
    assert backend.seen[0].headers["traceparent"].startswith("00-")
    gateway.http.get("/livez")
    time.sleep(0.1)
    assert sum(s.kind == 2 for s in collector.spans) == 2


def test_a_collector_that_fails_costs_its_spans_alone(collector: Collector, start: Start) -> None:
    collector.status = 400
    gateway = traced(start, collector)
    assert gateway.ask(QUESTION).status_code == 200
    deadline = time.monotonic() + 10
    while not metric(gateway, 'gateway_trace_spans_total{outcome="failed"}'):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    collector.status = 200
    gateway.ask("And another thing?")
    collector.named("chat m")


def test_what_the_queue_has_no_place_for_is_dropped_and_counted(collector: Collector, start: Start) -> None:
    gateway = traced(start, collector, queue=1, seconds=60.0)
    for number in range(4):
        gateway.ask(f"Question {number}?")
    gateway.settle()
    assert metric(gateway, 'gateway_trace_spans_total{outcome="dropped"}') > 0
    assert gateway.ask(QUESTION).status_code == 200


def test_bodies_are_packed_where_that_is_wanted(collector: Collector, start: Start) -> None:
    gateway = traced(start, collector, compression="gzip")
    gateway.ask(QUESTION)
    collector.named("chat m", "store")
    assert collector.headers[0]["Content-Encoding"] == "gzip"


def test_what_waits_is_sent_at_the_end(collector: Collector, start: Start, backend: ScriptedBackend) -> None:
    gateway = traced(start, collector, seconds=60.0)
    gateway.ask(QUESTION)
    gateway.settle()
    gateway.run(gateway.app.stop())
    assert "chat m" in {span.name for span in collector.spans}


def test_off_means_that_nothing_is_imported_and_the_callers_header_passes(
    gateway: Running, backend: ScriptedBackend
) -> None:
    code = (
        "import sys, gateway.app, gateway.build; from gateway.config import OtelConfig\n"
        "assert gateway.build.exporter(OtelConfig()) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    gateway.ask(QUESTION, traceparent=f"00-{TRACE}-{ABOVE}-01")
    assert backend.seen[0].headers["traceparent"] == f"00-{TRACE}-{ABOVE}-01"
