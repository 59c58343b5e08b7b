"""Trust: what is known of each category's semantic hits, and what may therefore be served.

`looked`, `share` and `explore` are on the way of every semantic look-up and cost about a microsecond each;
everything is learned in `judged`, beside the traffic. `conditions` is a snapshot: reading it costs nothing.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gateway.trust.category import Category, Closed, Figures, Report, Source, Terms
from gateway.trust.rates import pooled

__all__ = ["Conditions", "Figures", "Report", "Terms", "Trust"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds now. Replaced as a whole, and only when something has changed."""

    points: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Category → thresholds of its statistic for equal steps of risk, from `max_error` to `load_max_error`
    (one alone where there is no such). A category that is missing keeps its policy's threshold."""
    closed: Mapping[str, Closed] = field(default_factory=lambda: MappingProxyType({}))
    """Category → why it serves no semantic hit now."""


class Trust:
    """All categories' standing. Not thread-safe: the event loop's own.

    share: of semantic hits to be judged at least, in (0, 1]. window: look-ups of a category that count.
    clock: unix seconds, for reports alone.
    """

    def __init__(
        self, share: float = 0.02, window: int = 10_000, clock: Callable[[], float] = time.time
    ) -> None:
        if not 0 < share <= 1 or window < 1:
            raise ValueError("the share lies in (0, 1], the window is at least 1")
        self._share = share
        self._window = window
        self._clock = clock
        self._categories: dict[str, Category] = {}
        self.conditions = Conditions()

    def __repr__(self) -> str:
        closed = ", ".join(self.conditions.closed) or "none"
        return f"<Trust in {len(self._categories)} categories; closed: {closed}>"

    def configure(self, terms: Mapping[str, Terms]) -> None:
        """What policies ask now. Categories no longer named are forgotten, others keep what they know.

        A category whose `statistic` has another name begins anew: its figures were of another scale.
        """
        kept = {}
        for name, wanted in terms.items():
            known = self._categories.get(name)
            if known is None or known.terms.statistic != wanted.statistic:
                known = Category(wanted, self._share, self._window)
            else:
                known.configure(wanted)
            kept[name] = known
        self._categories = kept
        self._publish()

    def seed(self, category: str, statistics: Sequence[float], wrong: Sequence[bool]) -> None:
        """Offline labels as the window's oldest content, one a look-up; of too many an even choice.

        A pair that the guard vetoes is a look-up without a candidate: pass its statistic as -1. The same labels
        again change nothing, others replace those before. Raises KeyError for a category not configured,
        ValueError if the lengths differ.
        """
        self._categories[category].seed(statistics, wrong)
        self._publish()

    def looked(self, category: str, tenant: str = "", load: float = 0.0) -> None:
        """A semantic look-up happened, whether or not it had a candidate. `load`: the λ it was decided under."""
        known = self._categories.get(category)
        if known is not None and known.looked(tenant, load):
            self._publish()

    def share(self, category: str, s: float, tenant: str = "", *, served: bool = True) -> float:
        """With which probability this hit, or candidate that was not served, should be judged. Once for each.

        The weight of its judgement is one over what this gave. Counts the hit, and watches the statistics:
        when their distribution is not what it was, more are judged.
        """
        known = self._categories.get(category)
        return self._share if known is None else known.share(s, tenant, served)

    def below(self, category: str) -> float:
        """With which probability to judge a candidate that is too far to be served, before its statistic is known.

        Its judgement, of weight one over this, moves the operating point.
        """
        known = self._categories.get(category)
        return self._share if known is None else known.below()

    def missed(self, category: str, *, served: bool = True) -> None:
        """A sample was drawn and could not be judged (no budget, no answer): others of its kind must speak for it."""
        known = self._categories.get(category)
        if known is not None:
            known.drawn(served, missed=True)

    def void(self, category: str) -> None:
        """A sample of what was not served turned out to be none: guard or policy refuse all of its candidates."""
        known = self._categories.get(category)
        if known is not None:
            known.drawn(served=False, missed=False)

    def judged(
        self,
        category: str,
        tenant: str,
        s: float,
        *,
        wrong: bool,
        weight: float = 1.0,
        served: bool = True,
        entry: int | None = None,
        source: Source = "sample",
    ) -> None:
        """What was found of a hit (`served`) or of a candidate that was not served.

        One below the operating point moves that point; only one that would be served now counts as withheld.
        weight: 1/q of the sample. source: "feedback" is no random sample: a bad one counts against the
        category at weight 1, a good one is counted and changes nothing. Unknown categories are ignored.
        """
        known = self._categories.get(category)
        if known is None:
            return
        if source == "feedback":
            known.told(tenant, s, wrong, served, entry)
        else:
            known.judged(tenant, s, wrong, weight, served, entry)
        self._publish()

    def retract(self, category: str, tenant: str, s: float, *, wrong: bool) -> None:
        """Take back what "feedback" has counted: somebody thinks otherwise now.

        What a bad one has spent of the budget is earned back by look-ups as ever, or verdicts could be saved up to
        be taken back when the budget is needed.
        """
        known = self._categories.get(category)
        if known is not None:
            known.untold(tenant, s, wrong)
            self._publish()

    def knows(self, category: str) -> bool:
        """Whether it is configured: of others nothing is learned."""
        return category in self._categories

    def explore(self, category: str, entry: int, s: float, u: float) -> bool:
        """Whether to forward although this entry would hit; u uniform in [0, 1). False unless `bound: learned`."""
        known = self._categories.get(category)
        if known is None or known.learned is None:
            return False
        return known.learned.explore(entry, s, u)

    def forget(self, entries: Iterable[int]) -> None:
        """Entries that are gone: their own observations go too."""
        gone = list(entries)
        for known in self._categories.values():
            if known.learned is not None:
                known.learned.forget(gone)

    def report(self) -> dict[str, Report]:
        """What is known, by category."""
        return {name: known.report() for name, known in self._categories.items()}

    def overall(self) -> Figures:
        """Served hits of all categories together, each category by its part of the hits of late."""
        known = [each.served() for each in self._categories.values()]
        rates = [(lately, f.rate, f.low, f.high) for f, lately in known if lately > 0]
        counts = zip(*((f.lookups, f.hits, f.judged, f.wrong) for f, _ in known), strict=True)
        lookups, hits, judged, wrong = map(sum, counts) if known else (0, 0, 0, 0)
        return Figures(lookups, hits, judged, wrong, *pooled(rates))

    def to_json(self) -> dict[str, Any]:
        """All that is known, as plain values for orjson."""
        return {name: known.to_json() for name, known in self._categories.items()}

    def from_json(self, state: Mapping[str, Any], *, anew: bool = False) -> None:
        """Take up what `to_json` gave, for those configured and of the same statistic; before or after `seed`.

        anew: of the others nothing stays.
        """
        for name, known in self._categories.items():
            if name in state and state[name]["statistic"] == known.terms.statistic:
                known.from_json(state[name])
            elif anew:
                self._categories[name] = Category(known.terms, self._share, self._window)
        self._publish()

    def changes(self) -> dict[str, Any]:
        """What was learned here since this was asked last, as plain values for orjson; empty where nothing was."""
        found = {name: known.changes() for name, known in self._categories.items()}
        return {name: change for name, change in found.items() if change is not None}

    def absorb(self, changes: Mapping[str, Any]) -> None:
        """What another process has learned (its `changes`), as if it had happened here.

        Raises ValueError, KeyError or TypeError where it is something else.
        """
        for name, change in changes.items():
            known = self._categories.get(name)
            if known is not None and change["statistic"] == known.terms.statistic:
                known.absorb(change)
        self._publish()

    def _publish(self) -> None:
        points: dict[str, tuple[float, ...]] = {}
        closed: dict[str, Closed] = {}
        for name, known in self._categories.items():
            if known.points is not None:
                points[name] = known.points
            why = known.closed
            if why is not None:
                closed[name] = why
                if known.since is None:
                    known.since = self._clock()
            else:
                known.since = None
        if points != self.conditions.points or closed != self.conditions.closed:
            self.conditions = Conditions(MappingProxyType(points), MappingProxyType(closed))
