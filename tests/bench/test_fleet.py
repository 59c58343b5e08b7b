"""A small fleet on made-up arrivals: the simulator's laws, and the default against chance."""

from random import Random

import pytest

from bench.fleet.__main__ import decision, verdict
from bench.fleet.arrivals import Arrival, Trace, capacity, load, paced
from bench.fleet.engine import KV_TOKENS, PROMPT, STEP, Engine, Job
from bench.fleet.simulate import Result, Variant, simulate


def made_up(count: int = 900) -> Trace:
    rng, at, rows = Random(5), 0.0, []
    for _ in range(count):
        at += rng.expovariate(5.0)
        prompt, output = int(rng.lognormvariate(6.5, 1.0)) + 1, int(rng.lognormvariate(4.5, 0.8)) + 2
        rows.append(Arrival(at, prompt, output, (), f"t{rng.randrange(4)}"))
    return Trace("made-up", tuple(rows))


def run(variant: Variant, *, utilisation: float = 0.9, speeds: tuple[float, ...] = (1.0,) * 4) -> Result:
    base, seconds = load(made_up(), speeds, 700)
    return simulate(variant, paced(base, seconds / utilisation), speeds, 3)


def play(engine: Engine, jobs: list[tuple[float, int, int]]) -> tuple[list[float], list[float]]:
    """First and last tokens of (at, prompt, output), in the order they came."""
    firsts: list[float] = []
    lasts: list[float] = []
    for at, prompt, output in jobs:
        while engine.wake <= at:
            engine.run(engine.wake)
        engine.submit(Job(prompt, output, (), firsts.append, lasts.append), at)
    while engine.wake < float("inf"):
        engine.run(engine.wake)
    return firsts, lasts


def test_a_lone_request_takes_its_prefill_and_its_steps() -> None:
    (first,), (last,) = play(Engine(), [(0.0, 400, 101)])
    assert first == pytest.approx(STEP + 400 * PROMPT, rel=0.1)
    assert last - first == pytest.approx(100 * STEP, rel=0.1)


def test_a_slower_engine_takes_longer_in_proportion() -> None:
    _, (slow,) = play(Engine(0.5), [(0.0, 400, 100)])
    _, (quick,) = play(Engine(1.0), [(0.0, 400, 100)])
    assert slow == pytest.approx(2 * quick)


def test_a_newcomer_is_read_after_the_step_in_progress() -> None:
    firsts, lasts = play(Engine(), [(0.0, 100, 1000), (3.0, 100, 2)])
    assert 3.0 < firsts[1] < 3.0 + 3 * STEP + 100 * PROMPT
    assert lasts[0] < lasts[1]


def test_memory_runs_out_and_everybody_ends() -> None:
    engine = Engine()
    firsts, lasts = play(engine, [(0.0, KV_TOKENS // 4, 60_000)] * 6)
    assert len(firsts) == len(lasts) == 6
    assert engine.preemptions > 0
    assert engine.resident == engine.running == 0


def test_a_cached_prefix_is_not_read_again() -> None:
    engine, firsts = Engine(), list[float]()
    for at in (0.0, 10.0):
        engine.submit(
            Job(5120, 2, tuple(range(10)), lambda now, at=at: firsts.append(now - at), lambda now: None), at
        )
        while engine.wake < float("inf"):
            engine.run(engine.wake)
    assert firsts[1] < firsts[0] / 5


def test_capacity_is_what_keeps_engines_busy() -> None:
    base, seconds = load(made_up(), [1.0] * 4, 700)
    assert base[-1].at == 1.0
    assert capacity(base, [1.0] * 8) == pytest.approx(seconds / 2, rel=0.25)


@pytest.mark.parametrize("utilisation", [0.9, 1.2])
def test_the_default_is_not_worse_than_chance(utilisation: float) -> None:
    ours = run(Variant("least-completion"), utilisation=utilisation)
    for admission in (False, True):
        chance = run(Variant("random", admission=admission), utilisation=utilisation)
        assert ours.p99 <= 1.05 * chance.p99
        assert ours.goodput >= chance.goodput - 0.02


def test_unequal_engines_are_told_apart() -> None:
    speeds = (1.0, 1.0, 0.3, 0.3)
    ours = run(Variant("least-completion"), speeds=speeds)
    turns = run(Variant("rotation", admission=False), speeds=speeds)
    assert ours.p99 < 0.5 * turns.p99


def test_late_reports_do_no_harm() -> None:
    late = run(Variant("least-completion", lag=6.0))
    assert late.p99 <= 1.05 * run(Variant("least-in-flight", lag=6.0)).p99


def test_a_run_repeats_itself() -> None:
    assert run(Variant("two-choices")) == run(Variant("two-choices"))


def test_verdicts_tell_ties_as_ties() -> None:
    assert verdict(0.9, 1.0) == "beats (-10%)"
    assert verdict(1.01, 1.0) == "tie (+1%)"
    assert verdict(1.2, 1.0) == "misses (+20%)"


def test_a_decision_costs_a_few_times_a_bare_loop() -> None:
    chosen, bare = decision(rounds=50)
    assert chosen < 40 * bare
