"""A closed-loop HTTP load generator, cheap enough not to be what is measured.

    python -m bench.load --port 8080 --path /v1/chat/completions --bodies bodies.jsonl --concurrency 8 --seconds 3

Each connection sends its next request as soon as the answer to its last is whole. Prints one JSON line.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer bench\r\nContent-Type: application/json\r\n"


@dataclass
class Tally:
    """What all connections together have seen."""

    latencies: list[float]
    failed: int = 0
    decisions: dict[str, int] | None = None


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(
        self, requests: Iterator[bytes], tally: Tally, deadline: float, done: asyncio.Future[None]
    ) -> None:
        self._requests = requests
        self._tally = tally
        self._deadline = deadline
        self._done = done
        self._buffer = b""
        self._transport: Any = None
        self._sent = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        request = None if time.perf_counter() > self._deadline else next(self._requests, None)
        if request is None:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            raise RuntimeError(f"answers must have a length: {head[:200]!r}")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._tally.latencies.append(time.perf_counter() - self._sent)
        self._tally.failed += not head.startswith(b"http/1.1 200")
        at = head.find(b"x-gateway-decision:")
        if at >= 0 and self._tally.decisions is not None:
            word = head[at + 19 :].split(b"\r\n", 1)[0].strip().decode()
            self._tally.decisions[word] = self._tally.decisions.get(word, 0) + 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def run(
    port: int, path: str, bodies: list[bytes], concurrency: int, seconds: float, once: bool
) -> Tally:
    head = HEAD.format(path=path).encode()
    prepared = [head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
    requests = iter(prepared) if once else itertools.cycle(prepared)
    tally = Tally([], decisions={})
    loop = asyncio.get_running_loop()
    deadline = time.perf_counter() + seconds
    ends = [loop.create_future() for _ in range(concurrency)]
    for end in ends:
        await loop.create_connection(
            lambda end=end: Connection(requests, tally, deadline, end), "127.0.0.1", port
        )
    await asyncio.gather(*ends)
    return tally


def summary(tally: Tally, elapsed: float) -> dict[str, object]:
    """Requests a second, and latencies in milliseconds."""
    ordered = sorted(tally.latencies)

    def at(share: float) -> float:
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 4) if ordered else 0.0

    return {
        "requests": len(ordered),
        "failed": tally.failed,
        "rps": round(len(ordered) / elapsed, 1),
        "p50": at(0.50),
        "p99": at(0.99),
        "max": at(1.0),
        "decisions": tally.decisions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--header", default="", help="one more request header")
    parser.add_argument("--bodies", type=Path, required=True, help="one request body a line")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--once", action="store_true", help="stop when every body has been sent once")
    options = parser.parse_args()
    bodies = options.bodies.read_bytes().splitlines()
    try:
        import uvloop

        runner = uvloop.run
    except ImportError:
        runner = asyncio.run
    started = time.perf_counter()
    tally = runner(
        run(
            options.port,
            options.path,
            options.header,
            bodies,
            options.concurrency,
            options.seconds,
            options.once,
        )
    )
    print(json.dumps(summary(tally, time.perf_counter() - started)))


if __name__ == "__main__":
    main()
