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
from gateway.verifier.network import Linear, Network
from gateway.verifier.trained import FEATURES, Trained

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
        cheap, close = Network.of(arrays, "cheap"), Network.of(arrays, "close")
        early = Linear.of(arrays, "early")
        late = Linear.of(arrays, "late") if about["cross_encoder"] else None
        rarity = Rarity(counts, int(arrays["texts"]))
    wanted = ((counts, BUCKETS), (cheap.mean, len(NAMES)), (early.weight, 2))
    if any(len(array) != size for array, size in wanted) or (late and len(late.weight) != len(FEATURES)):
        raise ValueError("arrays of other sizes")
    cross = CrossEncoder(path) if late else None
    return Trained(
        about["name"], about["embedder"], rarity, cheap, close, early, late, cross, float(about["least"])
    )


def digests(path: Path, cross: bool) -> dict[str, str]:
    """sha256 of each file of a verifier, hex."""
    names = (MODEL, GRAPH, TOKENIZER) if cross else (MODEL,)
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names}


def named(files: dict[str, str]) -> str:
    """A verifier's name: the hash of what it is made of."""
    return hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
