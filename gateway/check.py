"""`semantic-gateway check`: a team's expectations of its policies, decided as the gateway would decide them.

Works on the real embedder, classifier, rules, guard and (where configured) verifier; starts no server, calls no
model, changes nothing.
"""

import json
import xml.etree.ElementTree as xml
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway import build
from gateway.cache.guard import CHECKS
from gateway.cache.semantic import choose
from gateway.calibrate import encode
from gateway.classify.prototypes import Prototypes
from gateway.config import Config
from gateway.errors import Invalid
from gateway.exchange import Controls, Endpoint, Entry, Ruling
from gateway.interfaces import Classifier, Vector, Verifier
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy, too_hot

Text = Annotated[str, Field(min_length=1, max_length=32_768)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Expected(_Frozen):
    text: Text
    is_: str = Field(alias="is")


class Case(_Frozen):
    """One expectation, and the request it is made of."""

    must_hit: tuple[Text, Text] | None = None
    """The answer stored for the first question is given to the second."""
    must_miss: tuple[Text, Text] | None = None
    """It is not."""
    category: Expected | None = None
    """Which category a question falls into."""
    reason: str | None = None
    """Of a miss: why, as `x-gateway-reason` tells it."""
    tenant: str = ""
    model: str = ""
    endpoint: Endpoint = "chat"
    headers: dict[str, str] = Field(default_factory=dict)
    temperature: float | None = None

    @model_validator(mode="after")
    def _one(self) -> "Case":
        if sum(each is not None for each in (self.must_hit, self.must_miss, self.category)) != 1:
            raise ValueError("give exactly one of must_hit, must_miss and category")
        if self.reason is not None and self.must_miss is None:
            raise ValueError("a reason is that of a miss")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        return self.must_hit or self.must_miss or ((self.category.text,) if self.category else ())

    def __str__(self) -> str:
        if self.category is not None:
            return f"category of {_short(self.category.text)} is {self.category.is_}"
        kind = "must hit" if self.must_hit else "must miss"
        return f"{kind}: " + " / ".join(map(_short, self.texts))


class Cases(_Frozen):
    """What a policy book must do."""

    cases: tuple[Case, ...] = Field(min_length=1, max_length=10_000)


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a case."""

    case: str
    passed: bool
    decision: str  # "hit", or the reason of a miss; the category
    stored_category: str
    category: str
    rule: str
    similarity: float | None = None
    threshold: float | None = None
    score: float | None = None

    def __str__(self) -> str:
        compared = (
            "" if self.similarity is None else f", similarity {self.similarity:.4f} of {self.threshold:.4f}"
        )
        scored = "" if self.score is None else f", score {self.score:.3f}"
        both = (
            self.category
            if self.stored_category in ("", self.category)
            else f"{self.stored_category} / {self.category}"
        )
        return f"{'ok  ' if self.passed else 'FAIL'} {self.case}: {self.decision} ({both}, {self.rule}{compared}{scored})"


def read(path: Path) -> Cases:
    """Raises Invalid with every fault of the file."""
    try:
        return Cases.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid(f"{path}: {error}") from error
    except ValidationError as error:
        faults = (f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise Invalid("\n".join(faults)) from error


def run(policies: Path, cases: Path, config: Config, *, report: Path | None, junit: Path | None) -> int:
    """Decide every case; prints those that fail and a summary. Returns 0, or 1 if one fails."""
    wanted = read(cases)
    embedder = build.embedder(config.embedder)
    verifier = None if config.verifier.path is None else build.verifier(config.verifier.path, embedder.name)
    policy = build.policy(load_folder(policies, frozenset(CHECKS)), verifier)
    names, examples = policy.utterances()
    classifier = Prototypes.fit(names, embedder.encode(examples)) if examples else None
    texts = list(dict.fromkeys(text for case in wanted.cases for text in case.texts))
    vectors = dict(zip(texts, encode(embedder, texts), strict=True))
    bench = Bench(policy, classifier, verifier, vectors)
    told = [bench.decide(case) for case in wanted.cases]
    for each in told:
        if not each.passed:
            print(each)
    failed = sum(not each.passed for each in told)
    print(f"{len(told)} cases, {failed} failed (policy {policy.version}, {embedder.name})")
    if report is not None:
        report.write_text(json.dumps([asdict(each) for each in told], indent=2), encoding="utf-8")
    if junit is not None:
        junit.write_bytes(_junit(told))
    return 1 if failed else 0


class Bench:
    """Decides cases with the rooms that serve."""

    def __init__(
        self,
        policy: Policy,
        classifier: Classifier | None,
        verifier: Verifier | None,
        vectors: Mapping[str, Vector],
    ) -> None:
        self._policy = policy
        self._classifier = classifier
        self._verifier = verifier
        self._vectors = vectors

    def decide(self, case: Case) -> Told:
        """What the gateway would do."""
        if case.category is not None:
            ruling = self._ruling(case, case.category.text)
            right = ruling.category == case.category.is_
            return Told(str(case), right, ruling.category, "", ruling.category, ruling.rule)
        stored, asked = case.texts
        first, second = self._ruling(case, stored), self._ruling(case, asked)
        decision, similarity, threshold, score = self._reused(case, first, second)
        wanted = decision == "hit" if case.must_hit else decision != "hit"
        right = wanted and case.reason in (None, decision)
        return Told(
            str(case),
            right,
            decision,
            first.category,
            second.category,
            second.rule,
            similarity,
            threshold,
            score,
        )

    def _reused(
        self, case: Case, first: Ruling, second: Ruling
    ) -> tuple[str, float | None, float | None, float | None]:
        """ "hit" or the reason of a miss, with similarity, threshold and score where they were compared."""
        stored, asked = case.texts
        policy = self._policy
        if not policy.may_store(first, case.temperature):
            return "not-stored", None, None, None
        if second.mode == "none":
            return "mode-none", None, None, None
        if too_hot(second.max_temperature, case.temperature):
            return "temperature", None, None, None
        if stored == asked:
            return "hit", None, None, None
        if second.mode == "exact":
            return "mode-exact", None, None, None
        left, right = self._vectors[stored], self._vectors[asked]
        entry = _entry(stored, first.category, case)
        scores = None
        if self._verifier is not None:
            scores = {entry.id: self._verifier.scores(asked, [stored], right, left[None, :])[0]}
        choice = choose(
            asked,
            [(entry, float(left @ right))],
            threshold=second.threshold,
            demands=lambda each: policy.against(second, each),
            servable=lambda each: policy.exact_bar(each, case.temperature, each.created) is None,
            guard=policy.guard,
            scores=scores,
        )
        decision = "hit" if choice.entry is not None else choice.reason
        return decision, choice.similarity, choice.threshold, choice.candidates[0].score

    def _ruling(self, case: Case, text: str) -> Ruling:
        headers = {name.lower(): value for name, value in case.headers.items()}
        ruled = self._policy.rule(case.tenant, case.model, case.endpoint, headers, text)
        label = None if self._classifier is None else self._classifier.label(self._vectors[text][None, :])[0]
        hint = headers.get("x-gateway-category")
        return self._policy.ruling(Controls(category=hint), ruled, label)


def _entry(question: str, category: str, case: Case) -> Entry:
    entry = Entry(
        id=1,
        exact=b"",
        partition=b"",
        tenant=case.tenant,
        category=category,
        model=case.model,
        endpoint=case.endpoint,
        question=question,
        created=0.0,
        expires=1e12,
        size=0,
        cost=0.0,
    )
    entry.temperature = case.temperature
    return entry


def _junit(told: Sequence[Told]) -> bytes:
    """JUnit's XML, as CI systems read it."""
    failures = sum(not each.passed for each in told)
    suite = xml.Element("testsuite", name="policies", tests=str(len(told)), failures=str(failures))
    for each in told:
        case: Any = xml.SubElement(suite, "testcase", classname="policies", name=each.case)
        if not each.passed:
            xml.SubElement(case, "failure", message=str(each))
    return bytes(xml.tostring(suite, encoding="utf-8", xml_declaration=True))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return f'"{text[:80]}{"…" if len(text) > 80 else ""}"'
