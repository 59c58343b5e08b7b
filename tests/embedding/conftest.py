"""The real bundled model, exported once a session and process."""

from pathlib import Path

import pytest

from gateway.embedding.sentence import SentenceEmbedder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the int8 export of the bundled model."""
    folder = tmp_path_factory.mktemp("embedder")
    SentenceEmbedder(cache=folder)
    return folder


@pytest.fixture(scope="session")
def embedder(cache: Path) -> SentenceEmbedder:
    return SentenceEmbedder(cache=cache)
