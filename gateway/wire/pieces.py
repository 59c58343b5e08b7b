"""A text cut as a model would stream it.

Decides where to cut: after white space if there is any in reach, and never inside what a reader sees as one
character. It must never lose or add a character.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

SIZE = 64  # characters
_PIECE = re.compile(rf"(?s).{{1,{SIZE}}}\Z|.{{1,{SIZE - 1}}}\s|.{{1,{SIZE}}}")
_JOINER = "\u200d"


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about `SIZE` characters; nothing for an empty one."""
    held = ""
    for piece in _PIECE.findall(text):
        if held and not _one_cluster(held[-1], piece[0]):
            yield held
            held = piece
        else:
            held += piece
    if held:
        yield held


def token_pieces(text: str, tokens: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The text in pieces that end with a token, each with its tokens' log probabilities.

    Where the tokens do not spell the text (a character split over two of them), the first piece has them all.
    """
    spelled = [token.get("token") if isinstance(token, dict) else None for token in tokens]
    if not all(isinstance(token, str) for token in spelled) or "".join(map(str, spelled)) != text:
        given = list(tokens)
        for piece in pieces(text):
            yield piece, given
            given = []
        return
    start, held = 0, ""
    for end, token in enumerate(spelled, 1):
        held += str(token)
        if len(held) >= SIZE or end == len(spelled):
            yield held, list(tokens[start:end])
            start, held = end, ""


def _one_cluster(before: str, after: str) -> bool:
    """Whether a cut here would part a base from its marks, a joined emoji, a flag, or \\r\\n.

    After Unicode Standard Annex 29, 3.1.1, without the Hangul jamo and Indic rules that text in normal form C
    hardly ever needs.
    """
    if after.isascii():
        return before == "\r" and after == "\n"
    if unicodedata.category(after)[0] == "M" or _JOINER in (before, after):
        return True
    return _is(after, 0x1F3FB, 0x1F3FF) or (_is(before, 0x1F1E6, 0x1F1FF) and _is(after, 0x1F1E6, 0x1F1FF))


def _is(char: str, first: int, last: int) -> bool:
    return first <= ord(char) <= last
