"""Scores of a trained verifier, and its folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Invalid
from gateway.interfaces import Verifier
from gateway.verifier import load
from gateway.verifier.model import ABOUT, MODEL
from gateway.verifier.train import auc, train
from tests.verifier.made import Hashing, cosines, examples

ANY = st.text(st.characters(), max_size=40)


def score(verifier: Verifier, asked: str, *stored: str) -> list[float]:
    vectors = Hashing().encode([asked, *stored])
    return verifier.scores(asked, stored, vectors[0], vectors[1:])


def test_it_tells_rewording_from_another_question(folder: Path) -> None:
    verifier, pairs = load(folder, "hashing"), examples(300, seed=11)
    scores = np.array([score(verifier, a, b)[0] for a, b, _ in pairs])
    labels = np.array([duplicate for _, _, duplicate in pairs])
    assert auc(scores, labels) > 0.95
    about = json.loads((folder / ABOUT).read_text())
    assert about["auc"]["features"] > 0.95
    assert about["held"] > 20


def test_each_candidate_is_scored_for_itself_and_alike_each_time(folder: Path) -> None:
    verifier = load(folder, "hashing")
    stored = [b for _, b, _ in examples(20)]
    together = score(verifier, "How do I clean a garden 1?", *stored)
    assert together == score(verifier, "How do I clean a garden 1?", *stored)
    alone = [score(verifier, "How do I clean a garden 1?", text)[0] for text in stored]
    assert together == pytest.approx(alone, abs=1e-5)
    assert score(verifier, "anything") == []


@settings(max_examples=60, deadline=None)
@given(asked=ANY, stored=ANY)
def test_any_text_gets_a_probability_and_equal_texts_one(folder: Path, asked: str, stored: str) -> None:
    verifier = load(folder, "hashing")
    found, same = score(verifier, asked, stored, asked.upper() if asked.isascii() else asked)
    assert 0.0 <= found <= 1.0
    assert same == 1.0


def test_long_texts_that_differ_late_are_not_the_same(folder: Path) -> None:
    long = "word " * 1000
    assert score(load(folder, "hashing"), long + "a", long + "b")[0] < 1.0


def test_another_embedder_is_refused(folder: Path) -> None:
    with pytest.raises(Invalid, match="trained for hashing, not for other"):
        load(folder, "other")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (ABOUT, b"{"),
        (ABOUT, b"[]"),
        (ABOUT, b'{"format": 0}'),
        (ABOUT, None),
        (MODEL, b"junk"),
        (MODEL, None),
    ],
)
def test_a_broken_folder_is_refused(folder: Path, tmp_path: Path, file: str, content: bytes | None) -> None:
    for name in (ABOUT, MODEL):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(Invalid, match="verifier"):
        load(tmp_path, "hashing")


def test_training_again_gives_the_same_verifier(folder: Path, tmp_path: Path) -> None:
    pairs = examples()
    train(pairs, cosines(pairs), "hashing", tmp_path, say=lambda text: None)
    assert load(tmp_path, "hashing").name == load(folder, "hashing").name


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    pairs = examples(50)
    with pytest.raises(Invalid, match="too few pairs"):
        train(pairs, cosines(pairs), "hashing", tmp_path, say=lambda text: None)


def test_loading_needs_no_training_library(folder: Path) -> None:
    code = (
        "import sys, pathlib; from gateway.verifier import load; import gateway.lessons, gateway.thresholds;"
        f"load(pathlib.Path({str(folder)!r}), 'hashing');"
        "print(sorted({'torch', 'sklearn', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_auc_counts_ties_half() -> None:
    assert auc(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert auc(np.array([0.1, 0.9]), np.array([True, False])) == 0.0
    assert auc(np.array([0.9]), np.array([True])) == 0.5
