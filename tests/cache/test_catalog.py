import random

from gateway.cache.catalog import Catalog, random_id
from gateway.cache.quota import Ledger
from tests.cache.entries import entry


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def catalog(clock: Clock | None = None, capacity: int = 1 << 30) -> Catalog:
    return Catalog(Ledger(capacity, {}, lambda _: 1.0, random.Random(1)), clock or Clock())


def test_an_expired_entry_is_not_found_and_swept_in_order_of_expiry() -> None:
    clock = Clock()
    held = catalog(clock)
    late, soon, never = entry(expires=20.0), entry(expires=10.0), entry(expires=1e12)
    for e in (late, soon, never):
        held.add(e)
    clock.now = 15.0
    assert held.exact(soon.exact) == []
    assert held.exact(late.exact) == [late]
    assert held.sweep() == [soon]
    clock.now = 25.0
    assert held.sweep() == [late]
    assert held.entries() == [never]
    assert held.expired == 2


def test_the_same_request_replaces_its_answer() -> None:
    held = catalog()
    old, new = entry(), entry()
    new.exact = old.exact
    held.add(old)
    assert held.add(new) == [old]
    assert held.exact(old.exact) == [new]
    assert len(held) == 1


def test_variants_live_side_by_side_up_to_their_number() -> None:
    held = catalog()
    entries = [entry(exact=b"x" * 32) for _ in range(4)]
    gone = [g for e in entries for g in held.add(e, variants=3)]
    assert gone == [entries[0]]
    assert held.exact(b"x" * 32) == entries[1:]
    held.remove(entries[2].id)
    assert held.exact(b"x" * 32) == [entries[1], entries[3]]


def test_removing_twice_is_harmless() -> None:
    held = catalog()
    e = entry()
    held.add(e)
    assert held.remove(e.id) is e
    assert held.remove(e.id) is None
    assert held.ledger.used == 0


def test_an_evicted_entry_leaves_no_trace_in_the_expiry_heap() -> None:
    held = catalog(capacity=1000)
    for _ in range(20_000):
        held.add(entry())
    assert len(held) == 10
    assert len(held._expiry) < 2000


def test_equal_words_of_different_entries_become_one_object() -> None:
    held = catalog()
    words = {"tenant": "t:somebody", "model": "some model", "category": "some category"}
    entries = [
        entry(partition=bytes([7] * 32), **{key: "".join(list(word)) for key, word in words.items()})
        for _ in range(2)
    ]
    for e in entries:
        held.add(e)
    first, second = entries
    for name in ("partition", *words):
        assert getattr(first, name) is getattr(second, name)
    assert second.partition == bytes([7] * 32)
    assert {key: getattr(second, key) for key in words} == words


def test_ids_are_unique_positive_and_fit_the_index() -> None:
    ids = {random_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(0 <= id < 2**63 for id in ids)
