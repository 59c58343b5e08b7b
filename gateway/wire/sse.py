"""Server-sent events in a captured stream (WHATWG HTML, 9.2.6).

Decides where an event begins and ends. It must never look into an event's data.
"""

import re
from collections.abc import Iterator

# An event ends with its last line and an empty one. A lone \r at the very end may be half of \r\n, so it is
# no end until the next byte is there.
END = re.compile(rb"(?>\r\n|\n|\r)(?:\r\n|\n|\r(?!\n|\Z))")


def events(body: bytes) -> Iterator[tuple[str, bytes]]:
    """(event name, data) in order. Names default to "message"; an event without data is no event.

    A last event whose empty line is missing still counts: whether a stream ended well is its reader's to say.
    """
    name, data = "", list[bytes]()
    for line in body.removeprefix(b"\xef\xbb\xbf").splitlines():
        if not line:
            if data:
                yield name or "message", b"\n".join(data)
            name, data = "", []
            continue
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    if data:
        yield name or "message", b"\n".join(data)
