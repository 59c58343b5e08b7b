"""The sentence-transformers embedder: exported once into a cache folder, then ONNX Runtime alone.

Decides which runtime serves and when to export. Never mixes vectors: `name` changes with weights and runtime.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from gateway.embedding.onnx_model import OnnxModel
from gateway.embedding.torch_model import TorchModel
from gateway.embedding.weights import Weights, locate
from gateway.errors import EmbedderFailed
from gateway.interfaces import Vector

Runtime = Literal["onnx-int8", "onnx", "torch"]
EXPORTER = 1  # raise when the exporter's output changes: caches and vector names follow
EXPORT_TIMEOUT = 600.0  # seconds
UNEXPORTABLE = 3  # exit status of the exporter
STALE = 3600.0  # seconds after which the draft of a killed export is swept

log = logging.getLogger(__name__)


class SentenceEmbedder:
    """An `Embedder` from a sentence-transformers model: `auto`, a hub name or a folder.

    Raises EmbedderFailed where the model cannot be found, verified, downloaded or loaded.
    """

    def __init__(
        self, model: str = "auto", runtime: Runtime = "onnx-int8", *, cache: Path, threads: int = 1
    ) -> None:
        weights = locate(model)
        exported = None if runtime == "torch" else _onnx(weights, runtime, cache, threads)
        self._model: OnnxModel | TorchModel = exported or _torch(weights, threads)
        self.runtime: Runtime = runtime if exported else "torch"
        self.dim: int = self._model.dim
        self.window: int = self._model.window
        self.name = f"{weights.label}:{weights.digest[:8]}:{self.runtime}"

    def __repr__(self) -> str:
        return f"<SentenceEmbedder {self.name}, {self.dim} dimensions, window {self.window}>"

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, untruncated, special tokens included."""
        return self._model.tokens(texts)

    def encode(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, each row of unit length."""
        return self._model.encode(texts)


def _torch(weights: Weights, threads: int) -> TorchModel:
    try:
        return TorchModel(weights.folder, threads)
    except Exception as error:
        raise EmbedderFailed(f"cannot load {weights.folder}: {type(error).__name__}: {error}") from error


def _onnx(weights: Weights, runtime: Runtime, cache: Path, threads: int) -> OnnxModel | None:
    """The cached graph, exported first if need be; None where the model cannot be exported."""
    folder = cache / f"{weights.label}-{weights.digest[:16]}-{runtime}-v{EXPORTER}"
    if folder.is_dir():
        try:
            return OnnxModel(folder, threads)
        except Exception as error:
            log.warning("embedder cache %s is unreadable, exporting anew: %s", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    try:
        if not _export(weights, runtime, cache, folder):
            return None
        return OnnxModel(folder, threads)
    except EmbedderFailed:
        raise
    except Exception as error:
        raise EmbedderFailed(f"embedder cache {folder}: {type(error).__name__}: {error}") from error


def _export(weights: Weights, runtime: Runtime, cache: Path, folder: Path) -> bool:
    """Export in a process of its own and publish by renaming. False: the model is not exportable."""
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=cache, ignore_cleanup_errors=True) as temporary:
        draft = Path(temporary) / "model"
        draft.mkdir()
        started = time.monotonic()
        status, said = _run_exporter(weights.folder, draft, runtime)
        if status == UNEXPORTABLE:
            log.warning("%s cannot be exported, serving it on torch instead: %s", weights.label, said)
            return False
        if status != 0:
            raise EmbedderFailed(f"exporting {weights.label} failed: {said}")
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / "meta.json").is_file():
                raise
            # Another process published the same graph first; either will do.
        log.info("exported %s for %s in %.1f s", weights.label, runtime, time.monotonic() - started)
    return True


def _run_exporter(folder: Path, draft: Path, runtime: Runtime) -> tuple[int, str]:
    """Exit status and last line of what the exporter said."""
    command = [sys.executable, "-m", "gateway.embedding.export", str(folder.absolute()), str(draft), runtime]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=EXPORT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"no result after {EXPORT_TIMEOUT:.0f} s"
    lines = done.stderr.strip().splitlines()
    return done.returncode, lines[-1] if lines else f"exit status {done.returncode}"


def _sweep(cache: Path) -> None:
    for draft in cache.glob(".draft-*"):
        if time.time() - draft.stat().st_mtime > STALE:
            shutil.rmtree(draft, ignore_errors=True)
