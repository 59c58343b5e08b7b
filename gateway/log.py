"""Structured logs: one JSON object a line, written by a thread of its own so that a slow terminal or disk
never holds up a request. When the queue is full lines are dropped and counted. No prompt text by default, and no
secret: what the configuration holds, and what looks like a key, is blotted out."""

import logging
import logging.handlers
import queue
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TextIO

import orjson

_QUEUE = 10_000
_SHORT = 6  # a shorter secret is told from a word by nobody
_BLOT = "[redacted]"
_KEYS = re.compile(
    r"(?P<before>\b(?:Bearer|Basic|bearer|basic) +)[\w.~+/=-]{8,}"
    r"|(?P<user>://[^/\s:@\"]*:)[^/\s@\"]+(?=@)"
    r"|\b(?:sk|pk|rk|hf|gsk|xai|ghp|glpat)[-_][\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"
)


class Redaction:
    """Blots secrets out of text. `known`: the configuration's own."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        told = sorted({secret for secret in known if len(secret) >= _SHORT}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, told))) if told else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(_BLOT, text)
        return _KEYS.sub(lambda found: (found["before"] or found["user"] or "") + _BLOT, text)


PLAIN = Redaction()


class JsonFormatter(logging.Formatter):
    """A record as one line; `extra={"fields": {...}}` become its fields. `tenants`: theirs may be named."""

    def __init__(self, redact: Callable[[str], str] = PLAIN, *, tenants: bool = True) -> None:
        super().__init__()
        self._redact = redact
        self._tenants = tenants

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if not self._tenants:
            line.pop("tenant", None)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return self._redact(orjson.dumps(line, default=str).decode())


class _Queue(logging.handlers.QueueHandler):
    """Hands records over unformatted; counts what did not fit."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            _Queue.dropped += 1


def start(
    level: str,
    stream: TextIO | None = None,
    redact: Callable[[str], str] = PLAIN,
    *,
    tenants: bool = True,
) -> logging.handlers.QueueListener:
    """Install JSON logging for the whole process; `stop()` the listener at the end."""
    output = logging.StreamHandler(stream or sys.stderr)
    output.setFormatter(JsonFormatter(redact, tenants=tenants))
    lines: queue.Queue[Any] = queue.Queue(_QUEUE)
    root = logging.getLogger()
    root.handlers[:] = [_Queue(lines)]
    root.setLevel(level.upper())
    listener = logging.handlers.QueueListener(lines, output)
    listener.start()
    return listener


class Lines:
    """Access lines: made on the event loop as bytes, written by a thread ten times a second.

    A logging record a request, formatted on another thread, cost more than the rest of an exact hit.
    """

    def __init__(self, stream: TextIO | None = None, redact: Callable[[str], str] = PLAIN) -> None:
        self._stream = stream or sys.stderr
        self._redact = redact
        self._lines: deque[bytes] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def add(self, line: dict[str, Any]) -> None:
        """Queue one line; when the writer cannot keep up it is dropped and counted."""
        if len(self._lines) < _QUEUE:
            self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        else:
            _Queue.dropped += 1

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._stop.set()
        self._thread.join(2.0)

    def _write(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(0.1)
            waiting = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                self._stream.write(self._redact(b"".join(waiting).decode()))
                self._stream.flush()
            except (OSError, ValueError):  # a full disk, a closed pipe: the next lines may fit again
                _Queue.dropped += len(waiting)


def dropped() -> int:
    """Lines that did not fit into the queue since the process started."""
    return _Queue.dropped
