"""A collector to send traces to."""

from collections.abc import Iterator

import pytest

from tests.harness.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()
