import gzip
import json
import zlib

import numpy as np

from bench.classify import report
from gateway.policy.book import from_json
from gateway.policy.policy import Policy


class Words:
    """An embedder of bags of words: texts that share words are near."""

    dim, window, name = 512, 1000, "words"

    def tokens(self, texts):
        return [len(text.split()) for text in texts]

    def encode(self, texts):
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[zlib.crc32(word.encode()) % self.dim] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def write(folder, name, rows):
    with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def test_the_report_counts_what_is_right_per_source_and_leaves_out_the_utterances(tmp_path):
    write(
        tmp_path,
        "prompts",
        [
            {"category": "code", "prompt": "python function please"},
            {"category": "code", "prompt": "Python  FUNCTION."},  # word for word an utterance
            {"category": "code", "prompt": "weather in my town"},
            {"category": None, "prompt": "python"},
        ],
    )
    write(tmp_path, "mmlu_pro", [{"label": "other", "question": "python function now"}])
    write(tmp_path, "freshqa", [{"fact_type": "fast-changing", "question": "weather today please"}])
    write(tmp_path, "banking77", [{"text": "zebra umbrella"}] * 14)
    write(tmp_path, "clinc150", [])
    book = {
        "categories": [
            {"name": "code", "examples": ["python function"]},
            {"name": "volatile", "examples": ["weather today"]},
        ]
    }
    result = report(Words(), Policy(from_json(book)), tmp_path)
    assert dict(result.asked) == {"prompts code": 2, "fresh fast-changing": 1, "banking77": 2}
    assert result.accuracy("prompts code") == 0.5
    assert result.accuracy("fresh fast-changing") == 1
    assert result.went["banking77"] == {"default": 2}
    assert "all 5 questions: 80.0% right; mean over sources 83.3%" in str(result)
    assert sum(report(Words(), Policy(from_json(book)), tmp_path, per_source=1).asked.values()) == 3
