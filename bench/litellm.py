"""Beside LiteLLM's proxy: the same engine, the same load, one run.

    python -m bench.litellm [--venv FOLDER] [--seconds 4]

LiteLLM comes from PyPI into a virtual environment of its own. Both run with one worker. Forward: caching
off. Exact hit: LiteLLM's in-memory cache, the gateway's default. LiteLLM's semantic cache needs a vector
database and an embedding endpoint (Redis Stack or Qdrant); neither is in the registries this is measured
with, so semantic hits are measured for the gateway alone, by `bench.speed`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.speed import OFF, Server, body, free_port, gateway, load


def install(folder: Path) -> Path:
    """LiteLLM's proxy in its own environment; returns the folder of its commands."""
    commands = folder / "bin"
    if not (commands / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(commands / "pip"), "install", "--quiet", "litellm[proxy]"], check=True)
    return commands


def start(commands: Path, folder: Path, engine: int, *, cache: bool) -> tuple[subprocess.Popen[bytes], int]:
    """One LiteLLM proxy with one worker; ready when it answers."""
    port = free_port()
    model = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
    settings = {"cache": True, "cache_params": {"type": "local"}} if cache else {}
    config = folder / f"litellm-{cache}.yaml"
    config.write_text(
        json.dumps(
            {"model_list": [{"model_name": "bench", "litellm_params": model}], "litellm_settings": settings}
        )
    )
    environment = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # no keys on either side
    command = [str(commands / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2).read()
            return process, port
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("LiteLLM did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=Path(".venv-litellm"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    commands = install(options.venv.resolve())
    engine = Server("engine", free_port())
    lines = [
        "| | gateway, a second | LiteLLM, a second | ratio | gateway p50 / p99 ms | LiteLLM p50 / p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as place, gateway(Path(place), engine.port) as ours:
        bodies = [body("How do I reverse a list in Python?")]
        for what, header, cache in (("forward", OFF, False), ("exact hit", "", True)):
            process, port = start(commands, Path(place), engine.port, cache=cache)
            try:
                for server in (ours.port, port):
                    load(server, bodies, 8, 2.0, header=header)
                for concurrency in (1, 8):
                    pairs = [
                        (
                            load(ours.port, bodies, concurrency, options.seconds, header=header),
                            load(port, bodies, concurrency, options.seconds),
                        )
                        for _ in range(options.rounds)
                    ]
                    lines.append(_line(f"{what}, {concurrency} connections", pairs))
            finally:
                process.terminate()
                process.wait()
    engine.stop()
    print("\n".join(lines))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "litellm.md").write_text("\n".join(lines) + "\n")


def _line(what: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> str:
    def middle(side: int, key: str) -> float:
        return statistics.median(pair[side][key] for pair in pairs)

    ratio = statistics.median(a["rps"] / b["rps"] for a, b in pairs)
    ours, theirs = (f"{middle(side, 'p50'):.2f} / {middle(side, 'p99'):.2f}" for side in (0, 1))
    return (
        f"| {what} | {middle(0, 'rps'):,.0f} | {middle(1, 'rps'):,.0f} | {ratio:.0f} × | {ours} | {theirs} |"
    )


if __name__ == "__main__":
    main()
