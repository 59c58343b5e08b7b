"""Whether a category's traffic is still what it was, by the statistics alone: free, and at once.

It says only that judging more would pay. It must never close or loosen anything: a shift need not be harm.
"""

from bisect import bisect_right
from collections.abc import Sequence

_BINS = 5
_BATCH = 25  # candidates compared at a time
_FIRST = 100  # of which the first idea is made
_SURPRISE = 18.5  # chi-squared, 4 degrees of freedom, at 0.1 %
_ALARM = 50  # candidates for which a surprise is one
_LEARN, _RELEARN = 0.005, 0.10  # of each batch, into what is expected: as usual, and after a surprise


class Drift:
    """Compares each 25 statistics with those expected, in five bins (Pearson's chi-squared)."""

    __slots__ = ("_counts", "_first", "_left", "_seen", "edges", "expected")

    def __init__(self) -> None:
        self.edges: list[float] = []
        self.expected: list[float] = []
        self._first: list[float] = []  # statistics of the first batch, where nothing is expected yet
        self._counts = [0] * _BINS
        self._seen = 0
        self._left = 0

    @property
    def alarmed(self) -> bool:
        return self._left > 0

    def expect(self, statistics: Sequence[float]) -> None:
        """What candidates look like, from labels or a first batch."""
        ranked = sorted(statistics)
        if len(ranked) < _FIRST:
            return
        self.edges = [ranked[len(ranked) * part // _BINS] for part in range(1, _BINS)]
        counts = [0] * _BINS
        for s in ranked:  # ties may fill bins unequally
            counts[bisect_right(self.edges, s)] += 1
        self.expected = [count / len(ranked) for count in counts]

    def add(self, s: float) -> bool:
        """One candidate. True where an alarm may have begun or ended by it."""
        if not self.edges:
            return self._begin(s)
        self._counts[bisect_right(self.edges, s)] += 1
        self._seen += 1
        if self._seen < _BATCH:
            return False
        self._left = max(0, self._left - _BATCH)
        return self._compare()

    def _begin(self, s: float) -> bool:
        self._first.append(s)
        if len(self._first) == _FIRST:
            self.expect(self._first)
            self._first = []
        return False

    def _compare(self) -> bool:
        surprise = 0.0
        for count, share in zip(self._counts, self.expected, strict=True):
            wanted = _BATCH * max(share, 0.02)
            surprise += (count - wanted) ** 2 / wanted
        learn = _LEARN
        if surprise > _SURPRISE:
            self._left, learn = _ALARM, _RELEARN
        for at, count in enumerate(self._counts):
            self.expected[at] += learn * (count / _BATCH - self.expected[at])
        self._counts = [0] * _BINS
        self._seen = 0
        return True
