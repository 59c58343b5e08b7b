"""`python -m bench.accuracy [--data DIR] [--out DIR]`: the accuracy report, as Markdown and CSV."""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.accuracy.measure import Measured, Table, by_check, by_threshold, measure, operating
from bench.accuracy.pairs import intent_pairs, question_pairs
from bench.accuracy.shipped import operating_points
from bench.accuracy.verified import cost, decisions, hit_rates, sides, verifier
from bench.classify import report
from gateway.cache.guard import Guard
from gateway.embedding.sentence import SentenceEmbedder
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy
from gateway.policy.shipped import shipped

ROOT = Path(__file__).resolve().parents[2]
FLOOR = 0.85  # below it no shipped policy looks


def main() -> None:
    options = _options()
    embedder = SentenceEmbedder(cache=options.cache / "models")
    guard, policy = Guard(), Policy(load_folder(options.policies or shipped()))
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"# Accuracy of semantic hits ({embedder.name})\n")
    sets = {
        "QQP": question_pairs(options.data / "qqp_pairs.jsonl.gz"),
        "PAWS": question_pairs(options.data / "paws_qqp_pairs.jsonl.gz"),
        "BANKING77": intent_pairs(options.data / "banking77.jsonl.gz"),
    }
    found = {}
    for name, pairs in sets.items():
        found[name] = measured = measure(pairs, embedder, guard, options.cache)
        for table in [
            *tables(name, measured),
            operating_points(name, measured, embedder, policy, options.cache),
        ]:
            publish(table, options.out)
        print(f"Guard: {measured.guard_seconds * 1e6:.0f} µs a pair, both texts analysed.\n")

    with_vectors = [(name, it, sides(it, embedder, options.cache)) for name, it in found.items()]
    _, qqp, both = with_vectors[0]
    kind = "verifier" if options.train_verifier else "verifier-features"
    folder = options.verifier or options.cache / kind
    second = verifier(qqp, both, embedder.name, folder, options.train_verifier)
    publish(hit_rates(second, qqp, both), options.out)
    print(cost(second, qqp, both))
    publish(decisions(second, with_vectors), options.out)

    print("### Classifier, on prompts that carry a category\n")
    print(f"```\n{report(embedder, policy, options.data)}\n```")


def publish(table: Table, out: Path) -> None:
    print(table.markdown())
    slug = re.sub(r"[^a-z0-9]+", "-", table.name.lower())
    (out / f"{slug}.csv").write_text(table.csv(), encoding="utf-8")


def tables(name: str, measured: Measured) -> Iterator[Table]:
    everything = np.ones(len(measured.pairs), dtype=np.bool_)
    yield by_threshold(f"{name} all", measured, everything)
    if name == "QQP":
        yield by_threshold(f"{name} held-out half", measured, ~measured.tune)
        yield operating(name, measured)
    yield by_check(name, measured, FLOOR)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    data = Path(os.environ.get("GATEWAY_DATA", ROOT / ".." / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of the labelled data")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench/results/accuracy", help="where CSV files go"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/results/cache", help="model and vectors")
    parser.add_argument("--policies", type=Path, help="default: the shipped ones")
    parser.add_argument(
        "--train-verifier", action="store_true", help="with a cross-encoder: half an hour, once"
    )
    parser.add_argument("--verifier", type=Path, help="its folder (default: within --cache)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
