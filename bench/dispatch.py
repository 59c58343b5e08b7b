"""`python -m bench.dispatch`: CPU of one request through the dispatcher, with engines that answer at once in memory.

All of it but sockets: estimate, prompt blocks, choice, lease, time limit, delivery, what is learned.
"""

import asyncio
import time
from random import Random
from typing import Any

import orjson
from multidict import CIMultiDict

from gateway.exchange import Controls, Exchange, Request
from gateway.routing.dispatch import Dispatch
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.mirror import Mirror
from gateway.routing.prefix import blocks
from gateway.routing.strategies import strategy
from gateway.routing.trip import Terms
from gateway.routing.upstream import Sent

ROUNDS, BATCH = 60, 200
ANSWER = b'{"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 50}}'
HEADERS = CIMultiDict({"Content-Type": "application/json"})


class Answer:
    """In place of an Incoming: all there at once."""

    status, headers, ended, size = 200, HEADERS, True, len(ANSWER)

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.chunks = [ANSWER]

    def close(self) -> None:
        pass


class Engines:
    """In place of an Upstream."""

    async def open(self, backend: Backend, *sent: Any, once: bool) -> Any:
        return Answer(backend)

    fetch_json = open


class Nowhere:
    """In place of a Call."""

    backend = fallback = ""
    attempts, usage_added = 0, False

    def begin(self, status: int, headers: Any) -> None:
        pass

    async def feed(self, chunk: bytes) -> None:
        pass


async def measure(backends: int, size: int) -> float:
    """Microseconds of CPU a request, the least of many batches."""
    pool = tuple(Backend(f"m/{i}", "http://e/v1", None, "", 1.0, True) for i in range(backends))
    model = Model("m", pool, 0.0, 0.0)
    engines: Any = Engines()
    dispatch = Dispatch(Fleet([model], strategy("least-completion", Random(1))), engines, Terms(), Mirror())
    request, headers, into = _request(size), CIMultiDict[str](), Nowhere()

    def prepare(model: Model, backend: Backend) -> Sent:
        return Sent(CIMultiDict(), request.raw)

    best = float("inf")
    for _ in range(ROUNDS):
        exchanges = [Exchange("r", headers, tenant="t", request=request) for _ in range(BATCH)]
        began = time.process_time()
        for x in exchanges:
            await dispatch.send(x, model, "POST", "/p", prepare=prepare, into=into, hold=1 << 20)
        best = min(best, (time.process_time() - began) / BATCH)
    return best * 1e6


def _request(size: int) -> Request:
    text = "Be brief and kind. " * (size // 19 + 1)
    fields = {"model": "m", "messages": [{"role": "user", "content": text[:size]}]}
    return Request("chat", orjson.dumps(fields), fields, "m", False, False, "", None, None, Controls())


def main() -> None:
    print("| backends | prompt | CPU a request | of it naming the prompt's blocks |\n|---|---|---|---|")
    for backends in (1, 4, 256):
        for size in (200, 4000, 40_000):
            request = _request(size)
            began = time.process_time()
            for _ in range(BATCH if backends > 1 else 0):
                blocks("chat", request.fields, len(request.raw), "t")
            naming = (time.process_time() - began) / BATCH * 1e6
            whole = asyncio.run(measure(backends, size))
            print(f"| {backends} | {size:,} bytes | {whole:.0f} µs | {naming:.0f} µs |", flush=True)


if __name__ == "__main__":
    main()
