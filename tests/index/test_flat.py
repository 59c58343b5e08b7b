"""What every VectorIndex promises, run through both implementations; and what FlatIndex alone promises."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.index.flat import FlatIndex
from gateway.index.hnsw import HnswIndex
from gateway.interfaces import Vector, VectorIndex

DIM = 8


def unit(seed: int, n: int = 1, dim: int = DIM) -> Vector:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fresh(kind: str) -> VectorIndex:
    return FlatIndex() if kind == "flat" else HnswIndex(DIM, capacity=1)


@pytest.fixture(params=["flat", "hnsw"])
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return fresh(request.param)


def test_empty_index_finds_nothing(index: VectorIndex) -> None:
    assert len(index) == 0
    assert index.search(unit(0)[0], 5) == []
    assert index.items()[0] == []


def test_neighbours_come_most_similar_first_with_their_cosine(index: VectorIndex) -> None:
    vectors = unit(1, 20)
    for id, vector in enumerate(vectors):
        index.add(id, vector)
    found = index.search(vectors[3], 5)
    expected = vectors @ vectors[3]
    assert [id for id, _ in found] == np.argsort(-expected)[:5].tolist()
    assert [s for _, s in found] == pytest.approx(np.sort(expected)[::-1][:5].tolist(), abs=1e-5)
    assert all(s <= 1.0 for _, s in found)


def test_k_beyond_the_live_count_gives_all_the_live(index: VectorIndex) -> None:
    for id, vector in enumerate(unit(2, 4)):
        index.add(id, vector)
    index.remove(2)
    assert {id for id, _ in index.search(unit(3)[0], 10)} == {0, 1, 3}
    assert index.search(unit(3)[0], 0) == []


def test_ids_of_63_bits_survive(index: VectorIndex) -> None:
    ids = [2**63 - 1, 2**62 + 1, 1]
    for id, vector in zip(ids, unit(4, 3), strict=True):
        index.add(id, vector)
    assert {id for id, _ in index.search(unit(5)[0], 3)} == set(ids)
    assert sorted(index.items()[0]) == sorted(ids)


def test_removing_twice_or_the_unknown_is_harmless(index: VectorIndex) -> None:
    a, b = unit(6, 2)
    index.add(1, a)
    index.add(2, b)
    index.remove(99)
    index.remove(1)
    index.remove(1)
    assert len(index) == 1
    assert [id for id, _ in index.search(a, 5)] == [2]


def test_a_removed_id_comes_back_only_with_its_new_vector(index: VectorIndex) -> None:
    a, b = unit(7, 2)
    index.add(1, a)
    index.add(5, -a)
    index.remove(1)
    index.add(1, b)
    assert len(index) == 2
    assert dict(index.search(b, 2))[1] == pytest.approx(1.0, abs=1e-5)
    index.remove(1)
    assert [id for id, _ in index.search(b, 2)] == [5]


def test_adding_again_replaces(index: VectorIndex) -> None:
    a, b = unit(8, 2)
    index.add(1, a)
    index.add(1, b)
    assert len(index) == 1
    assert index.search(b, 3) == [(1, pytest.approx(1.0, abs=1e-5))]


def test_the_index_keeps_its_own_copy(index: VectorIndex) -> None:
    batch = unit(9, 3)
    index.add(1, batch[1])
    kept = batch[1].copy()
    batch[:] = 0
    assert index.search(kept, 1)[0][1] == pytest.approx(1.0, abs=1e-5)
    ids, vectors = index.items()
    vectors[:] = 0
    assert ids == [1]
    assert index.search(kept, 1)[0][1] == pytest.approx(1.0, abs=1e-5)


def test_another_dimension_is_refused_and_changes_nothing(index: VectorIndex) -> None:
    index.add(1, unit(10)[0])
    with pytest.raises(ValueError, match=r"dimension|broadcast"):
        index.add(2, np.ones(DIM + 1, dtype=np.float32))
    assert len(index) == 1


def test_a_thousand_equal_vectors_do_not_break_a_search(index: VectorIndex) -> None:
    vector = unit(11)[0]
    for id in range(1000):
        index.add(id, vector)
    found = index.search(vector, 5)
    assert found
    assert all(s == pytest.approx(1.0, abs=1e-5) for _, s in found)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(0, 10_000)), max_size=60))
def test_any_order_of_changes_leaves_what_a_dictionary_would_hold(
    kind: str, changes: list[tuple[bool, int, int]]
) -> None:
    index, model = fresh(kind), dict[int, Vector]()
    for add, id, seed in changes:
        if add:
            vector = model[id] = unit(seed)[0]
            index.add(id, vector)
        else:
            model.pop(id, None)
            index.remove(id)
        assert len(index) == len(model)
    ids, vectors = index.items()
    assert sorted(ids) == sorted(model)
    for id, vector in zip(ids, vectors, strict=True):
        np.testing.assert_array_equal(vector, model[id]) if kind == "flat" else np.testing.assert_allclose(
            vector, model[id], atol=1e-6
        )
    for vector in model.values():
        found = dict(index.search(vector, len(model)))
        assert set(found) <= set(model)
        assert max(found.values()) == pytest.approx(1.0, abs=1e-5)


def test_a_lone_entry_costs_little_beside_its_vector() -> None:
    index = FlatIndex()
    index.add(1, unit(12, dim=384)[0])
    rows = index._rows
    assert rows is not None
    assert rows.base is None
    own = sys.getsizeof(index) + sys.getsizeof(index._ids) + sys.getsizeof(rows) - rows.nbytes
    assert own < 400


def test_spare_rows_are_few_however_it_grows_and_shrinks() -> None:
    index, vectors = FlatIndex(), unit(15, 300)
    for id, vector in enumerate(vectors):
        index.add(id, vector)
        assert index._rows is not None
        assert len(index._rows) <= 1.125 * len(index) + 1
    for id in range(299):
        index.remove(id)
        assert index._rows is not None
        assert len(index._rows) <= 2 * len(index) + 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 150)), min_size=100, max_size=500))
def test_ids_keep_their_rows_across_the_size_where_the_map_comes_and_goes(
    changes: list[tuple[bool, int]],
) -> None:
    index, model = FlatIndex(), dict[int, Vector]()
    vectors = unit(14, 151)
    for id in range(100):
        index.add(id, vectors[id])
        model[id] = vectors[id]
    for add, id in changes:
        if add:
            index.add(id, vectors[id])
            model[id] = vectors[id]
        else:
            index.remove(id)
            model.pop(id, None)
    for id in list(model)[: len(model) - 5]:
        index.remove(id)
        del model[id]
    ids, rows = index.items()
    assert sorted(ids) == sorted(model)
    for id, row in zip(ids, rows, strict=True):
        np.testing.assert_array_equal(row, model[id])


def test_capacity_follows_the_entries_down() -> None:
    index = FlatIndex()
    for id, vector in enumerate(unit(13, 64)):
        index.add(id, vector)
    for id in range(60):
        index.remove(id)
    assert index._rows is not None
    assert len(index._rows) <= 16
    assert sorted(index.items()[0]) == [60, 61, 62, 63]
