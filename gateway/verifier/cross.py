"""The cross-encoder on ONNX Runtime: both texts of a pair read at once, one thread.

Never imports torch, and onnxruntime only when one is loaded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
GRAPH, TOKENIZER = "cross.onnx", "tokenizer.json"
TOKENS = 128  # of a pair; what is longer is cut, the longer text first
CHARS = 2000  # of a text that are tokenized


class CrossEncoder:
    """The folder `finetune.export` writes. Raises whatever the libraries do where it is unreadable."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS)

    def logits(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """(n,), symmetric. Each pair runs alone: the int8 scales of a batch depend on its company."""
        return np.array([self._logit(*sorted(map(_clean, pair))) for pair in pairs], dtype=np.float32)

    def _logit(self, one: str, other: str) -> float:
        read = self._tokenizer.encode(one, other)
        rows = {"ids": read.ids, "mask": read.attention_mask, "segment": read.type_ids}
        (logit,) = self._session.run(
            None, {name: np.array([row], dtype=np.int64) for name, row in rows.items()}
        )
        return float(logit[0])


def _clean(text: str) -> str:
    """Without lone surrogates, which the tokenizer refuses."""
    return text[:CHARS].encode("utf-8", "replace").decode()
