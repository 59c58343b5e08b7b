"""How fast a cache is warmed, exported and imported, and what requests feel of it.

    python -m bench.transfer --entries 10000

Two gateways of their own processes on SQLite; the commands are the shipped ones. Beside each, one client asks for
the same exact hit every 20 ms.
"""

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

THINGS = (
    "bridge",
    "violin",
    "reactor",
    "harvest",
    "glacier",
    "contract",
    "vaccine",
    "engine",
    "poem",
    "tariff",
)
PLACES = ("Norway", "Peru", "Japan", "Kenya", "Canada", "Greece", "Vietnam", "Chile", "Poland", "Morocco")
ASKED = (
    "How is a {} made in {}?",
    "Who may own a {} in {}?",
    "What does a {} cost in {}?",
    "When was the first {} seen in {}?",
)
HIT = {"question": "What is the capital of France?", "answer": "Paris."}


def lines(count: int) -> Iterator[str]:
    """Questions that differ, with answers of some 600 characters."""
    yield json.dumps(HIT)
    for n in range(count - 1):
        question = ASKED[n % 4].format(f"{THINGS[n // 4 % 10]} of type {n}", PLACES[n // 40 % 10])
        yield json.dumps({"question": question, "answer": f"It is answer {n}. " * 35})


@contextmanager
def gateway(folder: Path, name: str, cache: Path) -> Iterator[tuple[Path, int]]:
    """A served gateway: its configuration file and its data port."""
    ports = []
    for _ in range(2):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            ports.append(unused.getsockname()[1])
    file = folder / f"{name}.yaml"
    tree = {
        "listen": {"port": ports[0]},
        "admin": {"port": ports[1]},
        "models": [{"name": "*", "backends": [{"url": "http://127.0.0.1:9/v1", "metrics": "off"}]}],
        "tenants": [{"name": "bench", "keys": ["key"]}],
        "store": {"path": f"{name}.db"},
        "embedder": {"cache": str(cache)},
        "log": {"level": "error"},
    }
    file.write_text(yaml.safe_dump(tree))
    process = subprocess.Popen([sys.executable, "-m", "gateway", "serve", "--config", str(file)])
    try:
        while not ready(ports[0]):
            time.sleep(0.2)
        yield file, ports[0]
    finally:
        process.terminate()
        process.wait(60)


def ready(port: int, seconds: float = 5.0) -> bool:
    """Whether the gateway there says so; `seconds`: how long it may take to answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Client:
    """Asks for one exact hit again and again, and keeps the milliseconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.times: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": HIT["question"]}]})
        headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._over.wait(0.02):
            started = time.perf_counter()
            connection.request("POST", "/v1/chat/completions", body, headers)
            answered = connection.getresponse()
            answered.read()
            if answered.status == 200:
                self.times.append((time.perf_counter() - started) * 1000)


def step(name: str, port: int, entries: int, *arguments: object) -> None:
    """Run a command beside the client, and print a line of the table."""
    with Client(port) as client:
        started = time.perf_counter()
        command = [sys.executable, "-m", "gateway", "cache", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    p50 = statistics.median(client.times) if client.times else float("nan")
    p99 = sorted(client.times)[int(len(client.times) * 0.99)] if client.times else float("nan")
    print(f"| {name} | {seconds:.1f} | {entries / seconds:,.0f} | {p50:.1f} / {p99:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--cache", type=Path, help="folder of the exported embedding model")
    options = parser.parse_args()
    count: int = options.entries
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = options.cache or folder / "model"
        (folder / "faq.jsonl").write_text("".join(f"{line}\n" for line in lines(count)))
        (folder / "one.jsonl").write_text(json.dumps(HIT) + "\n")
        out = folder / "out.jsonl.gz"
        print(
            "| command | seconds | entries a second | an exact hit beside it, p50 / p99 ms |\n|---|---|---|---|"
        )
        whose = ("--model", "m", "--tenant", "bench")
        with gateway(folder, "one", cache) as (one, port):
            subprocess.run(
                [sys.executable, "-m", "gateway", "cache", "warm", folder / "one.jsonl", "--config", one, *whose],
                check=True, capture_output=True,
            )  # fmt: skip
            with Client(port) as client:
                time.sleep(5)
            p99 = sorted(client.times)[int(len(client.times) * 0.99)]
            print(f"| nothing | | | {statistics.median(client.times):.1f} / {p99:.1f} |")
            step("warm", port, count, "warm", folder / "faq.jsonl", "--config", one, *whose)
            step(
                "warm again: all present", port, count, "warm", folder / "faq.jsonl", "--config", one, *whose
            )
            step("export .jsonl", port, count, "export", "--config", one, "--out", folder / "out.jsonl")
            step("export .jsonl.gz", port, count, "export", "--config", one, "--out", out)
        with gateway(folder, "two", cache) as (two, port):
            step("import .jsonl.gz", port, count, "import", "--config", two, out)
            step("import again: all present", port, count, "import", "--config", two, out)
        sizes = [(folder / "out.jsonl").stat().st_size / 1e6, out.stat().st_size / 1e6]
        print(f"\n{count} entries: {sizes[0]:.1f} MB, packed {sizes[1]:.1f} MB")


if __name__ == "__main__":
    main()
