"""Imports go one way, adapters import their one library, and documentation names what exists."""

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from gateway.config import Config

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "gateway").rglob("*.py"))

# Each layer may import from those before it; rooms share one layer, and within it only themselves.
LAYERS = [
    {"patterns", "keys"},
    {"errors", "config"},
    {"exchange"},
    {"interfaces"},
    {"wire", "tenant", "limits", "classify", "policy", "cache", "embedding", "index", "offload", "routing", "storage", "metrics",
     "log", "calibration", "trust", "verifier", "savings", "tracing", "audit"},
    {"proof", "charts", "traffic"},
    {"asking", "journal"},
    {"judge"},
    {"rehearsal", "sampling", "replica"},
    {"headers", "record", "pipeline", "calibrate"},
    {"tune"},
    {"feedback", "labels", "transfer"},
    {"server", "admin"},
    {"readings", "build"},
    {"app", "workers"},
    {"doctor", "thresholds", "check", "lessons", "cache_tools", "litellm"},
    {"cli"},
    {"__main__"},
]  # fmt: skip
# Rooms that another room is built on, with the reason.
ALLOWED = {
    ("embedding", "index"): "the worker owns the indexes",
    ("policy", "cache"): "a policy names the guard's checks and an entry's terms",
    ("storage", "limits"): "Redis counts as the room does, which goes on where Redis cannot be asked",
    ("offload", "wire"): "an example is read from an answer, and a request made anew",
    ("policy", "calibration"): "one least similarity, written or learned",
    ("trust", "calibration"): "one conformal bound, offline and online",
    ("verifier", "cache"): "it reads texts as the guard reads them, and weighs its checks",
    ("calibrate", "embedding"): "calibration embeds with the embedder that serves",
}
# Foreign libraries and the only places that may import them.
LIBRARIES = {
    "aiohttp": {"server", "admin", "routing", "app", "workers", "doctor", "cache_tools"},
    "redis": {"storage"},
    "cryptography": {"storage"},
    "sqlite3": {"storage"},
    "hnswlib": {"index"},
    "sentence_transformers": {"embedding"},
    "torch": {"embedding", "verifier"},
    "transformers": {"verifier"},
    "sklearn": {"verifier"},
    "onnxruntime": {"embedding", "verifier"},
    "prometheus_client": {"metrics"},
    "opentelemetry": {"tracing"},
    "urllib3": {"tracing"},
    "re2": {"patterns"},
    "yaml": {"policy", "config", "thresholds", "litellm"},
    "matplotlib": {"charts"},
    "pydantic": {"policy", "config", "check"},
}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def layer(name: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    mine = room(path)
    if mine == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "gateway" and len(parts) > 1 and (ROOT / "gateway" / parts[1]).with_suffix("").name:
            theirs = parts[1]
            exists = (ROOT / "gateway" / theirs).is_dir() or (ROOT / "gateway" / f"{theirs}.py").is_file()
            if not exists or theirs == mine or (mine, theirs) in ALLOWED:
                continue
            assert layer(theirs) < layer(mine), f"{mine} imports {theirs}"
        elif parts[0] in LIBRARIES:
            assert mine in LIBRARIES[parts[0]], f"{mine} imports {parts[0]}"


def test_importing_the_gateway_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = (
        "{'torch', 'sentence_transformers', 'onnxruntime', 'redis', 'hnswlib', 'opentelemetry', 'urllib3'}"
    )
    code = f"import sys, gateway.app; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def settings(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(name)
        for inner in re.findall(r"[A-Z]\w+", str(field.annotation)):
            found = vars(__import__("gateway.config", fromlist=["x"])).get(inner)
            if isinstance(found, type) and issubclass(found, BaseModel):
                names |= settings(found)
    return names


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    missing = {name for name in settings(Config) if not re.search(rf"[`.]{name}\b|\b{name}:", text)}
    assert not missing


def test_every_header_is_documented() -> None:
    text = (ROOT / "docs/headers.md").read_text()
    named = set()
    for path in FILES:
        named |= set(re.findall(r'"(x-gateway-[a-z-]+[a-z])"', path.read_text()))
    assert named - {"x-gateway-tenant"} <= set(re.findall(r"x-gateway-[a-z-]+[a-z]", text))


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    named = set()
    for path in (ROOT / "gateway/metrics.py", ROOT / "gateway/readings.py"):
        named |= set(re.findall(r'"((?:gateway|gen_ai)_[a-z_]+)"', path.read_text()))
    missing = {name for name in named if name not in text}
    assert not missing
    alerts = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    for metric in set(re.findall(r"gateway_[a-z_]+", alerts)):
        assert metric.removesuffix("_total") in {n.removesuffix("_total") for n in named}, metric
