from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError, Overloaded
from gateway.exchange import Work
from gateway.routing.admission import Queue
from gateway.routing.fleet import Backend, Fleet, Lease, Model
from gateway.routing.health import Health
from gateway.routing.signals import Report
from gateway.routing.strategies import strategy

KINDS = ["refused", "rejected", "timeout", "broken", "server_error", "cancelled"]


def backend(name: str, **more: Any) -> Backend:
    return Backend(name, f"http://{name}/v1", None, "", more.pop("weight", 1.0), True, **more)


def ejected() -> Health:
    health = Health(failures=1)
    health.failed("refused", 0.0)
    return health


class Pool:
    """A fleet of one model, and what became of those who asked for a place."""

    def __init__(self, *backends: Backend, size: int = 100, name: str = "least-completion") -> None:
        self.model = Model("m", backends, 0.0, 0.0, queue=Queue(size, 30.0))
        self.fleet = Fleet([self.model], strategy(name, Random(1)))
        self.leases: list[Lease] = []
        self.refused: list[GatewayError] = []

    def arrive(self, now: float = 0.0, tried: frozenset[str] = frozenset(), **work: Any) -> Any:
        asked = Work(**{"prompt": 100, "output": 10, "model": "m", **work})
        return self.fleet.arrive(self.model, asked, now, self.leases.append, self.refused.append, tried)

    @property
    def placed(self) -> list[str]:
        return [lease.backend.id for lease in self.leases]


def test_a_place_at_once_where_there_is_room() -> None:
    pool = Pool(backend("a"), backend("b"))
    pool.arrive()
    pool.arrive()
    assert sorted(pool.placed) == ["a", "b"]


def test_who_finds_no_room_waits_until_a_place_is_given_back() -> None:
    pool = Pool(backend("a", max_in_flight=1))
    pool.arrive()
    ticket = pool.arrive()
    assert ticket.waiting
    assert len(pool.leases) == 1
    with pool.leases[0]:
        pass
    assert len(pool.leases) == 2
    assert not ticket.waiting


def test_a_first_token_makes_room_for_the_next_prompt() -> None:
    pool = Pool(backend("a"))
    pool.arrive(prompt=20_000)
    pool.arrive(prompt=20_000)
    assert len(pool.leases) == 1
    pool.leases[0].first(2.0)
    assert len(pool.leases) == 2


def test_a_whole_answer_shows_no_first_token_and_makes_room_in_time() -> None:
    pool = Pool(backend("a"))
    pool.arrive(prompt=20_000, stream=False)
    pool.arrive(prompt=20_000, stream=False)
    pool.fleet.tick(1.0)
    assert len(pool.leases) == 1
    pool.fleet.tick(3.0)
    assert len(pool.leases) == 2


def test_tried_backends_are_left_out_and_nothing_left_is_503() -> None:
    pool = Pool(backend("a"), backend("b"))
    pool.arrive(tried=frozenset({"a"}))
    assert pool.placed == ["b"]
    with pytest.raises(Overloaded) as error:
        pool.arrive(tried=frozenset({"a", "b"}))
    assert (error.value.status, error.value.code) == (503, "no_backend")


def test_drained_and_ejected_backends_get_nothing() -> None:
    pool = Pool(backend("a", draining=True), backend("b", health=ejected()))
    with pytest.raises(Overloaded):
        pool.arrive()


def test_a_throttled_backend_is_waited_for() -> None:
    health = Health()
    health.throttled_until = 5.0
    pool = Pool(backend("a", health=health))
    assert pool.arrive().waiting
    pool.fleet.tick(4.9)
    assert not pool.leases
    pool.fleet.tick(5.0)
    assert pool.placed == ["a"]


def test_one_that_has_tried_what_is_free_does_not_hold_up_others() -> None:
    pool = Pool(backend("a", max_in_flight=1), backend("b", max_in_flight=1))
    pool.arrive()
    pool.arrive()
    first = pool.arrive(tried=frozenset(pool.placed[:1]), prompt=1)
    second = pool.arrive(now=0.1)
    pool.leases[0].done(1.0, 200, None, 5)
    assert first.waiting
    assert not second.waiting


def test_a_waiting_request_whose_last_backend_goes_is_told() -> None:
    pool = Pool(backend("a", max_in_flight=1), backend("b", max_in_flight=1))
    pool.arrive()
    pool.arrive()
    pool.arrive(tried=frozenset({"a"}))
    next(b for b in pool.model.backends if b.id == "b").draining = True
    pool.fleet.tick(1.0)
    assert [error.code for error in pool.refused] == ["no_backend"]


def test_all_that_wait_are_told_when_every_backend_is_out() -> None:
    pool = Pool(*(backend(name, max_in_flight=1, health=Health(failures=1)) for name in "ab"))
    for _ in range(20):
        pool.arrive()
    for each in pool.model.backends:
        each.health.failed("refused", 0.5)
    pool.fleet.tick(0.6)
    assert [(error.status, error.code) for error in pool.refused] == [(503, "no_backend")] * 18
    assert len(pool.model.queue) == 0


def test_one_due_for_its_trial_is_found_in_a_large_pool() -> None:
    pool = Pool(*(backend(str(i), health=Health(failures=1, seconds=1.0)) for i in range(100)))
    sick = pool.model.backends[70]
    sick.signals.sent(5000, 5000)  # no strategy would choose it
    sick.health.failed("refused", 0.0)
    for _ in range(5):
        pool.arrive(2.0)
    assert pool.placed.count("70") >= 1


def test_deadlines_pass_on_the_tick() -> None:
    pool = Pool(backend("a", max_in_flight=1))
    pool.arrive()
    pool.arrive(deadline=2.0)
    pool.fleet.tick(2.1)
    assert [(error.status, error.code) for error in pool.refused] == [(429, "deadline")]


def test_leaving_twice_or_after_being_placed_does_nothing() -> None:
    pool = Pool(backend("a", max_in_flight=1))
    taken = pool.arrive()
    waiting = pool.arrive()
    waiting.leave(1.0)
    waiting.leave(1.0)
    taken.leave(1.0)
    pool.leases[0].done(2.0, 200, 100, 10)
    assert len(pool.leases) == 1
    assert len(pool.model.queue) == 0


def test_the_quicker_engine_is_learned_and_gets_more() -> None:
    slow, quick = backend("slow"), backend("quick")
    pool = Pool(slow, quick)
    seconds = {"slow": 2.0, "quick": 0.5}
    ends: list[tuple[float, int]] = []
    for step in range(400):
        now = step * 0.25
        for at, number in [end for end in ends if end[0] <= now]:
            pool.leases[number].first(at - 0.3)
            pool.leases[number].done(at, 200, 100, 10)
            ends.remove((at, number))
        pool.arrive(now)
        ends.append((now + seconds[pool.leases[-1].backend.id], len(pool.leases) - 1))
    assert quick.requests > 2 * slow.requests


def test_a_backend_that_was_slow_once_is_tried_again() -> None:
    slow, quick = backend("slow"), backend("quick")
    pool = Pool(slow, quick)
    for seconds in (30.0, 0.1):
        pool.arrive()
        pool.leases[-1].first(seconds)
        pool.leases[-1].done(seconds, 200, None, 10)
    for step in range(400):
        pool.arrive(40.0 + step)
        pool.leases[-1].first(40.1 + step)
        pool.leases[-1].done(40.2 + step, 200, None, 10)
    assert slow.requests > 10


def test_an_engine_that_keeps_silent_gets_no_more_than_the_others() -> None:
    silent, slow = backend("silent"), backend("slow")
    pool = Pool(silent, slow)
    now = 0.0
    for _ in range(30):
        now += 1.0
        pool.arrive(now, prompt=100)
        lease = pool.leases[-1]
        if lease.backend is slow:  # slower than any engine is thought to be before it is known
            lease.first(now + 0.5)
            lease.done(now + 0.9, 200, None, 10)
    assert silent.requests < 5


def test_a_crowded_engine_is_taken_only_where_no_place_of_ours_will_free() -> None:
    full, free = backend("full"), backend("free")
    pool = Pool(full, free)
    full.signals.reported(Report(running=4, waiting=0, kv_use=None, at=0.0, places=4))
    free.signals.learn_first(100, 0, 0.0, 0.9)
    pool.arrive(1.0)
    pool.leases[-1].first(1.1)
    pool.arrive(1.2)
    free.signals.reported(Report(running=4, waiting=0, kv_use=None, at=1.3, places=4))
    pool.arrive(1.4)
    assert pool.placed == ["free", "free"]
    pool.leases[-1].done(1.5, 200, 100, 10)
    assert pool.placed == ["free", "free", "free"]
    for lease in list(pool.leases):
        lease.done(1.6, 200, 100, 10)
    free.signals.reported(Report(running=4, waiting=0, kv_use=None, at=1.7, places=4))
    pool.arrive(1.8)
    assert len(pool.placed) == 4, "with none in progress one may wait among strangers"


def test_a_cached_prefix_draws_its_prompt_until_the_wait_is_longer() -> None:
    pool = Pool(*(backend(str(i)) for i in range(40)))
    blocks = tuple(range(10))
    pool.arrive(prompt=5000, prefix=blocks)
    home = pool.leases[0].backend
    pool.leases[0].first(0.6)
    pool.leases[0].done(0.8, 200, None, 10)
    pool.arrive(3.0, prompt=6000, prefix=(*blocks, 10))
    assert pool.leases[1].backend is home
    assert home.warm(Work(6000, 1, prefix=(*blocks, 99)), 3.0) == pytest.approx(5454, abs=2)
    home.signals.sent(100_000, 10)
    pool.arrive(3.0, prompt=6000, prefix=(*blocks, 11))
    assert pool.leases[2].backend is not home


def test_a_large_pool_is_searched_to_its_end() -> None:
    backends = [backend(str(i), max_in_flight=1) for i in range(100)]
    pool = Pool(*backends)
    for _ in range(100):
        pool.arrive()
    assert sorted(pool.placed) == sorted(b.id for b in backends)
    assert pool.arrive().waiting


def test_a_stale_report_stops_counting_on_the_tick() -> None:
    one = backend("a", max_in_flight=4)
    pool = Pool(one)
    one.signals.reported(Report(running=4, waiting=2, kv_use=None, at=0.0))
    assert pool.arrive(1.0).waiting
    pool.fleet.tick(10.0)
    assert pool.placed == ["a"]


def test_pressure_runs_from_idle_to_beyond_capacity() -> None:
    pool = Pool(backend("a", max_in_flight=2), backend("b", max_in_flight=2))
    assert pool.model.pressure(0.0) == 0.0
    for _ in range(4):
        pool.arrive()
    assert pool.model.pressure(0.0) == pytest.approx(1.0)
    pool.arrive()
    assert pool.model.pressure(0.0) > 1.0


def test_a_reload_keeps_counts_queue_and_leases() -> None:
    old = backend("a", max_in_flight=1)
    pool = Pool(old)
    pool.arrive()
    pool.arrive()
    pool.fleet.replace([Model("m", (backend("a", max_in_flight=2), backend("new")), 1.0, 1.0)])
    model = pool.fleet.model("m")
    assert model.backends[0] is old
    assert old.in_flight == 1
    pool.fleet.tick(1.0)
    assert len(pool.leases) == 2


def test_an_unfinished_answer_teaches_no_length() -> None:
    pool = Pool(backend("a"))
    for _ in range(20):
        pool.arrive(category="c")
        pool.leases[-1].first(1.0)
        pool.leases[-1].progress(3, 1.5)
        pool.leases[-1].failed(2.0, "cancelled")
    assert pool.fleet.lengths.output("m", "c") == 256


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["arrive", "first", "progress", "done", "fail", "leave", "tick"]),
                          st.integers(0, 50)), max_size=120), st.booleans())  # fmt: skip
def test_counts_return_to_zero_however_requests_end(steps: list[tuple[str, int]], stream: bool) -> None:
    pool = Pool(backend("a", max_in_flight=3), backend("b"), size=10)
    tickets: list[Any] = []
    now = 0.0
    acts: dict[str, Callable[[Lease, int], None]] = {
        "first": lambda lease, n: lease.first(now),
        "progress": lambda lease, n: lease.progress(n, now),
        "done": lambda lease, n: lease.done(now, 200 if n % 3 else 500, n, n),
        "fail": lambda lease, n: lease.failed(now, KINDS[n % len(KINDS)]),  # type: ignore[arg-type]
    }
    for step, number in steps:
        now += 0.4
        if step == "arrive":
            with suppress(Overloaded):
                tickets.append(pool.arrive(now, prompt=number * 900, stream=stream))
        elif step == "tick":
            pool.fleet.tick(now)
        elif step == "leave" and tickets:
            tickets[number % len(tickets)].leave(now)
        elif step in acts and pool.leases:
            acts[step](pool.leases[number % len(pool.leases)], number)
    for ticket in tickets:
        ticket.leave(now)
    for lease in list(pool.leases):
        with lease:
            pass
    assert len(pool.model.queue) == 0
    for each in pool.model.backends:
        s = each.signals
        assert (s.in_flight, s.backlog, s.resident, s.output_left) == (0, 0, 0, 0)
