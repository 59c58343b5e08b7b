"""A LiteLLM configuration becomes a gateway.yaml that loads, and what did not come along is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli import main
from gateway.config import Config, load
from tests.harness.gateway import Running

SOURCE = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: os.environ/AZURE_EU_BASE
      api_key: os.environ/AZURE_EU_KEY
      api_version: "2024-08-01-preview"
      rpm: 600
      tpm: 100000
      max_parallel_requests: 40
    model_info: {id: eu-1, base_model: azure/gpt-4o, max_input_tokens: 128000}
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      rpm: 1800
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
      timeout: 30
  - model_name: llama-70b
    litellm_params:
      model: hosted_vllm/meta-llama/Llama-3.3-70B-Instruct
      api_base: http://10.0.0.7:8000/v1
      weight: 3
  - model_name: llama-70b
    litellm_params:
      model: hosted_vllm/meta-llama/Llama-3.3-70B-Instruct
      api_base: http://10.0.0.8:8000/v1/
      weight: 1
  - model_name: local
    litellm_params: {model: ollama_chat/qwen3, api_key: sk-plain}
  - model_name: claude
    litellm_params: {model: bedrock/anthropic.claude-3-5-sonnet, aws_region_name: eu-west-1}
  - model_name: groq/*
    litellm_params: {model: groq/*}
  - model_name: "*"
    litellm_params: {model: openai/*, api_key: os.environ/OPENAI_API_KEY}
  - model_name: embed
    litellm_params: {model: text-embedding-3-small}
    model_info: {mode: embedding, input_cost_per_token: 2.0e-08}
litellm_settings:
  drop_params: true
  num_retries: 3
  request_timeout: 120
  fallbacks: [{"gpt-4o": ["llama-70b", "claude"]}]
  context_window_fallbacks: [{"gpt-4o": ["claude"]}]
  cache: true
  cache_params: {type: redis-semantic, host: os.environ/REDIS_HOST, port: os.environ/REDIS_PORT,
                 password: os.environ/REDIS_PASSWORD, similarity_threshold: 0.8, ttl: 600}
  success_callback: ["langfuse"]
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias: {"gpt-4": "gpt-4o"}
  allowed_fails: 3
  cooldown_time: 30
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: postgresql://x
environment_variables: {A: B}
"""
ENVIRONMENT = {
    "AZURE_EU_BASE": "https://eu.openai.azure.com",
    "AZURE_EU_KEY": "azure",
    "OPENAI_API_KEY": "openai",
    "REDIS_HOST": "redis",
    "REDIS_PORT": "6380",
    "REDIS_PASSWORD": "pw",
    "LITELLM_MASTER_KEY": "sk-master",
}


def translated(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, str]:
    given, out = folder / "litellm.yaml", folder / "gateway.yaml"
    given.write_text(source)
    assert main(["import", "litellm", "--config", str(given), "--out", str(out)]) == 0
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert main(["validate", "--config", str(out)]) == 0
    return load(out), out.read_text()


def test_a_realistic_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, text = translated(tmp_path, SOURCE, monkeypatch)
    models = {model.name: model for model in config.models}
    assert list(models) == ["gpt-4o", "llama-70b", "local", "*", "embed", "gpt-4"]
    azure, openai = models["gpt-4o"].backends
    assert (azure.url, azure.model, azure.api_key) == (
        "https://eu.openai.azure.com/openai/v1",
        "gpt-4o-eu",
        "azure",
    )
    assert (openai.url, openai.model, openai.api_key) == ("https://api.openai.com/v1", None, "openai")
    assert (azure.weight, openai.weight, azure.max_in_flight) == (1, 3, 40)  # by rpm
    assert (models["gpt-4o"].price.input, models["gpt-4o"].price.output) == (2.5, 10)
    assert models["gpt-4o"].context == 128000
    assert models["gpt-4o"].fallback == ("llama-70b",)
    assert [b.weight for b in models["llama-70b"].backends] == [3, 1]
    assert models["llama-70b"].backends[1].url == "http://10.0.0.8:8000/v1"
    assert models["llama-70b"].backends[0].model == "meta-llama/Llama-3.3-70B-Instruct"
    assert models["local"].backends[0].url == "http://127.0.0.1:11434/v1"
    assert models["*"].backends[0].model is None
    assert models["embed"].price.input == 0.02
    assert [b.model for b in models["gpt-4"].backends] == ["gpt-4o-eu", "gpt-4o"]
    assert config.store.url == "redis://:pw@redis:6380/0"
    assert config.tenants[0].keys == ("sk-master",)
    routing = config.routing
    assert (routing.strategy, routing.ejection_failures, routing.ejection_seconds) == ("weighted", 3, 30)
    assert routing.first_byte_seconds == 120
    assert "${AZURE_EU_KEY}" in text
    told = capsys.readouterr().out
    for left in (
        "(claude): bedrock speaks no OpenAI API",
        "(groq/*): a pattern",
        "(gpt-4o).api_base: made the resource's v1 API",
        "litellm_params.timeout: no counterpart",
        "rpm: its share of the load",
        "(local).api_key: is in the file in plain",
        "fallbacks.gpt-4o: claude was not taken over",
        "litellm_settings.context_window_fallbacks: ",
        "litellm_settings.num_retries: ",
        "litellm_settings.drop_params: ",
        "litellm_settings.success_callback: ",
        "cache_params.similarity_threshold: ",
        "cache_params.ttl: ",
        "general_settings.database_url: ",
        "environment_variables: no counterpart",
        "price: ",
    ):
        assert left in told
        assert left in text  # and in the file, as a comment


def test_every_key_is_translated_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree: dict[str, Any] = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/m", "new_a": 1},
                "model_info": {"new_b": 1},
            }
        ],
        "router_settings": {"new_c": 1, "routing_strategy": "new_d"},
        "litellm_settings": {"new_e": 1, "cache_params": {"new_f": 1}},
        "general_settings": {"new_g": 1},
        "new_h": 1,
    }
    _, text = translated(tmp_path, yaml.safe_dump(tree), monkeypatch)
    assert all(f"new_{letter}" in text for letter in "abcdefgh")


def test_nothing_is_overwritten_and_nothing_made_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "litellm.yaml", tmp_path / "gateway.yaml"
    command = ["import", "litellm", "--config", str(source), "--out", str(out)]
    source.write_text("model_list: [{model_name: c, litellm_params: {model: bedrock/c}}]")
    assert main(command) == 1
    assert not out.exists()
    source.write_text("model_list: [{model_name: m, litellm_params: {model: m}}]")
    out.write_text("mine")
    assert main(command) == 1
    assert out.read_text() == "mine"
    source.write_text("model_list: 3")
    assert main(command) == 1
    assert "model_list: must be a list" in capsys.readouterr().err


def test_what_was_made_serves(
    tmp_path: Path, model_cache: Path, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"model_list: [{{model_name: m, litellm_params: {{model: hosted_vllm/real, api_base: '{backend.url}'}}}}]"
    _, text = translated(tmp_path, source, monkeypatch)
    gateway = Running(yaml.safe_load(text), tmp_path, model_cache).ready()
    try:
        assert gateway.ask("Who are you?").status_code == 200
        assert backend.seen[0].json["model"] == "real"
    finally:
        gateway.close()
