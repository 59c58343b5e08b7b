"""Recorded arrivals, laid over one another and compressed until they ask for a given share of a fleet's capacity."""

import gzip
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import orjson

from bench.fleet.engine import Engine, Job

TRACES = ("azure_llm_2023_conv", "azure_llm_2023_code", "mooncake_conversation")
TENANTS = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float  # seconds
    prompt: int  # tokens
    output: int
    blocks: tuple[int, ...]
    tenant: str


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    rows: tuple[Arrival, ...]


def read(folder: Path, name: str, rng: Random) -> Trace:
    """A trace; its requests are given to tenants at random, the second half as often as the first, and so on."""
    rows = []
    with gzip.open(folder / f"{name}_trace.jsonl.gz", "rb") as lines:
        for row in map(orjson.loads, lines):
            rows.append((row["t"], row["input_tokens"], row["output_tokens"], tuple(row.get("hash_ids", ()))))
    weights = [1.0 for rank in range(TENANTS)]
    names = rng.choices([f"tenant-{i}" for i in range(TENANTS)], weights, k=len(rows))
    return Trace(name, tuple(Arrival(*row, tenant) for row, tenant in zip(rows, names, strict=True)))


def capacity(arrivals: Sequence[Arrival], speeds: Sequence[float]) -> float:
    """Seconds a fleet needs for all of it, by simulation: everything there at once, dealt out in proportion to
    speed, timed until four in five are done, so that the last ones on half-empty engines do not count."""
    ended: list[float] = []
    share = sum(speeds)
    engines = [Engine(speed) for speed in speeds]
    debts = [(0.0, place) for place in range(len(engines))]
    for a in arrivals:
        debt, place = heapq.heappop(debts)
        heapq.heappush(debts, (debt + share / speeds[place], place))
        engines[place].submit(Job(a.prompt, a.output, a.blocks, lambda now: None, ended.append), 0.0)
    for engine in engines:
        while engine.wake < math.inf:
            engine.run(engine.wake)
    return float(np.quantile(ended, 0.8)) / 0.8


def load(trace: Trace, speeds: Sequence[float], requests: int) -> tuple[list[Arrival], float]:
    """About that many arrivals for a fleet, and the seconds they would last at full utilisation.

    One stream for every four engines: stream i plays the trace from the fraction i/streams of its length on
    (in a circle), and all start together. `at` is scaled so that the last arrival is at 1.0.
    """
    rows, streams = trace.rows, max(1, len(speeds) // 4)
    each, span = max(1, requests // streams), rows[-1].at + 1.0
    laid = []
    for stream in range(streams):
        start = stream * len(rows) // streams
        for number in range(start, start + each):
            turn, place = divmod(number, len(rows))
            laid.append((rows[place].at + turn * span - rows[start].at, stream, place))
    laid.sort()
    last = laid[-1][0]
    arrivals = [replace(rows[place], at=at / last) for at, _, place in laid]
    return arrivals, capacity(arrivals, speeds)


def paced(arrivals: Sequence[Arrival], seconds: float) -> list[Arrival]:
    """The same, in that many seconds."""
    return [replace(a, at=a.at * seconds) for a in arrivals]
