"""Whether a tenant's request may be made, and what it has used in the end.

What will be used is reserved when a request comes, and settled when it and every call it caused are over, however
they ended. It must never keep a request waiting longer than its counts do, nor leave a reservation behind.
"""

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gateway.errors import Forbidden, GatewayError
from gateway.exchange import Exchange, Refuse, Request, Usage
from gateway.limits import money, tell
from gateway.limits.account import Ask, Standing, Terms, Use
from gateway.limits.counts import Counts
from gateway.limits.rates import SLACK

log = logging.getLogger("gateway.limits")


_NOTHING = Usage()


class Foreseen(NamedTuple):
    """What a request will probably cost."""

    prompt: int  # tokens
    output: int
    dollars: float


class Grant:
    """Leave for one request. It and each upstream call it causes hold it; the last to end settles it."""

    __slots__ = ("_ask", "_charged", "_nanos", "_open", "_over", "_room", "_tokens", "foreseen", "standing", "tenant",
                 "terms")  # fmt: skip

    def __init__(
        self, room: "Limits", tenant: str, terms: Terms, standing: Standing, ask: Ask, foreseen: Foreseen
    ) -> None:
        self.tenant, self.terms, self.standing, self.foreseen = tenant, terms, standing, foreseen
        self._room = room
        self._ask = ask
        self._charged = (0, 0) if standing.withheld else (ask.tokens, ask.nanos)
        self._tokens = self._nanos = 0
        self._open = 1  # the request itself
        self._over = False

    def begin(self) -> None:
        """A call to an engine begins."""
        self._open += 1

    def end(self, usage: Usage = _NOTHING, dollars: float = 0.0) -> None:
        """A call, or the request itself, is over; what it has used."""
        self._tokens += usage.prompt + usage.completion
        self._nanos += money.nanos(dollars)
        self._open -= 1
        if self._open == 0:
            self._settle()

    def tell(self, headers: Any, *, free: bool) -> None:
        """Into a response's headers. `free`: the answer came from the cache."""
        reserved = self._ask.tokens if free and not self.standing.withheld else 0
        tell.put(tell.headers(self.terms, self.standing, reserved), headers)
        if over := tell.budget(self.terms, self.standing):
            headers["x-gateway-budget"] = over

    def _settle(self) -> None:
        """Where a call begins after all was over, once more for what it adds."""
        before, self._charged = self._charged, (self._tokens, self._nanos)
        use = Use(
            self._ask, self.standing.counted, 1, self._tokens, self._nanos, *before, last=not self._over
        )
        self._over = True
        self._room.settled(self, use)


class Limits:
    """Lets requests of configured tenants in.

    Args:
        foresee: what a request will probably cost; None: a body that cannot be read.
        entry: the configured entry behind a model's name (`*`: whatever no entry lists), or None.
    """

    def __init__(
        self,
        counts: Counts,
        foresee: Callable[[Request | None], Foreseen],
        entry: Callable[[str], str | None],
    ) -> None:
        self._counts = counts
        self._foresee = foresee
        self._entry = entry
        self._terms: Mapping[str, Terms] = {}
        self._told: dict[str, str] = {}  # tenant → the period in which its soft limit was logged
        self._seen: dict[str, Standing] = {}
        self._prefix = secrets.token_hex(8)
        self._number = 0
        self.admitted: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()  # by tenant and reason
        self.tokens: Counter[str] = Counter()
        self.nanos: Counter[str] = Counter()

    def configure(self, terms: Mapping[str, Terms]) -> None:
        """Adopt what tenants (by id) may use. Those with no terms, and everybody in open mode, are not limited."""
        self._terms = dict(terms)

    @property
    def terms(self) -> Mapping[str, Terms]:
        return self._terms

    @property
    def counts(self) -> Counts:
        return self._counts

    def allows(self, tenant: str, model: str) -> bool:
        """Whether a tenant may ask for a model."""
        terms = self._terms.get(tenant)
        if terms is None or terms.models is None:
            return True
        return model in terms.models or ("*" in terms.models and self._entry(model) == "*")

    async def admit(self, x: Exchange, request: Request | None, *, blind: bool = False) -> None:
        """Let a request in, with a grant that its Exchange then holds.

        Where only tokens or money are used up, it goes on to the cache and `x.withheld` is why no engine is asked.

        Args:
            blind: it has a body, and what model that asks for cannot be read.

        Raises:
            GatewayError: 403 or 429.
        """
        terms = self._terms.get(x.tenant)
        if terms is None:
            return
        self._check_model(x, terms, request, blind)
        if not terms.counted:
            return
        foreseen = self._foresee(request)
        tokens = foreseen.prompt + foreseen.output
        if terms.tokens is not None:
            tokens = min(tokens, terms.tokens)  # what is larger than a minute's share waits for all of it
        self._number += 1
        period = money.name(terms.period, self._counts.now())
        ask = Ask(f"{self._prefix}{self._number:x}", tokens, money.nanos(foreseen.dollars), period)
        standing = await self._counts.take(x.tenant, terms, ask)
        self._seen[x.tenant] = standing
        if standing.refused:
            self.refused[x.tenant, standing.refused.replace("_", "-")] += 1
            raise tell.over_rate(terms, standing, tokens)
        x.grant = Grant(self, x.tenant, terms, standing, ask, foreseen)
        self.admitted[x.tenant] += 1
        x.withheld = self._withheld(terms, standing, tokens)
        self._warn(x.tenant, terms, standing, period)

    def over(self, x: Exchange) -> None:
        """A request has come to its end, whatever it was; calls it caused may still go on."""
        if x.grant is None:
            return
        if isinstance(x.decision, Refuse) and x.decision.error is x.withheld:
            self.refused[x.tenant, x.grant.standing.withheld] += 1
        x.grant.end()

    def settled(self, grant: Grant, use: Use) -> None:
        """A grant is over."""
        self._counts.settle(grant.tenant, grant.terms, use)
        again = not use.last  # what was settled before stands for what was reserved
        self.tokens[grant.tenant] += use.tokens - (use.reserved_tokens if again else 0)
        self.nanos[grant.tenant] += use.nanos - (use.reserved_nanos if again else 0)

    async def state(self) -> dict[str, dict[str, Any]]:
        """By tenant, what the admin API shows: limits, and what is used of them."""
        now = self._counts.now()
        wanted = {name: (t, money.name(t.period, now)) for name, t in self._terms.items() if t.counted}
        found = await self._counts.standings(wanted)
        self._seen.update(found)
        return {name: _state(terms, found.get(name), now) for name, terms in self._terms.items()}

    def seen(self, tenant: str) -> Standing | None:
        """How a tenant stood when it was last looked at from here."""
        return self._seen.get(tenant)

    def _check_model(self, x: Exchange, terms: Terms, request: Request | None, blind: bool) -> None:
        if terms.models is None:
            return
        x.models = terms.models
        if request is None and blind:
            self.refused[x.tenant, "model"] += 1
            raise _no_access(
                "Your key is for certain models, and this request does not say which it asks for."
            )
        if request is not None and not self.allows(x.tenant, request.model):
            self.refused[x.tenant, "model"] += 1
            raise _no_access(f"Your key does not have access to the model '{request.model[:200]}'.")

    def _withheld(self, terms: Terms, standing: Standing, tokens: int) -> GatewayError | None:
        if standing.withheld == "budget":
            return tell.over_budget(terms, standing, self._counts.now())
        return tell.over_rate(terms, standing, tokens) if standing.withheld else None

    def _warn(self, tenant: str, terms: Terms, standing: Standing, period: str) -> None:
        """Once a period."""
        over = terms.soft is not None and standing.spent > terms.soft
        if over and self._told.get(tenant) != period:
            self._told[tenant] = period
            log.warning(
                "a tenant is over the soft limit of its budget",
                extra={"fields": {"tenant": tenant, "budget": tell.budget(terms, standing)}},
            )


def _no_access(message: str) -> Forbidden:
    """As OpenAI refuses a project a model."""
    error = Forbidden(message, code="model_not_found")
    error.type = "invalid_request_error"
    return error


def _state(terms: Terms, standing: Standing | None, now: float) -> dict[str, Any]:
    budget = None
    if terms.soft is not None or terms.hard is not None:
        known = {"soft": terms.soft, "hard": terms.hard}
        budget = {
            "period": terms.period,
            **{name: None if n is None else money.dollars(n) for name, n in known.items()},
        }
    return {
        "models": None if terms.models is None else sorted(terms.models),
        "limits": {
            "requests_per_minute": terms.requests,
            "tokens_per_minute": terms.tokens,
            "in_flight": terms.in_flight,
        },
        "budget": budget,
        "used": None if standing is None else _used(terms, standing, now),
    }


def _used(terms: Terms, standing: Standing, now: float) -> dict[str, Any]:
    return {
        "requests": None if terms.requests is None else math.ceil(standing.requests - SLACK),
        "tokens": None if terms.tokens is None else math.ceil(standing.tokens - SLACK),
        "in_flight": standing.in_flight,
        "period": money.name(terms.period, now),
        "dollars": money.dollars(standing.spent),
        "dollars_left": None if terms.hard is None else money.dollars(terms.hard - standing.spent),
    }
