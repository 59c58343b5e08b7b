"""A small stream through a gateway in a process of its own, and through modelled thresholds: what is counted adds up."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.replay import __main__ as bench
from bench.replay.serving import Replayed, Setup, through
from bench.replay.stream import Count, Stream, answers, classes, zipf
from bench.replay.thresholds import neighbours, replay
from gateway.embedding.sentence import SentenceEmbedder

WAYS = ("How do I {}?", "How can I {}?", "What is the best way to {}?")
TASKS = (
    "bake bread without yeast", "learn the violin", "remove rust from a bicycle chain", "repair a garden hose",
    "train a puppy", "grow tomatoes on a balcony", "write a cover letter", "descale a kettle",
    "paint a wooden fence", "sharpen a kitchen knife", "fold a fitted sheet", "tune a guitar by ear",
)  # fmt: skip
JUDGED = Setup("judged", 0.01, {"in_flight": 16, "per_minute": 6000}, judge=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [json.dumps({"questions": [way.format(task) for way in WAYS]}) for task in TASKS]
    (tmp_path / "qqp_classes.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path, model_cache: Path) -> Path:
    (tmp_path / "models").symlink_to(model_cache)
    return tmp_path


def test_a_stream_through_a_gateway_and_through_thresholds_adds_up(
    data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[Replayed] = []

    async def watched(*options: Any) -> Replayed:
        runs.append(await through(*options))
        return runs[-1]

    monkeypatch.setattr(bench, "through", watched)
    monkeypatch.setattr(bench, "OURS", (JUDGED,))
    options = {"--data": data, "--cache": cache, "--out": data / "out", "--queries": 300, "--seeds": 1}
    monkeypatch.setattr("sys.argv", ["replay", *(str(each) for pair in options.items() for each in pair)])
    bench.main()
    caches, wrong = rows(data / "out" / "caches.csv"), rows(data / "out" / "wrong.csv")
    assert [row["cache"] for row in caches] == [*bench.THRESHOLDS, JUDGED.name]
    for row in caches:
        hits, exact, mistakes, saved = (
            int(row[name]) for name in ("hits", "of them exact", "wrong hits", "calls saved")
        )
        assert exact + mistakes <= hits <= 300
        assert saved == hits or row["cache"] == JUDGED.name
        assert mistakes == sum(int(each["times"]) for each in wrong if each["cache"] == row["cache"])
    assert int(rows(data / "out" / "estimates.csv")[0]["hits"]) > 0
    assert caches[0]["hits"] == caches[0]["of them exact"]
    adds_up(*runs)
    assert "covers the truth in" in capsys.readouterr().out


def adds_up(found: Replayed) -> None:
    """What callers saw, what the engine was asked, and what the gateway says of it."""
    count = found.count()
    forwarded = sum(each.decision == "forward" for each in found.seen)
    semantic = sum(each.semantic for each in found.seen)
    assert len(found.seen) == 300
    assert (count.hits, count.exact) == (300 - forwarded, 300 - forwarded - semantic)
    assert semantic > 0
    told = found.trust["all"]
    assert (
        told["hits"] == sum(each["hits"]["hits"] for each in found.trust["categories"].values()) == semantic
    )
    assert told["judged"] == semantic  # all of the first ones are
    assert found.calls >= forwarded + told["judged"]
    assert told["low"] <= count.wrong / semantic <= told["high"]


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def test_a_threshold_takes_the_nearest_question_stored() -> None:
    vectors = np.array([[1, 0], [0.96, 0.28], [0.8, 0.6], [0, 1]], dtype=np.float32)
    stream = Stream([0, 0, 1, 2, 2, 3], [0, 0, 0, 1, 1, 2], ["a", "b", "c", "d"], vectors)
    near = neighbours(stream)
    strict, loose = replay(stream, near, 0.95), replay(stream, near, 0.60)
    assert (strict.hits, strict.exact, strict.wrong, strict.calls) == (3, 2, 0, 3)
    assert loose.pairs == {(2, 0): 2}
    assert (loose.hits, loose.exact, loose.calls, loose.lookups) == (4, 1, 2, 5)
    assert replay(stream, near, 1.1) == Count(6, 2, 2, 4)


def test_every_class_has_an_answer_of_its_own(data: Path, cache: Path) -> None:
    embedder = SentenceEmbedder(cache=cache / "models")
    said = answers(zipf(classes(data), embedder, cache, 300, 1))
    vectors = embedder.encode(list(said.values()))
    assert len(set(said.values())) == len(said) > 5
    assert np.max(vectors @ vectors.T - 2 * np.eye(len(said))) < 0.8  # what the judge takes for the same
