"""What callers are told of their limits: `x-ratelimit-*` as OpenAI sends them, and refusals in its shape. Pure."""

import math
from typing import Any

from gateway.errors import GatewayError
from gateway.limits import money, rates
from gateway.limits.account import Standing, Terms

_NAMES = ("limit", "remaining", "reset")
_AT_ONCE_SECONDS = 1  # until a place among requests in progress may be free: nobody knows


def headers(terms: Terms, standing: Standing, tokens: int = 0) -> dict[str, str]:
    """The rates that are limited. `tokens`: reserved, and not needed as the answer came from the cache."""
    told: dict[str, str] = {}
    levels = (
        ("requests", terms.requests, standing.requests),
        ("tokens", terms.tokens, max(0.0, standing.tokens - tokens)),
    )
    for kind, rate, level in levels:
        if rate is not None:
            values = (str(rate), str(rates.left(level, rate)), duration(rates.reset(level, rate)))
            told |= {f"x-ratelimit-{name}-{kind}": v for name, v in zip(_NAMES, values, strict=True)}
    return told


def put(told: dict[str, str], into: Any) -> None:
    """Into a response's headers, in the place of what an engine said of the gateway's own account there."""
    if told:
        for kind in ("requests", "tokens"):
            for name in _NAMES:
                into.pop(f"x-ratelimit-{name}-{kind}", None)
        into.update(told)


def budget(terms: Terms, standing: Standing) -> str:
    """`x-gateway-budget`, once the soft limit is passed; empty before."""
    if terms.soft is None or standing.spent <= terms.soft:
        return ""
    parts = [f"used={_dollars(standing.spent)}", f"soft={_dollars(terms.soft)}"]
    if terms.hard is not None:
        parts.append(f"hard={_dollars(terms.hard)}")
    return "; ".join([*parts, f"period={terms.period}"])


def over_rate(terms: Terms, standing: Standing, tokens: int) -> GatewayError:
    """429 for what `refused` names, or `withheld` for tokens."""
    kind = "tokens" if standing.withheld == "tokens" else "requests"
    if standing.refused == "in_flight":
        message = f"Too many requests in progress: Limit {terms.in_flight}."
        seconds: float = _AT_ONCE_SECONDS
    else:
        rate, level, units = (
            (terms.tokens or 1, standing.tokens, tokens)
            if kind == "tokens"
            else (terms.requests or 1, standing.requests, 1)
        )
        seconds = rates.wait(level, units, rate)
        message = (
            f"Rate limit reached on {kind} per min: Limit {rate}, Used {math.ceil(level - rates.SLACK)}, "
            f"Requested {units}. Please try again in {duration(seconds)}."
        )
    return _refusal(message, kind, "rate_limit_exceeded", seconds, headers(terms, standing))


def over_budget(terms: Terms, standing: Standing, now: float) -> GatewayError:
    """429 that no retry helps against before the period is over."""
    message = f"You exceeded your current quota: the budget of this {terms.period} is used up."
    told = {**headers(terms, standing), "x-should-retry": "false"}
    code = "insufficient_quota"
    return _refusal(message, code, code, money.left(terms.period, now), told)


def duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`, `1h2m3s`; rounded up."""
    milliseconds = math.ceil(seconds * 1000 - rates.SLACK)
    if milliseconds < 1000:
        return f"{max(milliseconds, 0)}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest = divmod(math.ceil(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + f"{minutes}m{rest}s"


def _refusal(message: str, type: str, code: str, seconds: float, told: dict[str, str]) -> GatewayError:
    error = GatewayError(message, code=code, headers={"Retry-After": str(max(1, math.ceil(seconds))), **told})
    error.status, error.type = 429, type
    return error


def _dollars(nanos: int) -> str:
    return f"{money.dollars(nanos):.6f}".rstrip("0").rstrip(".")
