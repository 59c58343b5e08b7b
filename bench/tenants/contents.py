"""What the stores are filled with: real questions with real vectors, as entries that requests will hit.

Every tenant has some of the same questions, under answers that name the tenant. Records are made of the same pieces
as the gateway's own (parsing, fingerprints, charge), so that a mistake here shows as a miss, not as a good figure.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.accuracy.pairs import question_pairs
from bench.accuracy.vectors import vectors
from bench.speed import body, questions
from gateway.cache.catalog import random_id
from gateway.cache.guard import Guard
from gateway.embedding.sentence import SentenceEmbedder
from gateway.exchange import Entry, Record, request_digest
from gateway.interfaces import DocumentStore, Vector
from gateway.pipeline import charge
from gateway.wire.request import exact_fingerprint, parse, partition_fingerprint

THRESHOLD = 0.90
BOOK = f"""
categories:
  - name: default
    cache: {{mode: semantic, threshold: {THRESHOLD}, ttl: 7d}}
"""
_SURE = 0.02  # beyond the threshold: vectors of another batch differ in the third digit
_TTL = 7 * 86_400.0
_BATCH = 500  # records of one write
_ANSWER = " It is told at some length, as answers are, with what belongs to it and what does not." * 7


@dataclass(frozen=True, slots=True)
class Questions:
    """Distinct texts, their vectors (n, d), and to some of them another wording that must hit them."""

    texts: list[str]
    vectors: Vector
    near: dict[int, str]


def name(tenant: int) -> str:
    return f"tenant-{tenant:05d}"


def key(tenant: int) -> str:
    return f"key-of-{tenant:05d}"


def marker(tenant: int) -> bytes:
    """Stands in every answer of this tenant, and in no other's."""
    return b"(for %b)" % name(tenant).encode()


def asked(data: Path, distinct: int, near: int, cache: Path) -> Questions:
    """Questions of QQP where its file is there, else made from templates; of each their vectors, kept in `cache`."""
    file = data / "qqp_pairs.jsonl.gz"
    if file.is_file():
        pairs = question_pairs(file)
        wording = {pair.a: pair.b for pair in pairs if pair.duplicate and pair.a != pair.b}
        others = (pair.a for pair in pairs if not pair.duplicate)
        texts = list(dict.fromkeys([*wording, *others]))
    else:
        texts = list(dict.fromkeys(questions(2 * distinct, seed=1)))
        wording = {text: text.replace("How would you", "How do you") for text in texts}
    random.Random(1).shuffle(texts)
    texts = texts[:distinct]
    pairs_near = [(row, wording[text]) for row, text in enumerate(texts) if text in wording][:near]
    embedder = SentenceEmbedder("auto", "onnx-int8", cache=cache / "model")
    found = vectors(embedder, [*texts, *(text for _, text in pairs_near)], cache)
    stored, guard, good = found[: len(texts)], Guard(), {}
    for (row, text), vector in zip(pairs_near, found[len(texts) :], strict=True):
        agrees = guard.verdict(guard.facts(text), guard.facts(texts[row])) is None
        if agrees and float(stored[row] @ vector) >= THRESHOLD + _SURE:
            good[row] = text
    return Questions(texts, stored, good)


def rows_of(tenant: int, count: int, distinct: int) -> list[int]:
    """Which questions a tenant has asked."""
    return random.Random(tenant).sample(range(distinct), count)


def record(given: Questions, tenant: int, row: int) -> Record:
    """The answer to one tenant's question, as the gateway would have stored it."""
    request = parse("chat", body(given.texts[row]), {})
    owner, vector, now = f"t:{name(tenant)}", given.vectors[row], time.time()
    document = _document(f"{marker(tenant).decode()} Answer {row}.{_ANSWER}")
    entry = Entry(
        id=random_id(),
        exact=exact_fingerprint(request, owner),
        partition=partition_fingerprint(request, owner),
        tenant=owner,
        category="default",
        model=request.model,
        endpoint="chat",
        question=request.question or "",
        created=now,
        expires=now + _TTL,
        size=charge(document, vector),
        cost=0.001,
        temperature=0.2,
        request=request_digest(f"req_{tenant}_{row}"),
        prompt_tokens=30,
        completion_tokens=140,
    )
    return Record(entry, vector.tobytes(), document)


async def fill(store: DocumentStore, given: Questions, tenants: int, each: int) -> int:
    """Write `each` entries of every tenant, in turn as they would come; how many."""
    await store.open()
    batch: list[Record] = []
    count = 0
    for tenant, row in _in_turn(tenants, each, len(given.texts)):
        batch.append(record(given, tenant, row))
        count += 1
        if len(batch) == _BATCH:
            await store.put(batch)
            batch = []
    await store.put(batch)
    await store.close()
    return count


def _in_turn(tenants: int, each: int, distinct: int) -> Iterator[tuple[int, int]]:
    theirs = [rows_of(tenant, each, distinct) for tenant in range(tenants)]
    for place in range(each):
        for tenant in range(tenants):
            yield tenant, theirs[tenant][place]


def _document(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 30, "completion_tokens": 140, "total_tokens": 170}
    return json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": "bench",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    ).encode()
