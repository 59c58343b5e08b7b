"""What two requests have in common: the exact fingerprint and the partition.

Decides which fields cannot change an answer; everything else parts two requests. It must never normalise a
value: two texts that differ in one code point, or two integers in their last digit, are two requests.
"""

import hashlib
import json
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import orjson

from gateway.exchange import Request
from gateway.wire import question

_NEVER_PARTS = frozenset({"stream", "stream_options", "metadata", "store"})
_NEVER_PARTS_RESPONSES = _NEVER_PARTS - {"store"}  # there a later request may refer to it
_ALWAYS_PARTS = frozenset({"model", "messages", "prompt", "input", "instructions"})
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_TENANTS = 64  # whose fingerprints of one body are remembered
_RUN = b"0" * 19  # the shortest integer that may not fit 64 bits


def exact_fingerprint(request: Request, tenant: str, ignore: frozenset[str] = frozenset()) -> bytes:
    """32 bytes over endpoint, tenant, namespace and the body's fields that can change an answer.

    `ignore` names the top-level fields the policy book adds to these; the model and the prompt always part.
    """
    known = request.fingerprints.get((tenant, ignore))
    if known is None:
        if len(request.fingerprints) >= _TENANTS:
            request.fingerprints.clear()
        known = request.fingerprints[tenant, ignore] = _exact(request, tenant, ignore)
    return known


def _exact(request: Request, tenant: str, ignore: frozenset[str]) -> bytes:
    if big_numbers(request.raw):
        return _digest(b"exact-digits", request, tenant, _spelled(request, ignore))
    return _digest(b"exact", request, tenant, _canonical(request, request.fields, ignore))


def partition_fingerprint(request: Request, tenant: str, ignore: frozenset[str] = frozenset()) -> bytes:
    """The same over everything but the question's text: semantic matching happens inside one partition only.

    A request without a question has a partition to itself.
    """
    if request.question is None or big_numbers(request.raw):
        return _digest(b"alone", request, tenant, exact_fingerprint(request, tenant, ignore))
    fields = question.masked(request.endpoint, request.fields)
    return _digest(b"partition", request, tenant, _canonical(request, fields, ignore))


def big_numbers(raw: bytes) -> bool:
    """Whether a body may hold an integer beyond 64 bits, which orjson would read as a float."""
    return _RUN in raw.translate(_DIGITS)


def ours(cache: Any) -> bool:
    """Whether a `cache` field is LiteLLM's control object; anything else belongs to the engine."""
    return cache is None or isinstance(cache, dict)


def _digest(domain: bytes, request: Request, tenant: str, content: bytes) -> bytes:
    """Length prefixes keep a tenant's end from passing for a namespace's beginning."""
    owner = tenant.encode("utf-8", "surrogatepass")
    namespace = request.controls.namespace.encode("utf-8", "surrogatepass")
    head = b"%s %d:%s %d:%s " % (request.endpoint.encode(), len(owner), owner, len(namespace), namespace)
    return hashlib.blake2b(head + content, digest_size=32, person=domain).digest()


def _kept(request: Request, fields: Mapping[str, Any], ignore: frozenset[str]) -> list[str]:
    never = _NEVER_PARTS_RESPONSES if request.endpoint == "responses" else _NEVER_PARTS
    kept = [key for key in fields if key not in never and (key not in ignore or key in _ALWAYS_PARTS)]
    if "cache" in fields and ours(fields["cache"]):
        kept.remove("cache")
    return kept


def _canonical(request: Request, fields: Mapping[str, Any], ignore: frozenset[str]) -> bytes:
    kept = {key: fields[key] for key in _kept(request, fields, ignore)}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)


def _spelled(request: Request, ignore: frozenset[str]) -> bytes:
    """The body with its numbers as they are spelled; objects become tuples of pairs, arrays lists."""
    kept = frozenset(_kept(request, request.fields, ignore))
    pairs = json.loads(request.raw, object_pairs_hook=_pairs, parse_int=str.encode, parse_float=str.encode)
    return repr([pair for pair in pairs if pair[0] in kept]).encode("utf-8", "surrogatepass")


def _pairs(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(pairs, key=itemgetter(0)))
