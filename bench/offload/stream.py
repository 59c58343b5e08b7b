"""The router on mixed traffic, from an empty store: what is offloaded as answers gather, and what that costs.

Label tasks, which a small model does only with the right examples, between questions it cannot do. Selector,
router and store are the product's own; a request is served, judged and learned from before the next one comes.
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.accuracy.measure import Table
from bench.offload.data import KINDS, LABELS, Array, Request
from bench.offload.icl import Engine
from gateway.offload.examples import Example, Examples
from gateway.offload.prompt import compose, example_tokens
from gateway.offload.router import Choice, Router, situation
from gateway.offload.router import Settings as Routing
from gateway.offload.selector import Asked, Selection, Selector

FLOOR = 0.02  # max_quality_loss
CANDIDATES = 20
ROOM = 1500  # tokens
BUDGET = 32 << 20  # bytes: about ten thousand short examples
ERRS = 0.025  # share of answers in which the real small model says what no example said

Small = Callable[[str, Sequence[Example]], str]


def copies(text: str, examples: Sequence[Example]) -> str:
    """Stands in for Gemma 3 270M on label tasks: it says what most examples say, and heeds the last ones most.

    On 300 BANKING77 messages with their 5 nearest examples both are right on 84.7 %, with our choice of examples
    the real one on 86.0 and this on 84.3 %; on the single message they agree whether right or wrong in 9 of 10.
    """
    if not examples or zlib.crc32(text.encode()) / 2**32 < ERRS:
        return ""
    votes: dict[str, float] = defaultdict(float)
    for place, example in enumerate(examples, start=1):
        votes[example.answer] += 1 + 2 * place / len(examples)
    return max(votes, key=votes.__getitem__)


def asks(engine: Engine) -> Small:
    """The real one."""

    def answer(text: str, examples: Sequence[Example]) -> str:
        fields: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "temperature": 0}
        body = compose("chat", {**fields, "max_tokens": 16, "stop": ["\n"]}, "gemma-3-270m", examples)
        return engine.ask(body)[0].strip() if body is not None else ""

    return answer


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one request; `answered` wants it back."""

    selection: Selection
    choice: Choice


class Offloading:
    """Store, selector and router in front of one pair of models, as the gateway puts them together.

    `outcomes`: share of answers whose outcome becomes known. `told`: whether the category is known. `random`:
    examples are drawn by chance from the store instead, as many as would have been chosen. `floor`: max_quality_loss.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        small: Small,
        *,
        outcomes: float = 1.0,
        told: bool = True,
        random: bool = False,
        seed: int = 0,
        routing: Routing | None = None,
        floor: float = FLOOR,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.selector = Selector(rng=self.rng)
        self.router = Router(routing, rng=self.rng)
        self.now = 0.0  # seconds
        self.examples = Examples(BUDGET, clock=self._clock)
        self.outcomes, self.told, self.random, self.floor = outcomes, told, random, floor
        self._requests, self._small = requests, small
        self._index = np.zeros((len(requests), requests[0].vector.shape[0]), np.float32)
        self._last = 0

    def _clock(self) -> float:
        return self.now

    def decide(self, at: int, *, excess: float = 0.0, cost: float = 0.1) -> Decision:
        request = self._requests[at]
        category = request.category if self.told else "default"
        asked = Asked.of(request.text, len(request.text) // 4, category)
        selection = self.selector.select(asked, self._near(request), ROOM)
        features = situation(asked, selection, request.vector)
        choice = self.router.choose(features, max_quality_loss=self.floor, excess=excess, cost=cost)
        return Decision(selection, choice)

    def answered(self, at: int, decision: Decision) -> float:
        """The request is served: learn what becomes known of it. Returns the score it got."""
        request, choice = self._requests[at], decision.choice
        known = choice.compare or self.rng.random() < self.outcomes
        share = 1 - (1 - self.outcomes) * (1 - choice.share)  # with which it was to become known, either way
        said, score = "", None
        if choice.offload or choice.compare:
            said, score = self._ask(request, decision.selection)
        large = request.large if choice.compare or not choice.offload else None
        if known:
            self.router.learn(choice, small=score, large=large, share=share)
        if known and score is not None:
            self.selector.learn(decision.selection, score, said or None)
            self.examples.record(decision.selection.ids, score)
        if large is not None:
            self.selector.hindsight(decision.selection, request.answer)
            self._keep(at, request, decision.selection)
        return score if choice.offload and score is not None else request.large

    def _near(self, request: Request) -> list[tuple[Example, float]]:
        similarity = self._index[: self._last] @ request.vector
        some = min(CANDIDATES, len(similarity))
        nearest = np.argpartition(-similarity, some - 1)[:some] if some else np.zeros(0, int)
        found = [(self.examples.get(int(at)), float(similarity[at])) for at in nearest]
        return [(example, near) for example, near in found if example is not None]

    def _ask(self, request: Request, selection: Selection) -> tuple[str, float]:
        """The small model's answer, as far as it is known, and its score."""
        if request.small is not None:
            return "", request.small
        shown: Sequence[Example] = selection.examples
        if self.random and shown:
            stored = list(self.examples)
            shown = [stored[at] for at in self.rng.choice(len(stored), len(shown))]
        said = self._small(request.text, shown)
        return said, float(said == request.answer)

    def _keep(self, at: int, request: Request, selection: Selection) -> None:
        tokens = example_tokens(request.text, request.answer)
        example = Example(
            at, "t", "large", request.category, request.text, request.answer, tokens, 0.001, self.now
        )
        near = [(known.id, similarity) for known, similarity, _ in selection.candidates]
        offer = self.examples.offer(example, complete=True, allowed=True, neighbours=near)
        if offer.reason is None:
            self._index[at] = request.vector
            self._last = max(self._last, at + 1)
        for gone in offer.gone:
            self._index[gone.id] = 0.0


@dataclass(slots=True)
class Record:
    """What became of n requests, in order."""

    kinds: list[str] = field(default_factory=list)
    offloaded: list[bool] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)  # quality, against the large model's
    compared: list[bool] = field(default_factory=list)

    def offload(self, start: int, stop: int, kinds: Sequence[str] = tuple(KINDS)) -> float:
        """Share offloaded of the requests of these kinds."""
        chosen = [self.offloaded[at] for at in range(start, stop) if self.kinds[at] in kinds]
        return float(np.mean(chosen)) if chosen else 0.0

    def loss(self, stop: int) -> float:
        """Mean over all requests so far."""
        return sum(self.lost[:stop]) / stop

    @property
    def worst(self) -> float:
        """Highest cumulative loss after the first 500."""
        return float(losses(self)[500:].max(initial=0.0))


def play(requests: Sequence[Request], served: Offloading) -> Record:
    """One request a second."""
    record = Record()
    for at, request in enumerate(requests):
        served.now = float(at)
        decision = served.decide(at)
        score = served.answered(at, decision)
        record.kinds.append(request.kind)
        record.offloaded.append(decision.choice.offload)
        record.lost.append(request.large - score)
        record.compared.append(decision.choice.compare)
    return record


RUNS: dict[str, dict[str, Any]] = {
    "all outcomes known": {},
    "10 % known": {"outcomes": 0.1},
    "all known, categories not": {"told": False},
    "random examples": {"random": True},
}


def records(requests: Sequence[Request], small: Small = copies) -> Iterator[tuple[str, Record]]:
    for name, how in RUNS.items():
        yield name, play(requests, Offloading(requests, small, **how))


def table(runs: dict[str, Record]) -> Table:
    found = Table(
        "router",
        f"Mixed traffic from an empty store, max_quality_loss {FLOOR}: shares since the row before, loss since the start",
        ("run", "requests", "offloaded %", *(f"{kind} %" for kind in KINDS), "loss, points", "compared %"),
    )
    for name, record in runs.items():
        start = 0
        for stop in _stops(len(record.kinds)):
            shares = [record.offload(start, stop), *(record.offload(start, stop, (kind,)) for kind in KINDS)]
            figures = [*shares, record.loss(stop), float(np.mean(record.compared[start:stop]))]
            found.rows.append([name, str(stop), *(f"{100 * figure:.2f}" for figure in figures)])
            start = stop
    return found


def _stops(count: int) -> list[int]:
    stops = [500 * 2**power for power in range(20)]
    return [*(stop for stop in stops if stop < 0.8 * count), count]


def shares(record: Record) -> dict[str, Array]:
    """For the picture: cumulative share (n,) offloaded of all, of label tasks and of what cannot be done."""
    able = np.array([kind in LABELS for kind in record.kinds])
    offloaded = np.array(record.offloaded, dtype=float)
    parts = {"all": np.ones(len(able)), "label tasks": able, "GSM8K and MMLU-Pro": ~able}
    return {
        name: np.cumsum(offloaded * part) / np.maximum(1, np.cumsum(part)) for name, part in parts.items()
    }


def losses(record: Record) -> Array:
    """Cumulative mean loss (n,)."""
    return np.cumsum(record.lost) / np.arange(1, len(record.lost) + 1)
