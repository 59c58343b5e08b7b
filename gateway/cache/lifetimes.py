"""Whose time is up: entry ids by the minute they expire in.

Eight bytes an entry, where a heap of (time, id) takes eighty. Knows ids alone: what was removed meanwhile is
skipped when its minute comes.
"""

import heapq
from collections.abc import Iterable, Mapping

from gateway.exchange import Entry

_MINUTE = 60.0


class Lifetimes:
    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._ids: dict[int, list[int]] = {}  # minute → ids
        self._minutes: list[int] = []  # heap of the keys
        self._count = 0
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        """How many ids are noted, those already gone included."""
        return self._count

    def add(self, entry: Entry) -> None:
        minute = int(entry.expires // _MINUTE)
        ids = self._ids.get(minute)
        if ids is None:
            self._ids[minute] = [entry.id]
            heapq.heappush(self._minutes, minute)
        else:
            ids.append(entry.id)
        self._count += 1

    def due(self, now: float, entries: Mapping[int, Entry], limit: int) -> list[Entry]:
        """The expired among the next `limit` ids, earliest minute first; they are not noted any more."""
        due: list[Entry] = []
        while limit > 0 and self._minutes and self._minutes[0] * _MINUTE <= now:
            ids = self._ids[self._minutes[0]]
            some, ids[-limit:] = ids[-limit:], []
            found = [entry for id in some if (entry := entries.get(id)) is not None]
            due += [entry for entry in found if entry.expires <= now]
            later = [entry.id for entry in found if entry.expires > now]
            ids[:0] = later  # their turn comes again after the others of this minute
            limit -= len(some)
            self._count -= len(some) - len(later)
            if later:
                break
            if not ids:
                del self._ids[heapq.heappop(self._minutes)]
        return due
