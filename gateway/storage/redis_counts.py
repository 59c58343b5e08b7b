"""Use of tenants counted on one Redis, for all replicas: one script a request, whose answer is waited for briefly.

Decides the keys, all under `gw:{namespace}:limits:` (one cluster node), and what a script's missing answer means. While
Redis is away requests are counted here and let through; afterwards it is told, each thing once: a batch bears a number
that Redis remembers, and a reservation whose answer never came is looked up by its id, or barred from coming late.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.errors import StoreError
from gateway.limits.account import Ask, Counted, Standing, Terms, Use
from gateway.limits.counts import MemoryCounts
from gateway.limits.rates import Bucket
from gateway.storage.bounded import bounded, leaving

log = logging.getLogger(__name__)
_LEASE = 60.0  # seconds a request counts as in progress without a word from its replica
_RENEW = 15.0
_UNSURE = 10_000  # reservations without an answer that are remembered
_BATCH = 500  # tenants told of in one script

# What a bucket holds now. Redis' own time, so that replicas' clocks do not matter.
_HEAD = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function levels(key, rates, tokens)
  local kept = redis.call('HMGET', key, 'r', 't', 'at')
  local at = tonumber(kept[3] or '') or 0
  local gone = math.max(0, now - at) / 60
  local r = math.max(0, (tonumber(kept[1] or '') or 0) - gone * rates)
  local t = math.max(0, (tonumber(kept[2] or '') or 0) - gone * tokens)
  return r, t, math.max(at, now)
end
local function keep(key, r, t, at, rates, tokens)
  if rates <= 0 then r = 0 end
  if tokens <= 0 then t = 0 end
  redis.call('HSET', key, 'r', r, 't', t, 'at', at)
  local full = 0
  if rates > 0 then full = r / rates end
  if tokens > 0 then full = math.max(full, t / tokens) end
  redis.call('EXPIRE', key, math.ceil(full * 60) + 60)
end
local function spend(key, nanos)
  if nanos ~= '0' then
    redis.call('INCRBY', key, nanos)
    redis.call('EXPIRE', key, 3456000)
  end
end
"""
# A request in progress is `id` in the sorted set `open`, or `id:w` where its tokens and money were withheld.
# KEYS: levels, open, settled, money. ARGV: id, requests, tokens and in_flight allowed (0: any), budget in nanos (-1:
# any), tokens and nanos asked for, seconds of the lease, 1 to only look.
_TAKE = (
    _HEAD
    + """
local rates, tokens, places = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local hard, units = tonumber(ARGV[5]), tonumber(ARGV[6])
local r, t, at = levels(KEYS[1], rates, tokens)
local open = redis.call('ZCOUNT', KEYS[2], now, '+inf')
local spent = redis.call('GET', KEYS[4]) or '0'
local refused, withheld = '', ''
local id = ARGV[1]
local again = redis.call('ZSCORE', KEYS[2], id) or redis.call('ZSCORE', KEYS[2], id .. ':w')
if ARGV[9] == '0' and not again then
  if redis.call('ZSCORE', KEYS[3], id) then refused = 'late'
  elseif rates > 0 and r + 1 > rates + 1e-6 then refused = 'requests'
  elseif places > 0 and open >= places then refused = 'in_flight'
  elseif hard >= 0 and tonumber(spent) + tonumber(ARGV[7]) > hard then withheld = 'budget'
  elseif tokens > 0 and t + units > tokens + 1e-6 then withheld = 'tokens' end
  if refused == '' then
    r, open = r + 1, open + 1
    if withheld ~= '' then
      id = id .. ':w'
    else
      t = t + units
      spend(KEYS[4], ARGV[7])
      spent = redis.call('GET', KEYS[4]) or '0'
    end
    keep(KEYS[1], r, t, at, rates, tokens)
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 3600)
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[8]), id)
    redis.call('EXPIRE', KEYS[2], 7200)
  end
end
return {refused, withheld, string.format('%.6f', now), string.format('%.6f', r), string.format('%.6f', t),
        tostring(open), spent}
"""
)
# KEYS: number, then of each tenant levels, open, settled, then money keys. ARGV: what `_Batch.told` makes.
_SETTLE = (
    _HEAD
    + """
local batch = cjson.decode(ARGV[1])
if tonumber(redis.call('GET', KEYS[1]) or '-1') >= batch.number then return 0 end
redis.call('SET', KEYS[1], batch.number, 'EX', 864000)
for _, one in ipairs(batch.tenants) do
  local key, open, settled = KEYS[one.key], KEYS[one.key + 1], KEYS[one.key + 2]
  local r, t, at = levels(key, one.rates, one.tokens)
  r, t = math.max(0, r + one.r), math.max(0, t + one.t)
  for _, id in ipairs(one.over) do redis.call('ZREM', open, id, id .. ':w') end
  for _, id in ipairs(one.renew) do
    redis.call('ZADD', open, 'XX', now + batch.lease, id, now + batch.lease, id .. ':w')
  end
  for _, spent in ipairs(one.money) do spend(KEYS[spent[1]], spent[2]) end
  for _, u in ipairs(one.unsure) do
    if redis.call('ZREM', open, u.id) == 1 then
      t = t + u.tokens - u.reserved_tokens
      spend(KEYS[u.key], u.known)
    elseif redis.call('ZREM', open, u.id .. ':w') == 1 then
      t = t + u.tokens
      spend(KEYS[u.key], u.nanos)
    else
      redis.call('ZADD', settled, now, u.id)
      r, t = r + u.requests, t + u.tokens
      spend(KEYS[u.key], u.nanos)
    end
    t = math.max(0, t)
    redis.call('ZREMRANGEBYSCORE', settled, '-inf', now - 3600)
    redis.call('EXPIRE', settled, 7200)
  end
  keep(key, r, t, at, one.rates, one.tokens)
end
return 1
"""
)


@dataclass(slots=True)
class _Pending:
    """What Redis is still to be told of one tenant. What never got there drains as it would have there."""

    terms: Terms
    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    back: int = 0  # tokens given back
    money: dict[str, int] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    renew: list[str] = field(default_factory=list)
    unsure: list[Use] = field(default_factory=list)

    def add(self, use: Use, now: float) -> None:
        """One that is over, of which Redis has, or has not, counted the reservation."""
        unsent = use.counted == "unsent"
        if unsent and self.terms.requests is not None and use.last:
            self.requests.add(use.requests, self.terms.requests, now)
        if not unsent and use.last:
            self.over.append(use.ask.id)
        again = not use.last  # what was settled before is there already, or on its way
        tokens = use.tokens - (0 if unsent and not again else use.reserved_tokens)
        nanos = use.nanos - (0 if unsent and not again else use.reserved_nanos)
        if tokens < 0:
            self.back -= tokens
        elif self.terms.tokens is not None:
            self.tokens.add(tokens, self.terms.tokens, now)
        if nanos:
            self.money[use.ask.period] = self.money.get(use.ask.period, 0) + nanos


class RedisCounts:
    """Counts on a Redis 6.2 or later.

    Args:
        connect: makes the client; nothing is sent before it is used.
        connections: how many it may have; who comes while all are taken waits, within the deadline.
        deadline: seconds a request waits for its answer.
        rest: seconds Redis is left alone after a failure.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        namespace: str = "default",
        connections: int = 64,
        deadline: float = 0.5,
        rest: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._prefix = f"gw:{{{namespace}}}:limits:"
        self._places = asyncio.Semaphore(connections)  # a used-up pool would raise, as if Redis were away
        self._deadline = deadline
        self._rest = rest
        self._clock = clock
        self._mirror = MemoryCounts(clock=clock)  # what Redis last said, and what happened since
        self._replica = secrets.token_hex(8)
        self._offset = 0.0  # Redis' clock less ours
        self._away_until = -math.inf
        self._redis: Any = None
        self._take: Any = None
        self._settle: Any = None
        self._pending: dict[str, _Pending] = {}
        self._batch: tuple[list[str], bytes] | None = None  # sent, and not known to have arrived
        self._number = 0
        self._unsure = 0
        self._running: dict[str, tuple[str, Terms]] = {}  # id → whose; their leases are renewed
        self._renewed = clock()
        self._wake = asyncio.Event()
        self.local = 0
        self.failures = 0
        self.dropped = 0  # reservations that stay in Redis, or not, as nobody could remember to ask

    def __repr__(self) -> str:
        return f"<RedisCounts: {'away' if self.away else 'here'}, {len(self._pending)} tenants to tell of>"

    @property
    def away(self) -> bool:
        return self._clock() < self._away_until

    @property
    def pending(self) -> int:
        """Tenants of whom Redis is still to be told something."""
        return len(self._pending) + (self._batch is not None)

    def now(self) -> float:
        return self._clock() + self._offset

    async def open(self) -> None:
        """Nothing is kept here."""

    async def take(self, tenant: str, terms: Terms, ask: Ask) -> Standing:
        if self.away or (self._redis is None and not self._opened()):
            return await self._here(tenant, terms, ask, "unsent")
        try:
            standing = await self._ask(tenant, terms, ask)
        except StoreError as error:
            self._failed(error)
            return await self._here(tenant, terms, ask, "unsure")
        except asyncio.CancelledError:  # the client left: whether it was counted is to be found out
            self._doubt(tenant, terms, Use(ask, "unsure", 0, 0, 0, ask.tokens, ask.nanos))
            raise
        account = self._mirror.account(tenant)
        account.adopt(standing, ask.period, self._clock())
        if not standing.refused:
            account.in_flight += 1
            self._running[ask.id] = tenant, terms
        return standing

    def settle(self, tenant: str, terms: Terms, use: Use) -> None:
        self._mirror.settle(tenant, terms, use)
        self._running.pop(use.ask.id, None)
        if use.counted == "unsure" and use.last:
            self._doubt(tenant, terms, use)
        else:
            self._of(tenant, terms).add(use, self._clock())
            self._wake.set()

    async def standings(self, tenants: Mapping[str, tuple[Terms, str]]) -> dict[str, Standing]:
        found = await self._mirror.standings(tenants)
        for name, (terms, period) in tenants.items():
            if self.away or (self._redis is None and not self._opened()):
                break
            try:
                found[name] = await self._ask(name, terms, Ask("", 0, 0, period), look=True)
            except StoreError as error:
                self._failed(error)
        return found

    async def run(self) -> None:
        """Tell Redis what is over as soon as it can be told, and that what goes on still does."""
        while True:
            try:
                async with asyncio.timeout(_RENEW):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._clock() - self._renewed >= _RENEW:
                self._renew()
            while self.pending and await self._flush():
                pass
            if self.pending:
                await asyncio.sleep(self._rest)
                self._wake.set()

    async def close(self) -> None:
        while self.pending and await self._flush():
            pass
        if self.pending:
            log.error("redis is away: what %d tenants have used of late is not counted", self.pending)
        if self._redis is not None:
            redis, self._redis = self._redis, None
            try:
                async with bounded("redis: close", self._deadline):
                    await redis.aclose()
                    if (pool := getattr(redis, "connection_pool", None)) is not None:
                        await pool.disconnect()
            except StoreError as error:
                log.warning("%s", error)

    def _opened(self) -> bool:
        try:
            self._redis = self._connect()
        except StoreError as error:
            self._failed(error)
            return False
        self._take, self._settle = (self._redis.register_script(text) for text in (_TAKE, _SETTLE))
        return True

    async def _ask(self, tenant: str, terms: Terms, ask: Ask, *, look: bool = False) -> Standing:
        keys = [*self._keys(tenant), self._money(tenant, ask.period)]
        given = [
            ask.id, terms.requests or 0, terms.tokens or 0, terms.in_flight or 0,
            -1 if terms.hard is None else terms.hard, ask.tokens, ask.nanos, int(_LEASE), int(look),
        ]  # fmt: skip
        async with bounded("redis: limits", self._deadline), self._places:
            told = [part.decode() for part in await leaving(self._take(keys=keys, args=given))]
        refused, withheld, now, requests, tokens, open, spent = told
        self._offset = float(now) - self._clock()
        return Standing(refused, withheld, float(requests), float(tokens), int(open), int(spent))

    async def _here(self, tenant: str, terms: Terms, ask: Ask, counted: Counted) -> Standing:
        """Counted as Redis would, from what it last said."""
        self.local += 1
        standing = await self._mirror.take(tenant, terms, ask)
        if standing.refused and counted == "unsure":
            self._doubt(tenant, terms, Use(ask, counted, 0, 0, 0, ask.tokens, ask.nanos))
        return standing._replace(counted=counted)

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        if not self.away:
            log.warning("limits are counted by each replica for itself: %s", error)
        self._away_until = self._clock() + self._rest

    def _doubt(self, tenant: str, terms: Terms, use: Use) -> None:
        if self._unsure >= _UNSURE:
            self.dropped += 1
            return
        self._unsure += 1
        self._of(tenant, terms).unsure.append(use)
        self._wake.set()

    def _of(self, tenant: str, terms: Terms) -> _Pending:
        found = self._pending.get(tenant)
        if found is None:
            found = self._pending[tenant] = _Pending(terms)
        found.terms = terms
        return found

    def _renew(self) -> None:
        self._renewed = self._clock()
        for pending in self._pending.values():
            pending.renew.clear()
        for id, (tenant, terms) in self._running.items():
            self._of(tenant, terms).renew.append(id)

    async def _flush(self) -> bool:
        """One batch; the same again, under the same number, until Redis has said that it has it."""
        if self._redis is None and not self._opened():
            return False
        if self._batch is None:
            names = list(self._pending)[:_BATCH]
            self._number += 1
            told = [(name, self._pending.pop(name)) for name in names]
            self._unsure -= sum(len(pending.unsure) for _, pending in told)
            self._batch = self._written(told)
        keys, text = self._batch
        try:
            async with bounded("redis: settle", 4 * self._deadline), self._places:
                await self._settle(keys=keys, args=[text])
        except StoreError as error:
            self._failed(error)
            return False
        self._batch = None
        self._away_until = -math.inf
        return True

    def _written(self, told: Sequence[tuple[str, _Pending]]) -> tuple[list[str], bytes]:
        keys, tenants, now = [f"{self._prefix}told:{self._replica}"], [], self._clock()

        def money(tenant: str, period: str) -> int:
            keys.append(self._money(tenant, period))
            return len(keys)

        for name, p in told:
            place = len(keys) + 1
            keys += self._keys(name)
            requests, tokens = p.terms.requests or 0, p.terms.tokens or 0
            tenants.append(
                {
                    "key": place,
                    "rates": requests,
                    "tokens": tokens,
                    "r": p.requests.drained(requests, now),
                    "t": p.tokens.drained(tokens, now) - p.back,
                    "over": p.over,
                    "renew": p.renew,
                    "money": [[money(name, period), str(nanos)] for period, nanos in p.money.items()],
                    "unsure": [_doubtful(use, money(name, use.ask.period)) for use in p.unsure],
                }
            )
        batch = {"number": self._number, "lease": _LEASE, "tenants": tenants}
        return keys, orjson.dumps(batch)

    def _keys(self, tenant: str) -> list[str]:
        return [f"{self._prefix}{kind}:{tenant}" for kind in ("levels", "open", "settled")]

    def _money(self, tenant: str, period: str) -> str:
        return f"{self._prefix}money:{period}:{tenant}"


def _doubtful(use: Use, key: int) -> dict[str, Any]:
    """Both of what may be true: that the reservation arrived (`known`: the difference in money), and that it did not."""
    return {
        "id": use.ask.id,
        "key": key,
        "requests": use.requests,
        "tokens": use.tokens,
        "reserved_tokens": use.ask.tokens,
        "nanos": str(use.nanos),
        "known": str(use.nanos - use.ask.nanos),
    }
