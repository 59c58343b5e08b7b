"""A trained verifier: cheap features first, the cross-encoder only where they leave it open.

Says how probably two texts ask the same; whether that is enough is the policy's. Deterministic, symmetric, each
candidate for itself. Its folder is plain data, nothing in it is ever executed; one that is torn, altered, of another
version or of another embedder is refused.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.cache.guard import Guard
from gateway.errors import Invalid
from gateway.interfaces import Vector
from gateway.verifier.cross import GRAPH, TOKENIZER, CrossEncoder
from gateway.verifier.features import NAMES, features
from gateway.verifier.trees import Trees
from gateway.verifier.words import Words

FORMAT = 2
ABOUT, MODEL = "verifier.json", "model.npz"
ASKED = (
    0.5  # cheap probability from which the cross-encoder is asked: below it, hardly a word of its makes a hit
)
Array = NDArray[np.float64]


class Trained:
    """Implements `interfaces.Verifier`.

    Args:
        trees: asked with the features of a pair.
        cheap: intercept and weight that make their logit a probability.
        joint: intercept and weights of their logit and the cross-encoder's; None, as `cross`, where there is none.
    """

    def __init__(
        self,
        name: str,
        embedder: str,
        words: Words,
        trees: Trees,
        cheap: Sequence[float],
        joint: Sequence[float] | None = None,
        cross: CrossEncoder | None = None,
    ) -> None:
        self.name, self.embedder = name, embedder
        self.words, self.trees, self.cross = words, trees, cross
        self._cheap = _weights(cheap, 1)
        self._joint = None if joint is None else _weights(joint, 2)
        self._facts = Guard().facts  # what the guard has read is not read again

    def __repr__(self) -> str:
        kind = "features" if self.cross is None else "features and cross-encoder"
        return f"<Verifier {self.name} for {self.embedder}: {kind}>"

    def scores(self, asked: str, stored: Sequence[str], vector: Vector, vectors: Vector) -> list[float]:
        """The probability that each stored text asks the same, (n,) in [0, 1]. vector (d,), vectors (n, d).

        1 for texts that are the same but for case, white space and compatibility forms.
        """
        if not stored:
            return []
        pairs = [(asked, text) for text in stored]
        cheap = self.logits(pairs, np.asarray(vectors) @ np.asarray(vector))
        scores = self.early(cheap)
        if self.cross is not None:
            open_ = np.flatnonzero(scores >= ASKED)
            scores[open_] = self.late(cheap[open_], self.cross.logits([pairs[int(at)] for at in open_]))
        plain = normal(asked)
        scores[[normal(text) == plain for text in stored]] = 1.0
        return [float(score) for score in np.nan_to_num(scores, nan=0.0)]

    def logits(self, pairs: Sequence[tuple[str, str]], cosines: Any) -> Array:
        """The trees' logit of each pair, (n,)."""
        read = self._facts
        rows = [
            features(self.words, read(a), read(b), float(cosine))
            for (a, b), cosine in zip(pairs, cosines, strict=True)
        ]
        return self.trees.logits(np.array(rows, dtype=np.float32).reshape(len(rows), len(NAMES)))

    def early(self, cheap: Array) -> Array:
        """Probability by the trees' logits alone, (n,)."""
        return probability(self._cheap, cheap)

    def late(self, cheap: Array, cross: Array) -> Array:
        """Probability by both, (n,). Where the cross-encoder could not read the pair, by the trees'."""
        if self._joint is None:
            return self.early(cheap)
        return np.where(np.isnan(cross), self.early(cheap), probability(self._joint, cheap, cross))


def probability(weights: Sequence[float], *logits: Array) -> Array:
    """Logistic regression: intercept and a weight for each of some logits (n,)."""
    base, *slopes = weights
    together = base + sum(slope * logit for slope, logit in zip(slopes, logits, strict=True))
    found: Array = 1.0 / (1.0 + np.exp(-np.clip(together, -30.0, 30.0)))
    return found


def normal(text: str) -> str:
    """Compatibility form, folded case, single spaces: texts that differ in nothing else are equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def save(folder: Path, about: Mapping[str, Any], words: Words, trees: Trees) -> None:
    """model.npz, then verifier.json, which makes the folder whole, beside what is there already."""
    np.savez_compressed(folder / MODEL, **words.arrays(), **trees.arrays())
    files = _digests(folder, "joint" in about)
    full = {"format": FORMAT, "name": _named(files), **about, "features": NAMES, "files": files}
    (folder / ABOUT).write_bytes(orjson.dumps(full, option=orjson.OPT_INDENT_2))


def load(folder: Path, embedder: str) -> Trained:
    """The verifier in a folder, for vectors of the embedder of that name. Raises Invalid."""
    try:
        about = orjson.loads((folder / ABOUT).read_bytes())
        if about["format"] != FORMAT or about["features"] != list(NAMES):
            raise Invalid(f"verifier {folder}: of another version, train it anew")
        if about["embedder"] != embedder:
            raise Invalid(f"verifier {folder}: trained for {about['embedder']}, not for {embedder}")
        files = _digests(folder, "joint" in about)
        if files != about["files"] or _named(files) != about["name"]:
            raise Invalid(f"verifier {folder}: files are not those that training wrote")
        return _read(folder, about)
    except Invalid:
        raise
    except Exception as error:  # whatever a broken file makes numpy, onnxruntime or tokenizers raise
        raise Invalid(f"verifier {folder}: unreadable ({type(error).__name__}: {error})") from error


def _read(folder: Path, about: Mapping[str, Any]) -> Trained:
    with np.load(folder / MODEL, allow_pickle=False) as arrays:
        words, trees = Words.of(arrays), Trees.of(arrays, len(NAMES))
    cross = CrossEncoder(folder) if "joint" in about else None
    return Trained(about["name"], about["embedder"], words, trees, about["cheap"], about.get("joint"), cross)


def _digests(folder: Path, cross: bool) -> dict[str, str]:
    """sha256 of each file of a verifier, hex."""
    names = (MODEL, GRAPH, TOKENIZER) if cross else (MODEL,)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _named(files: Mapping[str, str]) -> str:
    """A verifier's name: the hash of what it is made of."""
    return hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _weights(found: Sequence[float], slopes: int) -> tuple[float, ...]:
    weights = tuple(map(float, found))
    if len(weights) != slopes + 1 or not np.isfinite(weights).all():
        raise ValueError("weights of no use")
    return weights
