"""What one tenant has used, and whether one request more fits in. Pure; the Redis script decides the same way.

Two different noes: `refused` turns a request away at once (its rate, requests at once); `withheld` keeps it from the
engines only (tokens, money), as an answer from the cache costs neither.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from gateway.limits.money import Period
from gateway.limits.rates import Bucket

Refused = Literal["", "requests", "in_flight"]
Withheld = Literal["", "tokens", "budget"]
Counted = Literal["shared", "unsent", "unsure"]  # by the store all share; never sent there; no answer came


@dataclass(frozen=True, slots=True)
class Terms:
    """What a tenant may use; None: as much as it likes."""

    requests: int | None = None  # a minute
    tokens: int | None = None  # a minute
    in_flight: int | None = None
    period: Period = "month"
    soft: int | None = None  # billionths of a dollar a period
    hard: int | None = None
    models: frozenset[str] | None = None

    @property
    def counted(self) -> bool:
        """Whether anything has to be counted for it."""
        return any(n is not None for n in (self.requests, self.tokens, self.in_flight, self.soft, self.hard))


class Ask(NamedTuple):
    """One request: its id among all, what it will cost as far as can be foreseen, and in which period."""

    id: str
    tokens: int
    nanos: int
    period: str


class Use(NamedTuple):
    """What became of a request that was let in."""

    ask: Ask
    counted: Counted
    requests: int  # 0: it was never let in
    tokens: int
    nanos: int
    reserved_tokens: int
    reserved_nanos: int
    last: bool = True  # it is no longer in progress


class Standing(NamedTuple):
    """How a tenant stands once a request was counted, or turned away."""

    refused: Refused = ""
    withheld: Withheld = ""
    requests: float = 0.0  # level of the bucket
    tokens: float = 0.0
    in_flight: int = 0
    spent: int = 0  # billionths of a dollar in the period, reservations included
    counted: Counted = "shared"


@dataclass(slots=True)
class Account:
    """One tenant's buckets, requests in progress and money by period."""

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    in_flight: int = 0
    spent: dict[str, int] = field(default_factory=dict)

    def take(self, terms: Terms, ask: Ask, now: float) -> Standing:
        """Count a request in, if it may."""
        spent = self.spent.get(ask.period, 0)
        refused: Refused = ""
        withheld: Withheld = ""
        if terms.requests is not None and not self.requests.takes(1, terms.requests, now):
            refused = "requests"
        elif terms.in_flight is not None and self.in_flight >= terms.in_flight:
            refused = "in_flight"
        elif terms.hard is not None and spent + ask.nanos > terms.hard:
            withheld = "budget"
        elif terms.tokens is not None and not self.tokens.takes(ask.tokens, terms.tokens, now):
            withheld = "tokens"
        if not refused:
            self.in_flight += 1
            self._add(terms, 1, 0 if withheld else ask.tokens, ask.period, 0 if withheld else ask.nanos, now)
        return self.standing(terms, ask.period, now)._replace(refused=refused, withheld=withheld)

    def settle(self, terms: Terms, use: Use, now: float) -> None:
        """Replace what was reserved by what was used."""
        tokens, nanos = use.tokens - use.reserved_tokens, use.nanos - use.reserved_nanos
        self._add(terms, 0, tokens, use.ask.period, nanos, now)

    def leave(self) -> None:
        """A request is no longer in progress."""
        self.in_flight = max(0, self.in_flight - 1)

    def standing(self, terms: Terms, period: str, now: float) -> Standing:
        return Standing(
            requests=0.0 if terms.requests is None else self.requests.drained(terms.requests, now),
            tokens=0.0 if terms.tokens is None else self.tokens.drained(terms.tokens, now),
            in_flight=self.in_flight,
            spent=self.spent.get(period, 0),
        )

    def adopt(self, standing: Standing, period: str, now: float) -> None:
        """What the store that all share says, where it is asked; requests in progress stay one's own."""
        self.requests, self.tokens = Bucket(standing.requests, now), Bucket(standing.tokens, now)
        self.spend(period, standing.spent - self.spent.get(period, 0))

    def _add(self, terms: Terms, requests: int, tokens: int, period: str, nanos: int, now: float) -> None:
        if terms.requests is not None and requests:
            self.requests.add(requests, terms.requests, now)
        if terms.tokens is not None and tokens:
            self.tokens.add(tokens, terms.tokens, now)
        if nanos:
            self.spend(period, nanos)

    def spend(self, period: str, nanos: int) -> None:
        """The period of now and the one before are kept: a request may end in the next."""
        self.spent[period] = self.spent.get(period, 0) + nanos
        while len(self.spent) > 3:
            del self.spent[min(self.spent)]
