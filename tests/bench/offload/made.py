"""Made-up mixed traffic: label tasks that examples make easy, and exam questions that nothing helps with."""

import numpy as np

from bench.offload.data import KINDS, Request

TOPICS, DIM = 12, 64


def requests(count=1500, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((TOPICS + 1, DIM))
    return [_request(rng, centers, number) for number in range(count)]


def _request(rng, centers, number):
    topic = int(rng.integers(TOPICS)) if rng.random() < 0.6 else TOPICS
    vector = centers[topic] + 0.7 * rng.standard_normal(DIM)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    if topic < TOPICS:
        return Request(
            "BANKING77", KINDS["BANKING77"], f"message {number}", f"label_{topic}", 1.0, None, vector
        )
    small, large = float(rng.random() < 0.3), float(rng.random() < 0.9)
    text, answer = f"question {number}", f"reasons {rng.integers(1 << 30)}"
    return Request("MMLU-Pro", KINDS["MMLU-Pro"], text, answer, large, small, vector)
