"""Semantic hits that can be trusted: judged beside the traffic, closed over budget, corrected by feedback."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import build as composition
from gateway.config import build
from gateway.policy.book import from_json
from gateway.trust.negatives import Wrong
from gateway.trust.room import Trust
from tests.harness import Running, ScriptedBackend

Start = Callable[..., Running]
PAIRS = [
    ("How do I bake bread without yeast?", "How can I bake bread without yeast?"),
    ("What is the best way to learn the violin?", "What's the best way to learn the violin?"),
    ("How do I remove rust from a bicycle chain?", "How can I remove rust from a bicycle chain?"),
    ("Why do cats purr when they sleep?", "Why do cats purr when sleeping?"),
    ("How do I repair a leaking garden hose?", "How can I repair a leaking garden hose?"),
    ("What causes thunder during a storm?", "What causes the thunder during a storm?"),
]
BOOK = """
categories:
  - name: default
    cache: {mode: MODE, threshold: 0.85, ttl: 1d, MORE}
"""


def book(more: str = "max_error: 0.01", mode: str = "semantic") -> str:
    return BOOK.replace("MODE", mode).replace("MORE", more)


@pytest.fixture
def judging(start: Start) -> Start:
    """Gateways that judge every hit."""

    def begin(tree: dict[str, Any] | None = None, **options: Any) -> Running:
        trust = {"trust": {"share": 1.0, "in_flight": 8, "per_minute": 10_000}}
        return start({**trust, **(tree or {})}, book=options.pop("book", book()), **options)

    return begin


def decided(response: Any) -> tuple[str, str]:
    return response.headers["x-gateway-decision"], response.headers["x-gateway-reason"]


def trust(gateway: Running, category: str = "default") -> Any:
    return gateway.http.get(f"{gateway.admin}/trust/{category}").json()


def quiet(gateway: Running, seconds: float = 10.0) -> None:
    """Wait until nothing is being judged."""
    deadline = time.monotonic() + seconds
    while gateway.app.sampling._tasks:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stored(gateway: Running, question: str) -> None:
    assert gateway.ask(question).status_code == 200
    gateway.settle()


def test_hits_are_judged_in_the_background_and_the_rate_is_told(
    judging: Start, backend: ScriptedBackend
) -> None:
    backend.reply = lambda seen: "Paris"
    gateway = judging()
    for asked, again in PAIRS:
        stored(gateway, asked)
        hit = gateway.ask(again)
        assert decided(hit) == ("reuse", "hit")
    quiet(gateway)
    hits = trust(gateway)["hits"]
    assert (hits["hits"], hits["judged"], hits["wrong"]) == (len(PAIRS), len(PAIRS), 0)
    assert hits["rate"] == 0.0
    assert 0 < hits["high"] < 0.6
    assert gateway.http.get(f"{gateway.admin}/trust").json()["all"] == pytest.approx(hits)
    assert backend.calls == 2 * len(PAIRS)
    told = gateway.http.get(f"{gateway.admin}/metrics").text
    assert 'gateway_judged_hits_total{category="default",outcome="right"} 6.0' in told
    assert 'gateway_false_hit_rate{bound="high",category="default",tenant="*"}' in told
    assert gateway.http.get(f"{gateway.admin}/cache").json()["trust"]["default"]["hits"]["judged"] == len(
        PAIRS
    )


def test_the_sample_is_asked_as_the_caller_would_have_been_and_never_delays_the_hit(
    judging: Start, backend: ScriptedBackend
) -> None:
    gateway = judging()
    stored(gateway, PAIRS[0][0])
    backend.delay = 1.0
    started = time.monotonic()
    body = {"model": "m", "messages": [{"role": "user", "content": PAIRS[0][1]}], "stream": True}
    assert gateway.post("/v1/chat/completions", body, Authorization="Bearer test").status_code == 200
    assert time.monotonic() - started < 0.9
    quiet(gateway)
    sample = backend.seen[-1]
    assert sample.json["messages"] == body["messages"]
    assert not sample.json.get("stream")
    assert sample.headers["Authorization"] == "Bearer test"


def test_a_category_over_its_budget_closes_says_so_and_opens_again(
    judging: Start, backend: ScriptedBackend
) -> None:
    gateway = judging(book=book("max_error: 0.02"))
    gateway.app.trust._categories["default"]._budget.allowance = 2.0
    for asked, again in PAIRS:
        stored(gateway, asked)
        gateway.ask(again)  # "answer 1" is not "answer 2"
        quiet(gateway)
    assert trust(gateway)["closed"] == "over-budget"
    stored(gateway, "Where do penguins live in winter?")
    withheld = gateway.ask("Where do penguins live in the winter?")
    assert decided(withheld) == ("forward", "over-budget")
    told = gateway.http.get(f"{gateway.admin}/metrics").text
    assert 'gateway_category_closed{category="default"} 1.0' in told
    for number in range(100):
        gateway.ask(f"Tell me about the number {number} in mythology")
    known = trust(gateway)
    assert known["closed"] is None
    assert known["excess"] == 0.0


def test_a_wrong_hit_found_by_a_judge_is_not_served_again(judging: Start, backend: ScriptedBackend) -> None:
    gateway = judging()
    asked, again = PAIRS[0]
    stored(gateway, asked)
    assert decided(gateway.ask(again)) == ("reuse", "hit")
    quiet(gateway)
    assert decided(gateway.ask(again)) == ("forward", "feedback")
    gateway.settle()
    assert decided(gateway.ask(asked))[0] == "reuse"  # the entry still answers its own question


def test_feedback_is_durable_and_reaches_everyone_on_the_store(
    start: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    tree = {"store": {"kind": "sqlite", "path": str(tmp_path / "shared.db")}}
    asked, again = PAIRS[0]
    first = start(tree, book=book())
    stored(first, asked)
    second = start(tree, book=book())
    hit = first.ask(again, x_gateway_cache="on")
    assert decided(hit) == ("reuse", "hit")
    verdict = {"request_id": hit.headers["x-request-id"], "verdict": "bad"}
    assert first.post("/v1/feedback", verdict).status_code == 200
    assert decided(first.ask(again, x_gateway_cache_ttl="0"))[1] == "feedback"
    deadline = time.monotonic() + 5
    while decided(second.ask(again, cache_control="no-store"))[1] != "feedback":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    near = again.replace("can I", "could I")
    assert decided(second.ask(near, cache_control="no-store"))[0] == "forward"
    third = start(tree, book=book())
    assert decided(third.ask(again, cache_control="no-store"))[1] == "feedback"
    assert decided(third.ask(asked))[0] == "reuse"


def test_more_wrong_pairs_than_there_is_room_for_settle(start: Start, tmp_path: Path) -> None:
    """Here, in the store, and with everybody on it."""
    tree = {"store": {"kind": "sqlite", "path": str(tmp_path / "shared.db")}}
    gateways = [start(tree) for _ in range(2)]
    one, two = (gateway.app.sampling for gateway in gateways)
    one.negatives.limit = two.negatives.limit = 5
    for number in range(12):
        gateways[0].run(one._remember("t", Wrong(b"partition", f"question {number}", "stored"), None))

    async def shelved() -> set[str]:
        return {key async for batch in one._shelf.shelf("negative") for key, _ in batch}

    def settled() -> bool:
        keys = gateways[0].run(shelved())
        return len(keys) == 5 and all(key in each.negatives for key in keys for each in (one, two))

    deadline = time.monotonic() + 5
    while not settled():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    two.negatives.load = lambda records: pytest.fail("what is known is read again") if list(records) else None
    gateways[0].run(one._shelf.put_meta("negatives", b"changed"))
    time.sleep(0.6)
    assert two._version == b"changed"
    assert not two.failures


def test_praise_loosens_nothing(judging: Start, backend: ScriptedBackend) -> None:
    gateway = judging({"trust": {"share": 0}})
    stored(gateway, PAIRS[0][0])
    hit = gateway.ask(PAIRS[0][1])
    before = trust(gateway)
    verdict = {"request_id": hit.headers["x-request-id"], "verdict": "good"}
    assert gateway.post("/v1/feedback", verdict).status_code == 200
    after = trust(gateway)
    assert after["good"] == 1
    assert (after["points"], after["excess"]) == (before["points"], before["excess"])
    assert decided(gateway.ask(PAIRS[0][1])) == ("reuse", "hit")


def test_a_request_has_one_verdict(judging: Start, backend: ScriptedBackend) -> None:
    """Said a hundred times it counts once; said otherwise, the other counts, and the pair stays refused."""
    gateway = judging({"trust": {"share": 0}})
    stored(gateway, PAIRS[0][0])
    hit = gateway.ask(PAIRS[0][1])

    def told() -> tuple[int, int, float]:
        known = trust(gateway)
        return known["good"], known["bad"], known["excess"]

    for verdict, times, expected in (
        ("good", 5, (1, 0, 0.0)),
        ("bad", 100, (0, 1, 1.0)),
        ("good", 3, (1, 0, 1.0)),
    ):
        for _ in range(times):
            given = {"request_id": hit.headers["x-request-id"], "verdict": verdict}
            assert gateway.post("/v1/feedback", given).status_code == 200
        assert told() == expected
    assert gateway.app.trust.to_json()["default"]["risks"] == []
    assert decided(gateway.ask(PAIRS[0][1])) == ("forward", "feedback")


def test_shadow_tells_what_switching_on_would_have_done(judging: Start, backend: ScriptedBackend) -> None:
    backend.reply = lambda seen: "the same"
    gateway = judging(book=book(mode="shadow"))
    for asked, again in PAIRS:
        stored(gateway, asked)
        assert decided(gateway.ask(again)) == ("forward", "shadow")
    gateway.settle()
    quiet(gateway)
    withheld = trust(gateway)["withheld"]
    assert withheld["would_serve"] == len(PAIRS)
    assert withheld["judged"] == len(PAIRS)
    assert withheld["rate"] == 0.0
    assert withheld["would_save_tokens"] > 0
    assert backend.calls == 2 * len(PAIRS)  # the answer was there: judging cost no call


def test_without_enough_labels_only_exact_hits_where_the_policy_says_so(
    start: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    careful = book("max_error: 0.1, uncalibrated: exact")
    gateway = start(book=careful)
    stored(gateway, PAIRS[0][0])
    assert decided(gateway.ask(PAIRS[0][1])) == ("forward", "uncalibrated")
    labels = tmp_path / "labels.jsonl"
    rows = [{"a": a, "b": b, "duplicate": 1, "category": "default"} for a, b in PAIRS * 3]
    labels.write_text("\n".join(map(json.dumps, rows)))
    taught = start({"trust": {"share": 0, "labels": str(labels)}}, book=careful)
    deadline = time.monotonic() + 20
    while trust(taught)["closed"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stored(taught, PAIRS[0][0])
    assert decided(taught.ask(PAIRS[0][1])) == ("reuse", "hit")
    assert trust(taught)["source"] == "labels"


def test_the_learned_bound_forwards_to_learn_and_inserts_only_what_was_wrong(
    judging: Start, backend: ScriptedBackend
) -> None:
    backend.reply = lambda seen: "the same"
    gateway = judging(book=book("max_error: 0.2, bound: learned, insert: if-wrong"))
    asked, again = PAIRS[0]
    stored(gateway, asked)
    explored = gateway.ask(again)
    assert decided(explored) == ("forward", "explore")
    assert "x-gateway-entry" not in explored.headers
    quiet(gateway)
    assert len(gateway.app.cache.catalog) == 1  # its neighbour's answer did
    backend.reply = lambda seen: "something else"
    assert decided(gateway.ask(again.replace("can I", "might I")))[0] == "forward"
    quiet(gateway)
    gateway.settle()
    assert len(gateway.app.cache.catalog) == 2


def test_a_hit_can_be_made_to_take_as_long_as_an_answer(start: Start, backend: ScriptedBackend) -> None:
    gateway = start({"cache": {"hit_seconds": 0.4}})
    stored(gateway, PAIRS[0][0])
    for question in PAIRS[0]:
        started = time.monotonic()
        assert decided(gateway.ask(question))[0] == "reuse"
        assert time.monotonic() - started >= 0.4


def test_what_was_learned_survives_a_restart(
    judging: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    backend.reply = lambda seen: "the same"
    tree = {"store": {"kind": "sqlite", "path": str(tmp_path / "kept.db")}}
    gateway = judging(tree)
    stored(gateway, PAIRS[0][0])
    gateway.ask(PAIRS[0][1])
    quiet(gateway)
    gateway.run(gateway.app.sampling.save())
    assert trust(judging(tree))["hits"]["judged"] == 1


def test_samples_that_are_lost_are_told(judging: Start, backend: ScriptedBackend) -> None:
    """Of candidates below the operating point too, where no room was left to judge them."""
    gateway = judging(book=book("max_error: 0.01").replace("0.85", "0.99"))
    sampling = gateway.app.sampling
    sampling._terms = replace(sampling._terms, in_flight=0)
    towns = (
        "Ghent",
        "Basel",
        "Turku",
        "Porto",
        "Gdansk",
        "Linz",
        "Lund",
        "Cork",
        "Bari",
        "Brno",
        "Lyon",
        "Graz",
    )
    for town in towns:
        stored(gateway, f"What is the history of the town of {town}?")
        stored(gateway, f"What was the history of the town of {town}?")
    assert sampling.samples["crowded"] >= 10
    assert trust(gateway)["covered"] == pytest.approx(0.1)


def test_the_floor_of_similarities_does_not_bind_a_verifiers_scores() -> None:
    """0.70 is where texts merely share a topic; a score of 0.6 says that a hit is more probably right than wrong."""

    class Second:
        name, embedder = "second", "any"

        def scores(self, *asked: Any) -> list[float]:
            return []

    verify = {"max_error": 0.05, "verify": {"above": 0.7, "score": 0.9}}
    tree = {"categories": [{"name": "default", "cache": verify}]}
    s = [at / 1000 for at in range(1000)]
    for verifier, least in ((Second(), 0.55), (None, 0.70)):
        room = Trust()
        room.configure(composition.trust_terms(composition.policy(from_json(tree), verifier)))
        room.seed("default", s, [0.5 < each < 0.6 for each in s])
        assert room.conditions.points["default"][0] == pytest.approx(least, abs=0.002)


def test_gateways_on_one_store_learn_together(
    judging: Start, backend: ScriptedBackend, tmp_path: Path
) -> None:
    """Whoever saves last has the last word over nobody, and a restart counts nothing twice."""
    backend.reply = lambda seen: "the same"
    tree = {"store": {"kind": "sqlite", "path": str(tmp_path / "kept.db")}}
    gateways = [judging(tree), judging(tree)]
    for gateway, (asked, again) in zip(gateways, PAIRS, strict=False):
        stored(gateway, asked)
        assert decided(gateway.ask(again)) == ("reuse", "hit")
        quiet(gateway)
    for gateway in [*gateways, *gateways]:
        gateway.run(gateway.app.sampling.save())
    for gateway in [*gateways, judging(tree)]:
        hits = trust(gateway)["hits"]
        assert (hits["lookups"], hits["hits"], hits["judged"]) == (4, 2, 2)


def test_the_judging_model_is_a_listed_one() -> None:
    models = [{"name": "m", "backends": [{"url": "http://x"}]}]
    assert build({"models": models, "judge": {"model": "m"}}, {}).judge.model == "m"
