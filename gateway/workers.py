"""Several gateways on one port: a parent that holds the socket, starts the workers, and speaks for them to operators.

The parent holds the listening socket, rather than each worker one of its own (SO_REUSEPORT): connections that wait when
a worker dies are taken by the others, and the port stays open while one is started again. It decides when a worker is
started again, and what of the admin port goes to one worker and what to all. It must never answer for the workers what
only they know, nor keep a request's or an answer's contents.
"""

import asyncio
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, UnixConnector, web
from multidict import CIMultiDict
from yarl import URL

from gateway import log as logs
from gateway.config import Config, ConfigFault
from gateway.metrics import CONTENT_TYPE

log = logging.getLogger("gateway.workers")
_BACKLOG = 1024
_PAUSES = (0.5, 30.0)  # seconds before a dead worker is started again: at first, and at most
_WELL = 60.0  # seconds after which a worker's end begins a new row
_GRACE = 15.0  # seconds beyond the drain before a worker is killed
_MAX_BODY = 8 << 20
_HOP = frozenset(("connection", "transfer-encoding", "keep-alive", "content-length", "upgrade", "te"))
_FOR_ALL = re.compile(r"/backends/.+/(drain|enable)|/policies/reload")


class Worker:
    """One of them, by its number; started again whenever it ends."""

    def __init__(self, number: int, folder: Path, command: Sequence[str], listening: socket.socket) -> None:
        self.number = number
        self.path = folder / f"admin-{number}.sock"
        self._command = [
            *command,
            "--worker-socket",
            str(listening.fileno()),
            "--worker-admin",
            str(self.path),
            "--worker-parent",
            str(os.getpid()),
        ]
        self._listening = listening
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.restarts = 0
        self.session = ClientSession(
            connector=UnixConnector(str(self.path)), auto_decompress=False, timeout=ClientTimeout(total=60)
        )

    async def run(self) -> None:
        """Keep it alive until it is told to stop."""
        pause, longest = _PAUSES
        while not self._stopping:
            started = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, pass_fds=(self._listening.fileno(),)
            )
            code = await self._process.wait()
            if self._stopping:
                return
            self.restarts += 1
            pause = _PAUSES[0] if time.monotonic() - started > _WELL else pause
            log.error("worker %d ended with %d, to be started again in %g s", self.number, code, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGKILL):
            self._stopping = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


class Workers:
    """All of them, and the admin port in front."""

    def __init__(self, config: Config, count: int, command: Sequence[str]) -> None:
        if config.store.kind == "memory":
            raise ConfigFault(
                "command line", [("--workers", "workers share nothing with store.kind: memory")]
            )
        self._config, self._count, self._command = config, count, command
        self._workers: list[Worker] = []

    async def serve(self) -> int:
        """Run until SIGTERM or SIGINT, then let all of them drain. Returns the exit code."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._tell, signal.SIGHUP)
        listening = _listen(self._config.listen.host, self._config.listen.port)
        with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
            self._workers = [
                Worker(number, Path(folder), self._command, listening) for number in range(self._count)
            ]
            running = [asyncio.create_task(worker.run()) for worker in self._workers]
            admin = await self._admin()
            log.info(
                "listening", extra={"fields": {"workers": self._count, "port": listening.getsockname()[1]}}
            )
            await stop.wait()
            listening.close()
            await self._stop(running)
            await admin.cleanup()
            for worker in self._workers:
                await worker.session.close()
        return 0

    async def _stop(self, running: Sequence["asyncio.Task[None]"]) -> None:
        self._tell(signal.SIGTERM)
        for worker, task in zip(self._workers, running, strict=True):
            if not worker.alive:
                task.cancel()  # it waits to be started again
        _, late = await asyncio.wait(running, timeout=self._config.limits.drain_seconds + _GRACE)
        if late:
            log.error("%d workers do not end, and are killed", len(late))
            self._tell(signal.SIGKILL)
            await asyncio.wait(late)

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.signal(number)

    # ── the admin port ──────────────────────────────────────────────────────────────────────────────────

    async def _admin(self) -> web.AppRunner:
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, self._config.admin.host, self._config.admin.port).start()
        return runner

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/metrics":
            return await self._metrics(request)
        if request.method == "POST" and _FOR_ALL.fullmatch(request.path):
            return await self._all(request, body)
        return await self._one(request, body)

    async def _one(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """From the worker that `?worker=` names, or the first that answers. A health check looks for one that is well."""
        named, unwell = request.query.get("worker"), None
        for worker in self._workers:
            if named not in (None, str(worker.number)):
                continue
            try:
                async with _asked(worker, request, body) as got:
                    if request.path in ("/readyz", "/health") and got.status != 200:
                        unwell = web.Response(body=await got.read(), status=got.status, headers=_back(got))
                        continue
                    response = web.StreamResponse(status=got.status, headers=_back(got))
                    await response.prepare(request)
                    async for piece in got.content.iter_any():
                        await response.write(piece)
                    await response.write_eof()
                    return response
            except ClientError as error:
                log.warning("worker %d does not answer: %s", worker.number, type(error).__name__)
        return unwell or _error(503, "No worker answers.", "no_worker")

    async def _all(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """To every worker; the first refusal is the answer, or the last success."""
        answer: web.Response | None = None
        for worker in self._workers:
            try:
                async with _asked(worker, request, body) as got:
                    if answer is None or answer.status < 400:
                        answer = web.Response(body=await got.read(), status=got.status, headers=_back(got))
            except ClientError as error:
                log.warning("worker %d was not told: %s", worker.number, type(error).__name__)
        return answer or _error(503, "No worker answers.", "no_worker")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        """Every worker's, told apart by a label; those that only share a store are the same in all."""
        pages: dict[str, str] = {}
        for worker in self._workers:
            try:
                async with _asked(worker, request, b"") as got:
                    page = await got.read()
                    if got.status != 200:
                        return web.Response(body=page, status=got.status, headers=_back(got))
                    pages[str(worker.number)] = page.decode()
            except ClientError as error:
                log.warning("worker %d is not scraped: %s", worker.number, type(error).__name__)
        restarts = {str(worker.number): worker.restarts for worker in self._workers}
        return web.Response(text=merged(pages, restarts), headers={"Content-Type": CONTENT_TYPE})


def merged(pages: Mapping[str, str], restarts: Mapping[str, int]) -> str:
    """Prometheus pages of several workers as one, each sample with its worker as a label."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for worker, page in pages.items():
        head: list[str] = []
        samples: list[str] = []
        for line in page.splitlines():
            if line.startswith("# HELP "):
                known, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
                head = [] if known else known  # another worker has told already
                head.append(line)
            elif line.startswith("#"):
                head.append(line)
            elif line:
                samples.append(_labelled(line, worker))
    told = [line for head, samples in families.values() for line in (*head, *samples)]
    told += ["# HELP gateway_worker_up 1 while the worker answers.", "# TYPE gateway_worker_up gauge"]
    told += [f'gateway_worker_up{{worker="{worker}"}} {int(worker in pages)}' for worker in restarts]
    told += [
        "# HELP gateway_worker_restarts_total Times it ended.",
        "# TYPE gateway_worker_restarts_total counter",
    ]
    told += [f'gateway_worker_restarts_total{{worker="{worker}"}} {n}' for worker, n in restarts.items()]
    return "\n".join(told) + "\n"


def _labelled(sample: str, worker: str) -> str:
    brace, space = sample.find("{"), sample.find(" ")
    if 0 < brace < space or (brace > 0 and space < 0):
        return f'{sample[:brace]}{{worker="{worker}",{sample[brace + 1 :]}'
    return f'{sample[:space]}{{worker="{worker}"}}{sample[space:]}'


def _asked(worker: Worker, request: web.Request, body: bytes) -> AbstractAsyncContextManager[ClientResponse]:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
    headers["X-Forwarded-For"] = request.remote or ""
    query = "&".join(part for part in request.query_string.split("&") if not part.startswith("worker="))
    url = f"http://worker{request.raw_path.partition('?')[0]}{'?' + query if query else ''}"
    return worker.session.request(
        request.method, URL(url, encoded=True), data=body or None, headers=headers, allow_redirects=False
    )


def _back(got: ClientResponse) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in got.headers.items() if name.lower() not in _HOP)


def _error(status: int, message: str, code: str) -> web.Response:
    error = {"message": message, "type": "api_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listening.setblocking(False)
    return listening


async def serve(config: Config, count: int, arguments: Sequence[str]) -> int:
    """`arguments`: of the command line, for the workers to be started with."""
    listener = logs.start(config.log.level)
    try:
        return await Workers(config, count, [sys.executable, "-m", "gateway", *arguments]).serve()
    finally:
        listener.stop()
