"""Lifetimes against a plain list: every expired entry comes up once, soon, and none before its time."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.lifetimes import Lifetimes
from gateway.exchange import Entry
from tests.cache.entries import entry


@given(
    st.lists(st.floats(-100.0, 1000.0), max_size=60),
    st.lists(st.floats(0.0, 90.0), min_size=1, max_size=20),
    st.integers(1, 10),
    st.data(),
)
def test_what_is_due_is_exactly_what_has_expired(
    times: list[float], steps: list[float], limit: int, data: st.DataObject
) -> None:
    entries = {e.id: e for e in (entry(expires=time) for time in times)}
    lifetimes, now = Lifetimes(entries.values()), -100.0
    for step in steps:
        now += step
        if entries and data.draw(st.booleans()):
            del entries[data.draw(st.sampled_from(sorted(entries)))]
        for _ in range(len(times)):
            due = lifetimes.due(now, entries, limit)
            assert len(due) <= limit
            for e in due:
                assert entries.pop(e.id).expires <= now
        assert all(e.expires > now for e in entries.values())
        assert len(lifetimes) >= len(entries)


def test_a_sweep_looks_at_no_more_than_its_limit_and_at_the_others_next_time() -> None:
    entries: dict[int, Entry] = {e.id: e for e in (entry(expires=50.0 + i) for i in range(6))}
    lifetimes = Lifetimes(entries.values())
    assert [e.expires for _ in range(3) for e in lifetimes.due(52.0, entries, 2)] == [52.0, 50.0, 51.0]
    assert len(lifetimes) == 3


def test_ids_that_are_gone_are_forgotten_when_their_minute_comes() -> None:
    lifetimes = Lifetimes(entry(expires=float(i)) for i in range(100))
    assert lifetimes.due(1000.0, {}, 1000) == []
    assert len(lifetimes) == 0
