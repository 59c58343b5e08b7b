"""A collector of traces as any: a real HTTP server that takes OTLP in protobuf and keeps the spans."""

import gzip
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.harness.loop import LoopThread


class Collector:
    """`spans` are OTLP's own messages; `status` other than 200 makes it fail."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.headers: list[Any] = []
        self.status = 200
        self._loop = LoopThread()
        self.port = int(self._loop.run(self._start()))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, done: Callable[[list[Any]], bool], seconds: float = 10.0) -> list[Any]:
        """The spans, once they are what a test waits for."""
        deadline = time.monotonic() + seconds
        while not done(self.spans):
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.01)
        return list(self.spans)

    def named(self, *names: str) -> dict[str, Any]:
        """Wait for spans of these names; the last of each."""
        self.wait(lambda spans: set(names) <= {span.name for span in spans})
        return {span.name: span for span in self.spans}

    def close(self) -> None:
        self._loop.run(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> int:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return int(self._runner.addresses[0][1])

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        if self.status != 200:
            return web.Response(status=self.status)
        if request.headers.get("Content-Encoding") == "gzip" and raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        self.headers.append(request.headers)
        for part in ExportTraceServiceRequest.FromString(raw).resource_spans:
            self.resources.append({a.key: a.value.string_value for a in part.resource.attributes})
            for scope in part.scope_spans:
                self.spans.extend(scope.spans)
        return web.Response(content_type="application/x-protobuf")


def attributes(span: Any) -> dict[str, Any]:
    """A span's attributes as plain values."""
    return {each.key: _plain(each.value) for each in span.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, kind)
