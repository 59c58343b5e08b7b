"""What several gateways learn is known to all: nothing lost, nothing twice, and bounded."""

import asyncio
import random
from collections.abc import Mapping

import orjson
import pytest

from gateway.errors import StoreError
from gateway.journal import Journal
from gateway.storage.memory import MemoryStore
from gateway.trust.room import Terms, Trust


class Failing(MemoryStore):
    """A store that takes nothing while it is away."""

    away = False

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        if self.away:
            raise StoreError("away")
        await super().shelve(kind, items)


class Fleet:
    """Replicas on one store and one clock, and what they have seen in all."""

    def __init__(self, replicas: int = 3, records: int = 4, **terms: float) -> None:
        self.store, self.now, self.records, self.terms = Failing(), 1000.0, records, terms
        self.lookups = self.hits = self.judged = self.wrong = self.bad = 0
        self.replicas = [self.start() for _ in range(replicas)]

    def start(self) -> tuple[Trust, Journal]:
        trust = Trust(clock=lambda: self.now)
        trust.configure({"c": Terms(**{"max_error": 0.01, "allowance": 1e6, **self.terms})})
        journal = Journal(trust, self.store, records=self.records, clock=lambda: self.now)
        asyncio.run(journal.read())
        return trust, journal

    def happen(self, replica: int, s: float, *, wrong: bool, judged: bool, complaint: bool) -> None:
        trust, _ = self.replicas[replica]
        trust.looked("c", f"t{replica}")
        trust.share("c", s, f"t{replica}")
        self.lookups += 1
        self.hits += 1
        if judged:
            trust.judged("c", f"t{replica}", s, wrong=wrong)
            self.judged += 1
            self.wrong += wrong
        if complaint:
            trust.judged("c", f"t{replica}", s, wrong=True, source="feedback")
            self.bad += 1

    def save(self, replica: int) -> None:
        self.now += 30.0 / len(self.replicas)
        asyncio.run(self.replicas[replica][1].save())

    def agreed(self) -> None:
        """All save twice; then everybody, and a newcomer, knows all."""
        for replica in [*range(len(self.replicas))] * 2:
            self.save(replica)
        for trust, journal in [*self.replicas, self.start()]:
            report = trust.report()["c"]
            told = (report.hits.lookups, report.hits.hits, report.hits.judged, report.hits.wrong, report.bad)
            assert told == (self.lookups, self.hits, self.judged, self.wrong, self.bad)
            assert len(trust.to_json()["c"]["risks"]) == self.wrong + self.bad
            assert sum(each.lookups for each in report.tenants.values()) == self.lookups
            assert journal.unread == 0

    def shelved(self) -> int:
        async def count() -> int:
            return sum([len(batch) async for batch in self.store.shelf("trust")])

        return asyncio.run(count())


@pytest.mark.parametrize("seed", range(8))
def test_all_know_what_all_have_seen(seed: int) -> None:
    """Whoever saves when, restarts, stays away, or cannot write for a while."""
    draw, fleet = random.Random(seed), Fleet()
    for _ in range(300):
        replica = draw.randrange(3)
        fleet.happen(replica, draw.uniform(0.93, 1), wrong=draw.random() < 0.3, judged=draw.random() < 0.5,
                     complaint=draw.random() < 0.1)  # fmt: skip
        if draw.random() < 0.3:
            fleet.store.away = draw.random() < 0.2
            try:
                fleet.save(draw.randrange(2) if draw.random() < 0.9 else 2)  # one is rarely heard
            except StoreError:
                assert fleet.store.away
        if draw.random() < 0.05:
            fleet.store.away = False
            fleet.save(replica)  # as a stop does
            fleet.replicas[replica] = fleet.start()
    fleet.store.away = False
    fleet.agreed()
    assert fleet.shelved() < 4 + 3 * 4


def test_who_was_away_too_long_begins_with_the_sum_and_keeps_its_own() -> None:
    fleet = Fleet(2)
    fleet.happen(1, 0.95, wrong=True, judged=True, complaint=False)
    for number in range(40):
        fleet.happen(0, 0.95, wrong=number % 2 == 0, judged=True, complaint=False)
        fleet.now += 30
        fleet.save(0)
    assert fleet.shelved() < 10
    fleet.happen(1, 0.97, wrong=False, judged=True, complaint=True)
    fleet.agreed()


def test_what_the_store_does_not_take_for_long_is_told_once_it_does() -> None:
    """More than may be due: the rest waits where it was learned, and no sum is made of what is yet to be told."""
    fleet = Fleet(2)
    fleet.store.away = True
    for _ in range(80):
        fleet.happen(0, 0.95, wrong=True, judged=True, complaint=False)
        with pytest.raises(StoreError):
            fleet.save(0)
    fleet.store.away = False
    fleet.save(0)
    fleet.happen(0, 0.95, wrong=True, judged=True, complaint=False)
    newcomer = fleet.start()
    fleet.agreed()
    fleet.replicas.append(newcomer)
    fleet.agreed()


def test_restarts_leave_nothing_behind() -> None:
    fleet = Fleet(1, records=8)
    for _ in range(60):
        fleet.happen(0, 0.95, wrong=False, judged=True, complaint=False)
        fleet.save(0)
        fleet.replicas[0] = fleet.start()
    fleet.agreed()
    assert fleet.shelved() <= 8 + 4


def test_wrong_hits_of_all_spend_one_budget() -> None:
    fleet = Fleet(2, allowance=10.0)
    for replica in (0, 1):
        for _ in range(7):
            fleet.happen(replica, 0.99, wrong=True, judged=True, complaint=False)
        assert not fleet.replicas[replica][0].conditions.closed
    for replica in (0, 1, 0):
        fleet.save(replica)
    for trust, _ in fleet.replicas:
        assert dict(trust.conditions.closed) == {"c": "over-budget"}
    assert fleet.start()[0].conditions.closed


def test_what_was_taken_back_is_taken_back_everywhere() -> None:
    fleet = Fleet(2)
    one, two = (trust for trust, _ in fleet.replicas)
    one.judged("c", "t", 0.95, wrong=True, source="feedback")
    fleet.save(0)
    one.retract("c", "t", 0.95, wrong=True)
    one.judged("c", "t", 0.95, wrong=False, source="feedback")
    fleet.save(0)
    fleet.save(1)
    assert (two.report()["c"].good, two.report()["c"].bad) == (1, 0)
    assert two.to_json()["c"]["risks"] == []


def test_a_record_of_another_form_is_counted_and_harms_nothing() -> None:
    fleet = Fleet(1)
    fleet.happen(0, 0.95, wrong=False, judged=True, complaint=False)
    fleet.save(0)
    strange = {
        "state": b'{"c": {}}',
        "1": b"{",
        "2": b"[]",
        "3": orjson.dumps({"c": {"statistic": "cosine"}}),
    }
    asyncio.run(fleet.store.shelve("trust", strange))
    trust, journal = fleet.start()
    assert trust.report()["c"].hits.judged == 1
    assert journal.unread == 4
