"""Fixtures shared by all tests: an engine to script, and gateways in front of it."""

import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.embedding.sentence import SentenceEmbedder
from tests.harness import Running, ScriptedBackend

# Files that take longest, by waiting for processes. The first of them exports the model, beside tests without one.
LONG = ("test_end_to_end.py", "test_console.py", "test_replicas.py", "test_workers.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In an order in which no process of a run waits for another one's export, nor long for the last file."""
    modelled = {item.path for item in items if "model_cache" in getattr(item, "fixturenames", ())}

    def turn(item: pytest.Item) -> int:
        if item.path.name in LONG:
            return 0 if item.path.name == LONG[0] else 2
        return 3 if item.path in modelled else 1

    items.sort(key=turn)


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
