"""`semantic-gateway doctor`: tries every part for real and says in words what works and what does not.

For the failure that hides best: a cache that never engages, and nobody notices.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import aiohttp

from gateway import build
from gateway.cache.guard import CHECKS
from gateway.config import Config
from gateway.policy.folder import load_folder
from gateway.policy.shipped import shipped
from gateway.routing.headers import credentials

_PAIR = ("How do I reverse a list in Python?", "How can I reverse a list in Python?")


async def examine(config: Config) -> int:
    """Print one line a part; returns 0 when all work."""
    parts: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("policies", lambda: _policies(config.policies or shipped())),
        ("store", lambda: _store(config)),
        ("embedder", lambda: asyncio.to_thread(_embedder, config)),
    ]
    for model in config.models:
        for backend in model.backends:
            parts.append(
                (f"backend {backend.url}", partial(_backend, backend.url, backend.api_key, model.api))
            )
    failed = 0
    for name, probe in parts:
        try:
            print(f"ok    {name}: {await probe()}")
        except Exception as error:
            failed += 1
            print(f"FAIL  {name}: {error}")
    return 1 if failed else 0


async def _policies(folder: Path) -> str:
    book = load_folder(folder, frozenset(CHECKS))
    off = [c.name for c in book.categories if c.cache.mode != "semantic"]
    return (
        f"{len(book.categories)} categories in {folder}; without semantic reuse: {', '.join(off) or 'none'}"
    )


async def _store(config: Config) -> str:
    store = build.store(config.store)
    await store.open()
    try:
        started, entries = time.perf_counter(), 0
        async for batch in store.scan():
            entries += len(batch)
        return f"{config.store.kind}, {entries} entries read in {time.perf_counter() - started:.2f} s"
    finally:
        await store.close()


def _embedder(config: Config) -> str:
    embedder = build.embedder(config.embedder)
    vectors = embedder.encode(list(_PAIR))
    started = time.perf_counter()
    embedder.encode([_PAIR[0]])
    milliseconds = (time.perf_counter() - started) * 1000
    return f"{embedder.name}, {milliseconds:.1f} ms a query, a paraphrase scores {float(vectors[0] @ vectors[1]):.3f}"


async def _backend(url: str, key: str, api: str) -> str:
    headers = credentials(key, api)
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{url}/models", headers=headers) as response,
    ):
        if response.status >= 400:
            raise RuntimeError(f"answers {response.status} to GET /models")
        listed = await response.json(content_type=None)
        return (
            f"reachable, serves {', '.join(str(m.get('id')) for m in listed.get('data', [])) or 'no models'}"
        )
