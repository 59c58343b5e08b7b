"""`python -m bench.offload [--data DIR] [--out DIR]`: what the router recovers, saves and costs, as tables and CSV.

Parts: "gaps" and "streams" on recorded outcomes, "router" on mixed traffic from an empty store, "load" beyond a
large pool's capacity, "decision" the time one takes. The real small model has its own: `bench.offload.icl`.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import numpy as np

from bench.accuracy.measure import Table
from bench.fleet.arrivals import read
from bench.offload import load, stream
from bench.offload.data import DATA, ROOT, Questions, Request, mixed, questions
from bench.offload.picture import curves
from bench.offload.replay import SHARES, Point, by_subject, ranked, recovered, served
from gateway.embedding.sentence import SentenceEmbedder
from gateway.offload.examples import Example
from gateway.offload.router import Router, situation
from gateway.offload.selector import Asked, Selector

FLOOR = 0.02  # max_quality_loss
OUTCOMES = (1.0, 0.1)  # share of served answers whose outcome becomes known
SEEDS = (0, 1, 2)
PARTS = ("gaps", "streams", "router", "load", "decision")


def main() -> None:
    options = _options()
    embedder = SentenceEmbedder(cache=options.cache / "models", threads=os.cpu_count() or 1)
    options.out.mkdir(parents=True, exist_ok=True)
    for table in tables(options, embedder):
        print(table.markdown(), flush=True)
        (options.out / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")


def tables(options: argparse.Namespace, embedder: SentenceEmbedder) -> Iterator[Table]:
    if {"gaps", "streams"} & set(options.parts):
        sets = questions(options.data, embedder, options.cache)
        if "gaps" in options.parts:
            yield gaps(sets)
        if "streams" in options.parts:
            yield streams(sets, options.out)
    if {"router", "load"} & set(options.parts):
        requests = mixed(options.data, embedder, options.cache, options.requests)
        if "router" in options.parts:
            yield router(requests, options.out)
        if "load" in options.parts:
            trace = read(options.data, "azure_llm_2023_conv", Random(load.SEED))
            yield load.table(load.measured(trace, requests, 2 * len(requests) // 3))
    if "decision" in options.parts:
        yield decision_cost()


def router(requests: Sequence[Request], out: Path) -> Table:
    runs = dict(stream.records(requests))
    for name, record in runs.items():
        slug = "".join(c if c.isalnum() else "-" for c in name.lower())
        shares = stream.shares(record)
        title = f"Mixed traffic from an empty store: {name}"
        curves(
            out / f"router-{slug}.png",
            title,
            np.arange(len(requests)) + 1,
            shares,
            stream.losses(record),
            FLOOR,
        )
    return stream.table(runs)


def gaps(sets: list[Questions]) -> Table:
    """Second half of each stream, so that every predictor has learned from the first."""
    table = Table(
        "recovered",
        f"Share of the quality gap recovered, mean of {len(SEEDS)} orders, second half of the stream",
        ("data", "small", "large", "router", *(f"{share:.0%} large" for share in SHARES)),
    )
    for each in sets:
        for name, predict in (
            ("subject only", by_subject),
            ("ours, text only", lambda q, seed: ranked(q, False, seed)),
            ("ours, with subject", lambda q, seed: ranked(q, True, seed)),
        ):
            got = np.zeros(len(SHARES))
            for seed in SEEDS:
                half = np.random.default_rng(seed).permutation(len(each))[len(each) // 2 :]
                losses, small, large = predict(each, seed)[half], each.small[half], each.large[half]
                got += [recovered(losses, small, large, share) / len(SEEDS) for share in SHARES]
            table.rows.append(
                [
                    each.name,
                    f"{each.small.mean():.3f}",
                    f"{each.large.mean():.3f}",
                    name,
                    *(f"{g:.2f}" for g in got),
                ]
            )
        table.rows.append([each.name, "", "", "random", *(f"{share:.2f}" for share in SHARES)])
    return table


def streams(sets: list[Questions], out: Path) -> Table:
    table = Table(
        "streams",
        f"Streams from nothing, max_quality_loss {FLOOR}",
        (
            "data",
            "outcomes known",
            "requests",
            "offloaded %",
            "last 500 %",
            "loss, points",
            "worst after 500",
            "compared %",
        ),
    )
    lines = []
    for each in sets:
        for outcomes in OUTCOMES:
            points = list(served(each, FLOOR, outcomes))
            lines += [f"{each.name},{outcomes},{p.seen},{p.offloaded:.4f},{p.loss:.5f}" for p in points]
            worst = max(point.loss for point in points if point.seen >= min(500, len(each) // 2))
            table.rows.append([each.name, f"{outcomes:.0%}", *_row(points[-1], worst)])
            if outcomes == OUTCOMES[0]:
                slug = "".join(c if c.isalnum() else "-" for c in each.name.lower())
                seen, offloaded, loss = np.array([(p.seen, p.offloaded, p.loss) for p in points]).T
                curves(out / f"stream-{slug}.png", each.name, seen, {"all": offloaded}, loss, FLOOR)
    head = "data,outcomes,seen,offloaded,loss"
    (out / "curves.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return table


def _row(last: Point, worst: float) -> list[str]:
    shares = (last.offloaded, last.recent, last.loss, worst, last.compared)
    return [str(last.seen), *(f"{100 * share:.2f}" for share in shares)]


def decision_cost(candidates: int = 20, rounds: int = 300) -> Table:
    """Selection among 20 candidates of 300 words, features and choice, on this machine."""
    rng = np.random.default_rng(0)
    words = [f"word{n}" for n in range(2000)]

    def text(length: int) -> str:
        return " ".join(rng.choice(words, length))

    examples = [
        Example(n, "t", "large", "c", text(60), text(300), 450, 0.01, created=0.0) for n in range(candidates)
    ]
    near = [(example, float(0.9 - n / 50)) for n, example in enumerate(examples)]
    selector, router, question = Selector(rng=rng), Router(rng=rng), text(60)
    vector = rng.standard_normal(384).astype(np.float32) / np.float32(np.sqrt(384))
    spent = []
    for _ in range(rounds):
        started = time.perf_counter()
        asked = Asked.of(question, 90, "c")
        selection = selector.select(asked, near, 4000)
        router.choose(situation(asked, selection, vector), max_quality_loss=FLOOR)
        spent.append((time.perf_counter() - started) * 1e6)
    table = Table("decision", "One decision, selection included, microseconds", ("median", "p99"))
    table.rows.append([f"{np.median(spent):.0f}", f"{np.quantile(spent, 0.99):.0f}"])
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.offload", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the labelled data")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/offload", help="CSV and pictures")
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/results/cache", help="model and vectors")
    parser.add_argument("--requests", type=int, default=9000, help="of mixed traffic, for router and load")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
