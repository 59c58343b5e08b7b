"""`semantic-gateway import litellm`: a LiteLLM proxy configuration as a gateway.yaml, and what had no counterpart.

Every key that is not translated is named, with the reason: nothing is dropped in silence. Keys stay where they
are: references to the environment become references, and nothing is asked of any network.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateway.config import ConfigFault, build

_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_OPENAI = {  # providers whose API is OpenAI's: base URL, and the variable LiteLLM takes their key from
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "together_ai": ("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY"),
    "deepinfra": ("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "nvidia_nim": ("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "perplexity": ("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "azure": ("", "AZURE_API_KEY"),
    "azure_ai": ("", "AZURE_AI_API_KEY"),
    "ollama": ("http://127.0.0.1:11434", ""),
    "ollama_chat": ("http://127.0.0.1:11434", ""),
    **dict.fromkeys(
        ("hosted_vllm", "vllm", "openai_like", "custom_openai", "lm_studio", "llamafile", "xinference",
         "litellm_proxy"), ("", ""),
    ),
}  # fmt: skip
_FACADES = {"anthropic": "Anthropic's", "gemini": "Google's"}  # an OpenAI form of an API that has another one
_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "least-in-flight",
    "usage-based-routing": "weighted",
    "usage-based-routing-v2": "weighted",
    "latency-based-routing": "least-completion",
    "cost-based-routing": "lowest-cost",
}
_MANAGED = {  # what the gateway does by itself, or elsewhere
    "num_retries": "retries are a share of requests (routing.retry_share), tried at the next backend",
    "max_retries": "retries are a share of requests (routing.retry_share), tried at the next backend",
    "api_version": "the v1 API takes none",
    "context_window_fallbacks": "a request that is too long for a model gets its refusal",
    "content_policy_fallbacks": "a filtered answer goes to the client, and is not stored",
    "database_url": "virtual keys, users and teams of LiteLLM's database are not read: list them as tenants",
    "drop_params": "parameters go to the engine as they came",
    "callbacks": "see the gateway's metrics and logs",
    "success_callback": "see the gateway's metrics and logs",
    "failure_callback": "see the gateway's metrics and logs",
    "set_verbose": "see log.level",
    "similarity_threshold": "thresholds are policies', by category and calibrated",
    "ttl": "lifetimes are policies', by category",
}
_SILENT = frozenset(("id", "mode", "litellm_provider", "enable_pre_call_checks", "supports_function_calling",
                     "supports_vision", "db_model"))  # fmt: skip


@dataclass
class Translation:
    """The tree of a gateway.yaml, and what did not come along."""

    tree: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, path: str, reason: str) -> None:
        line = " ".join(f"{path}: {reason}".split())
        if line not in self.notes:
            self.notes.append(line)

    def rest(self, path: str, section: Mapping[str, Any]) -> None:
        """Name every key of a section that nothing has taken."""
        for key, value in section.items():
            if key not in _SILENT and value not in (None, {}, []):
                self.note(f"{path}.{key}", _MANAGED.get(key, "no counterpart"))


def translate(source: Path, out: Path) -> int:
    """Write `out`, tell what was left out. 1 and nothing written where no model could be taken over.

    Raises:
        ConfigFault: the source cannot be read, or `out` exists.
    """
    try:
        given = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigFault(str(source), [("", str(error))]) from error
    if not isinstance(given, dict) or not isinstance(given.get("model_list"), list):
        raise ConfigFault(str(source), [("model_list", "must be a list")])
    made = read(given)
    if not made.tree["models"]:
        print("\n".join([f"{source}: no model could be taken over", *made.notes]), file=sys.stderr)
        return 1
    build(made.tree, _Any(), source=str(out))
    try:
        with os.fdopen(
            os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(render(made, source.name))
    except FileExistsError as error:
        raise ConfigFault(str(out), [("", "exists already")]) from error
    names = ", ".join(model["name"] for model in made.tree["models"])
    print(f"{out}: {len(made.tree['models'])} models: {names}")
    if made.notes:
        print("not translated:", *made.notes, sep="\n  ")
    return 0


def render(made: Translation, source: str) -> str:
    """The file: what was left out as a comment, then YAML."""
    notes = "".join(f"#   {note}\n" for note in made.notes)
    head = f"# Made from {source}.\n" + (f"# Not translated:\n{notes}" if notes else "")
    return head + yaml.safe_dump(made.tree, sort_keys=False, allow_unicode=True, width=110)


class _Any(dict[str, str]):
    """An environment in which everything is set: references must resolve when the file is used, not now."""

    def get(self, key: str, default: Any = None) -> Any:
        return "http://set.later"


def read(given: Mapping[str, Any]) -> Translation:
    """A LiteLLM configuration's tree as ours."""
    made = Translation()
    router = dict(given.get("router_settings") or {})
    settings = dict(given.get("litellm_settings") or {})
    general = dict(given.get("general_settings") or {})
    models = _models(given["model_list"], made)
    _aliases(models, router.pop("model_group_alias", None), made)
    _fallbacks(
        models,
        [*_listed(settings, router, "fallbacks")],
        _listed(settings, router, "default_fallbacks"),
        made,
    )
    made.tree["models"] = list(models.values())
    _routing(router, settings, models, made)
    _store(router, settings, made)
    _keys(general, made)
    made.rest("router_settings", router)
    made.rest("litellm_settings", settings)
    made.rest("general_settings", general)
    sections = ("model_list", "router_settings", "litellm_settings", "general_settings")
    made.rest("", {key: value for key, value in given.items() if key not in sections})
    if any("price" not in model for model in models.values()):
        made.note(
            "price",
            "not in the file for every model, and LiteLLM's own price list is not copied: savings need it",
        )
    return made


def _listed(settings: dict[str, Any], router: dict[str, Any], key: str) -> list[Any]:
    """What either section lists under a key."""
    return [*(settings.pop(key, None) or ()), *(router.pop(key, None) or ())]


# ── models ──────────────────────────────────────────────────────────────────────────────────────────────


def _models(listed: list[Any], made: Translation) -> dict[str, dict[str, Any]]:
    """Deployments of one name are the backends of one model."""
    models: dict[str, dict[str, Any]] = {}
    for number, deployment in enumerate(listed):
        path = f"model_list.{number}"
        if not isinstance(deployment, dict) or not isinstance(deployment.get("litellm_params"), dict):
            made.note(path, "no deployment")
            continue
        name = str(deployment.get("model_name") or deployment["litellm_params"].get("model", ""))
        path += f" ({name})"
        if "*" in name and name != "*":
            made.note(path, "a pattern: only the name '*', for whatever no entry lists, is known here")
            continue
        params, info = dict(deployment["litellm_params"]), dict(deployment.get("model_info") or {})
        backend = _backend(name, params, path, made)
        if backend is None:
            continue
        model = models.setdefault(name, {"name": name, "backends": []})
        model["backends"].append(backend)
        _price(model, backend, params, info)
        window = info.pop("max_input_tokens", None) or info.pop("max_tokens", None)
        if isinstance(window, int) and window >= 256:
            model["context"] = window
        for key in ("max_input_tokens", "max_tokens", "max_output_tokens", "base_model"):
            info.pop(key, None)
        made.rest(f"{path}.litellm_params", params)
        made.rest(f"{path}.model_info", info)
    for model in models.values():
        _weigh(model, made)
    return models


def _backend(name: str, params: dict[str, Any], path: str, made: Translation) -> dict[str, Any] | None:
    provider, engine = _provider(params)
    if provider not in _OPENAI:
        made.note(
            path, f"{provider or 'the provider'} speaks no OpenAI API: put a server that does in front of it"
        )
        params.clear()
        return None
    url = _url(provider, params, path, made)
    if url is None:
        return None
    key = _resolved(params.pop("api_key", None), f"{path}.api_key", made)
    if key is None and _OPENAI[provider][1]:
        key = f"${{{_OPENAI[provider][1]}:-}}"
    backend: dict[str, Any] = {"url": url}
    if engine != "*" and engine != name:
        backend["model"] = engine
    if key:
        backend["api_key"] = key
    places = params.pop("max_parallel_requests", None)
    if isinstance(places, int) and places > 0:
        backend["max_in_flight"] = places
    region = params.pop("region_name", None)
    if isinstance(region, str):
        backend["region"] = region
    _shares(backend, params, path, made)
    return backend


def _provider(params: dict[str, Any]) -> tuple[str, str]:
    """(provider, the engine's own name): of `azure/gpt-4o-eu`, of `gpt-4o`."""
    model, named = str(params.pop("model", "")), params.pop("custom_llm_provider", None)
    before, slash, after = model.partition("/")
    if named:
        return str(named), after if before == named else model
    if not slash:
        return "openai", model
    return before, after


def _url(provider: str, params: dict[str, Any], path: str, made: Translation) -> str | None:
    given = params.pop("api_base", None)
    given = params.pop("base_url", None) if given is None else given
    url = (_resolved(given, f"{path}.api_base", made) or _OPENAI[provider][0]).rstrip("/")
    if not url:
        made.note(path, f"{provider} without api_base")
        return None
    if provider == "azure" and not url.endswith("/v1"):
        made.note(f"{path}.api_base", "made the resource's v1 API (/openai/v1): see that it has it")
        return f"{url}/openai/v1"
    if provider.startswith("ollama") and not url.endswith("/v1"):
        return f"{url}/v1"
    if provider in _FACADES:
        made.note(path, f"asked through {_FACADES[provider]} OpenAI-compatible API")
    return url


def _resolved(value: Any, path: str, made: Translation) -> str | None:
    """A reference to the environment as ours; anything else as it is, and said."""
    if value is None:
        return None
    text = _REFERENCE.sub(lambda match: f"${{{match[1]}}}", str(value))
    if path.endswith("api_key") and text == str(value):
        made.note(path, "is in the file in plain, and so in this one: better a reference, ${NAME}")
    return text


def _shares(backend: dict[str, Any], params: dict[str, Any], path: str, made: Translation) -> None:
    """LiteLLM shares load by weight, else by requests or tokens a minute."""
    limits = {key: params.pop(key, None) for key in ("weight", "rpm", "tpm")}
    for key, value in limits.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            backend.setdefault("weight", (key, float(value)))
            if key != "weight":
                made.note(
                    f"{path}.{key}",
                    "its share of the load; as a limit, the engine's own 429 and rate-limit headers",
                )


def _weigh(model: dict[str, Any], made: Translation) -> None:
    """Weights of one kind, the least of them 1; a kind that only some deployments name says nothing."""
    given = [backend.pop("weight", None) for backend in model["backends"]]
    kinds = {weight[0] for weight in given if weight is not None}
    if not kinds or len(given) == 1:
        return
    if len(kinds) > 1 or None in given:
        made.note(
            f"model {model['name']}", "not every deployment has a weight of the same kind: all count the same"
        )
        return
    least = min(weight[1] for weight in given)
    for backend, (_, value) in zip(model["backends"], given, strict=True):
        backend["weight"] = round(value / least, 6)


def _price(
    model: dict[str, Any], backend: dict[str, Any], params: dict[str, Any], info: dict[str, Any]
) -> None:
    """Dollars a token → dollars a million; the first deployment's are the model's."""
    price = {}
    for side in ("input", "output"):
        key = f"{side}_cost_per_token"
        other = info.pop(key, None)
        cost = params.pop(key, other)
        if cost is not None:
            price[side] = round(float(cost) * 1e6, 9)
    if price and price != model.setdefault("price", price):
        backend["price"] = price


def _aliases(models: dict[str, dict[str, Any]], aliases: Any, made: Translation) -> None:
    """Another name of a model is an entry with the same backends, which are asked by their own name."""
    for alias, target in (aliases or {}).items():
        name = target.get("model") if isinstance(target, dict) else target
        if name not in models or alias in models:
            made.note(f"router_settings.model_group_alias.{alias}", "its model was not taken over")
            continue
        backends = [{**backend, "model": backend.get("model", name)} for backend in models[name]["backends"]]
        models[str(alias)] = {**models[name], "name": str(alias), "backends": backends}


def _fallbacks(
    models: dict[str, dict[str, Any]], listed: list[Any], default: list[Any], made: Translation
) -> None:
    asked: dict[str, list[str]] = {}
    for each in listed:
        for name, others in each.items() if isinstance(each, dict) else ():
            asked.setdefault(str(name), []).extend(others if isinstance(others, list) else [others])
    for name in models:
        asked.setdefault(name, [other for other in default if other != name])
    for name, others in asked.items():
        if name not in models:
            made.note(f"fallbacks.{name}", "its model was not taken over")
            continue
        known = [other for other in dict.fromkeys(map(str, others)) if other in models]
        for other in others:
            if str(other) not in models:
                made.note(
                    f"fallbacks.{name}", f"{other if isinstance(other, str) else 'one'} was not taken over"
                )
        if known:
            models[name]["fallback"] = known


# ── the rest ────────────────────────────────────────────────────────────────────────────────────────────


def _routing(
    router: dict[str, Any], settings: dict[str, Any], models: Mapping[str, Any], made: Translation
) -> None:
    routing: dict[str, Any] = {}
    named = router.pop("routing_strategy", None)
    weighted = any("weight" in backend for model in models.values() for backend in model["backends"])
    if named in _STRATEGIES:
        routing["strategy"] = _STRATEGIES[named]
    elif named is not None:
        made.note("router_settings.routing_strategy", f"{named} is not known here: least-completion")
    elif weighted:
        routing["strategy"] = "weighted"  # LiteLLM's default, simple-shuffle
    numbers = {
        "first_byte_seconds": [router.pop("timeout", None), settings.pop("request_timeout", None)],
        "ejection_failures": [router.pop("allowed_fails", None), settings.pop("allowed_fails", None)],
        "ejection_seconds": [router.pop("cooldown_time", None), settings.pop("cooldown_time", None)],
    }
    for key, values in numbers.items():
        for value in values:
            if isinstance(value, int | float) and value > 0:
                routing.setdefault(key, value)
    if routing:
        made.tree["routing"] = routing


def _store(router: dict[str, Any], settings: dict[str, Any], made: Translation) -> None:
    """Redis stays Redis, on keys of our own; what LiteLLM cached in it is not read."""
    cached, params = settings.pop("cache", None), dict(settings.pop("cache_params", None) or {})
    found = {key: router.pop(f"redis_{key}", None) for key in ("host", "port", "password", "url")}
    if cached and str(params.get("type", "redis")).startswith("redis"):
        found = {key: params.pop(key, None) or found[key] for key in found}
        params.pop("type", None)
    secure = "rediss" if params.pop("ssl", False) else "redis"
    made.rest("litellm_settings.cache_params", params)
    parts = {key: _resolved(value, key, made) for key, value in found.items() if value is not None}
    if "url" in parts:
        made.tree["store"] = {"kind": "redis", "url": parts["url"]}
    elif "host" in parts:
        password = f":{parts['password']}@" if parts.get("password") else ""
        if password:
            made.note("redis password", "stands in a URL: percent-encode what is special there")
        url = f"{secure}://{password}{parts['host']}:{parts.get('port', '6379')}/0"
        made.tree["store"] = {"kind": "redis", "url": url}


def _keys(general: dict[str, Any], made: Translation) -> None:
    """The one key in the file is one tenant."""
    key = _resolved(general.pop("master_key", None), "general_settings.master_key", made)
    if key:
        made.tree["tenants"] = [{"name": "master", "keys": [key]}]
        made.note("general_settings.master_key", "is one tenant here; it gives no access to the admin port")
