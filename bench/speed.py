"""How fast the gateway is, as ratios against references measured in the same run.

    python -m bench.speed [--seconds 3] [--rounds 3] [--out bench/results]

Every comparison alternates the two sides round by round and takes the median ratio, because the speed of a
shared machine drifts. Prints one Markdown table and writes it.
"""

import argparse
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOOK = """
categories:
  - name: code
    examples: ["How do I reverse a list in Python?", "Write a SQL query that joins two tables"]
    cache: {mode: semantic, threshold: 0.95, ttl: 1d}
  - name: default
    cache: {mode: semantic, threshold: 0.95, ttl: 1d}
"""
SUBJECTS = ("invoices", "bridges", "volcanoes", "violins", "passports", "batteries", "orchards", "glaciers")
VERBS = ("repair", "describe", "compare", "measure", "photograph", "transport", "inspect", "catalogue")
PLACES = ("Norway", "Chile", "Kenya", "Japan", "Canada", "Portugal", "Nepal", "Greece")


@dataclass
class Row:
    what: str
    value: str
    mark: str
    met: bool


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server of `bench.servers` in a process of its own."""

    def __init__(self, what: str, port: int, *options: str) -> None:
        self.port = port
        self.stall_ms = 0.0
        command = [sys.executable, "-m", "bench.servers", what, "--port", str(port), *options]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )  # access lines are made and written, to nowhere
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{what} did not start")

    def reset_stalls(self) -> None:
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """End the process, and keep the longest stall of its loop."""
        self._process.terminate()
        assert self._process.stdout is not None
        self.stall_ms = float(json.loads(self._process.stdout.readline())["stall_ms"])
        self._process.kill()
        self._process.wait()


@contextmanager
def gateway(folder: Path, engine: int, **embedder: Any) -> Iterator[Server]:
    """A gateway on SQLite with the default embedder."""
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "policies").mkdir()
    (place / "policies" / "book.yaml").write_text(BOOK)
    port = free_port()
    config = {
        "listen": {"port": port},
        "admin": {"port": 0},
        "models": [{"name": "*", "backends": [{"url": f"http://127.0.0.1:{engine}/v1"}]}],
        "store": {"kind": "sqlite", "path": str(place / "gateway.db")},
        "policies": str(place / "policies"),
        "embedder": {"deadline": 10.0, "queue": 4096, **embedder},
    }
    (place / "gateway.yaml").write_text(json.dumps(config))
    server = Server("gateway", port, "--config", str(place / "gateway.yaml"))
    try:
        yield server
    finally:
        server.stop()


OFF = "x-gateway-cache: off"  # forward only


def load(
    port: int, bodies: list[bytes], concurrency: int, seconds: float, *, once: bool = False, header: str = ""
) -> dict[str, Any]:
    """Run the generator in its own process."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b"\n".join(bodies))
        file.flush()
        command = [sys.executable, "-m", "bench.load", "--port", str(port), "--bodies", file.name]
        command += ["--concurrency", str(concurrency), "--seconds", str(seconds), "--header", header]
        command += ["--once"] if once else []
        result: dict[str, Any] = json.loads(subprocess.check_output(command))
    if result["failed"] or not result["requests"]:
        raise SystemExit(f"{result['failed']} of {result['requests']} requests failed")
    return result


def body(question: str, **extra: Any) -> bytes:
    fields = {
        "model": "bench",
        "messages": [
            {
                "role": "system",
                "content": "You are a helpful assistant. Answer briefly and say when you are unsure.",
            },
            {"role": "user", "content": question},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
        **extra,
    }
    return json.dumps(fields).encode()


def questions(count: int, seed: int) -> list[str]:
    """Distinct questions of about 13 tokens that no guard confuses."""
    rng = random.Random(seed)
    return [
        f"How would you {rng.choice(VERBS)} {rng.choice(SUBJECTS)} number {rng.randrange(10**6)} in {rng.choice(PLACES)}?"
        for _ in range(count)
    ]


def ratio(
    rounds: int, ours: Callable[[], float], theirs: Callable[[], float]
) -> tuple[float, list[float], list[float]]:
    """Alternate both sides; the median of the pairwise ratios, and both series."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return statistics.median(a / b for a, b in pairs), [a for a, _ in pairs], [b for _, b in pairs]


def throughput(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """Exact hits against a bare handler, forwards against a bare proxy, and the loop's stalls under both."""
    engine = Server("engine", free_port())
    bare = Server("bare", free_port())
    proxy = Server("proxy", free_port(), "--upstream", f"http://127.0.0.1:{engine.port}")
    rows = []
    with gateway(folder, engine.port) as ours:
        hit = [body("How do I reverse a list in Python?")]
        load(ours.port, hit, 1, 1.0)
        time.sleep(0.5)
        plain = [body("How do I reverse a list in Python?")]
        for server, warm in ((ours, hit), (bare, plain), (proxy, plain)):
            load(server.port, warm, 16, 1.0)
            server.reset_stalls()
        for concurrency in (1, 16):
            share, a, b = ratio(
                rounds,
                lambda c=concurrency: load(ours.port, hit, c, seconds)["rps"],
                lambda c=concurrency: load(bare.port, plain, c, seconds)["rps"],
            )
            rows.append(
                Row(
                    f"exact hit, throughput against the bare handler, {concurrency} connections",
                    f"{share:.2f} ({statistics.median(a):,.0f} / {statistics.median(b):,.0f} a second)",
                    "≥ 0.60",
                    share >= 0.6,
                )
            )
        for concurrency in (1, 16):
            share, a, b = ratio(
                rounds,
                lambda c=concurrency: load(ours.port, plain, c, seconds, header=OFF)["rps"],
                lambda c=concurrency: load(proxy.port, plain, c, seconds)["rps"],
            )
            rows.append(
                Row(
                    f"forward, throughput against the bare proxy, {concurrency} connections",
                    f"{share:.2f} ({statistics.median(a):,.0f} / {statistics.median(b):,.0f} a second)",
                    "≥ 0.70",
                    share >= 0.7,
                )
            )
    for server in (bare, proxy, engine):
        server.stop()
    beyond = ours.stall_ms - bare.stall_ms
    rows.append(
        Row(
            "longest event-loop stall under load, beyond the bare handler's",
            f"{beyond:+.1f} ms ({ours.stall_ms:.1f} / {bare.stall_ms:.1f} ms)",
            "≤ +10 ms",
            beyond <= 10,
        )
    )
    return rows


def latency(folder: Path, rounds: int) -> list[Row]:
    """One client at a time: what a semantic hit and a miss cost beyond the embedding itself."""
    from gateway.embedding.sentence import SentenceEmbedder

    engine = Server("engine", free_port())
    embedder = SentenceEmbedder("auto", "onnx-int8", cache=Path.home() / ".cache" / "semantic-gateway")
    asked = questions(300, seed=1)

    def embed_alone(pause: float) -> float:
        """p50 in milliseconds; a closed loop of requests leaves the processor idle between two embeddings too."""
        for text in asked[:20]:
            embedder.encode([text])
        times = []
        for text in asked:
            time.sleep(pause)
            started = time.perf_counter()
            embedder.encode([text])
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1000

    rows = []
    with gateway(folder, engine.port) as ours:
        load(ours.port, [body(q) for q in asked], 4, 60.0, once=True)
        time.sleep(1.0)
        series: dict[str, list[float]] = {"hit": [], "miss": [], "off": [], "alone": [], "paced": []}
        for turn in range(rounds):
            rephrased = [
                body(f"{q[:-1]} please {'now ' * turn}?".replace("How would", "How could")) for q in asked
            ]
            found = load(ours.port, rephrased, 1, 60.0, once=True)
            hits = found["decisions"].get("reuse", 0)
            if hits < 0.9 * len(asked):
                raise SystemExit(f"only {hits} of {len(asked)} rephrased questions were semantic hits")
            series["hit"].append(found["p50"])
            fresh = [body(q) for q in questions(300, seed=100 + turn)]
            series["miss"].append(load(ours.port, fresh, 1, 60.0, once=True)["p50"])
            series["off"].append(load(ours.port, [body(asked[0])], 1, 2.0, header=OFF)["p50"])
            series["alone"].append(embed_alone(0.0))
            series["paced"].append(embed_alone(series["off"][-1] / 1000))
    engine.stop()
    middle = {name: statistics.median(values) for name, values in series.items()}
    for alone, how in (("alone", "in a tight loop"), ("paced", "at the same pace")):
        hit = statistics.median(h - e for h, e in zip(series["hit"], series[alone], strict=True))
        beyond = zip(series["miss"], series["off"], series[alone], strict=True)
        miss = statistics.median(m - o - e for m, o, e in beyond)
        rows.append(
            Row(
                f"semantic hit, p50 beyond the embedding alone {how}, 1 connection",
                f"{hit:+.2f} ms ({middle['hit']:.2f} / {middle[alone]:.2f} ms)",
                "≤ +1 ms",
                hit <= 1.0,
            )
        )
        rows.append(
            Row(
                f"miss, p50 beyond forwarding and the embedding alone {how}, 1 connection",
                f"{miss:+.2f} ms ({middle['miss']:.2f} / {middle['off']:.2f} + {middle[alone]:.2f} ms)",
                "≤ +1 ms",
                miss <= 1.0,
            )
        )
    return rows


def batching(folder: Path, rounds: int) -> list[Row]:
    """Distinct questions at once: micro-batches against one by one."""
    engine = Server("engine", free_port())
    rows, seed = [], 1000
    with gateway(folder, engine.port) as batched, gateway(folder, engine.port, batch=1) as single:

        def rps(server: Server, concurrency: int, count: int) -> float:
            nonlocal seed
            seed += 1
            fresh = [body(q, cache={"no-store": True}) for q in questions(count, seed)]
            return float(load(server.port, fresh, concurrency, 60.0, once=True)["rps"])

        for concurrency, count, mark in ((32, 1500, 1.3), (1, 400, 0.95)):
            rps(batched, concurrency, 200), rps(single, concurrency, 200)
            share, a, b = ratio(
                rounds,
                lambda c=concurrency, n=count: rps(batched, c, n),
                lambda c=concurrency, n=count: rps(single, c, n),
            )
            rows.append(
                Row(
                    f"micro-batching against one by one, {concurrency} distinct queries at once",
                    f"{share:.2f} ({statistics.median(a):,.0f} / {statistics.median(b):,.0f} a second)",
                    f"≥ {mark}" if concurrency > 1 else "never worse",
                    share >= mark,
                )
            )
    engine.stop()
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| what | measured | mark | |", "|---|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {r.what} | {r.value} | {r.mark} | {'met' if r.met else 'short'} |" for r in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("throughput", "latency", "batching", "memory"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    from bench.memory import memory

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        parts: dict[str, Callable[[], list[Row]]] = {
            "throughput": lambda: throughput(folder, options.rounds, options.seconds),
            "latency": lambda: latency(folder, options.rounds),
            "batching": lambda: batching(folder, options.rounds),
            "memory": lambda: [Row(*memory())],
        }
        for name, part in parts.items():
            if options.only in (None, name):
                rows += part()
    print(table(rows))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "speed.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
