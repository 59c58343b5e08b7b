from hypothesis import given
from hypothesis import strategies as st

from gateway.verifier.split import groups, place


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=30))
def test_linked_texts_share_a_group_whatever_the_order(edges: list[tuple[str, str]]) -> None:
    found = groups(edges)
    assert all(found[a] == found[b] for a, b in edges)
    assert found == groups(edges[::-1])


def test_places_are_uniform_and_depend_on_the_seed() -> None:
    places = [place(str(n), "a") for n in range(4000)]
    assert abs(sum(p < 0.85 for p in places) / 4000 - 0.85) < 0.02
    assert places[0] == place("0", "a") != place("0", "b")
