"""`python -m bench.fleet [--data DIR] [--scale X] [--backends 4,32,256]`: every strategy on recorded arrivals.

Prints Markdown. A reference is shown twice: as other proxies have it, sending everything on at once ("at once"),
and with this gateway's admission in front ("queued"). Marks are told as they fall: beats, tie (within 2 %), misses.
"""

import argparse
import os
import timeit
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bench.fleet.arrivals import TRACES, load, paced, read
from bench.fleet.simulate import Result, Variant, simulate
from gateway.exchange import Work
from gateway.routing.fleet import Backend, Fleet, Model
from gateway.routing.strategies import strategy

SEED = 1
SIZES = {4: 1600, 32: 2500, 256: 5000}  # backends: requests
UTILISATIONS = (0.9, 1.2)
LATE = 6.0  # seconds
TIE = 0.02
REFERENCES = ("rotation", "random", "least-in-flight")
DEFAULT = "least-completion"
VARIANTS = {
    **{f"{name}, at once": Variant(name, admission=False) for name in REFERENCES},
    **{f"{name}, queued": Variant(name) for name in REFERENCES},
    "two-choices, queued": Variant("two-choices"),
    "affinity, queued": Variant("affinity"),
    "default": Variant(DEFAULT),
    "default, reports 6 s late": Variant(DEFAULT, lag=LATE),
    "least-in-flight, queued, reports 6 s late": Variant("least-in-flight", lag=LATE),
    "oracle (default, true lengths)": Variant(DEFAULT, oracle=True),
}
LEFT_OUT = {256: ("two-choices, queued", "affinity, queued")}  # to keep the whole table short


def main() -> None:
    options = _options()
    marks: list[str] = []
    for name in TRACES:
        trace = read(options.data, name, Random(SEED))
        for backends in options.backends:
            speeds = [1.0] * backends
            requests = int(options.scale * SIZES.get(backends, 20 * backends))
            base, seconds = load(trace, speeds, requests)
            for utilisation in UTILISATIONS:
                arrivals = paced(base, seconds / utilisation)
                title = f"{name}, {backends} backends, utilisation {utilisation}"
                print(
                    f"\n## {title}\n\n{len(arrivals)} requests in {seconds / utilisation:.0f} s\n", flush=True
                )
                left_out = LEFT_OUT.get(backends, ())
                results = {
                    label: simulate(variant, arrivals, speeds, SEED)
                    for label, variant in VARIANTS.items()
                    if label not in left_out
                }
                print(table(results), flush=True)
                marks.append(f"| {title} | {' | '.join(verdicts(results))} |")
    print("\n## Marks on p99 TTFT\n\n| run | against at once | against queued | over oracle | 6 s late |")
    print("|---|---|---|---|---|\n" + "\n".join(marks))
    chosen, bare = decision()
    print(
        f"\nOne decision at 256 backends: {chosen:.0f} µs, {chosen / bare:.1f} times a bare loop over them."
    )


def table(results: dict[str, Result]) -> str:
    """p50 and p99 in seconds, of requests served; shares of all requests."""
    lines = [
        "| | p50 TTFT | p99 TTFT | goodput | Jain | refused | TPOT ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, r in results.items():
        lines.append(
            f"| {label} | {r.p50:.2f} | {r.p99:.2f} | {r.goodput:.3f} | {r.jain:.3f} "
            f"| {r.refused:.3f} | {1000 * r.tpot:.0f} |"
        )
    return "\n".join(lines)


def verdicts(results: dict[str, Result]) -> list[str]:
    """The default against the best reference of each form, against the oracle, and with late reports."""
    ours = results["default"].p99
    late = results["default, reports 6 s late"].p99
    oracle = results["oracle (default, true lengths)"].p99
    at_once = min(results[f"{name}, at once"].p99 for name in REFERENCES)
    queued = min(results[f"{name}, queued"].p99 for name in REFERENCES)
    fewest = results["least-in-flight, queued, reports 6 s late"].p99
    return [
        verdict(ours, at_once),
        verdict(ours, queued),
        f"{ours / oracle - 1:+.0%}" + (" misses 15 %" if ours > 1.15 * oracle else ""),
        verdict(late, fewest),
    ]


def verdict(ours: float, theirs: float) -> str:
    change = ours / theirs - 1
    word = "tie" if abs(change) <= TIE else "beats" if change < 0 else "misses"
    return f"{word} ({change:+.0%})"


def decision(backends: int = 256, rounds: int = 200) -> tuple[float, float]:
    """Microseconds of one choice among that many backends, and of a bare loop over them."""
    pool = tuple(Backend(str(i), "", None, "", 1.0, True) for i in range(backends))
    model = Model("m", pool, 0.0, 0.0)
    fleet = Fleet([model], strategy(DEFAULT, Random(SEED)))
    for backend in pool:
        backend.signals.sent(500, 200)
    work = Work(1000, 200, "m")
    ticket = model.queue.ticket(work, 0.0, lambda lease: None, lambda error: None)

    def bare() -> Backend:
        best = pool[0]
        for backend in pool:
            if backend.weight > best.weight:
                best = backend
        return best

    def chosen() -> Backend | None:
        return fleet.choose(model, ticket, 1.0)

    return _microseconds(chosen, rounds), _microseconds(bare, rounds)


def _microseconds(call: object, rounds: int) -> float:
    return min(timeit.repeat("call()", globals={"call": call}, number=rounds, repeat=5)) / rounds * 1e6


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet")
    data = os.environ.get("GATEWAY_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    parser.add_argument(
        "--backends", type=lambda text: [int(n) for n in text.split(",")], default=list(SIZES)
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
