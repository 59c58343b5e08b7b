"""Partitions against a plain dictionary, and rebuilding beside a thread that keeps changing things."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.index.hnsw import CHUNK
from gateway.index.partitions import PIECES, SETTLE, Partitions, Rebuild
from gateway.interfaces import Vector

DIM = 16


def unit(seed: int, n: int = 1, dim: int = DIM) -> Vector:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(n: int, **limits: float) -> tuple[Partitions, Vector]:
    partitions = Partitions(**limits)  # type: ignore[arg-type]
    vectors = unit(0, n)
    for id, vector in enumerate(vectors):
        partitions.add(id, b"p", vector)
    return partitions, vectors


def begun(partitions: Partitions) -> Rebuild:
    rebuild = partitions.begin()
    assert rebuild is not None
    return gathered(rebuild)


def gathered(rebuild: Rebuild) -> Rebuild:
    while not rebuild.gather():
        pass
    return rebuild


def test_search_never_leaves_its_partition() -> None:
    partitions = Partitions()
    vector = unit(1)[0]
    partitions.add(1, b"a", vector)
    assert partitions.search(b"b", vector, 5) == []
    assert [id for id, _ in partitions.search(b"a", vector, 5)] == [1]


def test_the_same_id_in_two_partitions_is_two_entries() -> None:
    partitions = Partitions()
    partitions.add(1, b"a", unit(1)[0])
    partitions.add(1, b"b", unit(2)[0])
    partitions.remove(1, b"a")
    assert len(partitions) == 1
    assert partitions.search(b"b", unit(2)[0], 1)[0][0] == 1


def test_an_emptied_partition_disappears() -> None:
    partitions, _ = filled(3)
    for id in range(3):
        partitions.remove(id, b"p")
    partitions.remove(0, b"p")
    assert partitions.stats().partitions == 0
    assert len(partitions) == 0


def test_vectors_of_another_dimension_are_refused() -> None:
    partitions, vectors = filled(2)
    with pytest.raises(ValueError, match="dimensions"):
        partitions.add(9, b"q", np.ones(DIM + 1, dtype=np.float32))
    with pytest.raises(ValueError, match="dimensions"):
        partitions.add(9, b"q", vectors)
    assert partitions.stats().partitions == 1


def test_nothing_is_due_until_the_limit_then_one_rebuild_promotes() -> None:
    partitions, vectors = filled(1000, flat_limit=1000)
    assert partitions.begin() is None
    partitions.add(1000, b"p", unit(5)[0])
    assert partitions.stats().graphs == 0
    partitions.compact()
    assert partitions.stats().graphs == 1
    assert len(partitions) == 1001
    assert partitions.search(b"p", vectors[7], 1)[0][0] == 7
    assert partitions.begin() is None


def test_tombstones_are_compacted_and_a_small_rest_is_exact_again() -> None:
    partitions, vectors = filled(400, flat_limit=150)
    partitions.compact()
    for id in range(101):
        partitions.remove(id, b"p")
    assert partitions.stats().tombstones == 101
    partitions.compact()
    stats = partitions.stats()
    assert (stats.tombstones, stats.graphs, stats.entries, stats.rebuilds) == (0, 1, 299, 2)
    for id in range(101, 330):
        partitions.remove(id, b"p")
    partitions.compact()
    stats = partitions.stats()
    assert (stats.tombstones, stats.graphs, stats.entries) == (0, 0, 70)
    assert partitions.search(b"p", vectors[399], 1)[0][0] == 399


def test_a_partition_that_shrank_back_is_left_alone() -> None:
    partitions, _ = filled(11, flat_limit=10)
    partitions.remove(0, b"p")
    assert partitions.begin() is None


def test_changes_during_a_rebuild_are_in_both_the_old_and_the_new_index() -> None:
    partitions, vectors = filled(60, flat_limit=50)
    rebuild = begun(partitions)
    partitions.remove(3, b"p")
    partitions.add(4, b"p", -vectors[4])
    new = unit(77)[0]
    partitions.add(1000, b"p", new)
    assert partitions.search(b"p", new, 1)[0][0] == 1000
    rebuild.build()
    assert partitions.settle(rebuild)
    assert partitions.stats().graphs == 1
    assert len(partitions) == 60
    assert partitions.search(b"p", new, 1)[0][0] == 1000
    assert partitions.search(b"p", -vectors[4], 1)[0] == (4, pytest.approx(1.0, abs=1e-5))
    assert 3 not in {id for id, _ in partitions.search(b"p", vectors[3], 60)}


def test_many_changes_go_back_to_the_builder() -> None:
    partitions, _ = filled(60, flat_limit=50)
    rebuild = begun(partitions)
    rebuild.build()
    more = unit(8, SETTLE + 1)
    for id, vector in enumerate(more, start=500):
        partitions.add(id, b"p", vector)
    assert not partitions.settle(rebuild)
    partitions.remove(500, b"p")
    gathered(rebuild).build()
    assert partitions.settle(rebuild)
    assert len(partitions) == 60 + SETTLE
    assert partitions.search(b"p", more[5], 1)[0][0] == 505


def test_a_rebuild_holds_few_copies_at_a_time() -> None:
    partitions, vectors = filled(PIECES * CHUNK * 2 + 10, flat_limit=10)
    rebuild = begun(partitions)
    rebuild.build()
    sizes = [0, len(rebuild.index)]
    while not partitions.settle(rebuild):
        gathered(rebuild).build()
        sizes.append(len(rebuild.index))
    assert max(np.diff(sizes)) <= PIECES * CHUNK
    assert sizes[-1] == len(partitions) == len(vectors)
    assert partitions.search(b"p", vectors[5], 1)[0][0] == 5


def test_what_was_never_there_is_no_change() -> None:
    partitions, _ = filled(20, flat_limit=10)
    rebuild = begun(partitions)
    for id in range(1000, 1000 + 2 * SETTLE):
        partitions.remove(id, b"p")
    rebuild.build()
    assert partitions.settle(rebuild)


def test_a_partition_emptied_and_filled_anew_during_its_rebuild() -> None:
    partitions, vectors = filled(20, flat_limit=10)
    rebuild = begun(partitions)
    for id in range(20):
        partitions.remove(id, b"p")
    assert partitions.stats().partitions == 0
    partitions.add(5, b"p", vectors[6])
    rebuild.build()
    assert partitions.settle(rebuild)
    assert [id for id, _ in partitions.search(b"p", vectors[6], 20)] == [5]
    assert len(partitions) == 1


def test_a_partition_emptied_for_good_during_its_rebuild_stays_away() -> None:
    partitions, _ = filled(20, flat_limit=10)
    rebuild = begun(partitions)
    for id in range(20):
        partitions.remove(id, b"p")
    rebuild.build()
    assert partitions.settle(rebuild)
    stats = partitions.stats()
    assert (stats.partitions, stats.entries, stats.tombstones, stats.graphs) == (0, 0, 0, 0)


def test_an_abandoned_rebuild_leaves_the_old_index_and_is_due_at_the_next_change() -> None:
    partitions, vectors = filled(20, flat_limit=10)
    rebuild = begun(partitions)
    partitions.abandon(rebuild)
    assert partitions.search(b"p", vectors[2], 1)[0][0] == 2
    assert partitions.begin() is None
    partitions.add(99, b"p", unit(3)[0])
    assert partitions.begin() is not None


def test_a_stopped_build_returns_early() -> None:
    partitions, _ = filled(2000, flat_limit=10)
    rebuild = begun(partitions)
    stop = threading.Event()
    stop.set()
    rebuild.build(stop)
    assert len(rebuild.index) == 0


def test_building_on_another_thread_beside_searches_and_changes() -> None:
    partitions, vectors = filled(3000, flat_limit=500)
    more = unit(4, 3000)
    rebuild = begun(partitions)
    next_id = 3000
    for _ in range(9):
        thread = threading.Thread(target=rebuild.build)
        thread.start()
        while thread.is_alive():
            if next_id < 3500:
                partitions.add(next_id, b"p", more[next_id - 3000])
                partitions.remove(next_id - 3000, b"p")
                next_id += 1
            assert partitions.search(b"p", vectors[2999], 1)[0][0] == 2999
        thread.join()
        if partitions.settle(rebuild):
            break
        gathered(rebuild)
    else:
        pytest.fail("never settled")
    assert next_id > 3000
    assert len(partitions) == 3000
    found = {id for id, _ in partitions.search(b"p", vectors[0], 50)}
    assert all(id >= next_id - 3000 for id in found)
    assert partitions.search(b"p", more[next_id - 3001], 1)[0][0] == next_id - 1


class Upkeep(RuleBasedStateMachine):
    """Any interleaving of changes, searches and the steps of one rebuild."""

    def __init__(self) -> None:
        super().__init__()
        self.partitions = Partitions(flat_limit=6, tombstone_min=3)
        self.model: dict[bytes, dict[int, Vector]] = {}
        self.rebuild: Rebuild | None = None
        self.gathered = self.built = False

    @rule(partition=st.sampled_from([b"a", b"b"]), id=st.integers(0, 15), seed=st.integers(0, 9999))
    def add(self, partition: bytes, id: int, seed: int) -> None:
        vector = unit(seed)[0]
        self.partitions.add(id, partition, vector)
        self.model.setdefault(partition, {})[id] = vector

    @rule(partition=st.sampled_from([b"a", b"b"]), first=st.integers(0, 15), n=st.integers(1, 8))
    def remove(self, partition: bytes, first: int, n: int) -> None:
        for id in range(first, first + n):
            self.partitions.remove(id, partition)
            self.model.get(partition, {}).pop(id, None)

    @rule(seed=st.integers(0, 9999))
    def fill(self, seed: int) -> None:
        for id in range(10):
            self.add(b"a", id, seed + id)

    @rule()
    def begin(self) -> None:
        if self.rebuild is None:
            self.rebuild = self.partitions.begin()
            self.gathered = self.built = False

    @rule()
    def gather(self) -> None:
        if self.rebuild and not self.gathered:
            self.gathered = self.rebuild.gather()

    @rule()
    def build(self) -> None:
        if self.rebuild and self.gathered and not self.built:
            self.rebuild.build()
            self.built = True

    @rule(abandon=st.booleans())
    def settle(self, abandon: bool) -> None:
        if self.rebuild and abandon:
            self.partitions.abandon(self.rebuild)
            self.rebuild = None
        elif self.rebuild and self.built:
            self.rebuild = None if self.partitions.settle(self.rebuild) else self.rebuild
            self.gathered = self.built = False

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        live = {p: ids for p, ids in self.model.items() if ids}
        stats = self.partitions.stats()
        assert stats.partitions == len(live)
        assert stats.entries == sum(map(len, live.values())) == len(self.partitions)
        indexes = self.partitions._indexes.values()
        assert stats.tombstones == sum(index.tombstones for index in indexes)

    @invariant()
    def finds_the_live_and_only_them(self) -> None:
        for partition, ids in self.model.items():
            for vector in list(ids.values())[:4]:
                found = self.partitions.search(partition, vector, 30)
                assert {id for id, _ in found} <= set(ids)
                assert found[0][1] == pytest.approx(1.0, abs=1e-5)
                for id, similarity in found:
                    assert similarity == pytest.approx(min(float(ids[id] @ vector), 1.0), abs=1e-4)


TestUpkeep = Upkeep.TestCase
TestUpkeep.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
