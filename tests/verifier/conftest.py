"""One small verifier of counted features, trained once."""

from pathlib import Path

import pytest

from tests.verifier.made import cosines, examples


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gateway.verifier.train import train

    out = tmp_path_factory.mktemp("verifier")
    pairs = examples()
    train(pairs, cosines(pairs), "hashing", out, say=lambda text: None)
    return out
