"""A serving engine whose behaviour a test scripts: a real HTTP server with the OpenAI API.

Every answer carries the number of the call that made it, so that a reused answer can be told from a new one.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.harness.loop import LoopThread


@dataclass
class Seen:
    """One request as the engine got it."""

    method: str
    path: str
    headers: Any
    body: bytes
    number: int
    request: web.Request = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedBackend:
    """`script` may answer a request itself; otherwise the engine answers like any engine."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.cancelled = 0
        self.script: Callable[[Seen], Awaitable[web.StreamResponse | None]] | None = None
        self.delay = 0.0
        self.reply: Callable[[Seen], str] = lambda seen: f"answer {seen.number}"
        self.metrics: str | None = None  # the page at /metrics
        self.pause: asyncio.Event | None = None  # set: streams wait for it after their first piece
        self._numbers = itertools.count(1)
        self._loop = LoopThread()
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def calls(self) -> int:
        return len(self.seen)

    def start(self) -> None:
        """Listen; on the same port as before, if it was stopped."""
        self._loop.run(self._start())

    def stop(self) -> None:
        """Stop listening and cut every connection, as an engine that dies."""
        self._loop.run(self._runner.cleanup())

    def close(self) -> None:
        self.stop()
        self._loop.close()

    def call(self, action: Callable[[], Any]) -> None:
        """Run on the engine's loop: releasing a pause, for instance."""
        self._loop.loop.call_soon_threadsafe(action)

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/metrics":  # read beside the traffic, at any time
            return web.Response(status=404 if self.metrics is None else 200, text=self.metrics)
        seen = Seen(
            request.method,
            request.raw_path,
            request.headers,
            await request.read(),
            next(self._numbers),
            request,
        )
        self.seen.append(seen)
        try:
            if self.script is not None:
                answered = await self.script(seen)
                if answered is not None:
                    return answered
            await asyncio.sleep(self.delay)
            return await self._answer(seen)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _answer(self, seen: Seen) -> web.StreamResponse:
        path = seen.path.split("?")[0]
        if path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        if path == "/v1/chat/completions":
            return await self._chat(seen)
        if path == "/v1/completions":
            return web.json_response(
                self._whole(seen, "text_completion", {"text": self.reply(seen), "logprobs": None})
            )
        if path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.25, 0.5, float(seen.number)]}
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return web.json_response(
                {"object": "list", "data": [vector], "model": "scripted", "usage": usage}
            )
        if path == "/v1/responses":
            return web.json_response(self._response(seen))
        return web.json_response({"path": seen.path, "method": seen.method, "bytes": len(seen.body)})

    async def _chat(self, seen: Seen) -> web.StreamResponse:
        message = {"role": "assistant", "content": self.reply(seen)}
        if not seen.json.get("stream"):
            return web.json_response(self._whole(seen, "chat.completion", {"message": message}))
        return await self.sse(seen, self.chunks(seen))

    async def sse(self, seen: Seen, events: AsyncIterator[bytes]) -> web.StreamResponse:
        """Send events as they come."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(seen.request)
        async for event in events:
            await response.write(event)
        await response.write_eof()
        return response

    async def chunks(self, seen: Seen) -> AsyncIterator[bytes]:
        """A chat stream: the role, the words, the end, usage if asked for."""
        base = {
            "id": f"chatcmpl-{seen.number}",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "scripted",
        }

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return f"data: {json.dumps({**base, 'choices': [choice]})}\n\n".encode()

        yield chunk({"role": "assistant", "content": ""})
        for place, word in enumerate(self.reply(seen).split(" ")):
            if place == 1 and self.pause is not None:
                await self.pause.wait()
            yield chunk({"content": word if place == 0 else f" {word}"})
        yield chunk({}, "stop")
        if (seen.json.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            yield f"data: {json.dumps({**base, 'choices': [], 'usage': usage})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    def _whole(self, seen: Seen, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"cmpl-{seen.number}",
            "object": kind,
            "created": 1,
            "model": seen.json.get("model"),
            "choices": [
                {"index": i, **choice, "finish_reason": "stop"} for i in range(seen.json.get("n") or 1)
            ],
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": 3,
                "total_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 5},
            },
        }

    def _response(self, seen: Seen) -> dict[str, Any]:
        part = {"type": "output_text", "text": self.reply(seen), "annotations": [], "logprobs": []}
        message = {"type": "message", "id": f"msg_{seen.number}", "role": "assistant", "status": "completed"}
        return {
            "id": f"resp_{seen.number}",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": seen.json.get("model"),
            "output": [{**message, "content": [part]}],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 7,
                "output_tokens": 3,
                "total_tokens": 10,
                "input_tokens_details": {"cached_tokens": 5},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }
