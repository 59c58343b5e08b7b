"""One request's trace: its place in the caller's, and the steps noted while the request runs.

Decides which requests are recorded and what engines are told of it (W3C Trace Context). It must never hold up
a request, import OpenTelemetry, or note a text unless a switch says so. Times: seconds of `time.perf_counter`.
"""

import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from gateway.exchange import Exchange

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"(\w{1,40})"')
_LOOK = 4096  # bytes at either end of an answer in which its model and its end are looked for
_MOST = 64  # spans of one request
_RANDOM = random.Random(secrets.randbits(256))  # ids must not collide; nobody is kept from guessing them
_NOTHING: dict[str, Any] = {}

Kind = Literal["server", "client", "internal"]


class Parent(NamedTuple):
    """The caller's span, as its `traceparent` names it."""

    trace: int
    span: int
    sampled: bool


class Span(NamedTuple):
    """A step that is over. `parent`: span id, 0 for none; `link`: another trace's (trace id, span id)."""

    name: str
    kind: Kind
    id: int
    parent: int
    started: float
    ended: float
    attributes: dict[str, Any]
    error: str = ""  # what went wrong: an error type
    link: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What tracing takes from the configuration."""

    sample: float = 1.0  # of requests that come without a trace
    parent: bool = True  # a caller's sampled flag decides, where there is one
    prompts: bool = False
    tenants: bool = True  # tenants' names may be told


class Trace:
    """What is noted of one request. Nothing is, where it is not `recorded`; its ids are passed on all the same."""

    __slots__ = ("_open", "_sink", "_spans", "answer", "id", "method", "parent", "path", "recorded", "span", "state",
                 "terms")  # fmt: skip

    def __init__(
        self,
        id: int,
        parent: int,
        recorded: bool,
        state: str,
        terms: Terms,
        sink: "Sink",
        *,
        method: str = "",
        path: str = "",
    ) -> None:
        self.id, self.span, self.parent = id, _new_span(), parent
        self.recorded, self.state, self.terms = recorded, state, terms
        self.method, self.path = method, path
        self.answer: dict[str, Any] = _NOTHING  # what the answer says of itself
        self._sink = sink
        self._spans: list[Span] = []
        self._open = True

    def step(
        self,
        name: str,
        started: float,
        ended: float | None = None,
        *,
        link: "Trace | None" = None,
        **attributes: Any,
    ) -> None:
        """A step within the gateway; it ended now, unless another time is given."""
        if self.recorded:
            to = None if link is None else (link.id, link.span)
            over = time.perf_counter() if ended is None else ended
            self._add(
                Span(name, "internal", _new_span(), self.span, started, over, attributes, "", to), _MOST - 1
            )

    def attempt(self, number: int) -> "Attempted":
        """A backend is about to be asked."""
        return Attempted(self, number)

    def describe(self, head: bytes, tail: bytes) -> dict[str, Any]:
        """What an answer says of its model and of its end; kept for the request's own span."""
        self.answer = described(head, tail)
        return self.answer

    def finish(
        self, name: str, started: float, seconds: float, attributes: dict[str, Any], error: str
    ) -> None:
        """The request is over. What is noted later goes out on its own."""
        if self.recorded and self._open:
            span = Span(name, "server", self.span, self.parent, started, started + seconds, attributes, error)
            self._add(span, _MOST)
            self._open = False
            self._sink(self, self._spans)

    def header(self, span: int) -> str:
        """The `traceparent` for somebody below one of its spans."""
        return f"00-{self.id:032x}-{span:016x}-{int(self.recorded):02x}"

    def _add(self, span: Span, most: int) -> None:
        if not self._open:
            self._sink(self, [span])
        elif len(self._spans) < most:
            self._spans.append(span)


Sink = Callable[[Trace, Sequence[Span]], None]


class SpanExport(Protocol):
    """Where finished spans go. `counts`: spans, by outcome."""

    counts: Counter[str]

    def put(self, trace: Trace, spans: Sequence[Span]) -> None: ...

    def close(self, seconds: float = 2.0) -> None: ...


class Attempted:
    """One backend being asked, as a span of its own: the parent of what the engine records."""

    __slots__ = ("_number", "_trace", "id", "said", "started")

    def __init__(self, trace: Trace, number: int) -> None:
        self._trace, self._number = trace, number
        self.id = _new_span()
        self.started = time.perf_counter()
        self.said: dict[str, Any] = _NOTHING

    def tell(self, headers: Any) -> None:
        """Put this span's place into the headers of a request to an engine."""
        headers["traceparent"] = self._trace.header(self.id)
        if not self._trace.state:
            headers.popall("tracestate", None)  # of a trace that could not be read

    def read(self, head: bytes, tail: bytes) -> None:
        """The first and the last bytes of the answer."""
        if self._trace.recorded:
            self.said = self._trace.describe(head, tail)

    def end(self, operation: str, model: str, error: str, attributes: dict[str, Any]) -> None:
        trace = self._trace
        if not trace.recorded:
            return
        told = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": model,
            "gateway.attempt": self._number,
            **attributes,
            **self.said,
        }
        over = time.perf_counter()
        trace._add(
            Span(f"{operation} {model}", "client", self.id, trace.span, self.started, over, told, error),
            _MOST - 1,
        )


class Tracer:
    """Begins the traces of requests.

    Args:
        sink: takes a trace's finished spans; must not wait.
    """

    def __init__(self, terms: Terms, sink: Sink) -> None:
        self._terms = terms
        self._sink = sink
        self._bar = int(
            terms.sample * 2**64
        )  # of a trace id's low half, as OpenTelemetry's own sampler has it

    def begin(self, x: Exchange, method: str, path: str) -> None:
        """Find the request's place in its caller's trace, or begin one."""
        terms = self._terms
        given = parent(x.headers.get("traceparent"))
        if given is None:
            id = _RANDOM.getrandbits(128) or 1
            above, state, sampled = 0, "", None
        else:
            id, above, sampled = given.trace, given.span, given.sampled if terms.parent else None
            state = ",".join(x.headers.getall("tracestate", ()))
        if sampled is None:
            sampled = (id & 0xFFFFFFFFFFFFFFFF) < self._bar
        x.trace = Trace(id, above, sampled, state, terms, self._sink, method=method, path=path)


def parent(header: str | None) -> Parent | None:
    """A `traceparent` header; None where there is none, or none that counts (W3C Trace Context, section 3.2)."""
    found = None if header is None else _PARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace, 16) or not int(span, 16):
        return None
    return Parent(int(trace, 16), int(span, 16), bool(int(flags, 16) & 1))


def described(head: bytes, tail: bytes) -> dict[str, Any]:
    """The model and finish reasons in an answer's first and last bytes, as attributes."""
    told: dict[str, Any] = {}
    model = _MODEL.search(head, 0, _LOOK)
    if model is not None:
        told["gen_ai.response.model"] = model[1].decode("utf-8", "replace")
    reasons = _FINISH.findall(tail, max(len(tail) - _LOOK, 0))
    if reasons:
        told["gen_ai.response.finish_reasons"] = [reason.decode() for reason in reasons]
    return told


def _new_span() -> int:
    return _RANDOM.getrandbits(64) or 1
