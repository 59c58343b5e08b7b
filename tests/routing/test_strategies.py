from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import RoutingConfig
from gateway.exchange import Work
from gateway.routing.strategies import strategy

WORK = Work(100, 100)
NAMES = RoutingConfig.model_fields["strategy"].annotation.__args__  # type: ignore[union-attr]


@dataclass
class Fixed:
    """A backend whose figures are given."""

    id: str = "b"
    weight: float = 1.0
    in_flight: int = 0
    dollars: float = 1.0
    seconds: float = 1.0
    load: float = 0.0
    cached: int = 0
    placed: float = 0.0

    def price(self, work: Work) -> float:
        return self.dollars

    def expected(self, work: Work, now: float) -> float:
        return self.seconds

    def pressure(self, now: float) -> float:
        return self.load

    def warm(self, work: Work, now: float) -> int:
        return self.cached

    def given(self, now: float) -> float:
        return self.placed


def pick(name: str, backends: list[Fixed], work: Work = WORK) -> Fixed | None:
    return strategy(name, Random(1)).pick(backends, work, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_picked_from_nobody(name: str) -> None:
    assert pick(name, []) is None


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(1, 30), st.integers(0, 99))
def test_a_pick_is_one_of_those_available(name: str, count: int, seed: int) -> None:
    rng = Random(seed)
    backends = [Fixed(str(i), rng.choice([1.0, 2.0]), rng.randrange(9), rng.random(), rng.random(),
                      rng.random(), rng.randrange(3)) for i in range(count)]  # fmt: skip
    assert pick(name, backends, Work(10, 10, session=rng.choice(["", "s"]))) in backends


def test_least_completion_takes_the_quickest_not_the_emptiest() -> None:
    slow, quick = Fixed("slow", in_flight=1, seconds=9.0), Fixed("quick", in_flight=5, seconds=2.0)
    assert pick("least-completion", [slow, quick]) is quick
    assert pick("least-in-flight", [slow, quick]) is slow


def test_two_choices_never_takes_the_worst_of_three() -> None:
    backends = [Fixed("a", seconds=1.0), Fixed("b", seconds=2.0), Fixed("c", seconds=3.0)]
    chosen = strategy("two-choices", Random(7))
    assert {chosen.pick(backends, WORK, 0.0).id for _ in range(100)} == {"a", "b"}  # type: ignore[union-attr]


def test_lowest_cost_then_quickest() -> None:
    dear = Fixed("dear", dollars=2.0, seconds=0.1)
    backends = [dear, Fixed("cheap-slow", seconds=5.0), Fixed("cheap", seconds=1.0)]
    chosen = pick("lowest-cost", backends)
    assert chosen is not None
    assert chosen.id == "cheap"


def test_affinity_returns_to_the_warm_backend_until_it_is_loaded() -> None:
    warm, cold = Fixed("warm", seconds=3.0, cached=80), Fixed("cold", seconds=1.0)
    assert pick("affinity", [cold, warm]) is warm
    warm.load = 0.95
    assert pick("affinity", [cold, warm]) is cold
    cold.load = 0.97
    assert pick("affinity", [cold, warm]) is warm


def test_a_session_keeps_its_backend_when_another_goes() -> None:
    backends = [Fixed(str(i)) for i in range(8)]
    homes = {s: pick("affinity", backends, Work(1, 1, session=s)) for s in map(str, range(100))}
    assert len({home.id for home in homes.values() if home}) == 8
    for session, home in homes.items():
        if home is not backends[3]:
            rest = [b for b in backends if b is not backends[3]]
            assert pick("affinity", rest, Work(1, 1, session=session)) is home


@pytest.mark.parametrize(
    "name", ["least-completion", "least-in-flight", "two-choices", "lowest-cost", "weighted"]
)
def test_a_canary_gets_its_share_and_no_more(name: str) -> None:
    backends = [Fixed("a"), Fixed("b", weight=0.25)]
    chosen = strategy(name, Random(3))
    for _ in range(1000):
        taken = chosen.pick(backends, WORK, 0.0)
        assert taken is not None
        taken.placed += 1
    assert backends[1].placed == pytest.approx(200, abs=40)


def test_equal_weights_leave_everything_to_load() -> None:
    assert pick("least-completion", [Fixed("a", placed=1000, seconds=1), Fixed("b", seconds=2)]).id == "a"  # type: ignore[union-attr]


def test_rotation_gives_each_its_turn() -> None:
    chosen, backends = strategy("rotation", Random(1)), [Fixed("a"), Fixed("b"), Fixed("c")]
    turns = Counter(chosen.pick(backends, WORK, 0.0).id for _ in range(30))  # type: ignore[union-attr]
    assert set(turns.values()) == {10}
