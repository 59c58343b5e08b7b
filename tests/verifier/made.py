"""Made-up pairs: duplicates reword a question, the others ask it of something else."""

import random
import zlib
from collections.abc import Sequence

import numpy as np

from gateway.interfaces import Vector

THINGS = [
    f"{a}{b}"
    for a in ("gar", "mol", "tin", "wex", "pra", "sul")
    for b in ("den", "der", "ket", "lam", "nor", "vik")
]
ASKED = ["How do I clean a {}?", "What does a {} cost?", "Where can I buy a {}?", "Who invented the {}?"]
REWORDED = ["What is the best way to clean a {}?", "How much is a {}?", "Where do they sell a {}?",
            "Which person came up with the {}?"]  # fmt: skip


class Hashing:
    """Bags of words in hash buckets."""

    dim = 32
    window = 256
    name = "hashing"

    def tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode(self, texts: Sequence[str]) -> Vector:
        vectors = np.full((len(texts), self.dim), 0.01, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.encode("utf-8", "surrogatepass")) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def examples(n: int = 1200, seed: int = 3) -> list[tuple[str, str, bool]]:
    draw = random.Random(seed)
    found = []
    for at in range(n):
        thing, kind, duplicate = (
            f"{draw.choice(THINGS)} {at}",
            draw.randrange(len(ASKED)),
            draw.random() < 0.5,
        )
        if duplicate:
            found.append((ASKED[kind].format(thing), REWORDED[kind].format(thing), True))
        else:
            other = f"{draw.choice(THINGS)} {at}"
            found.append((ASKED[kind].format(thing), ASKED[(kind + 1) % len(ASKED)].format(other), False))
    return found


def cosines(pairs: Sequence[tuple[str, str, bool]]) -> Vector:
    embedder = Hashing()
    left, right = (embedder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    return np.einsum("ij,ij->i", left, right)
