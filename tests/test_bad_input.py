"""Whatever comes in: the right status and message in OpenAI's shape, nothing lost, the process stays up."""

import json
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import Running, ScriptedBackend

Start = Callable[..., Running]
PATH = "/v1/chat/completions"
GOOD = {"model": "m", "messages": [{"role": "user", "content": "What is the capital of France?"}]}


def refused(response: Any, status: int, code: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"]
    if code is not None:
        assert error["code"] == code
    return dict(error)


def send(gateway: Running, raw: bytes, **headers: str) -> Any:
    named = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return gateway.http.post(PATH, content=raw, headers=named)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\xff\xfe"}]}', "invalid_utf8"),
        (b'{"model": "m", "model": "n", "messages": [{"role": "user", "content": "x"}]}', "duplicate_key"),
        (b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", "nesting_too_deep"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "missing_required_parameter"),
        (b'{"model": "m"}', "missing_required_parameter"),
        (b'{"model": 5, "messages": [{"role": "user", "content": "x"}]}', "invalid_type"),
        (b'{"model": "m", "messages": "hello"}', "invalid_type"),
        (b'{"model": "m", "messages": []}', "empty_array"),
        (b'{"model": "m", "messages": ["hello"]}', "invalid_type"),
        (b'{"model": "m", "messages": [{"role": "user"}], "stream": "yes"}', "invalid_type"),
        (b'{"model": "m", "messages": [{"role": "user"}], "temperature": "hot"}', "invalid_type"),
        (b'{"model": "m", "messages": [{"role": "user"}], "temperature": NaN}', "invalid_json"),
        (b'{"model": "m", "messages": [{"role": "user"}], "cache": {"ttl": -1}}', "invalid_cache_control"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_bad_body_is_refused_without_a_call(
    gateway: Running, backend: ScriptedBackend, raw: bytes, code: str
) -> None:
    refused(send(gateway, raw), 400, code)
    assert backend.calls == 0
    assert gateway.ask("still there?").status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-gateway-cache", "maybe"),
        ("x-gateway-threshold", "2"),
        ("x-gateway-threshold", "nan"),
        ("x-gateway-cache-ttl", "-5"),
        ("x-gateway-tags", ",".join("abcdefghijklmnopqrstuvwxyz")),
        ("x-gateway-category", "x" * 1000),
    ],
)
def test_a_bad_control_header_is_named(gateway: Running, name: str, value: str) -> None:
    error = refused(gateway.http.post(PATH, json=GOOD, headers={name: value}), 400)
    assert name in error["message"]


def test_nul_bytes_and_odd_unicode_go_through_and_part_requests(
    gateway: Running, backend: ScriptedBackend
) -> None:
    for text in ("a\x00b", "a\x00c", "ﬁle", "file", "\u202eabc", "👩‍🔬 hi"):
        response = gateway.ask(text)
        assert response.status_code == 200
        assert backend.seen[-1].json["messages"][0]["content"] == text
        gateway.settle()
    assert backend.calls == 6


def test_a_large_body_is_refused_before_it_is_read(gateway: Running) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {100 << 20}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.app.ports["data"]), timeout=10) as raw:
        raw.sendall(head.encode())
        answer = raw.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert json.loads(answer.split("\r\n\r\n", 1)[1])["error"]["code"] == "request_too_large"


def test_a_large_chunked_body_is_cut_off(start: Start) -> None:
    gateway = start({"limits": {"body": 100_000}})

    def endless() -> Any:
        for _ in range(1000):
            yield b" " * 1000

    response = gateway.http.post(PATH, content=endless(), headers={"Content-Type": "application/json"})
    refused(response, 413, "request_too_large")


def test_a_slow_body_times_out(start: Start) -> None:
    gateway = start({"limits": {"body_seconds": 0.3}})
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", gateway.app.ports["data"]), timeout=10) as raw:
        raw.sendall(head.encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_slow_head_is_cut_off(start: Start) -> None:
    gateway = start({"limits": {"idle_seconds": 1.0}})
    with socket.create_connection(("127.0.0.1", gateway.app.ports["data"]), timeout=10) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        started = time.monotonic()
        assert raw.recv(65536) == b""
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "junk",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nonsense", "version", "long-header", "bad-header", "bad-length", "smuggling"],
)
def test_absurd_http_gets_a_400_in_the_same_shape(gateway: Running, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.app.ports["data"]), timeout=10) as raw:
        raw.sendall(junk)
        head, _, rest = raw.recv(65536).partition(b"\r\n\r\n")
    assert head.split(b" ", 1)[1].startswith(b"400"), head
    assert json.loads(rest)["error"]["type"] == "invalid_request_error"
    assert gateway.ask("still there?").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", PATH, 405),
        ("DELETE", "/v1/embeddings", 405),
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/policies", 404),
        ("POST", "/v2/chat/completions", 404),
        ("GET", "/v1/../metrics", 404),
        ("GET", "/v1/%2e%2e/secret", 404),
        ("GET", "/v1//evil", 404),
    ],
)
def test_wrong_paths_and_methods(
    gateway: Running, backend: ScriptedBackend, method: str, path: str, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", gateway.app.ports["data"]), timeout=10) as raw:
        raw.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    assert answer.startswith(f"HTTP/1.1 {status}".encode()), answer
    assert b'"error"' in answer
    assert backend.calls == 0


def test_another_content_type_is_refused(gateway: Running) -> None:
    refused(send(gateway, b"a=1", Content_Type="application/x-www-form-urlencoded"), 415)


def test_a_bad_request_id_is_replaced_and_a_good_one_kept(gateway: Running, backend: ScriptedBackend) -> None:
    assert gateway.ask("a question", x_request_id="mine-1").headers["x-request-id"] == "mine-1"
    assert backend.seen[-1].headers["X-Request-Id"] == "mine-1"
    made = gateway.ask("another question", x_request_id="bad id").headers["x-request-id"]
    assert made.startswith("req_")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
KEYS = (
    "model",
    "messages",
    "stream",
    "tools",
    "temperature",
    "n",
    "stream_options",
    "cache",
    "prompt",
    "input",
    "x",
)
bodies = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=8).map(
    lambda d: json.dumps(d).encode()
) | st.binary(max_size=60)


@pytest.mark.parametrize("path", [PATH, "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/feedback"])
def test_no_body_brings_it_down(gateway: Running, path: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(bodies)
    def fuzz(raw: bytes) -> None:
        response = gateway.http.post(path, content=raw, headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 400, 404, 422), response.text
        if response.status_code != 200:
            assert "error" in response.json()

    fuzz()
    assert gateway.app.server.internal_errors == 0


# ── parts that fail ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_embedder_that_raises_is_counted_and_bypassed(gateway: Running) -> None:
    class Broken:
        window = 256

        def tokens(self, texts: Any) -> Any:
            raise RuntimeError("out of memory")

    gateway.app.worker._embedder = Broken()
    response = gateway.ask("What is the capital of France?")
    assert response.status_code == 200
    assert response.headers["x-gateway-reason"] == "embedder-failed"
    assert (
        'gateway_semantic_skipped_total{reason="embedder-failed"} 1.0'
        in gateway.http.get(f"{gateway.admin}/metrics").text
    )


def test_an_embedder_that_cannot_be_loaded_leaves_exact_reuse(start: Start, tmp_path: Path) -> None:
    gateway = start({"embedder": {"model": str(tmp_path / "nothing-here")}})
    detail = gateway.http.get("/readyz").json()
    assert (detail["status"], detail["embedder"]) == ("ok", "failed")
    gateway.ask("hello there")
    gateway.settle()
    assert gateway.ask("hello there").headers["x-gateway-how"] == "exact"


def test_a_store_that_fails_costs_hits_not_requests(gateway: Running) -> None:
    from gateway.errors import StoreError

    async def fail(*_: Any) -> Any:
        raise StoreError("gone")

    gateway.app.store.put = fail
    gateway.app.store.get = fail
    for _ in range(2):
        response = gateway.ask("What is the capital of France?")
        assert response.status_code == 200
        assert response.headers["x-gateway-decision"] == "forward"
        gateway.settle()
    assert gateway.app.cache.store_failures >= 2


def test_a_corrupt_database_is_set_aside_and_service_goes_on(start: Start, tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"this is not a database" * 1000)
    gateway = start({"store": {"kind": "sqlite", "path": str(tmp_path / "gateway.db")}})
    gateway.ask("What is the capital of France?")
    gateway.settle()
    assert gateway.ask("What is the capital of France?").headers["x-gateway-decision"] == "reuse"
    assert list(tmp_path.glob("gateway.db.corrupt-*"))


def test_a_full_disk_costs_hits_not_requests(start: Start, tmp_path: Path) -> None:
    gateway = start({"store": {"kind": "sqlite", "path": str(tmp_path / "gateway.db")}})

    async def no_space(*_: Any) -> Any:
        from gateway.errors import StoreError

        raise StoreError(
            "sqlite: put: OperationalError: database or disk is full"
        ) from sqlite3.OperationalError()

    gateway.app.store.put = no_space
    assert gateway.ask("What is the capital of France?").status_code == 200
    gateway.settle()
    assert gateway.ask("What is the capital of France?").headers["x-gateway-decision"] == "forward"


def test_a_bad_policy_file_leaves_the_old_book_in_force(gateway: Running) -> None:
    before = gateway.http.get(f"{gateway.admin}/policies").json()
    (gateway.policies / "book.yaml").write_text(
        "categories:\n  - name: code\n    cache: {mode: on, treshold: 5}\n"
    )
    response = gateway.http.post(f"{gateway.admin}/policies/reload")
    assert response.status_code == 422
    assert "book.yaml" in response.text
    assert gateway.http.get(f"{gateway.admin}/policies").json() == before
    assert gateway.ask("still there?").status_code == 200


def test_a_backend_that_is_gone_is_a_502_and_another_one_takes_over(
    start: Start, backend: ScriptedBackend
) -> None:
    dead = f"http://127.0.0.1:{_closed_port()}/v1"
    only_dead = {"name": "dead", "backends": [{"url": dead}]}
    both = {"name": "both", "backends": [{"url": dead}, {"url": backend.url}]}
    gateway = start({"models": [only_dead, both]})
    refused(gateway.ask("hello there", model="dead"), 502, "backend_unreachable")
    answer = gateway.ask("hello there", model="both")
    assert (answer.status_code, answer.headers["x-gateway-backend"]) == (200, "both/1")
    assert [b.in_flight for b in gateway.app.fleet.backends] == [0, 0, 0]


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
