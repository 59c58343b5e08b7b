import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.signals import WINDOW_FLOOR, Histogram, Ratio, Report, Signals


@given(st.lists(st.floats(0.002, 900), min_size=1, max_size=300), st.floats(0.01, 1))
def test_a_quantile_is_right_within_a_bucket(values: list[float], q: float) -> None:
    histogram = Histogram(0.001)
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, math.ceil(q * len(values) - 1e-9) - 1)]
    assert histogram.quantile(q) == pytest.approx(exact, rel=0.11)


def test_old_values_fade() -> None:
    histogram = Histogram(0.001)
    for _ in range(2000):
        histogram.add(10.0)
    for _ in range(2000):
        histogram.add(0.1)
    assert histogram.quantile(0.9) == pytest.approx(0.1, rel=0.11)


def test_an_empty_histogram_knows_nothing() -> None:
    assert Histogram(1.0).quantile(0.5) is None
    assert Histogram(1.0).mean() is None


def test_a_bound_cuts_the_mean() -> None:
    histogram = Histogram(1.0)
    histogram.add(100.0)
    histogram.add(900.0)
    assert histogram.mean() == pytest.approx(500, rel=0.1)
    assert histogram.mean(100.0) == pytest.approx(100, rel=0.1)


def test_a_ratio_weighs_samples_by_their_size() -> None:
    ratio = Ratio()
    assert ratio.get(7.0) == 7.0
    ratio.add(1.0, 1000.0)
    ratio.add(1.0, 10.0)
    assert ratio.get(7.0) == pytest.approx(2 / 1010)


def test_what_was_taken_is_given_back() -> None:
    signals = Signals()
    signals.sent(100, 20)
    signals.prefilled(100, 100)
    signals.streamed(5, 5)
    assert (signals.backlog, signals.resident, signals.output_left) == (0, 105, 15)
    signals.ended(0, 105, 15)
    assert (signals.in_flight, signals.backlog, signals.resident, signals.output_left) == (0, 0, 0, 0)


def engine(signals: Signals, requests: int, *, seconds_a_token: float, at_once: int) -> None:
    """Prompts of 2,000 tokens, `at_once` sent together; read in order, or all together where that is 0."""
    now = 0.0
    together = at_once or 16
    for _ in range(requests // together):
        ahead = []
        for _ in range(together):
            ahead.append(signals.backlog)
            signals.sent(2000, 10)
        for place, before in enumerate(ahead):
            end = now + 2000 * seconds_a_token * ((place + 1) if at_once else 1)
            signals.learn_first(2000, before, now, end)
            signals.prefilled(2000, 2000)
        now += 2000 * seconds_a_token * (together + 1)
    signals.ended(0, 0, 0)


def test_the_window_shrinks_where_prompts_queue() -> None:
    signals = Signals()
    engine(signals, 240, seconds_a_token=2e-4, at_once=12)
    assert signals.window < 16384 / 2
    assert signals.window >= WINDOW_FLOOR
    assert signals.per_prompt == pytest.approx(2e-4, rel=0.1)


def test_the_window_grows_where_prompts_do_not_wait_for_each_other() -> None:
    """A hosted API reads them side by side: nothing may throttle it because its first token takes a while."""
    signals = Signals()
    engine(signals, 320, seconds_a_token=2e-4, at_once=0)
    assert signals.window > 3 * 16384


def test_a_stale_report_is_unknown_not_zero() -> None:
    signals = Signals(stale=6.0)
    signals.reported(Report(running=10, waiting=4, kv_use=0.9, at=100.0))
    assert signals.others == 14
    assert signals.load(101.0) == pytest.approx(0.9)
    assert signals.load(107.0) == 0.0
    assert signals.report is None
    assert signals.state(107.0)["running"] is None


def test_others_are_what_the_engine_has_beyond_ours() -> None:
    signals = Signals()
    for _ in range(5):
        signals.sent(10, 10)
    signals.reported(Report(running=3, waiting=0, kv_use=None, at=0.0))
    assert signals.others == 0  # never below our own count
    signals.reported(Report(running=7, waiting=1, kv_use=None, at=1.0))
    assert signals.others == 3


def test_requests_kept_waiting_at_a_steady_number_show_the_limit() -> None:
    signals = Signals()
    for _ in range(9):
        signals.sent(10, 10)
    for at in range(3):
        signals.reported(Report(running=4, waiting=5, kv_use=None, at=float(at)))
    assert signals.limit == 4.0
    assert signals.room == -1


def test_an_engine_that_tells_its_places_is_not_given_more() -> None:
    signals = Signals()
    signals.reported(Report(running=3, waiting=0, kv_use=None, at=0.0, places=4))
    assert signals.room > 0
    signals.sent(10, 10)
    assert signals.room == -1
    assert signals.crowded
    assert signals.load(1.0) == 1.0


def test_prompts_waiting_their_turn_show_no_limit() -> None:
    signals = Signals()
    for at, running in enumerate((10, 12, 15, 11)):
        signals.reported(Report(running=running, waiting=3, kv_use=0.4, at=float(at)))
    assert signals.limit is None


def test_a_rejection_shows_a_limit_which_success_lifts_again() -> None:
    signals = Signals()
    for _ in range(20):
        signals.sent(1, 1)
    signals.rejected()
    assert signals.limit == 18.0
    for _ in range(40):
        signals.learn_end(failed=False)
    assert signals.limit > 19.5


def test_the_kv_capacity_is_learned_and_kept() -> None:
    signals = Signals()
    signals.sent(1000, 0)
    signals.prefilled(1000, 1000)
    signals.reported(Report(running=1, waiting=0, kv_use=0.5, at=0.0))
    assert signals.kv_tokens == pytest.approx(2000)
    assert signals.room == pytest.approx(900)


def test_a_quota_counts_down_and_is_renewed() -> None:
    signals = Signals()
    signals.granted("requests", 2, 0.0, 0.0, 60.0)
    assert signals.granted_at(100, 1.0) == 0.0
    signals.charged(100)
    signals.charged(100)
    assert signals.granted_at(100, 1.0) == 60.0
    assert signals.granted_at(100, 60.0) == 0.0


def test_a_quota_that_fills_like_a_bucket_is_waited_for_no_longer_than_need_be() -> None:
    signals = Signals()
    signals.granted("tokens", 500, 100.0, 10.0, 300.0)
    assert signals.granted_at(500, 10.0) == 0.0
    signals.charged(400)
    assert signals.granted_at(500, 10.0) == 14.0
    assert signals.granted_at(500, 14.0) == 0.0
    assert signals.granted_at(10**9, 14.0) == 300.0


def test_a_larger_batch_is_expected_to_be_slower_at_once() -> None:
    signals = Signals()
    signals.learn_decode(100, 2.4, batch=0.0, now=3.0)
    assert signals.pace.at(0) == pytest.approx(0.024)
    assert signals.pace.at(24) == pytest.approx(0.048)
    assert signals.tpot.quantile(0.5) == pytest.approx(0.024, rel=0.1)


@pytest.mark.parametrize(("alone", "each"), [(0.024, 0.001), (0.01, 0.02)])
def test_how_much_a_batch_slows_an_engine_is_learned(alone: float, each: float) -> None:
    signals = Signals()
    for step in range(200):
        batch = 1 + step % 24
        signals.learn_decode(100, 100 * (alone + each * batch), batch=batch, now=step)
    for batch in (4, 12, 24):
        assert signals.pace.at(batch) == pytest.approx(alone + each * batch, rel=0.25)


def test_errors_fade_in_and_out() -> None:
    signals = Signals()
    for _ in range(100):
        signals.learn_end(failed=True)
    assert signals.error_rate > 0.9
    for _ in range(100):
        signals.learn_end(failed=False)
    assert signals.error_rate < 0.1


def test_what_was_never_measured_is_not_hoped_for_before_its_time() -> None:
    signals = Signals()
    before = signals.per_prompt
    signals.relax(1000.0)
    signals.relax(1030.0)
    assert signals.per_prompt == before
    signals.relax(1031.0)
    assert signals.per_prompt < before
    signals.learn_decode(100, 2.4, batch=0.0, now=1031.0)
    before = signals.pace.at(1)
    signals.relax(1032.0)
    assert signals.pace.at(1) == before
