"""What HnswIndex promises beyond the contract that test_flat.py runs it through."""

import numpy as np
import pytest

from gateway.index.hnsw import HnswIndex
from gateway.interfaces import Vector


def unit(seed: int, n: int, dim: int = 32) -> Vector:
    rows = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_it_grows_past_its_capacity_and_finds_every_vector() -> None:
    vectors = unit(1, 2000)
    index = HnswIndex(32, capacity=1)
    for id, vector in enumerate(vectors):
        index.add(id, vector)
    lost = [id for id, vector in enumerate(vectors) if index.search(vector, 1)[0][0] != id]
    assert len(lost) <= 10


def test_recall_of_the_five_nearest() -> None:
    vectors, queries = unit(2, 3000), unit(3, 100)
    index = HnswIndex(32)
    index.extend(list(range(3000)), vectors)
    right = 0
    for query in queries:
        nearest = set(np.argsort(-(vectors @ query))[:5].tolist())
        right += len(nearest & {id for id, _ in index.search(query, 5)})
    assert right / 500 > 0.9


def test_tombstones_are_counted_and_never_found() -> None:
    vectors = unit(4, 1200)
    index = HnswIndex(32)
    index.extend(list(range(1200)), vectors)
    for id in range(600):
        index.remove(id)
        index.remove(id)
    assert (len(index), index.tombstones) == (600, 600)
    for vector in vectors[:600:20]:
        found = [id for id, _ in index.search(vector, 5)]
        assert len(found) == 5
        assert min(found) >= 600
    index.add(3, vectors[3])
    assert (len(index), index.tombstones) == (601, 599)
    assert index.search(vectors[3], 1)[0][0] == 3


def test_what_was_removed_is_not_taken() -> None:
    index = HnswIndex(32)
    vectors = unit(5, 600)
    index.extend(list(range(600)), vectors)
    for id in range(0, 600, 3):
        index.remove(id)
    ids, taken = index.take(list(range(300)))
    assert ids == [id for id in range(300) if id % 3]
    assert np.array_equal(taken, vectors[ids])
    assert sorted(index.items()[0]) == [id for id in range(600) if id % 3]


def test_repr_says_its_state_in_words() -> None:
    index = HnswIndex(32)
    index.extend([1, 2], unit(6, 2))
    index.remove(2)
    assert repr(index) == "<HnswIndex 1 entries, 1 tombstones>"


def test_batches_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="dimensions"):
        HnswIndex(32).extend([1], unit(7, 1, dim=16))
