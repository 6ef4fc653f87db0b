"""The opt-out line: which one, and how it joins the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.opt_out import MAINLAND_LINE, MAX_LINE, is_line, line_for, with_line


def test_the_mainland_has_one_unless_the_operator_says_none() -> None:
    assert line_for(None, 86) == MAINLAND_LINE
    assert line_for(None, 1) == ""
    assert line_for("", 86) == ""
    assert line_for("Reply STOP", 1) == "Reply STOP"


@pytest.mark.parametrize(
    ("text", "line", "whole"),
    [
        ("今日特价", "拒收请回复R", "今日特价拒收请回复R"),
        ("Open today.", "Reply STOP", "Open today. Reply STOP"),
        ("Open today.", " Reply STOP", "Open today. Reply STOP"),
        ("今日特价，拒收请回复R", "拒收请回复R", "今日特价，拒收请回复R"),
        ("今日特价拒收请回复R ", "拒收请回复R", "今日特价拒收请回复R "),
        ("text", "", "text"),
    ],
)
def test_it_stands_behind_the_text_once(text: str, line: str, whole: str) -> None:
    assert with_line(text, line) == whole


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_text_stays_whole_and_the_line_ends_it(text: str, line: str) -> None:
    whole = with_line(text, line)
    assert whole.startswith(text)
    assert whole.rstrip().endswith(line.rstrip()) or whole.endswith(line)
    assert len(whole) <= len(text) + 1 + len(line)


@pytest.mark.parametrize("line", ["", "拒收请回复R", "x" * MAX_LINE])
def test_what_can_be_a_line(line: str) -> None:
    assert is_line(line)


@pytest.mark.parametrize("line", ["x" * (MAX_LINE + 1), "退订【T】", "a\nb"])
def test_what_cannot(line: str) -> None:
    assert not is_line(line)
