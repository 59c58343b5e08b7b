"""What a purge means, so that it can be told to others and carried out again.

Decides which entries and examples are meant; all criteria must agree, and none of them means everything. Must never
need what only one replica knows: receipts are resolved to ids before the purge is announced.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from gateway.exchange import Entry


@dataclass(frozen=True, slots=True)
class Criteria:
    """None: this does not matter."""

    tenant: str | None = None
    category: str | None = None
    model: str | None = None
    user: int | None = None  # digest of the end user who asked
    erase: bool = False  # not only answers, but whatever else holds the text of a tenant or user
    tag: str | None = None
    entry: int | None = None
    request: int | None = None  # digest of the request whose answer was stored
    entries: tuple[int, ...] = ()  # beside it: what that request was answered with
    examples: tuple[int, ...] | None = None

    def means(self, entry: Entry) -> bool:
        return (
            self.tenant in (None, entry.tenant)
            and self.category in (None, entry.category)
            and self.model in (None, entry.model)
            and self.user in (None, entry.user)
            and (self.tag is None or self.tag in entry.tags)
            and self.entry in (None, entry.id)
            and (self.request in (None, entry.request) or entry.id in self.entries)
        )

    def means_example(self, id: int, tenant: str, category: str, model: str, user: int) -> bool:
        """Examples have neither tags nor entries."""
        return (
            self.tag is None
            and self.entry is None
            and self.tenant in (None, tenant)
            and self.category in (None, category)
            and self.model in (None, model)
            and self.user in (None, user)
            and (self.examples is None or id in self.examples)
        )

    def erases(self, tenant: str, users: Iterable[int]) -> bool:
        """Whether a text of this tenant, written by these users, is to be erased wherever it is kept."""
        return self.erase and self.tenant in (None, tenant) and (self.user is None or self.user in users)

    def dump(self) -> bytes:
        return orjson.dumps({name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def load(cls, raw: bytes) -> "Criteria":
        """What `dump` was given. Criteria of a newer gateway are left out: more is purged then, never less."""
        given: dict[str, Any] = orjson.loads(raw)
        known = {name: given[name] for name in cls.__slots__ if name in given}
        for name in ("entries", "examples"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)
