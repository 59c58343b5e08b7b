"""A whole gateway's offloading on made-up traffic. What holds of it fails with a blind selector or a blind router."""

import numpy as np
import pytest

from bench.offload.data import LABELS
from bench.offload.stream import FLOOR, Offloading, Record, copies, losses, play, shares, table
from gateway.offload.examples import Example
from tests.bench.offload.made import requests

COUNT = 1500
REQUESTS = requests(COUNT)


def late(record, kinds):
    return record.offload(COUNT - 500, COUNT, kinds)


def works(record):
    """Label tasks go to the small model, questions it cannot do hardly ever, within the floor."""
    assert late(record, LABELS) > 0.5
    assert late(record, ("MMLU-Pro",)) < 0.05
    assert record.loss(COUNT) < FLOOR


@pytest.fixture(scope="module")
def ours():
    return play(REQUESTS, Offloading(REQUESTS, copies))


def test_what_examples_make_possible_is_offloaded_and_the_rest_is_found_out(ours):
    works(ours)
    assert ours.offload(0, 200, LABELS) < late(ours, LABELS) - 0.3  # from nothing
    assert ours.worst < FLOOR


def test_a_blind_selector_is_found_out():
    with pytest.raises(AssertionError):
        works(play(REQUESTS, Offloading(REQUESTS, copies, random=True)))


def test_a_blind_router_is_found_out(monkeypatch):
    constant = np.eye(1, 104)[0]
    monkeypatch.setattr("bench.offload.stream.situation", lambda asked, selection, vector: constant)
    with pytest.raises(AssertionError):
        works(play(REQUESTS, Offloading(REQUESTS, copies)))


def test_a_router_that_always_offloads_loses_more_than_the_floor(monkeypatch):
    monkeypatch.setattr("gateway.offload.router.Router._reason", lambda *_: "offload")
    with pytest.raises(AssertionError):
        works(play(REQUESTS[:COUNT], Offloading(REQUESTS, copies)))


def example(number, answer):
    return Example(number, "t", "large", "support", "q", answer, 10, 0.001, 0.0)


def test_the_stand_in_says_what_most_examples_say_and_nothing_without():
    said = [copies(f"text {n}", [example(1, "a"), example(2, "b"), example(3, "b")]) for n in range(400)]
    assert 0.9 < said.count("b") / 400 < 1.0
    assert set(said) == {"b", ""}
    assert copies("text 0", []) == ""
    heeded = [copies(f"text {n}", [example(1, "a"), example(2, "b")]) for n in range(50)]
    assert heeded.count("b") > heeded.count("a")


def test_the_table_and_the_curves_by_hand():
    record = Record(["BANKING77", "GSM8K"] * 2, [True, False, True, True], [1.0, 0.0, 0.0, 1.0], [False] * 4)
    assert losses(record).tolist() == [1.0, 0.5, pytest.approx(1 / 3), 0.5]
    assert shares(record)["label tasks"].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert shares(record)["GSM8K and MMLU-Pro"].tolist() == [0.0, 0.0, 0.0, 0.5]
    assert table({"made": record}).rows == [
        ["made", "4", "75.00", "100.00", "0.00", "50.00", "0.00", "50.00", "0.00"]
    ]
