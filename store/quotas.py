"""What the tenants took of their daily and monthly quotas: one sum per tenant and period.

A block is taken before its segments are sent, so the sum is never below what was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from store.database import Pool, acquire

# tenant, period (0 day, 1 month), first day, limit, least, want; negative `want` gives back.
Reservation = tuple[int, int, date, int, int, int]

# A row keeps what its last statement granted: RETURNING shows new values only (old ones from
# PostgreSQL 18 on). The rows are locked in the order of the key, so that two never wait crosswise.
_RESERVE = """
INSERT INTO quotas AS q (tenant, period, first_day, taken, granted, wanted, minimum, maximum)
SELECT tenant, period, first_day, g, g, wanted, minimum, maximum
FROM (
  SELECT *, CASE WHEN wanted < 0 OR maximum < minimum THEN 0 ELSE least(wanted, maximum) END AS g
  FROM unnest($1::int[], $2::smallint[], $3::date[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS a (tenant, period, first_day, maximum, minimum, wanted)
) AS asked
ORDER BY tenant, period, first_day
ON CONFLICT (tenant, period, first_day) DO UPDATE SET
  granted = CASE
    WHEN excluded.wanted < 0 THEN -least(-excluded.wanted, q.taken)
    WHEN excluded.maximum - q.taken < excluded.minimum THEN 0
    ELSE least(excluded.wanted, excluded.maximum - q.taken) END,
  taken = q.taken + CASE
    WHEN excluded.wanted < 0 THEN -least(-excluded.wanted, q.taken)
    WHEN excluded.maximum - q.taken < excluded.minimum THEN 0
    ELSE least(excluded.wanted, excluded.maximum - q.taken) END,
  wanted = excluded.wanted, minimum = excluded.minimum, maximum = excluded.maximum
RETURNING tenant, period, first_day, granted, taken
"""
_FORGET = "DELETE FROM quotas WHERE first_day < $1"


class Quotas:
    """The table `quotas`; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def reserve(self, asks: Sequence[Reservation]) -> list[tuple[int, int]]:
        """(granted, sum afterwards) of each, all in one commit; each key at most once."""
        columns = [list(column) for column in zip(*asks, strict=True)]
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(_RESERVE, *columns)
        found = {tuple(row)[:3]: (int(row["granted"]), int(row["taken"])) for row in rows}
        return [found[ask[:3]] for ask in asks]

    async def forget(self, before: date) -> None:
        """Drop the sums of periods that began before that day."""
        async with acquire(self._pool) as conn:
            await conn.execute(_FORGET, before)
