import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.classify.prototypes import CLOSENESS, ENOUGH, TEMPERATURE, K, Prototypes

DIM = 64


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def cloud(rng, centre, count, spread=0.6):
    """Unit vectors around a centre, their cosines to it spread as real sentences' are."""
    return unit(centre + spread * unit(rng.standard_normal((count, DIM))))


def fitted(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM, dtype=np.float32)
    names = [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]
    rows = [cloud(rng, centres[i], size) for i, size in enumerate(sizes)]
    return Prototypes.fit(names, np.concatenate(rows)), centres, rng


def reference(prototypes, names, vectors, query):
    """The definition, one category at a time."""
    cosines = vectors @ query
    best = {}
    for name in prototypes.names:
        own = np.sort(cosines[[n == name for n in names]])[::-1]
        best[name] = float(own[:K].mean())
    return max(best, key=best.__getitem__)


def test_the_nearest_examples_decide_even_for_a_category_of_several_clusters():
    rng, centres = np.random.default_rng(1), np.eye(DIM, dtype=np.float32)
    rows = [cloud(rng, centres[c], 12) for c in range(5)]
    names = ["broad"] * 48 + ["narrow"] * 12  # one category of four clusters, one of a single cluster
    prototypes = Prototypes.fit(names, np.concatenate(rows))
    asked = np.concatenate([cloud(rng, centres[c], 5) for c in range(5)])
    found = prototypes.label(asked)
    assert [name for name, _ in found] == ["broad"] * 20 + ["narrow"] * 5
    assert min(confidence for _, confidence in found) > 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(K, 20), min_size=2, max_size=6))
def test_the_label_is_what_the_definition_says_and_a_batch_is_its_rows(seed, sizes):
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]
    order = rng.permutation(len(names))
    names = [names[i] for i in order]  # any order of examples will do
    vectors = unit(rng.standard_normal((len(names), DIM)))
    prototypes = Prototypes.fit(names, vectors)
    queries = unit(rng.standard_normal((5, DIM)))
    batch = prototypes.label(queries)
    assert [name for name, _ in batch] == [reference(prototypes, names, vectors, q) for q in queries]
    for row, (name, confidence) in zip(queries, batch, strict=True):
        ((alone, sure),) = prototypes.label(row[None])
        assert alone == name
        assert sure == pytest.approx(confidence, abs=1e-4)
        assert 0 <= confidence <= 1


def test_a_stranger_gets_little_confidence():
    prototypes, centres, _ = fitted([20, 20, 20])
    assert len(prototypes.vectors) >= ENOUGH
    (_, near), (_, far), (_, opposed) = prototypes.label(np.stack([centres[0], centres[9], -centres[0]]))
    assert near > 0.9
    assert far < 0.1
    assert opposed < 0.01


def test_confidence_is_calibrated_on_the_examples_themselves():
    rng = np.random.default_rng(3)
    centre = unit(np.ones(DIM, dtype=np.float32))
    mixed = Prototypes.fit(["a", "b"] * 40, cloud(rng, centre, 80))
    found = mixed.label(cloud(rng, centre, 200))
    assert np.mean([confidence for _, confidence in found]) < 0.7  # the two cannot be told apart
    apart, centres, rng = fitted([40, 40])
    assert np.mean([c for _, c in apart.label(cloud(rng, centres[0], 50))]) > 0.75


def test_few_examples_do_not_outbid_many():
    rng = np.random.default_rng(5)
    centre = np.eye(DIM, dtype=np.float32)[0]
    vectors = np.concatenate([cloud(rng, centre, 60), cloud(rng, centre, 1), cloud(rng, np.eye(DIM)[1], 60)])
    prototypes = Prototypes.fit(["large"] * 60 + ["tiny"] + ["other"] * 60, vectors)
    asked = prototypes.label(cloud(rng, centre, 200))
    assert np.mean([name == "tiny" for name, _ in asked]) < 0.2
    ((name, _),) = prototypes.label(vectors[60:61])
    assert name == "tiny"  # its own example is its own


def test_a_small_book_falls_back_on_fixed_constants():
    prototypes, centres, _ = fitted([2, 1])
    assert (prototypes.temperature, prototypes.closeness) == (TEMPERATURE, CLOSENESS)
    (name, sure), (_, unsure) = prototypes.label(np.stack([centres[1], centres[7]]))
    assert name == "c1"
    assert sure > 0.9
    assert unsure < 0.4


def test_one_category_alone_still_knows_strangers():
    prototypes, centres, _ = fitted([60])
    (_, near), (_, far) = prototypes.label(np.stack([centres[0], centres[5]]))
    assert near > 0.9 > 0.4 > far


def test_without_examples_everything_is_default():
    prototypes = Prototypes.fit([], np.zeros((0, DIM), np.float32))
    assert prototypes.label(np.eye(DIM, dtype=np.float32)[:2]) == [("default", 0.0)] * 2


def test_an_empty_batch_is_an_empty_answer():
    prototypes, _, _ = fitted([8, 8])
    assert prototypes.label(np.zeros((0, DIM), np.float32)) == []
    assert repr(prototypes) == "Prototypes(2 categories, 16 examples)"
