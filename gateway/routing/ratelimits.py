"""What an answer's headers say about when its backend wants to be asked again, and for how much.

`retry-after-ms`, `retry-after` (seconds or a date, RFC 9110 10.2.3) and the `x-ratelimit-*` family of hosted
APIs. Plain reading: nothing is remembered here, and what cannot be read is as if it were not there.
"""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

from multidict import istr

_LONGEST = 3600.0  # seconds; nobody is left alone for longer because of one header
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")  # "6m0s", "20ms", "1h2m3s"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
Limit = Literal["requests", "tokens"]
_NAMES: tuple[Limit, ...] = ("requests", "tokens")
_LIMITS = tuple(
    (
        limit,
        istr(f"x-ratelimit-remaining-{limit}"),
        istr(f"x-ratelimit-limit-{limit}"),
        istr(f"x-ratelimit-reset-{limit}"),
    )
    for limit in _NAMES
)


class Grant(NamedTuple):
    """What an answer says is left of one limit."""

    limit: Limit
    left: float
    rate: float  # a second, by which it grows again, as a bucket does; 0: unknown
    seconds: float  # until all of it is granted again


def pause(headers: Mapping[str, str]) -> float | None:
    """Seconds a refusal asks to wait, or None where it does not say."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    given = headers.get("retry-after", "")
    seconds = _number(given)
    if seconds is None and given:
        seconds = _until(given)
    return exhausted(headers) if seconds is None else _bounded(seconds)


def exhausted(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit that this answer used up is reset, or None: there is something left."""
    waits = [grant.seconds for grant in granted(headers) if not grant.left]
    return max(waits) if waits else None


def granted(headers: Mapping[str, str]) -> list[Grant]:
    """What is left of each limit that tells both what is left and when it is whole again."""
    told = []
    for limit, remaining, whole, reset in _LIMITS:
        text = headers.get(remaining)
        if text is None:
            continue
        left, seconds = _number(text), _duration(headers.get(reset, ""))
        if left is None or seconds is None:
            continue
        left, seconds = max(left, 0.0), _bounded(seconds)
        most = _number(headers.get(whole, ""))
        rate = (most - left) / seconds if most is not None and most > left and seconds > 0 else 0.0
        told.append(Grant(limit, left, rate, seconds))
    return told


def _duration(text: str) -> float | None:
    """`20ms`, `6m0s`, or plain seconds."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    return _number(text)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _until(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), _LONGEST)
