"""The pull of events: a tenant's events in the order of their ids, without a hole.

Ids are given before the commit, so a lower one may be committed after a higher one. Nothing is
served from the horizon on: the lowest floor any process has told, and never what is younger than
3 s. A floor is told after the commits it speaks of, and the horizon is read before the events.
"""

from __future__ import annotations

from typing import NamedTuple

from sms.ids import DAY_MS, EPOCH_MS, TIME_SHIFT, id_at
from store.database import Pool, acquire

KEPT_S = 7 * 86_400
YOUNGEST_MS = 3000
# How much older than its event a message may be: scheduled 35 days ahead, valid for 3, receipts
# for 3 more, corrections and clocks a few. It names the partitions that are looked into.
_OLDEST_MESSAGE = 45 * DAY_MS << TIME_SHIFT
_NEWEST_MESSAGE = 3_600_000 << TIME_SHIFT

HORIZON_SQL = (
    "SELECT least(min(event_floor),"
    f" ((extract(epoch FROM clock_timestamp()) * 1000)::bigint - {EPOCH_MS + YOUNGEST_MS})"
    f" << {TIME_SHIFT}) FROM processes WHERE node IS NOT NULL"
)
PULL_SQL = (
    "SELECT event_id, message_id, sequence FROM events"
    " WHERE tenant = $1 AND event_id > $2 AND event_id < $3"
    " AND path <> 0 AND path <> 2 AND path <> 6"  # as the index has it: of these nobody is told
    " AND message_id >= $4 AND message_id < $5 ORDER BY event_id LIMIT $6"
)


class Pulled(NamedTuple):
    """One event: where its body is found."""

    event_id: int
    message_id: int
    sequence: int


class Pull:
    """Reads for the pull; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def after(self, tenant: int, cursor: int, limit: int) -> tuple[list[Pulled], int]:
        """The next events behind the cursor, and the cursor behind them; nothing is consumed."""
        async with acquire(self._pool) as conn:
            horizon: int = await conn.fetchval(HORIZON_SQL)
            if horizon <= cursor + 1:
                return [], cursor
            rows = await conn.fetch(
                PULL_SQL,
                tenant,
                cursor,
                horizon,
                max(cursor - _OLDEST_MESSAGE, 0),
                horizon + _NEWEST_MESSAGE,
                limit,
            )
        found = [Pulled(*row) for row in rows]
        return found, found[-1].event_id if len(found) == limit else horizon - 1


def oldest_cursor(now: float) -> int:
    """The cursor that stands before everything that is kept."""
    return max(id_at(now - KEPT_S) - 1, 0)
