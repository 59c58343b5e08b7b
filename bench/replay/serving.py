"""A gateway as a user starts it, an engine behind it that knows the right answers, and the stream between them.

What was reused is taken from the response's headers, whether it was right from the answer itself. The engine
answers at once, so a stream of hours passes in minutes. Only the embedder's deadline is not the default, so
that what hits does not depend on what else the machine is doing.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientSession, web

from bench.engines import ready
from bench.replay.stream import Count, Stream, answers
from bench.speed import free_port
from gateway.policy.shipped import shipped

CONNECTIONS = 4
DEADLINE = 10.0  # seconds, of an embedding
_SETTLE = 120.0  # seconds that judging may take after the last answer
_NO = (
    "no"  # the judging model's word: it is only asked about answers that differ, and those are of two classes
)


@dataclass(frozen=True, slots=True)
class Setup:
    """A gateway to replay a stream through. `max_error`: in every category, in place of the shipped ones."""

    name: str
    max_error: float | None = None
    trust: Mapping[str, Any] = field(default_factory=dict)
    judge: bool = False  # whether a model says if two answers agree; it is always right


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller saw of one request."""

    decision: str  # as in the headers
    how: str
    category: str
    answered: int  # the group whose answer it got

    @property
    def semantic(self) -> bool:
        return self.decision == "reuse" and self.how == "semantic"


@dataclass(slots=True)
class Replayed:
    """A whole stream, and what the gateway says of it."""

    stream: Stream
    seen: list[Seen] = field(default_factory=list)
    calls: int = 0  # of the engine, those of judged samples and of the judge among them
    trust: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self) -> Count:
        """Requests that joined one in flight are hits on the very text."""
        asked = zip(self.stream.rows, self.stream.groups, self.seen, strict=True)
        wrong = [(row, each.answered) for row, group, each in asked if each.answered != group]
        hits = sum(each.decision in ("reuse", "join") for each in self.seen)
        exact = hits - sum(each.semantic for each in self.seen)
        return Count(len(self.seen), hits, exact, self.calls, Counter(wrong))


async def through(stream: Stream, setup: Setup, folder: Path, cache: Path) -> Replayed:
    """The stream through a gateway of its own, whose files go into `folder`, which is empty."""
    said = answers(stream)
    known = {stream.texts[row]: said[group] for row, group in zip(stream.rows, stream.groups, strict=True)}
    meant = {answer: group for group, answer in said.items()}
    found = Replayed(stream)
    async with engine(known, found) as upstream, ClientSession() as session:
        with gateway(setup, folder, upstream, cache) as (port, admin):
            await asyncio.to_thread(ready, port, "/readyz")
            started = time.monotonic()
            found.seen = await _ask(session, f"http://127.0.0.1:{port}/v1/chat/completions", stream, meant)
            found.seconds = time.monotonic() - started
            found.trust = await _settled(session, f"http://127.0.0.1:{admin}/trust")
    return found


@asynccontextmanager
async def engine(known: Mapping[str, str], found: Replayed) -> AsyncIterator[int]:
    """Its port. It answers the questions in `known` so, says no to a judge's, and counts its calls."""

    async def answer(request: web.Request) -> web.Response:
        found.calls += 1
        asked = (await request.json())["messages"][-1]["content"]
        message = {"role": "assistant", "content": known.get(asked, _NO)}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body["usage"] = {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80}
        return web.json_response(body)

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
def gateway(setup: Setup, folder: Path, upstream: int, cache: Path) -> Iterator[tuple[int, int]]:
    """`semantic-gateway serve` in a process of its own: its data port and its admin port."""
    port, admin = free_port(), free_port()
    backends = [{"url": f"http://127.0.0.1:{upstream}/v1"}]
    config = {
        "listen": {"port": port},
        "admin": {"port": admin},
        "models": [{"name": "m", "backends": backends}, {"name": "judge", "backends": backends}],
        "store": {"path": str(folder / "gateway.db")},
        "policies": str(_policies(folder, setup.max_error)),
        "embedder": {"cache": str(cache / "models"), "deadline": DEADLINE},
        "trust": dict(setup.trust),
        "judge": {"model": "judge"} if setup.judge else {},
        "log": {"level": "error"},
    }
    file = folder / "gateway.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")
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


async def _ask(session: ClientSession, url: str, stream: Stream, meant: Mapping[str, int]) -> list[Seen]:
    """Every question of the stream in its order, a few at once."""
    seen: dict[int, Seen] = {}
    waiting = iter(enumerate(stream.rows))

    async def connection() -> None:
        for at, row in waiting:
            seen[at] = await _one(session, url, stream.texts[row], meant)

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return [seen[at] for at in range(len(stream.rows))]


async def _one(session: ClientSession, url: str, question: str, meant: Mapping[str, int]) -> Seen:
    body = {"model": "m", "messages": [{"role": "user", "content": question}]}
    async with session.post(url, json=body, headers={"Authorization": "Bearer bench"}) as got:
        told = await got.json()
        if got.status != 200:
            raise SystemExit(f"a request failed: {told}")
        decision, how, category = (
            got.headers.get(f"x-gateway-{name}", "") for name in ("decision", "how", "category")
        )
        return Seen(decision, how, category, meant[told["choices"][0]["message"]["content"]])


async def _settled(session: ClientSession, url: str) -> dict[str, Any]:
    """What the admin API says of trust when no sample is being judged any more."""
    before: dict[str, Any] = {}
    deadline = time.monotonic() + _SETTLE
    while time.monotonic() < deadline:
        async with session.get(url) as got:
            now: dict[str, Any] = await got.json()
        if now["in_progress"] == 0 and now == before:
            return now
        before = now
        await asyncio.sleep(0.5)
    raise SystemExit("samples are still being judged")
