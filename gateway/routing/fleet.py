"""The serving engines: which model is served where, what each is doing, and leases on them.

A lease spans the whole body, so in-flight counts are right under errors and cancellation. A backend is
never counted down for a client's mistake: only connections that fail are failures.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.errors import NotFound, Overloaded
from gateway.exchange import Work
from gateway.interfaces import RoutingStrategy
from gateway.routing.health import Health, Kind


@dataclass(slots=True)
class Backend:
    """One engine behind one model name: its address, and its live counters."""

    id: str
    url: str  # base URL including /v1, without a trailing slash
    model: str | None  # the engine's own model name, where it differs
    api_key: str
    weight: float
    stream_usage: bool
    price_input: float = 0.0  # dollars a token
    price_output: float = 0.0
    region: str = ""
    max_in_flight: int | None = None
    in_flight: int = 0
    requests: int = 0
    failures: int = 0  # connections refused, broken or timed out
    draining: bool = False
    metrics: str | None = None  # URL of the engine's own metrics
    report: Any = None  # its last reading
    health: Health = field(default_factory=Health)

    def price(self, work: Work) -> float:
        return work.prompt * self.price_input + work.output * self.price_output

    def expected(self, work: Work, now: float) -> float:
        return float(self.in_flight + 1)

    def pressure(self, now: float) -> float:
        return self.in_flight / (self.max_in_flight or 32)

    def warm(self, work: Work, now: float) -> int:
        return 0

    def state(self) -> dict[str, Any]:
        """What the admin API shows; never a key."""
        return {
            "id": self.id,
            "url": self.url,
            "model": self.model,
            "weight": self.weight,
            "in_flight": self.in_flight,
            "requests": self.requests,
            "failures": self.failures,
            "draining": self.draining,
            **self.health.state(time.monotonic()),
        }


@dataclass(frozen=True, slots=True)
class Model:
    """What clients may ask for."""

    name: str
    backends: tuple[Backend, ...]
    price_input: float  # dollars a token
    price_output: float
    fallback: tuple[str, ...] = ()  # models asked when none of the backends can answer
    mirror: Backend | None = None  # gets copies; its answers are discarded
    mirror_share: float = 0.0


class Ticket:
    """A place in the queue."""

    def leave(self, now: float) -> None:
        """The client went away while it waited."""


class Fleet:
    """All models and their backends."""

    def __init__(self, models: Sequence[Model], strategy: RoutingStrategy) -> None:
        self._models = {model.name: model for model in models}
        self._strategy = strategy

    def replace(self, models: Sequence[Model]) -> None:
        """Adopt a new configuration: backends that stay keep their counters, requests in progress their lease."""
        known = {backend.id: backend for backend in self.backends}
        self._models = {model.name: _with_history(model, known) for model in models}

    @property
    def models(self) -> list[Model]:
        return list(self._models.values())

    @property
    def backends(self) -> list[Backend]:
        return [backend for model in self._models.values() for backend in model.backends]

    @property
    def default(self) -> Model:
        """Who gets requests that name no model: the entry "*", or the first listed."""
        return self._models.get("*") or next(iter(self._models.values()))

    def model(self, name: str) -> Model:
        """The entry for a requested model; `"*"` takes what no entry lists.

        Raises:
            NotFound: in OpenAI's shape.
        """
        model = self._models.get(name) or self._models.get("*")
        if model is None:
            raise NotFound(
                f"The model '{name}' does not exist or you do not have access to it.",
                param="model",
                code="model_not_found",
            )
        return model

    def arrive(
        self,
        model: Model,
        work: Work,
        now: float,
        placed: "Callable[[Lease], None]",
        tried: frozenset[str] = frozenset(),
    ) -> Ticket:
        """A place on the backend the strategy picks among those available and not yet tried.

        Raises:
            Overloaded: no backend is left.
        """
        available = [
            b for b in model.backends if not b.draining and b.id not in tried and b.health.available(now)
        ]
        backend = self._strategy.pick(available, work, now)
        if backend is None:
            raise Overloaded(f"No backend is available for the model '{model.name}'.", code="no_backend")
        placed(Lease(backend))
        return Ticket()

    def tick(self, now: float) -> None:
        """Let deadlines pass for those that wait."""


class Lease:
    """A place on a backend: taken when it is made, given back once, however the request ends."""

    __slots__ = ("_open", "backend")

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._open = True
        backend.in_flight += 1
        backend.requests += 1

    def first(self, now: float) -> None:
        """The first byte of the answer."""

    def progress(self, tokens: int, now: float) -> None:
        """Output tokens streamed so far."""

    def done(self, now: float, status: int, prompt_tokens: int | None, output_tokens: int | None) -> None:
        """The whole answer is here."""
        self.release()

    def failed(self, now: float, kind: Kind) -> None:
        if self._open and kind not in ("cancelled", "rejected"):
            self.backend.failures += 1
        self.release()

    def release(self) -> None:
        if self._open:
            self._open = False
            self.backend.in_flight -= 1


def _with_history(model: Model, known: dict[str, Backend]) -> Model:
    backends = []
    for fresh in model.backends:
        old = known.get(fresh.id)
        if old is not None and old.url == fresh.url:
            old.model, old.api_key, old.weight = fresh.model, fresh.api_key, fresh.weight
            old.stream_usage = old.stream_usage and fresh.stream_usage  # what it refused, it refuses still
            fresh = old
        backends.append(fresh)
    return replace(model, backends=tuple(backends))
