"""Two pools under made-up load: offloading must pay, and must keep what it promises of quality."""

from dataclasses import replace
from random import Random

import pytest

from bench.fleet.arrivals import Arrival
from bench.offload.load import QUIET, Way, in_turn, serve, taught
from tests.bench.offload.made import requests

REQUESTS = requests(1600)
TAUGHT = 1200


def arrivals(rate, count=400, seed=3):
    rng, at, rows = Random(seed), 0.0, []
    for _ in range(count):
        at += rng.expovariate(rate)
        rows.append(Arrival(at, rng.randrange(200, 2000), rng.randrange(50, 350), (), "t"))
    return rows


@pytest.fixture(scope="module")
def known():
    offloading = taught(REQUESTS, TAUGHT)
    return lambda way, rate=8.0: serve(way, arrivals(rate), offloading, REQUESTS, TAUGHT)


def pays(ours, large):
    assert ours.throughput > 1.3 * large.throughput
    assert ours.p50 < 0.7 * large.p50
    assert ours.reference - ours.quality < 0.04  # of 360 answers: two points and what chance adds


def test_offloading_pays_beyond_capacity(known):
    large = known(Way((2, 1), offloads=False))
    assert large.offloaded == 0.0
    assert large.quality == large.reference
    pays(known(Way((2, 1), aware=True)), large)


def test_a_router_that_knows_nothing_of_quality_is_found_out(known):
    with pytest.raises(AssertionError):
        pays(known(Way((2, 1), offloads=True)), known(Way((2, 1), offloads=False)))


def test_a_router_that_offloads_nothing_is_found_out(known):
    with pytest.raises(AssertionError):
        pays(known(Way((2, 1), floor=0.0)), known(Way((2, 1), offloads=False)))


def test_a_run_leaves_what_was_taught_as_it_was(known):
    first = known(Way((2, 1), aware=True))
    assert known(Way((2, 1), aware=True)) == first


def test_without_load_the_saving_router_offloads_less_than_under_it(known):
    saving = replace(
        QUIET, tolerance=0.0, reach=16.0
    )  # loses nothing without load, and more at once under it
    way = Way((2, 1), routing=saving, aware=True)
    assert known(way, 0.5).offloaded < known(way, 8.0).offloaded


def test_loads_in_turn_by_hand():
    rows = [Arrival(at / 4, 1, 1, (), "t") for at in range(5)]
    times = [a.at for a in in_turn(rows, 10.0, (0.5, 2.0))]
    assert times == pytest.approx([0, 5, 10, 11.25, 12.5])
