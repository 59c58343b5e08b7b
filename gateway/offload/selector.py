"""Which examples go into a small model's prompt, in which order, and how many: down to none.

Two stages (IC-Cache §4.1): relevance is given, by vector search; usefulness to this small model is learned
here, from outcomes. It must never choose more than the prompt has room for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.offload.examples import Example, sketch
from gateway.offload.logistic import Logistic

Array = NDArray[np.float64]

FEATURES = (
    "bias", "similarity", "gap", "rank", "words", "vote", "vote lead", "record", "tried", "quality", "category",
    "question length", "answer length", "similarity x vote", "words x vote",
)  # fmt: skip
# Untrained, the more similar the better, with even odds at a similarity of CUT (the starting threshold then cuts
# a little below 0.5): all other weights start at zero, free to be learned.
CUT = 0.65
_SLOPE = 16.0
_VARIANCE = np.array([1.0, 16.0] + [2.0] * (len(FEATURES) - 2))
_KERNEL = 0.05  # similarity by which a neighbour's vote falls to 1/e
_PRIOR = 10.0  # outcomes like the mean of all, with which each threshold begins
_NOISE = 0.4  # standard deviation of one outcome
_TIE = 0.005  # of reward, within which the starting threshold stays
_NONE = np.zeros((0, len(FEATURES)))


@dataclass(frozen=True, slots=True)
class Asked:
    """The request as selector and router see it."""

    question: str
    tokens: int  # of the whole prompt as the caller sent it
    category: str
    words: NDArray[np.float32]  # sketch of the question

    @classmethod
    def of(cls, question: str, tokens: int, category: str) -> "Asked":
        return cls(question, tokens, category, sketch(question))


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen for one request, in prompt order, and why; kept until its outcome is known."""

    examples: tuple[Example, ...]
    utilities: tuple[float, ...]  # predicted share of good answers with each, in the same order
    tokens: int  # of all examples together
    threshold: float  # what each had to add in utility to those before it
    features: Array  # (n, d), of the chosen
    candidates: tuple[tuple[Example, float, float], ...]  # (example, similarity, utility), most similar first
    compared: Array  # (m, d), of the candidates
    agreed: tuple[int, ...] = ()  # thresholds of the grid that would have chosen the same

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(example.id for example in self.examples)

    @property
    def similarity(self) -> float:
        """Of the nearest candidate, chosen or not."""
        return self.candidates[0][1] if self.candidates else 0.0

    @property
    def vote(self) -> float:
        """The share of the neighbourhood that agrees with its favourite answer."""
        return float(self.compared[:, _AT["vote"]].max()) if len(self.compared) else 0.0

    @property
    def utility(self) -> float:
        """Of the most useful candidate, chosen or not."""
        return max((utility for _, _, utility in self.candidates), default=0.0)

    @property
    def agreement(self) -> float:
        """The share of the chosen that agree with their favourite answer."""
        if not self.examples:
            return 0.0
        said = np.array([example.said for example in self.examples])
        return float(np.clip(said @ said.T, 0.0, 1.0).mean(axis=1).max())


_AT = {name: at for at, name in enumerate(FEATURES)}


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be tuned. Tokens of one request's examples cost `price` of a good answer per thousand."""

    limit: int = 8  # examples at most
    diversity: float = (
        0.7  # share of its utility that an example loses to each chosen one with the same answer
    )
    reserve: int = 64  # tokens left free for what tokenizers disagree on
    price: float = 0.02
    explore: float = 0.1  # share of requests that try another threshold
    grid: tuple[float, ...] = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4)
    start: float = 0.05  # the threshold used until another has proved better
    memory: float = 0.9995  # what past outcomes of a threshold keep of their weight at each new one


class Threshold:
    """The global utility threshold: a bandit over a grid, rewarded by outcome less the price of tokens.

    A threshold that would have chosen the same examples as the one that was used learns from it too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        size = len(settings.grid)
        self.weight = np.zeros(size)
        self.reward = np.zeros(size)

    @property
    def best(self) -> int:
        """The arm of the highest mean reward, each drawn to the mean of all as far as it is little tried."""
        means = self._means()
        start = self._settings.grid.index(self._settings.start)
        return start if means[start] >= means.max() - _TIE else int(np.argmax(means))

    def pick(self, rng: np.random.Generator) -> int:
        """The best arm; now and then one by Thompson sampling, which tries most what may yet prove better."""
        if rng.random() >= self._settings.explore:
            return self.best
        deviation = _NOISE / np.sqrt(self.weight + _PRIOR)
        return int(np.argmax(self._means() + deviation * rng.standard_normal(len(self.weight))))

    def _means(self) -> Array:
        total = float(self.weight.sum())
        overall = float(self.reward.sum()) / total if total else 0.0
        means: Array = (self.reward + _PRIOR * overall) / (self.weight + _PRIOR)
        return means

    def learn(self, agreed: Sequence[int], outcome: float, tokens: int) -> None:
        arms = list(agreed)
        self.weight *= self._settings.memory
        self.reward *= self._settings.memory
        self.weight[arms] += 1
        self.reward[arms] += outcome - self._settings.price * tokens / 1000


class Selector:
    """Chooses examples for one small model, and learns from what came of it."""

    def __init__(self, settings: Settings | None = None, rng: np.random.Generator | None = None) -> None:
        self.settings = settings or Settings()
        mean = np.zeros(len(FEATURES))
        mean[_AT["similarity"]] = _SLOPE
        self.utility = Logistic(mean, _VARIANCE)
        self.threshold = Threshold(self.settings)
        self._rng = rng or np.random.default_rng()

    def __repr__(self) -> str:
        cut = self.settings.grid[self.threshold.best]
        return f"<Selector: threshold {cut}, {self.utility.seen:.0f} outcomes>"

    def select(
        self, asked: Asked, candidates: Sequence[tuple[Example, float]], room: int, *, explore: bool = True
    ) -> Selection:
        """The examples for a request whose prompt has `room` tokens left.

        `candidates`: those the tenant may see, with their similarity, from the vector index. `explore=False`
        for explanations: no chance is taken and none is used up.
        """
        ranked = sorted(candidates, key=lambda pair: -pair[1])
        if not ranked:
            return Selection((), (), 0, self.settings.start, _NONE, (), _NONE)
        compared, repeats = describe(asked, ranked)
        utilities = self.utility.means(compared)
        arm = self.threshold.pick(self._rng) if explore else self.threshold.best
        lengths = [example.tokens for example, _ in ranked]
        picked, added = self._diverse(utilities, repeats, lengths, room - self.settings.reserve)
        counts = [sum(gain >= cut for gain in added) for cut in self.settings.grid]
        order = picked[: counts[arm]][::-1]  # the best comes last, nearest the question
        return Selection(
            examples=tuple(ranked[at][0] for at in order),
            utilities=tuple(utilities[order].tolist()),
            tokens=sum(lengths[at] for at in order),
            threshold=self.settings.grid[arm],
            features=compared[order],
            candidates=tuple((e, s, u) for (e, s), u in zip(ranked, utilities.tolist(), strict=True)),
            compared=compared,
            agreed=tuple(at for at, count in enumerate(counts) if count == counts[arm]),
        )

    def learn(
        self, selection: Selection, outcome: float, answer: str | None = None, weight: float = 1.0
    ) -> None:
        """The outcome, in [0, 1], of the small model's answer with these examples.

        With its `answer`, credit and blame go to those that say the same; without, to all in proportion to what
        was expected of each: one outcome is one observation, whatever their number.
        """
        if not selection.candidates:
            return
        self.threshold.learn(selection.agreed, outcome, selection.tokens)
        if answer is not None and outcome >= 0.5:
            self.hindsight(selection, answer, weight)
        elif selection.examples:
            for features, part in zip(selection.features, _shares(selection, answer), strict=True):
                self.utility.learn(features, outcome, weight * part)

    def hindsight(self, selection: Selection, answer: str, weight: float = 0.2) -> None:
        """The request's good answer is known: candidates whose answer says the same would have helped.

        Our own addition to IC-Cache. Where the large model answered, it costs no call, and teaches on traffic
        that is not offloaded.
        """
        said = sketch(answer)
        for (example, _, _), features in zip(selection.candidates, selection.compared, strict=True):
            self.utility.learn(features, min(1.0, max(0.0, float(example.said @ said))), weight)

    def dump(self) -> bytes:
        """What was learned, for the store."""
        threshold = {"weight": self.threshold.weight.tolist(), "reward": self.threshold.reward.tolist()}
        state = {"features": FEATURES, "grid": self.settings.grid, "threshold": threshold}
        return orjson.dumps({**state, "utility": self.utility.dump()})

    def load(self, packed: bytes) -> None:
        """Take up what `dump` gave. Raises ValueError where it was learned on other features or another grid."""
        state: dict[str, Any] = orjson.loads(packed)
        try:
            if tuple(state["features"]) != FEATURES or tuple(state["grid"]) != self.settings.grid:
                raise ValueError("learned by another version of the selector")
            self.utility.load(state["utility"])
            self.threshold.weight = np.array(state["threshold"]["weight"])
            self.threshold.reward = np.array(state["threshold"]["reward"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a selector's state: {error}") from None

    def _diverse(
        self, utilities: Array, repeats: Array, lengths: Sequence[int], room: int
    ) -> tuple[list[int], list[float]]:
        """Rows in order of choice and the utility that each added, within the room.

        Greedy, as maximal marginal relevance (Carbonell and Goldstein 1998), with what an example adds in place
        of a difference of scores: of one answer said again, each further time counts less. What is added never
        rises from one to the next, so that a lower threshold only ever lengthens the list.
        """
        adds = utilities.copy()
        picked: list[int] = []
        added: list[float] = []
        while len(picked) < min(self.settings.limit, len(utilities)):
            at = int(np.argmax(adds))
            gain = float(adds[at])
            if gain < self.settings.grid[0]:
                break
            adds[at] = 0.0
            if lengths[at] <= room:  # one that is too long leaves its place to a shorter one
                room -= lengths[at]
                picked.append(at)
                added.append(gain)
                adds *= 1.0 - self.settings.diversity * repeats[at]
        return picked, added


def _shares(selection: Selection, answer: str | None) -> list[float]:
    """How much of an outcome each chosen example answers for: together one, or less if none said the same."""
    if answer is None:
        expected = np.array(selection.utilities)
        return list((expected / expected.sum()).tolist())
    same = np.clip(np.array([e.said for e in selection.examples]) @ sketch(answer), 0.0, 1.0)
    return list((same / max(1.0, float(same.sum()))).tolist())


def describe(asked: Asked, ranked: Sequence[tuple[Example, float]]) -> tuple[Array, Array]:
    """Features (n, d) of candidates, most similar first, and how far their answers repeat each other (n, n)."""
    questions = np.array([example.asked for example, _ in ranked])
    answers = np.array([example.said for example, _ in ranked])
    similarity = np.array([similarity for _, similarity in ranked], dtype=np.float64)
    figures = np.array(
        [
            (e.successes, e.uses, e.quality, e.category == asked.category, len(e.question), len(e.answer))
            for e, _ in ranked
        ],
        dtype=np.float64,
    )
    successes, uses, quality, category, question, answer = figures.T
    near = np.exp((similarity - similarity[0]) / _KERNEL)
    repeats = np.clip(answers @ answers.T, 0.0, 1.0)
    vote = repeats @ (near / near.sum())
    words = questions @ asked.words
    columns = (
        np.ones(len(ranked)),
        similarity - CUT,
        similarity[0] - similarity,
        1.0 / (1.0 + np.arange(len(ranked))),
        words,
        vote,
        vote - vote.max(),
        (successes + 1.0) / (uses + 2.0) - 0.5,
        np.log1p(uses) / 4,
        quality - 0.8,
        category,
        np.log((question + 1.0) / (len(asked.question) + 1.0)) / 4,
        np.log1p(answer) / 4 - 1,
        (similarity - CUT) * vote,
        words * vote,
    )
    return np.stack(columns, axis=1), repeats
