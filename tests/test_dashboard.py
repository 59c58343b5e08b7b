"""What is shown and alerted on exists: every query of the dashboard and of the alert rules, against a running gateway."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as families

from tests.harness import Running, ScriptedBackend

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/semantic-gateway.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
SCRAPED = {"instance", "job"}  # labels that Prometheus adds
ENDINGS = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield (
                panel["title"],
                target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*"),
            )
    for rule in rules():
        yield rule["alert"], rule["expr"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in ALERTS["groups"] for rule in group["rules"]]


def selectors(node: Any) -> Iterator[Any]:
    """Every metric that an expression names."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "param", "vs", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, str):
            yield from selectors(inner)
    for inner in getattr(node, "args", None) or ():
        yield from selectors(inner)


@pytest.fixture
def published(start: Callable[..., Running], backend: ScriptedBackend) -> dict[str, set[str]]:
    """Every name of `/metrics` with the labels of its samples, after some traffic."""
    models = [
        {"name": "large", "backends": [{"url": backend.url}], "offload_to": "small"},
        {"name": "small", "backends": [{"url": backend.url}]},
    ]
    gateway = start({"models": models})
    for _ in range(2):
        gateway.ask("How do I reverse a list in Python?", model="large")
        gateway.settle()
    gateway.post("/v1/chat/completions", {"model": "large", "messages": [{"role": "user", "content": "Hi"}],
                                          "stream": True})  # fmt: skip
    gateway.settle()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for family in families(gateway.http.get(f"{gateway.admin}/metrics").text):
        for ending in ENDINGS.get(family.type, ("",)):
            found[family.name + ending] |= set()
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


def test_every_query_names_what_is_published(published: dict[str, set[str]]) -> None:
    for title, expression in queries():
        named = list(selectors(promql.parse(expression)))
        assert named, title
        for each in named:
            assert each.name in published, f"{title}: {each.name}"
            asked = {matcher.name for matcher in each.matchers.matchers} - SCRAPED
            if published[each.name]:
                assert asked <= published[each.name], f"{title}: {each}"


def test_every_grouping_is_by_labels_that_are_there(published: dict[str, set[str]]) -> None:
    for title, expression in queries():
        for node in nested(promql.parse(expression)):
            if not isinstance(node, promql.AggregateExpr) or node.modifier is None:
                continue
            names = [each.name for each in selectors(node)]
            if any(published[name] for name in names) and "label_replace" not in expression:
                known = {label for name in names for label in published[name]} | SCRAPED
                assert set(node.modifier.labels) <= known, f"{title}: {node}"


def nested(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from nested(inner)
    for inner in getattr(node, "args", None) or ():
        yield from nested(inner)


def test_the_walk_finds_a_name_wherever_it_stands() -> None:
    found = {
        each.name for each in selectors(promql.parse("topk(3, sum by (a) (rate(b[1m]))) / (c > d) or -e"))
    }
    assert found == {"b", "c", "d", "e"}


def test_panels_lie_beside_each_other_and_each_has_a_query() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert all(panel["targets"] for panel in panels())
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_rule_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((ROOT / "deploy/prometheus/alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_compose_provisions_what_is_there() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    mounted = [
        volume.split(":")[0]
        for name in ("grafana", "prometheus")
        for volume in services[name]["volumes"]
        if volume.startswith(".")
    ]
    assert len(mounted) == 3
    assert all((ROOT / "deploy" / path).exists() for path in mounted)
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/dashboards/semantic-gateway.yml").read_text()
    )
    inside = provider["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{inside}:ro" in services["grafana"]["volumes"]
