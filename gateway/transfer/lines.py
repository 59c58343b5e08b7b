"""The form in which answers travel: one JSON object a line.

An export begins with its `Head`; each further line is an entry with vector and document. Pairs that warm a
cache come as {question, answer} or as {request, response}. Must never let a malformed line pass for a whole one.
"""

import binascii
import hashlib
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson

from gateway.exchange import Endpoint, Record
from gateway.interfaces import Vector
from gateway.storage import codec

FORMAT = "semantic-gateway-cache/1"
MAX_VARIANTS = 64


class BadLine(ValueError):
    """A line that cannot be used; the message says why, without its content."""


@dataclass(frozen=True, slots=True)
class Head:
    """What must be known of the gateway that a file came from."""

    embedder: str = ""  # vectors of another one are made anew
    sorting: str = ""  # `Transfer.sorting` of its policies: the same classifies the same
    tenants: str = ""  # `Tenants.mark`: open-mode tenants of another secret are nobody here
    format: str = FORMAT

    def line(self) -> bytes:
        return orjson.dumps(asdict(self))


def head(line: Any) -> Head:
    """The head of an export; raises BadLine."""
    if not isinstance(line, dict) or line.get("format") != FORMAT:
        raise BadLine(f"the file does not begin as an export does ({FORMAT})")
    names = ("embedder", "sorting", "tenants")
    if not all(isinstance(line.get(name), str) for name in names):
        raise BadLine("the head of the export is not whole")
    return Head(*(line[name] for name in names))


def encode(record: Record, variants: int) -> bytes:
    """An entry as one line, without its line feed. `variants`: answers stored beside it to the same request."""
    return orjson.dumps(
        {
            "entry": orjson.Fragment(codec.encode(record.entry)),
            "variants": variants,
            "vector": None if record.vector is None else b64encode(record.vector).decode(),
            "document": record.document.decode("utf-8"),
        }
    )


def decode(line: Any) -> tuple[Record, int]:
    """The entry that `encode` was given, and its variants; raises BadLine."""
    try:
        entry = codec.decode(orjson.dumps(line["entry"]))
        variants, vector, document = line["variants"], line["vector"], line["document"]
        raw = None if vector is None else b64decode(vector, validate=True)
        if type(variants) is not int or not 1 <= variants <= MAX_VARIANTS:
            raise BadLine("variants is no whole number from 1 to 64")
        if not 0 <= entry.id < 2**63:
            raise BadLine("the id is out of range")
        return Record(entry, raw, document.encode("utf-8")), variants
    except (codec.Undecodable, binascii.Error, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadLine(str(error) if isinstance(error, BadLine) else "not an exported entry") from error


def vector(raw: bytes | None, dim: int) -> Vector | None:
    """A vector's bytes as what may be compared; None where they are none of this length, or not of unit length."""
    if raw is None or len(raw) != 4 * dim:
        return None
    found = np.frombuffer(raw, dtype=np.float32)
    return found if abs(float(np.linalg.norm(found)) - 1.0) < 1e-3 else None


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for lines that do not say it themselves."""

    model: str = ""
    tenant: str = ""
    key: str = ""  # an API key of the tenant: asked whose it is, never kept
    category: str = ""
    fields: Mapping[str, Any] | None = None  # of a question's request: {"temperature": 0}
    replace: bool = False  # an answer that is stored already


@dataclass(frozen=True, slots=True)
class Pair:
    """A request and the answer to it."""

    endpoint: Endpoint
    request: bytes
    answer: bytes
    tenant: str
    category: str


def pair(line: Any, terms: Terms) -> Pair:
    """A line of either form; raises BadLine."""
    if not isinstance(line, dict):
        raise BadLine("not a JSON object")
    if "request" in line and "response" in line:
        endpoint, fields, answer = _logged(line)
    elif "question" in line and "answer" in line:
        endpoint, fields, answer = "chat", _asked(line, terms), b""
    else:
        raise BadLine("neither question and answer, nor request and response")
    if not fields.get("model"):
        fields = {**fields, "model": _text(line, "model", terms.model)}
    if not fields["model"]:
        raise BadLine("no model: name one")
    return Pair(
        endpoint,
        orjson.dumps(fields),
        answer or _completion(_text(line, "answer"), str(fields["model"])),
        _text(line, "tenant", terms.tenant),
        _text(line, "category", terms.category),
    )


def _text(line: Mapping[str, Any], key: str, otherwise: str = "") -> str:
    value = line.get(key)
    if value is None:
        return otherwise
    if not isinstance(value, str):
        raise BadLine(f"{key} is no text")
    return value


def _asked(line: Mapping[str, Any], terms: Terms) -> dict[str, Any]:
    """The request that a question stands for."""
    system, question = _text(line, "system"), _text(line, "question")
    if not question.strip() or not _text(line, "answer").strip():
        raise BadLine("question or answer is empty")
    own = line.get("fields") or {}
    if not isinstance(own, dict):
        raise BadLine("fields is no object")
    before = [{"role": "system", "content": system}] if system else []
    messages = [*before, {"role": "user", "content": question}]
    return {**(terms.fields or {}), **own, "model": _text(line, "model", terms.model), "messages": messages}


def _logged(line: Mapping[str, Any]) -> tuple[Endpoint, dict[str, Any], bytes]:
    """A request and a response as they were logged; also in the shape of OpenAI's batch files."""
    request, response = line["request"], line["response"]
    try:
        fields = orjson.loads(request) if isinstance(request, str) else request
        fields = fields.get("body", fields) if "model" not in fields else fields
        if isinstance(response, dict) and "status_code" in response:
            if response["status_code"] != 200:
                raise BadLine(f"the answer had status {response['status_code']}")
            response = response["body"]
        if not isinstance(fields, dict):
            raise BadLine("request is no object")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise BadLine("request or response cannot be read") from error
    answer = response.encode("utf-8", "replace") if isinstance(response, str) else orjson.dumps(response)
    return _endpoint(fields, response), fields, answer


def _endpoint(fields: Mapping[str, Any], response: Any) -> Endpoint:
    if "messages" in fields:
        return "chat"
    if "prompt" in fields:
        return "completions"
    return "embeddings" if isinstance(response, dict) and "data" in response else "responses"


def _completion(answer: str, model: str) -> bytes:
    """An answer's text as an engine would have sent it. No engine counted tokens: they are zero."""
    choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    told = hashlib.blake2b(answer.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return orjson.dumps(
        {
            "id": f"chatcmpl-{told}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
    )
