"""A cross-encoder from training to scores, on an encoder of toy size."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from gateway.embedding.weights import locate
from gateway.errors import Invalid
from gateway.verifier import load
from gateway.verifier.cross import GRAPH, WINDOW, CrossEncoder
from tests.verifier.made import Hashing, cosines, examples


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    shutil.copy(locate("auto").folder / "tokenizer.json", folder)
    return folder


def test_it_is_trained_written_kept_and_asked(encoder: Path, tmp_path: Path) -> None:
    from gateway.verifier.train import train

    pairs, said = examples(), list[str]()
    terms = {"say": said.append, "encoder": encoder, "epochs": 0.2}
    train(pairs, cosines(pairs), "hashing", tmp_path, **terms)
    verifier = load(tmp_path, "hashing")
    vectors = Hashing().encode(["How is it?", "\ud800 \x00 it", "", "how IS it?"])
    found = verifier.scores("How is it?", ["\ud800 \x00 it", "", "how IS it?"], vectors[0], vectors[1:])
    assert all(0 <= score <= 1 for score in found)
    assert found[2] == 1.0

    long = "it " * WINDOW
    read = CrossEncoder(tmp_path).logits([("it", long), ("it", "x" * 10**6), ("so", "it"), ("it", "so")])
    assert np.isnan(read[:2]).all(), "beyond the window: not judged"
    assert read[2] == read[3]
    (unread,) = verifier.scores("it", [long], vectors[0], vectors[:1])
    assert 0 <= unread <= 1

    train(pairs, cosines(pairs), "hashing", tmp_path, **terms)
    assert any("is kept" in text for text in said)
    assert load(tmp_path, "hashing").name == verifier.name

    (tmp_path / GRAPH).write_bytes(b"another")
    with pytest.raises(Invalid, match="not those that training wrote"):
        load(tmp_path, "hashing")


def test_a_time_limit_ends_training_early(encoder: Path) -> None:
    from gateway.verifier.finetune import finetune

    said: list[str] = []
    finetune(examples(400), encoder, 50, said.append, minutes=0.01)
    assert any("time limit" in text for text in said)
