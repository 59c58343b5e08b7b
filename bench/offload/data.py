"""Labelled data as streams of requests: what was asked, of what subject, who would have answered it well."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.accuracy.vectors import vectors
from gateway.embedding.sentence import SentenceEmbedder
from gateway.interfaces import Vector

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GATEWAY_DATA", ROOT / ".." / "shared" / "data"))
PAIRS = (
    ("Llama-3.1-8B-Instruct", "Llama-3.1-70B-Instruct"),
    ("Mistral-7B-Instruct-v0.2", "gemini-1.5-pro-002"),
)  # small and large of MMLU-Pro: one family, and two of different makers

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Questions:
    """n questions with the score (0 or 1) that each of two models got."""

    name: str
    texts: list[str]
    subjects: list[str]
    small: Array  # (n,)
    large: Array  # (n,)
    vectors: Vector  # (n, dim)

    def __len__(self) -> int:
        return len(self.texts)


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rb") as lines:
        return [orjson.loads(line) for line in lines]


def questions(data: Path, embedder: SentenceEmbedder, cache: Path) -> list[Questions]:
    """MMLU, GSM8K and MMLU-Pro with two pairs of models."""
    found = []
    for name, file in (("MMLU", "mmlu_small_large"), ("GSM8K", "gsm8k_small_large")):
        read = rows(data / f"{file}.jsonl.gz")
        texts = [row["prompt"] for row in read]
        small, large = (np.array([float(r[key]) for r in read]) for key in ("small_correct", "large_correct"))
        subjects = [row.get("subject", "gsm8k") for row in read]
        found.append(Questions(name, texts, subjects, small, large, vectors(embedder, texts, cache)))
    read = rows(data / "mmlu_pro.jsonl.gz")
    texts = [_with_options(row) for row in read]
    embedded = vectors(embedder, texts, cache)
    for pair in PAIRS:
        small, large = (np.array([float(row["correct"].get(model, 0)) for row in read]) for model in pair)
        subjects = [row["label"] for row in read]
        found.append(Questions(f"MMLU-Pro {pair[0]} to {pair[1]}", texts, subjects, small, large, embedded))
    return found


def _with_options(row: dict[str, Any]) -> str:
    options = (f"{chr(65 + at)}. {option}" for at, option in enumerate(row["options"]))
    return "\n".join([row["question"], *options, "Answer:"])


@dataclass(frozen=True, slots=True)
class Messages:
    """BANKING77: n messages with their intent, which is also the answer."""

    texts: list[str]
    labels: list[str]
    vectors: Vector


def banking(data: Path, embedder: SentenceEmbedder, cache: Path) -> Messages:
    """All messages in an order drawn once by the texts themselves, so that every cut is a fair sample."""
    texts, labels = _shuffled(data)
    return Messages(texts, labels, vectors(embedder, texts, cache))


def _shuffled(data: Path) -> tuple[list[str], list[str]]:
    read = rows(data / "banking77.jsonl.gz")
    order = np.random.default_rng(77).permutation(len(read))
    return [str(read[at]["text"]) for at in order], [str(read[at]["intent"]) for at in order]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request whose outcome on both models is known, or can be told from the small one's answer."""

    kind: str  # the data it is from
    category: str  # as a gateway's classifier would say
    text: str
    answer: str  # the large model's
    large: float  # its score
    small: float | None  # recorded score without examples; None: right where it says what the large one says
    vector: Vector


KINDS = {"BANKING77": "support", "CLINC150": "assistant", "GSM8K": "math", "MMLU-Pro": "exam"}
LABELS = ("BANKING77", "CLINC150")  # what a small model can do with examples, and not without
EXAM = (
    "Mistral-7B-Instruct-v0.2",
    "Llama-3.1-70B-Instruct",
)  # a small model that cannot, and one with answers


def mixed(data: Path, embedder: SentenceEmbedder, cache: Path, count: int, seed: int = 0) -> list[Request]:
    """`count` requests of all four kinds in an order drawn by chance: as many of each as it has, in proportion."""
    found: list[Request] = []
    for rows_of in (_banking, _clinc, _gsm8k, _exam):
        requests = rows_of(data)
        embedded = vectors(embedder, [request[2] for request in requests], cache)
        found += [Request(*request, vector) for request, vector in zip(requests, embedded, strict=True)]
    return [found[at] for at in np.random.default_rng(seed).permutation(len(found))[:count]]


Row = tuple[str, str, str, str, float, float | None]


def _banking(data: Path) -> list[Row]:
    """Messages whose answer is their label, which the large model always knows."""
    kind = "BANKING77"
    return [(kind, KINDS[kind], text, label, 1.0, None) for text, label in zip(*_shuffled(data), strict=True)]


def _clinc(data: Path) -> list[Row]:
    """The same, within scope: what is out of it has no answer."""
    kind = "CLINC150"
    read = [row for row in rows(data / "clinc150.jsonl.gz") if row["intent"] != "oos"]
    return [(kind, KINDS[kind], str(row["text"]), str(row["intent"]), 1.0, None) for row in read]


def _gsm8k(data: Path) -> list[Row]:
    """Recorded scores of Mixtral-8x7B and GPT-4."""
    kind = "GSM8K"
    return [
        (kind, KINDS[kind], row["prompt"], row["large_answer"], *_scores(row))
        for row in rows(data / "gsm8k_small_large.jsonl.gz")
    ]


def _exam(data: Path) -> list[Row]:
    """Recorded scores of EXAM, and what the larger of them said."""
    kind = "MMLU-Pro"
    said = {row["id"]: row["text"] for row in rows(data / "mmlu_pro_large_answers.jsonl.gz")}
    found: list[Row] = []
    for row in rows(data / "mmlu_pro.jsonl.gz"):
        small, large = (float(row["correct"].get(model, 0)) for model in EXAM)
        answer = str(said.get(row["id"]) or row["answer"])
        found.append((kind, KINDS[kind], _with_options(row), answer, large, small))
    return found


def _scores(row: dict[str, Any]) -> tuple[float, float]:
    return float(row["large_correct"]), float(row["small_correct"])
