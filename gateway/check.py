"""`semantic-gateway check`: a team's expectations of its policies, decided by the gateway itself.

The rooms that serve are furnished with an empty cache: of each pair one question's answer is stored and the other
question asked, then the other way round. Nothing listens, no model is asked, nothing is kept.
"""

import asyncio
import json
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import orjson
from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway import config as settings
from gateway.app import App
from gateway.cache.guard import CHECKS
from gateway.config import Config, StoreConfig
from gateway.errors import BadRequest, EmbedderBusy, EmbedderFailed, Invalid
from gateway.exchange import Answer, Decision, Endpoint, Exchange, Reuse, Usage
from gateway.interfaces import Vector
from gateway.labels import seed
from gateway.policy.folder import load_folder
from gateway.policy.folder import parse as parse_yaml
from gateway.wire.request import parse

Text = Annotated[str, Field(min_length=1, max_length=32_768)]
Pair = tuple[Text, Text]
_NOBODY = {"models": [{"name": "*", "backends": [{"url": "http://127.0.0.1:9/v1"}]}]}
_PROMPT: dict[Endpoint, str] = {"completions": "prompt", "responses": "input", "embeddings": "input"}
_ANSWER = Answer(b"{}", "semantic", "ok", Usage(), "")
_PATIENCE = 60.0  # seconds for one vector: a slow machine must not turn a hit into a miss


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Expected(_Frozen):
    text: Text
    is_: str = Field(alias="is")


class Case(_Frozen):
    """One expectation, and the request it is made of."""

    must_hit: Pair | None = None
    """The answer stored for either question is given to the other."""
    must_miss: Pair | None = None
    """Neither is."""
    category: Expected | None = None
    """Which category a question falls into."""
    reason: str | None = None
    """Of a miss, the first stored and the second asked: as `x-gateway-reason` tells it; `guard` is any check."""
    tenant: str = ""
    model: str = "any"
    endpoint: Endpoint = "chat"
    headers: dict[str, str] = Field(default_factory=dict)
    temperature: float | None = None
    load: float = Field(default=0.0, ge=0, le=1)
    """λ: how far load relaxes the policies."""

    @model_validator(mode="after")
    def _one(self) -> "Case":
        if sum(each is not None for each in (self.must_hit, self.must_miss, self.category)) != 1:
            raise ValueError("give exactly one of must_hit, must_miss and category")
        if self.reason is not None and self.must_miss is None:
            raise ValueError("a reason is that of a miss")
        return self

    def __str__(self) -> str:
        if self.category is not None:
            return f"category of {_short(self.category.text)} is {self.category.is_}"
        kind = "must hit" if self.must_hit else "must miss"
        return f"{kind} {' ~ '.join(map(_short, self.must_hit or self.must_miss or ()))}"


class Cases(_Frozen):
    """What a policy book must do."""

    cases: tuple[Case, ...] = Field(min_length=1, max_length=10_000)
    wrong_pairs: tuple[Pair, ...] = Field(default=(), max_length=1000)
    """(asked, stored): remembered as wrong, as after bad feedback, in every case of the file."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a question while one answer was stored."""

    stored: str
    asked: str
    hit: bool
    reason: str  # as `x-gateway-reason`; "exact" or "semantic" of a hit
    category: str
    rule: str  # what named the category
    stored_category: str
    similarity: float | None = None  # None here and below: not compared
    threshold: float | None = None
    guard: str | None = None  # the check that objects; empty: none does
    score: float | None = None  # the verifier's, if it was asked
    least_score: float | None = None

    def __str__(self) -> str:
        told = [f"{'hit' if self.hit else 'miss'} ({self.reason})"]
        if self.similarity is not None:
            told.append(f"similarity {self.similarity:.4f} of {self.threshold:.4f}")
            told.append(f"guard objects ({self.guard})" if self.guard else "guard agrees")
        if self.score is not None:
            told.append(f"verifier {self.score:.4f} of {self.least_score:.4f}")
        stored = "" if self.stored_category == self.category else f", stored as {self.stored_category}"
        return "; ".join([*told, f"category {self.category} by {self.rule}{stored}"])


@dataclass(frozen=True, slots=True)
class Told:
    """A case, and why it failed; empty: it holds."""

    case: str
    why: str
    decided: tuple[Decided, ...] = ()


def read(path: Path) -> Cases:
    """Raises Invalid with every fault of the file."""
    try:
        return Cases.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = (f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise Invalid("\n".join(faults)) from error
    except (OSError, ValueError) as error:
        raise Invalid(f"{path}: {error}") from error


def run(policies: Path, cases: Path, config: Path | None, *, report: Path | None, junit: Path | None) -> int:
    """Decide every case; prints those that fail and a summary. Returns 0, or 1 if one fails.

    Raises:
        Invalid: a file cannot be used, or embedder or verifier are not what the configuration says.
        ConfigFault, OSError: likewise.
    """
    wanted = read(cases)
    load_folder(policies, frozenset(CHECKS))  # every fault of it, before anything is started
    given = settings.build(_NOBODY, {}) if config is None else settings.load(config)
    told, by = asyncio.run(_decided(wanted, _alone(given, policies)))
    failed = [each for each in told if each.why]
    for each in failed:
        print(f"FAIL {each.case}: {each.why}")
    print(f"{len(told)} cases, {len(failed)} failed ({by})")
    if report is not None:
        report.write_text(json.dumps([asdict(each) for each in told], indent=2), encoding="utf-8")
    if junit is not None:
        junit.write_bytes(_junit(told))
    return 1 if failed else 0


def _alone(config: Config, policies: Path) -> Config:
    """The same gateway with these policies, without engines and with nothing remembered."""
    return config.model_copy(
        update={
            "policies": policies,
            "models": settings.build(_NOBODY, {}).models,
            "store": StoreConfig(kind="memory"),
            "embedder": config.embedder.model_copy(update={"deadline": _PATIENCE}),
        }
    )


async def _decided(wanted: Cases, config: Config) -> tuple[list[Told], str]:
    app = App(config)
    await app.furnish()
    try:
        await _learned(app)
        bench = Bench(app, await _wrong(app, wanted.wrong_pairs))
        told = [await bench.told(number, case) for number, case in enumerate(wanted.cases)]
        skipped = app.pipeline.skipped.keys() - {"beyond-window"}
        if skipped:
            raise Invalid(f"not every case could be decided: {', '.join(sorted(skipped))}")
    except (EmbedderBusy, EmbedderFailed) as error:
        raise Invalid(f"the embedder failed: {error}") from error
    finally:
        await app.close()
    assert app.worker.embedder is not None
    verifier = f", verifier {app.verifier.name}" if app.verifier is not None else ""
    return told, f"policy {app.policy.book.version}, embedder {app.worker.embedder.name}{verifier}"


async def _learned(app: App) -> None:
    """Everything a gateway learns at its start. It serves without; a test of policies must not."""
    await app.learn()
    if app.worker.state != "ready":
        raise Invalid(f"the embedder does not run: {app.worker.failure}")
    if app.worker.classifier is None and app.policy.current.utterances()[0]:
        raise Invalid("the categories could not be learned from their examples")
    if app.config.verifier.path is not None and app.verifier is None:
        raise Invalid(f"the verifier of {app.config.verifier.path} cannot be used")
    if app.config.trust.labels is not None:
        await seed(app.trust, app.policy.current, app.worker, app.verifier, app.config.trust.labels)


async def _wrong(app: App, pairs: Sequence[Pair]) -> list[tuple[str, Vector, str]]:
    """(asked, its vector, stored) of each pair."""
    vectors = await app.worker.encode([asked for asked, _ in pairs]) if pairs else ()
    return [(asked, vector, stored) for (asked, stored), vector in zip(pairs, vectors, strict=True)]


class Bench:
    """Decides cases one after the other, each with one answer stored."""

    def __init__(self, app: App, wrong: Sequence[tuple[str, Vector, str]]) -> None:
        self._app = app
        self._wrong = wrong

    async def told(self, number: int, case: Case) -> Told:
        """Raises Invalid for a case whose request no gateway would take."""
        try:
            return await self._told(case)
        except BadRequest as error:
            raise Invalid(f"cases.{number}: {error.message}") from error

    async def _told(self, case: Case) -> Told:
        if case.category is not None:
            ruling = (await self._asked(case, case.category.text))[0].ruling
            found, rule = (ruling.category, ruling.rule) if ruling is not None else ("", "no look-up")
            sure = f", confidence {ruling.confidence:.2f}" if ruling is not None else ""
            return Told(str(case), "" if found == case.category.is_ else f"is {found} by {rule}{sure}")
        a, b = case.must_hit or case.must_miss or ("", "")
        one, other = await self._decided(case, a, b), await self._decided(case, b, a)
        why = ""
        if one.hit != bool(case.must_hit):
            why = str(one)
        elif case.reason is not None and case.reason not in (one.reason, one.reason.partition(":")[0]):
            why = f"not by {case.reason}: {one}"
        elif other.hit != bool(case.must_hit):
            why = f"the other way round: {other}"
        return Told(str(case), why, (one, other))

    async def _decided(self, case: Case, stored: str, asked: str) -> Decided:
        """What a question gets while another's answer, and no other, is stored."""
        app = self._app
        first, _ = await self._asked(case, stored)
        self._remember_wrong(first.partition)
        entry = await app.pipeline.remember(first, _ANSWER)
        await app.worker.load_many([])  # changes are applied in order: the entry can be found
        x, decision = await self._asked(case, asked)
        if entry is not None:
            app.cache.forget([entry])
        return _outcome(x, decision, first, stored, asked)

    async def _asked(self, case: Case, text: str) -> tuple[Exchange, Decision]:
        headers = CIMultiDict(case.headers)
        body: dict[str, Any] = {"model": case.model}
        body |= {"temperature": case.temperature} if case.temperature is not None else {}
        prompt = _PROMPT.get(case.endpoint)
        body |= {prompt: text} if prompt else {"messages": [{"role": "user", "content": text}]}
        honoured = self._app.config.cache.cache_control
        x = Exchange("check", headers, tenant=f"t:{case.tenant}" if case.tenant else "")
        x.request = parse(case.endpoint, orjson.dumps(body), headers, honour_cache_control=honoured)
        x.load = replace(self._app.adaptation.of("*"), factor=case.load)
        return x, await self._app.pipeline.decide(x)

    def _remember_wrong(self, partition: bytes) -> None:
        negatives = self._app.sampling.negatives
        if partition and not negatives.any(partition):
            for asked, vector, stored in self._wrong:
                negatives.add(partition, asked, vector, stored)


def _outcome(x: Exchange, decision: Decision, first: Exchange, stored: str, asked: str) -> Decided:
    ruling = x.ruling or first.ruling  # an exact hit needs none; it was made under the entry's
    found = Decided(
        stored=stored,
        asked=asked,
        hit=isinstance(decision, Reuse),
        reason=decision.how if isinstance(decision, Reuse) else decision.reason,
        category=ruling.category if ruling is not None else "",
        rule=ruling.rule if ruling is not None else "no look-up",
        stored_category=first.ruling.category if first.ruling is not None else "",
    )
    if not x.candidates or ruling is None:
        return found
    (candidate,) = x.candidates
    guard, demand = x.policy.guard, x.policy.against(ruling, candidate.entry)
    return replace(
        found,
        similarity=candidate.similarity,
        threshold=x.threshold,
        guard=guard.verdict(guard.facts(asked), guard.facts(stored), demand.waived) or "",
        score=candidate.score,
        least_score=demand.score,
    )


def _junit(told: Sequence[Told]) -> bytes:
    """JUnit's XML, as CI systems read it."""
    failures = sum(bool(each.why) for each in told)
    suite = xml.Element("testsuite", name="policies", tests=str(len(told)), failures=str(failures))
    for each in told:
        case = xml.SubElement(suite, "testcase", classname="policies", name=each.case)
        if each.why:
            failure = xml.SubElement(case, "failure", message=each.why)
            failure.text = "\n".join(map(str, each.decided)) or each.why
    return bytes(xml.tostring(suite, encoding="utf-8", xml_declaration=True))


def _short(text: str) -> str:
    """One printable line: XML has no place for control characters, nor has a terminal."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return f'"{text[:80]}{"…" if len(text) > 80 else ""}"'
