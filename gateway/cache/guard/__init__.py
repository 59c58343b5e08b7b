"""The guard: a second, lexical opinion that must agree before any semantic hit.

It reads the raw text of both questions and says only whether they visibly ask for different things. It must
never raise, never be slow on hostile input, and never loosen anything: None means no objection, not a hit.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from gateway.cache.guard import code, content, entities, form, language, numbers, order, polarity
from gateway.cache.guard.facts import Facts

Check: TypeAlias = Callable[[Facts, Facts], bool]

# In the order asked; the first that disagrees names the reason. Cheap and telling ones first.
CHECKS: Mapping[str, Check] = {
    "language": language.language,
    "number": numbers.number,
    "unit": numbers.unit,
    "date": numbers.date,
    "negation": polarity.negation,
    "comparative": polarity.comparative,
    "direction": polarity.direction,
    "format": form.format_,
    "identifier": code.identifier,
    "quote": code.quote,
    "entity": entities.entity,
    "order": order.order,
    "question": form.question,
    "person": form.person,
    "context": form.context,
    "template": order.template,
    "content": content.content,
}


@lru_cache(maxsize=1024)
def _facts(text: str) -> Facts:
    return Facts(text)


class Guard:
    """Compares two texts by the named checks (all of them by default)."""

    def __init__(self, checks: Sequence[str] | None = None) -> None:
        names = tuple(CHECKS) if checks is None else tuple(checks)
        if unknown := sorted(set(names) - CHECKS.keys()):
            raise ValueError(f"unknown guard checks: {', '.join(unknown)}")
        self._checks = tuple((name, CHECKS[name]) for name in names)

    def __repr__(self) -> str:
        return f"Guard({', '.join(name for name, _ in self._checks)})"

    def facts(self, text: str) -> Facts:
        """The text's analysis; those of recent texts are kept, as a popular entry is compared again and again."""
        return _facts(text)

    def verdict(self, asked: Facts, stored: Facts, waived: frozenset[str] = frozenset()) -> str | None:
        """The first check that disagrees, or None; `waived` are not asked. A text always agrees with itself."""
        if asked.text == stored.text:
            return None
        for name, agrees in self._checks:
            if name not in waived and not agrees(asked, stored):
                return name
        return None
