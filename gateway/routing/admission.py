"""Where requests wait when every backend of their model is full, who is next, and who is told to come back later.

Bounded, by priority class, fair between tenants, shortest predicted work first. It knows no backend and no clock.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import GatewayError, Overloaded
from gateway.exchange import Priority, Work
from gateway.routing.work import cost

# Seconds by which a class stands behind one that came at the same moment: strict while waits are short, and
# nobody waits for ever.
BEHIND: dict[Priority, float] = {"interactive": 0.0, "standard": 10.0, "batch": 20.0}
PATIENCE = 1 / 2000  # seconds a request lets others pass, for each token of work it costs more than they do
# Seconds of the whole drain by which a tenant may be ahead of another before it steps back. Without that slack
# order would be by whose turn it is rather than by age and size, and the slowest hundredth much slower.
SLACK = 2.0
_AHEAD = 10.0  # seconds it then steps back for each second more
_RATE_SECONDS = 10.0  # memory of the drain rate
_TENANTS = 1024  # remembered while nobody waits
_SIZES = 32  # classes of cost, by powers of two


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that waits, or waited."""

    work: Work
    placed: Callable[..., None]
    refused: Callable[[GatewayError], None]
    since: float
    until: float
    tried: frozenset[str]
    cost: int
    waiting: bool = False
    _queue: "Queue | None" = None

    def leave(self, now: float) -> None:
        """The client went away: its place is given back. Nothing happens once it is no longer waiting."""
        if self._queue is not None and self.waiting:
            self._queue.remove(self)
            self._queue.left += 1


@dataclass(slots=True)
class _Line:
    """One tenant's requests of one class."""

    served: float  # virtual time: cost placed for this tenant, lifted when it comes back from idling
    heap: list[tuple[float, int, Ticket]] = field(default_factory=list)
    size: int = 0


class Queue:
    """The waiting requests of one model."""

    def __init__(self, size: int, seconds: float) -> None:
        """At most `size` requests; each waits `seconds` at most, where its deadline is not earlier."""
        self._size = size
        self._seconds = seconds
        self._lines: dict[Priority, dict[str, _Line]] = {name: {} for name in BEHIND}
        self._oldest: dict[Priority, deque[Ticket]] = {name: deque() for name in BEHIND}
        self._ahead: dict[Priority, list[int]] = {name: [0] * _SIZES for name in BEHIND}
        self._clock: dict[Priority, float] = dict.fromkeys(BEHIND, 0.0)  # virtual time of each class
        self._expiry: list[tuple[float, int, Ticket]] = []
        self._number = 0
        self._waiting = 0
        self._drained = self._drain_time = 0.0
        self._drained_at = 0.0
        self.refused: dict[str, int] = {"queue_full": 0, "deadline": 0}
        self.left = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def size(self) -> int:
        """Requests that may wait."""
        return self._size

    @property
    def cost(self) -> int:
        """Work waiting, in prompt-token equivalents."""
        return sum(sum(sizes) for sizes in self._ahead.values())

    def ticket(
        self,
        work: Work,
        now: float,
        placed: Callable[..., None],
        refused: Callable[[GatewayError], None],
        tried: frozenset[str] = frozenset(),
    ) -> Ticket:
        until = now + self._seconds
        if work.deadline is not None:
            until = min(until, work.deadline)
        return Ticket(work, placed, refused, now, until, tried, cost(work))

    def add(self, ticket: Ticket, now: float) -> None:
        """Let it wait.

        Raises:
            Overloaded: 429, the queue is full, or its turn would come too late.
        """
        wait = self.wait(ticket)
        if now + wait > ticket.until:
            self.refused["deadline"] += 1
            raise _overloaded("deadline", wait - (ticket.until - now))
        if self._waiting >= self._size and not self._displace(ticket):
            self.refused["queue_full"] += 1
            raise _overloaded("queue_full", wait / max(1, self._size))
        if not self._waiting:
            self._drained_at = now
        self.enter(ticket)

    def tickets(self) -> list[Ticket]:
        """All that wait, in no order."""
        return [ticket for _, _, ticket in self._expiry if ticket.waiting]

    def wait(self, ticket: Ticket) -> float:
        """Seconds until its turn, at the rate work was placed of late; 0 while that is unknown."""
        if not self._waiting or self._drained <= 0:
            return 0.0
        priority, size = ticket.work.priority, _size(ticket.cost)
        ahead = sum(self._ahead[priority][: size + 1])
        ahead += sum(sum(self._ahead[name]) for name in BEHIND if BEHIND[name] < BEHIND[priority])
        return ahead * self._drain_time / self._drained

    def next(self, now: float) -> Ticket | None:
        """Whose turn it is; it stays in the queue until it is taken."""
        best, chosen = math.inf, None
        for name, oldest in self._oldest.items():
            while oldest and not oldest[0].waiting:
                oldest.popleft()
            if oldest and oldest[0].since + BEHIND[name] < best:
                best, chosen = oldest[0].since + BEHIND[name], name
        if chosen is None:
            return None
        lines = [line for line in self._lines[chosen].values() if line.size]
        least = min(line.served for line in lines)
        seconds = self._drain_time / self._drained if self._drained else 0.0
        best, first = math.inf, None
        for line in lines:
            while not line.heap[0][2].waiting:
                heapq.heappop(line.heap)
            lead = (line.served - least) * seconds
            rank = line.heap[0][0] + _AHEAD * max(0.0, lead - SLACK)
            if rank < best:
                best, first = rank, line.heap[0][2]
        return first

    def take(self, ticket: Ticket, now: float) -> None:
        """It goes to a backend."""
        fade = math.exp((self._drained_at - now) / _RATE_SECONDS)
        self._drain_time = self._drain_time * fade + (now - self._drained_at)
        self._drained = self._drained * fade + ticket.cost
        self._drained_at = now
        priority = ticket.work.priority
        line = self._lines[priority][ticket.work.tenant]
        self._clock[priority] = max(self._clock[priority], line.served)
        line.served += ticket.cost
        self.remove(ticket)

    def remove(self, ticket: Ticket) -> None:
        priority, tenant = ticket.work.priority, ticket.work.tenant
        line = self._lines[priority][tenant]
        ticket.waiting = False
        line.size -= 1
        self._waiting -= 1
        self._ahead[priority][_size(ticket.cost)] -= ticket.cost
        if not line.size:
            line.heap.clear()
        if not self._waiting:
            self._expiry.clear()
            for name in BEHIND:
                self._oldest[name].clear()
                if len(self._lines[name]) > _TENANTS:
                    self._lines[name].clear()

    def expire(self, now: float) -> None:
        """Refuse those whose time has run out."""
        while self._expiry and (self._expiry[0][0] <= now or not self._expiry[0][2].waiting):
            ticket = heapq.heappop(self._expiry)[2]
            if ticket.waiting:
                wait = self.wait(ticket)
                self.remove(ticket)
                self.refused["deadline"] += 1
                ticket.refused(_overloaded("deadline", wait))

    def enter(self, ticket: Ticket) -> None:
        self._number += 1
        priority = ticket.work.priority
        lines = self._lines[priority]
        line = lines.get(ticket.work.tenant)
        if line is None:
            line = lines[ticket.work.tenant] = _Line(self._clock[priority])
        if not line.size:
            line.served = max(line.served, self._clock[priority])
        line.size += 1
        heapq.heappush(line.heap, (ticket.since + PATIENCE * ticket.cost, self._number, ticket))
        heapq.heappush(self._expiry, (ticket.until, self._number, ticket))
        self._oldest[priority].append(ticket)
        self._ahead[priority][_size(ticket.cost)] += ticket.cost
        self._waiting += 1
        ticket.waiting, ticket._queue = True, self

    def _displace(self, ticket: Ticket) -> bool:
        """A full queue gives up the youngest of a class below the newcomer's."""
        for name in sorted(BEHIND, key=BEHIND.__getitem__, reverse=True):
            if BEHIND[name] <= BEHIND[ticket.work.priority]:
                return False
            young = self._oldest[name]
            while young and not young[-1].waiting:
                young.pop()
            if young:
                out = young.pop()
                wait = self.wait(out)
                self.remove(out)
                self.refused["queue_full"] += 1
                out.refused(_overloaded("queue_full", wait))
                return True
        return False


def _size(cost: int) -> int:
    return min(_SIZES - 1, cost.bit_length())


def _overloaded(code: str, seconds: float) -> Overloaded:
    after = max(1, math.ceil(seconds))
    error = Overloaded(
        "All backends are busy. Try again later.", code=code, headers={"Retry-After": str(after)}
    )
    error.status, error.type = 429, "rate_limit_error"
    return error
