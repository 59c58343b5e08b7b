"""What reuse and small models have saved, per tenant, category and way: calls, tokens, money, engine seconds.

Decides what counts as saved and what of it was no saving after all. It must never delay a request or grow with
its callers: so many rows, then one for all others. Every replica keeps rows of its own on the store's shelf, and
tells the sum.
"""

import asyncio
import csv
import io
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from gateway.errors import StoreError

log = logging.getLogger("gateway.savings")
_SHELF = "savings"
_ROWS = 10_000  # tenants × categories × ways told apart
_OTHERS = "others"
_PIECE = 100  # tenants' records made and written at once, so that many hold nobody up
_SAVE_SECONDS = 5.0
_SIGN = 6 * 3600.0  # a replica that lives writes each of its records at least so often
_GONE = 24 * 3600.0  # a record older than this is nobody's any more

Way = Literal["exact", "semantic", "join", "offload"]
WAYS: tuple[Way, ...] = ("exact", "semantic", "join", "offload")
FIELDS = ("calls", "input_tokens", "output_tokens", "dollars", "engine_seconds")
COLUMNS = ("tenant", "category", "how", *FIELDS, "bad_calls", "bad_by", *(f"net_{name}" for name in FIELDS))
_WIDTH = len(FIELDS)

Row = list[float]  # the fields, then the same of what feedback called bad
Key = tuple[str, str]  # category, way


class Credit(NamedTuple):
    """What one request has saved, and where it is booked."""

    tenant: str
    category: str
    how: Way
    prompt: int
    output: int
    dollars: float
    seconds: float

    @property
    def amounts(self) -> tuple[float, ...]:
        return 1.0, float(self.prompt), float(self.output), self.dollars, self.seconds


class Shelf(Protocol):
    """The part of the store that keeps small records. Raises StoreError, nothing else."""

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None: ...

    async def unshelve(self, kind: str, keys: Any) -> None: ...

    def shelf(self, kind: str) -> Any: ...


@dataclass(slots=True)
class Account:
    """One tenant's rows as one replica counts them; `folded`: replicas that are gone, whose rows are in these."""

    at: float = 0.0  # unix seconds, when it was last written
    rows: dict[Key, Row] = field(default_factory=dict)
    folded: set[str] = field(default_factory=set)

    def pack(self) -> bytes:
        rows = [[*key, row] for key, row in self.rows.items()]
        return orjson.dumps({"at": self.at, "rows": rows, "folded": sorted(self.folded)})

    @classmethod
    def unpack(cls, packed: bytes) -> "Account":
        """Raises ValueError or KeyError where it is none."""
        given = orjson.loads(packed)
        rows = {(str(c), str(h)): [float(v) for v in row] for c, h, row in given["rows"]}
        return cls(float(given["at"]), rows, set(given["folded"]))


class Savings:
    """The ledger. `run` keeps it; counting is plain additions.

    Args:
        shelf: where it survives.
        rows: told apart at most.
        clock: unix seconds.
    """

    def __init__(self, shelf: Shelf, *, rows: int = _ROWS, clock: Callable[[], float] = time.time) -> None:
        self._shelf = shelf
        self._most = rows
        self._clock = clock
        self._id = secrets.token_hex(8)  # of this process: two never write one record
        self._mine: defaultdict[str, Account] = defaultdict(Account)
        self._others: dict[tuple[str, str], Account] = {}  # (replica, tenant), as last read
        self._changed: set[str] = set()
        self._count = 0
        self.seconds: dict[str, float] = {}  # what each model's answers usually take
        self.failures = 0

    # ── counting ────────────────────────────────────────────────────────────────────────────────────────

    def add(self, credit: Credit) -> None:
        """Book what a request has saved."""
        self._book(credit, 0)

    def void(self, credit: Credit) -> None:
        """Its answer was called bad: it has saved nothing."""
        self._book(credit, _WIDTH)

    def _book(self, credit: Credit, at: int) -> None:
        tenant = self._tenant(credit)
        rows, key = self._mine[tenant].rows, (credit.category, credit.how)
        row = rows.get(key)
        if row is None:
            row = rows[key] = [0.0] * (2 * _WIDTH)
            self._count += 1
        for place, amount in enumerate(credit.amounts, at):
            row[place] += amount
        self._changed.add(tenant)

    def _tenant(self, credit: Credit) -> str:
        known = self._mine.get(credit.tenant)
        if known is not None and (credit.category, credit.how) in known.rows:
            return credit.tenant
        return credit.tenant if self._count < self._most else _OTHERS

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Save what has changed, for ever."""
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            await self.save()

    async def save(self) -> None:
        """Write changed records; what the store does not take stays due."""
        now = self._clock()
        self._changed |= {tenant for tenant, own in self._mine.items() if own.at < now - _SIGN}
        changed, self._changed = self._changed, set()
        if not changed:
            return
        due = sorted(changed)
        try:
            for some in (due[start : start + _PIECE] for start in range(0, len(due), _PIECE)):
                for tenant in some:
                    self._mine[tenant].at = now
                packed = {self._key(tenant): self._mine[tenant].pack() for tenant in some}
                await self._shelf.shelve(_SHELF, packed)
        except StoreError as error:
            self._changed |= changed
            self.failures += 1
            log.warning("savings are not saved: %s", error)

    async def read(self) -> bool:
        """What the other replicas have saved, now; False where the store cannot tell, and the last word counts."""
        try:
            found: dict[tuple[str, str], Account] = {}
            async for batch in self._shelf.shelf(_SHELF):
                for key, packed in batch:
                    replica, _, tenant = key.partition(":")
                    if replica != self._id:
                        found[replica, tenant] = Account.unpack(packed)
            self._others = found
            await self._fold()
        except (StoreError, ValueError, KeyError, TypeError) as error:
            self.failures += 1
            log.warning("other replicas' savings are not read: %s", error)
            return False
        return True

    async def _fold(self) -> None:
        """Take over the records of replicas that are gone, if it is this one's turn: it has the least id alive.

        Each record names whom it has taken over, and those are not counted again, so a crash in between, or a
        replica that comes back from the dead, counts nothing twice.
        """
        limit = self._clock() - _GONE
        if any(replica < self._id and own.at >= limit for (replica, _), own in self._others.items()):
            return
        gone = [key for key, own in self._others.items() if own.at < limit]
        taken = self._taken()
        for replica, tenant in gone:
            other, own = self._others[replica, tenant], self._mine[tenant]
            if replica not in taken[tenant]:
                _merge(own.rows, other.rows)
            own.folded |= {replica} | other.folded
            taken[tenant] |= own.folded
            self._changed.add(tenant)
        if not gone:
            return
        self._count = sum(len(own.rows) for own in self._mine.values())
        await self.save()
        if not self._changed:  # it is written: the old ones can go
            await self._shelf.unshelve(_SHELF, [f"{replica}:{tenant}" for replica, tenant in gone])
            for key in gone:
                del self._others[key]

    def _taken(self) -> dict[str, set[str]]:
        """By tenant, the replicas whose records somebody has taken over already."""
        taken: dict[str, set[str]] = defaultdict(set)
        for tenant, own in self._mine.items():
            taken[tenant] |= own.folded
        for (_, tenant), other in self._others.items():
            taken[tenant] |= other.folded
        return taken

    def _key(self, tenant: str) -> str:
        return f"{self._id}:{tenant}"

    # ── what it tells ───────────────────────────────────────────────────────────────────────────────────

    def rows(self) -> dict[tuple[str, str, str], Row]:
        """Of all replicas together, by tenant, category and way."""
        total: dict[str, dict[Key, Row]] = {}
        for tenant, own in self._mine.items():
            _merge(total.setdefault(tenant, {}), own.rows)
        taken = self._taken()
        for (replica, tenant), other in self._others.items():
            if replica not in taken[tenant]:
                _merge(total.setdefault(tenant, {}), other.rows)
        return {(tenant, *key): row for tenant, rows in total.items() for key, row in rows.items()}

    def report(
        self,
        wrong: Callable[[str, str, str], float | None],
        wanted: Callable[[str, str, str], bool] = lambda tenant, category, how: True,
    ) -> list[dict[str, Any]]:
        """Every row with what is left of it. `wrong`: the share of a row's calls that judged samples say were bad."""
        found = sorted((key, row) for key, row in self.rows().items() if wanted(*key))
        return [told(*key, row, wrong(*key)) for key, row in found]


def told(tenant: str, category: str, how: str, row: Row, share: float | None) -> dict[str, Any]:
    """One row: gross, and net of the larger of what feedback called bad and what judged samples estimate."""
    gross, voided = row[:_WIDTH], row[_WIDTH:]
    estimate = (share or 0.0) * gross[0]
    judged = estimate > voided[0]
    bad = [(share or 0.0) * value for value in gross] if judged else voided
    return {
        "tenant": tenant,
        "category": category,
        "how": how,
        **dict(zip(FIELDS, gross, strict=True)),
        "bad_calls": bad[0],
        "bad_by": "judged" if judged else "feedback" if voided[0] else "none",
        **{f"net_{name}": g - b for name, g, b in zip(FIELDS, gross, bad, strict=True)},
    }


def total(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The sums of the rows told."""
    names = (*FIELDS, "bad_calls", *(f"net_{name}" for name in FIELDS))
    listed = list(rows)
    return {name: sum(row[name] for row in listed) for name in names}


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a table; a name that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: _plain(value) for name, value in row.items()})
    return out.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _merge(into: dict[Key, Row], rows: Mapping[Key, Row]) -> None:
    for key, row in rows.items():
        known = into.setdefault(key, [0.0] * (2 * _WIDTH))
        for place, value in enumerate(row):
            known[place] += value
