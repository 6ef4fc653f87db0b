"""Cursors: they open where they were made, and nowhere else; filters are read as told."""

from __future__ import annotations

import base64
from datetime import UTC, date, datetime

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.cursors import open_cursor, place_of, seal_cursor
from gateway.api.filters import day_of, moment, moment_of

KEY = bytes(range(32))
positions = st.integers(0, (1 << 63) - 1)
names = st.sampled_from(["status", "class", "channel", "to"])
filters = st.dictionaries(names, st.text(max_size=5))


@given(positions, st.integers(0, 9), filters)
def test_a_cursor_comes_back_in_its_place(position, tenant, some):
    place = place_of("messages", tenant, some)
    text = seal_cursor(KEY, place, position)
    assert open_cursor(KEY, place, text) == position
    assert len(text) <= 40
    assert text.isascii()


@given(positions, st.integers(0, 3), st.integers(0, 3), filters, filters)
def test_and_in_no_other(position, mine, yours, some, others):
    here, there = place_of("messages", mine, some), place_of("messages", yours, others)
    text = seal_cursor(KEY, here, position)
    is_same = mine == yours and some == others
    assert (open_cursor(KEY, there, text) == position) == is_same
    assert open_cursor(KEY, place_of("events", mine, some), text) is None
    assert open_cursor(bytes(32), here, text) is None


@given(st.text(max_size=60))
def test_no_text_opens_by_chance(text):
    assert open_cursor(KEY, b"place", text) is None


@given(positions, st.integers(0, 159))
def test_a_changed_bit_is_seen(position, bit):
    place = place_of("messages", 1, {})
    raw = bytearray(base64.urlsafe_b64decode(seal_cursor(KEY, place, position) + "="))
    raw[bit // 8] ^= 1 << bit % 8
    changed = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert open_cursor(KEY, place, changed) is None


def test_places_cannot_be_made_to_look_alike():
    assert place_of("messages", 1, {"a": "b", "c": "d"}) == place_of(
        "messages", 1, {"c": "d", "a": "b"}
    )
    assert place_of("messages", 1, {"a": 'b", "c": "d'}) != place_of(
        "messages", 1, {"a": "b", "c": "d"}
    )


def test_moments_have_a_zone():
    assert moment_of("2026-11-22T08:00:00+08:00") == datetime(2026, 11, 22, tzinfo=UTC)
    assert moment_of("2026-11-22T00:00:00Z") == datetime(2026, 11, 22, tzinfo=UTC)
    for bad in ("2026-11-22", "2026-11-22T00:00:00", "0001-01-01T00:00:00+23:00", "", "x", 7, None):
        assert moment_of(bad) is None
    assert "%2B" in str(moment("2026-11-22T08:00:00 08:00"))
    assert "from 2000" in str(moment("1999-12-31T00:00:00Z"))
    assert moment("2026-11-22T00:00:00.123Z") is None


def test_days_are_ten_characters():
    assert day_of("2026-02-28") == date(2026, 2, 28)
    for bad in (
        "2026-02-29",
        "20260228",
        "2026-W09-6",
        "2026-2-28",
        "٢٠٢٦-02-28",
        "1999-01-01",
        None,
    ):
        assert day_of(bad) is None
