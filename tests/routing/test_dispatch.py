"""Who is asked, and who next, with scripted backends and a clock that stands still."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.errors import BackendTimeout, BackendUnreachable, GatewayError, Overloaded, RequestTimeout
from gateway.exchange import Controls, Exchange, Request
from gateway.routing.health import Health
from gateway.routing.trip import Latencies, Terms
from gateway.routing.upstream import Sent
from tests.routing.engines import Pool, backend, breaking, failing, ok, raising, refusing

HOLD = 1 << 20


def asking(size: int, **fields: Any) -> Exchange:
    request = Request("chat", b"x" * size, fields, "m", False, False, "", None, None, Controls())
    return Exchange(request_id="r", headers=CIMultiDict(), request=request)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


# ── refusals are no errors yet ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("refusal", [refusing(429), refusing(503), raising("refused")])
def test_a_refusal_goes_to_every_other_backend_free_of_the_budget(refusal: Any) -> None:
    async def story() -> None:
        pool = Pool(Terms(retry_share=0.0), m=30)
        pool.dispatch.account("m").retries.left = 0.0
        for number in range(29):
            pool.engines.script[f"m/{number}"] = refusal
        into = await pool.send(hold=HOLD)
        assert (into.status, into.backend, into.attempts) == (200, "m/29", 30)
        assert len(set(pool.engines.asked)) == 30, "each once"
        assert pool.dispatch.account("m").retries.spent == 0
        assert sum(pool.dispatch.retries.values()) == 29
        assert sum(pool.in_flight) == 0

    run(story())


def test_when_all_refuse_the_last_answer_comes_through_unchanged() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.engines.script = {"m/0": refusing(429, Retry_After="3"), "m/1": refusing(503, Retry_After="9")}
        into = await pool.send()
        assert (into.status, into.body) == (503, b"no: 503")
        assert into.headers["retry-after"] == "9"
        assert into.headers["x-should-retry"] == "false"
        assert into.backend == "m/1"

    run(story())


def test_a_lone_refusal_leaves_the_retry_to_the_client() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        pool.engines.script = {"m/0": refusing(429, Retry_After="3")}
        into = await pool.send()
        assert into.status == 429
        assert "x-should-retry" not in into.headers

    run(story())


def test_retry_after_is_respected() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.engines.script = {"m/0": refusing(429, Retry_After="3")}
        await pool.send()
        pool.engines.script = {}
        for _ in range(5):
            assert (await pool.send()).backend == "m/1"
        pool.now += 3.1
        assert (await pool.send()).backend == "m/0"

    run(story())


def test_a_limit_used_up_is_respected_before_it_is_refused() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        used_up = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
        pool.engines.script = {"m/0": lambda: (200, used_up, [b"{}"])}
        assert (await pool.send()).backend == "m/0"
        assert (await pool.send()).backend == "m/1"
        pool.now += 2.1
        assert (await pool.send()).backend == "m/0"

    run(story())


def test_a_backend_whose_quota_does_not_suffice_is_passed_over_before_it_refuses() -> None:
    left = {"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "100",
            "x-ratelimit-reset-tokens": "90s"}  # fmt: skip

    async def story(own: bool) -> list[str]:
        pool = Pool(Terms(own_credentials=lambda: own), m=2)
        pool.engines.script = {"m/0": lambda: (200, left, [b"{}"])}
        asked = []
        for passed in (0.0, 0.0, 0.0, 60.0):  # a request of 25 tokens, 40 expected in answer
            pool.now += passed
            asked.append((await pool.send(x=asking(100, max_tokens=40))).backend)
            pool.engines.script = {}
        return asked

    assert asyncio.run(story(False)) == ["m/0", "m/0", "m/1", "m/0"]
    assert asyncio.run(story(True)) == ["m/0"] * 4, "each client's own key has its own quota"


def test_a_refusal_of_a_clients_own_key_says_nothing_of_other_clients() -> None:
    async def story() -> None:
        pool = Pool(Terms(own_credentials=lambda: True), m=2)
        pool.engines.script = {"m/0": refusing(429, Retry_After="30")}
        await pool.send(tenant="poor")
        pool.engines.script = {}
        assert (await pool.send(tenant="poor")).backend == "m/1"
        assert (await pool.send(tenant="rich")).backend == "m/0"

    run(story())


def test_a_client_refused_everywhere_is_asked_for_again_and_not_kept_out() -> None:
    async def story() -> None:
        pool = Pool(Terms(own_credentials=lambda: True), m=2)
        pool.engines.script = {"m/0": refusing(429, Retry_After="30"), "m/1": refusing(429, Retry_After="30")}
        assert (await pool.send()).status == 429
        pool.engines.script = {}
        assert (await pool.send()).status == 200

    run(story())


# ── other failures: within the budget ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trouble", [refusing(500), refusing(502), refusing(504), raising("timeout"),
                                     raising("broken"), breaking(b"{"), breaking()])  # fmt: skip
def test_no_whole_answer_fails_while_one_healthy_backend_remains(trouble: Any) -> None:
    async def story() -> None:
        pool = Pool(m=3)
        pool.engines.script = {"m/0": trouble, "m/1": trouble}
        into = await pool.send(hold=HOLD)
        assert (into.status, into.backend, into.attempts) == (200, "m/2", 3)
        assert into.body == b"".join(ok()[2])
        assert pool.dispatch.account("m").retries.spent == 2
        assert pool.in_flight == [0, 0, 0]

    run(story())


@given(st.floats(0, 1), st.lists(st.sampled_from(["ok", "500", "broken", "429", "refused"]), max_size=80))
@settings(max_examples=30, deadline=None)
def test_retries_never_exceed_the_budget(share: float, troubles: list[str]) -> None:
    scripts = {"ok": ok, "500": refusing(500), "broken": raising("broken"), "429": refusing(429)}

    async def story() -> None:
        pool = Pool(Terms(retry_share=share), m=4)
        for sent, trouble in enumerate(troubles, 1):
            for number in range(3):
                pool.engines.script[f"m/{number}"] = scripts.get(trouble, raising("refused"))
            await asyncio.gather(pool.send(hold=HOLD), return_exceptions=True)
            counted = pool.dispatch.retries
            paid = counted["server_error"] + counted["broken"]
            assert paid == pool.dispatch.account("m").retries.spent <= 20 + share * sent
            pool.now += 5.0
        assert pool.in_flight == [0] * 4

    run(story())


def test_without_budget_the_caller_gets_the_error_itself() -> None:
    async def story() -> None:
        pool = Pool(Terms(retry_share=0.0), m=2)
        pool.dispatch.account("m").retries.left = 0.5
        pool.engines.script = {"m/0": refusing(500)}
        into = await pool.send()
        assert (into.status, into.body) == (500, b"no: 500")
        assert pool.engines.asked == ["m/0"]

    run(story())


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 501])
def test_a_clients_own_fault_is_passed_on_and_held_against_nobody(status: int) -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.engines.script = {"m/0": refusing(status)}
        for _ in range(10):
            assert (await pool.send()).status == status
        assert set(pool.engines.asked) == {"m/0"}
        assert pool.backend("m/0").health.failures == 0

    run(story())


def test_nothing_is_asked_twice_once_a_byte_is_out() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.engines.script = {"m/0": breaking(b"data: 1\n\n", kind="text/event-stream")}
        for hold in (0, HOLD):  # an event stream is passed on as it comes, whoever asked for it
            with pytest.raises(BackendUnreachable):
                await pool.send(hold=hold)
            pool.now += 1.0
        assert pool.engines.asked == ["m/0", "m/0"]
        assert pool.in_flight == [0, 0]

    run(story())


def test_an_answer_too_long_to_hold_begins_before_its_end() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.engines.script = {"m/0": breaking(b"x" * 100, b"y" * 100)}
        with pytest.raises(BackendUnreachable):
            await pool.send(hold=50)
        assert pool.engines.asked == ["m/0"]

    run(story())


def test_a_body_that_can_be_read_once_is_sent_once() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        for trouble in (refusing(429), refusing(503), refusing(500)):
            pool.engines.script = {"m/0": trouble, "m/1": trouble}
            pool.engines.asked.clear()
            into = await pool.send(once=True)
            assert into.status >= 429
            assert len(pool.engines.asked) == 1
            pool.now += 5.0

    run(story())


def test_a_client_that_stops_sending_is_not_held_against_the_backend() -> None:
    async def story() -> None:
        pool = Pool(m=1)

        def script() -> Any:
            raise RequestTimeout("The request body did not arrive.")

        pool.engines.script = {"m/0": script}
        with pytest.raises(RequestTimeout):
            await pool.send(once=True)
        assert pool.backend("m/0").health.failures == 0
        assert pool.backend("m/0").failures == 0
        assert pool.in_flight == [0]

    run(story())


def test_no_first_byte_in_time_is_a_reason_to_ask_another() -> None:
    async def story() -> None:
        pool = Pool(Terms(first_byte=0.02), m=2)
        pool.engines.delays = {"m/0": 5.0}
        into = await pool.send()
        assert into.backend == "m/1"
        assert pool.engines.cancelled == ["m/0"]
        pool.engines.delays = {"m/0": 5.0, "m/1": 5.0}
        with pytest.raises(BackendTimeout) as told:
            await pool.send()
        assert told.value.headers["x-should-retry"] == "false"
        assert pool.in_flight == [0, 0]

    run(story())


def test_a_kept_connection_that_was_just_closed_is_forgiven_once() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        failures = iter([failing("broken", stale=True)])

        def script() -> Any:
            for failed in failures:
                raise failed
            return ok()

        pool.engines.script = {"m/0": script}
        assert (await pool.send()).status == 200
        assert pool.backend("m/0").failures == 0
        pool.engines.script = {"m/0": raising("broken", stale=True)}
        with pytest.raises(BackendUnreachable):
            await pool.send()
        assert pool.engines.asked == ["m/0"] * 4
        assert pool.backend("m/0").failures == 1

    run(story())


def test_requests_that_wait_for_their_retry_do_not_spend_one_budget_twice() -> None:
    async def story() -> None:
        pool = Pool(Terms(retry_share=0.0), m=2)
        account = pool.dispatch.account("m")
        account.retries.left = 2.0
        pool.backend("m/1").signals.ceiling = 1
        pool.engines.script = {"m/0": refusing(500)}
        pool.engines.delays = {"m/1": 0.02}
        pool.backend("m/0").weight = 100.0  # all go there first
        answers = await asyncio.gather(*(pool.send(hold=HOLD) for _ in range(5)))
        assert account.retries.spent <= 2
        assert account.retries.left >= 0
        assert sum(into.attempts == 2 for into in answers) <= 2
        assert pool.in_flight == [0, 0]

    run(story())


# ── ejection, fallback models, the model's own breaker ──────────────────────────────────────────────────────


def test_a_backend_that_keeps_failing_gets_no_requests() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.engines.script = {"m/0": raising("refused")}
        for _ in range(20):
            assert (await pool.send()).backend == "m/1"
        assert pool.engines.asked.count("m/0") == 5
        pool.now += 10.0
        pool.engines.script = {}
        pool.backend("m/0").signals.in_flight = 5  # no strategy would choose it
        assert (await pool.send()).backend == "m/0", "the trial"
        assert not pool.backend("m/0").health.ejected

    run(story())


def test_the_last_backend_stays_for_errors_that_it_answers_with() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        pool.engines.script = {"m/0": refusing(500)}
        for _ in range(12):
            assert (await pool.send()).body == b"no: 500"

    run(story())


def test_with_all_backends_out_the_model_says_so_at_once() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        pool.engines.script = {"m/0": raising("refused")}
        for _ in range(5):
            with pytest.raises(BackendUnreachable):
                await pool.send()
        with pytest.raises(Overloaded) as told:
            await pool.send()
        assert told.value.status == 503
        assert told.value.headers["Retry-After"] == "10"
        assert len(pool.engines.asked) == 5
        assert pool.dispatch.refusals == {"no_backend": 1}

    run(story())


def test_fallback_models_answer_in_their_order_under_their_own_name() -> None:
    async def story() -> None:
        pool = Pool(fallback={"m": ("n", "o")}, m=2, n=1, o=1)
        pool.engines.script = {id: raising("refused") for id in ("m/0", "m/1", "n/0")}
        into = await pool.send()
        assert (into.fallback, into.backend, into.attempts) == ("o", "o/0", 4)
        assert pool.engines.sent[-1].body == b"o"
        for _ in range(10):
            assert (await pool.send()).fallback == "o"
        assert pool.engines.asked.count("m/0") == 5, "then straight to the fallback"
        assert pool.dispatch.fallbacks == {"o": 11}

    run(story())


def test_a_model_with_a_fallback_gives_up_even_its_last_backend() -> None:
    async def story() -> None:
        pool = Pool(fallback={"m": ("n",)}, m=1, n=1)
        pool.engines.script = {"m/0": refusing(500)}
        for _ in range(10):
            assert (await pool.send()).fallback == "n"
        assert pool.engines.asked.count("m/0") == 5

    run(story())


def test_draining_is_respected() -> None:
    async def story() -> None:
        pool = Pool(m=2)
        pool.backend("m/0").draining = True
        assert (await pool.send()).backend == "m/1"
        pool.backend("m/1").draining = True
        with pytest.raises(Overloaded):
            await pool.send()

    run(story())


def test_an_engine_that_does_not_know_the_usage_option_is_asked_without_it() -> None:
    async def story() -> None:
        pool = Pool(m=1)

        def prepare(model: Any, backend: Any) -> Sent:
            return Sent(CIMultiDict(), b"asks" if backend.stream_usage else b"plain", backend.stream_usage)

        def script() -> Any:
            asks = pool.engines.sent[-1].body == b"asks"
            return (400, {}, [b"unknown field stream_options"]) if asks else ok()

        pool.engines.script = {"m/0": script}
        into = await pool.send(prepare=prepare)
        assert (into.status, into.usage_added) == (200, False)
        await pool.send(prepare=prepare)
        assert [s.body for s in pool.engines.sent] == [b"asks", b"plain", b"plain"]

    run(story())


# ── hedging ─────────────────────────────────────────────────────────────────────────────────────────────────

HEDGE = Terms(hedge_share=0.2, hedge_quantile=0.9)


def usual(pool: Pool, seconds: float, requests: int = 100) -> None:
    """As if so many answers had come after so many seconds."""
    account = pool.dispatch.account("m")
    for _ in range(20):
        account.wholes.add(seconds)
    for _ in range(requests):
        account.hedges.earn()
        account.retries.earn()


def test_a_slow_first_is_overtaken_and_cancelled() -> None:
    async def story() -> None:
        pool = Pool(HEDGE, m=2)
        usual(pool, 0.01)
        pool.engines.delays = {"m/0": 30.0}
        into = await pool.send(hold=HOLD)
        assert (into.backend, into.attempts) == ("m/1", 2)
        assert pool.engines.cancelled == ["m/0"]
        assert (pool.dispatch.hedging.sent, pool.dispatch.hedging.won) == (1, 1)
        assert pool.in_flight == [0, 0]
        assert pool.backend("m/0").health.failures == 1

    run(story())


def test_an_engine_that_hangs_is_ejected_though_hedges_hide_it() -> None:
    async def story() -> None:
        pool = Pool(HEDGE, m=3)
        usual(pool, 0.01)
        pool.engines.delays = {"m/0": 30.0}
        for _ in range(6):
            assert (await pool.send(hold=HOLD)).status == 200
        assert pool.engines.cancelled == ["m/0"] * 5
        assert pool.backend("m/0").health.ejected
        assert pool.in_flight == [0, 0, 0]
        pool.now += 10.0
        assert (await pool.send(hold=HOLD)).status == 200, "the trial is overtaken as well"
        assert pool.backend("m/0").health.wait(pool.now) == 20.0
        pool.now += 20.0
        pool.engines.delays = {}
        assert (await pool.send(hold=HOLD)).backend == "m/0"
        assert not pool.backend("m/0").health.ejected

    run(story())


def test_a_slow_engine_that_still_answers_and_the_last_one_are_kept() -> None:
    async def story() -> None:
        pool = Pool(HEDGE, m=2)
        usual(pool, 0.01)
        for number in range(10):
            pool.engines.delays = {"m/0": 30.0 if number % 3 else 0.0}
            await pool.send(hold=HOLD)
        assert not pool.backend("m/0").health.ejected
        pool.backend("m/1").draining = True
        pool.engines.delays = {"m/0": 0.03}
        for _ in range(10):
            assert (await pool.send(hold=HOLD)).backend == "m/0"

    run(story())


def test_a_first_that_comes_in_time_or_first_is_kept() -> None:
    async def story() -> None:
        pool = Pool(HEDGE, m=2)
        usual(pool, 0.05)
        assert (await pool.send(hold=HOLD)).attempts == 1
        pool.engines.delays = {"m/0": 0.1, "m/1": 30.0}
        assert (await pool.send(hold=HOLD)).backend == "m/0"
        assert (pool.dispatch.hedging.sent, pool.dispatch.hedging.won) == (1, 0)
        assert pool.engines.cancelled == ["m/1"]
        assert pool.in_flight == [0, 0]

    run(story())


def test_a_hedge_that_fails_leaves_the_first_to_answer() -> None:
    async def story() -> None:
        pool = Pool(HEDGE, m=2)
        usual(pool, 0.01)
        pool.engines.delays = {"m/0": 0.1}
        pool.engines.script = {"m/1": refusing(500)}
        assert (await pool.send(hold=HOLD)).backend == "m/0"

    run(story())


def test_hedges_stay_under_their_share() -> None:
    async def story() -> None:
        pool = Pool(Terms(hedge_share=0.1, hedge_quantile=0.9), m=2)
        usual(pool, 0.001, requests=0)
        pool.dispatch.account("m").retries.left = 500.0
        pool.engines.delays = {"m/0": 0.01, "m/1": 0.01}
        await asyncio.gather(*(pool.send(hold=HOLD) for _ in range(100)))
        assert 0 < pool.dispatch.hedging.sent <= 10

    run(story())


def test_a_client_that_leaves_cancels_both() -> None:
    async def story() -> None:
        pool = Pool(HEDGE, m=2)
        usual(pool, 0.01)
        pool.engines.delays = {"m/0": 30.0, "m/1": 30.0}
        task = asyncio.create_task(pool.send(hold=HOLD))
        await asyncio.sleep(0.05)
        assert pool.in_flight == [1, 1]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert sorted(pool.engines.cancelled) == ["m/0", "m/1"]
        assert pool.in_flight == [0, 0]

    run(story())


def test_the_quantile_is_unknown_until_enough_is_known() -> None:
    latencies = Latencies(0.9)
    for number in range(19):
        latencies.add(number)
    assert latencies.value is None
    latencies.add(19)
    assert latencies.value == 18


# ── mirrors ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_mirror_gets_a_copy_without_the_clients_key_and_hinders_nobody() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        model = pool.models[0]
        mirrored = type(model)(model.name, model.backends, 0, 0, mirror=backend("mirror"), mirror_share=1.0)
        pool.fleet.replace([mirrored])
        pool.engines.script = {"mirror": raising("refused")}

        def prepare(model: Any, backend: Any) -> Sent:
            return Sent(CIMultiDict({"Authorization": "Bearer secret", "X-Other": "1"}), b"x")

        assert (await pool.send(prepare=prepare)).backend == "m/0"
        for _ in range(5):
            await asyncio.sleep(0)
        assert pool.engines.asked == ["m/0", "mirror"]
        assert pool.engines.sent[1].headers == CIMultiDict({"X-Other": "1"})
        assert pool.dispatch.mirror.counts() == {"sent": 1, "failed": 1, "dropped": 0}

    run(story())


def test_errors_that_are_no_attempts_fault_give_the_place_back() -> None:
    async def story() -> None:
        pool = Pool(m=1)

        def prepare(model: Any, backend: Any) -> Sent:
            raise GatewayError("cannot be written")

        with pytest.raises(GatewayError):
            await pool.send(prepare=prepare)
        assert pool.in_flight == [0]

    run(story())


# ── waiting ─────────────────────────────────────────────────────────────────────────────────────────────────


def full(pool: Pool) -> Pool:
    for one in pool.fleet.backends:
        one.signals.ceiling = 1
    return pool


def test_a_request_waits_for_a_place_and_gets_it() -> None:
    async def story() -> None:
        pool = full(Pool(m=1))
        pool.engines.delays = {"m/0": 0.05}
        answers = await asyncio.gather(*(pool.send() for _ in range(4)))
        assert [into.status for into in answers] == [200] * 4
        assert pool.in_flight == [0]
        assert len(pool.models[0].queue) == 0

    run(story())


def test_a_client_that_leaves_gives_its_place_in_the_queue_back() -> None:
    async def story() -> None:
        pool = full(Pool(m=1))
        pool.engines.delays = {"m/0": 0.05}
        first, second, third = (asyncio.create_task(pool.send()) for _ in range(3))
        await asyncio.sleep(0.02)
        assert len(pool.models[0].queue) == 2
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert len(pool.models[0].queue) == 1
        assert [(await task).status for task in (first, third)] == [200, 200]
        assert len(pool.engines.asked) == 2
        assert pool.in_flight == [0]

    run(story())


def test_a_client_that_leaves_as_it_is_placed_gives_the_lease_back() -> None:
    async def story() -> None:
        pool = full(Pool(m=1))
        pool.engines.delays = {"m/0": 0.02}
        first = asyncio.create_task(pool.send())
        await asyncio.sleep(0.01)
        second = asyncio.create_task(pool.send())
        await first  # the place has been handed over, and the second has not run yet
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert pool.in_flight == [0]
        assert (await pool.send()).status == 200

    run(story())


def test_who_waits_too_long_is_refused_and_told_when_to_come_back() -> None:
    async def story() -> None:
        pool = full(Pool(m=1))
        pool.engines.delays = {"m/0": 0.5}
        first = asyncio.create_task(pool.send())
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(pool.send())
        await asyncio.sleep(0.01)
        pool.now += 31.0
        with pytest.raises(Overloaded) as told:
            await waiting
        assert (told.value.status, told.value.code) == (429, "deadline")
        assert int(told.value.headers["Retry-After"]) >= 1
        assert (await first).status == 200
        assert pool.dispatch.refusals == {"deadline": 1}

    run(story())


def test_who_waits_is_given_to_the_fallback_when_the_last_backend_goes() -> None:
    async def story() -> None:
        pool = full(Pool(fallback={"m": ("n",)}, m=1, n=1))
        pool.engines.delays = {"m/0": 0.05}
        pool.backend("m/0").health.configure(Health(failures=1))
        pool.engines.script = {"m/0": raising("refused")}
        answers = await asyncio.gather(*(pool.send() for _ in range(3)))
        assert [into.fallback for into in answers] == ["n"] * 3
        assert pool.engines.asked.count("m/0") == 1
        assert len(pool.models[0].queue) == 0

    run(story())


def test_a_short_pause_is_waited_out_and_a_long_one_told_at_once() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        pool.engines.script = {"m/0": refusing(429)}
        assert (await pool.send()).status == 429
        pool.engines.script = {}
        waiting = asyncio.create_task(pool.send())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        pool.now += 0.1
        assert (await waiting).status == 200
        pool.engines.script = {"m/0": refusing(429, Retry_After="40")}
        await pool.send()
        with pytest.raises(Overloaded) as told:
            await pool.send()
        assert (told.value.status, told.value.code) == (429, "throttled")
        assert told.value.headers["Retry-After"] == "40"

    run(story())


def test_what_a_request_will_cost_is_estimated_before_it_is_sent() -> None:
    async def story() -> None:
        pool = Pool(m=1)
        for _ in range(10):
            await pool.send(hold=HOLD, x=asking(100))
        request = asking(400, max_tokens=3)
        await pool.send(hold=HOLD, x=request)
        assert request.work is not None
        assert request.work.prompt == 12, "of 3 tokens in 100 bytes, as the engine counted them"
        assert request.work.output == 3
        assert (request.work.priority, request.work.stream) == ("standard", False)

    run(story())
