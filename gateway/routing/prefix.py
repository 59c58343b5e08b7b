"""The leading blocks of a prompt, named so that requests whose prompts begin alike share the names.

Engines keep the keys and values of prompts they have read and need not read an equal beginning again. This only
names beginnings; who has read which, `fleet` remembers. Nothing here is ever compared between tenants: where a
stranger's prompt is warm would tell that somebody has sent it.
"""

from collections.abc import Container, Iterator, Mapping
from itertools import accumulate
from typing import Any

import orjson

from gateway.exchange import Endpoint

# Fine where most prompts end, coarse behind: the blocks of any prompt are few enough to be looked up for every
# backend, and 168 KB are told apart.
_SIZES = (512,) * 16 + (2048,) * 16 + (8192,) * 16
ENDS = tuple(accumulate(_SIZES))  # bytes of prompt up to the end of each block
_LARGEST = 4 << 20  # bytes; the texts of a longer body are not looked at, as most of them are images

# What chat templates write first comes first.
_TEXTS: Mapping[Endpoint, tuple[str, ...]] = {
    "chat": ("tools", "functions", "messages"),
    "completions": ("prompt",),
    "messages": ("tools", "system", "messages"),
    "responses": ("instructions", "tools", "input"),
    "embeddings": (),
}


def blocks(endpoint: Endpoint, fields: Mapping[str, Any], size: int, tenant: str) -> tuple[int, ...]:
    """A name for each whole block, which covers all text before it too; none for what is left at the end.

    Args:
        fields: the decoded body.
        size: bytes of the body.
    """
    if not _SIZES[0] < size <= _LARGEST or fields.get("previous_response_id") is not None:
        return ()  # too short, too long, or it begins with what only the engine knows
    texts, length = [], 0
    for part in _parts(endpoint, fields):
        texts.append(written := orjson.dumps(part))
        length += len(written)
        if length >= ENDS[-1]:
            break
    names, start = [], 0
    name = hash((tenant, fields.get("model"), str(fields.get("cache_salt"))))
    text = b"".join(texts)
    for end in ENDS:
        if end > length:
            break
        name = hash((name, text[start:end]))
        names.append(name)
        start = end
    return tuple(names)


def held(names: tuple[int, ...], known: Container[int | str]) -> int:
    """How many leading blocks are known, in a few look-ups: longer beginnings are forgotten before shorter ones."""
    if not names or names[0] not in known:
        return 0
    if names[-1] in known:
        return len(names)
    low, high = 1, len(names) - 1  # all before `low` are known, `high` is not
    while low < high:
        middle = (low + high) // 2
        if names[middle] in known:
            low = middle + 1
        else:
            high = middle
    return low


def _parts(endpoint: Endpoint, fields: Mapping[str, Any]) -> Iterator[Any]:
    for field in _TEXTS[endpoint]:
        value = fields.get(field)
        if isinstance(value, list):
            yield from value
        elif value is not None:
            yield value
