"""Which replies are opt-outs, in whatever dress."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.opt_out_words import WORDS, opt_out_word

ROUND = st.text(
    st.sampled_from(" \t\r\n\u3000.,!?。！？、“”「」()（）【】-_~*'\"\u200b"), max_size=6
)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("dress", ["{}", " {} ", "“{}”", "{}。", "回复{}", "回 {}", "\u3000{}!\n"])
def test_each_word_is_one_in_every_dress(word, dress):
    assert opt_out_word(dress.format(word)) == word
    assert opt_out_word(dress.format(word.lower())) == word


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("ｔｄ", "TD"),
        ("Ｔ", "T"),
        ("t d", "TD"),
        ("退 订", "退订"),
        ("回T退订", "T退订"),
        ("sToP!!!", "STOP"),
        ("N.", "N"),
    ],
)
def test_case_width_and_spaces_are_folded(text, word):
    assert opt_out_word(text) == word


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "TT",
        "no",
        "yes",
        "T恤",
        "不要退订",
        "stop it",
        "1",
        "TD TD",
        "回复",
        "👍",
        "R" * 65,
    ],
)
def test_anything_else_is_an_ordinary_text(text):
    assert opt_out_word(text) is None


@given(st.sampled_from(WORDS), ROUND, ROUND, ROUND)
def test_spaces_and_punctuation_anywhere_change_nothing(word, before, inside, after):
    dressed = before + word[0] + inside + word[1:] + after
    assert opt_out_word(dressed) == word


@given(st.text(max_size=80))
def test_it_never_fails(text):
    assert opt_out_word(text) is None or len(text) <= 64
