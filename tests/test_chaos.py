"""Engines are killed, hung, made to fail and restarted under constant load, through a running gateway."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.harness import Running, ScriptedBackend
from tests.harness.engine import EngineProcess

Start = Callable[..., Running]
FIRST_BYTE, EJECTION, PROBE = 1.0, 1.0, 0.5
RATE = 50.0  # requests per second
ROUTING = {
    "strategy": "rotation",  # whoever is available gets requests: what is looked at is who is available
    "first_byte_seconds": FIRST_BYTE,
    "ejection_failures": 3,
    "ejection_seconds": EJECTION,
    "probe_seconds": PROBE,
    "retry_share": 0.2,
    "hedge": {"share": 0.1, "quantile": 0.9},
}


@pytest.fixture
def engines() -> Iterator[list[EngineProcess]]:
    started = [EngineProcess() for _ in range(3)]
    yield [engine.wait() for engine in started]
    for engine in started:
        engine.kill()


@pytest.fixture
def pair() -> Iterator[list[ScriptedBackend]]:
    backends = [ScriptedBackend(), ScriptedBackend()]
    for backend in backends:
        backend.delay = 0.05
    yield backends
    for backend in backends:
        backend.close()


@dataclass
class Load:
    """Constant open-loop load: three whole answers to one stream."""

    url: str
    sent: int = 0
    whole: Counter[int] = field(default_factory=Counter)  # by status
    streams: Counter[str] = field(default_factory=Counter)  # by how they ended
    by_backend: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    async def run(self, until: asyncio.Event) -> None:
        numbers, tasks = itertools.count(1), set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            while not until.is_set():
                self.sent += 1
                task = asyncio.create_task(self._ask(session, next(numbers)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(1 / RATE)
            for task in await asyncio.gather(*tasks, return_exceptions=True):
                assert not isinstance(task, BaseException), repr(task)

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> None:
        stream = number % 4 == 0
        body = {"model": "m", "messages": [{"role": "user", "content": f"{number}"}], "stream": stream}
        headers = {"x-gateway-cache": "off"}
        async with session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            text = await response.text()
            self.by_backend[response.headers.get("x-gateway-backend", "")] += 1
            if not stream:
                self.whole[response.status] += 1
                if response.status != 200:
                    self.failures.append(text)
            elif response.status != 200:
                self.streams[str(response.status)] += 1
            elif text.endswith("data: [DONE]\n\n"):
                self.streams["complete"] += 1
            else:
                told = '"error"' in text.rstrip().rsplit("\n\n", 1)[-1]
                self.streams["error event" if told else "cut in silence"] += 1


async def recovered(load: Load, backend: str, since: float) -> float:
    """Seconds until the backend answers requests again."""
    before = load.by_backend[backend]
    while load.by_backend[backend] < before + 3:
        assert time.monotonic() - since < 20, f"{backend} never came back"
        await asyncio.sleep(0.02)
    return time.monotonic() - since


async def story(gateway: Running, load: Load, engines: list[EngineProcess]) -> dict[str, float]:
    """One trouble after another, each at one engine, with the others well."""
    took: dict[str, float] = {}
    over = asyncio.Event()
    running = asyncio.create_task(load.run(over))
    await asyncio.sleep(0.5)

    engines[0].kill()
    await asyncio.sleep(0.7)
    engines[0].start()
    await asyncio.to_thread(engines[0].wait)
    took["restart"] = await recovered(load, "m/0", time.monotonic())

    engines[1].hang()
    await asyncio.sleep(2 * FIRST_BYTE)
    engines[1].wake()
    took["hang"] = await recovered(load, "m/1", time.monotonic())

    for place, how in ((2, "error"), (0, "refuse"), (1, "cut"), (2, "trickle")):
        await asyncio.to_thread(engines[place].behave, how)
        await asyncio.sleep(0.8)
        await asyncio.to_thread(engines[place].behave, "well")
        took[how] = await recovered(load, f"m/{place}", time.monotonic())
    over.set()
    await running
    return took


def test_no_whole_answer_fails_while_one_healthy_engine_remains(
    start: Start, engines: list[EngineProcess]
) -> None:
    models = [{"name": "m", "backends": [{"url": engine.url} for engine in engines]}]
    gateway = start({"models": models, "routing": ROUTING})
    load = Load(gateway.url)
    took = asyncio.run(story(gateway, load, engines))

    assert set(load.whole) == {200}, load.failures[:3]
    assert set(load.streams) <= {"complete", "error event"}, "no stream ends in silence, or with a status"
    # From the trouble's end: a probe's interval, the trial, and what was waiting. A refusal named a second.
    assert max(took.values()) < max(PROBE, 1.0) + FIRST_BYTE + 1.0, took

    dispatch = gateway.app.dispatch
    account = dispatch.account("m")
    paid = sum(dispatch.retries[kind] for kind in ("timeout", "broken", "server_error"))
    assert paid + dispatch.hedging.sent == account.retries.spent <= 20 + 0.2 * load.sent
    assert dispatch.hedging.sent <= 0.1 * load.sent
    assert sum(dispatch.retries.values()) > 0
    assert any(b.health.ejections for b in gateway.app.fleet.backends)
    at_rest(gateway)


def at_rest(gateway: Running, seconds: float = 5.0) -> None:
    """Nothing is in flight any more."""
    deadline = time.monotonic() + seconds
    while gateway.app.server.in_flight or any(b.in_flight for b in gateway.app.fleet.backends):
        assert time.monotonic() < deadline, [b.state() for b in gateway.app.fleet.backends]
        time.sleep(0.01)


def test_a_cut_stream_is_not_remembered(start: Start) -> None:
    engine = EngineProcess().wait()
    try:
        gateway = start({"models": [{"name": "m", "backends": [{"url": engine.url}]}]})
        body = {"model": "m", "messages": [{"role": "user", "content": "Tell me"}], "stream": True}
        engine.behave("cut")
        cut = gateway.post("/v1/chat/completions", body)
        assert cut.status_code == 200
        assert '"error"' in cut.text.rstrip().rsplit("\n\n", 1)[-1]
        assert "[DONE]" not in cut.text
        gateway.settle()
        engine.behave("well")
        again = gateway.post("/v1/chat/completions", body)
        assert again.headers["x-gateway-decision"] == "forward"
        assert again.text.endswith("data: [DONE]\n\n")
        at_rest(gateway)
    finally:
        engine.kill()


def test_a_drained_backend_ends_what_it_has_and_gets_nothing_new(
    start: Start, pair: list[ScriptedBackend]
) -> None:
    gateway = start({"models": [{"name": "m", "backends": [{"url": e.url} for e in pair]}]})

    async def drained() -> Load:
        load, over = Load(gateway.url), asyncio.Event()
        running = asyncio.create_task(load.run(over))
        await asyncio.sleep(0.3)
        async with aiohttp.ClientSession(gateway.admin) as admin:
            async with admin.post("/backends/m%2F0/drain") as told:
                assert (await told.json())["draining"] is True
            await asyncio.sleep(0.3)
            before = gateway.app.fleet.backends[0].requests
            await asyncio.sleep(0.3)
            assert gateway.app.fleet.backends[0].requests == before
            assert gateway.app.fleet.backends[0].in_flight == 0
            async with admin.post("/backends/m/0/enable") as told:
                assert (await told.json())["draining"] is False
        await asyncio.sleep(0.3)
        assert gateway.app.fleet.backends[0].requests > before
        over.set()
        await running
        return load

    load = asyncio.run(drained())
    assert set(load.whole) == {200}
    assert set(load.streams) == {"complete"}


def test_a_reload_adds_and_removes_backends_without_dropping_a_request(
    start: Start, pair: list[ScriptedBackend]
) -> None:
    gateway = start({"models": [{"name": "m", "backends": [{"url": pair[0].url}]}]})

    async def reloaded() -> Load:
        load, over = Load(gateway.url), asyncio.Event()
        running = asyncio.create_task(load.run(over))
        for urls in ((pair[0].url, pair[1].url), (pair[1].url,), (pair[0].url,)):
            await asyncio.sleep(0.3)
            models: Any = [{"name": "m", "backends": [{"url": url} for url in urls]}]
            config = gateway.config.model_copy(
                update={"models": type(gateway.config).model_validate({"models": models}).models}
            )
            gateway.app._reread = lambda config=config: config
            await asyncio.to_thread(gateway.run, gateway.app.reload())
        await asyncio.sleep(0.3)
        over.set()
        await running
        return load

    load = asyncio.run(reloaded())
    assert set(load.whole) == {200}
    assert set(load.streams) == {"complete"}
    at_rest(gateway)
