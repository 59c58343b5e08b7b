"""Word order: who does what to whom, and what a shared template is filled with."""

import re

from gateway.cache.guard.entities import names
from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import STOP, key, wordset
from gateway.cache.guard.polarity import poles

_SYMMETRIC = wordset("and or vs versus nor the a an between both either with")
_DROP = wordset("the a an some do does did is are was were be can could should would will")
_LINKS = frozenset(["to", "into", "over", "than"])
_RELATION = re.compile(r"\b([^\W_]{2,}) (?:to|into|over|than) ([^\W_]{2,})\b")


def sequence(facts: Facts) -> list[str]:
    return [word for word in facts.words if word not in _DROP]


def relations(facts: Facts) -> frozenset[tuple[str, str]]:
    """(from, to) of "miles to kilometres", "A over B", "better than B"."""
    if _LINKS.isdisjoint(facts.vocabulary):
        return frozenset()
    return frozenset((key(left), key(right)) for left, right in _RELATION.findall(facts.lower))


def order(asked: Facts, stored: Facts) -> bool:
    mine, theirs = asked.of(relations), stored.of(relations)
    if any((to, start) in theirs - mine for start, to in mine - theirs):
        return False
    left, right = asked.of(sequence), stored.of(sequence)
    if len(left) == len(right) and left != right and sorted(left) == sorted(right):
        inner, other = _differing(left, right)
        middle = _between(inner, other)
        if middle:
            return _SYMMETRIC.issuperset(middle)
        named = asked.of(names) | asked.of(poles)
        return _cast(inner, named) == _cast(other, named) or _is_list(inner, named)
    left, right = asked.content, stored.content
    if len(left) != len(right) or left == right or sorted(left) != sorted(right):
        return True
    return not _between(*_differing(left, right))


def _differing(left: list[str], right: list[str]) -> tuple[list[str], list[str]]:
    """Both without what they share at the beginning and at the end."""
    first = next(at for at in range(len(left)) if left[at] != right[at])
    last = next(at for at in range(len(left) - 1, -1, -1) if left[at] != right[at]) + 1
    return left[first:last], right[first:last]


def _between(left: list[str], right: list[str]) -> list[str]:
    """What stands between two exchanged blocks of up to four words: X M Y and Y M X. Else nothing."""
    n = len(left)
    for x in range(1, min(5, n)):
        if left[:x] != right[n - x :]:
            continue
        for y in range(1, min(5, n - x + 1)):
            if left[n - y :] == right[:y] and left[x : n - y] == right[y : n - x]:
                return left[x : n - y]
    return []


def _cast(words: list[str], named: frozenset[str]) -> list[str]:
    """Who and what appears, in order."""
    return [name for word in words if (name := key(word)) in named]


def _is_list(words: list[str], named: frozenset[str]) -> bool:
    return all(word in _SYMMETRIC or key(word) in named for word in words)


def template(asked: Facts, stored: Facts) -> bool:
    """A long shared beginning and end: what they enclose must share more than half its content words."""
    left, right = asked.words, stored.words
    shorter = min(len(left), len(right))
    head = 0
    while head < shorter and left[head] == right[head]:
        head += 1
    tail = 0
    while tail < shorter - head and left[-1 - tail] == right[-1 - tail]:
        tail += 1
    if head + tail < 12:
        return True
    one, two = _enclosed(left, head, tail), _enclosed(right, head, tail)
    return len(one & two) * 2 >= max(len(one), len(two))


def _enclosed(words: list[str], head: int, tail: int) -> frozenset[str]:
    return frozenset(key(word) for word in words[head : len(words) - tail] if word not in STOP)
