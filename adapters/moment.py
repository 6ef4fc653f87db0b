"""Moments as the networks of the mainland write them: in UTC+8, whatever the node's own zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

_CHINA = timezone(timedelta(hours=8))


def stamp_of(unix: float) -> int:
    """MMDDHHMMSS as one number: 1121203230 is 21 November, 20:32:30; at most 1231235959."""
    at = datetime.fromtimestamp(unix, UTC).astimezone(_CHINA)
    return (((at.month * 100 + at.day) * 100 + at.hour) * 100 + at.minute) * 100 + at.second


def absolute_time(unix: float) -> str:
    """YYMMDDhhmmss032+, 16 characters: 32 quarters of an hour before UTC, rounded up to minutes.

    Whole minutes, because a PDU's part that holds it is built once and used for all its submits.
    """
    at = datetime.fromtimestamp(-(-unix // 60) * 60, UTC).astimezone(_CHINA)
    return f"{at:%y%m%d%H%M%S}032+"
