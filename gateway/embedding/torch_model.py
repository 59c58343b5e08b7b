"""A model on sentence-transformers itself: the reference, and the fallback for what cannot be exported.

Decides nothing. Four times slower than ONNX Runtime, but it runs every module a model may bring.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.interfaces import Vector


class TorchModel:
    """sentence-transformers on the CPU, in this process."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self.window = window(self._model)
        self._prompt = prompt(self._model)
        self.dim = int(self.encode(["dimension"]).shape[1])

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, untruncated, special tokens and prompt included."""
        if not texts:
            return []
        prompted = [self._prompt + text for text in _clean(texts)]
        encoded = self._model.tokenizer(prompted, truncation=False, padding=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def encode(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, each row of unit length; texts are truncated to the window."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        vectors = self._model.encode(
            _clean(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _clean(texts: Sequence[str]) -> list[str]:
    """Without lone surrogates, which JSON can smuggle in and tokenizers refuse."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def window(model: Any) -> int:
    """Tokens the model compares, special tokens included; a bound of 512 where it names none."""
    length = model.max_seq_length
    return int(length) if length and length < 1_000_000 else 512


def prompt(model: Any) -> str:
    """The prefix `encode` puts before every text unless told otherwise."""
    name = model.default_prompt_name
    return str((model.prompts or {}).get(name) or "") if name else ""
