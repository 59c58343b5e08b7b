"""What kind of answer is asked for: its format, and the kind of question.

A paraphrase may turn "how do I" into "what is the best way to"; it does not turn "when" into "why".
"""

import re

from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import wordset

_FORMATS = re.compile(
    r"\b(json|ya?ml|xml|csv|html|markdown|latex|table|tabular|bullet(?:ed)?(?: point| list)?|numbered list"
    r"|one word|single word|one sentence|single sentence|one paragraph|one line"
    r"|step[- ]by[- ]step|translate|translation|summari[sz]e|summary|poem|essay|haiku|emojis?"
    r"|in (?:detail|short|brief)|briefly|detailed|concise(?:ly)?|eli5|like i'?m (?:five|5)|diagram|flowchart"
    r"|in (?:english|german|french|spanish|italian|chinese|japanese|hindi|russian|portuguese|arabic|korean)"
    r"|pseudo-?code|regex|sql|snippet)s?\b"
)
# A text without any of these words asks for no format; the pattern is then not tried.
_TRIGGERS = wordset(
    """
    json yaml yml xml csv html markdown latex table tables tabular bullet bullets bulleted numbered word
    sentence paragraph line step translate translation summarize summarise summary poem essay haiku
    emoji emojis detail short brief briefly detailed concise concisely eli5 like diagram flowchart in
    pseudo pseudocode regex sql snippet
    """
)
_ONE_WORD = {
    "single word": "one word", "single sentence": "one sentence", "tabular": "table", "yml": "yaml",
    "summary": "summarise", "summarize": "summarise", "translation": "translate", "briefly": "in brief",
    "in short": "in brief", "detailed": "in detail",
}  # fmt: skip


def formats(facts: Facts) -> frozenset[str]:
    if _TRIGGERS.isdisjoint(facts.vocabulary):
        return frozenset()
    found = set()
    for raw in _FORMATS.findall(facts.lower):
        name = raw.replace("-", " ")
        name = _ONE_WORD.get(name, name)
        found.add("bullet" if name.startswith("bullet") else name)
    return frozenset(found)


def format_(asked: Facts, stored: Facts) -> bool:
    return asked.of(formats) == stored.of(formats)


_AUXILIARY = wordset(
    """
    is are was were am do does did can could should would will shall has have had may might must
    """
)
_PROCEDURAL = wordset(
    "how way ways step steps method methods tip tips procedure process trick tricks technique techniques"
)
_PROCEDURE = re.compile(
    r"\bhow (?:(?:do|does|did|can|could|should|would|will|may|might|must) "
    r"(?:we|i|you|one|they|he|she|people|someone|somebody|anyone|a person)|to|i can)\b"
    r"|\b(?:ways?|steps?|methods?|tips?|procedure|process|tricks?|techniques?) (?:to|for|of|i)\b"
)
_HOW_WORD = wordset(
    """
    many much long often old far big tall fast good bad hard difficult easy safe likely deep high large
    soon common important
    """
)


def kinds(facts: Facts) -> frozenset[str]:
    """The question words, each once: why, who, when, where, how many, how-to, how, what, yes-no."""
    words = facts.words
    found = set()
    for at, word in enumerate(words):
        if word in ("why", "where", "who", "whom", "whose"):
            found.add("who" if word[:3] == "who" else word)
        elif word == "when" and (at == 0 or _followed_by_auxiliary(words, at)):
            found.add("when")
        elif word == "how":
            after = words[at + 1] if at + 1 < len(words) else ""
            if after in ("many", "much", "long", "often", "old", "far"):
                found.add("how " + after)
            elif after in _HOW_WORD:
                found.add("how adj")
            else:
                found.add("how")
        elif word in ("what", "which"):
            found.add("what")
    if not _PROCEDURAL.isdisjoint(facts.vocabulary) and _PROCEDURE.search(facts.lower):
        found.discard("how")
        found.discard("what")
        found.add("how-to")
    if words and words[0] in _AUXILIARY:
        found.add("yes-no")
    return frozenset(found)


def _followed_by_auxiliary(words: list[str], at: int) -> bool:
    return at + 1 < len(words) and words[at + 1] in _AUXILIARY


# Kinds that paraphrase one another: "how do I learn X" and "what should I do to learn X".
_KIN = (frozenset({"how-to", "what"}), frozenset({"how", "how-to"}))


def question(asked: Facts, stored: Facts) -> bool:
    """One side may ask more kinds than the other ("…, and why?"); different kinds disagree."""
    left, right = asked.of(kinds), stored.of(kinds)
    if left <= right or right <= left:
        return True
    return (left ^ right) in _KIN


_POINTERS = wordset("this these following below attached")
_POINTING = re.compile(
    r"\b(?:this|these) (?!year|month|week|world|life|time|day|decade|century|way|kind|country|season)[a-z]"
    r"|\b(?:is|was|be) (?:this|these)\b|\b(?:the|as) following\b|\bgiven below\b|\bbelow given\b|\battached\b"
)


def pointing(facts: Facts) -> bool:
    return not _POINTERS.isdisjoint(facts.vocabulary) and _POINTING.search(facts.lower) is not None


def context(asked: Facts, stored: Facts) -> bool:
    """Two texts that point at something outside themselves ("this picture") point at different things."""
    return not (asked.of(pointing) or stored.of(pointing))


_FIRST = wordset("i me my mine myself we us our ours ourselves")
_SECOND = wordset("you your yours yourself")


def persons(facts: Facts) -> tuple[bool, bool]:
    return bool(facts.vocabulary & _FIRST), bool(facts.vocabulary & _SECOND)


def person(asked: Facts, stored: Facts) -> bool:
    """Whom it is about: "what do you look like" is not "what do I look like". Instructions are to all."""
    left, right = asked.of(persons), stored.of(persons)
    if left == right or ("how-to" in asked.of(kinds) and "how-to" in stored.of(kinds)):
        return True
    return left[1] == right[1]
