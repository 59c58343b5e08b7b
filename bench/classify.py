"""How well the shipped utterances tell categories apart: accuracy per labelled source, and a confusion table.

`python -m bench.classify --data DIR`. The data's own labels are coarse, so each source names the set of
categories that count as right. A question that is word for word one of the utterances is left out.
"""

import argparse
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.classify.prototypes import Prototypes
from gateway.interfaces import Embedder
from gateway.policy.folder import load_folder
from gateway.policy.policy import Policy, settled
from gateway.policy.shipped import shipped

STALE = frozenset({"volatile", "market-data"})  # a short life is what matters: the answer will be another one
ELSE = frozenset({"default", "conversation"})

# Label of the data → categories that are right for it.
PROMPTS: dict[str, frozenset[str]] = {
    "code": frozenset({"code", "api-docs"}),
    "math": frozenset({"mathematics"}),
    "writing": frozenset({"writing"}),
    "roleplay": frozenset({"conversation"}),
    "extraction": frozenset({"default"}),
    "reasoning": frozenset({"default"}),
    "science": frozenset({"factual"}),
    "humanities": frozenset({"factual"}),
    "business": frozenset({"factual"}),
    "law": frozenset({"legal"}),
    "health": frozenset({"medical"}),
}
MMLU: dict[str, frozenset[str]] = {
    "law": frozenset({"legal"}),
    "health": frozenset({"medical"}),
    "math": frozenset({"mathematics"}),
    "history": frozenset({"factual"}),
    "philosophy": frozenset({"factual"}),
    "psychology": frozenset({"factual", "medical"}),
    "biology": frozenset({"factual", "medical"}),
    "physics": frozenset({"factual", "mathematics"}),
    "chemistry": frozenset({"factual", "mathematics"}),
    "engineering": frozenset({"factual", "mathematics"}),
    "economics": frozenset({"factual", "mathematics"}),
    "business": frozenset({"factual", "mathematics"}),
    "computer science": frozenset({"code", "api-docs", "factual", "mathematics"}),
}
FRESH = {
    "fast-changing": STALE,
    "slow-changing": STALE | {"factual"},
    "never-changing": frozenset({"factual"}),
}


@dataclass(frozen=True, slots=True)
class Case:
    source: str
    right: frozenset[str]
    text: str


@dataclass(slots=True)
class Report:
    """Per source: how many questions, how many right, and where all of them went."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    went: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, case: Case, category: str) -> None:
        self.asked[case.source] += 1
        self.right[case.source] += category in case.right
        self.went.setdefault(case.source, Counter())[category] += 1

    def accuracy(self, source: str) -> float:
        return self.right[source] / self.asked[source]

    def __str__(self) -> str:
        rows = ["source                        n   right  went to"]
        for source in sorted(self.asked):
            went = ", ".join(f"{name} {count}" for name, count in self.went[source].most_common(5))
            rows.append(f"{source:25s} {self.asked[source]:5d}  {self.accuracy(source):6.1%}  {went}")
        total, right = self.asked.total(), self.right.total()
        mean = sum(self.accuracy(source) for source in self.asked) / max(1, len(self.asked))
        rows.append(f"all {total} questions: {right / max(1, total):.1%} right; mean over sources {mean:.1%}")
        return "\n".join(rows)


def report(embedder: Embedder, policy: Policy, data: Path, per_source: int = 150) -> Report:
    """Classify up to `per_source` questions of every source as the gateway would, and count."""
    names, texts = policy.utterances()
    classifier = Prototypes.fit(names, embedder.encode(texts))
    known = {_plain(text) for text in texts}
    chosen = [case for case in _cases(data, per_source) if _plain(case.text) not in known]
    labels = classifier.label(embedder.encode([case.text for case in chosen]))
    result = Report()
    for case, (name, confidence) in zip(chosen, labels, strict=True):
        result.add(case, settled(name, confidence))
    return result


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip("?.! ")


def _cases(data: Path, per_source: int) -> Iterator[Case]:
    taken: Counter[str] = Counter()
    for case in _all_cases(data):
        if taken[case.source] < per_source:
            taken[case.source] += 1
            yield case


def _all_cases(data: Path) -> Iterator[Case]:
    for row in _rows(data / "prompts.jsonl.gz"):
        if (right := PROMPTS.get(row["category"])) is not None:
            yield Case(f"prompts {row['category']}", right, row["prompt"])
    for row in _rows(data / "mmlu_pro.jsonl.gz"):
        if (right := MMLU.get(row["label"])) is not None:
            yield Case(f"mmlu {row['label']}", right, row["question"])
    for row in _rows(data / "freshqa.jsonl.gz"):
        yield Case(f"fresh {row['fact_type']}", FRESH[row["fact_type"]], row["question"])
    for row in list(_rows(data / "banking77.jsonl.gz"))[::13]:
        yield Case("banking77", ELSE, row["text"])
    for row in list(_rows(data / "clinc150.jsonl.gz"))[::12]:
        yield Case(f"clinc {row['domain']}", ELSE, row["text"])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def main() -> None:
    from gateway.embedding.sentence import SentenceEmbedder

    root = Path(__file__).resolve().parent.parent
    default = Path(os.environ.get("GATEWAY_DATA", root.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--policies", type=Path, default=None, help="default: the shipped ones")
    parser.add_argument("--cache", type=Path, default=root / "data" / "models", help="exported weights")
    options = parser.parse_args()
    embedder = SentenceEmbedder(model="auto", runtime="onnx-int8", cache=options.cache)
    print(report(embedder, Policy(load_folder(options.policies or shipped())), options.data))


if __name__ == "__main__":
    main()
