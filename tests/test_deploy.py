"""What is deployed: the chart by Helm itself, manifests by Kubernetes' schemas, compose by its specification, the unit
by systemd; and the configuration in each by the gateway."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import helm_python
import kubernetes_validate
import pytest
import yaml

from gateway.cli import _parser
from gateway.config import Config, build
from gateway.policy.book import from_json

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = ("1.34", "1.37")
ENVIRONMENT = {
    "GATEWAY_ADMIN_TOKEN": "t",
    "REDIS_URL": "redis://redis:6379/0",
    "GATEWAY_ADMIN_HOST": "0.0.0.0",
}
BOOK = {"categories": [{"name": "default", "cache": {"mode": "semantic", "threshold": 0.92, "ttl": "1d"}}]}
PODS = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
EVERYTHING: dict[str, Any] = {
    "redis": {"enabled": True, "url": "rediss://redis.cache.svc:6379/0", "namespace": "team"},
    "policies": {"default": BOOK},
    "env": [{"name": "LARGE_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "large"}}}],
    "autoscaling": {"enabled": True, "metrics": [
        {"type": "Pods", "pods": {"metric": {"name": "gateway_in_flight"}, "target": {"type": "AverageValue", "averageValue": "200"}}}
    ]},
    "networkPolicy": {"clients": PODS, "operators": PODS, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gateway", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "serviceAccount": {"annotations": {"a": "b"}},
    "priorityClassName": "high",
    "drainSeconds": 60,
    "config": {"models": [{"name": "m", "backends": [{"url": "http://e/v1", "api_key": "${LARGE_KEY:-}"}]}],
               "store": {"namespace": "mine"}},
}  # fmt: skip
LEAST: dict[str, Any] = {
    "serviceAccount": {"create": False},
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "topologySpread": False,
    "podAnnotations": {},
}
Manifest = dict[str, Any]


def _render() -> Any:
    spec = importlib.util.spec_from_file_location("render", DEPLOY / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = _render()


def rendered(values: dict[str, Any] | None = None, name: str = "prod") -> dict[str, Manifest]:
    """Kind/name → manifest."""
    return keyed(render.manifests(values, name))


def keyed(stream: str) -> dict[str, Manifest]:
    return {f"{m['kind']}/{m['metadata']['name']}": m for m in yaml.safe_load_all(stream) if m}


def valid(manifest: Manifest) -> None:
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


def config_of(manifests: dict[str, Manifest], name: str) -> Config:
    return build(yaml.safe_load(manifests[f"ConfigMap/{name}"]["data"]["gateway.yaml"]), ENVIRONMENT)


def pod_of(manifests: dict[str, Manifest], name: str = "prod-semantic-gateway") -> Manifest:
    pod: Manifest = manifests[f"Deployment/{name}"]["spec"]["template"]["spec"]
    return pod


def test_helm_lints_the_chart() -> None:
    found = helm_python.lint(str(render.CHART))
    assert found["errors"] == []
    assert [m for m in found["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("values", [{}, EVERYTHING, LEAST], ids=["defaults", "everything", "least"])
def test_kubernetes_takes_what_helm_renders(values: dict[str, Any]) -> None:
    manifests = rendered(values)
    for manifest in manifests.values():
        valid(manifest)
    config_of(manifests, "prod-semantic-gateway")


def test_the_chart_brings_what_it_promises() -> None:
    kinds = sorted(name.split("/")[0] for name in rendered(EVERYTHING))
    assert kinds == sorted(
        ["ConfigMap", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy",
         "PodDisruptionBudget", "Service", "Service", "ServiceAccount"]
    )  # fmt: skip
    assert sorted(name.split("/")[0] for name in rendered(LEAST)) == [
        "ConfigMap",
        "Deployment",
        "Service",
        "Service",
    ]


def test_the_rendered_configuration_is_the_operators_over_the_charts() -> None:
    config = config_of(rendered(EVERYTHING), "prod-semantic-gateway")
    assert (config.listen.host, config.admin.host, config.admin.token) == ("0.0.0.0", "0.0.0.0", "t")
    assert (config.store.kind, config.store.url, config.store.namespace) == (
        "redis",
        "redis://redis:6379/0",
        "mine",
    )
    assert config.limits.drain_seconds == 60
    assert [model.name for model in config.models] == ["m"]
    assert "prod-semantic-gateway-admin.semantic-gateway.svc" in config.admin.hosts
    policies = rendered(EVERYTHING)["ConfigMap/prod-semantic-gateway-policies"]["data"]
    from_json(yaml.safe_load(policies["default.yaml"]))
    assert config_of(rendered(), "prod-semantic-gateway").store.kind == "sqlite"


def restricted(pod: Manifest, name: str) -> Manifest:
    """The gateway's container in a pod, once it keeps to the restricted pod security standard."""
    container: Manifest = next(c for c in pod["containers"] if c["name"] == name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    assert {mounts["/data"], mounts["/tmp"]} <= empty
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    return container


def test_pods_are_restricted_and_outlive_the_drain() -> None:
    for values, drain in (({}, 30), (EVERYTHING, 60)):
        manifests = rendered(values)
        pod = pod_of(manifests)
        container = restricted(pod, "gateway")
        stop = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert pod["terminationGracePeriodSeconds"] == stop + drain + 20
        assert pod["automountServiceAccountToken"] is False
        assert _parser().parse_args(container["args"]).config == Path("/etc/gateway/gateway.yaml")
    sidecar = keyed((DEPLOY / "kubernetes/sidecar.yaml").read_text())
    pod = pod_of(sidecar, "application")
    restricted(pod, "semantic-gateway")
    assert (
        pod["terminationGracePeriodSeconds"]
        > Config(models=build({"models": MODELS}).models).limits.drain_seconds
    )


MODELS = [{"name": "*", "backends": [{"url": "http://e/v1"}]}]


def test_everything_that_is_mounted_selected_or_targeted_exists() -> None:
    manifests = rendered(EVERYTHING)
    pod = pod_of(manifests)
    volumes = {volume["name"] for volume in pod["volumes"]}
    container = pod["containers"][0]
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    maps = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
    assert all(f"ConfigMap/{name}" in manifests for name in maps)
    labels = manifests["Deployment/prod-semantic-gateway"]["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in container["ports"]}
    for service in (m for m in manifests.values() if m["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        spec = manifests[f"{kind}/prod-semantic-gateway"]["spec"]
        assert (spec.get("selector") or spec["podSelector"])["matchLabels"].items() <= labels.items()
    target = manifests["HorizontalPodAutoscaler/prod-semantic-gateway"]["spec"]["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" in manifests
    assert "replicas" not in manifests["Deployment/prod-semantic-gateway"]["spec"]  # the autoscaler's


def test_a_new_configuration_is_a_new_pod() -> None:
    def mark(values: dict[str, Any]) -> str:
        template = rendered(values)["Deployment/prod-semantic-gateway"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert mark({}) == mark({"replicaCount": 5})
    assert mark({}) != mark({"policies": {"default": BOOK}})


def test_the_admin_port_is_closed_to_all_but_operators() -> None:
    def ports(values: dict[str, Any]) -> list[str]:
        policy = rendered(values)["NetworkPolicy/prod-semantic-gateway"]["spec"]
        return [port["port"] for rule in policy["ingress"] for port in rule["ports"]]

    assert ports({}) == ["data"]
    assert ports(EVERYTHING) == ["data", "admin"]


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"existingSecret": ""},
        {"config": {"models": []}},
        {"config": {"models": MODELS, "limits": {"drain_seconds": 90}}},
        {"redis": {"url": "http://redis"}},
        {"drainSeconds": 0},
        {"image": {"pullPolicy": "Sometimes"}},
    ],
    ids=str,
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        render.manifests(values)


def test_plain_manifests_are_the_chart_rendered() -> None:
    text = (DEPLOY / "kubernetes/central.yaml").read_text()
    assert text == render.central(), "run python deploy/render.py"
    config_of(keyed(text), "semantic-gateway")


@pytest.mark.parametrize("file", sorted((DEPLOY / "kubernetes").glob("*.yaml")), ids=lambda p: p.name)
def test_kubernetes_takes_the_plain_manifests(file: Path) -> None:
    for manifest in yaml.safe_load_all(file.read_text()):
        valid(manifest)


def test_compose_is_whole() -> None:
    file = DEPLOY / "compose.yaml"
    # The checker knows addresses only; host-gateway is Docker's own word for the host's.
    compose = compose_spec.PyCompose.from_yaml(file.read_text().replace("host-gateway", "127.0.0.1"))
    compose.validate()
    assert set(compose.service_names()) == {"gateway", "redis", "prometheus", "grafana"}
    tree = yaml.safe_load(file.read_text())
    services = tree["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists()
            else:
                assert source in tree["volumes"]
        assert set(service.get("depends_on", ())) < set(services)
    assert all(
        port.startswith("127.0.0.1:") or port == "8080:8080"
        for s in services.values()
        for port in s.get("ports", ())
    )


def test_the_containers_configuration_loads() -> None:
    gateway = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["gateway"]
    given = {k: re.sub(r"\$\{\w+:?[-?](.*)\}", r"\1", v) for k, v in gateway["environment"].items()}
    config = build(yaml.safe_load((DEPLOY / "gateway.yaml").read_text()), given)
    assert (config.store.kind, config.store.url) == ("redis", "redis://redis:6379/0")
    scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"gateway:{config.admin.port}"]
    assert config.admin.open_metrics


def unit() -> str:
    return (DEPLOY / "systemd/semantic-gateway.service").read_text()


def test_the_unit_starts_what_exists_and_outlives_the_drain() -> None:
    lines = dict(line.split("=", 1) for line in unit().splitlines() if "=" in line and line[0] not in "#[")
    for key in ("ExecStartPre", "ExecStart"):
        program, *arguments = lines[key].split()
        assert program.endswith("/bin/semantic-gateway")
        assert _parser().parse_args(arguments).config == Path("/etc/semantic-gateway/gateway.yaml")
    config = build(yaml.safe_load((DEPLOY / "systemd/gateway.yaml").read_text()), {})
    assert int(lines["TimeoutStopSec"]) > config.limits.drain_seconds + 20
    assert str(config.store.path).startswith(f"/var/lib/{lines['StateDirectory']}/")
    for hardening in (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "DynamicUser=yes",
    ):
        assert hardening in unit().splitlines()


def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    """By systemd's own tool, where the machine has it; what it would find first is looked at above in any case."""
    analyze = shutil.which("systemd-analyze")
    file = tmp_path / "semantic-gateway.service"
    file.write_text(unit().replace("/opt/semantic-gateway/bin/semantic-gateway", sys.executable))
    for command in (["verify"], ["security", "--offline=yes", "--threshold=20"]):
        if analyze is not None:
            done = subprocess.run([analyze, *command, str(file)], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr + done.stdout
