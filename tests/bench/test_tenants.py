"""Many tenants on one gateway: the measurement runs, and every hit is a hit of the tenant that asked."""

import asyncio
import shutil
from pathlib import Path

import pytest

from bench.tenants.__main__ import Plan, run, tables
from bench.tenants.client import Ask, NotAHit, paced

TINY = Plan(tenants=20, entries=400, distinct=60, near=30, asks=10, rounds=1)


def test_few_and_many_are_measured_side_by_side(tmp_path: Path, model_cache: Path) -> None:
    shutil.copytree(model_cache, tmp_path / "model", ignore=shutil.ignore_patterns("lock"))
    few, many = asyncio.run(run("redis", TINY, tmp_path, tmp_path))
    assert (few.entries, many.entries) == (200, 400)
    assert {len(times) for times in many.times.values()} == {10, 40}
    told = tables("redis", few, many)
    assert "| redis | 200 entries | 400 entries | |" in told
    assert "| semantic |" in told


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"x-gateway-how: semantic\r\ncontent-length: 3\r\n\r\none", "not the exact hit"),
        (b"x-gateway-how: exact\r\ncontent-length: 3\r\n\r\ntwo", "not the asker's own"),
    ],
)
def test_an_answer_that_is_no_hit_or_anothers_is_no_figure(answer: bytes, fault: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
        writer.close()
        await writer.wait_closed()

    async def measured() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(NotAHit, match=fault):
                await paced(port, [Ask(b"POST / HTTP/1.1\r\n\r\n", b"exact", b"one")], 0)

    asyncio.run(measured())
