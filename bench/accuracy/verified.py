"""What a trained verifier adds: learned on one part of QQP, calibrated on another, told of a third.

The parts are cut by connected group, so that no question is in two of them. Nothing here is chosen on the report
part: the tables say what share of duplicates hits where a given share of known non-duplicates does.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from bench.accuracy.measure import Array, Measured, Table
from bench.accuracy.vectors import vectors
from gateway.cache.guard import Guard
from gateway.calibrate import Second, agreement, heard, scored
from gateway.calibration import FLOOR, NEVER, operating_point
from gateway.embedding.weights import locate
from gateway.interfaces import Embedder, Vector
from gateway.proof import ABOVE, WORDING, proven
from gateway.verifier.model import ABOUT, Trained, load
from gateway.verifier.split import place

TRAINED, CALIBRATED = 0.6, 0.8  # of the groups; the rest is reported
ERRORS = (0.01, 0.02)
TIMED = 400


@dataclass(frozen=True, slots=True)
class Sides:
    """The vectors of n pairs, (n, d) each."""

    left: Vector
    right: Vector


def sides(measured: Measured, embedder: Embedder, folder: Path) -> Sides:
    texts = sorted({text for pair in measured.pairs for text in (pair.a, pair.b)})
    row = {text: at for at, text in enumerate(texts)}
    found = vectors(embedder, texts, folder)
    return Sides(*(found[[row[text] for text in half]] for half in (
        [pair.a for pair in measured.pairs], [pair.b for pair in measured.pairs]
    )))  # fmt: skip


def parts(measured: Measured) -> Array:
    """(n,): 0 to train on, 1 to calibrate on, 2 to report on."""
    places = [place(pair.group, "report") for pair in measured.pairs]
    return np.searchsorted([TRAINED, CALIBRATED], places, side="right")


def verifier(measured: Measured, both: Sides, embedder: str, folder: Path, cross: bool) -> Trained:
    """The one in `folder` if it learned from the training part, else a new one."""
    from gateway.verifier.train import digest, train

    rows = np.flatnonzero(parts(measured) == 0)
    pairs = [measured.pairs[at] for at in rows]
    examples = [(pair.a, pair.b, pair.duplicate) for pair in pairs]
    about = folder / ABOUT
    if not about.is_file() or orjson.loads(about.read_bytes()).get("learned") != digest(examples):
        encoder = locate("auto").folder if cross else None
        train(examples, measured.similarity[rows], embedder, folder, print, encoder)
    return load(folder, embedder)


def statistics(found: Trained, measured: Measured, both: Sides, rows: Array) -> dict[str, Array]:
    """What the parts of a verifier say of some pairs, (len(rows),) each: larger is more alike."""
    pairs = [measured.pairs[at] for at in rows]
    texts = [(pair.a, pair.b) for pair in pairs]
    said = {
        "cosine": measured.similarity[rows],
        "features": found.logits(texts, measured.similarity[rows]),
    }
    if found.cross is not None:
        said["cross-encoder"] = np.nan_to_num(found.cross.logits(texts))
        said["cascade"] = scored(found, pairs, both.left[rows], both.right[rows], np.ones(len(rows), bool))
    return said


def hit_rates(found: Trained, measured: Measured, both: Sides) -> Table:
    """On the report part: the share of duplicates that hit where 1 % and 2 % of known non-duplicates do."""
    rows = np.flatnonzero(parts(measured) == 2)
    duplicate, agreed = measured.duplicate[rows], measured.agreed[rows]
    table = Table(
        "qqp verifier",
        f"QQP, trained verifier: {int(duplicate.sum())} duplicates and {int((~duplicate).sum())} known "
        "non-duplicates it never saw",
        ("statistic", "AUC", "dup % at 1 %", "times plain", "dup % at 2 %", "times plain",
         "dup % at 1 %, guard", "times plain", "dup % at 2 %, guard", "times plain",
         "dup % at 1 %, guard of facts", "times plain", "dup % at 2 %, guard of facts", "times plain"),
    )  # fmt: skip
    from gateway.verifier.train import auc

    wording = agreement(Guard(), [measured.pairs[at] for at in rows], WORDING)
    best: list[float] = []
    for name, said in statistics(found, measured, both, rows).items():
        rates = [
            hit_rate(said, duplicate, allowed, share)
            for allowed in (np.ones(len(rows), bool), agreed, wording)
            for share in ERRORS
        ]
        best = best or rates[:2] * 3
        cells = [cell for rate, plain in zip(rates, best, strict=True)
                 for cell in (f"{100 * rate:.2f}", f"{rate / max(plain, 1e-9):.2f}")]  # fmt: skip
        table.rows.append((name, f"{auc(said, duplicate):.4f}", *cells))
    ends = [f"{100 * allowed[duplicate].mean():.2f}" for allowed in (agreed, agreed, wording, wording)]
    table.rows.append(("guard alone", *[""] * 5, *(cell for end in ends for cell in (end, ""))))
    return table


def hit_rate(said: Array, duplicate: Array, allowed: Array, share: float) -> float:
    """The share of duplicates above the value that lets at most `share` of all known non-duplicates hit."""
    wrong = np.sort(said[~duplicate & allowed])[::-1]
    most = int(share * int((~duplicate).sum()))
    least = wrong[most] if most < len(wrong) else -np.inf
    return float((said[duplicate & allowed] > least).sum() / max(1, int(duplicate.sum())))


def cost(found: Trained, measured: Measured, both: Sides) -> str:
    """Milliseconds for a candidate that the guard agrees to, near enough to be scored."""
    near = (parts(measured) == 2) & measured.agreed & (measured.similarity >= ABOVE)
    rows = np.flatnonzero(near)[:TIMED]
    seconds = []
    for at in rows:
        pair, started = measured.pairs[at], time.perf_counter()
        found.scores(pair.a, [pair.b], both.left[at], both.right[at : at + 1])
        seconds.append(time.perf_counter() - started)
    middle, high = np.quantile(seconds, (0.5, 0.95)) * 1e3
    return (
        f"{found!r}: {np.mean(seconds) * 1e3:.2f} ms for a checked candidate on average, {middle:.2f} in the middle, "
        f"{high:.2f} at the 95th percentile.\n"
    )


def decisions(found: Trained, sets: Sequence[tuple[str, Measured, Sides]]) -> Table:
    """What calibration decides on each set's own labels, and what comes of it on the rest of the set."""
    table = Table(
        "verifier transfer",
        "Verifier or plain similarity: decided on calibration labels, told of others",
        ("set", "max error %", "gained", "lost", "p", "verifier", "plain: dup %", "plain: non-dup %",
         "verifier: dup %", "verifier: non-dup %", "served: dup %"),
    )  # fmt: skip
    for name, measured, both in sets:
        part = parts(measured)
        learn, told = (part == 1, part == 2) if name == "QQP" else (~measured.tune, measured.tune)
        near = (learn | told) & (measured.similarity >= ABOVE)
        second = heard(found, Guard(), measured.pairs, both.left, both.right, near)
        for error in ERRORS:
            row = _decision(measured, second, near, learn, told, error)
            table.rows.append((name, f"{100 * error:.0f}", *row))
    return table


def _decision(
    measured: Measured, second: Second, near: Array, learn: Array, told: Array, error: float
) -> Iterator[str]:
    scores, permitted = second.scores, second.permitted
    known = measured.similarity, scores, measured.duplicate, measured.agreed, permitted
    proof = proven(*(array[learn] for array in known), error)
    if proof is None:
        return iter(["", "", "", "too few labels", *[""] * 5])
    others = learn & ~measured.duplicate
    plain = operating_point(
        measured.similarity[others], np.ones(int(others.sum())), error, measured.agreed[others]
    )
    by_plain = measured.agreed & (measured.similarity >= max(plain or NEVER, FLOOR))
    by_score = near & (permitted if proof.waives else measured.agreed) & (scores >= proof.score)
    rates = [
        float(hits[told & kind].mean())
        for hits in (by_plain, by_score)
        for kind in (measured.duplicate, ~measured.duplicate)
    ]
    served = rates[2] if proof.holds else rates[0]
    use = f"used, wording {'waived' if proof.waives else 'kept'}" if proof.holds else "not used"
    return iter([
        str(proof.gained), str(proof.lost), f"{proof.p:.2g}", use,
        *(f"{100 * rate:.2f}" for rate in (*rates, served)),
    ])  # fmt: skip
