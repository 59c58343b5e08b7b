"""sentence-transformers folder → ONNX graph with pooling and normalising inside, checked against it.

Runs as a process of its own (`python -m gateway.embedding.export FOLDER TARGET RUNTIME`), so that the gateway
never loads torch for it. Exit 3: this model cannot be exported faithfully, run it on torch. Never leaves a
graph behind that answers differently from the model it came from.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gateway.embedding.onnx_model import OnnxModel
from gateway.embedding.torch_model import prompt, window

UNEXPORTABLE = 3
OPSET = 17
FAITHFUL = {"onnx": 0.999, "onnx-int8": 0.95}  # least cosine to the original a runtime may have
KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
PROBES = [
    "How do I reverse a list in Python?",
    "hi",
    "What is the capital of France, and how many people lived there in 1950?",
    "Grüße aus Zürich, 北京 и Москва!",
    "the quick brown fox jumps over the lazy dog " * 12,
    "a long text that goes beyond every window " * 200,
]


class Unexportable(Exception):
    """Why the graph would not be the model."""


def export(folder: Path, target: Path, runtime: str) -> None:
    """Write model.onnx, tokenizer.json and meta.json into `target`. Raises Unexportable."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager"}
    )
    model.eval()
    expected = np.asarray(model.encode(PROBES, normalize_embeddings=True, show_progress_bar=False))
    _write_tokenizer(model, target)
    _trace(torch, model, target / "model.onnx")
    meta = {
        "dim": int(expected.shape[1]),
        "window": window(model),
        "prompt": prompt(model),
        "pad": int(model.tokenizer.pad_token_id or 0),
        "name": folder.name,
    }
    (target / "meta.json").write_text(json.dumps(meta))
    _check(OnnxModel(target), expected, FAITHFUL["onnx"])
    if runtime == "onnx-int8":
        _quantise(target)
        _check(OnnxModel(target), expected, FAITHFUL["onnx-int8"])


def _write_tokenizer(model: Any, target: Path) -> None:
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Unexportable("its tokenizer has no tokenizer.json form")
    (target / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")


def _trace(torch: Any, model: Any, path: Path) -> None:
    """The TorchScript exporter: the newer one wants a package of its own."""
    features = getattr(model, "preprocess", model.tokenize)(PROBES[:3])
    names = [name for name, value in features.items() if isinstance(value, torch.Tensor)]
    if not set(names) <= KNOWN_INPUTS:
        raise Unexportable(f"it takes inputs other than text tokens: {sorted(set(names) - KNOWN_INPUTS)}")

    class Graph(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            embedding = self.model(dict(zip(names, tensors, strict=True)))["sentence_embedding"]
            return torch.nn.functional.normalize(embedding, dim=-1)

    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "sequence"} for name in names}
    axes["embedding"] = {0: "batch"}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracer advice; the result is compared with the original below
            torch.onnx.export(
                Graph(),
                tuple(features[name] for name in names),
                str(path),
                input_names=names,
                output_names=["embedding"],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        raise Unexportable(f"tracing failed: {type(error).__name__}: {error}") from error


def _quantise(target: Path) -> None:
    """Dynamic int8, a scale for each output channel: per tensor drifts to a cosine of 0.956."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = target / "full.onnx"
    (target / "model.onnx").rename(full)
    try:
        quantize_dynamic(full, target / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)
    except Exception as error:
        raise Unexportable(f"quantising failed: {type(error).__name__}: {error}") from error
    full.unlink()


def _check(graph: OnnxModel, expected: Any, least: float) -> None:
    """Alone and in a batch, short and beyond the window: the graph must be the model."""
    alone = np.vstack([graph.encode([text]) for text in PROBES])
    for found in (alone, graph.encode(PROBES)):
        cosine = float((found * expected).sum(axis=1).min())
        if not cosine >= least:  # also catches nan
            raise Unexportable(f"the graph's vectors drift to a cosine of {cosine:.4f}, allowed is {least}")


def main() -> int:
    folder, target, runtime = sys.argv[1:]
    try:
        export(Path(folder), Path(target), runtime)
    except Unexportable as error:
        print(error, file=sys.stderr)
        return UNEXPORTABLE
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
