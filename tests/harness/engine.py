"""A serving engine in a process of its own, that can be killed, stopped and told to misbehave.

    python -m tests.harness.engine --port N

`POST /behave {"how": ...}`: `well`, `error` (500), `refuse` (429), `cut` (in the middle of a body), `trickle` (a
byte a second).
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent.parent
_WATCH = web.AppKey("watch", asyncio.Task)
_SECONDS = 0.02  # an answer takes so long, and so long a piece of it


class EngineProcess:
    """The engine as a test holds it; the port stays the same over restarts."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.engine", "--port", str(self.port)], cwd=ROOT
        )

    def wait(self, seconds: float = 20.0) -> "EngineProcess":
        """Until it listens."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the engine does not start")

    def behave(self, how: str) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/behave",
            json.dumps({"how": how}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=5).close()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def hang(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class _Engine:
    def __init__(self) -> None:
        self._how = "well"
        self._told = asyncio.Event()
        self.left = 0  # clients that did

    async def behave(self, request: web.Request) -> web.Response:
        self._how = (await request.json())["how"]
        self._told.set()
        self._told = asyncio.Event()
        return web.Response()

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        await asyncio.sleep(_SECONDS)
        if self._how == "error":
            return web.json_response({"error": {"message": "scripted"}}, status=500)
        if self._how == "refuse":
            return web.json_response({"error": {"message": "busy"}}, status=429, headers={"Retry-After": "1"})
        pieces = _events() if asked.get("stream") else _halves()
        kind = "text/event-stream" if asked.get("stream") else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        try:
            await response.prepare(request)
            for place, piece in enumerate(pieces):
                if self._how == "cut" and place == len(pieces) // 2:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await self._write(response, piece)
            await response.write_eof()
        except ConnectionError:
            self.left += 1
        return response

    async def _write(self, response: web.StreamResponse, piece: bytes) -> None:
        while self._how == "trickle" and piece:
            await response.write(piece[:1])
            piece = piece[1:]
            await self._changed(1.0)
        if piece:
            await response.write(piece)
        await asyncio.sleep(_SECONDS)

    async def _changed(self, seconds: float) -> None:
        """Until it is told something else, or so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._told.wait(), seconds)


def _halves() -> list[bytes]:
    message = {"role": "assistant", "content": "An answer of some words. " * 20}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 100, "total_tokens": 105}
    whole = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    raw = json.dumps(whole).encode()
    return [raw[:100], raw[100:]]


def _events() -> list[bytes]:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas = [{"role": "assistant", "content": ""}, *({"content": f"word {i} "} for i in range(4)), {}]
    return [
        *(
            f"data: {json.dumps({**base, 'choices': [{'index': 0, 'delta': d, 'finish_reason': None if d else 'stop'}]})}\n\n".encode()
            for d in deltas
        ),
        b"data: [DONE]\n\n",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    engine, app = _Engine(), web.Application()
    app.router.add_post("/behave", engine.behave)
    app.router.add_get("/v1/models", engine.models)
    app.router.add_post("/v1/chat/completions", engine.chat)
    app.on_startup.append(_watch_parent)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None, access_log=None)


async def _watch_parent(app: web.Application) -> None:
    """A test run that is killed leaves no engine behind."""
    parent = os.getppid()

    async def watch() -> None:
        while os.getppid() == parent:
            await asyncio.sleep(1.0)
        os._exit(0)

    app[_WATCH] = asyncio.get_running_loop().create_task(watch())


if __name__ == "__main__":
    main()
