"""Writes deploy/kubernetes/central.yaml: the chart as plain manifests, for places without Helm.

python deploy/render.py            # needs helm-python-sdk, Helm itself as a library (the `test` extra)
"""

from pathlib import Path
from typing import Any

import helm_python
import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE / "helm" / "semantic-gateway"
CENTRAL = HERE / "kubernetes" / "central.yaml"
HEAD = """\
# The gateway as a service of its own for all applications: the chart in deploy/helm as plain manifests, with Redis.
# Made by deploy/render.py: change it there. Replace the image, and the engine's address in the ConfigMap. It needs
# a Secret `semantic-gateway` with GATEWAY_ADMIN_TOKEN and REDIS_URL.
"""


def manifests(values: dict[str, Any] | None = None, name: str = "semantic-gateway") -> str:
    """All templates with these values, as one YAML stream."""
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(values or {}, name=name, namespace="semantic-gateway")
    parts = [
        text.strip() for path, text in sorted(rendered.items()) if path.endswith(".yaml") and text.strip()
    ]
    return "\n---\n".join(parts) + "\n"


def central() -> str:
    """What is committed."""
    values = {"redis": {"enabled": True}, "autoscaling": {"enabled": True}}
    documents = [document for document in yaml.safe_load_all(manifests(values)) if document]
    return HEAD + yaml.safe_dump_all(documents, sort_keys=False, width=110, explicit_start=True)


if __name__ == "__main__":
    CENTRAL.write_text(central())
