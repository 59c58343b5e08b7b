"""The examples in memory: which answers are kept, who may see them, which go first, which are made anew.

Plain synchronous state of the event loop; text and figures only, vectors live in the index under the same id.
It must never show an example to another tenant unless both sides share.
"""

import heapq
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

DECAY = 0.9  # what a value keeps of itself in one hour (IC-Cache §4.3)
REPLAYS = 5  # at most so many for one example (IC-Cache §4.3)
SKETCH = 256  # dimensions of hashed word counts, enough to tell equal answers from different ones
_SKETCHED = 4096  # characters of a text that its sketch reads
_OVERHEAD = 1024 + 2 * 4 * SKETCH  # bytes an example costs beside its text: figures and both sketches
_EASE = 0.1  # of each new outcome in the running means of quality
_WORD = re.compile(r"\w+")


class Pattern(Protocol):
    """A compiled expression of any engine."""

    def search(self, text: str, /) -> object | None: ...


def sketch(text: str) -> NDArray[np.float32]:
    """Hashed word counts of a text's beginning as a unit vector (SKETCH,): 1 for the same words, about 0 for others.

    Each word goes to two places with a sign (feature hashing, Weinberger et al. 2009): two words that meet in
    one place still differ in the other.
    """
    hashed = np.array(
        [zlib.crc32(word.encode()) for word in _WORD.findall(text[:_SKETCHED].lower())], np.int64
    )
    places = np.concatenate([hashed % SKETCH, (hashed >> 20) % SKETCH])
    signs = np.concatenate([hashed & 0x10000, (hashed & 0x20000) >> 1]) / 0x8000 - 1.0
    counts = np.bincount(places, signs, SKETCH).astype(np.float32)
    length = float(np.sqrt(counts @ counts))
    return counts / length if length else counts


@dataclass(slots=True)
class Example:
    """A large model's answer, kept to show a small one how it is done."""

    id: int  # also the vector's label in the index
    tenant: str
    model: str  # the large one
    category: str
    question: str
    answer: str
    tokens: int  # of question and answer together, in a prompt
    cost: float  # dollars the large model took for it
    created: float  # unix seconds
    user: int = 0  # `user_digest` of the end user who asked; 0: nobody was named
    share: bool = False  # its tenant lets other sharing tenants see it
    quality: float = 0.8  # of the answer, in [0, 1]; a running mean of verdicts
    uses: int = 0  # prompts it was in and whose outcome is known
    successes: int = 0  # of these, answers that would do
    replays: int = 0
    value: float = 1.0  # successful offloads it enabled, decayed to `valued`; a newcomer's is one, on trust
    valued: float = 0.0  # unix seconds
    asked: NDArray[np.float32] = field(init=False, repr=False, compare=False)  # sketch of the question
    said: NDArray[np.float32] = field(init=False, repr=False, compare=False)  # sketch of the answer

    def __post_init__(self) -> None:
        self.valued = self.valued or self.created
        self.asked, self.said = sketch(self.question), sketch(self.answer)

    @property
    def size(self) -> int:
        """Bytes charged to the budget."""
        return len(self.question.encode()) + len(self.answer.encode()) + _OVERHEAD

    @property
    def gain(self) -> float:
        """What a better answer would save: G = (1 - quality) * cost (IC-Cache §4.3)."""
        return (1.0 - self.quality) * self.cost

    def worth(self, now: float) -> float:
        """Its value as it stands now, in successful offloads."""
        return self.value * float(DECAY ** max(0.0, (now - self.valued) / 3600))

    def pack(self) -> bytes:
        """As bytes for the store; `unpack` reads them."""
        return orjson.dumps(
            {key: value for key, value in asdict(self).items() if key not in ("asked", "said")}
        )

    @classmethod
    def unpack(cls, packed: bytes) -> "Example":
        """Raises ValueError where the bytes are not an example's."""
        try:
            return cls(**orjson.loads(packed))
        except TypeError as error:
            raise ValueError(f"not an example: {error}") from None


@dataclass(frozen=True, slots=True)
class Offer:
    """What became of an example on offer: kept, or why not; and those that had to go for it."""

    reason: str | None = None
    gone: tuple[Example, ...] = ()


class Examples:
    """All examples, within a budget of bytes. Who removes is told, and forgets vectors and records elsewhere."""

    def __init__(self, budget: int, *, near: float = 0.98, clock: Callable[[], float] = time.time) -> None:
        self.budget = budget
        self.near = near  # similarity from which a like question is the same one
        self.bytes = 0
        self.refused: dict[str, int] = {}  # offers not kept, by reason
        self.evicted = 0
        self._clock = clock
        self._by_id: dict[int, Example] = {}
        self._queue: list[tuple[float, int]] = []  # heap of (density, id); stale pairs are skipped

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Example]:
        return iter(list(self._by_id.values()))

    def __repr__(self) -> str:
        return f"<Examples: {len(self)}, {self.bytes} of {self.budget} bytes>"

    def get(self, id: int) -> Example | None:
        return self._by_id.get(id)

    def visible(self, id: int, tenant: str, share: bool) -> Example | None:
        """The example, if this tenant may see it: its own, or shared where both sides share."""
        example = self._by_id.get(id)
        if example is None or not (example.tenant == tenant or (share and example.share)):
            return None
        return example

    def offer(
        self,
        example: Example,
        *,
        complete: bool,
        allowed: bool,
        personal: Iterable[Pattern] = (),
        neighbours: Sequence[tuple[int, float]] = (),
    ) -> Offer:
        """Keep a new answer if it may and can be kept.

        `complete`: whole and not filtered. `allowed`: by the category's policy. `personal`: the tenant's own
        patterns of what must not be kept. `neighbours`: the nearest known (id, similarity).
        """
        reason = self._bar(example, complete, allowed, personal, neighbours)
        if reason is None:
            gone = self.add(example)
            if example.id in self._by_id:
                return Offer(None, tuple(gone))
            reason = "no-room"
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return Offer(reason)

    def _bar(
        self,
        example: Example,
        complete: bool,
        allowed: bool,
        personal: Iterable[Pattern],
        neighbours: Sequence[tuple[int, float]],
    ) -> str | None:
        if not allowed:
            return "category"
        if not complete or not example.answer.strip() or not example.question.strip():
            return "incomplete"
        if any(p.search(example.question) or p.search(example.answer) for p in personal):
            return "personal"
        return "duplicate" if any(self._same(example, *neighbour) for neighbour in neighbours) else None

    def _same(self, example: Example, id: int, similarity: float) -> bool:
        """Near in meaning, with the same words, for the same readers: 'three' and 'four' are near too."""
        known = self._by_id.get(id)
        return (
            known is not None
            and similarity >= self.near
            and known.tenant == example.tenant
            and known.model == example.model
            and float(known.asked @ example.asked) >= self.near
        )

    def add(self, example: Example) -> list[Example]:
        """Take an example as it is, from the store say. Returns those evicted: itself, where others are worth more."""
        self.remove(example.id)
        self._put(example)
        gone: list[Example] = []
        while self.bytes > self.budget:
            victim = self._least()
            self.remove(victim.id)
            if victim is example:  # nobody leaves for one that does not stay
                for other in gone:
                    self._put(other)
                return [example]
            gone.append(victim)
        self.evicted += len(gone)
        return gone

    def _put(self, example: Example) -> None:
        self._by_id[example.id] = example
        self.bytes += example.size
        self._queued(example)

    def remove(self, id: int) -> Example | None:
        """Forget an example; unknown ids give None."""
        example = self._by_id.pop(id, None)
        if example is not None:
            self.bytes -= example.size
        return example

    def record(self, ids: Iterable[int], outcome: float) -> list[Example]:
        """The outcome, in [0, 1], of an answer made with these examples. Returns those changed.

        Examples in one prompt share its success, as its value was the prompt's and not each one's.
        """
        now = self._clock()
        used = [self._by_id[id] for id in ids if id in self._by_id]
        for example in used:
            example.uses += 1
            example.successes += outcome >= 0.5
            example.quality += _EASE * (outcome - example.quality)
            example.value, example.valued = example.worth(now) + outcome / len(used), now
            self._queued(example)
        return used

    def replay(self, cutoff: float, limit: int) -> list[Example]:
        """Up to `limit` examples to be answered anew, highest gain first, down to a gain of `cutoff` dollars.

        Only those that were used: an answer that nobody needed is not worth a better one.
        """
        due = [e for e in self._by_id.values() if e.uses and e.replays < REPLAYS and e.gain > cutoff]
        return heapq.nlargest(limit, due, key=lambda example: example.gain)

    def replayed(self, id: int, answer: str, quality: float, tokens: int) -> Example | None:
        """The best of a replay's answers: taken if better than the one there is. The try counts either way."""
        example = self._by_id.get(id)
        if example is None:
            return None
        example.replays += 1
        if quality > example.quality:
            self.bytes -= example.size
            example.answer, example.quality, example.tokens = answer, quality, tokens
            example.said = sketch(answer)
            self.bytes += example.size
            self._queued(example)
        return example

    # ── eviction: a knapsack, filled greedily by decayed value per byte (IC-Cache §4.3) ──

    def _density(self, example: Example) -> float:
        """Log of value per byte, decayed to a fixed date instead of to now.

        All values decay at one rate, so their order never changes by waiting: the heap stays valid.
        """
        return float(np.log(max(example.value, 1e-9) / example.size) - np.log(DECAY) * example.valued / 3600)

    def _queued(self, example: Example) -> None:
        heapq.heappush(self._queue, (self._density(example), example.id))
        if len(self._queue) > 4 * len(self._by_id) + 1000:
            self._queue = [(self._density(e), e.id) for e in self._by_id.values()]
            heapq.heapify(self._queue)

    def _least(self) -> Example:
        while True:
            density, id = heapq.heappop(self._queue)
            example = self._by_id.get(id)
            if example is not None and density == self._density(example):
                return example
