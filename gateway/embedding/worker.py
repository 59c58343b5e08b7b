"""The one thread that owns the embedder, the classifier and the indexes.

Decides what is computed next: the looks that wait now, together; then a few index changes, one chunk of bulk
encoding, one step of index upkeep. Never waits for company, never makes a caller wait past its deadline,
never lets a caller's thread touch what it owns. All async methods belong to the one loop that called `start`.
"""

import asyncio
import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from gateway.errors import EmbedderBusy, EmbedderFailed
from gateway.interfaces import Classifier, Embedder, Vector, Verifier

T = TypeVar("T")
State = Literal["starting", "ready", "failed", "closed"]
Change = tuple[int, bytes, Vector | None]  # id, partition, and its vector or None to remove it
CHARS = 4096  # of text in one batch: batching no longer pays beyond, and the short must not wait for the long
SLICE = 0.005  # seconds of index changes between two batches of looks
MAX_CHANGES = 65_536  # calls waiting; a hung embedder must not fill the memory with changes
LARGE = 1 << 20  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
WARM = ("warm", "warm up " * 8, "warm up " * 40)

log = logging.getLogger(__name__)


class Indexes(Protocol):
    """What the worker needs of the index room. Owner-thread methods, but for a rebuild's own `build`."""

    @property
    def due(self) -> bool: ...
    def search(self, partition: bytes, vector: Vector, k: int) -> list[tuple[int, float]]: ...
    def take(self, partition: bytes, ids: list[int]) -> tuple[list[int], Vector]: ...
    def add(self, id: int, partition: bytes, vector: Vector) -> None: ...
    def remove(self, id: int, partition: bytes) -> None: ...
    def begin(self) -> Any: ...
    def settle(self, rebuild: Any) -> bool: ...
    def abandon(self, rebuild: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """What one pass over a question found. Beyond the window there is neither vector nor label."""

    vector: Vector | None  # (d,)
    tokens: int
    beyond_window: bool
    label: str | None
    confidence: float
    candidates: list[tuple[int, float]]  # (entry id, cosine similarity), most similar first
    embed_s: float  # tokenizing, encoding and classifying the whole batch
    search_s: float  # this look's own
    also: list[tuple[int, float]] = field(default_factory=list)  # the same of the further partitions, merged


@dataclass(slots=True)
class Counts:
    """Plain integers, each written by one thread."""

    looks: int = 0
    busy: int = 0  # refused at once: the queue was full, or the embedder not there yet
    late: int = 0  # given up at the deadline
    failed: int = 0  # looks that met an embedder failure
    texts: int = 0  # encoded for looks
    batches: int = 0
    unlabelled: int = 0  # looks whose classifier raised
    unsearched: int = 0  # looks whose search raised
    verified: int = 0  # questions whose candidates the verifier was asked about
    unverified: int = 0  # of these, those it failed on
    bulk_texts: int = 0
    changes: int = 0
    dropped: int = 0  # index changes that could not be applied
    refused: int = 0  # index changes turned away: too many waiting, or closed
    rebuilds: int = 0
    rebuilds_failed: int = 0


class _Job:
    __slots__ = ("also", "also_k", "future", "k", "partition", "text")

    def __init__(
        self,
        text: str,
        partition: bytes | None,
        k: int,
        also: Sequence[bytes],
        also_k: int,
        future: "asyncio.Future[Look]",
    ) -> None:
        self.text, self.partition, self.k, self.future = text, partition, k, future
        self.also, self.also_k = also, also_k


class _Pairs:
    """A question and the stored ones that the verifier is asked about."""

    __slots__ = ("asked", "future", "partition", "stored", "vector")

    def __init__(
        self,
        asked: str,
        vector: Vector,
        partition: bytes,
        stored: Mapping[int, str],
        future: "asyncio.Future[dict[int, float]]",
    ) -> None:
        self.asked, self.vector, self.partition, self.stored = asked, vector, partition, stored
        self.future = future


class _Bulk:
    __slots__ = ("done", "future", "parts", "texts")

    def __init__(self, texts: list[str], future: "asyncio.Future[Vector]") -> None:
        self.texts, self.future, self.done = texts, future, 0
        self.parts: list[Vector] = []


class _Changes:
    __slots__ = ("applied", "at", "future", "items")

    def __init__(self, items: Sequence[Change], future: "asyncio.Future[int]") -> None:
        self.items, self.future, self.at, self.applied = items, future, 0, 0


Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


class Worker:
    """`load` runs on the worker thread, so that a slow export or download blocks nobody."""

    def __init__(
        self,
        load: Callable[[], Embedder],
        indexes: Indexes,
        *,
        max_batch: int = 16,
        max_queue: int = 256,
        deadline: float = 0.25,
    ) -> None:
        self.state: State = "starting"
        self.failure = ""
        self.ready = asyncio.Event()  # the start is over, well or badly: `state` says which
        self.counts = Counts()
        self._load = load
        self._indexes = indexes
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._deadline = deadline
        self._embedder: Embedder | None = None
        self._classifier: Classifier | None = None
        self._verifier: Verifier | None = None
        self._pairs: deque[_Pairs] = deque()
        self._looks: deque[_Job] = deque()
        self._bulk: deque[_Bulk] = deque()
        self._changes: deque[_Changes] = deque()
        self._streak = 0  # embedder failures in a row
        self._rebuild: Any = None
        self._builder: threading.Thread | None = None
        self._built: BaseException | bool = False  # True, or what went wrong, once the builder is through
        self._wake = threading.Condition()
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._finished = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Worker {self.state}, {self.queued} waiting, {len(self._changes)} changes waiting>"

    @property
    def queued(self) -> int:
        """Looks waiting, those already given up included."""
        return len(self._looks)

    @property
    def embedder(self) -> Embedder | None:
        """Once ready; read its `dim`, `window` and `name`, call nothing."""
        return self._embedder

    # -- called on the loop -------------------------------------------------------------------------------

    def start(self) -> None:
        """Spawn the thread. Call once, on the loop that will use this worker."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self._thread.start()

    async def look(
        self,
        text: str,
        partition: bytes | None,
        k: int = 5,
        also: Sequence[bytes] = (),
        also_k: int = 24,
    ) -> Look:
        """Embed, classify and (unless `partition` is None) search, in one hop.

        `also`: further partitions to search with the same vector; the best `also_k` of all of them together.
        Raises EmbedderBusy at once when the queue is full or the embedder is not ready, and at the deadline;
        EmbedderFailed when the embedder raised or could not be loaded.
        """
        counts = self.counts
        counts.looks += 1
        if self.state == "failed":
            counts.failed += 1  # the thread serves no looks any more
            raise EmbedderFailed(self.failure)
        if self.state != "ready" or len(self._looks) >= self._max_queue:
            counts.busy += 1
            raise EmbedderBusy("queue full" if self.state == "ready" else f"embedder {self.state}")
        assert self._loop is not None
        future: asyncio.Future[Look] = self._loop.create_future()
        self._looks.append(_Job(text, partition, k, also, also_k, future))
        return await self._in_time(future)

    async def verify(
        self, asked: str, vector: Vector, partition: bytes, stored: Mapping[int, str]
    ) -> dict[int, float]:
        """Entry id → the verifier's score, for those of `stored` (id → question) that are still indexed.

        Raises EmbedderBusy when too much waits, at the deadline, or without a verifier; EmbedderFailed when it
        raised.
        """
        if self.state != "ready" or self._verifier is None or len(self._pairs) >= self._max_queue:
            raise EmbedderBusy("the verifier is not ready")
        assert self._loop is not None
        future: asyncio.Future[dict[int, float]] = self._loop.create_future()
        self._pairs.append(_Pairs(asked, vector, partition, stored, future))
        return await self._in_time(future)

    async def _in_time(self, future: "asyncio.Future[T]") -> T:
        """What the thread answers within the deadline."""
        assert self._loop is not None
        timer = self._loop.call_later(self._deadline, self._expire, future)
        self._notify()
        try:
            return await future
        finally:
            timer.cancel()

    async def encode(self, texts: Sequence[str], timeout: float = 120.0) -> Vector:
        """(n, d) unit vectors, between batches of looks. Waits for the start; raises as `look` does."""
        if self.state == "failed":
            raise EmbedderFailed(self.failure)
        if self.state == "closed" or len(self._bulk) >= self._max_queue:
            raise EmbedderBusy("too much to encode" if self.state != "closed" else "embedder closed")
        assert self._loop is not None
        future: asyncio.Future[Vector] = self._loop.create_future()
        self._bulk.append(_Bulk(list(texts), future))
        self._notify()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise EmbedderBusy(f"not encoded within {timeout:g} s") from None

    def add(self, id: int, partition: bytes, vector: Vector) -> "asyncio.Future[int]":
        """Insert or replace. The future, which need not be awaited, gives 1 once applied and 0 if dropped."""
        return self.load_many([(id, partition, vector)])

    def remove(self, id: int, partition: bytes) -> "asyncio.Future[int]":
        """Forget an id. The future, which need not be awaited, gives 1 once applied and 0 if dropped."""
        return self.load_many([(id, partition, None)])

    def load_many(self, changes: Sequence[Change]) -> "asyncio.Future[int]":
        """Changes in order, with those of `add` and `remove`. The future gives how many were applied."""
        assert self._loop is not None
        future: asyncio.Future[int] = self._loop.create_future()
        if self.state == "closed" or len(self._changes) >= MAX_CHANGES:
            self.counts.refused += len(changes)
            future.set_result(0)
            return future
        self._changes.append(_Changes(changes, future))
        self._notify()
        return future

    @property
    def classifier(self) -> Classifier | None:
        """The one in force; pure, so that others may ask it too."""
        return self._classifier

    def set_classifier(self, classifier: Classifier | None) -> None:
        """From the next batch on. One reference is swapped; a batch in progress keeps the old one."""
        self._classifier = classifier

    def set_verifier(self, verifier: Verifier | None) -> None:
        """From the next question on."""
        self._verifier = verifier

    async def close(self, timeout: float = 5.0) -> None:
        """Serve what waits, then stop the thread; what is not through in time is given up."""
        self.state = "closed"
        if self._thread is None:
            return
        self._stop.set()
        self._notify()
        try:
            async with asyncio.timeout(timeout):
                await self._finished.wait()
            self._thread.join(1.0)
        except TimeoutError:
            log.warning("the embedder thread did not stop within %g s", timeout)
        self._give_up()

    def _expire(self, future: "asyncio.Future[Any]") -> None:
        if not future.done():
            self.counts.late += 1
            future.set_exception(EmbedderBusy("deadline"))

    def _give_up(self) -> None:
        outcomes: list[Outcome] = [(job.future, None, EmbedderBusy("closed")) for job in self._looks]
        outcomes += [(pairs.future, None, EmbedderBusy("closed")) for pairs in self._pairs]
        outcomes += [(bulk.future, None, EmbedderBusy("closed")) for bulk in self._bulk]
        outcomes += [(changes.future, changes.applied, None) for changes in self._changes]
        _deliver(outcomes)

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    # -- called on the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        _map_large_blocks()
        self._start_embedder()
        while True:
            with self._wake:
                while not (self._has_work() or self._stop.is_set()):
                    self._wake.wait()
            if self._stop.is_set() and not (self._looks or self._pairs or self._changes):
                break
            self._turn()
        if self._rebuild is not None:
            self._indexes.abandon(self._rebuild)
        self._post(self._finished.set)

    def _start_embedder(self) -> None:
        started = time.perf_counter()
        try:
            embedder = self._load()
            for text in WARM:
                embedder.tokens([text])
                embedder.encode([text])
        except BaseException as error:  # a panic in a Rust extension is not an Exception
            self.failure = f"{type(error).__name__}: {error}"
            log.error("the embedder could not be loaded, semantic reuse is off: %s", self.failure)
        else:
            self._embedder = embedder
            log.info("embedder %s ready after %.1f s", embedder.name, time.perf_counter() - started)
        self._post(self._started)

    def _started(self) -> None:
        if self.state == "starting":
            self.state = "ready" if self._embedder is not None else "failed"
        self.ready.set()

    def _has_work(self) -> bool:
        if self._looks or self._pairs or self._changes or self._bulk:
            return True
        if self._rebuild is None:
            return self._indexes.due
        return self._builder is None or self._built is not False

    def _turn(self) -> None:
        jobs = self._take()
        if jobs:
            self._serve(jobs)
        if self._pairs:
            self._verify()
        if self._changes:
            self._apply()
        if self._bulk:
            self._encode_chunk()
        if not self._stop.is_set():
            self._upkeep()

    def _take(self) -> list[_Job]:
        """The looks that wait now and are still wanted, up to a batch's worth."""
        jobs: list[_Job] = []
        chars = 0
        while self._looks and len(jobs) < self._max_batch and chars < CHARS:
            job = self._looks.popleft()
            if not job.future.done():  # given up at the deadline, or its caller has gone
                jobs.append(job)
                chars += len(job.text)
        return jobs

    def _serve(self, jobs: list[_Job]) -> None:
        try:
            outcomes = self._look_up(jobs)
            self._streak = 0
        except BaseException as error:
            self.counts.failed += len(jobs)
            self._streak += 1
            if self._streak % 100 == 1:  # it may fail for every request of a busy day
                log.warning("the embedder failed, %d in a row: %s", self._streak, _failed(error))
            outcomes = [(job.future, None, _failed(error)) for job in jobs]
        self._post(_deliver, outcomes)

    def _look_up(self, jobs: list[_Job]) -> list[Outcome]:
        embedder = self._ready_embedder()
        started = time.perf_counter()
        tokens = embedder.tokens([job.text for job in jobs])
        inside = [i for i, n in enumerate(tokens) if n <= embedder.window]
        vectors = (
            self._checked(embedder.encode([jobs[i].text for i in inside]), len(inside)) if inside else None
        )
        labels = self._label(vectors, len(inside))
        embed_s = time.perf_counter() - started
        self.counts.batches += 1
        self.counts.texts += len(inside)
        looks = [Look(None, n, True, None, 0.0, [], embed_s, 0.0) for n in tokens]
        for row, i in enumerate(inside):
            assert vectors is not None
            job, vector, begun = jobs[i], vectors[row], time.perf_counter()
            candidates = [] if job.partition is None else self._search(job.partition, vector, job.k)
            also = self._search_also(job, vector) if job.also else []
            search_s = time.perf_counter() - begun if job.also or job.partition is not None else 0.0
            looks[i] = Look(vector, tokens[i], False, *labels[row], candidates, embed_s, search_s, also)
        return [(job.future, look, None) for job, look in zip(jobs, looks, strict=True)]

    def _ready_embedder(self) -> Embedder:
        if self._embedder is None:
            raise EmbedderFailed(self.failure)
        return self._embedder

    def _checked(self, vectors: Vector, n: int) -> Vector:
        """A vector that is not one would poison every later comparison."""
        assert self._embedder is not None
        if vectors.shape != (n, self._embedder.dim) or not np.isfinite(vectors).all():
            raise EmbedderFailed(f"vectors of shape {vectors.shape} for {n} texts, or not finite")
        return vectors

    def _label(self, vectors: Vector | None, n: int) -> list[tuple[str | None, float]]:
        classifier = self._classifier
        if classifier is not None and vectors is not None:
            try:
                labels = classifier.label(vectors)
                if len(labels) == n:
                    return list(labels)
                raise ValueError(f"{len(labels)} labels for {n} vectors")
            except Exception as error:
                self.counts.unlabelled += n
                log.warning("the classifier failed: %s: %s", type(error).__name__, error)
        return [(None, 0.0)] * n

    def _search(self, partition: bytes, vector: Vector, k: int) -> list[tuple[int, float]]:
        try:
            return self._indexes.search(partition, vector, k)
        except Exception as error:
            self.counts.unsearched += 1
            log.warning("the index failed: %s: %s", type(error).__name__, error)
            return []

    def _search_also(self, job: _Job, vector: Vector) -> list[tuple[int, float]]:
        """An id may be in several of the partitions; it is the same vector in each."""
        found = dict(pair for partition in job.also for pair in self._search(partition, vector, job.also_k))
        return sorted(found.items(), key=lambda pair: -pair[1])[: job.also_k]

    def _verify(self) -> None:
        """One question's candidates: looks that came meanwhile are served before the next one's."""
        pairs, verifier = self._pairs.popleft(), self._verifier
        if pairs.future.done():  # given up
            return
        self.counts.verified += 1
        try:
            if verifier is None:
                raise EmbedderFailed("the verifier was taken away")
            ids, vectors = self._indexes.take(pairs.partition, list(pairs.stored))
            scores = verifier.scores(pairs.asked, [pairs.stored[id] for id in ids], pairs.vector, vectors)
            outcome: Outcome = pairs.future, dict(zip(ids, scores, strict=True)), None
        except BaseException as error:  # a panic in a Rust extension is not an Exception
            self.counts.unverified += 1
            log.warning("the verifier failed: %s: %s", type(error).__name__, error)
            outcome = pairs.future, None, _failed(error)
        self._post(_deliver, [outcome])

    def _apply(self) -> None:
        """Changes in order for one slice of time."""
        until = time.perf_counter() + SLICE
        outcomes: list[Outcome] = []
        while self._changes and time.perf_counter() < until:
            changes = self._changes[0]
            while changes.at < len(changes.items):
                self._change(changes)
                if time.perf_counter() >= until:
                    break
            if changes.at == len(changes.items):
                self._changes.popleft()
                outcomes.append((changes.future, changes.applied, None))
        if outcomes:
            self._post(_deliver, outcomes)

    def _change(self, changes: _Changes) -> None:
        id, partition, vector = changes.items[changes.at]
        changes.at += 1
        try:
            if vector is None:
                self._indexes.remove(id, partition)
            else:
                self._indexes.add(id, partition, vector)
        except Exception as error:
            self.counts.dropped += 1
            log.warning("an index change was dropped: %s: %s", type(error).__name__, error)
        else:
            changes.applied += 1
            self.counts.changes += 1

    def _encode_chunk(self) -> None:
        bulk = self._bulk[0]
        if bulk.future.done():  # timed out, or its caller has gone
            self._bulk.popleft()
            return
        chunk = _some(bulk.texts, bulk.done, self._max_batch)
        try:
            embedder = self._ready_embedder()
            bulk.parts.append(self._checked(embedder.encode(chunk), len(chunk)))
        except BaseException as error:
            self._bulk.popleft()
            self._post(_deliver, [(bulk.future, None, _failed(error))])
            return
        bulk.done += len(chunk)
        self.counts.bulk_texts += len(chunk)
        if bulk.done == len(bulk.texts):
            self._bulk.popleft()
            self._post(_deliver, [(bulk.future, np.concatenate(bulk.parts), None)])

    def _upkeep(self) -> None:
        """One step of at most one rebuild: begin; gather, build elsewhere, settle, as often as it takes."""
        try:
            if self._rebuild is None:
                self._rebuild = self._indexes.begin() if self._indexes.due else None
            elif self._builder is None:
                if self._rebuild.gather():
                    self._build()
            elif self._built is not False:
                self._settle()
        except Exception as error:
            self._abandon(error)

    def _build(self) -> None:
        self._built = False
        self._builder = threading.Thread(
            target=self._build_elsewhere, args=(self._rebuild,), name="index-rebuild", daemon=True
        )
        self._builder.start()

    def _build_elsewhere(self, rebuild: Any) -> None:
        built: BaseException | bool = True
        try:
            rebuild.build(self._stop)
        except BaseException as error:
            built = error
        self._built = built
        self._notify()

    def _settle(self) -> None:
        if isinstance(self._built, BaseException):
            self._abandon(self._built)
        elif self._indexes.settle(self._rebuild):
            self.counts.rebuilds += 1
            self._rebuild = self._builder = None
            _give_back()
        else:
            self._builder = None  # there is more to gather

    def _abandon(self, error: BaseException) -> None:
        self.counts.rebuilds_failed += 1
        log.warning("an index rebuild failed, the old index stays: %s: %s", type(error).__name__, error)
        if self._rebuild is not None:
            self._indexes.abandon(self._rebuild)
        self._rebuild = self._builder = None

    def _post(self, call: Callable[..., object], *args: Any) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            log.debug("the loop is closed; nobody waits for this any more")


def _map_large_blocks() -> None:
    """Blocks of a megabyte and more, of this process, come from the system and go back there when freed.

    glibc lifts that bound to the largest block freed so far, up to 32 MB; then what indexes outgrow stays in
    the arena of the thread that asked for it, whose free end `malloc_trim` leaves alone.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, LARGE)
        set_option(_M_TRIM_THRESHOLD, LARGE)


def _give_back() -> None:
    """The index a rebuild replaced, and the copies it was made from, are large: return them to the system.

    glibc keeps freed memory for itself otherwise; other C libraries have no such call and need none.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _deliver(outcomes: list[Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _failed(error: BaseException) -> EmbedderFailed:
    """An exception of its own for each future: a shared one would gather every caller's traceback."""
    told = str(error) if isinstance(error, EmbedderFailed) else f"{type(error).__name__}: {error}"
    return EmbedderFailed(told)


def _some(texts: list[str], start: int, limit: int) -> list[str]:
    """The next texts, at most `limit` and about `CHARS` characters."""
    end, chars = start, 0
    while end < len(texts) and end - start < limit and chars < CHARS:
        chars += len(texts[end])
        end += 1
    return texts[start:end]
