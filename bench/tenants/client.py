"""Asks as tenants do, and believes nothing: every answer must be a hit of the kind expected, and the asker's own."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass


class NotAHit(Exception):
    """An answer that should have been a hit, and was something else or somebody else's."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as bytes, and what its answer must say."""

    request: bytes
    how: bytes
    marker: bytes


def ask(key: str, body: bytes, how: str, marker: bytes) -> Ask:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Ask(head.encode() + body, how.encode(), marker)


async def paced(port: int, asks: Sequence[Ask], pace: float) -> list[float]:
    """One connection, a request every `pace` seconds, or as soon as the last is answered; seconds each took."""
    times: list[float] = []
    with _undisturbed():
        async with _connection(port) as connection:
            for each in asks:
                begun = time.perf_counter()
                times.append(await _once(*connection, each))
                await asyncio.sleep(max(0.0, pace - (time.perf_counter() - begun)))
    return times


async def together(port: int, asks: Sequence[Ask], connections: int) -> list[float]:
    """Several connections, each with its next request as soon as its last is answered; seconds each took."""
    waiting = iter(asks)

    async def one() -> list[float]:
        async with _connection(port) as connection:
            return [await _once(*connection, each) for each in waiting]

    with _undisturbed():
        found = await asyncio.gather(*(one() for _ in range(connections)))
    return [seconds for times in found for seconds in times]


async def _once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, each: Ask) -> float:
    begun = time.perf_counter()
    writer.write(each.request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(_header(head, b"content-length")))
    seconds = time.perf_counter() - begun
    if not head.startswith(b"http/1.1 200") or _header(head, b"x-gateway-how") != each.how:
        raise NotAHit(f"not the {each.how.decode()} hit expected: {head.decode()}{body[:500].decode()}")
    if each.marker not in body:
        raise NotAHit(f"not the asker's own: {each.marker.decode()} is missing in {body[:500].decode()}")
    return seconds


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n%b:" % name)[2].partition(b"\r\n")[0].strip()


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No collection of this process' own in the figures."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
