"""`semantic-gateway verifier train`: a verifier for the embedder that serves by default, from a file of pairs."""

from pathlib import Path

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
    report = train(
        [(pair.a, pair.b, pair.duplicate) for pair in labelled],
        left,
        right,
        embedder.name,
        out,
        say=lambda text: print(text, flush=True),
        encoder=locate("auto").folder if cross else None,
        minutes=minutes,
    )
    print(
        f"Of {report.held} held pairs, AUC: similarity {report.auc_cosine:.4f}, features {report.auc_features:.4f}, "
        f"all {report.auc:.4f}. Probabilities are off by {report.calibration_error:.1%} on average.\n"
        f"Written: {out}. Let `semantic-gateway calibrate --verifier {out}` say where it helps."
    )
    return 0
