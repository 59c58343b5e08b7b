"""SqliteStore and MemoryStore do, step by step, what a plain dict would."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.exchange import Entry, Record
from gateway.storage.memory import MemoryStore
from gateway.storage.sqlite import SqliteStore
from tests.storage.conftest import make_record

_ids = st.integers(0, 12)
_keys = st.text("a\0\x01é\U0001f600", max_size=2)
_puts = st.lists(
    st.tuples(
        _ids, st.binary(max_size=40), st.none() | st.binary(min_size=4, max_size=16), st.integers(-5, 50)
    ),
    max_size=5,
)


class Stores(RuleBasedStateMachine):
    """The model: id → record, and a clock that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.now = 1_000.0
        self.model: dict[int, Record] = {}
        self.meta: dict[str, bytes] = {}
        self.shelves: dict[str, dict[str, bytes]] = {"x": {}, "y": {}}
        self.memory = MemoryStore(clock=lambda: self.now)
        self.sqlite = self.opened()

    def opened(self) -> SqliteStore:
        store = SqliteStore(Path(self.folder.name) / "gateway.db", clock=lambda: self.now)
        self.runner.run(store.open())
        return store

    def teardown(self) -> None:
        self.runner.run(self.sqlite.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, call: Any) -> list[Any]:
        return [self.runner.run(call(store)) for store in (self.memory, self.sqlite)]

    def living(self) -> dict[int, Record]:
        return {id: record for id, record in self.model.items() if record.entry.expires > self.now}

    @rule(puts=_puts)
    def put(self, puts: list[tuple[int, bytes, bytes | None, int]]) -> None:
        records = []
        for id, document, vector, lifetime in puts:
            entry = make_record(id, expires=self.now + lifetime).entry
            records.append(Record(replace(entry, question=document.hex()), vector, document))
        self.both(lambda store: store.put(records))
        self.model.update({record.entry.id: record for record in records})

    @rule(ids=st.lists(_ids, max_size=4))
    def delete(self, ids: list[int]) -> None:
        self.both(lambda store: store.delete(ids))
        for id in ids:
            self.model.pop(id, None)

    @rule(id=_ids)
    def get(self, id: int) -> None:
        living, stored = self.living().get(id), self.model.get(id)
        memory, sqlite = self.both(lambda store: store.get(id))
        assert memory == (living.document if living else None)
        assert sqlite == memory or (living is None and stored is not None and sqlite == stored.document)

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(key=st.sampled_from("ab"), value=st.binary(max_size=8))
    def put_meta(self, key: str, value: bytes) -> None:
        self.both(lambda store: store.put_meta(key, value))
        self.meta[key] = value

    @rule(key=st.sampled_from("ab"))
    def get_meta(self, key: str) -> None:
        assert self.both(lambda store: store.get_meta(key)) == [self.meta.get(key)] * 2

    @rule(kind=st.sampled_from("xy"), items=st.dictionaries(_keys, st.binary(max_size=8), max_size=4))
    def shelve(self, kind: str, items: dict[str, bytes]) -> None:
        self.both(lambda store: store.shelve(kind, items))
        self.shelves[kind].update(items)

    @rule(kind=st.sampled_from("xy"), keys=st.lists(_keys, max_size=3))
    def unshelve(self, kind: str, keys: list[str]) -> None:
        self.both(lambda store: store.unshelve(kind, keys))
        for key in keys:
            self.shelves[kind].pop(key, None)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.sqlite.close())
        self.sqlite = self.opened()

    @invariant()
    def scans_agree(self) -> None:
        async def scan(store: Any) -> dict[int, tuple[Entry, bytes | None]]:
            return {entry.id: (entry, vector) async for batch in store.scan() for entry, vector in batch}

        expected = {id: (record.entry, record.vector) for id, record in self.living().items()}
        assert self.both(scan) == [expected, expected]

    @invariant()
    def shelves_agree(self) -> None:
        for kind, expected in self.shelves.items():

            async def shelf(store: Any, kind: str = kind) -> list[tuple[str, bytes]]:
                return sorted([item async for batch in store.shelf(kind) for item in batch])

            assert self.both(shelf) == [sorted(expected.items())] * 2


Stores.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestStores = Stores.TestCase
