"""What `make run` does: an engine, the gateway in front of it, and four questions that show it working.

python examples/demo.py                     real llama.cpp with a small model, started here
python examples/demo.py --backend URL       an engine of your own, such as http://engine:8000/v1
"""

import argparse
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from openai import OpenAI

HERE = Path(__file__).resolve().parent
QUESTIONS = (
    ("a first question is forwarded", "What is the capital of France?"),
    ("the same again is an exact hit", "What is the capital of France?"),
    ("a paraphrase is a semantic hit", "What is France's capital?"),
    ("a near-miss is not", "What is the capital of Germany?"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="", help="base URL of an engine of your own")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--admin-port", type=int, default=8081)
    parser.add_argument("--engine-port", type=int, default=9001)
    parser.add_argument("--once", action="store_true", help="stop after the four questions")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        backend = options.backend or start_engine(options.engine_port, processes)
        gateway = start_gateway(backend, options.port, options.admin_port, processes)
        show(gateway)
        if options.once:
            return 0
        print(
            f"\nServing. Base URL: {gateway}/v1   admin: http://127.0.0.1:{options.admin_port}   stop: Ctrl-C",
            flush=True,
        )
        processes[-1].wait()
        return processes[-1].returncode
    except KeyboardInterrupt:
        return 0
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


def start_engine(port: int, processes: list[subprocess.Popen[bytes]]) -> str:
    print(
        "Engine: llama.cpp with Gemma 3 270M (base). The weights are Google's, under the Gemma Terms of Use:"
    )
    print("        https://ai.google.dev/gemma/terms", flush=True)
    command = [sys.executable, str(HERE / "engine.py"), "--port", str(port)]
    processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    wait_for(f"http://127.0.0.1:{port}/health", processes[-1])
    return f"http://127.0.0.1:{port}/v1"


def start_gateway(backend: str, port: int, admin_port: int, processes: list[subprocess.Popen[bytes]]) -> str:
    print(
        f"Gateway in front of {backend}; the first start exports the embedding model, a few seconds.",
        flush=True,
    )
    command = [sys.executable, "-m", "gateway", "serve", "--backend", backend]
    command += ["--port", str(port), "--admin-port", str(admin_port)]
    with open("gateway.log", "ab") as log:
        processes.append(subprocess.Popen(command, stderr=log))
    wait_for(f"http://127.0.0.1:{port}/readyz", processes[-1])
    return f"http://127.0.0.1:{port}"


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"{url} did not answer within {seconds:g} s")


def show(gateway: str) -> None:
    """Ask, and print what the gateway says it did."""
    client = OpenAI(base_url=f"{gateway}/v1", api_key="demo")
    models = client.models.list().data
    model = models[0].id if models else "default"
    namespace = f"demo-{uuid.uuid4().hex[:8]}"  # so that every run starts from an empty cache
    print()
    for expectation, question in QUESTIONS:
        started = time.perf_counter()
        raw = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[
                {"role": "system", "content": "Answer in one short sentence."},
                {"role": "user", "content": question},
            ],
            temperature=0,
            max_tokens=64,
            stop=["\n"],
            extra_body={"cache": {"namespace": namespace}},
        )
        milliseconds = (time.perf_counter() - started) * 1000
        answer = (raw.parse().choices[0].message.content or "").strip()
        told = raw.headers
        how = told.get("x-gateway-how") or told.get("x-gateway-reason", "")
        similarity = told.get("x-gateway-similarity", "")
        print(f"{expectation:34} {question:38} → {answer[:36]}")
        print(f"{'':34} {told['x-gateway-decision']} ({how}) {similarity}  {milliseconds:.1f} ms", flush=True)
        time.sleep(1.0)  # stored by then, on a busy machine too


if __name__ == "__main__":
    raise SystemExit(main())
