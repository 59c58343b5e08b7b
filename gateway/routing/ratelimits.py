"""What an answer's headers say about when its backend wants to be asked again.

`retry-after-ms`, `retry-after` (seconds or a date, RFC 9110 10.2.3) and the `x-ratelimit-*` family of hosted
APIs. Plain reading: nothing is remembered here, and what cannot be read is as if it were not there.
"""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_LONGEST = 3600.0  # seconds; nobody is left alone for longer because of one header
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")  # "6m0s", "20ms", "1h2m3s"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LIMITS = ("requests", "tokens")


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
    waits = []
    for limit in _LIMITS:
        if headers.get(f"x-ratelimit-remaining-{limit}", "").strip() == "0":
            waits.append(_duration(headers.get(f"x-ratelimit-reset-{limit}", "")))
    known = [seconds for seconds in waits if seconds is not None]
    return _bounded(max(known)) if known else None


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
