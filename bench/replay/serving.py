"""A gateway as a user starts it, an engine that knows the right answers behind it, and the stream between them.

What was reused is taken from the response's headers, whether it was right from the answer itself. The engine
answers at once, so the stream of hours passes in minutes.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientSession, web

from bench.engines import ready
from bench.replay.stream import Stream, answers
from bench.speed import free_port
from gateway.policy.shipped import shipped

CONNECTIONS = 4
MODEL = "bench"
_SETTLE = 60.0  # seconds that judging may take after the last answer


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller saw of one request."""

    decision: str  # as in the headers
    how: str
    reason: str
    category: str
    wrong: bool  # not its class's answer

    @property
    def semantic(self) -> bool:
        return self.decision == "reuse" and self.how == "semantic"

    @property
    def hit(self) -> bool:
        return self.decision in ("reuse", "join")


@dataclass(slots=True)
class Replayed:
    """A whole stream, and what the gateway says of it."""

    seen: list[Seen] = field(default_factory=list)
    calls: int = 0  # that the engine had, those of judged samples among them
    trust: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def through(
    stream: Stream, folder: Path, cache: Path, trust: Mapping[str, Any], max_error: float | None
) -> Replayed:
    """The stream through a gateway of its own. `max_error`: in every category, in place of the shipped ones."""
    return asyncio.run(_through(stream, folder, cache, trust, max_error))


async def _through(
    stream: Stream, folder: Path, cache: Path, trust: Mapping[str, Any], max_error: float | None
) -> Replayed:
    said = answers(stream)
    known = {stream.texts[row]: said[group] for row, group in zip(stream.rows, stream.groups, strict=True)}
    found = Replayed()
    policies = _policies(folder, max_error)
    async with engine(known, found) as upstream, ClientSession() as session:
        with gateway(folder, upstream, cache, policies, trust) as (port, admin):
            await asyncio.to_thread(ready, port, "/readyz")
            started = time.monotonic()
            found.seen = await _ask(session, f"http://127.0.0.1:{port}/v1/chat/completions", stream, known)
            found.seconds = time.monotonic() - started
            found.trust = await _settled(session, f"http://127.0.0.1:{admin}/trust")
    return found


@asynccontextmanager
async def engine(known: Mapping[str, str], found: Replayed) -> AsyncIterator[int]:
    """Its port. It answers every question of `known`, and counts its calls."""

    async def answer(request: web.Request) -> web.Response:
        found.calls += 1
        content = known[(await request.json())["messages"][-1]["content"]]
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL}
        return web.json_response({**body, "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@contextmanager
def gateway(
    folder: Path, upstream: int, cache: Path, policies: Path, trust: Mapping[str, Any]
) -> Iterator[tuple[int, int]]:
    """`semantic-gateway serve` in a process of its own: its data port and its admin port."""
    port, admin = free_port(), free_port()
    config = {
        "listen": {"port": port},
        "admin": {"port": admin},
        "models": [{"name": "*", "backends": [{"url": f"http://127.0.0.1:{upstream}/v1"}]}],
        "store": {"kind": "sqlite", "path": str(folder / "gateway.db")},
        "policies": str(policies),
        "embedder": {"cache": str(cache / "models")},
        "trust": dict(trust),
        "log": {"level": "error"},
    }
    file = folder / "gateway.yaml"
    file.write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", "--config", str(file)], stdout=subprocess.DEVNULL
    )
    try:
        yield port, admin
    finally:
        process.terminate()
        process.wait()


def _policies(folder: Path, max_error: float | None) -> Path:
    """The shipped policies; with `max_error` a copy of them under that budget."""
    if max_error is None:
        return shipped()
    changed = folder / "policies"
    changed.mkdir()
    for file in shipped().glob("*.yaml"):
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        for category in tree.get("categories", ()):
            category["cache"]["max_error"] = max_error
        (changed / file.name).write_text(json.dumps(tree), encoding="utf-8")
    return changed


async def _ask(session: ClientSession, url: str, stream: Stream, known: Mapping[str, str]) -> list[Seen]:
    """Every question of the stream in its order, a few at once."""
    seen: list[Seen | None] = [None] * len(stream.rows)
    waiting = iter(enumerate(stream.rows))

    async def connection() -> None:
        for at, row in waiting:
            seen[at] = await _one(session, url, stream.texts[row], known)

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return [each for each in seen if each is not None]


async def _one(session: ClientSession, url: str, question: str, known: Mapping[str, str]) -> Seen:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
    async with session.post(url, json=body, headers={"Authorization": "Bearer bench"}) as got:
        told = await got.json()
        if got.status != 200:
            raise SystemExit(f"a request failed: {told}")
        told = told["choices"][0]["message"]["content"]
        names = ("decision", "how", "reason", "category")
        return Seen(*(got.headers.get(f"x-gateway-{name}", "") for name in names), told != known[question])


async def _settled(session: ClientSession, url: str) -> dict[str, Any]:
    """What the admin API says of trust when no sample is being judged any more."""
    deadline = time.monotonic() + _SETTLE
    before: Sequence[Any] = ()
    while time.monotonic() < deadline:
        async with session.get(url) as got:
            now: dict[str, Any] = await got.json()
        if now["in_progress"] == 0 and before == (now["samples"], now["judged_by"]):
            return now
        before = (now["samples"], now["judged_by"])
        await asyncio.sleep(0.5)
    raise SystemExit("samples are still being judged")
