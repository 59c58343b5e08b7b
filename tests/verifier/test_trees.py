from typing import Any

import numpy as np
import pytest

from gateway.verifier.trees import Trees, grow


def some() -> tuple[Trees, Any]:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(400, 5)).astype(np.float32)
    return grow(x, x[:, 0] * x[:, 1] > 0), x


def test_trees_learn_what_no_line_parts() -> None:
    trees, x = some()
    assert ((trees.logits(x) > 0) == (x[:, 0] * x[:, 1] > 0)).mean() > 0.9


def test_one_row_is_judged_as_among_many() -> None:
    trees, x = some()
    assert np.allclose([trees.logits(row[None])[0] for row in x[:20]], trees.logits(x[:20]))
    assert trees.logits(x[:0]).shape == (0,)


def test_what_is_read_is_what_was_written() -> None:
    trees, x = some()
    assert np.array_equal(Trees.of(trees.arrays(), 5).logits(x), trees.logits(x))


@pytest.mark.parametrize(
    ("name", "value"),
    [("left", 10**6), ("right", -1), ("roots", 10**6), ("feature", 5), ("value", float("nan"))],
)
def test_arrays_that_lead_astray_are_refused(name: str, value: float) -> None:
    arrays = {key: np.array(part) for key, part in some()[0].arrays().items()}
    arrays[name].flat[-1] = value
    with pytest.raises(ValueError, match=r"tree"):
        Trees.of(arrays, 5)


def test_arrays_of_unlike_length_are_refused() -> None:
    arrays = some()[0].arrays()
    with pytest.raises(ValueError, match="length"):
        Trees.of(arrays | {"left": arrays["left"][:-1]}, 5)
