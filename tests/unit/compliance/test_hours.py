"""The hours of marketing, against the zone's own rules and on every kind of day."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.hours import Hours

SHANGHAI = ZoneInfo("Asia/Shanghai")
HOURS = Hours()
MOMENTS = st.floats(1_577_836_800, 4_000_000_000)  # 2020 to 2096


def local(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC).astimezone(SHANGHAI)


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("now", "goes"),
    [
        ("2026-11-22T08:59:59.999+08:00", "2026-11-22T09:00:00+08:00"),
        ("2026-11-22T09:00:00+08:00", "2026-11-22T09:00:00+08:00"),
        ("2026-11-22T20:59:59.999+08:00", "2026-11-22T20:59:59.999+08:00"),
        ("2026-11-22T21:00:00+08:00", "2026-11-23T09:00:00+08:00"),
        ("2026-11-22T00:00:00+08:00", "2026-11-22T09:00:00+08:00"),
        ("2026-12-31T23:30:00+08:00", "2027-01-01T09:00:00+08:00"),
        ("2028-02-28T22:00:00+08:00", "2028-02-29T09:00:00+08:00"),
        ("2026-11-22T17:00:00Z", "2026-11-23T01:00:00Z"),
    ],
)
def test_the_edges_of_a_day(now: str, goes: str) -> None:
    assert HOURS.next_open(unix(now)) == unix(goes)


@given(MOMENTS)
def test_what_it_gives_lies_inside_and_is_the_first_such_moment(now: float) -> None:
    goes = HOURS.next_open(now)
    assert 9 <= local(goes).hour < 21
    if 9 <= local(now).hour < 21:
        assert goes == now
    else:
        assert now < goes <= now + 12 * 3600
        opened = local(goes)
        assert (opened.hour, opened.minute, opened.second, opened.microsecond) == (9, 0, 0, 0)


@given(MOMENTS, st.floats(0, 23.9), st.floats(0.05, 24))
def test_other_hours_hold_as_well(now: float, opens: float, length: float) -> None:
    hours = Hours(opens, min(24.0, opens + length))
    goes = hours.next_open(now)
    assert now <= goes < now + 86_400
    assert hours.next_open(goes) == goes


@given(MOMENTS)
def test_around_the_clock_is_always(now: float) -> None:
    assert Hours(0, 24).next_open(now) == now
