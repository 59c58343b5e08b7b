"""One simulated engine: continuous batching with chunked prefill, a KV limit, preemption and a prefix cache.

Time passes only from one event to the next: a step with prefill in it, or a run of pure decode steps at once.

Constants are orders of magnitude for a model of about 8B in bf16 on one 80 GB GPU (312 TFLOP/s, 2 TB/s):
16 GB of weights read once a step take about 8 ms; 16 GFLOP a prompt token at half the peak take 0.1 ms;
attention adds 0.5 MFLOP a token for each token before it; 131 kB of keys and values a token (32 layers, 8 heads
of 128, two bytes) are read in 65 ns and leave room for about 400,000 tokens. Chunked prefill as in Sarathi-Serve
(arXiv 2403.02310), with a budget of 512 tokens a step, which keeps steps under 0.1 s, and 256 sequences at most.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

STEP = 0.010  # seconds, weights and launch
PROMPT = 1e-4  # a prompt token
CONTEXT = 3.4e-9  # a prompt token, for each token before it
SEQUENCE = 2e-5  # a sequence in the batch
RESIDENT = 6.5e-8  # a token in the KV cache
BUDGET = 512  # tokens a step
SEQUENCES = 256
KV_TOKENS = 400_000
BLOCK = 512  # tokens of a prefix block, as the Mooncake trace names them
CACHE_BLOCKS = KV_TOKENS // BLOCK // 2  # prefix blocks kept beside what is in use


@dataclass(slots=True, eq=False)
class Job:
    """A request inside an engine, and what became of it."""

    prompt: int
    output: int
    blocks: tuple[int, ...]
    first: Callable[[float], None]
    done: Callable[[float], None]
    produced: int = 0
    unread: int = 0  # prompt tokens still to prefill
    context: int = 0  # tokens already in the KV cache
    ends: int = 0  # step at which its last token comes; moved by preemption
    began: int = 0  # step of the first token since it was (last) admitted


@dataclass(slots=True, eq=False)
class Engine:
    """`wake` is when it must be run next, infinity while idle."""

    speed: float = 1.0
    wake: float = math.inf
    running: int = 0  # sequences in decode
    resident: int = 0  # tokens in the KV cache
    preemptions: int = 0
    waiting: deque[Job] = field(default_factory=deque)
    _prefilling: deque[Job] = field(default_factory=deque)
    _decoding: list[Job] = field(default_factory=list)  # in order of admission
    _ends: list[tuple[int, int, Job]] = field(default_factory=list)
    _step: int = 0
    _steps: int = 0  # planned
    _planned_at: float = 0.0
    _chunks: list[tuple[Job, int]] = field(default_factory=list)
    _cache: "OrderedDict[int, None]" = field(default_factory=OrderedDict)
    _number: int = 0
    _busy: bool = False

    @property
    def load(self) -> tuple[int, int, float]:
        """Running, waiting and KV use, as an engine reports them."""
        return self.running + len(self._prefilling), len(self.waiting), self.resident / KV_TOKENS

    def tokens(self, job: Job, now: float) -> int:
        """Output tokens of a job so far."""
        if job.ends < self._step or job.unread:
            return job.produced
        part = (now - self._planned_at) / max(1e-9, self.wake - self._planned_at)
        return job.produced + self._step - job.began + 1 + int(part * self._steps)

    def submit(self, job: Job, now: float) -> None:
        job.unread = job.prompt
        self.waiting.append(job)
        if self._busy:
            return
        if self.wake == math.inf:
            self._plan(now)
        elif not self._chunks and self._steps > 1:
            self._cut(now)

    def run(self, now: float) -> None:
        """What was planned is done; tell who has tokens, and plan on."""
        self._busy = True
        self._step += self._steps
        self.resident += self.running * self._steps
        self._finish(now)
        for job, tokens in self._chunks:
            job.unread -= tokens
            job.context += tokens
            if not job.unread:
                self._prefilling.remove(job)
                self._begin(job, now)
        self._chunks = []
        self._busy = False
        self._plan(now)

    def _begin(self, job: Job, now: float) -> None:
        self.running += 1
        self.resident += 1
        job.began = self._step
        job.ends = self._step + job.output - job.produced - 1
        self._decoding.append(job)
        self._number += 1
        heapq.heappush(self._ends, (job.ends, self._number, job))
        if not job.produced:
            job.first(now)
        self._finish(now)

    def _finish(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= self._step:
            ends, _, job = heapq.heappop(self._ends)
            if job.ends == ends:
                self._leave(job)
                job.done(now)

    def _leave(self, job: Job) -> None:
        job.produced += self._step - job.began + 1
        self.running -= 1
        self.resident -= job.context + self._step - job.began + 1
        self._decoding.remove(job)

    def _preempt(self) -> None:
        """Out of memory: the latest admitted gives its tokens back and is read anew."""
        job = self._decoding[-1]
        self._leave(job)
        job.ends = -1
        job.unread, job.context = job.prompt + job.produced, 0
        self.waiting.appendleft(job)
        self.preemptions += 1

    def _plan(self, now: float) -> None:
        self._planned_at = now
        while self.resident + self.running > KV_TOKENS and self.running > 1:
            self._preempt()
        self._chunks = []
        left = BUDGET - self.running
        seconds = STEP + SEQUENCE * self.running + RESIDENT * self.resident
        for job in self._next(left):
            tokens = min(job.unread, left)
            left -= tokens
            seconds += tokens * (PROMPT + CONTEXT * (job.context + tokens / 2))
            self._chunks.append((job, tokens))
        if self._chunks:
            self._steps = 1
        elif self.running:
            room = (KV_TOKENS - self.resident) // self.running
            while self._ends[0][2].ends != self._ends[0][0]:
                heapq.heappop(self._ends)
            self._steps = max(1, min(self._ends[0][0] - self._step, room))
            seconds = self._decode(self._steps)
        else:
            self._steps, self.wake = 0, math.inf
            return
        self.wake = now + seconds / self.speed

    def _decode(self, steps: int) -> float:
        """Seconds of that many pure decode steps: each adds a token of every sequence to the KV cache."""
        one = STEP + SEQUENCE * self.running + RESIDENT * self.resident
        return steps * one + RESIDENT * self.running * steps * (steps - 1) / 2

    def _cut(self, now: float) -> None:
        """Somebody came: the run of decode steps ends with the step in progress."""
        elapsed = (now - self._planned_at) * self.speed
        low, high = 1, self._steps
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._decode(middle) >= elapsed else (middle + 1, high)
        self._steps = low
        self.wake = self._planned_at + self._decode(low) / self.speed

    def _next(self, budget: int) -> list[Job]:
        """Whose prompts the next step reads: those begun, then the queue in order while memory lasts."""
        chosen, left = [], budget
        for job in self._prefilling:
            if left <= 0:
                break
            chosen.append(job)
            left -= job.unread
        while left > 0 and self.waiting and self.running + len(self._prefilling) < SEQUENCES:
            job = self.waiting[0]
            if self.resident + job.unread > KV_TOKENS and (self.running or self._prefilling):
                break
            self.waiting.popleft()
            self.resident += job.unread
            if job.blocks:
                self._reuse(job)
            self._prefilling.append(job)
            chosen.append(job)
            left -= job.unread
        return chosen

    def _reuse(self, job: Job) -> None:
        """Leading blocks in the cache need not be read; all of them are cached afterwards."""
        held = 0
        for block in job.blocks:
            if block not in self._cache:
                break
            held += 1
        job.context = min(held * BLOCK, job.prompt - 1)
        job.unread -= job.context
        for block in reversed(job.blocks):
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > CACHE_BLOCKS:
            self._cache.popitem(last=False)
