"""Real engines under an open-loop load: time to first token and goodput by strategy, in one run.

    python -m bench.engines [--seconds 45] [--rounds 1] [--rate 0.8]

Two llama.cpp servers with the same small model. The second is kept busy with long generations that do not come
through the gateway, so that only its speed, or what it tells of itself, can give it away. Requests arrive by a
Poisson process, whether or not earlier ones have been answered; every strategy sees the same arrivals and
the same prompts. Strategies take turns, round by round.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.speed import Server, free_port

STRATEGIES = {
    "least-completion": ("least-completion", "auto"),
    "least-completion, told nothing by engines": ("least-completion", "off"),
    "round robin": ("rotation", "off"),
    "random": ("random", "off"),
}
OBJECTIVE = 1.0  # seconds to the first token; an answer that keeps it counts as goodput
_MODEL = "gemma-3-270m"
_SLOTS = 4


@dataclass
class Seen:
    """What clients saw of one strategy."""

    first: list[float] = field(default_factory=list)  # seconds to the first token
    failed: int = 0
    backends: dict[str, int] = field(default_factory=dict)


class Engine:
    """A llama.cpp server in a process of its own."""

    def __init__(self, weights: Path) -> None:
        self.port = free_port()
        command = [
            sys.executable,
            "examples/engine.py",
            "--port",
            str(self.port),
            "--slots",
            "4",
            "--threads",
            "1",
        ]
        self._process = subprocess.Popen(
            [*command, "--weights", str(weights)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def ready(port: int, path: str, seconds: float = 120.0) -> None:
    """Wait until a server says it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("a server did not start")


def start_gateway(folder: Path, engines: list[Engine], strategy: str, metrics: str) -> Server:
    """A gateway of that strategy in front of both engines, its cache left out by every request.

    `metrics`: "off" keeps it from reading the engines' own, as round robin and random are to be blind to load.
    """
    place = Path(tempfile.mkdtemp(dir=folder))
    port = free_port()
    backends = [{"url": f"http://127.0.0.1:{engine.port}/v1", "metrics": metrics} for engine in engines]
    config = {
        "listen": {"port": port},
        "admin": {"port": 0},
        "models": [{"name": _MODEL, "backends": backends}],
        "store": {"kind": "memory"},
        "routing": {"strategy": strategy, "scrape_seconds": 1.0},
    }
    (place / "gateway.yaml").write_text(json.dumps(config))
    return Server("gateway", port, "--config", str(place / "gateway.yaml"))


def _body(number: int, tokens: int) -> dict[str, Any]:
    question = f"Tell me about the number {number} and what it is used for."
    messages = [{"role": "user", "content": question}]
    return {"model": _MODEL, "messages": messages, "max_tokens": tokens, "stream": True, "temperature": 0}


async def _occupy(session: aiohttp.ClientSession, port: int) -> None:
    """One client that generates without end, straight at the engine."""
    for number in range(1_000_000, 2_000_000):
        body = {**_body(number, 400), "ignore_eos": True}
        async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
            await response.read()


async def _ask(session: aiohttp.ClientSession, port: int, body: dict[str, Any], seen: Seen) -> None:
    started = time.perf_counter()
    try:
        async with session.post(
            f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers={"x-gateway-cache": "off"}
        ) as response:
            backend = response.headers.get("x-gateway-backend", "")
            first = await response.content.readany()
            seen.first.append(time.perf_counter() - started)
            seen.backends[backend] = seen.backends.get(backend, 0) + 1
            seen.failed += response.status != 200 or not first
            await response.read()
    except aiohttp.ClientError:
        seen.failed += 1


async def offer(gateway: int, busy: int, rate: float, seconds: float, seed: int, seen: Seen) -> None:
    """One round of arrivals at one gateway, with the second engine kept busy meanwhile."""
    rng = random.Random(seed)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        noise = [asyncio.create_task(_occupy(session, busy)) for _ in range(_SLOTS)]
        await asyncio.sleep(3.0)  # until all its slots are taken, and metrics have been read
        work, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            body = _body(rng.randrange(10**6), rng.choice((8, 16, 32)))
            work.append(asyncio.create_task(_ask(session, gateway, body, seen)))
            await asyncio.sleep(rng.expovariate(rate))
        await asyncio.gather(*work)
        for task in noise:
            task.cancel()
        await asyncio.gather(*noise, return_exceptions=True)


def _row(name: str, seen: Seen, seconds: float) -> str:
    ordered = sorted(seen.first)
    p50, p99 = statistics.median(ordered), ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    good = sum(first <= OBJECTIVE for first in ordered)
    places = ", ".join(f"{count}" for _, count in sorted(seen.backends.items()))
    return (
        f"| {name} | {len(ordered)} | {p50 * 1000:,.0f} ms | {p99 * 1000:,.0f} ms "
        f"| {good / seconds:.2f}/s ({good / len(ordered):.0%}) | {places} | {seen.failed} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.8, help="arrivals a second")
    parser.add_argument(
        "--weights", type=Path, default=Path.home() / ".cache" / "semantic-gateway" / "weights"
    )
    options = parser.parse_args()
    engines = [Engine(options.weights), Engine(options.weights)]
    folder = Path(tempfile.mkdtemp())
    gateways: dict[str, Server] = {}
    try:
        for engine in engines:
            ready(engine.port, "/health")
        gateways = {name: start_gateway(folder, engines, *how) for name, how in STRATEGIES.items()}
        for gateway in gateways.values():
            ready(gateway.port, "/readyz")  # embedders are loaded: the processors are the engines' now
        seen = {name: Seen() for name in STRATEGIES}
        for number in range(options.rounds):
            for name, gateway in gateways.items():
                round_ = offer(
                    gateway.port, engines[1].port, options.rate, options.seconds, number, seen[name]
                )
                asyncio.run(round_)
    finally:
        for server in (*gateways.values(), *engines):
            server.stop()
    print("| strategy | answers | TTFT p50 | TTFT p99 | goodput (TTFT ≤ 1 s) | per backend | failed |")
    print("|---|---|---|---|---|---|---|")
    for name in STRATEGIES:
        print(_row(name, seen[name], options.seconds * options.rounds))


if __name__ == "__main__":
    main()
