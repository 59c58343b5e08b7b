"""Code identifiers and quoted strings: taken literally, letter for letter but for case."""

import re

from gateway.cache.guard.facts import Facts

_IDENTIFIER = re.compile(
    r"""
    (?<![\w.])(?:
        [A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\(                 # call(
      | [A-Za-z]\w*_\w+                                   # snake_case
      | [a-z]+[A-Z]\w*                                    # camelCase
      | [A-Za-z_]\w*(?:\.[A-Za-z_]\w+)+                   # dotted.name, file.ext
      | --?[A-Za-z][\w-]*                                 # --flag
      | [~.]{0,2}/[\w.~-]+(?:/[\w.~-]+)*                  # /a/path
      | [A-Za-z]\w*(?:::\w+)+                             # name::space
      | [A-Za-z](?:\+\+|\#)                               # C++, C#
    )
    """,
    re.VERBOSE,
)
_MARKS = frozenset("_.(/#+:-")
_CAMEL = re.compile(r"[a-z][A-Z]")
_QUOTED = re.compile(r'"([^"\n]{1,400})"|`([^`]{1,400})`|(?<![\w\'])\'([^\'\n]{1,400})\'(?!\w)')
_MARKED = frozenset("\"`'")
_SPACE = re.compile(r"[\W_]+")


def identifiers(facts: Facts) -> frozenset[str]:
    if _MARKS.isdisjoint(facts.characters) and not (facts.has_capital and _CAMEL.search(facts.plain)):
        return frozenset()
    return frozenset(found.lower().rstrip("(.") for found in _IDENTIFIER.findall(facts.plain))


_OPERATORS = frozenset("*{}[]<>=|\\~^;")


def symbols(facts: Facts) -> str:
    """The operators and brackets of code, in order."""
    if _OPERATORS.isdisjoint(facts.characters):
        return ""
    return "".join(char for char in facts.plain if char in _OPERATORS)


def identifier(asked: Facts, stored: Facts) -> bool:
    if asked.of(symbols) != stored.of(symbols):
        return False
    left, right = asked.of(identifiers), stored.of(identifiers)
    if left == right:
        return True
    return all(name in stored.lower for name in left - right) and all(
        name in asked.lower for name in right - left
    )


def quotes(facts: Facts) -> frozenset[str]:
    """Quoted and backticked strings, punctuation and case evened out."""
    text = facts.lower
    if _MARKED.isdisjoint(facts.characters):
        return frozenset()
    found = (next(filter(None, groups), "") for groups in _QUOTED.findall(text))
    return frozenset(even for quoted in found if (even := _even(quoted)) != " ")


def evened(facts: Facts) -> str:
    return _even(facts.lower)


def _even(text: str) -> str:
    """Words only, one space around each."""
    return f" {_SPACE.sub(' ', text).strip()} "


def quote(asked: Facts, stored: Facts) -> bool:
    left, right = asked.of(quotes), stored.of(quotes)
    if left == right:
        return True
    return all(quoted in stored.of(evened) for quoted in left - right) and all(
        quoted in asked.of(evened) for quoted in right - left
    )
