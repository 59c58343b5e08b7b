"""Wrong pairs, remembered: a stored answer that did not do for a question is never served to it again.

Nor to its near neighbours, for whom that answer is most likely as wrong. It must never forget a pair while there
is room, nor one tenant's pairs for the many of another, and never refuse a pair that nobody found wrong or near to
one that was.
"""

import base64
import time
import unicodedata
from bisect import bisect_left, insort
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
import orjson

from gateway.interfaces import Vector

# Cosine from which a question is taken for the one that was answered wrongly. Of Quora's questions that near, fewer
# than half would have been answered rightly by the same entry, nine of ten of all hits (`bench/trust`).
RADIUS = 0.90
_NEAR = 0.85  # and from which more is demanded of any candidate
_MARGIN = 0.5


class Wrong(NamedTuple):
    """A question and the stored one whose answer did not do for it."""

    partition: bytes
    asked: str
    stored: str
    users: tuple[int, ...] = ()  # digests of the end users who asked them


@dataclass(slots=True)
class Known:
    """What is known of a pair beside its key."""

    partition: bytes
    tenant: str
    stored: str  # normalised
    at: float  # when it was found, unix seconds
    users: tuple[int, ...] = ()
    half: "np.ndarray[Any, Any] | None" = None  # the asked question's vector, until it is in its row
    row: int = -1  # of the partition's matrix


@dataclass(slots=True)
class _Part:
    """A partition's pairs, the asked questions' vectors one a row; a row of zeros is near nothing."""

    keys: list[str] = field(default_factory=list)
    rows: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    of: dict[str, set[str]] = field(default_factory=dict)  # stored text → keys

    def add(self, key: str, pair: Known, vector: Vector | None) -> None:
        if vector is not None and not self.rows.shape[1]:
            self.rows = np.zeros((max(8, len(self.rows)), len(vector)), np.float32)
        if len(self.keys) == len(self.rows):
            self.rows = np.concatenate(
                [self.rows, np.zeros((max(8, len(self.rows)), self.rows.shape[1]), np.float32)]
            )
        pair.row = len(self.keys)
        self.keys.append(key)
        fits = vector is not None and len(vector) == self.rows.shape[1]
        self.rows[pair.row] = vector if fits else 0.0
        self.of.setdefault(pair.stored, set()).add(key)

    def remove(self, key: str, pair: Known) -> str:
        """Its row goes to the last one, whose key is returned."""
        last = self.keys.pop()
        if last != key:
            self.keys[pair.row] = last
            self.rows[pair.row] = self.rows[len(self.keys)]
        same = self.of[pair.stored]
        same.discard(key)
        if not same:
            del self.of[pair.stored]
        return last


class Negatives:
    """At most `limit` pairs. Not thread-safe: the event loop's own.

    Of too many, the oldest of the tenant that has most go: by what the records say alone, so that all who share a
    store agree on what stays. radius: cosine of two questions from which one's wrong answer is refused to the other.
    """

    def __init__(
        self, limit: int = 10_000, radius: float = RADIUS, clock: Callable[[], float] = time.time
    ) -> None:
        if limit < 1 or not 0 < radius <= 1:
            raise ValueError("the limit is at least 1, the radius lies in (0, 1]")
        self.limit = limit
        self.radius = radius
        self._clock = clock
        self._latest = 0.0
        self._unread: set[str] = set()
        self._gone: list[str] = []
        self._pairs: dict[str, Known] = {}
        self._of: dict[str, list[tuple[float, str]]] = {}  # tenant → (when, key), oldest first
        self._parts: dict[bytes, _Part] = {}
        self._last: tuple[_Part, Vector, Vector] | None = (
            None  # what was compared last: one question asks often
        )

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"<Negatives: {len(self)} of at most {self.limit} pairs in {len(self._parts)} partitions>"

    def __contains__(self, key: str) -> bool:
        return key in self._pairs

    @property
    def unread(self) -> int:
        """Records that could not be understood."""
        return len(self._unread)

    def any(self, partition: bytes) -> bool:
        """Whether anything is remembered there."""
        return partition in self._parts

    def add(
        self,
        partition: bytes,
        asked: str,
        vector: Vector | None,
        stored: str,
        tenant: str = "",
        users: tuple[int, ...] = (),
    ) -> tuple[str, bytes]:
        """Remember that the answer stored for `stored` was wrong for `asked`: a key and a record for the store.

        vector (d,): the asked question's, of unit length; None: its neighbours are not refused, only the pair.
        """
        asked, stored = normal(asked), normal(stored)
        key = _key(partition, asked, stored)
        half = None if vector is None else np.asarray(vector).astype("<f2")
        self._latest = max(self._clock(), self._latest + 1e-6)
        self._put(key, Known(partition, tenant, stored, self._latest, users, half))
        record = {
            "tenant": tenant,
            "users": users,
            "at": self._latest,
            "partition": partition.hex(),
            "asked": asked,
            "stored": stored,
            "vector": None if half is None else base64.b64encode(half.tobytes()).decode(),
        }
        return key, orjson.dumps(record)

    def load(self, records: Iterable[tuple[str, bytes]]) -> None:
        """Take up records from the store; one that is known changes nothing, one of another form is counted."""
        found = []
        for key, record in records:
            try:
                if key not in self._pairs:
                    found.append((key, _pair(record)))
            except (ValueError, KeyError, TypeError, AttributeError):
                self._unread.add(key)
        for key, pair in sorted(found, key=lambda each: each[1].at):
            self._put(key, pair)

    def gone(self) -> list[str]:
        """Keys of those that had to go since this was asked last: the store need not keep them either."""
        gone, self._gone = self._gone, []
        return gone

    def forget(self, wanted: Callable[[Known], bool]) -> int:
        """Forget the pairs that a predicate picks; `gone` tells their keys. Returns how many."""
        keys = [key for key, pair in self._pairs.items() if wanted(pair)]
        for key in keys:
            self._drop(key)
        self._last = None
        self._gone += keys
        return len(keys)

    def hold(self, keys: Container[str]) -> None:
        """Forget all but these: what others have forgotten."""
        for key in [key for key in self._pairs if key not in keys]:
            self._drop(key)
        self._last = None

    def vetoes(self, partition: bytes, question: str, vector: Vector | None, entry_question: str) -> bool:
        """Whether this entry's answer was found wrong for this question, either way round, or for a near one."""
        part = self._parts.get(partition)
        if part is None:
            return False
        stored = normal(entry_question)
        key = _key(partition, normal(question), stored)
        if key in self._pairs:
            return True
        near = part.of.get(stored)
        if near is None or (similar := self._similar(part, vector)) is None:
            return False
        return any(similar[self._pairs[other].row] >= self.radius for other in near)

    def tightened(self, partition: bytes, vector: Vector | None) -> float:
        """Share of what is left above a bound that is demanded on top, near a question once answered wrongly."""
        part = self._parts.get(partition)
        if part is None or (similar := self._similar(part, vector)) is None:
            return 0.0
        return _MARGIN if float(similar.max()) >= _NEAR else 0.0

    def _similar(self, part: _Part, vector: Vector | None) -> Vector | None:
        """(n,) cosines to the partition's asked questions; None where they cannot be compared."""
        if vector is None or not part.rows.shape[1] or len(vector) != part.rows.shape[1]:
            return None
        if self._last is not None and self._last[0] is part and self._last[1] is vector:
            return self._last[2]
        similar: Vector = part.rows[: len(part.keys)] @ np.asarray(vector, np.float32)
        self._last = (part, vector, similar)
        return similar

    def _put(self, key: str, pair: Known) -> None:
        self._last = None
        if key in self._pairs:
            self._drop(key)
        part = self._parts.setdefault(pair.partition, _Part())
        vector, pair.half = pair.half, None
        part.add(key, pair, None if vector is None else vector.astype(np.float32))
        self._pairs[key] = pair
        insort(self._of.setdefault(pair.tenant, []), (pair.at, key))
        while len(self._pairs) > self.limit:
            most = max(self._of, key=lambda tenant: (len(self._of[tenant]), tenant))
            _, oldest = self._of[most][0]
            self._drop(oldest)
            self._gone.append(oldest)

    def _drop(self, key: str) -> None:
        pair = self._pairs.pop(key)
        mine = self._of[pair.tenant]
        del mine[bisect_left(mine, (pair.at, key))]
        if not mine:
            del self._of[pair.tenant]
        part = self._parts[pair.partition]
        moved = part.remove(key, pair)
        if moved != key:
            self._pairs[moved].row = pair.row
        if not part.keys:
            del self._parts[pair.partition]


def _pair(record: bytes) -> Known:
    """Raises what a record of another form leads to."""
    told = orjson.loads(record)
    coded = told["vector"]
    half = None if coded is None else np.frombuffer(base64.b64decode(coded), "<f2")
    tenant, at = str(told.get("tenant", "")), float(told.get("at", 0.0))
    users = tuple(int(user) for user in told.get("users", ()))
    return Known(bytes.fromhex(told["partition"]), tenant, str(told["stored"]), at, users, half)


def normal(text: str) -> str:
    """Texts that differ only in case, width, spaces or closing punctuation are one."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" ?!.")


def _key(partition: bytes, one: str, other: str) -> str:
    first, second = sorted((one, other))
    return sha256(
        b"\0".join((partition, first.encode("utf-8", "replace"), second.encode("utf-8", "replace")))
    ).hexdigest()[:32]
