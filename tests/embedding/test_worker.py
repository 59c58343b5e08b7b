"""The worker: batches, deadlines, failures, hangs, index changes, upkeep; on small real embedders."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from gateway.embedding.worker import Worker
from gateway.errors import EmbedderBusy, EmbedderFailed
from gateway.index.partitions import Partitions
from gateway.interfaces import Vector

DIM = 16


class HashEmbedder:
    """Unit vectors from a hash; one token a word. Can be told to fail, to hang, to be slow."""

    def __init__(self) -> None:
        self.dim, self.window, self.name = DIM, 8, "hash"
        self.batches: list[list[str]] = []
        self.fail = False
        self.delay = 0.0
        self.release = threading.Event()
        self.release.set()

    def tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str]) -> Vector:
        self.batches.append(list(texts))
        self.release.wait(10)
        time.sleep(self.delay)
        if self.fail:
            raise RuntimeError("out of luck")
        return np.stack([vector_of(text) for text in texts])


class LengthClassifier:
    """Long texts are 'long': here, by the sign of a vector's first component."""

    def label(self, vectors: Vector) -> list[tuple[str, float]]:
        return [("plus" if v[0] > 0 else "minus", 0.5) for v in vectors]


class BrokenClassifier:
    def label(self, vectors: Vector) -> list[tuple[str, float]]:
        raise ValueError("no labels today")


def vector_of(text: str) -> Vector:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    v = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return v / np.linalg.norm(v)


def run(
    body: Callable[[Worker, HashEmbedder, Partitions], Awaitable[None]],
    *,
    indexes: Partitions | None = None,
    max_batch: int = 16,
    max_queue: int = 256,
    deadline: float = 2.0,
) -> None:
    async def scene() -> None:
        embedder, partitions = HashEmbedder(), Partitions() if indexes is None else indexes
        worker = Worker(
            lambda: embedder, partitions, max_batch=max_batch, max_queue=max_queue, deadline=deadline
        )
        worker.start()
        await asyncio.wait_for(worker.ready.wait(), 5)
        embedder.batches.clear()
        try:
            await body(worker, embedder, partitions)
        finally:
            embedder.release.set()
            await worker.close()

    asyncio.run(scene())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def test_one_look_embeds_classifies_and_searches() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        worker.set_classifier(LengthClassifier())
        assert await worker.add(7, b"p", vector_of("hello world")) == 1
        look = await worker.look("hello world", b"p")
        np.testing.assert_array_equal(look.vector, vector_of("hello world"))
        assert (look.tokens, look.beyond_window) == (2, False)
        assert look.candidates == [(7, pytest.approx(1.0, abs=1e-5))]
        assert look.label in ("plus", "minus")
        assert look.confidence == 0.5
        assert look.embed_s > 0
        assert embedder.batches == [["hello world"]]

    run(body)


def test_without_partition_nothing_is_searched() -> None:
    async def body(worker: Worker, _: HashEmbedder, __: Partitions) -> None:
        await worker.add(7, b"p", vector_of("a"))
        look = await worker.look("a", None)
        assert look.vector is not None
        assert (look.candidates, look.search_s, look.label) == ([], 0.0, None)

    run(body)


def test_further_partitions_are_searched_with_the_same_vector_and_merged() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        for id, partition, text in (
            (1, b"p", "a"),
            (2, b"own", "a"),
            (3, b"shared", "b"),
            (2, b"shared", "a"),
        ):
            await worker.add(id, partition, vector_of(text))
        look = await worker.look("a", b"p", 5, (b"own", b"shared", b"empty"))
        assert [id for id, _ in look.candidates] == [1]
        assert [id for id, _ in look.also] == [2, 3]
        assert look.also[0][1] == pytest.approx(1.0, abs=1e-5)
        assert [id for id, _ in (await worker.look("a", None, 5, (b"own", b"shared"), 1)).also] == [2]
        assert (await worker.look("a", b"p")).also == []
        assert embedder.batches == [["a"]] * 3

    run(body)


def test_beyond_the_window_there_is_no_vector_and_no_encoding() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        worker.set_classifier(LengthClassifier())
        long, short = await asyncio.gather(worker.look("w " * 9, b"p"), worker.look("w " * 8, b"p"))
        assert (long.vector, long.tokens, long.beyond_window) == (None, 9, True)
        assert (long.label, long.candidates) == (None, [])
        assert short.vector is not None
        assert embedder.batches == [["w " * 8]]

    run(body)


def test_what_waits_is_encoded_together_up_to_a_batch() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.release.clear()
        first = asyncio.create_task(worker.look("first", None))
        await until(lambda: bool(embedder.batches))
        rest = [asyncio.create_task(worker.look(f"text {i}", None)) for i in range(6)]
        await until(lambda: worker.queued == 6)
        embedder.release.set()
        looks = await asyncio.gather(first, *rest)
        assert [len(batch) for batch in embedder.batches] == [1, 4, 2]
        for i, look in enumerate(looks[1:]):
            np.testing.assert_array_equal(look.vector, vector_of(f"text {i}"))
        assert (worker.counts.looks, worker.counts.texts, worker.counts.batches) == (7, 7, 3)

    run(body, max_batch=4)


def test_long_texts_do_not_share_a_batch_with_everyone() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.release.clear()
        first = asyncio.create_task(worker.look("first", None))
        await until(lambda: bool(embedder.batches))
        rest = [asyncio.create_task(worker.look("x" * 3000, None)) for _ in range(4)]
        await until(lambda: worker.queued == 4)
        embedder.release.set()
        await asyncio.gather(first, *rest)
        assert [len(batch) for batch in embedder.batches] == [1, 2, 2]

    run(body)


def test_a_full_queue_is_busy_at_once() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.release.clear()
        held = [asyncio.create_task(worker.look("held", None))]
        await until(lambda: bool(embedder.batches))
        held += [asyncio.create_task(worker.look("held", None)) for _ in range(3)]
        await until(lambda: worker.queued == 3)
        started = time.perf_counter()
        with pytest.raises(EmbedderBusy, match="full"):
            await worker.look("one more", None)
        assert time.perf_counter() - started < 0.1
        assert worker.counts.busy == 1
        embedder.release.set()
        await asyncio.gather(*held)

    run(body, max_queue=3)


def test_a_hung_encode_wedges_nobody_and_is_recovered_from() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.release.clear()
        started = time.perf_counter()
        outcomes = await asyncio.gather(
            *(worker.look(f"t {i}", None) for i in range(5)), return_exceptions=True
        )
        assert all(isinstance(outcome, EmbedderBusy) for outcome in outcomes)
        assert time.perf_counter() - started < 1.0
        assert worker.counts.late == 5
        await asyncio.gather(*(worker.look("fill", None) for _ in range(10)), return_exceptions=True)
        with pytest.raises(EmbedderBusy, match="full"):
            await worker.look("later", None)
        embedder.release.set()
        await until(lambda: worker.queued == 0)
        before = len(embedder.batches)
        assert (await worker.look("again", None)).vector is not None
        encoded = [text for batch in embedder.batches[before:] for text in batch]
        assert encoded == ["again"]  # what had been given up was never encoded
        assert "fill" not in {text for batch in embedder.batches for text in batch}

    run(body, max_queue=8, deadline=0.1)


def test_a_caller_that_has_gone_is_not_served() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.release.clear()
        first = asyncio.create_task(worker.look("first", None))
        await until(lambda: bool(embedder.batches))
        gone = asyncio.create_task(worker.look("gone", None))
        await until(lambda: worker.queued == 1)
        gone.cancel()
        embedder.release.set()
        await first
        await worker.look("next", None)
        assert embedder.batches == [["first"], ["next"]]

    run(body)


def test_a_failing_embedder_fails_its_batch_and_works_again_after() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.fail = True
        for _ in range(3):
            with pytest.raises(EmbedderFailed, match="out of luck"):
                await worker.look("a", None)
        assert worker.counts.failed == 3
        embedder.fail = False
        assert (await worker.look("a", None)).vector is not None

    run(body)


@pytest.mark.parametrize("bad", [np.full((1, DIM), np.nan, dtype=np.float32), np.zeros((2, DIM), np.float32)])
def test_what_is_not_a_vector_is_a_failure(bad: Vector) -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.encode = lambda texts: bad  # type: ignore[method-assign]
        with pytest.raises(EmbedderFailed, match="vectors of shape"):
            await worker.look("a", None)

    run(body)


def test_a_failing_classifier_or_index_costs_only_its_own_part() -> None:
    class BrokenIndex(Partitions):
        def search(self, partition: bytes, vector: Vector, k: int) -> list[tuple[int, float]]:
            raise MemoryError("no room")

    async def body(worker: Worker, _: HashEmbedder, __: Partitions) -> None:
        worker.set_classifier(BrokenClassifier())
        look = await worker.look("a", b"p")
        assert look.vector is not None
        assert (look.label, look.confidence, look.candidates) == (None, 0.0, [])
        assert (worker.counts.unlabelled, worker.counts.unsearched, worker.counts.failed) == (1, 1, 0)

    run(body, indexes=BrokenIndex())


def test_while_starting_looks_are_busy_at_once_and_encode_waits() -> None:
    async def scene() -> None:
        gate = threading.Event()

        def load() -> HashEmbedder:
            gate.wait(5)
            return HashEmbedder()

        worker = Worker(load, Partitions())
        worker.start()
        assert worker.state == "starting"
        with pytest.raises(EmbedderBusy, match="starting"):
            await worker.look("a", None)
        encoding = asyncio.create_task(worker.encode(["a", "b"]))
        await asyncio.sleep(0.02)
        assert not encoding.done()
        gate.set()
        assert (await encoding).shape == (2, DIM)
        assert worker.state == "ready"
        assert worker.embedder is not None
        await worker.close()

    asyncio.run(scene())


def test_a_failed_load_fails_looks_at_once_but_the_index_still_works() -> None:
    async def scene() -> None:
        def load() -> HashEmbedder:
            raise OSError("no such model")

        partitions = Partitions()
        worker = Worker(load, partitions)
        worker.start()
        early = asyncio.create_task(worker.encode(["a"]))
        await asyncio.wait_for(worker.ready.wait(), 5)
        assert (worker.state, worker.failure) == ("failed", "OSError: no such model")
        for call in (worker.look("a", None), worker.encode(["a"]), early):
            with pytest.raises(EmbedderFailed, match="no such model"):
                await call
        assert await worker.add(1, b"p", vector_of("a")) == 1
        assert len(partitions) == 1
        await worker.close()

    asyncio.run(scene())


def test_an_embedder_that_cannot_encode_never_becomes_ready() -> None:
    async def scene() -> None:
        embedder = HashEmbedder()
        embedder.fail = True
        worker = Worker(lambda: embedder, Partitions())
        worker.start()
        await asyncio.wait_for(worker.ready.wait(), 5)
        assert (worker.state, worker.failure) == ("failed", "RuntimeError: out of luck")
        await worker.close()

    asyncio.run(scene())


def test_bulk_encoding_gives_way_to_looks_and_is_not_starved() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.delay = 0.002
        bulk = asyncio.create_task(worker.encode([f"example {i}" for i in range(40)]))
        await until(lambda: bool(embedder.batches))
        while not bulk.done():
            await worker.look("traffic", None)
        vectors = await bulk
        assert vectors.shape == (40, DIM)
        np.testing.assert_array_equal(vectors[33], vector_of("example 33"))
        sizes = [len(batch) for batch in embedder.batches if batch[0] != "traffic"]
        assert max(sizes) <= 4
        assert worker.counts.texts >= 5
        assert worker.counts.bulk_texts == 40

    run(body, max_batch=4)


def test_bulk_encoding_fails_and_times_out_by_itself() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.fail = True
        with pytest.raises(EmbedderFailed, match="out of luck"):
            await worker.encode(["a"])
        embedder.fail = False
        embedder.release.clear()
        with pytest.raises(EmbedderBusy, match="within"):
            await worker.encode(["a"], timeout=0.05)
        embedder.release.set()
        assert (await worker.encode(["a"])).shape == (1, DIM)

    run(body)


def test_changes_are_applied_in_order_without_being_awaited() -> None:
    async def body(worker: Worker, _: HashEmbedder, partitions: Partitions) -> None:
        batch = [(i, b"p", vector_of(f"v{i}")) for i in range(500)]
        loading = worker.load_many(batch)
        worker.remove(3, b"p")
        worker.add(4, b"p", vector_of("new"))
        last = worker.remove(5, b"p")
        assert await loading == 500
        assert await last == 1
        assert len(partitions) == 498
        assert (await worker.look("new", b"p")).candidates[0][0] == 4
        assert 3 not in {id for id, _ in (await worker.look("v3", b"p", k=10)).candidates}

    run(body)


def test_a_vector_of_another_dimension_is_dropped_and_counted() -> None:
    async def body(worker: Worker, _: HashEmbedder, partitions: Partitions) -> None:
        assert await worker.add(1, b"p", vector_of("a")) == 1
        assert await worker.add(2, b"p", np.ones(DIM + 1, dtype=np.float32)) == 0
        assert worker.counts.dropped == 1
        assert len(partitions) == 1

    run(body)


def test_looks_are_served_while_many_vectors_are_loaded() -> None:
    async def body(worker: Worker, _: HashEmbedder, partitions: Partitions) -> None:
        rows = np.random.default_rng(1).standard_normal((20_000, DIM)).astype(np.float32)
        loading = worker.load_many([(i, i.to_bytes(4, "big"), row) for i, row in enumerate(rows)])
        served = 0
        while not loading.done():
            await worker.look("traffic", None)
            served += 1
        assert await loading == 20_000
        assert served >= 2
        assert partitions.stats().partitions == 20_000

    run(body)


def test_upkeep_runs_beside_the_traffic() -> None:
    async def body(worker: Worker, _: HashEmbedder, partitions: Partitions) -> None:
        await worker.load_many([(i, b"p", vector_of(f"v{i}")) for i in range(600)])
        await until(lambda: partitions.stats().graphs == 1)
        for i in range(300):
            worker.remove(i, b"p")
        await until(lambda: worker.counts.rebuilds >= 2 and partitions.stats().tombstones == 0)
        assert len(partitions) == 300
        assert (await worker.look("v450", b"p", k=1)).candidates[0][0] == 450

    run(body, indexes=Partitions(flat_limit=200))


def test_a_failed_rebuild_leaves_the_old_index() -> None:
    class Unlucky(Partitions):
        def begin(self):  # type: ignore[no-untyped-def]
            rebuild = super().begin()
            if rebuild is not None:
                rebuild.build = lambda stop: 1 / 0
            return rebuild

    async def body(worker: Worker, _: HashEmbedder, partitions: Partitions) -> None:
        await worker.load_many([(i, b"p", vector_of(f"v{i}")) for i in range(30)])
        await until(lambda: worker.counts.rebuilds_failed >= 1)
        assert (await worker.look("v7", b"p", k=1)).candidates[0][0] == 7

    run(body, indexes=Unlucky(flat_limit=20))


def test_close_serves_what_waits_then_refuses() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, partitions: Partitions) -> None:
        embedder.delay = 0.02
        looks = [asyncio.create_task(worker.look(f"t{i}", None)) for i in range(5)]
        await asyncio.sleep(0)
        adding = worker.add(1, b"p", vector_of("a"))
        await worker.close()
        assert all(look.vector is not None for look in await asyncio.gather(*looks))
        assert await adding == 1
        assert worker.state == "closed"
        with pytest.raises(EmbedderBusy, match="closed"):
            await worker.look("x", None)
        with pytest.raises(EmbedderBusy, match="closed"):
            await worker.encode(["x"])
        assert await worker.add(2, b"p", vector_of("b")) == 0
        assert worker.counts.refused == 1
        await worker.close()

    run(body)


def test_close_is_bounded_when_the_embedder_hangs() -> None:
    async def body(worker: Worker, embedder: HashEmbedder, _: Partitions) -> None:
        embedder.release.clear()
        hung = asyncio.create_task(worker.look("hung", None))
        await until(lambda: bool(embedder.batches))
        waiting = asyncio.create_task(worker.encode(["later"]))
        adding = worker.add(1, b"p", vector_of("a"))
        await asyncio.sleep(0)
        started = time.perf_counter()
        await worker.close(timeout=0.1)
        assert time.perf_counter() - started < 1.0
        assert await adding == 0
        with pytest.raises(EmbedderBusy, match="closed"):
            await waiting
        embedder.release.set()
        await hung

    run(body)


def test_repr_says_its_state_in_words() -> None:
    async def body(worker: Worker, _: HashEmbedder, __: Partitions) -> None:
        assert repr(worker) == "<Worker ready, 0 waiting, 0 changes waiting>"

    run(body)
