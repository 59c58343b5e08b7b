"""`python -m bench.replay [--data DIR] [--cache DIR]`: what caches reuse of a stream, how much of it wrongly, and what
the gateway believes of that. Prints Markdown, writes CSV.

Questions of Quora's labelled classes, drawn by Zipf's law (exponent 1) over the classes, evenly within one. The
gateway gets them by HTTP, with its shipped policies and judged samples, and never sees a label. Plain thresholds are
modelled (see `bench.replay.thresholds`), with the same vectors. Wrong: another class's answer. Classes that were
never compared count as different, so many a wrong hit of a high cosine asks the same after all; `wrong.csv` lists them.
With --near-misses, the questions that labelled pairs hold beside the classes are asked too, most of which were chosen
for their likeness to another: fewer repeats, and more to confuse.
"""

import argparse
import asyncio
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.accuracy.measure import Table
from bench.replay.serving import Replayed, Setup, through
from bench.replay.stream import Count, Stream, alone, classes, zipf
from bench.replay.thresholds import THRESHOLDS, neighbours, replay
from gateway.embedding.sentence import SentenceEmbedder

ROOT = Path(__file__).resolve().parents[2]
PACE = {
    "in_flight": 16,
    "per_minute": 6000,
}  # hours pass in minutes: samples may be a hundred times as frequent
OURS = (
    Setup("ours as shipped"),
    Setup("ours at max_error 1 %", 0.01, PACE),
    Setup("ours at 1 % and a model as judge", 0.01, PACE, judge=True),
)


def main() -> None:
    options = _options()
    embedder = SentenceEmbedder(cache=options.cache / "models")
    groups = classes(options.data)
    groups += alone(options.data, groups) if options.near_misses else []
    caches, estimates, wrong = tables(options.queries, len(groups))
    for seed in range(1, options.seeds + 1):
        stream = zipf(groups, embedder, options.cache, options.queries, seed)
        near = neighbours(stream)
        for name, threshold in THRESHOLDS.items():
            count = replay(stream, near, threshold)
            caches.rows.append(_row(seed, name, count))
            wrong.rows += _wrong(seed, name, stream, count)
        for setup in OURS:
            with tempfile.TemporaryDirectory() as folder:
                found = asyncio.run(through(stream, setup, Path(folder), options.cache))
            count = found.count()
            caches.rows.append(_row(seed, setup.name, count))
            wrong.rows += _wrong(seed, setup.name, stream, count)
            estimates.rows += _estimates(seed, setup.name, found)
    options.out.mkdir(parents=True, exist_ok=True)
    for table in (caches, estimates, wrong):
        (options.out / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    for table in (caches, estimates):
        print(table.markdown())
    print(verdict(estimates))


def tables(queries: int, groups: int) -> tuple[Table, Table, Table]:
    caches = Table(
        "caches",
        f"{queries} requests, {groups} classes",
        ("seed", "cache", "hits", "of them exact", "wrong hits", "wrong/hits %", "wrong/look-ups %", "calls saved"),
    )  # fmt: skip
    estimates = Table(
        "estimates",
        "Judged samples against the truth, semantic hits",
        ("seed", "cache", "category", "look-ups", "hits", "judged", "wrong/hits %", "estimate", "95 % interval",
         "covers", "wrong/look-ups %", "budget %"),
    )  # fmt: skip
    wrong = Table("wrong", "Wrong hits", ("seed", "cache", "times", "cosine", "asked", "answered as"))
    return caches, estimates, wrong


def _row(seed: int, name: str, count: Count) -> Sequence[object]:
    return (seed, name, count.hits, count.exact, count.wrong, _percent(count.wrong, count.hits),
            _percent(count.wrong, count.lookups), count.requests - count.calls)  # fmt: skip


def _wrong(seed: int, name: str, stream: Stream, count: Count) -> Iterator[Sequence[object]]:
    """Wrong hits, the most frequent first, with the nearest question asked of the class that answered."""
    members = defaultdict(set)
    for row, group in zip(stream.rows, stream.groups, strict=True):
        members[group].add(row)
    for (asked, group), times in count.pairs.most_common():
        rows = sorted(members[group])
        cosines = stream.vectors[rows] @ stream.vectors[asked]
        near = rows[int(cosines.argmax())]
        yield (
            seed,
            name,
            times,
            f"{cosines.max():.3f}",
            *(_quoted(stream.texts[row]) for row in (asked, near)),
        )


def _estimates(seed: int, name: str, found: Replayed) -> Iterator[Sequence[object]]:
    """What `/trust` says in all and by category, beside what was."""
    hits: dict[str, int] = defaultdict(int)
    wrong: dict[str, int] = defaultdict(int)
    for group, each in zip(found.stream.groups, found.seen, strict=True):
        for category in ("all", each.category) if each.semantic else ():
            hits[category] += 1
            wrong[category] += each.answered != group
    reports = {name: report["hits"] for name, report in found.trust["categories"].items()}
    budgets = {name: report["max_error"] for name, report in found.trust["categories"].items()}
    for category, told in {"all": found.trust["all"], **reports}.items():
        if not hits[category]:
            continue
        rate, low, high = told["rate"], told["low"], told["high"]
        truth = wrong[category] / hits[category]
        yield (seed, name, category, told["lookups"], hits[category], told["judged"], f"{truth:.2%}",
               "none" if rate is None else f"{rate:.2%}", f"{low:.2%} to {high:.2%}",
               "yes" if low <= truth <= high else "NO", _percent(wrong[category], told["lookups"]),
               f"{100 * budgets[category]:g}" if budgets.get(category) else "")  # fmt: skip


def verdict(estimates: Table) -> str:
    covered = [row[9] == "yes" for row in estimates.rows]
    wrong = [row[9] == "yes" for row in estimates.rows if row[6] != "0.00%"]
    return (
        f"The interval covers the truth in {sum(covered)} of {len(covered)} rows, "
        f"{sum(wrong)} of {len(wrong)} where anything was wrong."
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.2f}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    data = Path(os.environ.get("GATEWAY_DATA", ROOT / ".." / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of the labelled data")
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/results/cache", help="model and vectors")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/replay", help="where CSV files go")
    parser.add_argument("--queries", type=int, default=20_000, help="of each stream")
    parser.add_argument(
        "--near-misses", action="store_true", help="also questions that mean what no other does"
    )
    parser.add_argument("--seeds", type=int, default=2, help="streams")
    return parser.parse_args()


if __name__ == "__main__":
    main()
