"""The hot set: bounded in bytes, least recently used goes first."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.storage.hot import Hot


def test_the_least_recently_used_goes_first() -> None:
    hot = Hot(3 * 400)
    for id in (1, 2, 3):
        hot.put(id, b"x" * 200)
    assert hot.get(1) == b"x" * 200
    hot.put(4, b"x" * 200)
    assert [hot.get(id) is not None for id in (1, 2, 3, 4)] == [True, False, True, True]
    assert (hot.hits, hot.misses) == (4, 1)


def test_a_document_larger_than_the_bound_is_not_kept_nor_is_its_old_form() -> None:
    hot = Hot(1000)
    hot.put(1, b"old")
    hot.put(1, b"x" * 1000)
    assert hot.get(1) is None
    assert hot.bytes == 0


def test_zero_keeps_nothing() -> None:
    hot = Hot(0)
    hot.put(1, b"")
    assert hot.get(1) is None


def test_an_empty_document_is_a_hit() -> None:
    hot = Hot(1000)
    hot.put(1, b"")
    assert (hot.get(1), hot.hits, hot.misses) == (b"", 1, 0)


_steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "drop"]), st.integers(0, 5), st.integers(0, 400)), max_size=60
)


@given(_steps, st.integers(0, 1500))
def test_bytes_are_counted_right_and_stay_within_the_bound(
    steps: list[tuple[str, int, int]], bound: int
) -> None:
    hot, written = Hot(bound), {}
    for step, id, size in steps:
        if step == "put":
            written[id] = bytes([id]) * size
            hot.put(id, written[id])
        elif step == "drop":
            hot.drop(id)
            assert hot.get(id) is None
        else:
            assert hot.get(id) in (None, written.get(id))
        assert 0 <= hot.bytes <= bound
    for id in range(6):
        hot.drop(id)
    assert (hot.bytes, len(hot)) == (0, 0)
