"""Clients that hang up at random leave nothing behind."""

import asyncio
from pathlib import Path

from bench.leaks import measure


def test_a_thousand_requests_with_random_disconnects_leave_nothing(model_cache: Path) -> None:
    found = asyncio.run(measure(1000, model_cache))
    assert found["left"] > 500
    assert found["answered"] > 50
    excess = found["excess"]
    assert (found["after"].leases, found["after"].requests) == (0, 0)
    assert excess.tasks <= 10  # of hundreds that hung up: what a busy machine has not closed yet is no leak
    assert excess.files <= 10
    assert excess.megabytes < 25
