"""Which folder a name means, its digest, and a hub that is not there."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.embedding import weights
from gateway.embedding.weights import locate
from gateway.errors import EmbedderFailed


def model_folder(root: Path) -> Path:
    (root / "1_Pooling").mkdir(parents=True)
    (root / "onnx").mkdir()
    (root / "model.safetensors").write_bytes(b"weights")
    (root / "config.json").write_text("{}")
    (root / "1_Pooling" / "config.json").write_text("{}")
    (root / "README.md").write_text("read me")
    (root / "onnx" / "config.json").write_text("{}")
    return root


def test_auto_is_the_bundled_package() -> None:
    found = locate("auto")
    assert found.label == "all-MiniLM-L6-v2"
    assert (found.folder / "model.safetensors").is_file()


def test_bundled_weights_of_another_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BUNDLED_SHA256", "0" * 64)
    with pytest.raises(EmbedderFailed, match="53aa51172d142c89"):
        locate("auto")


def test_the_digest_follows_what_shapes_vectors_and_only_that(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "my-model")
    before = locate(str(folder))
    assert before.label == "my-model"
    (folder / "README.md").write_text("changed")
    (folder / "onnx" / "config.json").write_text("changed")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights as a pickle")
    assert locate(str(folder)).digest == before.digest
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    after = locate(str(folder)).digest
    assert after != before.digest
    (folder / "model.safetensors").write_bytes(b"other")
    assert locate(str(folder)).digest not in (before.digest, after)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused(tmp_path: Path, missing: str) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / missing).unlink()
    with pytest.raises(EmbedderFailed, match="no complete"):
        locate(str(folder))


@pytest.mark.parametrize("silent", [True, False])
def test_a_hub_that_is_not_there_is_a_clear_and_quick_failure(tmp_path: Path, silent: bool) -> None:
    code = (
        "from gateway.embedding import weights; from gateway.errors import EmbedderFailed\n"
        "weights.HUB_TIMEOUT = 0.5\n"
        "try: weights.locate('nobody/no-such-model')\n"
        "except EmbedderFailed as error: print(error)"
    )
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        if silent:
            hub.listen()  # takes connections, never answers
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
        }
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=Path(weights.__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert "cannot get nobody/no-such-model from the hub" in run.stdout
    assert "'bundled' extra" in run.stdout
    assert time.monotonic() - started < 20
