"""Money and its periods: whole billionths of a dollar, so that sums are exact; UTC days and months. Pure."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

Period = Literal["day", "month"]
NANOS = 1_000_000_000  # in a dollar


def nanos(dollars: float) -> int:
    return round(dollars * NANOS)


def dollars(amount: int) -> float:
    return amount / NANOS


def name(period: Period, now: float) -> str:
    """The period that a moment (unix seconds) lies in: `2026-11-25` or `2026-11`."""
    return _named(period, int(now // 3600))


@lru_cache(64)
def _named(period: Period, hour: int) -> str:
    """Of an hour, as no period begins within one: every request asks."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


def left(period: Period, now: float) -> float:
    """Seconds until the next one."""
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        then = today + timedelta(days=1)
    else:
        then = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return then.timestamp() - now
