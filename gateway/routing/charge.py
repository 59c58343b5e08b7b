"""What a trip has cost its tenant, however it ended: told once to the grant that the request holds.

Charged is the answer the caller got, as far as it came, by the price of the model that gave it. Failures before a
first byte, retries and hedges are not the tenant's.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.exchange import Usage
from gateway.routing.fleet import Model
from gateway.routing.trip import Trip


@contextmanager
def charged(trip: Trip, named: Callable[[str], Model]) -> Iterator[None]:
    """Around everything that is done for a trip. `named`: the entry of a fallback model."""
    grant, left = trip.x.grant, False
    if grant is None:
        yield
        return
    grant.begin()
    try:
        yield
    except asyncio.CancelledError:
        left = True
        raise
    finally:
        usage = _used(trip, left)
        model = named(trip.into.fallback) if trip.into.fallback else trip.model
        grant.end(usage, model.cost(usage))


def _used(trip: Trip, left: bool) -> Usage:
    """What the engine reported, or what is known without its word. `left`: nobody waited for the end."""
    into, foreseen = trip.into, trip.x.grant.foreseen
    if not foreseen.prompt:  # no model is named: what is said of tokens may be a file's content
        return Usage()
    if not into.status:
        sent = left and trip.attempts > 0
        return Usage(foreseen.prompt) if sent else Usage()
    if not 200 <= into.status < 300:
        return Usage()
    prompt, output = into.spent
    if prompt is not None:
        return Usage(prompt, output or 0)
    return Usage(foreseen.prompt, foreseen.output if output is None else output)
