"""Entries made to order."""

import itertools
from typing import Any

from gateway.exchange import Entry

_ids = itertools.count(1)


def entry(**given: Any) -> Entry:
    number = next(_ids)
    defaults: dict[str, Any] = {
        "id": number,
        "exact": number.to_bytes(32, "big"),
        "partition": b"p" * 32,
        "tenant": "t:acme",
        "category": "default",
        "model": "m",
        "endpoint": "chat",
        "question": f"question {number}",
        "created": 0.0,
        "expires": 1000.0,
        "size": 100,
        "cost": 0.001,
    }
    return Entry(**{**defaults, **given})
