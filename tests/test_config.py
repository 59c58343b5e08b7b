from pathlib import Path
from typing import Any

import pytest

from gateway import keys
from gateway.config import ConfigFault, build, load

MODELS = [{"name": "m", "backends": [{"url": "http://engine:8000/v1/"}]}]


def faults(tree: dict[str, Any], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigFault) as caught:
        build(tree, environ or {})
    return str(caught.value)


def test_everything_but_models_has_a_default() -> None:
    config = build({"models": MODELS}, {})
    assert config.listen.port == 8080
    assert config.models[0].backends[0].url == "http://engine:8000/v1"
    assert "models" in faults({})


def test_unknown_keys_are_refused_with_their_path() -> None:
    assert "listen.prot" in faults({"models": MODELS, "listen": {"prot": 1}})
    assert "models.0.backends.0.key" in faults(
        {"models": [{"name": "m", "backends": [{"url": "http://x", "key": "y"}]}]}
    )


def test_environment_references_are_resolved_or_named() -> None:
    tree = {
        "models": MODELS,
        "admin": {"token": "${TOKEN:-}"},
        "tenants": [{"name": "a", "keys": ["${KEY}"]}],
    }
    config = build(tree, {"KEY": "sk-1", "TOKEN": "t"})
    assert (config.admin.token, config.tenants[0].keys) == ("t", ("sk-1",))
    assert "tenants.0.keys.0: environment variable KEY is not set" in faults(tree, {})


def test_a_token_is_required_off_loopback() -> None:
    assert "token" in faults({"models": MODELS, "admin": {"host": "0.0.0.0"}})
    assert build({"models": MODELS, "admin": {"host": "0.0.0.0", "token": "t"}}, {}).admin.token == "t"


def test_an_empty_or_shared_key_is_refused_without_being_shown() -> None:
    assert "a key is empty" in faults({"models": MODELS, "tenants": [{"name": "a", "keys": [" "]}]})
    shared = [{"name": "a", "keys": ["sk-secret"]}, {"name": "b", "keys": ["sk-secret"]}]
    message = faults({"models": MODELS, "tenants": shared})
    assert "listed twice" in message
    assert "sk-secret" not in message.split("input_value")[0]


@pytest.mark.parametrize(
    ("tenant", "reason"),
    [
        ({"keys": ["blake2b:0:1:2"]}, "not a key's hash"),
        ({"keys": [{"key": "a"}, "a"]}, "listed twice"),
        ({"keys": ["a"], "models": ["x"]}, "tenants.models names no listed model: x"),
        ({"keys": ["a"], "budget": {"soft": 2, "hard": 1}}, "soft is above hard"),
        ({"keys": ["a"], "budget": {}}, "say soft, hard or both"),
        ({"keys": ["a"], "limits": {"in_flight": 0}}, "limits.in_flight"),
    ],
)
def test_what_a_tenant_cannot_have_is_refused(tenant: dict[str, Any], reason: str) -> None:
    assert reason in faults({"models": MODELS, "tenants": [{"name": "a", **tenant}]})


def test_one_generated_key_is_not_listed_under_two_hashes() -> None:
    key = keys.generate()
    listed = [str(keys.hashed(key)), {"key": str(keys.hashed(key))}]
    assert "listed twice" in faults({"models": MODELS, "tenants": [{"name": "a", "keys": listed}]})


def test_offloading_goes_to_another_listed_model() -> None:
    small = {"name": "s", "backends": [{"url": "http://x"}]}
    large = {"name": "l", "backends": [{"url": "http://x"}], "offload_to": "s"}
    config = build({"models": [large, small], "judge": {"model": "l"}}, {})
    assert (config.models[0].offload_to, config.models[1].offload_to) == ("s", None)
    assert "offload_to names no listed model: s" in faults({"models": [large]})
    assert "cannot be offloaded to itself" in faults({"models": [{**large, "name": "s"}]})
    assert "judge.model names no listed model: x" in faults({"models": [small], "judge": {"model": "x"}})


def test_what_is_personal_is_said_in_patterns_that_cannot_hang() -> None:
    tenant = {"name": "a", "keys": ["k"], "personal": ["(?i)my name is"]}
    assert build({"models": MODELS, "tenants": [tenant]}, {}).tenants[0].personal == ("(?i)my name is",)
    assert "tenants.0.personal" in faults({"models": MODELS, "tenants": [{**tenant, "personal": ["(?=a)"]}]})


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "models: [{name: m, backends: [{url: 'http://x/v1'}]}]\npolicies: book\nstore: {path: db/g.db}\n"
    )
    config = load(file, {})
    assert config.policies == tmp_path / "book"
    assert config.store.path == tmp_path / "db/g.db"


@pytest.mark.parametrize("text", ["a: [", "- 1", "\xff", ""])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigFault, match=r"gateway\.yaml"):
        load(file, {})


# ── OpenTelemetry's own variables ───────────────────────────────────────────────────────────────────────────

BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}


def otel(environ: dict[str, str], **told: Any) -> Any:
    return build({"models": MODELS, **({"otel": told} if told else {})}, environ).otel


def test_traces_are_off_unless_somebody_names_a_collector() -> None:
    assert otel({}).endpoint == ""
    assert otel(BASE).endpoint == "http://c:4318/v1/traces"
    assert otel({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}).endpoint == "http://c/x"
    assert otel({}, endpoint="http://c:4318").endpoint == "http://c:4318/v1/traces"


@pytest.mark.parametrize(
    "more",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_switches_traces_off_elsewhere_does_so_here(more: dict[str, str]) -> None:
    assert otel({**BASE, **more}).endpoint == ""


def test_the_file_wins_over_the_variables() -> None:
    environ = {**BASE, "OTEL_SERVICE_NAME": "env", "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=x%20y"}
    assert otel(environ).headers == {"a": "1", "b": "x y"}
    told = otel(environ, service="file")
    assert (told.service, told.endpoint) == ("file", "http://c:4318/v1/traces")


@pytest.mark.parametrize(
    ("sampler", "argument", "sample", "parent"),
    [
        ("always_on", "", 1.0, False),
        ("always_off", "", 0.0, False),
        ("traceidratio", "0.25", 0.25, False),
        ("parentbased_always_off", "", 0.0, True),
        ("parentbased_traceidratio", "0.25", 0.25, True),
        ("jaeger_remote", "", 1.0, True),
    ],
)
def test_samplers_by_their_names(sampler: str, argument: str, sample: float, parent: bool) -> None:
    told = otel({**BASE, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert (told.sample, told.parent) == (sample, parent)


def test_resource_attributes_name_the_service_too() -> None:
    told = otel({**BASE, "OTEL_RESOURCE_ATTRIBUTES": "service.name=edge,zone=a"})
    assert told.service == "edge"
    assert told.attributes["zone"] == "a"


def test_a_sampler_that_is_no_number_is_a_fault_with_its_place() -> None:
    with pytest.raises(ConfigFault, match=r"otel\.sample"):
        otel({**BASE, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"})
