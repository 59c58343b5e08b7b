import itertools
import unicodedata

import pytest
from hypothesis import given

from gateway.wire.pieces import SIZE, pieces, token_pieces
from tests.wire.shapes import prose, tokens_of


@given(prose)
def test_pieces_add_up(text: str) -> None:
    found = list(pieces(text))
    assert "".join(found) == text
    assert all(found)
    for before, after in itertools.pairwise(found):
        assert unicodedata.category(after[0])[0] != "M"
        assert "\u200d" not in (before[-1], after[0])
        assert before[-1] + after[0] != "\r\n"


def test_pieces_end_after_white_space_and_are_moderate() -> None:
    found = list(pieces("word " * 100))
    assert len(found) > 5
    assert all(piece.endswith(" ") and len(piece) <= SIZE for piece in found)
    assert [len(piece) for piece in pieces("x" * 150)] == [SIZE, SIZE, 22]
    assert list(pieces("short text")) == ["short text"]
    assert list(pieces("")) == []


@pytest.mark.parametrize("cluster", ["e\u0301", "👩\u200d💻", "🇩🇪", "👍🏽", "❤\ufe0f", "\r\n"])
def test_no_cut_inside_what_a_reader_sees_as_one(cluster: str) -> None:
    for lead in range(SIZE - 4, SIZE + 1):
        for piece in pieces("x" * lead + cluster + "y" * SIZE):
            assert (cluster in piece) or not set(cluster) & set(piece)


@given(prose)
def test_tokens_stay_with_their_text(text: str) -> None:
    tokens = tokens_of(text)
    found = list(token_pieces(text, tokens))
    assert "".join(piece for piece, _ in found) == text
    assert [token for _, part in found for token in part] == tokens
    assert all(piece == "".join(token["token"] for token in part) for piece, part in found)


def test_tokens_that_do_not_spell_the_text_go_with_the_first_piece() -> None:
    tokens = [{"token": "\\xf0\\x9f"}, {"token": "\\x98\\x80"}, 5]
    found = list(token_pieces("😀 " * 50, tokens))
    assert len(found) > 1
    assert [part for _, part in found] == [tokens, *([[]] * (len(found) - 1))]
