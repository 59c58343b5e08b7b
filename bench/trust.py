"""`python -m bench.trust [--data DIR] [--cache DIR]`: what error budgets, closing and the learned bound really do.

Real pairs and real similarities; judgements are the human labels, drawn at the shares that Trust asks for.
"""

import argparse
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.accuracy.measure import Measured, measure
from bench.accuracy.pairs import intent_pairs, question_pairs
from bench.accuracy.vectors import vectors
from bench.replay.stream import Stream, classes, zipf
from gateway.cache.guard import Guard
from gateway.calibration import FLOOR, operating_point
from gateway.embedding.sentence import SentenceEmbedder
from gateway.trust.learned import Learned
from gateway.trust.room import Terms, Trust

ROOT = Path(__file__).resolve().parents[1]
SPLITS = 20
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Look-ups with one candidate each: statistic (n,), -1 where the guard vetoes; wrong (n,)."""

    s: Array
    wrong: Array

    @classmethod
    def of(cls, measured: Measured, guarded: bool = True) -> "Pairs":
        agreed = measured.agreed | (not guarded)
        return cls(np.where(agreed, measured.similarity, -1.0).astype(float), ~measured.duplicate)

    def __getitem__(self, rows: Array) -> "Pairs":
        return Pairs(self.s[rows], self.wrong[rows])


def main() -> None:
    options = _options()
    embedder = SentenceEmbedder(cache=options.cache / "models")
    guard = Guard()
    sets = {
        "QQP": question_pairs(options.data / "qqp_pairs.jsonl.gz"),
        "PAWS": question_pairs(options.data / "paws_qqp_pairs.jsonl.gz"),
        "BANKING77": intent_pairs(options.data / "banking77.jsonl.gz"),
    }
    measured = {name: measure(pairs, embedder, guard, options.cache) for name, pairs in sets.items()}
    print("| what | setting | measured |\n|---|---|---|")
    rows = chain(
        splits(Pairs.of(measured["QQP"])),
        shifts(measured),
        streams(options, embedder, guard),
        neighbourhoods(options, measured["QQP"], embedder, guard),
    )
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


# ── (a) operating points on random splits ──


def splits(pairs: Pairs) -> Iterator[tuple[str, str, str]]:
    """Realised error of certified thresholds on what was not calibrated on."""
    half = len(pairs.s) // 2
    for labels, q in ((half, 1.0), (half, 0.1), (1000, 1.0)):
        for alpha in (0.005, 0.01, 0.02):
            errors, thresholds = zip(
                *(_split(pairs, labels, q, alpha, seed) for seed in range(SPLITS)), strict=True
            )
            judged = "" if q == 1 else f", each judged with probability {q}"
            yield (
                "operating point, 20 splits of QQP",
                f"max_error {alpha:.1%}; {labels} look-ups{judged}",
                f"mean error {np.mean(errors):.3%}, worst {max(errors):.3%}, above in "
                f"{sum(error > alpha for error in errors)} of {SPLITS}; threshold {np.mean(thresholds):.3f}",
            )


def _split(pairs: Pairs, labels: int, q: float, alpha: float, seed: int) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(pairs.s))
    known, rest = pairs[order[:labels]], pairs[order[len(order) // 2 :]]
    drawn = draw.random(labels) < q
    threshold = operating_point(
        known.s[drawn],
        known.wrong[drawn],
        alpha,
        weights=np.full(drawn.sum(), 1 / q),
        bound=1 / q,
        examples=labels,
    )
    if threshold is None:
        return 0.0, 1.0
    threshold = max(threshold, FLOOR)
    return float(np.mean((rest.s >= threshold) & rest.wrong)), threshold


# ── (b) traffic that is not what was calibrated on ──


@dataclass(slots=True)
class Course:
    """What happened in a stream, by look-up."""

    hits: int = 0
    judged: int = 0  # hits sent to the model anyway
    wrong: int = 0
    excess: float = 0.0  # wrong hits beyond the budget, at most
    closed: list[int] = field(default_factory=list)  # look-ups at which it closed
    opened: list[int] = field(default_factory=list)
    shut: int = 0  # look-ups while closed


def serve(trust: Trust, pairs: Pairs, draw: random.Random, alpha: float, threshold: float) -> Course:
    """Serve look-ups as the gateway does, judged by their labels at the shares that Trust gives."""
    course = Course()
    shut = "c" in trust.conditions.closed
    for at, (s, wrong) in enumerate(zip(pairs.s.tolist(), pairs.wrong.tolist(), strict=True)):
        trust.looked("c", "t")
        now = "c" in trust.conditions.closed
        if s >= FLOOR:
            served = not now and s >= trust.conditions.points.get("c", (threshold,))[0]
            course.hits += served
            course.wrong += served and wrong
            would = s >= trust.conditions.points.get("c", (threshold,))[0]
            q = trust.share("c", s, "t", served=served) if would else trust.below("c")
            if draw.random() < q:
                course.judged += served
                trust.judged("c", "t", s, wrong=wrong, weight=1 / q, served=served)
        course.excess = max(course.excess, course.wrong - alpha * (at + 1))
        course.shut += now
        now = "c" in trust.conditions.closed
        if now != shut:
            (course.closed if now else course.opened).append(at + 1)
            shut = now
    return course


def shifts(measured: dict[str, Measured], alpha: float = 0.01) -> Iterator[tuple[str, str, str]]:
    """Calibrated on half of QQP, then the other half, then others' pairs, then QQP again."""
    for name, guarded in (("BANKING77", True), ("BANKING77", False), ("PAWS", True), ("PAWS", False)):
        home, away = Pairs.of(measured["QQP"], guarded), Pairs.of(measured[name], guarded)
        runs = [_shift(home, away, alpha, seed) for seed in range(SPLITS)]
        setting = f"max_error {alpha:.0%}, default share, {'guard' if guarded else 'no guard'}"
        yield f"QQP before {name}", setting, _quiet([run[0] for run in runs])
        yield f"QQP, then {name}", setting, _moved([run[1] for run in runs], away, alpha)
        yield f"{name}, then QQP", setting, _returned([run[2] for run in runs if run[3]])


def _shift(home: Pairs, away: Pairs, alpha: float, seed: int) -> tuple[Course, Course, Course, bool]:
    order = np.random.default_rng(seed).permutation(len(home.s))
    half = len(order) // 2
    known, live = home[order[:half]], home[order[half:]]
    moved = np.random.default_rng(seed).integers(0, len(away.s), 3000)
    draw = random.Random(seed)
    trust = Trust(clock=lambda: 0.0)
    trust.configure({"c": Terms(max_error=alpha, floor=FLOOR)})
    trust.seed("c", known.s.tolist(), known.wrong.tolist())
    before = serve(trust, live[np.arange(10_000)], draw, alpha, 0.92)
    during = serve(trust, away[moved], draw, alpha, 0.92)
    shut = "c" in trust.conditions.closed
    after = serve(trust, live[np.arange(10_000, half)], draw, alpha, 0.92)
    return before, during, after, shut


def _quiet(courses: Sequence[Course]) -> str:
    hits = sum(course.hits for course in courses)
    return (
        f"error {sum(course.wrong for course in courses) / len(courses) / 10_000:.2%}, hits "
        f"{hits / len(courses) / 10_000:.1%}, of them judged {sum(course.judged for course in courses) / hits:.1%}; "
        f"closed {sum(len(course.closed) for course in courses)} times in {len(courses)} x 10,000 look-ups"
    )


def _moved(courses: Sequence[Course], away: Pairs, alpha: float) -> str:
    excess = [course.excess for course in courses]
    closed = [course.closed[0] for course in courses if course.closed]
    when = f"at look-up {np.median(closed):.0f} in the median, {max(closed)} at most" if closed else "never"
    return (
        f"closed in {len(closed)} of {len(courses)} runs, {when}; wrong hits beyond the budget: "
        f"median {np.median(excess):.1f}, 95 % {np.quantile(excess, 0.95):.1f}, most {max(excess):.1f}"
    )


def _returned(courses: Sequence[Course]) -> str:
    if not courses:
        return "it was open"
    opened = [course.opened[0] for course in courses if course.opened]
    when = f"after {np.median(opened):.0f} look-ups in the median, {max(opened)} at most" if opened else ""
    return f"opened again in {len(opened)} of {len(courses)} runs, {when}"


# ── (c) the learned bound on a stream ──


def streams(
    options: argparse.Namespace, embedder: SentenceEmbedder, guard: Guard
) -> Iterator[tuple[str, str, str]]:
    """vCache's rule against the conformal point, on questions drawn by Zipf's law over groups."""
    stream = _stream(options, embedder)
    for delta in (0.01, 0.02):
        for pooled in (False, True):
            for always in (True, False):
                learned = Learned(delta, pooled=pooled)
                rule = f"learned, {'pooled' if pooled else 'per entry'}, insert {'always' if always else 'if wrong'}"
                yield (
                    f"stream of {len(stream.rows)}",
                    f"{rule}, delta {delta:.0%}",
                    replay(stream, guard, learned, always),
                )
    others = [_stream(options, embedder, seed) for seed in range(4)]
    for delta in (0.01, 0.02):
        for seed, each in enumerate([stream, *others]):
            trust = Trust(clock=lambda: 0.0)
            trust.configure({"c": Terms(max_error=delta, uncalibrated="exact", floor=FLOOR)})
            setting = f"conformal without labels, max_error {delta:.0%}, {seed + 1} of 5"
            yield f"stream of {len(stream.rows)}", setting, replay(each, guard, trust, True)


def _stream(options: argparse.Namespace, embedder: SentenceEmbedder, seed: int = 11) -> Stream:
    return zipf(classes(options.data), embedder, options.cache, options.requests, seed, offset=10)


def replay(stream: Stream, guard: Guard, rule: Learned | Trust, always: bool) -> str:
    """Serve a stream from an empty cache; an exact repeat is no semantic look-up. Every draw is judged by its group."""
    draw = random.Random(5)
    stored = np.zeros((len(stream.rows), stream.vectors.shape[1]), np.float32)
    entries: list[tuple[int, int]] = []  # (row, group)
    answered: set[int] = set()
    lookups = hits = wrong = 0
    for row, group in zip(stream.rows, stream.groups, strict=True):
        if row in answered:
            continue
        lookups += 1
        entry, s = _nearest(stream, guard, stored, entries, row)
        right = entry is not None and entries[entry][1] == group
        served = _serves(rule, entry, s, right, draw)
        hits += served
        wrong += served and not right
        if not served and (always or not right):
            stored[len(entries)] = stream.vectors[row]
            entries.append((row, group))
            answered.add(row)
    return f"error {wrong / lookups:.2%} of {lookups} look-ups, hits {hits / lookups:.1%}, wrong/hits {wrong / max(1, hits):.1%}"


def _nearest(
    stream: Stream, guard: Guard, stored: Array, entries: Sequence[tuple[int, int]], row: int
) -> tuple[int | None, float]:
    """The nearest of the five best entries that the guard agrees to."""
    if not entries:
        return None, -1.0
    similarity = stored[: len(entries)] @ stream.vectors[row]
    best = np.argsort(-similarity)[:5] if len(entries) < 6 else np.argpartition(-similarity, 5)[:5]
    asked = guard.facts(stream.texts[row])
    for at in sorted(map(int, best), key=lambda each: -similarity[each]):
        if similarity[at] < FLOOR:
            break
        if guard.verdict(asked, guard.facts(stream.texts[entries[at][0]])) is None:
            return at, min(1.0, float(similarity[at]))
    return None, -1.0


def _serves(rule: Learned | Trust, entry: int | None, s: float, right: bool, draw: random.Random) -> bool:
    if isinstance(rule, Learned):
        if entry is None:
            return False
        explored = rule.explore(entry, s, draw.random())
        if explored:
            rule.observe(entry, s, right)
        return not explored
    rule.looked("c", "t")
    if entry is None:
        return False
    served = "c" not in rule.conditions.closed and s >= rule.conditions.points["c"][0]
    would = s >= rule.conditions.points.get("c", (1.0,))[0]
    q = rule.share("c", s, "t", served=served) if would else rule.below("c")
    if draw.random() < q:
        rule.judged("c", "t", s, wrong=not right, weight=1 / q, served=served)
    return served


# ── (d) how far a reported pair reaches ──


def neighbourhoods(
    options: argparse.Namespace, qqp: Measured, embedder: SentenceEmbedder, guard: Guard, hit: float = 0.85
) -> Iterator[tuple[str, str, str]]:
    """Of hits on a stored text that was wrong for one question: how many are right, by nearness to that question."""
    texts = sorted({text for pair in qqp.pairs for text in (pair.a, pair.b)})
    row = {text: at for at, text in enumerate(texts)}
    found = vectors(embedder, texts, options.cache)
    meaning = {text: at for at, group in enumerate(classes(options.data)) for text in group}
    hits: list[tuple[float, bool]] = []
    for at in map(int, np.flatnonzero((qqp.similarity >= hit) & ~qqp.duplicate & qqp.agreed)):
        one, two = qqp.pairs[at].a, qqp.pairs[at].b
        for asked, stored in ((one, two), (two, one)):
            if stored not in meaning:
                continue
            facts = guard.facts(stored)
            for other in map(int, np.flatnonzero(found @ found[row[stored]] >= hit)):
                text = texts[other]
                if text not in (one, two) and guard.verdict(guard.facts(text), facts) is None:
                    near = float(found[other] @ found[row[asked]])
                    hits.append((near, meaning.get(text) == meaning[stored]))
    for low, high in pairwise((0.65, 0.75, 0.80, 0.85, 0.90, 0.95, 1.01)):
        right = [is_right for near, is_right in hits if low <= near < high]
        if right:
            setting = f"hits on its stored text, cosine {low:.2f} to {high:.2f} to its question"
            yield "a pair reported wrong", setting, f"{np.mean(right):.0%} of {len(right)} right"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.trust", description=__doc__)
    data = Path(os.environ.get("GATEWAY_DATA", ROOT / ".." / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of the labelled data")
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/results/cache", help="model and vectors")
    parser.add_argument("--requests", type=int, default=10_000, help="of the stream")
    return parser.parse_args()


if __name__ == "__main__":
    main()
