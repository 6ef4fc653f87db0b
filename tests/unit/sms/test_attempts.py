"""Our own word for an attempt, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.attempts import parse_reference, reference


@given(st.integers(0, (1 << 63) - 1), st.integers(1, 0xFFFF))
def test_a_reference_says_again_what_it_was_made_of(message_id: int, attempt: int) -> None:
    assert parse_reference(reference(message_id, attempt)) == (message_id, attempt)


@given(st.text(max_size=30))
def test_a_foreign_word_is_none_of_ours_or_written_exactly_so(text: str) -> None:
    found = parse_reference(text)
    assert found is None or reference(*found) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "msg_",
        "msg_0000000000000001",
        "msg_0000000000000001-",
        "msg_0000000000000001-0",
        "msg_0000000000000001-01",
        "msg_0000000000000001--1",
        "msg_0000000000000001-1-1",
        "msg_0000000000000001-65536",
        "msg_0000000000000001-١",
        "msg_000000000000000A-1",
        "msg_8000000000000000-1",
        "bat_0000000000000001-1",
        "Msg_0000000000000001-1",
    ],
)
def test_what_is_almost_a_reference_is_none(text: str) -> None:
    assert parse_reference(text) is None
