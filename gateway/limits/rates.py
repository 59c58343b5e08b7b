"""How much of a rate is used: a bucket that fills with what is taken and drains at the rate. Pure arithmetic.

It knows no tenant, no store and no clock; the Redis script does the same sums.
"""

from dataclasses import dataclass

SECONDS = 60.0  # all rates are per minute
SLACK = 1e-6  # units by which sums of fractions may be off


@dataclass(slots=True)
class Bucket:
    """Units in it at a time; it holds as many as the rate allows in a minute, more only as debt."""

    level: float = 0.0
    at: float = 0.0  # seconds

    def drained(self, rate: float, now: float) -> float:
        """The level now. Where a clock was set back, time stands still."""
        return max(0.0, self.level - max(0.0, now - self.at) * rate / SECONDS)

    def takes(self, units: float, rate: float, now: float) -> bool:
        """Whether so many units fit in."""
        return self.drained(rate, now) + units <= rate + SLACK

    def add(self, units: float, rate: float, now: float) -> None:
        """Put units in, or take back (negative) what was put in and not needed."""
        self.level = max(0.0, self.drained(rate, now) + units)
        self.at = max(self.at, now)


def wait(level: float, units: float, rate: float) -> float:
    """Seconds until so many units fit in."""
    return max(0.0, level + units - rate) * SECONDS / rate


def reset(level: float, rate: float) -> float:
    """Seconds until it is empty."""
    return level * SECONDS / rate


def left(level: float, rate: float) -> int:
    """Whole units that still fit in."""
    return max(0, int(rate - level + SLACK))
