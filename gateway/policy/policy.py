"""The book compiled for the hot path: rules, hint and classification become one `Ruling`.

Pure and synchronous. A caller's hint or control may only tighten: it never lowers a threshold, never
lengthens a TTL, never escapes `none`. What cannot be classified is treated as the strictest it might be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gateway.exchange import UNLOADED, Controls, Endpoint, Entry, Load, Mode, Ruling
from gateway.patterns import compile_pattern
from gateway.policy.book import DEFAULT, Book, Category, Rule
from gateway.policy.fields import MODES

MIN_CONFIDENCE = 0.5  # below it a classification counts as none made, and `default` applies
MAX_MATCH = 32_768  # characters of a question that rules read, from either end

_STRICTNESS = {mode: rank for rank, mode in enumerate(MODES)}


def stricter(a: Mode, b: Mode) -> Mode:
    """The stricter of two modes: semantic < shadow < exact < none."""
    return a if _STRICTNESS[a] >= _STRICTNESS[b] else b


class Demand(NamedTuple):
    """What a semantic hit takes."""

    mode: Mode
    threshold: float  # least cosine similarity
    score: float | None = None  # least score of the verifier; None: it is not asked
    waived: frozenset[str] = frozenset()  # checks of the guard that this score stands in for


def too_hot(limit: float | None, temperature: float | None) -> bool:
    """Whether a request's temperature (unset counts as 1.0) exceeds a category's limit."""
    return limit is not None and (1.0 if temperature is None else temperature) > limit


def adapt(category: Category, load: float, points: Sequence[float] = ()) -> tuple[float, float]:
    """Threshold and TTL in seconds under load λ in [0, 1] (arXiv 2510.26835, load-adaptive policy).

    τ(λ) = max(τ0 − λ·slack, floor), never above τ0; TTL(λ) = t0·(1 + λ·(factor − 1)). A category with a
    calibrated budget spends error instead of similarity: λ moves along the thresholds certified for equal steps
    of risk from its own to `load.max_error`. A threshold has no unit that means the same in two categories.
    `points`: such a path, learned from labels, in place of threshold and budget.
    """
    load = min(max(load, 0.0), 1.0)
    cache, policy = category.cache, category.load
    ttl = cache.lifetime * (1 + load * (policy.ttl_factor - 1))
    if points:
        return (_between(points, load) if len(points) > 1 else points[0]), ttl
    if policy.budget:
        eased = _between((cache.threshold, *policy.budget), load)
    else:
        eased = cache.threshold - load * policy.threshold_slack
    return min(cache.threshold, max(eased, policy.threshold_floor)), ttl


def _between(steps: Sequence[float], part: float) -> float:
    """The value at `part` in [0, 1] of the way along equally spaced steps."""
    place = part * (len(steps) - 1)
    low = min(int(place), len(steps) - 2)
    return steps[low] + (steps[low + 1] - steps[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class _CompiledRule:
    rule: Rule
    name: str
    pattern: Any  # a compiled RE2, or None
    forbids: bool  # leads to a category that is never stored

    def holds(
        self, tenant: str, model: str, endpoint: Endpoint, headers: Mapping[str, str], text: str, cut: bool
    ) -> bool:
        when = self.rule.when
        return (
            when.tenant in (None, tenant)
            and when.model in (None, model)
            and when.endpoint in (None, endpoint)
            and all(headers.get(name) == value for name, value in when.header.items())
            and (self.pattern is None or self.pattern.search(text) is not None or (cut and self.forbids))
        )


def settled(name: str, confidence: float) -> str:
    """The category that a classification stands for."""
    return name if confidence >= MIN_CONFIDENCE else DEFAULT


class Policy:
    """A compiled book. Frozen in use: a new book is a new Policy."""

    def __init__(self, book: Book, guard: Any = None, *, verifier: str = "") -> None:
        self.book = book
        self.verifier = verifier  # its name; without one, similarity alone decides everywhere
        self.guard = guard  # made from the book's list of checks; the walk asks it before a semantic hit
        self.ignore = frozenset(book.ignore)
        self.version = book.version
        self._categories = {category.name: category for category in book.categories}
        self._default = self._categories[DEFAULT]
        self._lifetimes = {category.name: category.cache.lifetime for category in book.categories}
        self._rules = tuple(self._compiled(number, rule) for number, rule in enumerate(book.rules, start=1))
        self._matches = any(rule.pattern is not None for rule in self._rules)
        self.any_none = any(category.cache.mode == "none" for category in book.categories)
        self._offload_all = all(category.offload.allow for category in book.categories)

    def __repr__(self) -> str:
        return f"Policy({self.version}: {len(self._categories)} categories, {len(self._rules)} rules)"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._categories)

    def category(self, name: str) -> Category:
        """The category of that name; `default` for one the book no longer has."""
        return self._categories.get(name, self._default)

    def utterances(self) -> tuple[list[str], list[str]]:
        """(category of each, text of each) for the classifier to be fitted on."""
        pairs = [(category.name, text) for category in self.book.categories for text in category.examples]
        return [name for name, _ in pairs], [text for _, text in pairs]

    def rule(
        self, tenant: str, model: str, endpoint: Endpoint, headers: Mapping[str, str], text: str
    ) -> tuple[str, str] | None:
        """(category, "rule:N") of the first rule that holds. Header names are looked up in lower case.

        Of a text longer than twice MAX_MATCH, start and end are read; a rule that leads to `none` then
        counts as matched, so that padding cannot carry a question past it.
        """
        cut = len(text) > 2 * MAX_MATCH
        if self._matches:
            text = f"{text[:MAX_MATCH]}\n{text[-MAX_MATCH:]}" if cut else text
            text = text.encode("utf-8", "replace").decode()  # RE2 takes no lone surrogates
        for compiled in self._rules:
            if compiled.holds(tenant, model, endpoint, headers, text, cut):
                return compiled.rule.then.category, compiled.name
        return None

    def ruling(
        self,
        controls: Controls,
        ruled: tuple[str, str] | None,
        label: tuple[str, float] | None,
        load: Load = UNLOADED,
    ) -> Ruling:
        """What is permitted: a rule's word first, then hint and classification together.

        `ruled` is the answer of `rule`; `label` the classifier's (category, confidence), None if there is
        no vector (beyond the window, embedder busy).
        """
        if ruled is not None:
            ruling = self._permit(ruled[0], 1.0, ruled[1], load)
        else:
            ruling = self._classified(label, load)
            if controls.category in self._categories:
                ruling = self._hinted(ruling, self._permit(controls.category, 1.0, "hint", load))
        return _controlled(ruling, controls)

    def may_store(self, ruling: Ruling, temperature: float | None) -> bool:
        """Whether an answer under this ruling may be stored at all."""
        return self.store_bar(ruling, temperature) is None

    def store_bar(self, ruling: Ruling, temperature: float | None) -> str | None:
        """Why an answer under this ruling may not be stored, or None.

        A question that nothing could classify might belong to a category that forbids storing.
        """
        if ruling.mode == "none":
            return "mode-none"
        if ruling.rule == "unclassified" and self.any_none:
            return "unclassified"
        return "temperature" if too_hot(ruling.max_temperature, temperature) else None

    def exact_bar(
        self,
        entry: Entry,
        temperature: float | None,
        now: float,
        load: Load = UNLOADED,
        *,
        stale: bool = False,
    ) -> str | None:
        """Why an exact hit on this entry is not served, by its category as the book stands now; or None.

        `stale`: nobody else can answer, so what expired lately will do, where the category allows it.
        """
        category = self.category(entry.category)
        if category.cache.mode == "none":
            return "mode-none"
        grace = category.cache.grace if stale else 0.0
        if now >= min(self.fresh_until(entry, load) + grace, entry.expires):
            return "expired"
        return "temperature" if too_hot(category.cache.max_temperature, temperature) else None

    def fresh_until(self, entry: Entry, load: Load) -> float:
        """Unix seconds to which an entry counts as fresh, as the book stands now and under this load."""
        category = self.category(entry.category)
        factor = load.of(category.name)
        ttl = adapt(category, factor)[1] if factor else self._lifetimes[category.name]
        return min(entry.created + ttl, entry.expires)

    def kept_for(self, ruling: Ruling) -> float:
        """Seconds an answer is stored for: its TTL under full load, and the time it may be served stale.

        Where the caller, or a stricter category, set a shorter TTL than the category's own, that alone counts.
        """
        category = self.category(ruling.category)
        base = self._lifetimes[category.name]
        if ruling.ttl < base:
            return ruling.ttl
        return base * category.load.ttl_factor + category.cache.grace

    def against(self, ruling: Ruling, entry: Entry) -> Demand:
        """What a semantic hit on an entry takes: the stricter of both categories."""
        if entry.category == ruling.category:
            return Demand(ruling.mode, ruling.threshold, ruling.score, ruling.waived)
        category = self.category(entry.category)
        mode, _ = self._mode(category, ruling.load)
        threshold, score, _ = self._bar(category, ruling.load)
        return Demand(
            stricter(ruling.mode, mode),
            max(ruling.threshold, threshold),
            _most(ruling.score, score),
            ruling.waived & self._waived(category),
        )

    def _waived(self, category: Category) -> frozenset[str]:
        """Checks of the guard that a category's proven verifier stands in for."""
        verify = category.cache.verify
        return verify.waived if self.verifier and verify is not None else frozenset()

    def statistic(self, name: str) -> str:
        """By what a category's candidates are decided: a name of its own for each scale."""
        return self.verifier if self.verifier and self.category(name).cache.verify else "cosine"

    def point(self, name: str) -> float:
        """What its policy says a candidate must reach, on that scale."""
        cache = self.category(name).cache
        return cache.verify.score if self.verifier and cache.verify else cache.threshold

    def withheld(self, ruling: Ruling, entry: Entry) -> str:
        """Why a candidate that everything agrees to is only observed."""
        return ruling.withheld or self._mode(self.category(entry.category), ruling.load)[1] or "shadow"

    def _mode(self, category: Category, load: Load) -> tuple[Mode, str]:
        """A category's mode as it stands now, and why its semantic step is withheld, if it is."""
        why = load.closed.get(category.name, "")
        if category.cache.mode != "semantic" or not why:
            return category.cache.mode, ""
        return "shadow", why

    def _bar(self, category: Category, load: Load) -> tuple[float, float | None, float]:
        """Least similarity and, where the verifier decides, least score of a hit; and the TTL in seconds."""
        points, verify = load.points.get(category.name, ()), category.cache.verify
        if verify is None or not self.verifier:
            threshold, ttl = adapt(category, load.of(category.name), points)
            return threshold, None, ttl
        score, ttl = adapt(category, load.of(category.name), points or (verify.score,))
        return verify.above, score, ttl

    def _compiled(self, number: int, rule: Rule) -> _CompiledRule:
        pattern = compile_pattern(rule.when.match) if rule.when.match is not None else None
        forbids = self.category(rule.then.category).cache.mode == "none"
        return _CompiledRule(rule, f"rule:{number}", pattern, forbids)

    def _permit(self, name: str, confidence: float, rule: str, load: Load) -> Ruling:
        category = self.category(name)
        mode, withheld = self._mode(category, load)
        threshold, score, ttl = self._bar(category, load)
        return Ruling(
            category=category.name,
            confidence=confidence,
            rule=rule,
            mode=mode,
            threshold=threshold,
            ttl=ttl,
            score=score,
            waived=self._waived(category),
            withheld=withheld,
            priority=category.cache.priority,
            max_temperature=category.cache.max_temperature,
            offload=category.offload.allow,
            max_quality_loss=category.offload.max_quality_loss,
            keep=category.offload.keep,
            share=category.offload.share,
            load=load,
        )

    def _classified(self, label: tuple[str, float] | None, load: Load) -> Ruling:
        if label is None:
            ruling = self._permit(DEFAULT, 0.0, "unclassified", load)
            return replace(ruling, offload=ruling.offload and self._offload_all)
        name, confidence = label
        if confidence < MIN_CONFIDENCE or name not in self._categories:
            return self._permit(DEFAULT, confidence, "default", load)
        return self._permit(name, confidence, "classifier", load)

    def _hinted(self, base: Ruling, hint: Ruling) -> Ruling:
        """The hinted category, held to what is stricter in the classified one; `none` stays `none`."""
        if base.mode == "none":
            return base
        limits = [limit for limit in (base.max_temperature, hint.max_temperature) if limit is not None]
        return replace(
            hint,
            rule=base.rule if base.rule == "unclassified" else hint.rule,
            mode=stricter(base.mode, hint.mode),
            threshold=max(base.threshold, hint.threshold),
            score=_most(base.score, hint.score),
            waived=base.waived & hint.waived,
            withheld=base.withheld or hint.withheld,
            ttl=min(base.ttl, hint.ttl),
            priority=min(base.priority, hint.priority),
            max_temperature=min(limits, default=None),
            offload=base.offload and hint.offload,
            max_quality_loss=min(base.max_quality_loss, hint.max_quality_loss),
            keep=base.keep and hint.keep,
            share=base.share and hint.share,
        )


def _most(a: float | None, b: float | None) -> float | None:
    """The stricter of two bounds, either of which may be missing."""
    return max((bound for bound in (a, b) if bound is not None), default=None)


def _controlled(ruling: Ruling, controls: Controls) -> Ruling:
    """The caller's own controls; each may only tighten."""
    asked = (controls.semantic, controls.threshold, controls.ttl, controls.offload)
    if asked == (True, None, None, True):
        return ruling
    return replace(
        ruling,
        mode=ruling.mode if controls.semantic else stricter(ruling.mode, "exact"),
        threshold=max(ruling.threshold, controls.threshold or 0.0),
        ttl=ruling.ttl if controls.ttl is None else min(ruling.ttl, controls.ttl),
        offload=ruling.offload and controls.offload,
    )
