"""Content words: what one side speaks of and the other does not.

A question that is reworded throughout and still close in meaning is a paraphrase; one that differs from
another by a content word and little else differs by it on purpose. So differing content words need rewording
around them. The amounts were measured on labelled question pairs (bench/accuracy).
"""

from itertools import pairwise

from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import LIGHT_KEYS, key

# Pairs of words worth comparing letter by letter; texts that differ more are not spelling variants.
_COMPARABLE = 64


def differences(asked: Facts, stored: Facts) -> tuple[set[str], set[str]]:
    """Content classes of either side that the other lacks, spelling variants and compounds paired off."""
    left, right = set(asked.bag - stored.bag), set(stored.bag - asked.bag)
    if left and right:
        _pair_off_compounds(left, right, stored.words)
        _pair_off_compounds(right, left, asked.words)
        if len(left) * len(right) <= _COMPARABLE:
            _pair_off_spellings(left, right)
    return left, right


def _pair_off_compounds(left: set[str], right: set[str], words: list[str]) -> None:
    """ "cutoff" against "cut off"."""
    for first, second in pairwise(words):
        if (compound := key(first + second)) in left:
            left.discard(compound)
            right -= {key(first), key(second)}


def _pair_off_spellings(left: set[str], right: set[str]) -> None:
    for one in sorted(left):
        for other in sorted(right):
            if _misspelt(one, other):
                left.discard(one)
                right.discard(other)
                break


def _misspelt(one: str, other: str) -> bool:
    """One letter too many, or two exchanged, in a long word. A replaced letter is another word (nitrite)."""
    if (
        min(len(one), len(other)) < 5
        or abs(len(one) - len(other)) > 1
        or one[0] != other[0]
        or not (one + other).isalpha()
    ):
        return False
    if len(one) < len(other):
        one, other = other, one
    at = next((at for at in range(len(other)) if one[at] != other[at]), len(other))
    if len(one) > len(other):
        return one[at + 1 :] == other[at:]
    return len(one) > 5 and one[at : at + 2] == other[at : at + 2][::-1] and one[at + 2 :] == other[at + 2 :]


# How many other words must differ before differing content words read as a paraphrase.
_REWORDED = 6


def content(asked: Facts, stored: Facts) -> bool:
    left, right = differences(asked, stored)
    left, right = left - LIGHT_KEYS, right - LIGHT_KEYS
    heavy = len(left) + len(right)
    if not heavy:
        return True
    reworded = len(asked.vocabulary ^ stored.vocabulary) - heavy
    return reworded >= _REWORDED
