"""A thousand tenants with two hundred thousand entries: memory, start, and hits beside the same with few entries.

    python -m bench.tenants [--tenants 1000] [--entries 200000] [--small] [--store sqlite redis] [--cache FOLDER]

For each store, two of them are filled: one with all entries, one with the entries of so few of the same tenants that
they are about a thousand. Gateways are processes of their own, with all tenants in their configuration. They are started
one after another, alone, and then asked in turn, so that ratios are of one run. Needs QQP in GATEWAY_DATA for real
questions, else it makes some up; `--cache` keeps their vectors.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.replicas import Redis, free_port
from bench.speed import body
from bench.tenants import contents
from bench.tenants.client import Ask, ask, paced, together
from bench.transfer import ready

ROOT = Path(__file__).resolve().parents[2]
FEW = 1_000  # entries of the gateway that the large one is held against
_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    tenants: int
    entries: int
    distinct: int  # questions; more entries than that share their texts
    near: int  # questions embedded for being another's second wording
    asks: int  # a round
    rounds: int

    @property
    def each(self) -> int:
        return self.entries // self.tenants

    @property
    def few(self) -> int:
        """Tenants that have entries in the small store."""
        return max(1, min(FEW // self.each, self.tenants // 2))


FULL = Plan(1_000, 200_000, 20_000, 6_000, 500, 3)
SMALL = Plan(20, 2_000, 300, 150, 60, 1)


@dataclass
class Gateway:
    """A gateway in a process of its own, and what was measured of it."""

    entries: int
    owners: int  # tenants that have entries here
    port: int
    file: Path
    start_s: float = 0.0
    resident: int = 0  # bytes
    peak: int = 0  # bytes
    times: dict[str, list[float]] = field(default_factory=dict)  # what was asked → seconds

    async def start(self) -> None:
        """Until it says ready; then its memory, a moment later."""
        begun = time.perf_counter()
        self.process = await asyncio.to_thread(self._spawn)
        while not await asyncio.to_thread(ready, self.port, 30):
            if self.process.poll() is not None or time.perf_counter() - begun > 600:
                raise SystemExit("the gateway did not start")
            await asyncio.sleep(0.05)
        self.start_s = time.perf_counter() - begun
        await asyncio.sleep(1)  # the first collection follows
        self.resident, self.peak = self._memory("VmRSS"), self._memory("VmHWM")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with open(self.file.with_suffix(".log"), "ab") as log:
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.file)]
            return subprocess.Popen(command, cwd=ROOT, stderr=log)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


class Side:
    """What one of the two gateways is asked: every entry at most once, and then some of them again and again."""

    def __init__(self, gateway: Gateway, given: contents.Questions, plan: Plan) -> None:
        draw = random.Random(7)
        distinct = len(given.texts)
        places = [(t, row) for t in range(gateway.owners) for row in contents.rows_of(t, plan.each, distinct)]
        draw.shuffle(places)
        exact = [(t, body(given.texts[row]), row) for t, row in places[: plan.asks * 2]]
        near = [(t, body(given.near[row])) for t, row in places if row in given.near]
        self.gateway = gateway
        self.fresh = [self._ask(t, text, "exact", row) for t, text, row in exact]
        few = [self._ask(t, text, "semantic") for t, text in near[: plan.asks]]
        self.near = list(itertools.islice(itertools.cycle(few), plan.asks))

    def _ask(self, tenant: int, text: bytes, how: str, row: int | None = None) -> Ask:
        said = contents.marker(tenant) + (b" Answer %d." % row if row is not None else b"")
        return ask(contents.key(tenant), text, how, said)


def configure(folder: Path, label: str, store: dict[str, Any], plan: Plan, model: Path) -> tuple[Path, int]:
    """A configuration file with every tenant and its key, and its data port."""
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "book.yaml").write_text(contents.BOOK)
    port, file = free_port(), folder / f"{label}.yaml"
    tree = {
        "listen": {"port": port},
        "admin": {"port": 0},
        "models": [{"name": "*", "backends": [{"url": "http://127.0.0.1:9/v1", "metrics": "off"}]}],
        "tenants": [{"name": contents.name(t), "keys": [contents.key(t)]} for t in range(plan.tenants)],
        "store": store,
        "policies": str(folder / "policies"),
        "embedder": {"cache": str(model), "deadline": 5.0},
        "cache": {"max_bytes": 1 << 33},
        "trust": {"share": 0},  # a question kept back to learn from would be no hit
    }
    file.write_text(json.dumps(tree))
    return file, port


async def measure(
    kind: str, given: contents.Questions, plan: Plan, folder: Path, model: Path
) -> list[Gateway]:
    """The gateway with few entries and the one with all, on stores of one kind."""
    gateways: list[Gateway] = []
    with ExitStack() as undo:
        for label, owners in (("few", plan.few), ("all", plan.tenants)):
            place = folder / f"{kind}-{label}"
            place.mkdir()
            if kind == "redis":
                redis = Redis(place)
                await redis.start()
                undo.callback(redis.kill)
                store = {"kind": "redis", "url": f"redis://127.0.0.1:{redis.port}/0"}
            else:
                store = {"kind": "sqlite", "path": str(place / "gateway.db")}
            begun = time.perf_counter()
            entries = await contents.fill(_store(store), given, owners, plan.each)
            _say(f"{kind}: {entries:,} entries written in {time.perf_counter() - begun:.0f} s")
            file, port = configure(folder, f"{kind}-{label}", store, plan, model)
            gateways.append(Gateway(entries, owners, port, file))
        for gateway in gateways:
            await gateway.start()
            undo.callback(gateway.stop)
            _say(f"{kind}: {gateway.entries:,} entries ready in {gateway.start_s:.1f} s")
        await ask_both([Side(gateway, given, plan) for gateway in gateways], plan)
    return gateways


def _store(tree: dict[str, Any]) -> Any:
    from gateway import build
    from gateway.config import StoreConfig

    return build.store(StoreConfig.model_validate(tree))


async def ask_both(sides: Sequence[Side], plan: Plan) -> None:
    """Round by round in turn. What is asked again has its document in memory; what is asked first has not."""
    half = plan.asks // 2
    for side in sides:  # the first request of a process pays for what it imports
        await paced(side.gateway.port, side.fresh[-20:], 0)
        await paced(side.gateway.port, side.near[:20], 0)
    for at in range(0, plan.asks, half):
        for side in sides:
            _note(side, "exact, first time", await paced(side.gateway.port, side.fresh[at : at + half], 0.01))
    for side in sides:
        await paced(side.gateway.port, side.near, 0)
    for _ in range(plan.rounds):
        for side in sides:
            port, again = side.gateway.port, side.fresh[: plan.asks]
            _note(side, "exact", await paced(port, again, 0.01))
            _note(side, "semantic", await paced(port, side.near, 0.02))
            many = 4 * again
            _note(side, f"exact, {_CONNECTIONS} connections", await together(port, many, _CONNECTIONS))
            _note(
                side, f"semantic, {_CONNECTIONS} connections", await together(port, side.near, _CONNECTIONS)
            )


def _note(side: Side, what: str, times: list[float]) -> None:
    side.gateway.times.setdefault(what, []).extend(times)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def quantile(times: Sequence[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(times)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000


def tables(kind: str, few: Gateway, all_: Gateway) -> str:
    """Markdown: start and memory, then the hits."""
    head = f"{few.entries:,} entries | {all_.entries:,} entries"
    more = all_.entries - few.entries

    def row(what: str, figure: Callable[[Gateway], float], form: str, last: str) -> str:
        return f"| {what} | {figure(few):{form}} | {figure(all_):{form}} | {last} |"

    lines = [
        f"| {kind} | {head} | |",
        "|---|---|---|---|",
        row("ready after, s", lambda g: g.start_s, ".1f", f"{(all_.start_s - few.start_s) / more * 1e6:.0f} µs an entry"),
        row("resident, MB", lambda g: g.resident / 1e6, ".0f", f"{(all_.resident - few.resident) / more:,.0f} bytes an entry"),
        row("resident at the peak, MB", lambda g: g.peak / 1e6, ".0f", ""),
        "",
        f"| {kind}: hits, p50 / p99 ms | {head} | ratio, p50 / p99 |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for what in few.times:
        ours, base = all_.times[what], few.times[what]
        told = [f"{quantile(t, 0.5):.2f} / {quantile(t, 0.99):.2f}" for t in (base, ours)]
        share = [f"{quantile(ours, q) / quantile(base, q):.2f}" for q in (0.5, 0.99)]
        lines.append(f"| {what} | {told[0]} | {told[1]} | {' / '.join(share)} |")
    return "\n".join(lines) + "\n"


async def run(kind: str, plan: Plan, data: Path, cache: Path) -> list[Gateway]:
    """Both gateways on stores of one kind, measured."""
    given = contents.asked(data, min(plan.distinct, plan.entries), plan.near, cache)
    _say(
        f"{len(given.texts):,} distinct questions, {len(given.near):,} of them with another wording that hits"
    )
    with tempfile.TemporaryDirectory() as folder:
        return await measure(kind, given, plan, Path(folder), cache / "model")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenants", type=int, default=FULL.tenants)
    parser.add_argument("--entries", type=int, default=FULL.entries, help="of all tenants together")
    parser.add_argument("--small", action="store_true", help="20 tenants, 2,000 entries: whether it works")
    parser.add_argument("--store", nargs="+", choices=("sqlite", "redis"), default=["sqlite", "redis"])
    parser.add_argument("--cache", type=Path, help="folder that keeps the exported model and the vectors")
    options = parser.parse_args()
    plan = FULL
    if options.small:
        plan = SMALL
    elif (options.tenants, options.entries) != (FULL.tenants, FULL.entries):
        plan = Plan(options.tenants, options.entries, FULL.distinct, FULL.near, FULL.asks, FULL.rounds)
    data = Path(os.environ.get("GATEWAY_DATA", ROOT / ".." / "shared" / "data"))
    print(f"{plan.tenants:,} tenants configured, {plan.few:,} of them with entries in the small store. Every tenant has {plan.each} of "
          f"{min(plan.distinct, plan.entries):,} distinct questions.\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        for kind in options.store:
            found = asyncio.run(run(kind, plan, data, options.cache or Path(temporary)))
            print(tables(kind, *found), flush=True)


if __name__ == "__main__":
    main()
