"""A whole gateway in this process, on a thread and a loop of its own, with real ports."""

import copy
import functools
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx  # the client the OpenAI SDK brings
from openai import OpenAI

from gateway import build as composition
from gateway.app import App
from gateway.config import build
from gateway.policy import folder
from tests.harness.loop import LoopThread

_BOOK = 6  # texts: what a test asks comes in smaller batches


@functools.lru_cache
def _shared(config: Any, load: Any = composition.embedder) -> Any:
    """Gateways of one test process share the loaded model, and what it said of a book: most of them learn the same."""
    embedder = load(config)
    model = embedder.encode
    learned = functools.lru_cache(200)(lambda texts: model(list(texts)))
    embedder.encode = lambda texts: model(texts) if len(texts) < _BOOK else learned(tuple(texts)).copy()
    return embedder


composition.embedder = _shared

_read = functools.lru_cache(200)(folder.parse)
folder.parse = lambda text: copy.deepcopy(_read(text))  # nor is one book read anew for every test

BOOK = """
categories:
  - name: code
    examples: ["How do I reverse a list in Python?", "Write a SQL query that joins two tables",
               "Why does my loop throw an IndexError?", "Fix this JavaScript function"]
    cache: {mode: semantic, threshold: 0.90, ttl: 7d, quota: {share: 0.4}}
  - name: market-data
    examples: ["What is the price of Bitcoin?", "Tesla stock quote right now", "EUR to USD rate today"]
    cache: {mode: exact, threshold: 0.95, ttl: 5m}
  - name: default
    cache: {mode: semantic, threshold: 0.90, ttl: 1d}
"""


# A book with a category that must never be stored, not for a moment.
PRIVATE = BOOK.replace(
    "  - name: default\n",
    """  - name: private
    examples: ["My blood test shows high cholesterol", "Which dose of ibuprofen may I take?",
               "I have chest pain, what should I do?"]
    cache: {mode: none, threshold: 0.99, ttl: 1m}
  - name: default
""",
)


class Running:
    """Start with a configuration's plain data; `client()` is the OpenAI SDK in front of it."""

    def __init__(self, tree: dict[str, Any], folder: Path, cache: Path, book: str = BOOK) -> None:
        policies = folder / "policies"
        policies.mkdir(exist_ok=True)
        (policies / "book.yaml").write_text(book)
        self.policies = policies
        tree = {
            "listen": {"port": 0},
            "admin": {"port": 0},
            "store": {"kind": "memory"},
            "policies": str(policies),
            "log": {"level": "error"},
            "trust": {"share": 0},  # no calls beside those a test makes
            **tree,
        }
        tree["embedder"] = {"cache": str(cache), "deadline": 5.0, **tree.get("embedder", {})}
        self.config = build(tree, {}, base=folder)
        self._tree, self._folder = tree, folder
        self._clients: list[OpenAI] = []
        self._thread = LoopThread()
        self.app = self.run(self._start())
        self.url = f"http://127.0.0.1:{self.app.ports['data']}"
        self.admin = f"http://127.0.0.1:{self.app.ports['admin']}"
        self.http = httpx.Client(base_url=self.url, timeout=30)

    async def _start(self) -> App:
        app = App(self.config, reread=lambda: build(self._tree, {}, base=self._folder))
        await app.start()
        return app

    def run(self, work: Any) -> Any:
        return self._thread.run(work)

    def ready(self, seconds: float = 60.0) -> "Running":
        """Wait until `/readyz` says so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.http.get("/readyz").status_code == 200:
                return self
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.http.get('/readyz').text}")

    def reload(self, new: dict[str, Any]) -> None:
        """SIGHUP, after these parts of the configuration have changed."""
        self._tree = {**self._tree, **new}
        self.run(self.app.reload())

    def client(self, key: str = "test", **options: Any) -> OpenAI:
        return OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=options.pop("max_retries", 0), **options
        )

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """A request as plain HTTP; header names with underscores for dashes."""
        named = {"Authorization": "Bearer test", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self.http.post(path, json=body, headers=named)

    def ask(self, question: str, *, model: str = "m", **headers: str) -> httpx.Response:
        """One user message."""
        body = {"model": model, "messages": [{"role": "user", "content": question}]}
        return self.post("/v1/chat/completions", body, **headers)

    def settle(self, seconds: float = 5.0) -> None:
        """Wait until everything answered so far has been stored."""
        deadline = time.monotonic() + seconds
        while self.app.pipeline._calls or self.app.cache._writing or len(self.app.flights):
            assert time.monotonic() < deadline, "answers are not being stored"
            time.sleep(0.005)
        self.run(self._indexed())

    async def _indexed(self) -> None:
        await self.app.worker.load_many([])  # changes are applied in order: what came before is in the index

    def close(self) -> None:
        """Stop as at SIGTERM; again: nothing."""
        if self.http.is_closed:
            return
        for client in self._clients:
            client.close()
        self.http.close()
        self.run(self.app.stop())
        self._thread.close()
