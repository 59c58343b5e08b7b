"""The cache from the command line: moved, warmed, counted and purged, as operators and clients see it."""

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli import main
from gateway.errors import StoreError
from tests.harness import Running, ScriptedBackend
from tests.harness.gateway import PRIVATE

Start = Callable[..., Running]
TENANTS = {"tenants": [{"name": "acme", "keys": ["test"]}, {"name": "other", "keys": ["other-key"]}]}
FRANCE = "What is the capital of France?"
PARAPHRASE = "What is France's capital?"


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main(["cache", *map(str, arguments)]) == code, capsys.readouterr()
    told = capsys.readouterr()
    return told.out + told.err


def asked(gateway: Running, question: str, **headers: str) -> tuple[str, str, str]:
    """(decision, how, answer)"""
    response = gateway.ask(question, **headers)
    assert response.status_code == 200
    told = response.headers
    text = response.json()["choices"][0]["message"]["content"]
    return told["x-gateway-decision"], told.get("x-gateway-how", ""), text


@pytest.mark.parametrize("name", ["cache.jsonl", "cache.jsonl.gz"])
def test_what_one_gateway_exports_another_serves(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: ScriptedBackend, name: str
) -> None:
    first = start(TENANTS)
    answer = asked(first, FRANCE)[2]
    first.settle()
    file = tmp_path / name
    assert "export: 1 entries" in run(capsys, "export", "--admin", first.admin, "--out", file)
    assert oct(file.stat().st_mode)[-3:] == "600"
    assert (file.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    second = start(TENANTS)
    assert "1 stored" in run(capsys, "import", "--admin", second.admin, file)
    texts = second.app.worker.counts.texts
    calls = backend.calls
    assert asked(second, FRANCE) == ("reuse", "exact", answer)
    assert second.app.worker.counts.texts == texts  # the vector came along: nothing was embedded for it
    second.settle()
    assert asked(second, PARAPHRASE) == ("reuse", "semantic", answer)
    assert asked(second, FRANCE, Authorization="Bearer other-key")[0] == "forward"
    assert backend.calls == calls + 1
    second.settle()
    assert "1 present" in run(capsys, "import", "--admin", second.admin, file)
    assert second.app.status()["entries"] == 2  # the stranger's own answer is the other


def test_an_entry_keeps_its_id_age_and_lifetime(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = start(TENANTS), start(TENANTS)
    asked(first, FRANCE)
    first.settle()
    run(capsys, "export", "--admin", first.admin, "--out", tmp_path / "out.jsonl")
    run(capsys, "import", "--admin", second.admin, tmp_path / "out.jsonl")
    (then,), (now,) = first.app.cache.catalog.entries(), second.app.cache.catalog.entries()
    for name in ("id", "exact", "partition", "category", "created", "expires", "size", "question", "cost"):
        assert getattr(then, name) == getattr(now, name)


def test_without_a_gateway_the_store_itself_is_worked_on(
    start: Start,
    tmp_path: Path,
    model_cache: Path,
    capsys: pytest.CaptureFixture[str],
    backend: ScriptedBackend,
) -> None:
    """Export from a store that nobody serves, import into an empty one, open mode: the secret goes along."""
    first = start({"store": {"kind": "sqlite", "path": "one.db"}})
    answer = asked(first, FRANCE)[2]
    first.settle()
    first.close = lambda: None  # type: ignore[method-assign]  # it is stopped here, not by the fixture
    Running.close(first)
    file = tmp_path / "out.jsonl"
    one = configured(tmp_path, model_cache, backend, "one.db")
    told = run(capsys, "export", "--config", one, "--out", file, "--with-secret")
    assert "no gateway runs" in told
    two = configured(tmp_path, model_cache, backend, "two.db")
    head, line = file.read_bytes().splitlines()
    forged = tmp_path / "forged.jsonl"
    forged.write_bytes(json.dumps({**json.loads(head), "secret": "00" * 32}).encode() + b"\n" + line)
    assert "not the one" in run(capsys, "import", "--config", two, forged, code=1)
    assert "1 stored" in run(capsys, "import", "--config", two, file)
    assert "1 entries" in run(capsys, "stats", "--config", two)
    second = start({"store": {"kind": "sqlite", "path": "two.db"}})
    assert asked(second, FRANCE) == ("reuse", "exact", answer)
    assert asked(second, PARAPHRASE) == ("reuse", "semantic", answer)


def configured(folder: Path, model_cache: Path, backend: ScriptedBackend, database: str) -> Path:
    """A gateway.yaml whose admin port nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    file = folder / f"{database}.yaml"
    tree = {
        "admin": {"port": port},
        "models": [{"name": "*", "backends": [{"url": backend.url}]}],
        "embedder": {"cache": str(model_cache)},
        "store": {"kind": "sqlite", "path": database},
        "policies": "policies",
    }
    file.write_text(yaml.safe_dump(tree))
    return file


def test_open_mode_tenants_of_another_gateway_are_nobody(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = start(), start()
    asked(first, FRANCE)
    first.settle()
    run(capsys, "export", "--admin", first.admin, "--out", tmp_path / "out.jsonl")
    assert b"secret" not in (tmp_path / "out.jsonl").read_bytes()
    assert "1 other-secret" in run(capsys, "import", "--admin", second.admin, tmp_path / "out.jsonl")
    assert second.app.status()["entries"] == 0


def test_what_the_policies_here_forbid_is_not_restored(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by its category, nor where the question would be sorted into one that is never stored."""
    first = start(TENANTS)
    asked(first, "My blood test shows high cholesterol, what now?")
    asked(first, "How do I reverse a list in Python?")
    first.settle()
    run(capsys, "export", "--admin", first.admin, "--out", tmp_path / "out.jsonl")
    second = start(
        TENANTS,
        book=PRIVATE.replace(
            "{mode: semantic, threshold: 0.90, ttl: 7d", "{mode: none, threshold: 0.90, ttl: 7d"
        ),
    )
    assert "2 mode-none" in run(capsys, "import", "--admin", second.admin, tmp_path / "out.jsonl")
    assert second.app.status()["entries"] == 0


def test_bad_lines_are_named_and_cost_only_themselves(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = start(TENANTS), start(TENANTS)
    asked(first, FRANCE)
    first.settle()
    file = tmp_path / "out.jsonl"
    run(capsys, "export", "--admin", first.admin, "--out", file)
    head, line = file.read_bytes().splitlines()
    cut = json.loads(line)
    cut["document"] = '{"choices": [{"finish_reason": "length", "message": {"content": "Par"}}]}'
    cut["entry"]["id"] += 1
    cut["entry"]["exact"] = "00" * 32
    file.write_bytes(b"\n".join([head, b"{nonsense", b'{"entry": 3}', json.dumps(cut).encode(), line]))
    told = run(capsys, "import", "--admin", second.admin, file, code=1)
    assert "1 stored" in told
    assert "3 bad" in told
    assert f"{file}:2: not JSON" in told
    assert f"{file}:3: not an exported entry" in told
    assert f"{file}:4: its document is no whole answer: truncated" in told
    assert asked(second, FRANCE)[:2] == ("reuse", "exact")


def test_a_file_that_is_no_export_is_refused(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(TENANTS)
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\n')
    assert "does not begin as an export" in run(capsys, "import", "--admin", gateway.admin, file, code=1)
    assert "No such file" in run(capsys, "import", "--admin", gateway.admin, tmp_path / "no", code=1)


def pairs(file: Path, *lines: Any) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_warmed_cache_answers_the_openai_sdk(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: ScriptedBackend
) -> None:
    gateway = start(TENANTS)
    file = pairs(
        tmp_path / "faq.jsonl",
        {"question": FRANCE, "answer": "Paris."},
        {
            "question": "How do I reset my password?",
            "answer": "By the link.",
            "system": "You are a helpdesk.",
        },
        {"question": "Who sells this?", "answer": "We do.", "tenant": "other", "model": "n"},
    )
    told = run(capsys, "warm", file, "--admin", gateway.admin, "--model", "m", "--tenant", "acme")
    assert "3 stored" in told
    gateway.settle()
    client = gateway.client()
    for question in (FRANCE, PARAPHRASE):
        said = client.chat.completions.create(model="m", messages=[{"role": "user", "content": question}])
        assert said.choices[0].message.content == "Paris."
    system = {"role": "system", "content": "You are a helpdesk."}
    user = {"role": "user", "content": "How do I reset my password?"}
    stream = client.chat.completions.create(model="m", messages=[system, user], stream=True)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "By the link."
    )
    assert backend.calls == 0
    assert asked(gateway, "Who sells this?", model="n")[0] == "forward"  # another tenant's
    assert asked(gateway, "Who sells this?", model="n", Authorization="Bearer other-key")[2] == "We do."
    client.close()
    again = run(capsys, "warm", file, "--admin", gateway.admin, "--model", "m", "--tenant", "acme")
    assert "3 present" in again


def test_logged_requests_warm_as_they_were(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: ScriptedBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gateway = start()  # open: whose they are is told by a key
    request = {"model": "m", "temperature": 0.2, "messages": [{"role": "user", "content": FRANCE}]}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris."}}
    response = {"object": "chat.completion", "model": "m", "choices": [choice]}
    cut = {**response, "choices": [{**choice, "finish_reason": "length"}]}
    called = {**choice, "finish_reason": "tool_calls", "message": {"role": "assistant", "content": None}}
    sse = 'data: {"choices": [{"index": 0, "delta": {"content": "Rome."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    italy = {
        **request,
        "stream": True,
        "messages": [{"role": "user", "content": "What is the capital of Italy?"}],
    }
    file = pairs(
        tmp_path / "log.jsonl",
        {"request": request, "response": response},
        {"request": json.dumps({**request, "seed": 1}), "response": cut},
        {"request": {**request, "seed": 2}, "response": {**response, "choices": [called]}},
        {"request": {"body": {**request, "seed": 3}}, "response": {"status_code": 500, "body": {}}},
        {"request": italy, "response": sse},
        {"nothing": 1},
    )
    assert "no tenant" in run(capsys, "warm", file, "--admin", gateway.admin, code=1)
    monkeypatch.setenv("THE_KEY", "test")
    told = run(capsys, "warm", file, "--admin", gateway.admin, "--key-env", "THE_KEY", code=1)
    assert "2 stored" in told
    assert "4 bad" in told
    assert "truncated" in told
    assert gateway.post("/v1/chat/completions", request).headers["x-gateway-how"] == "exact"
    assert gateway.post("/v1/chat/completions", italy).headers["x-gateway-how"] == "exact"
    assert backend.calls == 0


def test_warming_obeys_policy_and_replaces_only_on_demand(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(TENANTS, book=PRIVATE)
    file = pairs(
        tmp_path / "faq.jsonl",
        {"question": "Which dose of ibuprofen may I take?", "answer": "Ask.", "category": "default"},
        {"question": FRANCE, "answer": "Lyon."},
    )
    where = ("--admin", gateway.admin, "--model", "m", "--tenant", "acme")
    told = run(capsys, "warm", file, *where)
    assert "1 mode-none" in told
    assert "1 stored" in told
    pairs(file, {"question": FRANCE, "answer": "Paris."})
    assert "1 present" in run(capsys, "warm", file, *where)
    assert asked(gateway, FRANCE)[2] == "Lyon."
    assert "1 stored" in run(capsys, "warm", file, *where, "--replace")
    assert asked(gateway, FRANCE)[2] == "Paris."
    assert gateway.app.status()["entries"] == 1
    assert "nobody here" in run(capsys, "warm", file, *where[:4], "--tenant", "stranger", code=1)


def test_fields_make_the_request_that_clients_send(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(TENANTS)
    line = json.dumps({"question": FRANCE, "answer": "Paris."}).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    where = ("--admin", gateway.admin, "--model", "m", "--tenant", "acme")
    assert "1 stored" in run(capsys, "warm", "-", *where, "--fields", '{"temperature": 0}')
    body = {"model": "m", "messages": [{"role": "user", "content": FRANCE}]}
    assert (
        gateway.post("/v1/chat/completions", {**body, "temperature": 0}).headers["x-gateway-how"] == "exact"
    )
    assert gateway.post("/v1/chat/completions", body).headers["x-gateway-decision"] == "forward"


def test_stats_and_purge(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start({**TENANTS, "admin": {"port": 0, "token": "secret"}})
    asked(gateway, FRANCE)
    asked(gateway, "How do I reverse a list in Python?")
    gateway.settle()
    where = ("--admin", gateway.admin)
    assert "bearer token" in run(capsys, "stats", *where, code=1)
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "secret")
    told = run(capsys, "stats", *where)
    assert "2 entries" in told
    assert told.split("\ncode ")[1].split()[0] == "1"
    main(["cache", "stats", *where, "--json"])
    assert json.loads(capsys.readouterr().out)["entries"] == 2
    assert "1 entries and 0 examples would be" in run(
        capsys, "purge", *where, "--category", "code", "--dry-run"
    )
    assert "1 entries" in run(capsys, "purge", *where, "--category", "code")
    assert asked(gateway, "How do I reverse a list in Python?")[0] == "forward"
    assert "Say what to purge" in run(capsys, "purge", *where, code=1)
    assert "nobody answers" in run(capsys, "stats", "--admin", "http://127.0.0.1:9", code=1)
    assert "--config" in run(capsys, "stats", code=1)


def test_on_a_terminal_a_bar_shows_how_far_it_is(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start(TENANTS)
    file = pairs(tmp_path / "faq.jsonl", {"question": FRANCE, "answer": "Paris."})
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    assert (
        main(["cache", "warm", str(file), "--admin", gateway.admin, "--model", "m", "--tenant", "acme"]) == 0
    )
    assert "warm: 100%" in screen.getvalue()
    assert "1/1" in screen.getvalue()


def test_many_lines_go_in_several_calls_and_keep_their_numbers(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(TENANTS)
    known = [
        {"question": f"What is number {n}?", "answer": f"{n}.", "category": "default"} for n in range(30)
    ]
    lines: list[Any] = [known[n % 30] for n in range(600)]
    lines[299] = lines[599] = {"question": "no answer"}
    file = pairs(tmp_path / "faq.jsonl", *lines)
    where = ("--admin", gateway.admin, "--model", "m", "--tenant", "acme")
    told = run(capsys, "warm", file, *where, code=1)
    assert "30 stored" in told
    assert "568 present" in told
    assert [line.split(":")[1] for line in told.splitlines() if "neither question" in line] == ["300", "600"]


def test_a_store_that_fails_leaves_no_half_export(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(TENANTS)
    asked(gateway, FRANCE)
    gateway.settle()

    async def broken(id: int) -> bytes:
        raise StoreError("gone")

    gateway.app.store.get = broken  # type: ignore[method-assign]
    out = tmp_path / "out.jsonl"
    assert "went away" in run(capsys, "export", "--admin", gateway.admin, "--out", out, code=1)
    assert list(tmp_path.glob("out.jsonl*")) == []


def test_a_line_too_large_for_a_call_costs_only_itself(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = start(TENANTS)
    file = pairs(
        tmp_path / "faq.jsonl",
        {"question": "x", "answer": "y" * (9 << 20)},
        {"question": FRANCE, "answer": "Paris."},
    )
    where = ("--admin", gateway.admin, "--model", "m", "--tenant", "acme")
    told = run(capsys, "warm", file, *where, code=1)
    assert "1 stored" in told
    assert f"{file}:1: The request body is larger" in told


def test_a_wrong_token_ends_it_at_once(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start({**TENANTS, "admin": {"port": 0, "token": "secret", "open_metrics": True}})
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "wrong")
    file = pairs(tmp_path / "faq.jsonl", *[{"question": f"q {n}", "answer": "a"} for n in range(300)])
    told = run(capsys, "warm", file, "--admin", gateway.admin, "--model", "m", "--tenant", "acme", code=1)
    assert told.count("bearer token") == 1
    with pytest.raises(SystemExit):
        main(["cache", "warm", str(file), "--admin", gateway.admin, "--fields", "[]"])
