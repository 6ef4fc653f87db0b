"""A tenant's quota of segments per day or month: arithmetic only.

    PostgreSQL: taken, of the limit ──block──▶ left here ──take──▶ used
                     ▲                            │
                     └────────── give back ───────┘

The sum in PostgreSQL says what all processes took together and never passes the limit. A process
takes blocks: a few seconds' worth, at most a hundredth of the limit, ever smaller towards the
end. What a killed process had left of its block is lost to the tenant; nothing is ever sent
beyond the quota.

Days and months are those of China (UTC+8, no summer time), as are the hours of marketing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum

CHINA = timezone(timedelta(hours=8))
_FIRST_BLOCK = 16  # segments, before it is known how fast they go
_BLOCK_SHARE = 100  # of the limit, in blocks of all processes
_REST_SHARE = 4  # of what is left in the sum


class Period(IntEnum):
    """How long a quota counts. Append only: the store holds these numbers."""

    DAY = 0
    MONTH = 1


# What one quota asks of the store: tenant, Period, first day, limit, least, want. A negative
# `want` gives back. The answer: granted, and the sum afterwards.
Reservation = tuple[int, int, date, int, int, int]
Reserved = tuple[int, int]


def bounds(period: Period, unix: float) -> tuple[date, float, float]:
    """The first day of the period at that time, and its begin and end in Unix seconds."""
    today = datetime.fromtimestamp(unix, CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
    if period is Period.DAY:
        begin, end = today, today + timedelta(days=1)
    else:
        begin = today.replace(day=1)
        end = (begin + timedelta(days=32)).replace(day=1)
    return begin.date(), begin.timestamp(), end.timestamp()


def shown(unix: float) -> str:
    """A moment as the API shows it."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Quota:
    """One quota of one tenant, as this process knows it."""

    __slots__ = (
        "_marked",
        "_recent",
        "_refused_from",
        "_refused_until",
        "_used",
        "begins_at",
        "ends_at",
        "first_day",
        "left",
        "limit",
        "period",
        "taken",
        "tenant",
        "waiting",
    )

    def __init__(self, tenant: int, period: Period, limit: int, unix: float) -> None:
        self.tenant = tenant
        self.period = period
        self.limit = limit
        self.waiting = 0  # requests that wait for the store: nobody overtakes them
        self._recent = 0
        self.turn(unix)

    def turn(self, unix: float) -> None:
        """Begin the period of that time: what was left of the last one is void."""
        self.first_day, self.begins_at, self.ends_at = bounds(self.period, unix)
        self.left = 0
        self.taken = 0
        self._used = self._marked = 0
        self._refused_from = 0
        self._refused_until = 0.0

    def take(self, n: int, unix: float) -> bool:
        """Take n of our block, or none."""
        if unix >= self.ends_at:
            self.turn(unix)
        if n > self.left:
            return False
        self.left -= n
        self._used += n
        return True

    def put_back(self, n: int, unix: float, charged_at: float) -> None:
        """Give back what was taken for messages that certainly were not accepted.

        `charged_at` is a moment (Unix seconds) at or before the take. What another day or month
        was charged is void: the store would grant it twice.
        """
        if self.begins_at <= charged_at and unix < self.ends_at:
            self.left += n
            self._used -= n

    def is_refused(self, n: int, unix: float) -> bool:
        """Whether the store said no to as much, a moment ago."""
        return n > self.limit or (n >= self._refused_from and unix < self._refused_until)

    def refused(self, n: int, until: float) -> None:
        """The store has less than n left: do not ask again until then."""
        self._refused_from = n
        self._refused_until = min(until, self.ends_at)

    def ask(self, needs: Sequence[int], live: int, unix: float) -> Reservation:
        """What to ask for the requests that wait; `live` processes share the limit."""
        if unix >= self.ends_at:
            self.turn(unix)
        pace = max(self._recent, self._used - self._marked, _FIRST_BLOCK)
        rest = max(0, self.limit - self.taken)
        ahead = min(pace, self.limit // _BLOCK_SHARE // live, rest // _REST_SHARE // live)
        least = max(1, min(needs) - self.left)
        want = max(least, sum(needs) + ahead - self.left)
        return (self.tenant, int(self.period), self.first_day, self.limit, least, want)

    def told(self, asked: Reservation, reserved: Reserved) -> None:
        """The store's answer; one about a period that is over is void."""
        if asked[2] == self.first_day:
            granted, self.taken = reserved
            self.left += max(0, granted)

    def give_back(self) -> Reservation | None:
        """All that is left of our block, None when there is nothing."""
        if not self.left:
            return None
        n, self.left = self.left, 0
        return (self.tenant, int(self.period), self.first_day, self.limit, 0, -n)

    def tick(self) -> bool:
        """Every few seconds: how fast it goes; whether nothing was taken since the last time."""
        used, self._marked = self._used - self._marked, self._used
        self._recent = max(used, self._recent // 2)
        return used <= 0

    def rest(self) -> int:
        """Segments left in the period as far as this process knows."""
        return max(0, self.limit - self.taken) + self.left
