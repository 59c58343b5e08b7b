"""Ejection, half-open trials, pauses: on a clock of the test's own."""

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.health import Health, Prober


def ejected(now: float = 100.0, kind: Any = "refused") -> Health:
    health = Health(failures=3, seconds=10.0)
    for _ in range(3):
        health.failed(kind, now)
    assert health.ejected
    return health


def test_only_failures_in_a_row_eject() -> None:
    health = Health(failures=3)
    for _ in range(10):
        health.failed("broken", 0.0)
        health.failed("timeout", 0.0)
        health.succeeded(0.0)
    assert health.available(0.0)
    for _ in range(3):
        assert health.available(0.0)
        health.failed("refused", 0.0)
    assert not health.available(0.0)
    assert health.ejections == 1


def test_refusals_and_clients_that_leave_are_no_failures() -> None:
    health = Health(failures=1)
    for _ in range(50):
        health.failed("rejected", 0.0)
        health.failed("cancelled", 0.0)
    assert health.available(0.0)


def test_the_last_one_may_be_kept() -> None:
    health = Health(failures=2)
    for _ in range(9):
        health.failed("server_error", 0.0, eject=False)
    assert health.available(0.0)


def test_after_the_time_one_request_tries_it_and_its_answer_readmits() -> None:
    health = ejected()
    assert not health.available(109.9)
    assert health.available(110.0)
    health.placed()
    assert not health.available(110.0), "one at a time"
    health.succeeded(110.5)
    assert health.available(110.5)
    assert not health.ejected


def test_a_trial_that_fails_ejects_for_longer_up_to_tenfold() -> None:
    health, now, waits = ejected(), 100.0, []
    for _ in range(7):
        waits.append(health.wait(now))
        now += health.wait(now)
        health.placed()
        health.failed("server_error", now)
    assert waits == [10, 20, 40, 80, 100, 100, 100]


def test_a_trial_that_is_given_up_leaves_the_place_for_another() -> None:
    health = ejected()
    health.placed()
    health.failed("cancelled", 110.0)
    assert health.available(110.0)


def test_a_probe_that_is_answered_brings_the_trial_forward() -> None:
    health = ejected()
    health.seen("alive", 102.0, 5.0)
    assert health.available(102.0)
    assert health.ejected, "until a request is answered"


def test_nobody_is_sent_where_a_probe_found_nobody() -> None:
    health = ejected()
    now = 100.0
    while now < 200.0:
        now += 5.0
        health.seen("dead", now, 5.0)
        assert not health.available(now + 5.0)
    health.seen("alive", 205.0, 5.0)
    assert health.available(205.0)


def test_a_probe_that_meets_an_error_page_changes_nothing() -> None:
    health = ejected()
    health.seen("ill", 109.0, 5.0)
    assert not health.available(109.9)
    assert health.available(110.0)


def test_a_pause_ends_by_itself_and_never_grows_shorter() -> None:
    health = Health()
    health.throttle(5.0, 0.0)
    health.throttle(1.0, 0.0)
    assert health.throttled_until == 5.0
    assert health.available(1.0), "it is well, and requests may wait for it"
    assert health.state(1.0)["health"] == "throttled"


def test_refusals_that_name_no_time_are_waited_out_longer_and_longer() -> None:
    health, waits = Health(), []
    for at in range(9):
        health.failed("rejected", at * 10.0)
        health.throttle(None, at * 10.0)
        waits.append(round(health.wait(at * 10.0), 3))
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    health.succeeded(99.0)
    health.failed("rejected", 100.0)
    health.throttle(None, 100.0)
    assert round(health.wait(100.0), 3) == 0.05


def test_an_operator_may_lift_it_all() -> None:
    health = ejected()
    health.throttle(100.0, 100.0)
    health.reset()
    assert health.available(100.0)
    assert health.wait(100.0) == 0


EVENTS = st.sampled_from(
    ["refused", "rejected", "timeout", "broken", "server_error", "cancelled", "ok", "alive"]
)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 5)), max_size=60))
def test_whatever_happens_it_may_be_tried_again_in_the_end(events: list[tuple[Any, float]]) -> None:
    health, now = Health(failures=2, seconds=1.0), 0.0
    for what, passed in events:
        now += passed
        if health.available(now):
            health.placed()
        if what == "ok":
            health.succeeded(now)
        elif what == "alive":
            health.seen("alive", now, 1.0)
        else:
            health.failed(what, now)
    health.failed("cancelled", now)  # no request is on its way any more
    assert health.wait(now) <= 10.0
    assert health.available(now + 10.0)


def test_the_prober_looks_at_ejected_backends_only_and_bears_what_hangs() -> None:
    async def story() -> None:
        well, dead, back = (
            SimpleNamespace(id=id, health=health)
            for id, health in (("a", Health()), ("b", ejected(0.0)), ("c", ejected(0.0)))
        )
        asked = []

        async def ask(backend: Any) -> Any:
            asked.append(backend.id)
            if backend is dead:
                await asyncio.Event().wait()
            return "alive"

        prober = Prober(lambda: (well, dead, back), ask, seconds=0.02, clock=lambda: 1.0)
        await prober.round()
        assert asked == ["b", "c"]
        assert back.health.available(1.0)
        assert not dead.health.available(1.0)
        assert prober.probes == 2

    asyncio.run(story())
