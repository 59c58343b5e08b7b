"""The room by itself: learning from shipped settings, and a store or embedder that fails or changes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.errors import EmbedderFailed, StoreError
from gateway.exchange import Answer, Exchange, Ruling, Usage
from gateway.index.partitions import Partitions
from gateway.offload.examples import Examples
from gateway.offload.pair import Terms
from gateway.offload.room import Offloading, Tenant
from gateway.wire.request import parse

DIM = 16


class Embedder:
    def __init__(self, name: str) -> None:
        self.name = name


class Index:
    def __init__(self, name: str = "e1") -> None:
        self.embedder = Embedder(name)
        self.partitions = Partitions(flat_limit=1 << 20)
        self.encoded: list[str] = []
        self.broken = False

    def add(self, id: int, partition: bytes, vector: Any) -> None:
        self.partitions.add(id, partition, vector)

    def remove(self, id: int, partition: bytes) -> None:
        self.partitions.remove(id, partition)

    async def encode(self, texts: Sequence[str]) -> Any:
        if self.broken:
            raise EmbedderFailed("scripted")
        self.encoded += texts
        return np.eye(len(texts), DIM, dtype=np.float32)


class Shelf:
    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, bytes]] = {}
        self.broken = False

    async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
        if self.broken:
            raise StoreError("scripted")
        self.kinds.setdefault(kind, {}).update(items)

    async def unshelve(self, kind: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.kinds.get(kind, {}).pop(key, None)

    async def shelf(self, kind: str) -> AsyncIterator[list[tuple[str, bytes]]]:
        yield list(self.kinds.get(kind, {}).items())


def room(index: Index, shelf: Shelf, *, ready: bool = True, budget: int = 1 << 26) -> Offloading:
    made = Offloading(
        Examples(budget),
        index,
        shelf,
        entry=lambda name: name,
        load=lambda name: float("inf"),
        seconds=lambda name: None,
        busy=lambda name: False,
        rng=np.random.default_rng(1),
    )
    made.configure([Terms("large", "small", 8192, (2e-6, 8e-6), (1e-7, 4e-7))], {"t:b": Tenant(share=True)})
    made.library.ready = ready
    return made


def exchange(question: str, vector: Any, number: int = 0, tenant: str = "t:a") -> Exchange:
    body = {"model": "large", "messages": [{"role": "user", "content": question}]}
    x = Exchange(f"r{number}", {}, tenant=tenant, request=parse("chat", orjson.dumps(body), {}))
    x.ruling = Ruling("default", 1.0, "default", "semantic", 0.9, 60.0, offload=True, max_quality_loss=0.02)
    x.seen = vector, []
    return x


def answer(text: str) -> Answer:
    body = orjson.dumps({"choices": [{"message": {"content": text}}]})
    return Answer(body, "semantic", "ok", Usage(20, 5), "large")


def kept(made: Offloading, *questions: str) -> None:
    for number, question in enumerate(questions):
        x = exchange(question, np.eye(1, DIM, number, dtype=np.float32)[0], number)
        x.plan = made.plan(x)
        made.answered(x, answer(f"it is {number}"), True, 0.001)


def stream(able: bool, rounds: int) -> tuple[Offloading, list[bool], float]:
    """Requests about ten topics from an empty start, a perfect judge, and a small model that says what most of
    its examples say, if it is able to. Gives who was offloaded, and the share of all answers lost by it."""
    rng, index = np.random.default_rng(2), Index()
    made = room(index, Shelf())
    centres, lost = rng.standard_normal((10, DIM)) * 2, 0
    offloaded: list[bool] = []
    for number in range(rounds):
        topic = int(rng.integers(10))
        vector = (centres[topic] + 0.3 * rng.standard_normal(DIM)).astype(np.float32)
        question = " ".join(f"w{topic * 20 + word}" for word in rng.integers(0, 40, 8))
        x = exchange(question, vector / np.linalg.norm(vector), number)
        x.seen = x.seen[0], index.partitions.search(made.searches(x)[0], x.seen[0], 24)
        plan = x.plan = made.plan(x)
        assert plan is not None
        votes = Counter(e.answer for e in plan.selection.examples)
        right = able and bool(votes) and votes.most_common(1)[0][0] == f"label {topic}"
        offloaded.append(plan.choice.offload)
        lost += plan.choice.offload and not right
        if not plan.choice.offload:
            made.answered(x, answer(f"label {topic}"), True, 0.001)
        if plan.choice.compare:
            made.compared(plan, float(right))
    return made, offloaded, lost / rounds


def test_from_shipped_settings_comparisons_open_the_way() -> None:
    made, offloaded, lost = stream(able=True, rounds=3000)
    assert not any(offloaded[:49]), "it begins cautiously"
    assert sum(offloaded[-500:]) > 250
    assert lost <= 0.02
    assert made.pairs["large"].router.ledger.rate <= 0.02


def test_a_small_model_that_cannot_is_found_out() -> None:
    _, offloaded, lost = stream(able=False, rounds=2000)
    assert lost <= 0.02
    assert sum(offloaded[-500:]) <= 5


def test_a_store_that_fails_keeps_nothing_waiting_and_gets_it_later() -> None:
    shelf = Shelf()
    made = room(Index(), shelf)
    kept(made, "what is the first", "what is the second")
    shelf.broken = True
    asyncio.run(made.save())
    assert made.failures["store"] == 1
    assert not shelf.kinds
    shelf.broken = False
    asyncio.run(made.save())
    assert len(shelf.kinds["example"]) == len(shelf.kinds["example-vector"]) == 2
    assert list(shelf.kinds["pair"]) == ['["large","small"]']
    first = next(iter(made.examples))
    made.library.remove(first.id)
    asyncio.run(made.save_all())
    assert set(shelf.kinds["example"]) == {f"{e.id:016x}" for e in made.examples}


def test_a_save_that_is_cut_short_is_made_up_for() -> None:
    class Slow(Shelf):
        seconds = 5.0

        async def shelve(self, kind: str, items: Mapping[str, bytes]) -> None:
            await asyncio.sleep(self.seconds)
            await super().shelve(kind, items)

    async def scene() -> None:
        saving = asyncio.get_running_loop().create_task(made.save())
        await asyncio.sleep(0.01)
        shelf.seconds = 0.0
        saving.cancel()  # and nobody waits until it has noticed
        await made.save_all()

    shelf = Slow()
    made = room(Index(), shelf)
    kept(made, "what is the first", "what is the second")
    asyncio.run(scene())
    assert len(shelf.kinds["example"]) == len(shelf.kinds["example-vector"]) == 2
    assert shelf.kinds["pair"]


def test_restoring_finds_what_was_saved_without_embedding_anew() -> None:
    shelf = Shelf()
    made = room(Index(), shelf)
    kept(made, "what is the first", "what is the second")
    made.pairs["large"].judge(_plan(made), "feedback", small=1.0)
    asyncio.run(made.save_all())
    index = Index()
    again = room(index, shelf, ready=False)
    assert again.searches(exchange("q", None)) == ()
    asyncio.run(again.restore())
    assert {e.question for e in again.examples} == {"what is the first", "what is the second"}
    assert not index.encoded
    assert len(index.partitions) == 2
    assert again.pairs["large"].router.small.seen == 1


def _plan(made: Offloading) -> Any:
    return made.plan(exchange("what is new", np.eye(1, DIM, dtype=np.float32)[0]))


def test_another_embedder_means_new_vectors_and_a_router_that_begins_anew() -> None:
    shelf = Shelf()
    made = room(Index(), shelf)
    kept(made, "what is the first", "what is the second")
    made.pairs["large"].judge(_plan(made), "feedback", small=1.0)
    asyncio.run(made.save_all())
    index = Index("e2")
    again = room(index, shelf, ready=False)
    asyncio.run(again.restore())
    assert sorted(index.encoded) == ["what is the first", "what is the second"]
    assert again.pairs["large"].router.small.seen == 0
    asyncio.run(again.save())
    assert all(value.startswith(b"e2\0") for value in shelf.kinds["example-vector"].values())


def test_what_cannot_be_read_or_embedded_is_counted_and_left() -> None:
    shelf = Shelf()
    made = room(Index(), shelf)
    kept(made, "what is the first")
    asyncio.run(made.save())
    shelf.kinds["example"]["00000000000000ff"] = b'{"not": "an example"}'
    shelf.kinds["pair"]['["large","small"]'] = b"{}"
    index = Index("e2")
    index.broken = True
    again = room(index, shelf, ready=False)
    asyncio.run(again.restore())
    assert again.ready
    assert again.failures["restore"] == 3
    assert len(index.partitions) == 0


def test_a_question_never_meets_an_example_as_a_cached_answer() -> None:
    made = room(Index(), Shelf())
    own = made.searches(exchange("q", None))
    other = made.searches(exchange("q", None, tenant="t:c"))
    sharing = made.searches(exchange("q", None, tenant="t:b"))
    assert len(own) == len(other) == 1
    assert len(sharing) == 2
    assert len({*own, *other, *sharing}) == 4


def test_examples_leave_the_index_with_the_budget() -> None:
    index = Index()
    made = room(index, Shelf(), budget=10_000)
    kept(made, *(f"what is number {n}" for n in range(8)))
    assert 0 < len(made.examples) == len(index.partitions) < 8


def test_load_without_an_end_is_still_a_number() -> None:
    made = room(Index(), Shelf())
    for now in range(30):
        made.sample(float(now))
    assert np.isfinite(made.pairs["large"].pressure.excess)
    assert made.pairs["large"].pressure.excess > 1


def test_a_configuration_that_stays_keeps_what_was_learned() -> None:
    made = room(Index(), Shelf())
    before = made.pairs["large"]
    made.configure([Terms("large", "small", 4096)], {})
    assert made.pairs["large"] is before
    assert before.terms.context == 4096
    made.configure([Terms("large", "tiny", 4096)], {})
    assert made.pairs["large"] is not before
    made.configure([], {})
    assert made.searches(exchange("q", None)) == ()


@pytest.mark.parametrize(("source", "counted"), [("feedback", 1), ("judge", 2)])
def test_each_source_speaks_once_of_an_answer(source: str, counted: int) -> None:
    made = room(Index(), Shelf())
    plan, pair = _plan(made), made.pairs["large"]
    assert pair.judge(plan, "feedback", small=1.0)
    assert pair.judge(plan, source, small=1.0) == (source != "feedback")
    assert pair.router.small.seen == counted
