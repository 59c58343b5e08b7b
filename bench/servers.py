"""The servers a measurement compares, each in a process of its own.

    python -m bench.servers bare | proxy | engine | gateway --port N [--upstream URL] [--config FILE]

`bare` is an aiohttp handler that parses the JSON and returns fixed bytes: what an exact hit is measured
against. `proxy` is a bare aiohttp reverse proxy: what a forward is measured against. `engine` is what both
forward to: a raw socket server that answers at once, so that it is not what is measured. Every one keeps the
longest stall of its event loop, and prints it as JSON when it is told to stop.
"""

import argparse
import asyncio
import io
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import orjson
from aiohttp import ClientSession, TCPConnector, web

ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The capital of France is Paris. " * 20},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 140, "total_tokens": 160},
    }
)


class Stalls:
    """The longest time the loop kept a one-millisecond timer waiting beyond its due."""

    longest = 0.0

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - before - 0.001)

    def reset(self) -> None:
        self.longest = 0.0


async def bare(port: int) -> web.AppRunner:
    async def handle(request: web.Request) -> web.Response:
        orjson.loads(await request.read())
        return web.Response(body=ANSWER, content_type="application/json")

    return await _listen(handle, port)


async def proxy(port: int, upstream: str) -> web.AppRunner:
    session = ClientSession(auto_decompress=False, connector=TCPConnector(limit=0))

    async def handle(request: web.Request) -> web.StreamResponse:
        async with session.post(
            upstream + request.path, data=await request.read(), headers=request.headers
        ) as got:
            response = web.StreamResponse(status=got.status, headers=got.headers)
            await response.prepare(request)
            async for chunk in got.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    return await _listen(handle, port)


async def _listen(handle: object, port: int) -> web.AppRunner:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


class Engine(asyncio.Protocol):
    """Answers every whole request with the same bytes, at once."""

    RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(ANSWER),
        ANSWER,
    )

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(self.RESPONSE)


async def gateway(config: Path) -> object:
    from gateway import log
    from gateway.app import App
    from gateway.config import load

    settings = load(config)
    log.start(settings.log.level, io.StringIO())  # lines are made and written, to nowhere that blocks
    app = App(settings)
    await app.start()
    while not app.readiness()[0]:
        await asyncio.sleep(0.05)
    return app


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("bare", "proxy", "engine", "gateway"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--config", type=Path)
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    if options.what == "engine":
        kept: object = await loop.create_server(Engine, "127.0.0.1", options.port)
    elif options.what == "bare":
        kept = await bare(options.port)
    elif options.what == "proxy":
        kept = await proxy(options.port, options.upstream)
    else:
        kept = await gateway(options.config)
    stalls, stop = Stalls(), asyncio.Event()
    watching = asyncio.create_task(stalls.watch())
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, stalls.reset)
    print("ready", flush=True)
    await stop.wait()
    watching.cancel()
    print(json.dumps({"stall_ms": round(stalls.longest * 1000, 2)}), flush=True)
    del kept
    sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
