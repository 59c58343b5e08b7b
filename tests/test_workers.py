"""`serve --workers`: several processes on one port, and one admin port that speaks for all."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli import main
from gateway.workers import merged
from tests.harness import ScriptedBackend
from tests.harness.gateway import BOOK
from tests.test_end_to_end import FRANCE, PARAPHRASE, ROOT, free_port, wait_until


def test_pages_are_merged_with_the_worker_as_a_label() -> None:
    page = '# HELP a_total Some.\n# TYPE a_total counter\na_total{x="1"} 2.0\n# HELP b B.\n# TYPE b gauge\nb 1.0\n'
    page += '# HELP s S.\n# TYPE s histogram\ns_bucket{le="1"} 1.0\ns_count 1.0\ns_sum 0.5\n'
    told = merged({"0": page, "1": page.replace("2.0", "3.0")}, {"0": 0, "1": 2, "2": 5})
    found = {f.name: f for f in text_string_to_metric_families(told)}
    assert [(s.labels, s.value) for s in found["a"].samples] == [
        ({"worker": "0", "x": "1"}, 2.0),
        ({"worker": "1", "x": "1"}, 3.0),
    ]
    assert [s.labels for s in found["b"].samples] == [{"worker": "0"}, {"worker": "1"}]
    assert len(found["s"].samples) == 6
    assert [s.value for s in found["gateway_worker_up"].samples] == [1, 1, 0]
    assert [s.value for s in found["gateway_worker_restarts"].samples] == [0, 2, 5]
    assert told.count("# TYPE a_total") == 1


def test_workers_share_nothing_with_a_memory_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        json.dumps(
            {
                "models": [{"name": "*", "backends": [{"url": "http://127.0.0.1:9/v1"}]}],
                "store": {"kind": "memory"},
            }
        )
    )
    assert main(["serve", "--config", str(file), "--workers", "2"]) == 1
    assert "store.kind: memory" in capsys.readouterr().err


class Served:
    """Two workers in front of the scripted engine."""

    def __init__(self, folder: Path, model: Path, backend: str) -> None:
        (folder / "policies").mkdir()
        (folder / "policies" / "book.yaml").write_text(BOOK)
        self.folder, port, admin = folder, free_port(), free_port()
        config = {
            "listen": {"port": port},
            "admin": {"port": admin},
            "models": [{"name": "*", "backends": [{"url": backend}]}],
            "embedder": {"cache": str(model), "deadline": 5.0},
            "store": {"kind": "sqlite", "path": "gateway.db"},
            "policies": "policies",
            "trust": {"share": 0},
        }
        (folder / "gateway.yaml").write_text(json.dumps(config))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(folder / "gateway.yaml")]
        with open(folder / "log", "ab") as log:
            self.process = subprocess.Popen([*command, "--workers", "2"], cwd=ROOT, stderr=log)
        self.url, self.admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"

    def wait(self) -> "Served":
        """Until both are ready."""
        wait_until(lambda: all(self.ready(k) for k in (0, 1)))
        return self

    def ready(self, worker: int) -> bool:
        return httpx.get(f"{self.admin}/readyz", params={"worker": worker}).status_code == 200

    def ask(self, question: str) -> httpx.Response:
        """On a connection of its own, which any worker may take."""
        body = {"model": "m", "messages": [{"role": "user", "content": question}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30)

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def entries(self, worker: int) -> Any:
        return httpx.get(f"{self.admin}/cache", params={"worker": worker}).json()["entries"]

    def metrics(self) -> dict[str, Any]:
        text = httpx.get(f"{self.admin}/metrics").text
        return {family.name: family.samples for family in text_string_to_metric_families(text)}


@pytest.fixture
def served(tmp_path: Path, model_cache: Path, backend: ScriptedBackend) -> Iterator[Served]:
    running = Served(tmp_path, model_cache, backend.url)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(30)


def test_two_workers_are_one_gateway(served: Served) -> None:
    served.wait()
    first = served.ask(FRANCE)
    wait_until(lambda: [served.entries(k) for k in (0, 1)] == [1, 1])
    for _ in range(4):
        hit = served.ask(PARAPHRASE)
        assert hit.headers["x-gateway-entry"] == first.headers["x-gateway-entry"]

    category = httpx.get(f"{served.admin}/policies/code").json()
    category["cache"]["threshold"] = 0.97
    assert httpx.put(f"{served.admin}/policies/code", json=category).status_code == 200

    def thresholds() -> list[float]:
        read = [httpx.get(f"{served.admin}/policies/code", params={"worker": k}).json() for k in (0, 1)]
        return [one["cache"]["threshold"] for one in read]

    wait_until(lambda: thresholds() == [0.97, 0.97])
    assert httpx.post(f"{served.admin}/backends/any/0/drain").json()["draining"] is True
    draining = served.metrics()["gateway_backend_draining"]
    assert [(s.labels["worker"], s.value) for s in draining] == [("0", 1), ("1", 1)]
    httpx.post(f"{served.admin}/backends/any/0/enable")

    # One is killed under load: no request of the others fails, and it comes back with everything.
    before = served.children()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(served.ask, f"Tell me one fact about the number {n}") for n in range(20)]
        assert {answer.result().status_code for answer in asked} == {200}
        wait_until(lambda: served.entries(0) == served.entries(1) == 21)  # what is durable outlives it
        os.kill(before[0], signal.SIGKILL)
        time.sleep(0.05)
        asked = [pool.submit(served.ask, f"Tell me one fact about the year {n}") for n in range(1900, 1920)]
        assert {answer.result().status_code for answer in asked} == {200}
    wait_until(lambda: len(served.children()) == 2 and served.ready(0))
    wait_until(lambda: served.entries(0) == served.entries(1) == 41)
    assert sorted(s.value for s in served.metrics()["gateway_worker_restarts"]) == [0, 1]

    served.process.send_signal(signal.SIGHUP)  # the folder's book replaces the edit, in all of them
    wait_until(lambda: thresholds() == [0.90, 0.90])
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        served.ask(FRANCE)


def test_workers_do_not_outlive_their_parent(served: Served) -> None:
    """Not even those that were still starting when it died."""
    wait_until(lambda: len(served.children()) == 2)
    children = served.children()
    served.process.kill()
    served.process.wait()

    def gone(pid: int) -> bool:
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"

    wait_until(lambda: all(gone(pid) for pid in children), 20)
