"""What a decision costs a request beyond its embedding, with 5,000 examples: search, selection, router, prompt.

    python -m bench.offload.cost

And what a request for a model without `offload_to` pays: the test that finds there is nothing to do.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gateway.exchange import Answer, Exchange, Ruling, Usage
from gateway.index.partitions import Partitions
from gateway.interfaces import Vector
from gateway.offload.examples import Examples
from gateway.offload.pair import Terms
from gateway.offload.room import Offloading
from gateway.wire.request import parse

EXAMPLES, ROUNDS, DIM, TOPICS = 5000, 2000, 384, 77
WORDS = [f"word{i}" for i in range(3000)]


class Index:
    """The partitions without a thread: what the worker does with them is measured by itself."""

    embedder = None

    def __init__(self) -> None:
        self.partitions = Partitions()

    def add(self, id: int, partition: bytes, vector: Vector) -> None:
        self.partitions.add(id, partition, vector)

    def remove(self, id: int, partition: bytes) -> None:
        self.partitions.remove(id, partition)

    async def encode(self, texts: Sequence[str]) -> Vector:
        raise NotImplementedError

    def upkeep(self) -> None:
        while self.partitions.due:
            rebuild: Any = self.partitions.begin()
            while not rebuild.gather():
                rebuild.build()
            rebuild.build()
            if not self.partitions.settle(rebuild):
                raise RuntimeError("the index did not settle")


def room(index: Index) -> Offloading:
    found = Offloading(
        Examples(1 << 30),
        index,
        None,  # type: ignore[arg-type]  # nothing is saved
        entry=lambda name: name,
        load=lambda name: 0.0,
        seconds=lambda name: None,
        busy=lambda name: False,
        rng=np.random.default_rng(1),
    )
    found.configure([Terms("large", "small", 8192)], {})
    found.library.ready = True
    return found


def exchange(question: str, vector: Vector, model: str = "large") -> Exchange:
    raw = b'{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}' % (
        model.encode(),
        question.encode(),
    )
    x = Exchange("r", {}, tenant="t:a", request=parse("chat", raw, {}))
    x.ruling = Ruling("default", 1.0, "default", "semantic", 0.9, 60.0, offload=True, max_quality_loss=0.02)
    x.seen = vector, []
    return x


def filled(rng: np.random.Generator) -> tuple[Offloading, Index, Callable[[], tuple[str, Vector]]]:
    """5,000 short questions about 77 topics, each with one of as many answers."""
    index = Index()
    full = room(index)
    centres = rng.standard_normal((TOPICS, DIM))

    def draw() -> tuple[str, Vector]:
        topic = int(rng.integers(TOPICS))
        vector = (centres[topic] + 0.6 * rng.standard_normal(DIM)).astype(np.float32)
        text = " ".join(rng.choice(WORDS[topic * 30 : topic * 30 + 60], 12))
        return text, vector / np.float32(np.linalg.norm(vector))

    for number in range(EXAMPLES):
        question, vector = draw()
        x = exchange(question, vector)
        x.plan = full.plan(x)
        text = f"label {number % TOPICS}"
        body = b'{"choices": [{"message": {"content": "%s"}}]}' % text.encode()
        full.answered(x, Answer(body, "semantic", "ok", Usage(20, 5), "large"), True, 0.001)
        index.upkeep()
    return full, index, draw


def main() -> None:
    full, index, draw = filled(np.random.default_rng(0))
    steps: dict[str, list[float]] = {
        name: [] for name in ("searches", "search", "plan", "compose", "together")
    }
    none: list[float] = []
    for _ in range(ROUNDS):
        question, vector = draw()
        x = exchange(question, vector)
        assert x.request is not None
        marks = [time.perf_counter()]
        partitions = full.searches(x)
        marks.append(time.perf_counter())
        x.seen = vector, index.partitions.search(partitions[0], vector, 24)
        marks.append(time.perf_counter())
        x.plan = full.plan(x)
        marks.append(time.perf_counter())
        full.compose(x.plan, x.request, stream=False)
        marks.append(time.perf_counter())
        for name, begin, end in zip(steps, marks, marks[1:], strict=False):
            steps[name].append(end - begin)
        steps["together"].append(marks[-1] - marks[0])
        plain = exchange(question, vector, "plain")
        began = time.perf_counter()
        full.searches(plain)
        none.append(time.perf_counter() - began)
    print(f"{len(full.examples)} examples, {ROUNDS} requests; microseconds, median and P99")
    for name, values in {**steps, "model without offload_to": none}.items():
        ranked = sorted(values)
        print(
            f"{name:>26} {statistics.median(ranked) * 1e6:8.1f} {ranked[int(0.99 * len(ranked))] * 1e6:8.1f}"
        )


if __name__ == "__main__":
    main()
