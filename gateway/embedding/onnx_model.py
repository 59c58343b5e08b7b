"""An exported model on ONNX Runtime: one thread, no padding beyond the longest text of a group.

Decides how a batch is cut into groups. Never imports torch: a warm start costs what the graph costs.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.interfaces import Vector

GROUP = 96  # padded tokens in one run: beyond it a core's cache is spilled and batching loses what it won
CHARS = 32  # characters a token of the window: longer texts are beyond it without being tokenized


class OnnxModel:
    """The folder `export` writes: model.onnx (pooled, normalised), tokenizer.json, meta.json."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        meta = json.loads((folder / "meta.json").read_bytes())
        self.dim: int = meta["dim"]
        self.window: int = meta["window"]
        self._prompt: str = meta["prompt"]
        self._pad: int = meta["pad"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs: list[str] = [node.name for node in self._session.get_inputs()]
        self._whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._whole.no_truncation()
        self._whole.no_padding()
        self._cut = Tokenizer.from_str(self._whole.to_str())
        self._cut.enable_truncation(self.window)
        self._seen: dict[str, Any] = {}  # what `tokens` tokenized last; `encode` of the same texts follows

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, untruncated, special tokens and prompt included.

        A text of more than 32 characters a token of the window is not tokenized: a fourth of its length is
        returned, which is beyond the window by far.
        """
        self._seen = {}
        counts = []
        for text in texts:
            if len(text) > CHARS * self.window:
                counts.append(len(text) // 4)
                continue
            encoding = _tokenize(self._whole, self._prompt + text)
            counts.append(len(encoding.ids))
            if len(encoding.ids) <= self.window:
                self._seen[text] = encoding
        return counts

    def encode(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, each row of unit length; texts are truncated to the window."""
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        encodings = [self._seen.get(text) or self._truncated(text) for text in texts]
        for group in _groups([len(encoding.ids) for encoding in encodings]):
            out[group] = self._run([encodings[i] for i in group])
        return out

    def _truncated(self, text: str) -> Any:
        return _tokenize(self._cut, self._prompt + text[: CHARS * self.window])

    def _run(self, encodings: list[Any]) -> Vector:
        shape = (len(encodings), max(len(encoding.ids) for encoding in encodings))
        ids = np.full(shape, self._pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for row, encoding in enumerate(encodings):
            n = len(encoding.ids)
            ids[row, :n] = encoding.ids
            mask[row, :n] = 1
            types[row, :n] = encoding.type_ids
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        (vectors,) = self._session.run(None, {name: arrays[name] for name in self._inputs})
        result: Vector = vectors
        return result


def _tokenize(tokenizer: Any, text: str) -> Any:
    try:
        return tokenizer.encode(text)
    except (TypeError, UnicodeEncodeError):  # lone surrogates, which JSON can smuggle in
        return tokenizer.encode(text.encode("utf-8", "replace").decode())


def _groups(lengths: list[int]) -> list[list[int]]:
    """Positions in groups of similar length, each at most `GROUP` tokens once padded (or a single text)."""
    groups: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[position] * (len(groups[-1]) + 1) <= GROUP:
            groups[-1].append(position)
        else:
            groups.append([position])
    return groups
