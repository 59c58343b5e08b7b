"""How much extra traffic a model may cause: a share of its requests, over time, and a small floor.

It bounds what a failing pool is asked beyond what clients asked (retry storms); it decides nothing else.
"""

_SAVED = 500.0  # extra requests saved up at most, however long all went well


class Budget:
    """A token bucket filled by requests. spent <= floor + share * earned, at all times.

    Args:
        share: extra requests earned by each request.
        floor: extra requests allowed before any was earned.
    """

    __slots__ = ("_share", "left", "spent")

    def __init__(self, share: float, floor: float) -> None:
        self._share = share
        self.left = floor
        self.spent = 0

    def earn(self) -> None:
        """A request came."""
        self.left = min(self.left + self._share, _SAVED)

    def covers(self, reserve: float = 0.0) -> bool:
        """Whether one more is allowed and `reserve` remains after it."""
        return self.left >= 1.0 + reserve

    def spend(self) -> None:
        self.left -= 1.0
        self.spent += 1

    def refund(self) -> None:
        """What was paid for did not happen."""
        self.left += 1.0
        self.spent -= 1
