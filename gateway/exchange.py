"""The nouns: one request in progress, what policy permits, what was decided, what the cache holds.

`Exchange` is the only mutable one; each of its fields is written by exactly one room, in walking order.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from struct import Struct
from typing import Any, Literal, NamedTuple, TypeAlias

from gateway.errors import GatewayError

Endpoint = Literal["chat", "completions", "responses", "messages", "embeddings"]
Mode = Literal["semantic", "exact", "shadow", "none"]
How = Literal["exact", "semantic"]


_OPERATIONS: dict[Endpoint, str] = {
    "chat": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
    "embeddings": "embeddings",
}


@dataclass(frozen=True, slots=True)
class Controls:
    """What the caller asks of the cache, from headers and LiteLLM's body form. Callers may only tighten."""

    read: bool = True
    write: bool = True
    semantic: bool = True
    only: bool = False
    join: bool = True
    offload: bool = True
    category: str | None = None
    threshold: float | None = None
    ttl: float | None = None  # seconds
    max_age: float | None = None  # seconds; an older entry is not served
    tags: tuple[str, ...] = ()
    namespace: str = ""
    variants: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the endpoints whose answers can be cached: the raw body and the facts the walk needs."""

    endpoint: Endpoint
    raw: bytes
    fields: dict[str, Any]  # the decoded body; never mutated
    model: str
    stream: bool
    wants_usage: bool  # stream_options.include_usage
    question: str | None  # the text to embed: the last user message
    barred: str | None  # why this request can never be matched semantically (reason code), or None
    uncacheable: str | None  # why it can never be reused at all (reason code), or None
    controls: Controls
    fingerprints: dict[Any, bytes] = field(
        default_factory=dict, compare=False, repr=False
    )  # computed once each


Priority = Literal["interactive", "standard", "batch"]


class Work(NamedTuple):
    """What a request will cost an engine, as far as it can be known before it is sent, and how urgent it is."""

    prompt: int  # tokens, estimated from bytes
    output: int  # tokens, predicted from history of its model and category
    model: str = ""
    category: str = ""
    tenant: str = ""
    priority: Priority = "standard"
    deadline: float | None = None  # monotonic seconds by which the first byte must have come
    session: str = ""  # whose conversation this is; empty where unknown
    prefix: tuple[int, ...] = ()  # hashes of the prompt's leading blocks, shortest first
    ends: tuple[int, ...] = ()  # bytes of `size` up to the end of each block; empty: blocks of one length
    size: int = 0  # bytes the prompt was estimated from; 0: unknown
    stream: bool = True  # the answer comes token by token: its first byte is its first token


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the engine reported them; 0 where it did not."""

    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole upstream answer in its one canonical form: the JSON a non-streaming caller would get."""

    body: bytes
    reuse: Literal["semantic", "exact", "none"]  # the widest reuse this answer allows
    reason: str  # why not wider: "ok", "incomplete", "filtered", "tool-calls", "truncated", "unreadable", ...
    usage: Usage
    model: str


_REAL = Struct("d")
_NUMBERS = ("created", "expires", "cost", "size", "prompt_tokens", "completion_tokens", "request", "user")
_UNSET = bytes(len(_NUMBERS) * _REAL.size)


def _number(name: str, kind: type[float] | type[int]) -> Any:
    """The property behind one of an entry's packed numbers, and what it is read as."""
    start = _NUMBERS.index(name) * _REAL.size
    end = start + _REAL.size
    unpack, pack = _REAL.unpack_from, _REAL.pack

    def real(entry: "Entry") -> float:
        value: float = unpack(entry._numbers, start)[0]
        return value

    def whole(entry: "Entry") -> int:
        return int(unpack(entry._numbers, start)[0])

    def write(entry: "Entry", value: float) -> None:
        packed: bytes = getattr(entry, "_numbers", _UNSET)
        entry._numbers = packed[:start] + pack(value) + packed[end:]

    return property(real if kind is float else whole, write)


@dataclass
class _Fields:
    __slots__ = ()

    id: int  # random 63-bit; also the vector index's label
    exact: bytes  # fingerprint of the whole request
    partition: bytes  # compatibility fingerprint; semantic matching happens inside one only
    tenant: str
    category: str
    model: str
    endpoint: Endpoint
    question: str  # empty where the entry is for exact reuse only
    created: float  # unix seconds
    expires: float  # unix seconds, absolute: never moved by a read
    size: int  # bytes charged to the category: document, vector, links and metadata
    cost: float  # what one reuse saves, in dollars
    temperature: float | None = None
    tags: tuple[str, ...] = ()
    request: int = 0  # `request_digest` of the id of the request it answered
    user: int = 0  # `user_digest` of the end user who asked; 0: nobody was named
    prompt_tokens: int = 0  # as the engine reported them when the answer was made
    completion_tokens: int = 0
    hits: int = 0


class Entry(_Fields):
    """What the cache keeps in memory for one stored answer. The document itself lives in the store.

    There are hundreds of thousands. A number costs 40 bytes as an object of its own, so eight of them share
    one bytes object, as doubles: whole numbers are exact up to 2^53.
    """

    __slots__ = ("_numbers", *(each.name for each in fields(_Fields) if each.name not in _NUMBERS))
    _numbers: bytes
    created: float = _number("created", float)
    expires: float = _number("expires", float)
    cost: float = _number("cost", float)
    size: int = _number("size", int)
    prompt_tokens: int = _number("prompt_tokens", int)
    completion_tokens: int = _number("completion_tokens", int)
    request: int = _number("request", int)
    user: int = _number("user", int)

    @property
    def name(self) -> str:
        """The id as it appears in headers and the admin API."""
        return f"{self.id:016x}"


def request_digest(request_id: str) -> int:
    """48 bits of a request id, to purge by: among a million entries two agree once in 300 million purges."""
    return int.from_bytes(blake2b(request_id.encode("utf-8", "replace"), digest_size=6).digest())


def user_digest(user: str) -> int:
    """48 bits of an end user's name, to erase by; 0 for nobody. Somebody else's answer may go with theirs, as rarely."""
    if not user:
        return 0
    digest = blake2b(user.encode("utf-8", "surrogatepass"), digest_size=6, person=b"gw user").digest()
    return int.from_bytes(digest) or 1


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as the store holds it: metadata, the vector's float32 bytes (or none), and the document."""

    entry: Entry
    vector: bytes | None
    document: bytes
    variants: int = 1  # answers that may be stored for its request


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to a store, as those who share it are told.

    `at` is its position; positions are opaque, and only a store can compare them. `put` and `delete` name
    entries; `journal` names one in its body; other words come from `announce`, with the body given there.
    """

    at: str
    op: str
    ids: tuple[int, ...] = ()
    variants: int = 1
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Load:
    """What a request's cache policies are under: λ, the categories it must not relax, and what judged hits taught.

    `points`: category → what a candidate must reach, for equal steps of risk from its own error budget to that of
    full load, in place of what is written in the policy. `closed`: category → why it serves no semantic hits now.
    """

    factor: float = 0.0  # λ in [0, 1]
    frozen: frozenset[str] = frozenset()
    points: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)

    def of(self, category: str) -> float:
        return 0.0 if category in self.frozen else self.factor


UNLOADED = Load()


@dataclass(frozen=True, slots=True)
class Ruling:
    """What policy permits this request, here and now, with the name of the rule that said so."""

    category: str
    confidence: float
    rule: str  # "hint", "rule:3", "classifier", "default", "unclassified"
    mode: Mode
    threshold: float
    ttl: float  # seconds
    score: float | None = None  # what the verifier must say of a candidate; None: it is not asked
    waived: frozenset[str] = frozenset()  # checks of the guard that this score stands in for
    withheld: str = ""  # why the semantic step is only observed, where the policy itself would serve
    priority: float = 1.0
    max_temperature: float | None = None
    offload: bool = False
    max_quality_loss: float = 0.0  # of what a small model may cost
    keep: bool = False  # a small model's answer may be stored as the large one's
    share: bool = True  # its examples may go to other tenants, where both share
    load: Load = UNLOADED  # what shaped threshold and TTL


@dataclass(frozen=True, slots=True)
class Candidate:
    """A neighbour that was compared, with what became of it (None: not asked)."""

    entry: Entry
    similarity: float
    verdict: str | None = None
    score: float | None = None  # the verifier's, where it was asked

    @property
    def statistic(self) -> float:
        """What the decision went by."""
        return self.similarity if self.score is None else self.score


@dataclass(frozen=True, slots=True)
class Reuse:
    word = "reuse"
    entry: Entry
    how: How
    document: bytes
    left: float  # seconds of freshness; negative: stale, served because nobody could answer
    reason: str = "hit"


@dataclass(frozen=True, slots=True)
class Forward:
    word = "forward"
    reason: str


@dataclass(frozen=True, slots=True)
class Offload:
    word = "offload"
    reason: str
    model: str  # the small one
    examples: int  # in its prompt
    instead: str  # reason of the forward whose place it takes


@dataclass(frozen=True, slots=True)
class Join:
    word = "join"
    reason: str = "in-flight"


@dataclass(frozen=True, slots=True)
class Refuse:
    word = "refuse"
    error: GatewayError
    reason: str


Decision: TypeAlias = Reuse | Forward | Offload | Join | Refuse


@dataclass(slots=True)
class Reply:
    """An answer on its way: status, headers to pass on, and the bytes, whole or as they come."""

    status: int
    headers: Any  # multidict of what upstream sent, or of what the cache made up
    body: bytes | AsyncIterator[bytes]
    sse: bool = False  # an error after the first byte can be told as an event
    leave: Callable[[], None] = lambda: None  # called once the reader is done, however it ended


@dataclass(slots=True)
class Exchange:
    """One request in progress. Fields in walking order; each is written by the room named beside it."""

    request_id: str  # server
    headers: Any  # server: multidict of the request's headers
    query: str = ""  # server: raw, with its question mark
    started: float = field(default_factory=time.perf_counter)  # server
    tenant: str = ""  # tenant
    models: frozenset[str] | None = None  # limits: those that may answer; None: any
    grant: Any = None  # limits: leave for this request, where something is counted
    withheld: GatewayError | None = None  # limits: why no engine may be asked, though the cache may
    request: Request | None = None  # wire
    user: str = ""  # wire: the end user it is from, if it says so
    apart: bool = False  # tenant: answers belong to one end user
    exact: bytes = b""  # wire
    partition: bytes = b""  # wire
    policy: Any = None  # policy: the book in force when the request came
    load: Load = UNLOADED  # policy: what it was under then
    ruling: Ruling | None = None  # policy
    vector: Any = None  # semantic: float32 (d,), or None
    neighbours: list[tuple[int, float]] = field(default_factory=list)  # index: (entry id, similarity)
    candidates: list[Candidate] = field(default_factory=list)  # semantic, guard
    agreed: Candidate | None = None  # semantic: the one that every check agreed to, served or not
    explored: bool = False  # trust: forwarded although it would hit, to learn from
    similarity: float | None = None  # semantic: of the neighbour that decided
    threshold: float | None = None  # semantic: what that neighbour had to reach
    seen: Any = None  # index: (vector, [(example id, similarity)]), where a small model may be asked
    plan: Any = None  # offload: what it thought of this request, opaque to all others
    explained: bool = False  # admin: decided, and not performed
    work: Work | None = None  # decide: what a forward will cost
    decision: Decision | None = None  # decide
    entry: Entry | None = None  # reused, or written under this id
    trace: Any = None  # server: what is noted for tracing, opaque to all others; None: nothing
    credit: Any = None  # record, offload: what it has saved
    call: Any = None  # perform: the upstream call whose answer it got
    backend: str = ""  # perform
    fallback: str = ""  # perform: the model that answered in place of the one asked for
    attempts: int = 0  # perform: backends asked
    status: int = 0  # perform
    marks: dict[str, float] = field(default_factory=dict)  # step → seconds


def operation(x: Exchange) -> str:
    """What OpenTelemetry's GenAI conventions call what is asked for; `other` where it is passed through."""
    return "other" if x.request is None else _OPERATIONS[x.request.endpoint]
