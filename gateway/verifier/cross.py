"""The cross-encoder on ONNX Runtime: both texts of a pair read at once, one thread.

A pair beyond its window is not judged: what it could not read might be the difference. Never imports torch, and
onnxruntime only when one is loaded.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRAPH, TOKENIZER = "cross.onnx", "tokenizer.json"
INPUTS = ["ids", "mask", "segment"]
WINDOW = 128  # tokens of both texts together
CHARS = 16 * WINDOW  # of both texts: more are beyond the window without being tokenized


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
        if [node.name for node in self._session.get_inputs()] != INPUTS:
            raise ValueError("the graph takes other inputs")
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def logits(self, pairs: Sequence[tuple[str, str]]) -> Array:
        """(n,), symmetric; NaN beyond the window. Each pair runs alone: int8 scales depend on a batch's company."""
        return np.array([self._logit(*sorted(pair)) for pair in pairs], dtype=np.float64)

    def _logit(self, one: str, other: str) -> float:
        if len(one) + len(other) > CHARS:
            return float("nan")
        read = self._tokenizer.encode(_clean(one), _clean(other))
        if len(read.ids) > WINDOW:
            return float("nan")
        rows = (read.ids, read.attention_mask, read.type_ids)
        feed = {name: np.array([row], dtype=np.int64) for name, row in zip(INPUTS, rows, strict=True)}
        (logit,) = self._session.run(None, feed)
        return float(logit[0])


def _clean(text: str) -> str:
    """Without lone surrogates, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode()
