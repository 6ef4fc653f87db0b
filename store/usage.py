"""Usage: messages and segments by day, class, channel, carrier and status, counted as they move.

    a flush ─┬─ its rows                       each message stands in one cell at every moment;
             └─ usage_deltas: +1 here, -1 there   the moves commit with the rows that make them
    every few seconds: usage_deltas ─▶ usage_days (one statement, by whoever is first)

So the sum of both tables is exact at every moment, also after a kill, and a month of a tenant is
some hundred rows, however many messages it had. Days are those of China (UTC+8), as quotas'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import NamedTuple, TypeAlias

from sms.model import (
    CARRIERS,
    CLASS_CODES,
    CLASSES_BY_CODE,
    STATE_CODES,
    STATES_BY_CODE,
    Carrier,
    Message,
    MessageClass,
)
from store.database import Pool, acquire

# tenant, day, class, carrier, channel, status, the last four as the tables have them
Cell: TypeAlias = tuple[int, int, int, int, int, int]
# tenant, day, class, carrier, segments
Kind: TypeAlias = tuple[int, int, MessageClass, Carrier, int]
Moves: TypeAlias = dict[Cell, list[int]]  # what is added to the cell: messages, segments

ZONE_S = 8 * 3600  # UTC+8
_DAY_S = 86_400
_EPOCH = date(1970, 1, 1)
_LOCK = 46
_CARRIER_CODES = {carrier: index for index, carrier in enumerate(CARRIERS)}

_FOLD = """
WITH old AS (DELETE FROM usage_deltas RETURNING *)
INSERT INTO usage_days AS u
SELECT tenant, day, class, carrier, channel, status, sum(messages), sum(segments) FROM old
GROUP BY tenant, day, class, carrier, channel, status
HAVING sum(messages) <> 0 OR sum(segments) <> 0
ON CONFLICT (tenant, day, class, carrier, channel, status) DO UPDATE
SET messages = u.messages + excluded.messages, segments = u.segments + excluded.segments
"""
# `place` grows with the day and falls with everything else: newest day first, then in order.
# Statuses are ordered as in `sms.model.State`. $2 and $3 bound the day, $4 the place.
READ_SQL = """
SELECT day, class, channel, carrier, status, sum(messages)::bigint AS messages,
  sum(segments)::bigint AS segments,
  (day::bigint << 36) + 68719476735
    - ((class::bigint << 32) + (channel::bigint << 16) + (carrier << 8) + status) AS place
FROM (
  SELECT * FROM usage_days WHERE tenant = $1 AND day >= $2 AND day <= $3
  UNION ALL
  SELECT * FROM usage_deltas WHERE tenant = $1 AND day >= $2 AND day <= $3
) cells
GROUP BY day, class, channel, carrier, status, place
HAVING sum(messages) <> 0
  AND ($4::bigint IS NULL OR (day::bigint << 36) + 68719476735
    - ((class::bigint << 32) + (channel::bigint << 16) + (carrier << 8) + status) < $4)
ORDER BY place DESC LIMIT $5
"""


class UsageRow(NamedTuple):
    """One cell; `place` is where it stands in the list, for the next page."""

    day: date
    message_class: str
    channel: int  # 0 = none
    carrier: str
    status: str
    messages: int
    segments: int
    place: int


def day_number(unix_s: float) -> int:
    """The day in UTC+8, counted from 1970-01-01."""
    return int(unix_s + ZONE_S) // _DAY_S


def number_of(day: date) -> int:
    """The same of a date."""
    return (day - _EPOCH).days


def date_of_number(day: int) -> date:
    """The date again."""
    return _EPOCH + timedelta(days=day)


def accepted_moves(messages: Iterable[Message]) -> Moves:
    """What an accept adds."""
    moves: Moves = {}
    alike = Counter([(kind_of(message), message.counted) for message in messages])
    for (kind, (state, channel)), count in alike.items():
        move(moves, kind, STATE_CODES[state], channel, count)
    return moves


def kind_of(message: Message) -> Kind:
    """What of a message its cell goes by, besides status and channel."""
    return (
        message.tenant,
        int(message.created_at + ZONE_S) // _DAY_S,
        message.message_class,
        message.carrier,
        len(message.texts),
    )


def move(moves: Moves, kind: Kind, status: int, channel: int, by: int) -> None:
    """Add `by` messages of a kind (less than 0: take off) to the cell of a status and channel."""
    tenant, day, message_class, carrier, segments = kind
    cell = (
        tenant,
        day,
        CLASS_CODES[message_class],
        _CARRIER_CODES[carrier],
        channel,
        status,
    )
    sums = moves.setdefault(cell, [0, 0])
    sums[0] += by
    sums[1] += by * segments


def usage_sql(moves: Mapping[Cell, list[int]]) -> str:
    """The moves of one flush, for the commit that makes them; empty when they cancel out."""
    values = ",".join(
        [
            f"({tenant},{day},{cls},{carrier},{channel},{status},{messages},{segments})"
            for (tenant, day, cls, carrier, channel, status), (messages, segments) in moves.items()
            if messages or segments
        ]
    )
    return f"INSERT INTO usage_deltas VALUES {values};" if values else ""


class Usage:
    """The tables; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(
        self, tenant: int, first: date, last: date, *, after: int | None, limit: int
    ) -> list[UsageRow]:
        """At most `limit` cells of these days, both included, newest day first.

        `after` is the `place` of the last cell of the page before.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                READ_SQL, tenant, number_of(first), number_of(last), after, limit
            )
        return [
            UsageRow(
                date_of_number(row["day"]),
                CLASSES_BY_CODE[row["class"]].value,
                row["channel"],
                CARRIERS[row["carrier"]].value,
                STATES_BY_CODE[row["status"]].value,
                row["messages"],
                row["segments"],
                row["place"],
            )
            for row in rows
        ]

    async def fold(self) -> bool:
        """Add the deltas of all processes to the days; False when another one does it now."""
        async with acquire(self._pool) as conn, conn.transaction():
            if not await conn.fetchval("SELECT pg_try_advisory_xact_lock($1, 0)", _LOCK):
                return False
            await conn.execute(_FOLD)
        return True

    async def forget(self, before: date) -> None:
        """Drop the days before that one."""
        async with acquire(self._pool) as conn:
            await conn.execute("DELETE FROM usage_days WHERE day < $1", number_of(before))
