"""Labelled pairs cut by connected group, so that no text of one part is ever seen in another.

Decides only who is in which part, by a hash: the same pairs fall the same way everywhere.
"""

import hashlib
from collections.abc import Iterable


def groups(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Each text's connected component, named by its alphabetically first member (union-find)."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for a, b in edges:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    return {text: root(text) for text in list(parent)}


def place(group: str, seed: str) -> float:
    """Where a group falls in [0, 1): uniform over groups, the same for the same seed."""
    digest = hashlib.sha256((seed + group).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
