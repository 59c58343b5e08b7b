"""What the guard knows of one text: its words, its content words, where it is capitalised.

Everything is read from the raw text, lazily and at most once, in linear time. Nothing here compares two
texts; the checks do. Each check family keeps its own lazily computed facts in `Facts.of`.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gateway.cache.guard.lexicon import CONTRACTIONS, STOP, canonical, stem

T = TypeVar("T")

# One word: letters or digits, inner apostrophes and dots kept with it ("don't", "node.js", "3.10"), and the
# sharp and plus signs of language names ("c++", "c#").
_WORD = re.compile(r"[^\W_]+(?:['’.][^\W_]+)*(?:\+\+|#)?")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "`": "`", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'})


class lazy(Generic[T]):
    """A property computed when first read, then an ordinary attribute (without `cached_property`'s lock)."""

    def __init__(self, compute: "Callable[[Any], T]") -> None:
        self._compute = compute
        self._name = compute.__name__

    def __get__(self, owner: "Facts", kind: "type[Facts]") -> T:
        value = owner.__dict__[self._name] = self._compute(owner)
        return value


class Facts:
    """One text, analysed. Attributes are computed when first asked for and kept."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._facts: dict[Callable[[Facts], Any], Any] = {}

    def __repr__(self) -> str:
        return f"Facts({self.text[:40]!r})"

    def of(self, fact: "Callable[[Facts], T]") -> T:
        """A check family's own fact about this text, computed once."""
        try:
            known: T = self._facts[fact]
        except KeyError:
            known = self._facts[fact] = fact(self)
        return known

    @lazy
    def plain(self) -> str:
        """The text with compatibility forms (full-width digits, ligatures) and curly quotes made plain."""
        if self.text.isascii():
            return self.text
        return unicodedata.normalize("NFKC", self.text).translate(_QUOTES)

    @lazy
    def lower(self) -> str:
        return self.plain.lower()

    @lazy
    def characters(self) -> frozenset[str]:
        """Which characters occur: a cheap reason not to try a pattern."""
        return frozenset(self.plain)

    @lazy
    def has_digit(self) -> bool:
        return any(map(str.isdigit, self.characters))

    @lazy
    def has_capital(self) -> bool:
        """Whether capitals occur after the first letter."""
        return self.plain[1:] != self.lower[1:]

    @lazy
    def tokens(self) -> list[tuple[str, int]]:
        """Words in order with their offset in `plain`, case kept."""
        return [(match.group(), match.start()) for match in _WORD.finditer(self.plain)]

    @lazy
    def words(self) -> list[str]:
        """Lower-cased words in order, contractions written out ("what's" → what, is; "don't" → do, not)."""
        words: list[str] = []
        for word in _WORD.findall(self.lower):
            if "'" in word:
                words.extend(CONTRACTIONS.get(word) or _uncontracted(word))
            elif word in CONTRACTIONS:
                words.extend(CONTRACTIONS[word])
            else:
                words.append(word)
        return words

    @lazy
    def vocabulary(self) -> frozenset[str]:
        return frozenset(self.words)

    @lazy
    def stems(self) -> frozenset[str]:
        """Stems of all words, stop words included."""
        return frozenset(map(stem, self.words))

    @lazy
    def content(self) -> list[str]:
        """Canonical content words in order: no stop words, inflection removed, synonyms made one."""
        return canonical(word for word in self.words if word not in STOP)

    @lazy
    def bag(self) -> frozenset[str]:
        return frozenset(self.content)


def _uncontracted(word: str) -> list[str]:
    """The parts of a contraction that is in no list: "trump's" → trump; "shouldn't" → should, not."""
    if word.endswith("n't"):
        return [word[:-3], "not"]
    return [part for part in word.split("'") if len(part) > 2] or [word.replace("'", "")]
