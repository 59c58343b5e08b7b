"""An error budget in use: closes a category whose wrong hits run away, and opens it again.

A cumulative sum over look-ups (Page 1954): each one earns, each wrong hit spends. Two speeds: an error a little
above the budget is for the operating point to cure; this is for what is too fast for it. It never decides what
is wrong.
"""

# Error, in budgets, that earns nothing and spends nothing. For Poisson arrivals the reference that tells a rate
# of α from 2α soonest is α/ln 2 (Lucas 1985); at α itself false alarms are then exponentially rare.
REFERENCE = 1.5
# One observation spends this part of the allowance at most: a sample that stands for fifty hits is a reason to
# judge more (`alarmed`), not yet to close.
_STEP = 0.25
# What a closed category can owe, in allowances: so that it opens again within a known number of look-ups.
_DEBT = 1.25


class Budget:
    """Estimated wrong hits beyond what look-ups have earned. Closes above `allowance`, opens at 0."""

    __slots__ = ("allowance", "closed", "excess")

    def __init__(self, allowance: float) -> None:
        self.allowance = allowance
        self.excess = 0.0
        self.closed = False

    def __repr__(self) -> str:
        return f"<Budget {'closed' if self.closed else 'open'}: {self.excess:.1f} of {self.allowance:.0f} wrong hits>"

    @property
    def alarmed(self) -> bool:
        """Something was wrong of late: judge more until it is earned back."""
        return self.excess > 0.0

    def passed(self, alpha: float) -> bool:
        """One look-up under an error budget of `alpha`. True if the category opens again by it."""
        if self.excess <= 0.0:
            return False
        self.excess -= REFERENCE * alpha
        return self._open_at(self.excess)

    def lost(self, weight: float) -> bool:
        """A wrong hit, standing for `weight` of them. True if the category closes by it."""
        self.excess = self._spent(self.excess, weight)
        if self.closed or self.excess <= self.allowance:
            return False
        self.closed = True
        return True

    def restate(self, observed: list[tuple[int, float]], now: int, alpha: float) -> bool:
        """What would be owed had only these (look-up, weight) been hits: a stricter operating point's share.

        Never raises what is owed. True if the category opens again by it.
        """
        excess, at = 0.0, 0
        for when, weight in observed:
            excess = self._spent(max(0.0, excess - REFERENCE * alpha * (when - at)), weight)
            at = when
        return self._open_at(min(self.excess, excess - REFERENCE * alpha * (now - at)))

    def _spent(self, excess: float, weight: float) -> float:
        return min(excess + min(weight, _STEP * self.allowance), _DEBT * self.allowance)

    def _open_at(self, excess: float) -> bool:
        self.excess = max(0.0, excess)
        if not self.closed or self.excess > 0.0:
            return False
        self.closed = False
        return True
