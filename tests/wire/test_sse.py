import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.sse import END, events


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: a\n\ndata: b\n\n", [("message", b"a"), ("message", b"b")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("message", b"a"), ("message", b"b")]),
        (b"data: a\r\rdata: b\r\r", [("message", b"a"), ("message", b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("message", b"a")]),
        (b": keep-alive\n\n: again\ndata: a\n\n", [("message", b"a")]),
        (b"event: done\ndata: a\n\ndata: b\n\n", [("done", b"a"), ("message", b"b")]),
        (b"data: a\ndata:b\ndata:  c\n\n", [("message", b"a\nb\n c")]),
        (b"data\n\n", [("message", b"")]),
        (b"event: x\n\nid: 5\nretry: 3\n\n", []),
        (b"data: a\n\ndata: [DONE]", [("message", b"a"), ("message", b"[DONE]")]),
        (b"data: a:b\n\n\n\n", [("message", b"a:b")]),
        ("data: a\u2028b\x0bc\x85\n\n".encode(), [("message", "a\u2028b\x0bc\x85".encode())]),
        (b"", []),
    ],
)
def test_events(body: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert list(events(body)) == expected


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1))
def test_what_is_written_is_read(texts: list[str]) -> None:
    for end in ("\n", "\r\n", "\r"):
        body = "".join(f"data: {text}{end}{end}" for text in texts).encode()
        assert [data.decode() for _, data in events(body)] == texts


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b"a\n\nb", 3),
        (b"a\r\n\r\nb", 5),
        (b"a\n\r\nb", 4),
        (b"a\r\rb", 3),
        (b"a\r\n\nb", 4),
        (b"a\r\nb", None),
        (b"a\r\n", None),
        (b"a\r\n\r", None),
        (b"a\r\r", None),
    ],
)
def test_where_an_event_ends(body: bytes, end: int | None) -> None:
    found = END.search(body)
    assert (found.end() if found else None) == end
