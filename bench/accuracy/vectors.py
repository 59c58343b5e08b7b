"""Vectors of many texts, computed once and kept in a folder under the embedder's name."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateway.calibrate import encode
from gateway.interfaces import Embedder, Vector


def vectors(embedder: Embedder, texts: Sequence[str], folder: Path) -> Vector:
    """(n, dim) unit vectors for n texts, read from `folder` if they are there."""
    digest = hashlib.sha256(json.dumps([embedder.name, list(texts)]).encode()).hexdigest()[:16]
    path = folder / f"vectors-{digest}.npy"
    if path.is_file():
        return np.asarray(np.load(path), dtype=np.float32)
    found = encode(embedder, texts)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found
