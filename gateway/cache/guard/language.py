"""The language of a text, by script and stop words: an answer in another language is a wrong answer.

Undecided texts agree with everything.
"""

from collections import Counter

from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import wordset

_SCRIPTS = (
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x077F, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0C00, 0x0C7F, "telugu"),
    (0x0E00, 0x0E7F, "thai"),
    (0x1100, 0x11FF, "hangul"),
    (0x3040, 0x30FF, "kana"),
    (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
)
_STOPWORDS = {
    "en": "the is are what how why who which when where do does can of to and in it for with your was will",
    "de": "der die das und ist wie warum ich nicht ein eine einen zu mit für den kann wo",
    "fr": "le la les des et est que qui comment pourquoi je ne pas un une dans pour avec mon du quel sont",
    "es": "el los las y es qué cómo por una para con mi del cuál dónde puedo se como que está son cuándo",
    "it": "il lo gli e è che come perché un una per con mio della cosa quale dove posso sono di non quando",
    "pt": "o os as e é que como por um uma para com meu da do qual onde posso são não quando está",
    "nl": "de het een en is hoe wat waarom ik niet met voor mijn kan waar wie zijn van op te",
}
_LANGUAGES = tuple((name, wordset(listed)) for name, listed in _STOPWORDS.items())


def language_of(facts: Facts) -> str | None:
    """A script's name, a language code, or None if too little says which."""
    if not facts.plain.isascii() and (script := _script(facts.plain)):
        return script
    vocabulary = facts.vocabulary
    (first, named), (second, _) = sorted(
        ((len(vocabulary & listed), name) for name, listed in _LANGUAGES), reverse=True
    )[:2]
    return named if first > 1 and first > second else None


def _script(text: str) -> str | None:
    """The script other than Latin that makes up at least a third of the letters."""
    letters = 0
    votes: Counter[str] = Counter()
    for char in text:
        if not char.isalpha():
            continue
        letters += 1
        code = ord(char)
        if code >= 0x0370:
            votes.update(name for low, high, name in _SCRIPTS if low <= code <= high)
    if not votes:
        return None
    name, count = votes.most_common(1)[0]
    if name == "han" and votes["kana"]:
        name = "kana"
    return name if count * 3 >= letters else None


def language(asked: Facts, stored: Facts) -> bool:
    left, right = asked.of(language_of), stored.of(language_of)
    return left == right or left is None or right is None
