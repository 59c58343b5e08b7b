"""Entry ↔ bytes, the one form all stores share: a JSON object by field name, so that it can grow.

Unknown fields are ignored on reading, fields with a default may be missing. Must never return an entry with
a wrong type in it: what cannot be read raises `Undecodable`, and the store skips and counts it.
"""

import math
from dataclasses import fields
from typing import Any

import orjson

from gateway.exchange import Entry

SEALING = "sealing"  # in a store's meta: there where its texts are sealed, by whoever has the key
_BYTES = ("exact", "partition")
_NUMBERS = ("created", "expires", "cost")
_TYPES: dict[str, tuple[type, ...]] = {  # exactly these: a bool is no int here
    "id": (int,),
    "exact": (bytes,),
    "partition": (bytes,),
    "tenant": (str,),
    "category": (str,),
    "model": (str,),
    "endpoint": (str,),
    "question": (str,),
    "created": (float, int),
    "expires": (float, int),
    "size": (int,),
    "cost": (float, int),
    "temperature": (float, int, type(None)),
    "tags": (tuple,),
    "request": (int,),
    "user": (int,),
    "prompt_tokens": (int,),
    "completion_tokens": (int,),
    "hits": (int,),
}
_NAMES = tuple(field.name for field in fields(Entry))
_LENGTH = 4  # bytes of the metadata's length in a packed value, big-endian


class Undecodable(ValueError):
    """These bytes are not an entry."""


def encode(entry: Entry) -> bytes:
    """Metadata as JSON. ValueError for times or costs that are not finite: JSON has no word for them."""
    if not all(math.isfinite(getattr(entry, name)) for name in _NUMBERS):
        raise ValueError(f"entry {entry.name}: created, expires and cost must be finite")
    values = {name: getattr(entry, name) for name in _NAMES}
    for name in _BYTES:
        values[name] = values[name].hex()
    try:
        return orjson.dumps(values)
    except TypeError:
        return orjson.dumps({name: _well_formed(value) for name, value in values.items()})


def decode(raw: bytes) -> Entry:
    """The entry that `encode` was given; raises Undecodable."""
    try:
        values = orjson.loads(raw)
        values = {name: values[name] for name in _NAMES if name in values}
        for name in _BYTES:
            values[name] = bytes.fromhex(values[name])
        if isinstance(tags := values.get("tags"), list):  # JSON has no tuples
            values["tags"] = tuple(tags)
        for name, value in values.items():
            if type(value) not in _TYPES[name]:
                raise TypeError(f"{name} is {type(value).__name__}")
        if any(type(tag) is not str for tag in values.get("tags", ())):
            raise TypeError("a tag is not a string")
        return Entry(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Undecodable(f"not an entry: {error}") from error


def pack(entry: Entry, vector: bytes | None) -> bytes:
    """Metadata and vector as one value: length, metadata, a flag byte (1: a vector follows), the vector."""
    metadata = encode(entry)
    tail = b"\0" if vector is None else b"\1" + vector
    return len(metadata).to_bytes(_LENGTH, "big") + metadata + tail


def unpack(value: bytes) -> tuple[Entry, bytes | None]:
    """What `pack` was given; raises Undecodable."""
    end = _LENGTH + int.from_bytes(value[:_LENGTH], "big")
    flag = value[end : end + 1]
    if flag not in (b"\0", b"\1"):
        raise Undecodable("not an entry: cut short")
    return decode(value[_LENGTH:end]), value[end + 1 :] if flag == b"\1" else None


def _well_formed(value: Any) -> Any:
    """Lone surrogates, which a caller can smuggle in by JSON escapes and UTF-8 cannot hold, become '?'."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, tuple):
        return tuple(_well_formed(part) for part in value)
    return value
