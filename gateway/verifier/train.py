"""Trains a verifier from labelled pairs and writes its folder. Only the training command imports this.

The pairs are cut by connected group: most teach trees and cross-encoder, some weigh what those say, and the
rest, seen by neither, tells how good the whole became. What is written last, verifier.json, makes the folder whole.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway.errors import Invalid
from gateway.interfaces import Vector
from gateway.verifier.cross import CrossEncoder
from gateway.verifier.features import Array, Rarity, compare
from gateway.verifier.files import ABOUT, FORMAT, MODEL, digests, named
from gateway.verifier.linear import weigh
from gateway.verifier.split import groups, place
from gateway.verifier.trained import FEATURES, evidence
from gateway.verifier.trees import grow

SEED = "verifier"
TAUGHT, WEIGHED = 0.85, 0.95  # shares of groups that teach, and that teach or weigh
FEWEST = 20  # pairs of each label in each part
LOST = 0.005  # share of clear duplicates that the cross-encoder may not get to see
CROSS_OF = "cross.json"  # which pairs the cross-encoder in the folder was taught
Example = tuple[str, str, bool]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What the held pairs say. AUC: how often a duplicate scores above a non-duplicate."""

    pairs: int
    duplicates: int
    held: int
    auc_cosine: float
    auc_features: float
    auc: float
    calibration_error: float  # mean distance of probability and share of duplicates, over ten bins


def train(
    examples: Sequence[Example],
    left: Vector,
    right: Vector,
    embedder: str,
    out: Path,
    say: Say,
    encoder: Path | None = None,
    minutes: float = 60.0,
    epochs: float = 2.0,
) -> Report:
    """Learn from n examples with the vectors (n, d) of either side, by the `embedder` of that name; write `out`.

    encoder: a sentence encoder's folder, to make a cross-encoder of within `minutes`; None: features only.
    A cross-encoder in `out` that was taught these very pairs is taken as it is.
    Raises Invalid where there are too few pairs.
    """
    part = _parts(examples)
    duplicate = np.array([example[2] for example in examples], dtype=np.bool_)
    taught, weighed, held = (part == at for at in range(3))
    for mine in (taught, weighed, held):
        if min(int(duplicate[mine].sum()), int((~duplicate[mine]).sum())) < FEWEST:
            raise Invalid(f"too few pairs: each part needs {FEWEST} of either label, about 1,000 in all")
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    cross = encoder and _cross_encoder(_chosen(examples, taught), encoder, out, say, minutes, epochs)

    rarity = Rarity.learn(sorted({text for a, b, _ in _chosen(examples, taught) for text in (a, b)}))
    counted = _counted(examples, left, right, rarity)
    say(f"features: trees grow from {int(taught.sum())} pairs")
    trees = grow(counted[taught], duplicate[taught])
    hints = trees.logits(counted)
    early = weigh(hints[weighed, None], duplicate[weighed])
    scores, arrays, least = early.probability(hints[:, None]), early.arrays("early"), 0.0
    features_auc = auc(scores[held], duplicate[held])
    if cross:
        say(f"cross-encoder: reads {int((~taught).sum())} pairs it was not taught")
        read = np.zeros(len(examples), dtype=np.float32)
        read[~taught] = cross.logits([(a, b) for a, b, _ in _chosen(examples, ~taught)])
        seen = evidence(counted, hints, read)
        late = weigh(seen[weighed], duplicate[weighed])
        clear = weighed & duplicate & (late.probability(seen) >= 0.5)
        least = float(np.quantile(scores[clear], LOST)) if clear.any() else 0.0
        scores = np.where(scores >= least, late.probability(seen), scores)
        arrays |= late.arrays("late")
    arrays |= trees.arrays("trees")
    np.savez(out / MODEL, counts=rarity.counts, texts=rarity.texts, **arrays)
    report = Report(
        pairs=len(examples),
        duplicates=int(duplicate.sum()),
        held=int(held.sum()),
        auc_cosine=auc(counted[held, 0], duplicate[held]),
        auc_features=features_auc,
        auc=auc(scores[held], duplicate[held]),
        calibration_error=_calibration_error(scores[held], duplicate[held]),
    )
    _describe(out, embedder, digest(examples), report, least, bool(cross))
    return report


def _describe(out: Path, embedder: str, pairs: str, report: Report, least: float, cross: bool) -> None:
    files = digests(out, cross)
    about = {
        "format": FORMAT,
        "name": named(files),
        "embedder": embedder,
        "pairs": pairs,
        "cross_encoder": cross,
        "least": least,
        "features": FEATURES,
        "report": asdict(report),
        "files": files,
    }
    (out / ABOUT).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))


def digest(examples: Sequence[Example]) -> str:
    """By which it is known what was learned from."""
    return hashlib.sha256(orjson.dumps(examples)).hexdigest()


def _parts(examples: Sequence[Example]) -> Any:
    """(n,): 0 teaches, 1 weighs, 2 is held."""
    group = groups((a, b) for a, b, _ in examples)
    places = np.array([place(group[a], SEED) for a, _, _ in examples])
    return np.searchsorted([TAUGHT, WEIGHED], places, side="right")


def _chosen(examples: Sequence[Example], mask: Any) -> list[Example]:
    return [examples[int(at)] for at in np.flatnonzero(mask)]


def _counted(examples: Sequence[Example], left: Vector, right: Vector, rarity: Rarity) -> Array:
    cosines = np.einsum("ij,ij->i", left, right)
    return np.stack(
        [
            compare(rarity.read(a), rarity.read(b), float(c))
            for (a, b, _), c in zip(examples, cosines, strict=True)
        ]
    )


def _cross_encoder(
    examples: Sequence[Example], encoder: Path, out: Path, say: Say, minutes: float, epochs: float
) -> CrossEncoder:
    of = digest(examples)
    known = out / CROSS_OF
    if known.is_file() and orjson.loads(known.read_bytes()) == {"pairs": of}:
        say("cross-encoder: this folder's was taught these very pairs, and is kept")
        return CrossEncoder(out)
    from gateway.verifier.finetune import export, finetune

    say(f"cross-encoder: learns from {len(examples)} pairs")
    known.unlink(missing_ok=True)
    export(finetune(examples, encoder, epochs, say, minutes), encoder, out)
    known.write_bytes(orjson.dumps({"pairs": of}))
    return CrossEncoder(out)


def auc(scores: Any, duplicate: Any) -> float:
    """The share of (duplicate, non-duplicate) couples in order, ties counting half; 0.5 without couples."""
    positive, negative = scores[duplicate], np.sort(scores[~duplicate])
    if not len(positive) or not len(negative):
        return 0.5
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def _calibration_error(scores: Any, duplicate: Any, bins: int = 10) -> float:
    order = np.array_split(np.argsort(scores), bins)
    gaps: Iterable[float] = (
        abs(float(scores[at].mean()) - float(duplicate[at].mean())) for at in order if len(at)
    )
    return float(np.mean(list(gaps)))
