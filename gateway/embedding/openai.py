"""An OpenAI-compatible /v1/embeddings endpoint as embedder. Blocking: the worker thread calls it.

Decides nothing about texts but a cautious token count. Never retries a refusal, never follows a redirect, and
waits at most `timeout` for each read; the worker's own deadline bounds what a caller waits.
"""

import hashlib
import http.client
import string
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import orjson

from gateway.errors import EmbedderFailed
from gateway.interfaces import Vector

LIMIT = 64 << 20  # bytes of an answer
_LETTERS = (string.ascii_letters + " ").encode()


class OpenAIEmbedder:
    """`url` is the base ending in /v1. The dimension is discovered by one call at construction.

    Raises EmbedderFailed, from the constructor and from `encode`, on anything but a well-formed answer.
    """

    def __init__(
        self, url: str, model: str, *, api_key: str = "", window: int = 8191, timeout: float = 2.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EmbedderFailed(f"embedder url {url!r} is not an http(s) address")
        self._secure = parts.scheme == "https"
        self._address = (parts.hostname, parts.port)
        self._path = parts.path.rstrip("/") + "/embeddings"
        self._model = model
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self.window = window
        self.dim = 0
        self.dim = self.encode(["dimension"]).shape[1]
        where = hashlib.sha256(url.encode()).hexdigest()[:8]
        self.name = f"{model}:{where}:openai-{self.dim}"

    def __repr__(self) -> str:
        return f"<OpenAIEmbedder {self.name}, window {self.window}>"

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate from above, as the endpoint's tokenizer is unknown.

        Two special tokens, one token for two ASCII letters or spaces, one for every other byte of UTF-8
        (digits, punctuation, all other scripts). English prose is overestimated about twofold.
        """
        counts = []
        for text in texts:
            data = text.encode("utf-8", "replace")
            other = len(data.translate(None, _LETTERS))
            counts.append(2 + other + (len(data) - other + 1) // 2)
        return counts

    def encode(self, texts: Sequence[str]) -> Vector:
        """(n, dim) float32, each row of unit length."""
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        body = orjson.dumps({"model": self._model, "input": clean, "encoding_format": "float"})
        return self._vectors(self._post(body), len(texts))

    def close(self) -> None:
        """Drop the connection; the next `encode` opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes) -> bytes:
        try:
            reused = self._connection is not None
            try:
                status, answer = self._exchange(body)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.close()
                if not reused:
                    raise
                status, answer = self._exchange(body)  # the server had closed an idle connection
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise EmbedderFailed(f"embeddings endpoint: {type(error).__name__}: {error}") from error
        if status != 200:
            raise EmbedderFailed(
                f"embeddings endpoint answered {status}: {answer[:200].decode('utf-8', 'replace')}"
            )
        return answer

    def _exchange(self, body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
            self._connection = kind(*self._address, timeout=self._timeout)
        self._connection.request("POST", self._path, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read(LIMIT + 1)
        if len(answer) > LIMIT:
            raise http.client.HTTPException(f"answer of more than {LIMIT} bytes")
        return response.status, answer

    def _vectors(self, answer: bytes, n: int) -> Vector:
        try:
            rows = sorted(orjson.loads(answer)["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise EmbedderFailed(
                f"embeddings endpoint: unreadable answer ({type(error).__name__})"
            ) from error
        dim = self.dim or (vectors.shape[1] if vectors.ndim == 2 else 0)
        if vectors.shape != (n, dim) or dim == 0:
            raise EmbedderFailed(
                f"embeddings endpoint: shape {vectors.shape} for {n} texts of {dim} dimensions"
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(norms) & (norms > 0)):
            raise EmbedderFailed("embeddings endpoint: a vector without direction")
        unit: Vector = (vectors / norms).astype(np.float32)
        return unit
