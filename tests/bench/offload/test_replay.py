import numpy as np
import pytest

from bench.offload.data import Questions
from bench.offload.replay import by_subject, order, ranked, recovered, served


def made(n=1200, seed=0):
    """Two subjects, far apart as vectors: the small model does one of them as well as the large one."""
    rng = np.random.default_rng(seed)
    easy = rng.random(n) < 0.5
    centers = np.where(easy[:, None], np.eye(1, 32, 0), np.eye(1, 32, 1))
    vectors = centers + 0.1 * rng.standard_normal((n, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    small = (rng.random(n) < np.where(easy, 0.98, 0.2)).astype(float)
    large = (rng.random(n) < 0.98).astype(float)
    subjects = ["easy" if e else "hard" for e in easy]
    return Questions(
        "made", [f"question {i}" for i in range(n)], subjects, small, large, vectors.astype(np.float32)
    )


def test_the_share_recovered_by_hand():
    small, large = np.array([0.0, 1.0, 0.0, 1.0]), np.ones(4)
    assert recovered(np.array([0.9, 0.1, 0.8, 0.2]), small, large, 0.5) == 1.0
    assert recovered(np.array([0.9, 0.1, 0.2, 0.8]), small, large, 0.5) == 0.5
    assert recovered(np.zeros(4), small, large, 1.0) == 1.0
    assert recovered(np.zeros(4), small, large, 0.0) == 0.0


@pytest.mark.parametrize("predict", [by_subject, lambda q: ranked(q, False), lambda q: ranked(q, True)])
def test_what_can_be_known_is_found_out(predict):
    each = made()
    late = order(each, 0)[600:]
    assert recovered(predict(each)[late], each.small[late], each.large[late], 0.5) > 0.9


def test_a_stream_offloads_what_the_small_model_can_do_and_little_else():
    last = list(served(made(3000), 0.02, 0.5))[-1]
    assert 0.3 < last.recent < 0.65  # half of the requests are easy
    assert last.loss < 0.02
