"""The policy book: the frozen schema of `policies/*.yaml`, validated as a whole.

A book either is right in every part or is refused with every fault listed. JSON over the API is the YAML's
own shape with defaults filled in. This module must never touch a file or a request.
"""

import difflib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from gateway.exchange import Endpoint
from gateway.policy import fields as f
from gateway.policy.faults import Fault, PolicyFaults

DEFAULT = "default"
MAX_CATEGORIES, MAX_EXAMPLES, MAX_RULES, MAX_IGNORE = 256, 2000, 1000, 100
MAX_FAULTS = 200  # listed of one file or call


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Quota(_Frozen):
    share: f.Share = 0.0
    """Guaranteed share of the cache's bytes; idle space is lent to others."""


class Verify(_Frozen):
    """Which candidates the verifier is asked about, and what it must say."""

    above: f.Threshold
    """Least cosine similarity of a candidate."""
    score: f.Share
    """Least score of a hit."""
    waives: tuple[f.Wording, ...] = ()
    """Checks of the guard that the score stands in for, of those that compare wording: content, entity, person,
    question, template."""

    @cached_property
    def waived(self) -> frozenset[str]:
        return frozenset(self.waives)


class Cache(_Frozen):
    mode: f.CacheMode = "semantic"
    """semantic (exact first) | shadow (exact; semantic only observed) | exact | none (never stored)."""
    threshold: f.Threshold = f.DEFAULT_THRESHOLD
    """Least cosine similarity of a semantic hit."""
    ttl: f.Ttl = "1d"
    """How long an answer may be reused: "7d", "5m", "30s", or seconds."""
    quota: Quota = Quota()
    priority: f.Number = Field(default=1.0, ge=0, le=1000)
    """Weight in the eviction score."""
    max_temperature: f.Number | None = Field(default=None, ge=0)
    """Hotter requests (unset counts as 1.0) are neither answered from the cache nor stored."""
    max_error: f.Number | None = Field(default=None, gt=0, lt=1)
    """Error budget: wrong semantic hits per semantic look-up, at most. Labels, once they suffice, then decide what a
    candidate must reach, in place of the threshold; a category over its budget stops serving semantic hits."""
    bound: Literal["conformal", "learned"] = "conformal"
    """How the budget is kept: by one operating point (conformal risk control), or entry by entry, by forwarding some
    hits to learn from (vCache)."""
    uncalibrated: Literal["threshold", "exact"] = "threshold"
    """What serves while there are too few labels for the budget: the threshold, or exact hits alone."""
    insert: Literal["always", "if-wrong"] = "always"
    """With `bound: learned`: whether the answer to a forwarded hit is stored always, or only if the hit was wrong."""
    verify: Verify | None = None
    """Where labels show that the verifier beats similarity, as `calibrate` finds out: candidates are judged by its
    score. Without a fitting verifier the threshold counts."""
    stale_if_error: f.Grace = 0
    """How long past its TTL an answer may still be served while no backend can answer; 0: never."""

    @cached_property
    def lifetime(self) -> float:
        """The TTL in seconds."""
        return f.seconds(self.ttl)

    @cached_property
    def grace(self) -> float:
        """`stale_if_error` in seconds."""
        return f.seconds(self.stale_if_error)


class LoadPolicy(_Frozen):
    threshold_slack: f.Number = Field(default=0.0, ge=0, le=0.2)
    """How far the threshold may fall at full load."""
    threshold_floor: f.Threshold = 0.85
    """It never falls below this."""
    ttl_factor: f.Number = Field(default=1.0, ge=1, le=2)
    """By how much the TTL is stretched at full load."""
    max_error: f.Number | None = Field(default=None, gt=0, le=1)
    """Bound on wrong semantic hits at full load, for calibration."""
    budget: tuple[f.Threshold, ...] = Field(default=(), max_length=32)
    """Thresholds certified for equal steps of risk up to `max_error`, as `calibrate` writes them; used instead
    of the slack."""


class Offload(_Frozen):
    allow: f.Flag = True
    """Whether a small model may answer, where the model asked for has one."""
    max_quality_loss: f.Number = Field(default=0.02, ge=0, le=1)
    """Mean share of good answers that may be lost by it, over all requests."""
    keep: f.Flag = False
    """Whether a small model's answer may be stored as the large one's."""
    share: f.Flag = True
    """Whether examples may go to other tenants, where both sides share."""


class Category(_Frozen):
    name: f.CategoryName
    examples: tuple[f.Example, ...] = Field(default=(), max_length=MAX_EXAMPLES)
    """Utterances that define the category for the classifier."""
    cache: Cache = Cache()
    load: LoadPolicy = LoadPolicy()
    offload: Offload = Offload()


class When(_Frozen):
    """All conditions that are given must hold; none given: always."""

    tenant: f.Condition | None = None
    model: f.Condition | None = None
    endpoint: Endpoint | None = None
    header: dict[f.HeaderName, f.Condition] = Field(default_factory=dict, max_length=16)
    match: f.Pattern | None = None
    """RE2 regular expression searched in the question."""


class Then(_Frozen):
    category: f.CategoryName


class Rule(_Frozen):
    when: When
    then: Then


class GuardChecks(_Frozen):
    checks: tuple[f.CheckName, ...] | None = None
    """The guard's checks to run; omitted: all."""
    skip: tuple[f.CheckName, ...] = ()
    """Checks to leave out. (Not "off": YAML reads that key as a boolean.)"""


class Part(_Frozen):
    """What one file, or one API call, says of the book."""

    categories: tuple[Category, ...] = Field(default=(), max_length=MAX_CATEGORIES)
    ignore: tuple[f.Ignorable, ...] = Field(default=(), max_length=MAX_IGNORE)
    """Request fields that do not part two requests."""
    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)
    """First match wins; before the classifier."""
    guard: GuardChecks = GuardChecks()


class Book(Part):
    """The whole policy. Build it with `from_json`, `assemble` or `folder.load_folder`."""

    @cached_property
    def version(self) -> str:
        """Hash of the content, 16 hex digits: the same book has the same version everywhere."""
        return hashlib.sha256(orjson.dumps(to_json(self), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def category(self, name: str) -> Category | None:
        return next((category for category in self.categories if category.name == name), None)

    def with_category(self, name: str, obj: Any) -> "Book":
        """A new book in which `obj` (JSON; its name may be left out) is the category. Raises PolicyFaults."""
        new = _category(name, obj)
        old = [category for category in self.categories if category.name != name]
        index = next((i for i, category in enumerate(self.categories) if category.name == name), len(old))
        return self._with(categories=(*old[:index], new, *old[index:]))

    def without_category(self, name: str) -> "Book":
        """A new book without the category; `default` falls back to the built-in one. Raises PolicyFaults."""
        return self._with(categories=tuple(category for category in self.categories if category.name != name))

    def _with(self, categories: tuple[Category, ...]) -> "Book":
        return from_json(to_json(self) | {"categories": [c.model_dump(mode="json") for c in categories]})


def from_json(obj: Any, checks: Collection[str] | None = None) -> Book:
    """The book that a JSON value in the YAML's shape describes. `checks`: the guard checks that exist.

    Raises PolicyFaults with every fault.
    """
    return assemble([("", obj)], checks)


def to_json(book: Book) -> dict[str, Any]:
    """The YAML's own shape, defaults filled in; `from_json` of it is the same book."""
    return book.model_dump(mode="json")


def schema() -> dict[str, Any]:
    """JSON schema of one policy file or API object."""
    return Part.model_json_schema()


def assemble(
    parts: Sequence[tuple[str, Any]], checks: Collection[str] | None = None, *, unread: Sequence[Fault] = ()
) -> Book:
    """One book from (file, JSON value) parts: lists are joined in order. Raises PolicyFaults.

    `unread` are the faults of files that could not be parsed; categories they may define are not missed.
    """
    faults = list(unread)
    read: list[tuple[str, Part]] = []
    for file, obj in parts:
        part, found = _part(file, obj)
        read.append((file, part))
        faults += found + _unknown_checks(file, part.guard, checks)
    faults += _clashes(parts, complete=not unread)
    faults += _excesses(parts)
    faults += _guards(read)
    if faults:
        raise PolicyFaults(faults)
    return _joined([part for _, part in read])


def diff(old: Book, new: Book) -> list[dict[str, Any]]:
    """Changed paths, as {path, old, new}; categories are matched by name, a missing side is None."""
    return list(_changes("", _keyed(old), _keyed(new)))


def _part(file: str, obj: Any) -> tuple[Part, list[Fault]]:
    if isinstance(obj, dict):
        obj = {key: value for key, value in obj.items() if value is not None}  # a section all commented out
    try:
        return Part.model_validate({} if obj is None else obj), []
    except ValidationError as error:
        return Part(), _faults(file, error)


def _category(name: str, obj: Any) -> Category:
    if isinstance(obj, dict):
        obj = {"name": name, **obj}
    try:
        category = Category.model_validate(obj)
    except ValidationError as error:
        raise PolicyFaults(_faults("", error)) from None
    if category.name != name:
        raise PolicyFaults([Fault("", "name", f'is "{category.name}", but the path says "{name}"')])
    return category


def _joined(parts: Sequence[Part]) -> Book:
    """All parts as one book; a `default` is always there."""
    categories = [category for part in parts for category in part.categories]
    if all(category.name != DEFAULT for category in categories):
        categories.append(Category(name=DEFAULT))
    return Book(
        categories=tuple(categories),
        ignore=tuple(dict.fromkeys(field for part in parts for field in part.ignore)),
        rules=tuple(rule for part in parts for rule in part.rules),
        guard=next((part.guard for part in parts if part.guard != GuardChecks()), GuardChecks()),
    )


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _items(parts: Sequence[tuple[str, Any]], section: str) -> list[tuple[str, int, Any]]:
    """(file, index, item) of a section over all parts, as written: items may be faulty in themselves."""
    lists = ((file, _dig(obj, section)) for file, obj in parts)
    return [(file, i, item) for file, rows in lists if isinstance(rows, list) for i, item in enumerate(rows)]


def _clashes(parts: Sequence[tuple[str, Any]], complete: bool) -> list[Fault]:
    """Names defined twice, and rules to names that no part defines (if every part could be read)."""
    faults: list[Fault] = []
    seen: dict[str, str] = {}
    for file, index, category in _items(parts, "categories"):
        name = _dig(category, "name")
        if not isinstance(name, str):
            continue
        if name in seen:
            where = f" (also in {seen[name]})" if seen[name] != file else ""
            faults.append(Fault(file, f"categories[{index}].name", f'"{name}" is defined twice{where}'))
        seen.setdefault(name, file)
    names = {DEFAULT, *seen}
    for file, index, rule in _items(parts, "rules") if complete else ():
        name = _dig(rule, "then", "category")
        if isinstance(name, str) and name not in names:
            reason = f'no category is called "{name}"{_nearest(name, names)}'
            faults.append(Fault(file, f"rules[{index}].then.category", reason))
    return faults


def _excesses(parts: Sequence[tuple[str, Any]]) -> Iterator[Fault]:
    """What all parts together have too much of."""
    categories = [category for _, _, category in _items(parts, "categories")]
    shares = [_dig(category, "cache", "quota", "share") for category in categories]
    share = sum(value for value in shares if type(value) in (int, float) and 0 <= value <= 1)
    if share > 1 + 1e-9:
        yield Fault("", "categories", f"the quota shares sum to {share:.2f}, above 1")
    examples = [_dig(category, "examples") for category in categories]
    count = sum(len(texts) for texts in examples if isinstance(texts, list))
    if count > MAX_EXAMPLES:
        yield Fault("", "categories", f"{count} examples in all; at most {MAX_EXAMPLES}")
    named = {_dig(category, "name") == DEFAULT for category in categories}
    counts = {section: len(_items(parts, section)) for section in ("categories", "rules", "ignore")}
    counts["categories"] += True not in named  # the `default` that is filled in
    for section, most in (("categories", MAX_CATEGORIES), ("rules", MAX_RULES), ("ignore", MAX_IGNORE)):
        if counts[section] > most:
            yield Fault("", section, f"{counts[section]} in all; at most {most}")


def _guards(read: Sequence[tuple[str, Part]]) -> Iterator[Fault]:
    files = [file for file, part in read if part.guard != GuardChecks()]
    for file in files[1:]:
        yield Fault(file, "guard", f"already set in {files[0]}; one file sets it for the whole book")


def _unknown_checks(file: str, guard: GuardChecks, known: Collection[str] | None) -> list[Fault]:
    if known is None:
        return []
    named = (("checks", guard.checks or ()), ("skip", guard.skip))
    return [
        Fault(file, f"guard.{key}[{index}]", f'no check is called "{name}"{_nearest(name, known)}')
        for key, names in named
        for index, name in enumerate(names)
        if name not in known
    ]


def _faults(file: str, error: ValidationError) -> list[Fault]:
    found = error.errors(include_url=False)
    faults = [Fault(file, _path(e["loc"]), _reason(e)) for e in found[:MAX_FAULTS]]
    if len(found) > MAX_FAULTS:
        faults.append(Fault(file, "", f"{len(found) - MAX_FAULTS} further faults"))
    return faults


def _path(loc: Sequence[int | str]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in loc)
    return "".join(steps).lstrip(".")


def _reason(error: ErrorDetails) -> str:
    """pydantic's message in an operator's words."""
    kind, message, value = error["type"], str(error["msg"]), error["input"]
    if kind == "extra_forbidden":
        return f"unknown key{_nearest(str(error['loc'][-1]), _KEYS)}"
    if kind == "missing":
        return "is required"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"should be a mapping, not {type(value).__name__}"
    message = message.removeprefix("Value error, ")
    if kind != "value_error" and isinstance(value, str | int | float | bool):
        message += f", not {str(value)[:80]!r}"
    return message


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word[:64], list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _keyed(book: Book) -> dict[str, Any]:
    tree = to_json(book)
    return tree | {"categories": {category["name"]: category for category in tree["categories"]}}


def _changes(path: str, old: Any, new: Any) -> Iterator[dict[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _changes(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
    elif old != new:
        yield {"path": path, "old": old, "new": new}


_MODELS: tuple[type[BaseModel], ...] = (
    Part,
    Category,
    Cache,
    Verify,
    Quota,
    LoadPolicy,
    Offload,
    Rule,
    When,
    Then,
    GuardChecks,
)
_KEYS = frozenset(key for model in _MODELS for key in model.model_fields)
