"""A serving engine that speaks Anthropic's Messages API, scripted like the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.harness.backend import ScriptedBackend, Seen

USAGE = {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 5}


class ScriptedAnthropic(ScriptedBackend):
    """Answers `/v1/messages`, whole and streamed, and counts tokens; anything else as the base does."""

    async def _answer(self, seen: Seen) -> web.StreamResponse:
        path = seen.path.split("?")[0]
        if path == "/v1/messages/count_tokens":
            return web.json_response({"input_tokens": 42})
        if path != "/v1/messages":
            return await super()._answer(seen)
        if seen.json.get("stream"):
            return await self.sse(seen, self.message_events(seen))
        return web.json_response(self.message(seen))

    def message(self, seen: Seen, *content: dict[str, Any], stop: str = "end_turn") -> dict[str, Any]:
        """A whole message; its content is the reply, unless other blocks are given."""
        return {
            "id": f"msg_{seen.number}",
            "type": "message",
            "role": "assistant",
            "model": seen.json["model"],
            "content": list(content) or [{"type": "text", "text": self.reply(seen)}],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": USAGE,
        }

    async def message_events(
        self, seen: Seen, *content: dict[str, Any], stop: str = "end_turn"
    ) -> AsyncIterator[bytes]:
        """Events as Anthropic sends them: usage in two parts, a ping, words or JSON in pieces."""
        whole = self.message(seen, *content, stop=stop)
        begun = {**whole, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
        yield event("message_start", message=begun)
        yield event("ping")
        for index, block in enumerate(whole["content"]):
            opened, deltas = _pieces(block)
            yield event("content_block_start", index=index, content_block=opened)
            for place, delta in enumerate(deltas):
                if place == 1 and self.pause is not None:
                    await self.pause.wait()
                yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        yield event("message_delta", delta=ended, usage={"output_tokens": 3})
        yield event("message_stop")
        await asyncio.sleep(0)


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            words = [word if not at else f" {word}" for at, word in enumerate(block["text"].split(" "))]
            return {**block, "text": ""}, [{"type": "text_delta", "text": word} for word in words]
        case "tool_use":
            text = json.dumps(block["input"]) if block["input"] else ""
            cuts = [text[at : at + 5] for at in range(0, len(text), 5)]
            deltas = [{"type": "input_json_delta", "partial_json": cut} for cut in ("", *cuts)]
            return {**block, "input": {}}, deltas
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "thinking": "", "signature": ""}, [*deltas, signed]
    return block, []
