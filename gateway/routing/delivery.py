"""Passing an answer on, piece by piece, and reading from its end what it has cost."""

import re

from gateway.routing.trip import Attempt, Into

_PROMPT = re.compile(rb'"(?:prompt|(cache_(?:read|creation)_)?input)_tokens"\s*:\s*(\d+)')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')
_TAIL = 4096  # bytes at an answer's end in which its usage stands


async def deliver(attempt: Attempt, into: Into) -> None:
    """All there is of the answer, as it comes.

    Raises:
        Failed: it broke off.
    """
    incoming = attempt.incoming
    assert incoming is not None
    into.begin(incoming.status, incoming.headers)
    tail, events = b"".join(incoming.chunks[-2:]), None
    if attempt.sse:
        events = sum(chunk.count(b"\n\n") for chunk in incoming.chunks)
    try:
        for chunk in incoming.chunks:
            await into.feed(chunk)
        while not incoming.ended:
            chunk = await incoming.read()
            tail = chunk if len(chunk) > _TAIL else tail[-_TAIL:] + chunk
            if events is not None:
                events += chunk.count(b"\n\n")
                attempt.lease.progress(events, attempt.now())
            await into.feed(chunk)
        if attempt.span is not None:
            attempt.span.read(b"".join(incoming.chunks[:2]), tail)
    finally:  # as far as it came
        prompt, output = _spent(tail)
        into.spent = prompt, output if output is not None else events or None
    attempt.done(incoming.status, *into.spent)


def _spent(tail: bytes) -> tuple[int | None, int | None]:
    """Prompt and output tokens as the engine reported them at the end of its answer; the last word counts."""
    start = max(len(tail) - _TAIL, 0)
    prompt, output = _PROMPT.findall(tail, start), _OUTPUT.findall(tail, start)
    parts = dict(prompt).values()  # Anthropic's API counts apart what concerned a prompt cache
    return (sum(map(int, parts)) if prompt else None), (int(output[-1]) if output else None)
