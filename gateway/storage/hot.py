"""The documents asked for lately, kept in memory in front of the store.

Decides which documents stay: the most recently used, within a bound in bytes. Must never judge freshness:
the caller checks the entry's lifetime first, and drops an id here when it drops the entry.
"""

_OVERHEAD = 160  # bytes an item costs beside its document: dict slot, int key, bytes header


class Hot:
    """A least-recently-used set of documents, at most `max_bytes` large; 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._documents: dict[int, bytes] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._documents)

    def __repr__(self) -> str:
        return f"<Hot: {len(self)} documents, {self.bytes} of {self.max_bytes} bytes>"

    def get(self, id: int) -> bytes | None:
        """The document, which becomes the most recently used; None when it is not here."""
        document = self._documents.pop(id, None)
        if document is None:
            self.misses += 1
            return None
        self._documents[id] = document
        self.hits += 1
        return document

    def put(self, id: int, document: bytes) -> None:
        """Keep a document, pushing out the least recently used; one larger than the bound is not kept."""
        self.drop(id)
        charge = len(document) + _OVERHEAD
        if charge > self.max_bytes:
            return
        self._documents[id] = document
        self.bytes += charge
        while self.bytes > self.max_bytes:
            self.drop(next(iter(self._documents)))

    def drop(self, id: int) -> None:
        """Forget a document; unknown ids are ignored."""
        document = self._documents.pop(id, None)
        if document is not None:
            self.bytes -= len(document) + _OVERHEAD
