"""`semantic-gateway verifier train`: a verifier for the embedder that serves by default, from a file of pairs."""

from pathlib import Path

import numpy as np

from gateway import build
from gateway.calibrate import read_pairs, sides
from gateway.config import EmbedderConfig
from gateway.embedding.weights import locate


def train_verifier(pairs: Path, out: Path, cross: bool, minutes: float) -> int:
    """Train on `pairs` (JSON lines: a, b, duplicate) into the folder `out`. Returns the exit code."""
    from gateway.verifier.train import train

    labelled = read_pairs(pairs)
    embedder = build.embedder(EmbedderConfig())
    print(f"embedding {len(labelled)} pairs", flush=True)
    left, right = sides(labelled, embedder)
    found = train(
        [(pair.a, pair.b, pair.duplicate) for pair in labelled],
        np.einsum("ij,ij->i", left, right),
        embedder.name,
        out,
        say=lambda text: print(text, flush=True),
        encoder=locate("auto").folder if cross else None,
        minutes=minutes,
    )
    areas = ", ".join(f"{name} {area:.4f}" for name, area in found["auc"].items())
    print(
        f"Of {found['held']} held pairs, AUC: {areas}. Probabilities are off by {found['calibration_error']:.1%} on "
        "average.\n"
        f"Written: {out}. Let `semantic-gateway calibrate --verifier {out}` say where it helps."
    )
    return 0
