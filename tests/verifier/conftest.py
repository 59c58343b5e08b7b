"""One small verifier of counted features, trained once."""

from pathlib import Path

import pytest

from tests.verifier.made import examples, sides


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gateway.verifier.train import train

    out = tmp_path_factory.mktemp("verifier")
    pairs = examples()
    train(pairs, *sides(pairs), "hashing", out, say=lambda text: None)
    return out
