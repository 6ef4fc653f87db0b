"""When marketing may go to the mainland: 09:00 to 21:00, Asia/Shanghai (RELIABILITY section 12).

    ── closed ──┤ opens ═══ open ═══ closes ├── closed ──

China has had one time, UTC+8, and no summer time since 1991, so the hours of a day are arithmetic
and need no zone file. Pure: the caller brings the time.
"""

from __future__ import annotations

from dataclasses import dataclass

_EAST_S = 8 * 3600  # Asia/Shanghai is ahead of UTC
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Hours:
    """The part of each day in UTC+8 in which messages may go; the end does not belong to it."""

    opens_h: float = 9.0  # hours since midnight, 0 <= opens < closes <= 24
    closes_h: float = 21.0

    def next_open(self, unix: float) -> float:
        """The first moment from `unix` on that lies inside; `unix` itself when it does."""
        midnight = (unix + _EAST_S) // _DAY_S * _DAY_S - _EAST_S
        opens = midnight + self.opens_h * 3600
        if unix < opens:
            return opens
        if unix < midnight + self.closes_h * 3600:
            return unix
        return opens + _DAY_S
