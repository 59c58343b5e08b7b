"""A trained verifier's folder: model.npz, verifier.json and, with a cross-encoder, cross.onnx and tokenizer.json.

Reads nothing that could run code: no pickles. A folder that is not whole, or was changed, is refused.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway.errors import Invalid
from gateway.verifier.cross import GRAPH, TOKENIZER, CrossEncoder
from gateway.verifier.features import BUCKETS, NAMES, Rarity
from gateway.verifier.linear import Linear
from gateway.verifier.trained import FEATURES, Trained
from gateway.verifier.trees import Trees

FORMAT = 1
ABOUT, MODEL = "verifier.json", "model.npz"


def load(path: Path, embedder: str) -> Trained:
    """The verifier in a folder, for vectors of the embedder of that name. Raises Invalid."""
    try:
        about = orjson.loads((path / ABOUT).read_bytes())
        if about["format"] != FORMAT or about["features"] != list(FEATURES):
            raise Invalid(f"verifier {path}: of another version, train it anew")
        if about["embedder"] != embedder:
            raise Invalid(f"verifier {path}: trained for {about['embedder']}, not for {embedder}")
        files = digests(path, bool(about["cross_encoder"]))
        if files != about["files"] or named(files) != about["name"]:
            raise Invalid(f"verifier {path}: files are not those that training wrote")
        return _read(path, about)
    except Invalid:
        raise
    except Exception as error:  # whatever a broken file makes numpy, onnxruntime or tokenizers raise
        raise Invalid(f"verifier {path}: unreadable ({type(error).__name__}: {error})") from error


def _read(path: Path, about: dict[str, Any]) -> Trained:
    with np.load(path / MODEL, allow_pickle=False) as arrays:
        counts = arrays["counts"]
        trees, early = Trees.of(arrays, "trees"), Linear.of(arrays, "early")
        late = Linear.of(arrays, "late") if about["cross_encoder"] else None
        rarity = Rarity(counts, int(arrays["texts"]))
    if (len(counts), len(early.weight)) != (BUCKETS, 1) or (late and len(late.weight) != 3):
        raise ValueError("arrays of other sizes")
    if trees.feature.min() < 0 or trees.feature.max() >= len(NAMES):
        raise ValueError("trees of other features")
    cross = CrossEncoder(path) if late else None
    return Trained(about["name"], about["embedder"], rarity, trees, early, late, cross, float(about["least"]))


def digests(path: Path, cross: bool) -> dict[str, str]:
    """sha256 of each file of a verifier, hex."""
    names = (MODEL, GRAPH, TOKENIZER) if cross else (MODEL,)
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names}


def named(files: dict[str, str]) -> str:
    """A verifier's name: the hash of what it is made of."""
    return hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
