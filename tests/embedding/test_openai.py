"""The endpoint embedder against a real HTTP server that speaks, and misspeaks, OpenAI's form."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.embedding.openai import OpenAIEmbedder
from gateway.errors import EmbedderFailed

Make = Callable[..., OpenAIEmbedder]


class Endpoint(http.server.ThreadingHTTPServer):
    """Answers with vectors made of text lengths, rows in reverse order; `twist` changes the answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.connections = 0
        self.status, self.delay, self.close_after, self.body = 200, 0.0, False, b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append(request | {"path": self.path})
        self.server.keys.append(self.headers["authorization"])
        time.sleep(self.server.delay)
        rows = [
            {"index": i, "embedding": [3.0, 4.0, float(len(text))]} for i, text in enumerate(request["input"])
        ]
        body = self.server.body or json.dumps({"data": rows[::-1]}).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.server.close_after

    def log_message(self, *_: Any) -> None:
        """Tests are silent."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def make(endpoint: Endpoint) -> Iterator[Make]:
    with contextlib.ExitStack() as opened:

        def embedder(**options: Any) -> OpenAIEmbedder:
            return opened.enter_context(contextlib.closing(OpenAIEmbedder(endpoint.url, "small", **options)))

        yield embedder


def test_dimension_is_discovered_and_vectors_are_unit_in_order(endpoint: Endpoint, make: Make) -> None:
    embedder = make(api_key="sk-secret", window=512)
    assert (embedder.dim, embedder.window) == (3, 512)
    vectors = embedder.encode(["a", "bb" * 50])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert vectors[0, 2] == pytest.approx(1 / np.sqrt(26))
    assert vectors[1, 2] > 0.99
    assert endpoint.seen[-1]["path"] == "/v1/embeddings"
    assert endpoint.seen[-1]["model"] == "small"
    assert set(endpoint.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in repr(embedder) + embedder.name
    assert embedder.encode([]).shape == (0, 3)


def test_the_connection_is_kept_and_reopened_once_the_server_closed_it(
    endpoint: Endpoint, make: Make
) -> None:
    embedder = make()
    embedder.encode(["a"])
    assert endpoint.connections == 1
    endpoint.close_after = True
    embedder.encode(["b"])
    endpoint.close_after = False
    time.sleep(0.05)
    embedder.encode(["c"])
    assert endpoint.connections == 2


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, b'{"error": "who are you"}', "answered 401.*who are you"),
        (200, b"not json", "unreadable"),
        (200, b'{"data": [{"index": 0}]}', "unreadable"),
        (200, b'{"data": [{"index": 0, "embedding": "AAAA"}]}', "unreadable"),
        (200, b'{"data": [{"index": 0, "embedding": [1, 2]}]}', "shape"),
        (200, b'{"data": []}', "shape"),
        (200, b'{"data": [{"index": 0, "embedding": [0, 0, 0]}]}', "without direction"),
    ],
)
def test_anything_but_a_good_answer_is_a_failure(
    endpoint: Endpoint, make: Make, status: int, body: bytes, told: str
) -> None:
    embedder = make()
    endpoint.status, endpoint.body = status, body
    with pytest.raises(EmbedderFailed, match=told):
        embedder.encode(["a"])
    endpoint.status, endpoint.body = 200, b""
    assert embedder.encode(["a"]).shape == (1, 3)


def test_a_silent_endpoint_times_out(endpoint: Endpoint, make: Make) -> None:
    embedder = make(timeout=0.1)
    endpoint.delay = 0.5
    started = time.perf_counter()
    with pytest.raises(EmbedderFailed, match=r"(?i)timeout"):
        embedder.encode(["a"])
    assert time.perf_counter() - started < 0.45


def test_nobody_there_and_no_address_fail_at_once(endpoint: Endpoint) -> None:
    endpoint.server_close()
    with pytest.raises(EmbedderFailed, match="embeddings endpoint"):
        OpenAIEmbedder(endpoint.url, "small", timeout=0.5)
    with pytest.raises(EmbedderFailed, match="not an http"):
        OpenAIEmbedder("ftp://x/v1", "small")


@given(st.text(max_size=200))
def test_the_token_estimate_never_falls_below_a_token_a_non_letter(text: str) -> None:
    embedder = object.__new__(OpenAIEmbedder)
    (count,) = embedder.tokens([text])
    data = text.encode("utf-8", "replace")
    others = sum(not (chr(b).isascii() and (chr(b).isalpha() or b == 32)) for b in data)
    assert count >= others + 2
    assert count <= len(data) + 2
