"""The walk, seen from outside: what callers can ask for, single-flight, durability of decisions."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from gateway.exchange import request_digest
from tests.harness import Running, ScriptedBackend
from tests.harness.backend import Seen
from tests.harness.gateway import PRIVATE

FRANCE = "What is the capital of France?"
PARAPHRASE = "What is France's capital?"
Start = Callable[..., Running]


def decision(response: Any) -> tuple[str, str]:
    headers = response.headers
    return headers["x-gateway-decision"], headers.get("x-gateway-how", headers["x-gateway-reason"])


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


# ── single-flight ───────────────────────────────────────────────────────────────────────────────────────────


def test_identical_requests_in_progress_share_one_call(gateway: Running, backend: ScriptedBackend) -> None:
    backend.delay = 0.5
    answers = together(8, lambda _: gateway.ask(FRANCE))
    assert backend.calls == 1
    assert len({a.text for a in answers}) == 1
    words = sorted(a.headers["x-gateway-decision"] for a in answers)
    assert words == ["forward", *["join"] * 7]
    assert "collapsed" in next(a for a in answers if decision(a)[0] == "join").headers["cache-status"]


def test_a_follower_gets_no_cookie_of_the_leaders_and_adds_its_tags(
    gateway: Running, backend: ScriptedBackend
) -> None:
    async def with_cookie(seen: Seen) -> web.Response:
        await asyncio.sleep(0.5)
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice]}, headers={"Set-Cookie": "session=leader"})

    backend.script = with_cookie
    answers = together(4, lambda n: gateway.ask(FRANCE, x_gateway_tags=f"t{n}"))
    assert [("set-cookie" in a.headers) for a in answers] == [decision(a)[0] == "forward" for a in answers]
    gateway.settle()
    joined = next(n for n, a in enumerate(answers) if decision(a)[0] == "join")
    purged = gateway.http.post(f"{gateway.admin}/cache/purge", json={"tag": f"t{joined}"}).json()
    assert purged["purged"] == 1


def test_followers_of_a_stream_join_it_live_from_its_beginning(
    gateway: Running, backend: ScriptedBackend
) -> None:
    import asyncio

    backend.reply = lambda seen: "one two three"
    backend.pause = asyncio.Event()
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    texts: dict[int, str] = {}
    first_bytes: dict[int, float] = {}

    def read(number: int) -> None:
        with gateway.http.stream(
            "POST", "/v1/chat/completions", json=body, headers={"Authorization": "Bearer t"}
        ) as got:
            for piece in got.iter_text():
                first_bytes.setdefault(number, time.monotonic())
                texts[number] = texts.get(number, "") + piece

    threads = [threading.Thread(target=read, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    assert set(first_bytes) == {0, 1, 2}, "all three have bytes while the stream is still held up"
    released = time.monotonic()
    backend.call(backend.pause.set)
    for thread in threads:
        thread.join(10)
    assert backend.calls == 1
    assert max(first_bytes.values()) < released
    assert len(set(texts.values())) == 1
    assert texts[0].endswith("data: [DONE]\n\n")


def test_followers_of_a_failed_call_try_for_themselves(gateway: Running, backend: ScriptedBackend) -> None:
    from aiohttp import web

    async def script(seen: Any) -> web.StreamResponse | None:
        import asyncio

        await asyncio.sleep(0.4)
        return web.json_response({"error": {"message": "no"}}, status=500) if seen.number == 1 else None

    backend.script = script
    answers = together(4, lambda _: gateway.ask(FRANCE))
    assert sorted(a.status_code for a in answers) == [200, 200, 200, 500]
    assert backend.calls == 4


def test_a_leader_that_leaves_does_not_take_its_followers_along(
    gateway: Running, backend: ScriptedBackend
) -> None:
    import httpx2 as httpx

    backend.delay = 1.0

    def leave(number: int) -> Any:
        time.sleep(0.2 * number)
        try:
            timeout = 0.5 if number == 0 else 10
            body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}]}
            return gateway.http.post("/v1/chat/completions", json=body, timeout=timeout)
        except httpx.TimeoutException:
            return None

    first, second = together(2, leave)
    assert first is None
    assert second.status_code == 200
    assert backend.calls == 1
    assert backend.cancelled == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_an_answer_only_for_it_stops_the_engine(
    gateway: Running, backend: ScriptedBackend, stream: bool
) -> None:
    import httpx2 as httpx

    backend.delay = 5.0
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": FRANCE}]}
    with pytest.raises(httpx.TimeoutException):
        gateway.http.post("/v1/chat/completions", json=body, headers={"x-gateway-cache": "off"}, timeout=0.5)
    deadline = time.monotonic() + 4.0
    while not backend.cancelled and time.monotonic() < deadline:
        time.sleep(0.02)
    assert backend.cancelled == 1
    backend.delay = 0.0
    assert gateway.ask(FRANCE, x_gateway_cache="off").status_code == 200


def test_requests_that_want_fresh_answers_join_nobody(gateway: Running, backend: ScriptedBackend) -> None:
    backend.delay = 0.3
    together(3, lambda _: gateway.ask(FRANCE, x_gateway_cache="refresh"))
    assert backend.calls == 3


# ── what callers may ask of the cache ───────────────────────────────────────────────────────────────────────


def test_off_neither_reads_nor_writes(gateway: Running) -> None:
    gateway.ask(FRANCE, x_gateway_cache="off")
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 0
    gateway.ask(FRANCE)
    gateway.settle()
    assert decision(gateway.ask(FRANCE, x_gateway_cache="off")) == ("forward", "cache-off")


def test_exact_takes_no_semantic_step(gateway: Running) -> None:
    gateway.ask(FRANCE)
    gateway.settle()
    assert decision(gateway.ask(PARAPHRASE, x_gateway_cache="exact")) == ("forward", "exact-only")
    assert decision(gateway.ask(FRANCE, x_gateway_cache="exact")) == ("reuse", "exact")


def test_refresh_replaces_the_answer(gateway: Running) -> None:
    gateway.ask(FRANCE)
    gateway.settle()
    fresh = gateway.ask(FRANCE, x_gateway_cache="refresh")
    assert decision(fresh) == ("forward", "refresh")
    gateway.settle()
    assert gateway.ask(FRANCE).json() == fresh.json()
    assert len(gateway.app.cache.catalog) == 1


@pytest.mark.parametrize("headers", [{"x_gateway_cache": "only"}, {"Cache_Control": "only-if-cached"}])
def test_only_answers_from_the_cache_or_504(
    gateway: Running, backend: ScriptedBackend, headers: dict[str, str]
) -> None:
    missed = gateway.ask(FRANCE, **headers)
    assert (missed.status_code, missed.json()["error"]["code"]) == (504, "not_cached")
    assert backend.calls == 0
    gateway.ask(FRANCE)
    gateway.settle()
    assert gateway.ask(PARAPHRASE, **headers).status_code == 200


def test_litellms_body_form_is_obeyed_and_stripped(gateway: Running, backend: ScriptedBackend) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}]}
    gateway.post("/v1/chat/completions", {**body, "cache": {"no-store": True}})
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 0
    assert "cache" not in backend.seen[0].json
    gateway.post("/v1/chat/completions", {**body, "cache": {"namespace": "a"}})
    gateway.settle()
    assert (
        decision(gateway.post("/v1/chat/completions", {**body, "cache": {"namespace": "b"}}))[0] == "forward"
    )
    assert decision(gateway.post("/v1/chat/completions", {**body, "cache": {"namespace": "a"}}))[0] == "reuse"
    assert (
        decision(
            gateway.post("/v1/chat/completions", {**body, "cache": {"namespace": "a", "no-cache": True}})
        )[0]
        == "forward"
    )


def test_variants_give_several_answers_to_one_question(gateway: Running, backend: ScriptedBackend) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Name a colour"}],
        "cache": {"variants": 3},
    }
    for _ in range(3):
        assert decision(gateway.post("/v1/chat/completions", body, x_gateway_cache="exact"))[0] == "forward"
        gateway.settle()
    drawn = {gateway.post("/v1/chat/completions", body).json()["id"] for _ in range(60)}
    assert drawn == {"cmpl-1", "cmpl-2", "cmpl-3"}
    assert backend.calls == 3


def test_max_age_passes_over_older_answers(gateway: Running) -> None:
    gateway.ask(FRANCE)
    gateway.settle()
    time.sleep(1.1)
    assert decision(gateway.ask(FRANCE, Cache_Control="max-age=1"))[0] == "forward"
    assert int(gateway.ask(FRANCE).headers.get("age", "0")) >= 0


# ── categories ──────────────────────────────────────────────────────────────────────────────────────────────

HEALTH = "My blood pressure test shows high values, which dose of my tablets should I take?"


@pytest.fixture
def careful(start: Start) -> Running:
    return start(book=PRIVATE)


def test_a_category_with_caching_off_is_never_stored(careful: Running, backend: ScriptedBackend) -> None:
    gateway = careful
    response = gateway.ask(HEALTH)
    assert response.headers["x-gateway-category"] == "private"
    assert decision(response) == ("forward", "mode-none")
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 0
    assert gateway.run(_stored_documents(gateway)) == 0
    backend.delay = 0.3
    before = backend.calls
    together(3, lambda _: gateway.ask(HEALTH))
    assert backend.calls == before + 3, "nor shared while in progress"


async def _stored_documents(gateway: Running) -> int:
    return sum([len(batch) async for batch in gateway.app.store.scan()])


def test_a_hint_never_escapes_none(careful: Running) -> None:
    gateway = careful
    response = gateway.ask(HEALTH, x_gateway_category="code")
    assert decision(response) == ("forward", "mode-none")
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 0


def test_what_cannot_be_classified_is_not_stored_where_a_category_must_not_be(careful: Running) -> None:
    gateway = careful
    gateway.ask("My blood test. " + "It shows many values. " * 300)
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 0


def test_turning_a_category_off_removes_what_it_has_stored(gateway: Running) -> None:
    question = "How do I reverse a list in Python?"
    gateway.ask(question)
    gateway.settle()
    assert decision(gateway.ask(question))[0] == "reuse"
    category = gateway.http.get(f"{gateway.admin}/policies/code").json()
    category["cache"]["mode"] = "none"
    assert gateway.http.put(f"{gateway.admin}/policies/code", json=category).status_code == 200
    assert len(gateway.app.cache.catalog) == 0
    assert decision(gateway.ask(question)) == ("forward", "mode-none")


def test_shadow_decides_but_forwards(gateway: Running) -> None:
    gateway.ask(FRANCE)
    gateway.settle()
    category = gateway.http.get(f"{gateway.admin}/policies/default").json()
    category["cache"]["mode"] = "shadow"
    gateway.http.put(f"{gateway.admin}/policies/default", json=category)
    response = gateway.ask(PARAPHRASE)
    assert decision(response) == ("forward", "shadow")
    assert float(response.headers["x-gateway-similarity"]) > 0.9
    assert decision(gateway.ask(FRANCE)) == ("reuse", "exact")


def test_a_rule_decides_before_the_classifier(start: Start) -> None:
    from tests.harness.gateway import BOOK

    rules = (
        "rules:\n  - when: {match: '(?i)share price'}\n    then: {category: market-data}\nignore: [user]\n"
    )
    gateway = start(book=BOOK + rules)
    response = gateway.ask("Tell me the Share Price of a lemonade stand")
    assert response.headers["x-gateway-category"] == "market-data"
    assert decision(response) == ("forward", "mode-exact")
    gateway.settle()
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Tell me the Share Price of a lemonade stand"}],
    }
    assert decision(gateway.post("/v1/chat/completions", {**body, "user": "someone"})) == ("reuse", "exact")


def test_a_temperature_limit_excludes_reading_and_writing(gateway: Running) -> None:
    category = gateway.http.get(f"{gateway.admin}/policies/default").json()
    category["cache"]["max_temperature"] = 0.7
    gateway.http.put(f"{gateway.admin}/policies/default", json=category)
    assert decision(gateway.ask(FRANCE)) == ("forward", "temperature"), "unset counts as 1"
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 0
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}], "temperature": 0.2}
    gateway.post("/v1/chat/completions", body)
    gateway.settle()
    assert decision(gateway.post("/v1/chat/completions", body)) == ("reuse", "exact")


# ── what changes while an answer is on its way ──────────────────────────────────────────────────────────────


def during(gateway: Running, backend: ScriptedBackend, change: Callable[[str], None]) -> Any:
    """Ask; once the engine works on the answer, change something; give the response."""
    backend.delay = 0.6
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(gateway.ask(FRANCE, X_Request_Id="first")))
    thread.start()
    while not backend.calls:
        time.sleep(0.01)
    change("first")
    thread.join(10)
    return answers[0]


def turn_off(gateway: Running) -> None:
    category = gateway.http.get(f"{gateway.admin}/policies/default").json()
    category["cache"]["mode"] = "none"
    assert gateway.http.put(f"{gateway.admin}/policies/default", json=category).status_code == 200


def test_a_category_turned_off_while_an_answer_is_made_neither_shares_nor_stores_it(
    gateway: Running, backend: ScriptedBackend
) -> None:
    def change(_: str) -> None:
        turn_off(gateway)
        assert decision(gateway.ask(FRANCE)) == ("forward", "mode-none")

    assert during(gateway, backend, change).status_code == 200
    gateway.settle()
    assert backend.calls == 2
    assert len(gateway.app.cache.catalog) == 0
    assert gateway.run(_stored_documents(gateway)) == 0


def test_a_purge_reaches_an_answer_that_is_being_made(gateway: Running, backend: ScriptedBackend) -> None:
    def change(_: str) -> None:
        purged = gateway.http.post(f"{gateway.admin}/cache/purge", json={"model": "m"}).json()
        assert purged["purged"] == 1
        assert decision(gateway.ask(FRANCE))[0] == "forward"

    during(gateway, backend, change)
    gateway.settle()
    assert backend.calls == 2
    assert [e.request for e in gateway.app.cache.catalog.entries()] != [request_digest("first")]
    assert len(gateway.app.cache.catalog) == 1


def test_a_bad_verdict_reaches_a_stream_that_is_still_running(
    gateway: Running, backend: ScriptedBackend
) -> None:
    import asyncio

    backend.reply = lambda seen: f"answer {seen.number}"
    backend.pause = asyncio.Event()
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    headers = {"Authorization": "Bearer test"}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as got:
        given = {"request_id": got.headers["x-request-id"], "verdict": "bad"}
        assert gateway.post("/v1/feedback", given).json()["removed"] == 1
        threading.Timer(0.3, lambda: backend.call(backend.pause.set)).start()  # type: ignore[union-attr]
        again = gateway.post("/v1/chat/completions", body)
        got.read()
    assert decision(again)[0] == "forward"
    assert backend.calls == 2


def test_a_bad_verdict_reaches_an_answer_the_store_is_slow_to_take(
    gateway: Running, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    put, gate = gateway.app.store.put, threading.Event()

    async def slow(records: Any, seen: Any) -> None:
        while not gate.is_set():
            await asyncio.sleep(0.01)
        await put(records, seen)

    monkeypatch.setattr(gateway.app.store, "put", slow)
    asked = gateway.ask(FRANCE)
    given = {"request_id": asked.headers["x-request-id"], "verdict": "bad"}
    assert gateway.post("/v1/feedback", given).json()["removed"] == 1
    again = gateway.ask(FRANCE)
    gate.set()
    gateway.settle()
    assert decision(again)[0] == "forward"
    (kept,) = gateway.app.cache.catalog.entries()
    assert kept.name == again.headers["x-gateway-entry"]


def test_a_document_purged_while_it_is_read_is_not_served(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.ask(FRANCE)
    gateway.settle()
    (entry,) = gateway.app.cache.catalog.entries()
    gateway.app.hot.drop(entry.id)
    get = gateway.app.store.get

    async def slow(id: int) -> Any:
        document = await get(id)
        gateway.app.cache.forget([entry])
        return document

    monkeypatch.setattr(gateway.app.store, "get", slow)
    assert decision(gateway.ask(FRANCE))[0] == "forward"
    assert gateway.app.hot.get(entry.id) is None


def test_an_answer_that_is_not_kept_names_no_entry(gateway: Running, backend: ScriptedBackend) -> None:
    from aiohttp import web

    async def script(seen: Any) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no"}}, status=500)

    backend.script = script
    got = gateway.ask(FRANCE)
    assert "x-gateway-entry" not in got.headers
    assert "stored" not in got.headers["cache-status"]


def test_what_reuse_saved_is_counted(start: Start, backend: ScriptedBackend) -> None:
    model = {"name": "m", "backends": [{"url": backend.url}], "price": {"input": 1e6, "output": 1e6}}
    gateway = start({"models": [model]})
    for _ in range(2):
        gateway.ask(FRANCE)
        gateway.settle()
    time.sleep(0.2)  # counted after the last byte
    metrics = gateway.http.get(f"{gateway.admin}/metrics").text
    assert 'gateway_saved_dollars_total{category="default"} 10.0' in metrics
    assert 'gateway_saved_tokens_total{category="default",token_type="output"} 3.0' in metrics
    assert 'category="default",decision="reuse"' in metrics


# ── what parts two requests beside their bodies ─────────────────────────────────────────────────────────────


def test_another_query_is_another_request(gateway: Running) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}]}
    gateway.post("/v1/chat/completions?api-version=1", body)
    gateway.settle()
    for path in ("/v1/chat/completions?api-version=2", "/v1/chat/completions"):
        assert decision(gateway.post(path, body))[0] == "forward"
    similar = {"model": "m", "messages": [{"role": "user", "content": PARAPHRASE}]}
    assert decision(gateway.post("/v1/chat/completions?api-version=1", similar)) == ("reuse", "semantic")


def test_a_follower_gets_no_encoding_it_did_not_ask_for(gateway: Running, backend: ScriptedBackend) -> None:
    import gzip
    import json

    from aiohttp import web

    async def script(seen: Any) -> web.StreamResponse | None:
        import asyncio

        await asyncio.sleep(0.4)
        if "gzip" not in seen.headers.get("Accept-Encoding", ""):
            return None
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=gzip.compress(body), headers=headers)

    backend.script = script
    packed, plain = together(2, lambda n: gateway.ask(FRANCE, Accept_Encoding="identity" if n else "gzip"))
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers


def test_an_answer_to_be_stored_is_asked_for_in_a_form_that_can_be_read(
    gateway: Running, backend: ScriptedBackend
) -> None:
    gateway.ask(FRANCE, Accept_Encoding="br;q=1.0, gzip;q=0.8, zstd, *;q=0.1")
    assert backend.seen[-1].headers["Accept-Encoding"] == "gzip;q=0.8"
    gateway.ask("And of Italy?", Accept_Encoding="br")
    assert backend.seen[-1].headers["Accept-Encoding"] == "identity"
    gateway.ask(FRANCE, Accept_Encoding="br", x_gateway_cache="off")
    assert backend.seen[-1].headers["Accept-Encoding"] == "br"


def test_no_caller_sees_a_refusal_of_an_option_it_did_not_send(
    start: Start, backend: ScriptedBackend
) -> None:
    """The second try may go to another engine, which does not know the option either."""
    from aiohttp import web

    other = ScriptedBackend()

    async def script(seen: Any) -> web.StreamResponse | None:
        if "stream_options" in seen.json:
            return web.json_response({"error": {"message": "Unknown field: stream_options"}}, status=400)
        return None

    backend.script = other.script = script
    try:
        gateway = start({"models": [{"name": "m", "backends": [{"url": backend.url}, {"url": other.url}]}]})
        first, second = gateway.app.fleet.backends
        pick = iter([first, second])
        gateway.app.fleet._strategy.pick = lambda available, work, now: next(pick)
        body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}], "stream": True}
        assert gateway.post("/v1/chat/completions", body).status_code == 200
    finally:
        other.close()


# ── pass-through and bytes ──────────────────────────────────────────────────────────────────────────────────


def test_a_forward_sends_the_callers_own_bytes(gateway: Running, backend: ScriptedBackend) -> None:
    raw = (
        b'{ "model":"m",  "messages":[{"role":"user","content":"h\\u00e9 \\/ hello"}], "x_unknown": 1.0e-5 }'
    )
    gateway.http.post("/v1/chat/completions", content=raw, headers={"Content-Type": "application/json"})
    assert backend.seen[0].body == raw


def test_other_paths_pass_through_both_ways(gateway: Running, backend: ScriptedBackend) -> None:
    answer = gateway.http.post(
        "/v1/audio/transcriptions?x=a%20b", files={"file": ("a.wav", b"\x00\x01" * 200_000)}
    )
    assert answer.json()["path"] == "/v1/audio/transcriptions?x=a%20b"
    assert answer.json()["bytes"] > 400_000
    assert backend.seen[0].headers["Content-Type"].startswith("multipart/form-data")
    assert gateway.http.get("/v1/files/abc").json()["method"] == "GET"
    assert gateway.http.delete("/v1/files/abc").json()["method"] == "DELETE"


def test_headers_cross_or_stay_as_they_should(start: Start, backend: ScriptedBackend) -> None:
    models = [{"name": "*", "backends": [{"url": backend.url, "api_key": "sk-backend"}]}]
    gateway = start({"models": models, "tenants": [{"name": "a", "keys": ["sk-client"]}]})
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    gateway.ask(
        FRANCE,
        Authorization="Bearer sk-client",
        traceparent=trace,
        X_Custom="yes",
        TE="trailers",
        x_gateway_tags="t",
    )
    seen = backend.seen[0].headers
    assert seen["Authorization"] == "Bearer sk-backend"
    assert seen["traceparent"] == trace
    assert seen["X-Custom"] == "yes"
    assert "TE" not in seen
    assert not [name for name in seen if name.lower().startswith("x-gateway")]


def test_in_open_mode_the_clients_key_goes_on(gateway: Running, backend: ScriptedBackend) -> None:
    gateway.ask(FRANCE, Authorization="Bearer sk-mine")
    assert backend.seen[0].headers["Authorization"] == "Bearer sk-mine"


def test_a_model_can_have_another_name_upstream(start: Start, backend: ScriptedBackend) -> None:
    models = [{"name": "large", "backends": [{"url": backend.url, "model": "gemma-27b"}]}]
    gateway = start({"models": models})
    assert gateway.ask(FRANCE, model="large").status_code == 200
    assert backend.seen[0].json["model"] == "gemma-27b"
    assert gateway.ask(FRANCE, model="huge").status_code == 404
    assert [m["id"] for m in gateway.http.get("/v1/models").json()["data"]] == ["large"]


def test_the_least_busy_backend_is_asked(start: Start, backend: ScriptedBackend) -> None:
    other = ScriptedBackend()
    try:
        backend.delay = other.delay = 0.3
        gateway = start({"models": [{"name": "m", "backends": [{"url": backend.url}, {"url": other.url}]}]})
        together(6, lambda n: gateway.ask(f"Tell me about mountain number {n}"))
        assert (backend.calls, other.calls) == (3, 3)
    finally:
        other.close()


def test_an_engine_that_does_not_know_stream_options_is_asked_without(
    gateway: Running, backend: ScriptedBackend
) -> None:
    from aiohttp import web

    async def script(seen: Any) -> web.StreamResponse | None:
        if "stream_options" in seen.json:
            return web.json_response({"error": {"message": "Unknown field: stream_options"}}, status=400)
        return None

    backend.script = script
    messages = [{"role": "user", "content": FRANCE}]
    for _ in range(2):
        stream = gateway.client().chat.completions.create(model="m", messages=messages, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "answer 2"
        gateway.settle()
    assert backend.calls == 2


def test_compressed_answers_pass_untouched_and_are_stored_plain(
    gateway: Running, backend: ScriptedBackend
) -> None:
    import gzip
    import json

    from aiohttp import web

    choice = {"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}
    packed = gzip.compress(json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode())

    async def script(seen: Any) -> web.StreamResponse:
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return web.Response(body=packed, headers=headers)

    backend.script = script
    first = gateway.ask(FRANCE)
    assert first.headers["content-encoding"] == "gzip"
    gateway.settle()
    again = gateway.ask(FRANCE)
    assert "content-encoding" not in again.headers
    assert again.json() == first.json()
    assert backend.calls == 1


def test_draining_refuses_readiness_and_lets_requests_end(start: Start, backend: ScriptedBackend) -> None:
    backend.delay = 0.6
    gateway = start()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(gateway.ask(FRANCE)))
    thread.start()
    time.sleep(0.2)
    gateway.run(gateway.app.stop())
    thread.join(5)
    assert answers[0].status_code == 200
    gateway.app.stop = _nothing  # stopped already


async def _nothing() -> None:
    return None
