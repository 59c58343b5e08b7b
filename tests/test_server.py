"""The data plane as bytes on a socket: heads, framing, slow clients, and what an engine may send."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.harness import Running, ScriptedBackend

FRANCE = "What is the capital of France?"
Start = Callable[..., Running]


def connect(gateway: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.app.ports["data"]), timeout=10)


def head(path: str, *, method: str = "POST", length: int | None = None, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", "Authorization: Bearer test"]
    if length is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def question(text: str = FRANCE, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()


def until_closed(link: socket.socket) -> bytes:
    received = b""
    while piece := link.recv(1 << 16):
        received += piece
    return received


def test_expect_100_continue_is_answered_before_the_body(gateway: Running) -> None:
    body = question()
    with connect(gateway) as link:
        link.sendall(
            head("/v1/chat/completions", length=len(body), Expect="100-continue", Connection="close")
        )
        assert link.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(body)
        assert until_closed(link).startswith(b"HTTP/1.1 200 ")


def test_pipelined_and_chunked_requests_are_answered_in_order(gateway: Running) -> None:
    body = question()
    chunked = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (9, body[:9], len(body) - 9, body[9:])
    with connect(gateway) as link:
        link.sendall(
            head("/v1/chat/completions", length=len(body), X_Request_Id="one")
            + body
            + head("/v1/chat/completions", Transfer_Encoding="chunked", X_Request_Id="two")
            + chunked
            + head("/livez", method="GET", X_Request_Id="three", Connection="close")
        )
        received = until_closed(link)
    places = [received.index(b"X-Request-Id: %s\r\n" % name) for name in (b"one", b"two", b"three")]
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body_pass_through(gateway: Running, backend: ScriptedBackend, status: int) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        return web.Response(status=status, headers={"ETag": '"1"'})

    backend.script = script
    with connect(gateway) as link:
        link.sendall(head("/v1/files/a", method="GET") + head("/livez", method="GET", Connection="close"))
        received = until_closed(link)
    first, _, rest = received.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert b'etag: "1"' in first.lower()
    assert b"chunked" not in first.lower()
    assert rest.startswith(b"HTTP/1.1 200 ")


def test_a_head_request_has_the_length_and_no_body(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        return web.Response(body=b"x" * 1234)

    backend.script = script
    with connect(gateway) as link:
        link.sendall(head("/v1/files/a", method="HEAD") + head("/livez", method="GET", Connection="close"))
        received = until_closed(link)
    first, _, rest = received.partition(b"\r\n\r\n")
    assert b"Content-Length: 1234" in first
    assert rest.startswith(b"HTTP/1.1 200 ")
    assert backend.seen[0].method == "HEAD"


def test_cookies_and_hop_by_hop_headers_of_an_answer(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        response = web.Response(body=b"{}", content_type="application/json")
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        response.headers["Connection"] = "keep-alive, X-Secret"
        response.headers["X-Secret"] = "s"
        response.headers["Keep-Alive"] = "timeout=5"
        return response

    backend.script = script
    got = gateway.http.get("/v1/files/a")
    assert got.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert "x-secret" not in got.headers
    assert "keep-alive" not in got.headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
def test_bytes_beyond_ascii_in_a_header_reach_the_engine(
    gateway: Running, backend: ScriptedBackend, path: str
) -> None:
    body = question()
    with connect(gateway) as link:
        link.sendall(head(path, length=len(body), X_Title="caf\xe9", Connection="close") + body)
        received = until_closed(link)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert backend.calls == 1


def test_bytes_beyond_ascii_in_an_answers_header_reach_the_client(
    gateway: Running, backend: ScriptedBackend
) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        return web.Response(body=b"{}", headers={"X-Title": "caf\udce9"})

    backend.script = script
    got = gateway.http.get("/v1/files/a")
    assert got.status_code == 200


@pytest.mark.parametrize("name", ["a\nb", "a\r\nX-Evil: 1", "a\x00b", "modèle", "m" * 300])
def test_any_model_name_can_be_told_in_a_header(gateway: Running, name: str) -> None:
    got = gateway.post(
        "/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]}
    )
    assert got.status_code == 200
    assert "x-evil" not in got.headers


def test_a_client_that_does_not_read_gives_its_place_back(start: Start, backend: ScriptedBackend) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        return web.Response(body=b"x" * (24 << 20), content_type="application/json")

    backend.script = script
    gateway = start({"limits": {"client_write_seconds": 0.5}, "cache": {"shared_stream_bytes": 32 << 20}})
    body = question()
    with connect(gateway) as link:
        link.sendall(head("/v1/chat/completions", length=len(body)) + body)
        time.sleep(0.5)
        assert gateway.app.server.in_flight == 1
        deadline = time.monotonic() + 5
        while gateway.app.server.in_flight:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_upload_that_stalls_is_given_up(start: Start, backend: ScriptedBackend) -> None:
    gateway = start({"limits": {"body_seconds": 0.5}})
    with connect(gateway) as link:
        link.sendall(
            head("/v1/files", Content_Type="application/octet-stream", Content_Length="5000000") + b"x"
        )
        received = link.recv(1 << 16)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert gateway.app.fleet.backends[0].in_flight == 0
    assert gateway.app.fleet.backends[0].failures == 0


def test_a_body_that_cannot_be_unpacked_is_a_400(gateway: Running, backend: ScriptedBackend) -> None:
    with connect(gateway) as link:
        link.sendall(
            head("/v1/chat/completions", length=7, Content_Encoding="gzip", Connection="close") + b"garbage"
        )
        received = until_closed(link)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b'"error"' in received


def test_the_error_of_a_stream_cut_inside_an_event_can_be_read(
    gateway: Running, backend: ScriptedBackend
) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(seen.request)
        await response.write(b'data: {"choices":[]}\n\ndata: {"half')
        seen.request.transport.abort()
        return response

    backend.script = script
    got = gateway.post(
        "/v1/chat/completions", json.loads(question(stream=True, stream_options={"include_usage": True}))
    )
    events = [event for event in got.text.split("\n\n") if event]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "backend_unreachable"


def test_a_packed_stream_that_breaks_off_gets_no_plain_text(
    gateway: Running, backend: ScriptedBackend
) -> None:
    import gzip

    import httpx2 as httpx

    packed = gzip.compress(b'data: {"choices":[]}\n\n' * 100)

    async def script(seen: Any) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(seen.request)
        await response.write(packed[:-20])
        seen.request.transport.abort()
        return response

    backend.script = script
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.post("/v1/chat/completions", json.loads(question(stream=True)))


def test_a_large_json_body_goes_to_the_model_it_names(start: Start, backend: ScriptedBackend) -> None:
    other = ScriptedBackend()
    try:
        models = [
            {"name": "first", "backends": [{"url": backend.url}]},
            {"name": "second", "backends": [{"url": other.url}]},
        ]
        gateway = start({"models": models})
        assert (
            gateway.post("/v1/images/edits", {"model": "second", "image": "x" * (2 << 20)}).status_code == 200
        )
        assert (backend.calls, other.calls) == (0, 1)
    finally:
        other.close()


def test_a_renamed_model_is_renamed_on_other_paths_too(start: Start, backend: ScriptedBackend) -> None:
    gateway = start({"models": [{"name": "large", "backends": [{"url": backend.url, "model": "gemma-27b"}]}]})
    raw = b'{ "model" : "large", "input": 1.0e5 }'
    gateway.http.post("/v1/rerank", content=raw, headers={"Content-Type": "application/json"})
    assert backend.seen[0].body == raw.replace(b"large", b"gemma-27b")


def test_models_with_a_slash_in_their_name_are_found(start: Start, backend: ScriptedBackend) -> None:
    gateway = start({"models": [{"name": "org/large", "backends": [{"url": backend.url}]}]})
    assert gateway.http.get("/v1/models/org%2Flarge").json()["id"] == "org/large"
    assert gateway.http.get("/v1/models/org/large").json()["id"] == "org/large"


def test_behind_a_wildcard_the_engines_models_are_listed_as_it_lists_them(
    gateway: Running, backend: ScriptedBackend
) -> None:
    import gzip

    async def script(seen: Any) -> web.StreamResponse | None:
        if "gzip" not in seen.headers.get("Accept-Encoding", ""):
            return None
        body = gzip.compress(json.dumps({"object": "list", "data": [{"id": "packed", "own": 1}]}).encode())
        return web.Response(
            body=body, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
        )

    backend.script = script
    listed = gateway.http.get("/v1/models", headers={"Accept-Encoding": "gzip"})
    assert [m["id"] for m in listed.json()["data"]] in (["packed"], ["scripted"])


def test_a_key_the_engine_refuses_lists_no_models(gateway: Running, backend: ScriptedBackend) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        return web.json_response({"error": {"message": "bad key"}}, status=401)

    backend.script = script
    got = gateway.http.get("/v1/models")
    assert (got.status_code, got.json()) == (401, {"error": {"message": "bad key"}})


def test_other_paths_count_against_the_bound_on_requests_in_progress(
    start: Start, backend: ScriptedBackend
) -> None:
    import threading

    backend.delay = 0.6
    gateway = start({"limits": {"in_flight": 1}})
    thread = threading.Thread(target=gateway.ask, args=(FRANCE,))
    thread.start()
    time.sleep(0.2)
    got = gateway.http.get("/v1/files")
    thread.join()
    assert (got.status_code, got.headers["retry-after"]) == (503, "1")
    assert gateway.http.get("/v1/files").status_code == 200


def longest_wait(gateway: Running, work: Callable[[], Any]) -> float:
    """The longest that `/livez` took, in seconds, while `work` ran."""
    import threading

    thread = threading.Thread(target=work)
    thread.start()
    longest = 0.0
    while thread.is_alive():
        started = time.monotonic()
        gateway.http.get("/livez")
        longest = max(longest, time.monotonic() - started)
    return longest


def test_a_large_body_that_is_slow_to_read_holds_up_nobody(
    gateway: Running, backend: ScriptedBackend
) -> None:
    async def script(seen: Any) -> web.StreamResponse:
        return web.json_response({})  # without reading the body, which would hold up this process

    backend.script = script
    padding = b",".join([b'{"a":1}'] * 1_000_000)
    body = b'{"model":"m","messages":[{"role":"user","content":"\\u003a"}],"x":[' + padding + b"]}"

    def send() -> None:
        gateway.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})

    assert longest_wait(gateway, send) < 0.5


def test_replaying_a_large_answer_holds_up_nobody(start: Start, backend: ScriptedBackend) -> None:
    backend.reply = lambda seen: "word " * 1_600_000
    gateway = start({"cache": {"shared_stream_bytes": 16 << 20, "max_entry_bytes": 16 << 20}})
    gateway.ask(FRANCE)
    gateway.settle()
    got: list[Any] = []

    def stream() -> None:
        got.append(gateway.post("/v1/chat/completions", json.loads(question(stream=True))))

    assert longest_wait(gateway, stream) < 0.4
    assert got[0].headers["x-gateway-decision"] == "reuse"
    assert got[0].text.endswith("data: [DONE]\n\n")
