"""What one backend is doing, as far as it shows from outside: own counts, measured rates, the engine's report.

Own in-flight counts are always true for our part; a report that is old or never came is unknown, not zero.
Nothing here reads a clock or chooses a backend.
"""

import math
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

_GROWTH = math.log(2) / 4  # width of a histogram's buckets: 19 %
_BUCKETS = 104
_KEEP = 512  # samples after which old ones count half
_RECENT_SECONDS = 60.0

PREFILL_SECONDS = 1 / 8000  # a prompt token, before anything was measured: one GPU, a model of about 8B
DECODE_SECONDS = 0.025  # an output token, likewise
SHARED = 24  # requests in a batch that double the time of a decode step: weights are read once for all
WAIT_TARGET = 0.5  # seconds a request should wait inside an engine at most, before its own prefill
WINDOW = 16384  # prompt tokens sent ahead and not yet prefilled, at first
WINDOW_FLOOR = 2048
_KV_FULL = 0.95
_FORGET = 30.0  # seconds without a request after which measured rates begin to fade
_SMOOTH = 0.05  # weight of a new sample
_FEW = 32  # tokens of an answer whose pace counts fully
_DOUBT = 100.0  # squared requests by which batches must have differed until their slope counts half


class Histogram:
    """Positive values in logarithmic buckets, older ones fading. Quantiles are right within 10 %."""

    __slots__ = ("_counts", "_unit", "_values", "total")

    def __init__(self, unit: float) -> None:
        """`unit` is the smallest value told apart."""
        self._counts: dict[int, float] = {}  # by place; most are never used
        self._unit = unit
        self._values = _values(unit)
        self.total = 0.0

    def add(self, value: float) -> None:
        place = int(math.log(value / self._unit) / _GROWTH) + 1 if value > self._unit else 0
        place = min(place, _BUCKETS - 1)
        self._counts[place] = self._counts.get(place, 0.0) + 1.0
        self.total += 1.0
        if self.total >= _KEEP:
            self._counts = {place: count / 2 for place, count in self._counts.items()}
            self.total /= 2

    def quantile(self, q: float) -> float | None:
        """The value below which a share `q` lies; None before the first sample."""
        if not self.total:
            return None
        rest = q * self.total
        for place in sorted(self._counts):
            rest -= self._counts[place]
            if rest <= 0:
                return self._values[place]
        return self._values[-1]

    def mean(self, bound: float = math.inf, beyond: float = 0.0) -> float | None:
        """Mean of min(value, bound) among values over `beyond`; None where there is none."""
        weight = total = 0.0
        for place, count in self._counts.items():
            value = self._values[place]
            if value > beyond:
                weight += count
                total += count * (value if value < bound else bound)
        return total / weight if weight else None


@cache
def _values(unit: float) -> tuple[float, ...]:
    """The value each bucket stands for."""
    return (unit, *(unit * math.exp((place - 0.5) * _GROWTH) for place in range(1, _BUCKETS)))


class Recent:
    """Values of the last minute, the latest of many: what is so now, and nothing once nobody asks."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_KEEP)

    def add(self, value: float, now: float) -> None:
        self._seen.append((now, value))

    def quantile(self, q: float, now: float) -> float | None:
        """The value below which a share `q` lies; None where there were none."""
        seen = self._seen
        while seen and seen[0][0] < now - _RECENT_SECONDS:
            seen.popleft()
        ordered = sorted(value for _, value in seen)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else None


class Ratio:
    """A rate as the ratio of two fading sums: small samples count little, as they should."""

    __slots__ = ("_per", "_value", "samples")

    def __init__(self) -> None:
        self._value = self._per = 0.0
        self.samples = 0

    def add(self, value: float, per: float) -> None:
        self._value += (value - self._value) * (weight := max(_SMOOTH, 1 / (self.samples + 1)))
        self._per += (per - self._per) * weight
        self.samples += 1

    def doubt(self) -> None:
        """Let the next sample say all."""
        self.samples = 0

    def get(self, default: float) -> float:
        return self._value / self._per if self._per > 0 and self._value > 0 else default


class Pace:
    """Seconds a token against the batch: a line through fading samples, whose slope is believed as far as they vary.

    A decode step reads the weights once for all, and costs a part of its own for each request: on a GPU the first
    outweighs two dozen requests, on a CPU hardly one. Until batches have differed, the former is assumed.
    """

    __slots__ = ("_batch", "_seconds", "_spread", "_together", "samples")

    def __init__(self) -> None:
        self._batch, self._seconds = 0.0, DECODE_SECONDS  # means
        self._spread = self._together = 0.0  # variance of the batch, covariance with seconds
        self.samples = 0.0

    def add(self, batch: float, seconds: float, tokens: int) -> None:
        """A mean over `tokens`; few of them count little."""
        weight = min(1.0, tokens / _FEW)
        share = weight * max(_SMOOTH, 1 / (self.samples + weight))
        apart, more = batch - self._batch, seconds - self._seconds
        if not self.samples:
            self._spread = self._together = apart = more = 0.0
            self._batch, self._seconds = batch, seconds
        self._batch += share * apart
        self._seconds += share * more
        self._spread = (1 - share) * (self._spread + share * apart * apart)
        self._together = (1 - share) * (self._together + share * apart * more)
        self.samples += weight

    def fade(self) -> None:
        """Hope for less, and let the next sample say all."""
        self._seconds *= 1 - _SMOOTH
        self.samples = 0.0

    def at(self, batch: float) -> float:
        """Expected seconds a token while so many requests share the engine."""
        known = min(self.samples, 1 / _SMOOTH)
        assumed = self._seconds / (SHARED + self._batch)
        slope = (known * self._together + _DOUBT * assumed) / (known * self._spread + _DOUBT)
        slope = min(max(slope, 0.0), self._seconds / max(self._batch, 1.0))
        return max(self._seconds + slope * (batch - self._batch), self._seconds / 10)


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine said of itself."""

    running: int
    waiting: int
    kv_use: float | None  # 0..1
    at: float  # caller's clock
    places: int | None = None  # requests it runs at once, where that is fixed


@dataclass(slots=True)
class Quota:
    """What a hosted API still grants of one thing, counted down by what is sent after it said so."""

    left: float
    rate: float  # a second, by which it grows again; 0 where only its end is known
    at: float
    reset_at: float

    def covers_at(self, wanted: float, now: float) -> float:
        """When so much of it is left; 0 if it is."""
        if now >= self.reset_at or wanted <= self.left + self.rate * (now - self.at):
            return 0.0
        return min(self.reset_at, self.at + (wanted - self.left) / self.rate) if self.rate else self.reset_at


class Signals:
    """One backend's load. Tokens are counted from when a request is sent until it has ended."""

    def __init__(self, *, stale: float = 6.0) -> None:
        """`stale`: seconds after which an engine's report means nothing any more."""
        self._stale = stale
        self.ceiling: int | None = None  # requests, configured
        self.in_flight = 0
        self.backlog = 0  # prompt tokens sent, first token not yet seen
        self.resident = 0  # tokens of requests past their prefill: prompt and output so far
        self.output_left = 0  # predicted output tokens still to come
        self.ttft = Histogram(0.001)
        self.tpot = Histogram(0.0001)
        self.error_rate = 0.0  # EWMA
        self.report: Report | None = None
        self.fresh_until = math.inf  # when the report turns stale; infinity without one
        self.others = 0  # requests at the engine that are not ours, where a fresh report tells
        self.limit: float | None = None  # requests, learned; None: no sign of one
        self.kv_tokens: float | None = None  # capacity of the engine's KV cache, learned
        self.window = float(WINDOW)
        self.per_prompt = PREFILL_SECONDS  # seconds a prompt token, queueing inside the engine included
        self.pace = Pace()
        self.room = math.inf  # prompt tokens that would be started on soon; -1: none
        self.crowded = False  # others have its places: one of ours may wait among them, where all are so
        self._prefill = Ratio()
        self._alone = Ratio()  # prefill of requests that found nobody ahead
        self._floor = Histogram(0.001)
        self._last_first = 0.0
        self._heard_at: float | None = None  # last anything was learned here, or first asked for
        self._shrunk_at = -math.inf
        self._waited = 0  # reports in a row with requests waiting
        self.quotas: dict[str, Quota] = {}  # of hosted APIs, by what is limited

    # ── a request's course ──────────────────────────────────────────────────────────────────────────────

    def sent(self, prompt: int, output: int) -> None:
        self.in_flight += 1
        self.backlog += prompt
        self.output_left += output
        self._settle()

    def charged(self, tokens: int) -> None:
        """A request of so many tokens, cached or not, counts against what a hosted API grants."""
        for limit, quota in self.quotas.items():
            quota.left -= 1 if limit == "requests" else tokens

    def prefilled(self, read: int, prompt: int) -> None:
        """The first token came, or must have come: of `prompt` tokens `read` were not in the prefix cache."""
        self.backlog -= read
        self.resident += prompt
        self._settle()

    def streamed(self, tokens: int, fewer: int) -> None:
        """`tokens` more are out, and the prediction of what is left fell by `fewer` (negative: rose)."""
        self.resident += tokens
        self.output_left -= fewer

    def ended(self, backlog: int, resident: int, output_left: int) -> None:
        """What a request still held is given back."""
        self.in_flight -= 1
        self.backlog -= backlog
        self.resident -= resident
        self.output_left -= output_left
        self._settle()

    # ── what is learned ─────────────────────────────────────────────────────────────────────────────────

    def learn_first(self, prompt: int, ahead: int, sent_at: float, now: float) -> None:
        """A first token: how fast prompts are read, and whether the engine makes requests wait.

        A queue served in order spends on a request the time since it was sent, or since the one before it
        was done, whichever is later; sums of tokens over sums of that time are the rate.
        """
        ttft = max(now - sent_at, 1e-6)
        self.ttft.add(ttft)
        self._prefill.add(now - max(sent_at, self._last_first), prompt)
        self._last_first = self._heard_at = now
        self.per_prompt = self._prefill.get(self.per_prompt)
        if ahead == 0:
            self._alone.add(ttft, prompt)
            self._floor.add(ttft)
        alone = (self._floor.quantile(0.1) or 0.0) + prompt * self._alone.get(PREFILL_SECONDS)
        wait = ttft - alone
        if wait > WAIT_TARGET:
            if now - self._shrunk_at > ttft:  # what was sent before the last cut says nothing about it
                self.window = max(WINDOW_FLOOR, self.window * 0.85)
                self._shrunk_at = now
        elif wait < WAIT_TARGET / 2 and ahead + prompt > self.window / 2:
            self.window += prompt

    def learn_decode(self, tokens: int, seconds: float, batch: float, now: float) -> None:
        """`tokens` came in `seconds` while about `batch` requests shared the engine."""
        if tokens <= 0 or seconds <= 0:
            return
        self.tpot.add(seconds / tokens)
        self.pace.add(batch, seconds / tokens, tokens)
        self._heard_at = now

    def relax(self, now: float) -> None:
        """Nothing was seen here for long: hope grows with each request that goes elsewhere, so that a backend is
        not shunned for good, and the next sample says all."""
        if self._heard_at is None:
            self._heard_at = now
        elif now - self._heard_at > _FORGET and not self.in_flight:
            self.per_prompt *= 1 - _SMOOTH
            self._prefill.doubt()
            self.pace.fade()

    def learn_end(self, failed: bool) -> None:
        self.error_rate += (failed - self.error_rate) * _SMOOTH
        if not failed and self.limit is not None and self.in_flight + 1 >= self.limit:
            self.limit += 1 / self.limit

    def rejected(self) -> None:
        """The engine would not take one more than it has."""
        self.limit = max(1.0, 0.9 * self.in_flight)
        self._settle()

    def reported(self, report: Report) -> None:
        """An engine's own figures. Requests waiting while it keeps running as many show how many it can run.

        Waiting alone shows nothing: prompts wait for their turn to be read in engines with places to spare.
        """
        same = self.report is not None and report.running == self.report.running
        self._waited = self._waited + 1 if report.waiting and same else 0
        self.report = report
        self.fresh_until = report.at + self._stale
        self.others = max(0, report.running + report.waiting - self.in_flight)
        if report.places is not None:
            self.limit = float(report.places)
        elif self._waited >= 2 and report.running:
            self.limit = float(report.running)
        elif not report.waiting and self.limit is not None and self.in_flight + 1 >= self.limit:
            self.limit += max(1.0, self.limit / 10)
        if report.kv_use and self.resident and report.running <= self.in_flight:
            seen = self.resident / report.kv_use
            if report.kv_use > 0.2:
                self.kv_tokens = (
                    seen if self.kv_tokens is None else self.kv_tokens + (seen - self.kv_tokens) / 4
                )
        self._settle()

    def forget(self) -> None:
        """The report has turned stale: what it said is unknown."""
        self.report, self.fresh_until, self.others, self._waited = None, math.inf, 0, 0
        self._settle()

    def granted(
        self, limit: Literal["requests", "tokens"], left: float, rate: float, now: float, reset_at: float
    ) -> None:
        """A hosted API said what is left of one of its limits until all of it is granted again."""
        self.quotas[limit] = Quota(left, rate, now, reset_at)

    # ── what follows ────────────────────────────────────────────────────────────────────────────────────

    def _settle(self) -> None:
        """Kept ready, as every arrival asks every backend."""
        room = self.window - self.backlog if self.backlog else math.inf
        if self.kv_tokens is not None and self.in_flight:
            held = self.backlog + self.resident + self.output_left // 2
            room = min(room, _KV_FULL * self.kv_tokens - held)
        limit = self.limit if self.ceiling is None else self.ceiling
        self.crowded = limit is not None and self.in_flight + self.others + 1 > limit
        if self.crowded and (self.in_flight or self.ceiling is not None):
            room = -1
        self.room = room

    def granted_at(self, tokens: int, now: float) -> float:
        """When its quotas allow so many more; 0 while they do."""
        ready = 0.0
        for limit, quota in self.quotas.items():
            ready = max(ready, quota.covers_at(1 if limit == "requests" else tokens, now))
        return ready

    def load(self, now: float) -> float:
        """0 idle, 1 at capacity: the scarcest of places, prefill window, KV cache."""
        if now > self.fresh_until:
            self.forget()
        limit = self.limit if self.ceiling is None else self.ceiling
        part = self.backlog / self.window
        if limit is not None:
            part = max(part, (self.in_flight + self.others) / limit)
        if self.kv_tokens:
            part = max(part, (self.resident + self.backlog) / self.kv_tokens)
        if self.report is not None and self.report.kv_use is not None:
            part = max(part, self.report.kv_use)
        return part

    def state(self, now: float) -> dict[str, Any]:
        """What the admin API shows."""
        report = self.report if now <= self.fresh_until else None
        return {
            "in_flight": self.in_flight,
            "prompt_tokens_ahead": self.backlog,
            "output_tokens_left": self.output_left,
            "ttft_p50": self.ttft.quantile(0.5),
            "ttft_p95": self.ttft.quantile(0.95),
            "tpot_p50": self.tpot.quantile(0.5),
            "error_rate": round(self.error_rate, 4),
            "running": report and report.running,
            "waiting": report and report.waiting,
            "kv_use": report and report.kv_use,
            "limit": self.limit,
            "window": round(self.window),
        }
