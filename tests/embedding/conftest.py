"""The real bundled model, in a cache of these tests' own."""

import shutil
from pathlib import Path

import pytest

from gateway.embedding.sentence import SentenceEmbedder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Path:
    """A cache folder that holds the int8 export of the bundled model, and nothing else."""
    folder = tmp_path_factory.mktemp("embedder")
    (exported,) = model_cache.glob("all-MiniLM*-onnx-int8-*")
    shutil.copytree(exported, folder / exported.name)
    return folder


@pytest.fixture(scope="session")
def embedder(cache: Path) -> SentenceEmbedder:
    return SentenceEmbedder(cache=cache)
