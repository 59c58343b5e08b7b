"""Log lines: what they tell, what they never tell, and that one that cannot be written costs nothing else."""

import io
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway import config, log
from tests.harness import Running


class Full(io.StringIO):
    """A disk that is full once."""

    failed = False

    def write(self, text: str) -> int:
        if not self.failed:
            self.failed = True
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_full_disk_costs_lines_and_not_the_log() -> None:
    stream, before = Full(), log.dropped()
    lines = log.Lines(stream)
    lines.add({"number": 1})
    deadline = time.monotonic() + 5
    while not stream.failed and time.monotonic() < deadline:
        time.sleep(0.01)
    lines.add({"number": 2})
    lines.close()
    assert stream.getvalue() == '{"number":2}\n'
    assert log.dropped() == before + 1


# ── what a line says, and what it must not ──────────────────────────────────────────────────────────────────

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def access_lines(
    start: Callable[..., Running], capsys: pytest.CaptureFixture[str], tree: dict[str, Any], **headers: str
) -> list[dict[str, Any]]:
    gateway = start({"log": {"level": "info"}, **tree})
    for _ in range(2):
        gateway.ask("My key is sk-abcdefghijklmnop1234, is it safe?", **headers)
        gateway.settle()
    time.sleep(0.05)
    gateway.app._lines.close()  # type: ignore[union-attr]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"gateway.access"' in line]
    return [line for line in lines if line["endpoint"] == "chat"]


def test_an_access_line_tells_what_became_of_a_request(
    start: Callable[..., Running], capsys: pytest.CaptureFixture[str]
) -> None:
    miss, hit = access_lines(start, capsys, {}, traceparent=f"00-{TRACE}-{ABOVE}-01")
    assert (miss["decision"], hit["decision"], hit["how"]) == ("forward", "reuse", "exact")
    assert (miss["trace_id"], miss["span_id"]) == (TRACE, ABOVE)  # not traced here: the caller's own
    assert (miss["input_tokens"], hit["output_tokens"]) == (7, 3)
    assert "saved_dollars" in hit
    assert "saved_dollars" not in miss
    assert miss["tenant"].startswith("k:")
    assert "question" not in miss


def test_text_and_tenants_are_in_a_line_by_switch_and_keys_never(
    start: Callable[..., Running], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"log": {"level": "info", "prompts": True, "tenants": False}}
    line, _ = access_lines(start, capsys, told)
    assert line["question"] == "My key is [redacted], is it safe?"
    assert "tenant" not in line
    assert "trace_id" not in line


SECRETS = [
    "Bearer abcdefgh12345678", "https://user:hunter2secret@host/x", "sk-proj-abcdefghijklmnop1234",
    "ghp_abcdefghijklmnop1234", "AKIAABCDEFGHIJKLMNOP", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
    "the-configured-one",
]  # fmt: skip
PARTS = (
    "abcdefgh12345678",
    "hunter2secret",
    "abcdefghijklmnop1234",
    "AKIAABCD",
    "eyJzdWI",
    "the-configured-one",
)


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_blotted_out_wherever_they_stand(secret: str) -> None:
    stream = io.StringIO()
    output = logging.StreamHandler(stream)
    output.setFormatter(log.JsonFormatter(log.Redaction({"the-configured-one", "abc"})))
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed: %s", (f"see {secret} abc",), None)
    record.fields = {"url": secret, "tenant": "t:acme"}
    output.emit(record)
    written = stream.getvalue()
    assert not [part for part in PARTS if part in written]
    line = json.loads(written)  # still a line
    assert line["message"].endswith(" abc")  # too short to be told from a word
    assert line["tenant"] == "t:acme"


def test_the_configurations_own_secrets_are_known() -> None:
    tree = {
        "admin": {"token": "admin-token-1"},
        "models": [{"name": "m", "backends": [{"url": "http://b/v1", "api_key": "engine-key-1"}]}],
        "tenants": [{"name": "acme", "keys": ["acme-key-1"]}],
        "store": {"kind": "redis", "url": "redis://me:store%20pass@r:6379/0"},
        "otel": {"endpoint": "http://c:4318", "headers": {"authorization": "otel-key-1"}},
    }
    assert config.build(tree, {}).secrets() >= {
        "admin-token-1", "engine-key-1", "acme-key-1", "store%20pass", "store pass", "otel-key-1",
    }  # fmt: skip
