"""The last decisions, and how many of each kind a minute: what the console shows and a dry run is tried on.

In memory only and bounded; texts of requests are kept no longer than a ring of a few hundred lasts. Must cost a
request no more than a few microseconds.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.exchange import Candidate, Exchange, Reuse, Ruling, user_digest

KEPT = 500  # decisions
MINUTES = 180
HOUR = 60
QUESTION = 2000  # characters of a question that are kept


class Decided(NamedTuple):
    """One finished request."""

    number: int  # counts up from 1
    at: float  # Unix seconds
    request_id: str
    tenant: str
    endpoint: str
    model: str
    category: str
    decision: str
    how: str
    reason: str
    status: int
    backend: str
    similarity: float | None
    threshold: float | None
    seconds: float
    question: str | None
    user: int  # digest of the end user's name
    ruling: Ruling | None
    candidates: tuple[Candidate, ...]

    def told(self) -> dict[str, Any]:
        """As JSON."""
        shown = self._asdict()
        del shown["ruling"], shown["candidates"], shown["user"]
        return shown


class Traffic:
    """Notes every finished request."""

    def __init__(
        self, kept: int = KEPT, minutes: int = MINUTES, clock: Callable[[], float] = time.time
    ) -> None:
        self.recent: deque[Decided] = deque(maxlen=kept)
        self._minutes: deque[tuple[int, Counter[tuple[str, str]]]] = deque(maxlen=minutes)
        self._clock = clock
        self._number = 0

    def finished(self, x: Exchange, seconds: float) -> None:
        """Once per request that a decision was made on."""
        decision, request, ruling = x.decision, x.request, x.ruling
        if decision is None or request is None:
            return
        now, how = self._clock(), decision.how if isinstance(decision, Reuse) else ""
        self._number += 1
        entry = x.entry
        category = ruling.category if ruling is not None else entry.category if entry is not None else ""
        self._count(int(now) // 60, (category, how or decision.word))
        question = request.question
        self.recent.append(
            Decided(
                self._number, now, x.request_id, x.tenant, request.endpoint, request.model, category, decision.word,
                how, decision.reason, x.status, x.backend, x.similarity, x.threshold, seconds,
                None if question is None else question[:QUESTION], user_digest(x.user), ruling, tuple(x.candidates),
            )
        )  # fmt: skip

    def _count(self, minute: int, what: tuple[str, str]) -> None:
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, Counter()))
        self._minutes[-1][1][what] += 1

    def forget(self, wanted: Callable[[str, tuple[int, ...]], bool]) -> int:
        """Forget decisions by tenant and by the users whose texts they hold, candidates' too. Returns how many."""
        before = list(self.recent)
        self.recent.clear()
        self.recent.extend(
            d for d in before if not wanted(d.tenant, (d.user, *(c.entry.user for c in d.candidates)))
        )
        return len(before) - len(self.recent)

    def since(self, number: int, limit: int) -> list[Decided]:
        """The newest decisions after that number, newest first."""
        found: list[Decided] = []
        for decided in reversed(self.recent):
            if decided.number <= number or len(found) >= limit:
                break
            found.append(decided)
        return found

    def minutes(self) -> list[dict[str, Any]]:
        """Unix seconds of each minute that saw requests, and how many ended how."""
        told = []
        for minute, counts in self._minutes:
            words: Counter[str] = Counter()
            for (_, word), count in counts.items():
                words[word] += count
            told.append({"at": minute * 60, "counts": dict(words)})
        return told

    def categories(self) -> dict[str, dict[str, int]]:
        """How many requests of the last hour ended how, by category; "" for those that came to none."""
        since, told = int(self._clock()) // 60 - HOUR, dict[str, Counter[str]]()
        for minute, counts in self._minutes:
            for (category, word), count in counts.items():
                if minute > since:
                    told.setdefault(category, Counter())[word] += count
        return {category: dict(words) for category, words in told.items()}
