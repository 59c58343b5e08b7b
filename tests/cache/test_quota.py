import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.catalog import Catalog
from gateway.cache.quota import Ledger, value
from tests.cache.entries import entry


def ledger(capacity: int, guarantees: dict[str, int], priority: dict[str, float] | None = None) -> Ledger:
    weights = priority or {}
    return Ledger(capacity, guarantees, lambda name: weights.get(name, 1.0), random.Random(1))


def test_idle_space_is_lent_and_taken_back() -> None:
    catalog = Catalog(ledger(1000, {"code": 500, "chat": 500}), lambda: 0.0)
    for _ in range(10):
        assert catalog.add(entry(category="chat")) == []
    assert catalog.ledger.bytes_of("chat") == 1000, "chat may use what code leaves idle"

    gone = [e for _ in range(5) for e in catalog.add(entry(category="code"))]
    assert [e.category for e in gone] == ["chat"] * 5, "code takes its guarantee back from who borrowed it"
    assert catalog.ledger.bytes_of("code") == catalog.ledger.bytes_of("chat") == 500

    assert [e.category for e in catalog.add(entry(category="code"))] == ["code"], (
        "beyond it, code pays itself"
    )


def test_a_guarantee_is_never_eaten_by_others() -> None:
    catalog = Catalog(ledger(1000, {"code": 300, "chat": 700}), lambda: 0.0)
    kept = [entry(category="code") for _ in range(3)]
    for e in kept:
        catalog.add(e)
    for _ in range(100):
        catalog.add(entry(category="chat"))
    assert all(catalog.get(e.id) is e for e in kept)


def test_the_least_valuable_goes_first() -> None:
    now = 3600.0
    popular, cheap, costly = entry(hits=50), entry(cost=0.0001), entry(cost=1.0)
    big, old = entry(size=400), entry(created=-100_000.0)
    catalog = Catalog(ledger(10_000, {}), lambda: now)
    for e in (popular, cheap, costly, big, old):
        catalog.add(e)
    order = []
    while catalog.ledger.used:
        victim = catalog.ledger.victim(now)
        assert victim is not None
        catalog.remove(victim.id)
        order.append(victim)
    assert order[-1] is costly
    assert order.index(popular) > order.index(old)
    assert order.index(cheap) < order.index(popular)
    assert order.index(big) < order.index(popular)


@given(
    hits=st.integers(0, 1000),
    age=st.floats(0, 1e6),
    cost=st.floats(1e-6, 10),
    size=st.integers(1, 10**6),
    priority=st.floats(0.1, 10),
)
def test_value_grows_with_hits_cost_and_priority_and_falls_with_age_and_size(
    hits: int, age: float, cost: float, size: int, priority: float
) -> None:
    def worth(**changed: float) -> float:
        given = {"hits": hits, "cost": cost, "size": size, "created": -age, **changed}
        weight = given.pop("priority", priority)
        return value(entry(**given), weight, 0.0)

    assert worth(hits=hits + 1) > worth()
    assert worth(cost=cost * 2) > worth()
    assert worth(priority=priority * 2) > worth()
    assert worth(size=size * 2) < worth()
    assert worth(created=-age - 3600.0) < worth()


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 400), st.booleans()),
        min_size=1,
        max_size=80,
    )
)
def test_the_books_always_balance(steps: list[tuple[str, int, bool]]) -> None:
    catalog = Catalog(ledger(1000, {"a": 500, "b": 300}), lambda: 0.0)
    for category, size, remove in steps:
        catalog.add(entry(category=category, size=size))
        if remove:
            catalog.remove(catalog.entries()[0].id) if len(catalog) else None
        held = catalog.entries()
        assert catalog.ledger.used == sum(e.size for e in held) <= 1000
        for name in "abc":
            assert catalog.ledger.bytes_of(name) == sum(e.size for e in held if e.category == name)
            assert catalog.ledger.count_of(name) == sum(e.category == name for e in held)
