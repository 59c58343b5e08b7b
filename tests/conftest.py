"""Fixtures shared by all tests: an engine to script, and gateways in front of it."""

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.embedding.sentence import SentenceEmbedder
from tests.harness import Running, ScriptedBackend


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the exported embedding model lies; exported once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "embedding-model"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        SentenceEmbedder("auto", "onnx-int8", cache=folder)
    return folder


@pytest.fixture
def backend() -> Iterator[ScriptedBackend]:
    engine = ScriptedBackend()
    yield engine
    engine.close()


@pytest.fixture
def start(tmp_path: Path, model_cache: Path, backend: ScriptedBackend) -> Iterator[Callable[..., Running]]:
    """Start gateways in front of the scripted engine; all are stopped at the end of the test."""
    running: list[Running] = []

    def begin(tree: dict[str, Any] | None = None, *, ready: bool = True, **options: Any) -> Running:
        models = {"models": [{"name": "*", "backends": [{"url": backend.url}]}]}
        gateway = Running({**models, **(tree or {})}, tmp_path, model_cache, **options)
        running.append(gateway)
        return gateway.ready() if ready else gateway

    yield begin
    for gateway in running:
        gateway.close()


@pytest.fixture
def gateway(start: Callable[..., Running]) -> Running:
    return start()
