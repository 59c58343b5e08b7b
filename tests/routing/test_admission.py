from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError, Overloaded
from gateway.exchange import Priority, Work
from gateway.routing.admission import BEHIND, Queue, Ticket

PRIORITIES: list[Priority] = ["interactive", "standard", "batch"]


class Waiting:
    """A queue and what it told those in it."""

    def __init__(self, size: int = 100, seconds: float = 30.0) -> None:
        self.queue = Queue(size, seconds)
        self.refused: list[tuple[str, GatewayError]] = []

    def add(self, tenant: str = "t", now: float = 0.0, cost: int = 100, **more: Any) -> Ticket:
        work = Work(cost, 0, tenant=tenant, **more)
        ticket = self.queue.ticket(
            work, now, lambda lease: None, lambda error: self.refused.append((tenant, error))
        )
        self.queue.add(ticket, now)
        return ticket

    def take(self, now: float = 0.0) -> Ticket:
        ticket = self.queue.next(now)
        assert ticket is not None
        self.queue.take(ticket, now)
        return ticket

    def drain(self, now: float = 0.0) -> list[Ticket]:
        return [self.take(now) for _ in range(len(self.queue))]


def test_the_shortest_goes_first() -> None:
    waiting = Waiting()
    long, short = waiting.add(cost=8000), waiting.add(cost=100)
    assert waiting.drain() == [short, long]


def test_but_a_long_one_is_not_passed_for_ever() -> None:
    waiting = Waiting()
    long = waiting.add(cost=8000)
    for second in range(1, 20):
        waiting.add(cost=100, now=float(second))
    order = waiting.drain(20.0)
    assert order.index(long) < 6


def test_classes_go_before_each_other() -> None:
    waiting = Waiting()
    batch = waiting.add(priority="batch")
    standard = waiting.add(now=1.0)
    interactive = waiting.add(now=2.0, priority="interactive", cost=9000)
    assert waiting.drain(2.0) == [interactive, standard, batch]


def test_a_low_class_is_not_starved() -> None:
    waiting = Waiting(seconds=100.0)
    batch = waiting.add(priority="batch")
    late = waiting.add(now=BEHIND["batch"] + 1, priority="interactive")
    assert waiting.drain(22.0) == [batch, late]


def test_a_flood_does_not_drown_a_neighbour() -> None:
    waiting = Waiting(size=1000)
    for _ in range(400):
        waiting.add("flood", cost=1000)
    now = 0.0
    for _ in range(100):  # ten placed a second
        now += 0.1
        waiting.take(now)
    neighbour = waiting.add("neighbour", now=now, cost=1000)
    passed = 0
    while waiting.take(now) is not neighbour:
        now += 0.1
        passed += 1
    assert passed < 40


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    waiting = Waiting(size=2)
    waiting.add()
    waiting.add()
    with pytest.raises(Overloaded) as refused:
        waiting.add()
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert int(refused.value.headers["Retry-After"]) >= 1


def test_a_full_queue_gives_up_its_lowest_class() -> None:
    waiting = Waiting(size=2)
    waiting.add("kept", priority="batch")
    waiting.add("given-up", priority="batch")
    waiting.add("new", priority="interactive")
    assert [tenant for tenant, _ in waiting.refused] == ["given-up"]
    assert len(waiting.queue) == 2


def test_who_cannot_meet_its_deadline_is_refused_at_once() -> None:
    waiting = Waiting(size=1000)
    for _ in range(200):
        waiting.add(cost=100)
    for tenth in range(1, 21):  # one a tenth of a second: 180 left take 18 s
        waiting.take(tenth / 10)
    with pytest.raises(Overloaded) as refused:
        waiting.add(now=2.0, cost=100, deadline=5.0)
    assert refused.value.code == "deadline"
    assert int(refused.value.headers["Retry-After"]) == pytest.approx(15, abs=3)
    waiting.add(now=2.0, cost=100, deadline=25.0)


def test_waiting_ends_at_the_deadline_or_with_patience() -> None:
    waiting = Waiting(seconds=10.0)
    waiting.add("deadline", deadline=3.0)
    waiting.add("patience")
    waiting.queue.expire(2.9)
    assert waiting.refused == []
    waiting.queue.expire(3.0)
    assert [tenant for tenant, _ in waiting.refused] == ["deadline"]
    waiting.queue.expire(10.0)
    assert [tenant for tenant, _ in waiting.refused] == ["deadline", "patience"]
    assert len(waiting.queue) == 0


def test_a_client_that_leaves_gives_its_place_back() -> None:
    waiting = Waiting(size=1)
    ticket = waiting.add()
    ticket.leave(0.0)
    ticket.leave(0.0)
    assert len(waiting.queue) == 0
    assert waiting.queue.next(0.0) is None
    waiting.add()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["add", "take", "leave", "expire"]), st.integers(0, 2),
                          st.integers(0, 3), st.integers(1, 9000)), max_size=80))  # fmt: skip
def test_nobody_is_lost_and_nobody_counted_twice(steps: list[tuple[str, int, int, int]]) -> None:
    waiting, now = Waiting(size=20, seconds=5.0), 0.0
    inside: list[Ticket] = []
    for step, priority, tenant, cost in steps:
        now += 0.3
        try:
            if step == "add":
                inside.append(waiting.add(str(tenant), now, cost, priority=PRIORITIES[priority]))
            elif step == "take" and len(waiting.queue):
                assert waiting.take(now) in inside
            elif step == "leave" and inside:
                inside[cost % len(inside)].leave(now)
            else:
                waiting.queue.expire(now)
        except Overloaded:
            pass
        inside = [ticket for ticket in inside if ticket.waiting]
        assert len(waiting.queue) == len(inside) <= 20
        assert waiting.queue.cost == sum(ticket.cost for ticket in inside)
        assert (waiting.queue.next(now) is None) == (not inside)
