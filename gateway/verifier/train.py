"""Trains a verifier from labelled pairs and writes its folder. Only the training command imports this.

The pairs are cut by connected group: most teach trees and cross-encoder; the rest, seen by neither, weigh what the
two say (which also calibrates it, Platt 1999) and tell how good the whole became.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from gateway.cache.guard.facts import Facts
from gateway.errors import Invalid
from gateway.verifier.cross import CrossEncoder
from gateway.verifier.features import features
from gateway.verifier.model import ABOUT, Array, probability, save
from gateway.verifier.split import groups, place
from gateway.verifier.trees import grow
from gateway.verifier.words import Words, learn

HELD = 0.15  # share of groups kept from trees and cross-encoder
FOLDS = 5  # in which the training pairs' own words are learned, so that no pair tells of itself
FEWEST = 20  # pairs of each label in each part
MOST_READ = 40_000  # pairs the cross-encoder is taught: half an hour on two cores
CROSS_OF = "cross.json"  # which pairs the cross-encoder in the folder was taught
Example = tuple[str, str, bool]
Say = Callable[[str], None]


def train(
    examples: Sequence[Example],
    cosines: Any,
    embedder: str,
    out: Path,
    say: Say,
    encoder: Path | None = None,
    minutes: float = 60.0,
    epochs: float = 2.0,
) -> dict[str, Any]:
    """Learn from n examples with the cosines (n,) of their vectors, by the `embedder` of that name; write `out`.

    encoder: a sentence encoder's folder, to make a cross-encoder of within `minutes`; None: features only.
    A cross-encoder in `out` that was taught these very pairs is taken as it is.
    Returns what verifier.json tells of the training. Raises Invalid where there are too few pairs.
    """
    names = groups((a, b) for a, b, _ in examples)
    group = [names[a] for a, _, _ in examples]
    duplicate = np.array([label for _, _, label in examples], dtype=np.bool_)
    held = np.array([place(name, "held") < HELD for name in group], dtype=np.bool_)
    for mine in (held, ~held):
        if min(int(duplicate[mine].sum()), int((~duplicate[mine]).sum())) < FEWEST:
            raise Invalid(f"too few pairs: each part needs {FEWEST} of either label, about 1,000 in all")
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    taught, known = _chosen(examples, ~held), _chosen(examples, held)
    cross = encoder and _cross_encoder(taught, encoder, out, say, minutes, epochs)

    say(f"features: trees grow from {len(taught)} pairs")
    fold = np.array([int(FOLDS * place(name, "fold")) for name in group])
    rows, words = _features(examples, np.asarray(cosines), fold, held)
    trees = grow(rows[~held], duplicate[~held])
    cheap, wanted = trees.logits(rows[held]), duplicate[held]
    about: dict[str, Any] = {
        "embedder": embedder,
        "pairs": len(examples),
        "duplicates": int(duplicate.sum()),
        "held": len(known),
        "learned": digest(examples),
        "cheap": _logistic([cheap], wanted),
    }
    scores = probability(about["cheap"], cheap)
    areas = {"cosine": auc(np.asarray(cosines)[held], wanted), "features": auc(cheap, wanted)}
    if cross:
        say(f"cross-encoder: reads {len(known)} pairs it was not taught")
        read = np.nan_to_num(cross.logits([(a, b) for a, b, _ in known]))
        about["joint"] = _logistic([cheap, read], wanted)
        scores = probability(about["joint"], cheap, read)
        areas |= {"cross-encoder": auc(read, wanted), "all": auc(scores, wanted)}
    about |= {"auc": areas, "calibration_error": _calibration_error(scores, wanted)}
    save(out, about, words, trees)
    return about


def digest(examples: Sequence[Example]) -> str:
    """By which it is known what was learned from."""
    return hashlib.sha256(orjson.dumps(examples)).hexdigest()


def _chosen(examples: Sequence[Example], mask: Any) -> list[Example]:
    return [examples[int(at)] for at in np.flatnonzero(mask)]


def _features(examples: Sequence[Example], cosines: Array, fold: Any, held: Any) -> tuple[Any, Words]:
    """Features of all pairs: a training pair's by words of the other folds, a held pair's by all of training."""
    facts = lru_cache(maxsize=None)(Facts)
    words = learn(_chosen(examples, ~held), facts)
    others = [learn(_chosen(examples, ~held & (fold != number)), facts) for number in range(FOLDS)]
    rows = [
        features(words if is_held else others[number], facts(a), facts(b), float(cosine))
        for (a, b, _), cosine, number, is_held in zip(examples, cosines, fold, held, strict=True)
    ]
    return np.array(rows, dtype=np.float32), words


def _cross_encoder(
    examples: Sequence[Example], encoder: Path, out: Path, say: Say, minutes: float, epochs: float
) -> CrossEncoder:
    """Taught at most MOST_READ of the pairs, the same ones each time."""
    by_hash = sorted(examples, key=lambda pair: place(f"{pair[0]}\n{pair[1]}", "read"))[:MOST_READ]
    of = {"pairs": digest(by_hash)}
    known = out / CROSS_OF
    if known.is_file() and orjson.loads(known.read_bytes()) == of:
        say("cross-encoder: this folder's was taught these very pairs, and is kept")
        return CrossEncoder(out)
    from gateway.verifier.finetune import export, finetune

    say(f"cross-encoder: learns from {len(by_hash)} pairs")
    known.unlink(missing_ok=True)
    export(finetune(by_hash, encoder, epochs, say, minutes), encoder, out)
    known.write_bytes(orjson.dumps(of))
    return CrossEncoder(out)


def _logistic(logits: Sequence[Array], wanted: Any) -> list[float]:
    """Intercept, and a weight for each row of logits."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=10.0).fit(np.stack(logits, axis=1), wanted)
    return [float(found.intercept_[0]), *map(float, found.coef_[0])]


def auc(scores: Any, duplicate: Any) -> float:
    """The share of (duplicate, non-duplicate) couples in order, ties counting half; 0.5 without couples."""
    positive, negative = scores[duplicate], np.sort(scores[~duplicate])
    if not len(positive) or not len(negative):
        return 0.5
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def _calibration_error(scores: Any, duplicate: Any, bins: int = 10) -> float:
    """Mean distance of probability and share of duplicates, over ten bins of like size."""
    order = [at for at in np.array_split(np.argsort(scores), bins) if len(at)]
    return float(np.mean([abs(float(scores[at].mean()) - float(duplicate[at].mean())) for at in order]))
