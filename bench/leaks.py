"""Many requests of which most are left in the middle: does anything stay behind?

    python -m bench.leaks --requests 10000

A gateway and an engine in this process; clients hang up at random moments, before the answer, within it and
after it. Then tasks, open files, leases and memory are compared with what they were after a first round.
"""

import argparse
import asyncio
import gc
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

_AT_ONCE = 64
_LONGEST = 0.06  # seconds a client waits at most


@dataclass(frozen=True)
class Held:
    """What a gateway holds when nothing is in progress."""

    tasks: int
    files: int
    leases: int
    requests: int
    megabytes: float

    def excess(self, before: "Held") -> "Held":
        return Held(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))


def held(tasks: int, leases: int, requests: int) -> Held:
    """What this process holds now; memory after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        tasks,
        len(os.listdir("/proc/self/fd")),
        leases,
        requests,
        pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
    )


async def abuse(url: str, requests: int, seed: int) -> dict[str, int]:
    """Send so many requests, hanging up at random; returns how many were left and how many answered."""
    draw, counts = random.Random(seed), {"left": 0, "answered": 0}
    todo = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in todo:
            patience = draw.uniform(0, _LONGEST) if draw.random() < 0.8 else 30.0
            try:
                async with asyncio.timeout(patience):
                    await _ask(session, url, f"{seed} {number}", draw.random() < 0.5)
                counts["answered"] += 1
            except TimeoutError:
                counts["left"] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(_AT_ONCE)))
    return counts


async def _ask(session: aiohttp.ClientSession, url: str, question: str, stream: bool) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": question}], "stream": stream}
    headers = {"Content-Type": "application/json", "x-gateway-cache": "exact"}
    async with session.post(
        f"{url}/v1/chat/completions", data=orjson.dumps(body), headers=headers
    ) as response:
        await response.read()


async def engine() -> tuple[Any, str]:
    """An engine that takes its time, refuses now and then, and breaks off now and then."""
    from aiohttp import web

    draw = random.Random(1)
    whole = orjson.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
            ],
        }
    )

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = await request.json() if request.can_read_body else {}
        await asyncio.sleep(draw.uniform(0, 0.03))
        luck = draw.random()
        if luck < 0.05:
            return web.Response(status=429, body=b"{}")
        if not asked.get("stream"):
            return web.Response(body=whole, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(4):
            await response.write(b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n')
            await asyncio.sleep(0.005)
        if luck < 0.1 and request.transport is not None:
            request.transport.abort()
            return response
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


async def rest(app: Any, seconds: float = 10.0) -> None:
    """Until nothing is in progress, or it is plain that something stays."""
    async with asyncio.timeout(seconds):
        while app.server.in_flight or app.pipeline._calls or any(b.in_flight for b in app.fleet.backends):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)  # closed sockets are taken off the loop


def tally(app: Any) -> Held:
    return held(len(asyncio.all_tasks()), sum(b.in_flight for b in app.fleet.backends), app.server.in_flight)


async def measure(requests: int, cache: Path | None = None) -> dict[str, Any]:
    """The same abuse twice: what the second round leaves beyond the first is a leak."""
    from gateway.app import App
    from gateway.config import build

    engines = [await engine() for _ in range(2)]
    tree = {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "store": {"kind": "memory"},
        "log": {"level": "error"},
        "models": [{"name": "m", "backends": [{"url": url} for _, url in engines]}],
        "cache": {"max_bytes": 1 << 20},  # full after the first round
        "routing": {"hedge": {"share": 0.2}},
        "embedder": {"cache": None if cache is None else str(cache)},
    }
    with tempfile.TemporaryDirectory() as folder:
        app = App(build(tree, {}, base=Path(folder)))
        await app.start()
        while not app.readiness()[0]:
            await asyncio.sleep(0.05)
        url = f"http://127.0.0.1:{app.ports['data']}"
        await abuse(url, max(requests // 4, 500), 1)
        await rest(app)
        before = tally(app)
        counts = await abuse(url, requests, 2)
        await rest(app)
        after = tally(app)
        await app.stop()
    for runner, _ in engines:
        await runner.cleanup()
    return {**counts, "before": before, "after": after, "excess": after.excess(before)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    for name, value in asyncio.run(measure(parser.parse_args().requests)).items():
        print(f"{name:9} {value}")


if __name__ == "__main__":
    main()
