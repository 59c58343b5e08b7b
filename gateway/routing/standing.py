"""What an attempt's outcome means for its backend: a failure that may eject it, a pause it asked for, a quota.

A client's own fault is held against nobody, and what a client's own key was refused concerns that client alone.
"""

import logging
from collections.abc import Callable, Mapping

from gateway.routing import ratelimits
from gateway.routing.fleet import Backend, Model
from gateway.routing.health import Kind
from gateway.routing.trip import Attempt, Trip
from gateway.routing.upstream import Failed

log = logging.getLogger("gateway.routing")
_PATIENCE = 2.0  # seconds; a shorter pause is waited out, a longer one is told at once
_DENIALS = 10_000  # (client, backend) pairs remembered
_OWN_WORDS: frozenset[Kind] = frozenset(("server_error", "slow"))  # of a backend that can be reached


class Standing:
    """Tells Health and Signals what happened, and remembers who is not to be asked."""

    def __init__(self, own_credentials: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._own_credentials = own_credentials
        self._clock = clock
        self._denied: dict[tuple[str, str], float] = {}  # (tenant, backend) → until when
        self._paused_until = 0.0  # the latest pause that is not waited out

    def failed(self, model: Model, trip: Trip, attempt: Attempt, failed: Failed) -> None:
        """It gave no answer, or broke off. Told before the lease is given back, as that lets the next one in."""
        backend = attempt.lease.backend
        if failed.stale and not trip.forgiven:
            # A kept connection may have been closed by the engine just as it was reused: that says nothing
            # about the engine, so the same one may be asked once more.
            trip.forgiven = True
            trip.tried.discard(backend.id)
            attempt.end("cancelled")
            return
        self._blame(model, backend, failed.kind)
        if failed.kind == "rejected":
            said = None if failed.held is None else ratelimits.pause(failed.held.headers)
            everybody = failed.held is not None and failed.held.status in (503, 529)
            self._pause(trip.x.tenant, backend, said, everybody=everybody)
        attempt.end(failed.kind)

    def overtaken(self, model: Model, attempt: Attempt) -> None:
        """A second backend, asked later, began to answer before this one had given a byte."""
        self._blame(model, attempt.lease.backend, "slow")
        attempt.end("slow")

    def answering(self, trip: Trip, attempt: Attempt, headers: Mapping[str, str]) -> None:
        """Its answer has begun: a trial is over, as nobody else need wait for its last byte, and quotas are told."""
        backend, now = attempt.lease.backend, self._clock()
        if backend.health.ejected:
            backend.health.succeeded(now)
        grants = ratelimits.granted(headers)
        if grants:
            if not self._personal(backend):
                for grant in grants:
                    backend.signals.granted(grant.limit, grant.left, grant.rate, now, now + grant.seconds)
            used_up = [grant.seconds for grant in grants if not grant.left]
            if used_up:
                self._pause(trip.x.tenant, backend, max(used_up))

    def barred(self, trip: Trip, model: Model, now: float) -> frozenset[str]:
        """Whom not to ask: who was asked already, who wants to be left alone for long, and who refused this very
        client's key, as long as others are left."""
        barred = frozenset(trip.tried)
        if now < self._paused_until:
            barred |= {b.id for b in model.backends if b.health.throttled_until > now + _PATIENCE}
        if self._denied:
            tenant, denied = trip.x.tenant, self._denied
            refused = barred | {b.id for b in model.backends if denied.get((tenant, b.id), 0.0) > now}
            if any(b.id not in refused and b.usable(now) for b in model.backends):
                barred = refused
        return barred

    def _personal(self, backend: Backend) -> bool:
        """Whether it is asked with each client's own key, whose limits are that client's."""
        return not backend.api_key and self._own_credentials()

    def _blame(self, model: Model, backend: Backend, kind: Kind) -> None:
        ejections = backend.health.ejections
        backend.health.failed(kind, self._clock(), eject=_may_eject(model, backend, kind))
        if backend.health.ejections > ejections:
            if kind == "refused":
                backend.restarted()
            log.warning("backend ejected", extra={"fields": {"backend": backend.id, "kind": kind}})

    def _pause(
        self, tenant: str, backend: Backend, seconds: float | None, *, everybody: bool = False
    ) -> None:
        """Leave a backend alone: for everybody, or for the client whose own key was refused."""
        now = self._clock()
        if everybody or not self._personal(backend):
            backend.health.throttle(seconds, now)
            if backend.health.throttled_until > now + _PATIENCE:
                self._paused_until = max(self._paused_until, backend.health.throttled_until)
        elif seconds is not None:
            if len(self._denied) >= _DENIALS:
                self._denied.pop(next(iter(self._denied)))
            self._denied[tenant, backend.id] = now + seconds


def _may_eject(model: Model, backend: Backend, kind: Kind) -> bool:
    """Whether failures may take this backend out.

    The last one of a model is kept for errors it answers with: they may be one request's fault, and its own
    words beat ours; and it is kept while it is slow. One that cannot be reached is let go, so that nobody waits
    for it; a probe brings it back.
    """
    if kind not in _OWN_WORDS or (model.fallback and kind != "slow"):
        return True
    return any(b is not backend and not b.draining and not b.health.ejected for b in model.backends)
