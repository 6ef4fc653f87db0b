"""Which webhooks of a few events were told, as far as the store knows.

Nothing is written when a webhook is delivered: its event is behind its process's cursor then, and
stands in `webhook_parked` no more. So what is behind the cursor and not parked was delivered, if
the endpoint wanted it at the time; `since` and `sure_below` say from when and up to where that is
certain. Costs one statement of look-ups by primary keys, whatever is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import MAXYEAR, datetime
from typing import NamedTuple

from sms.ids import process_of
from store.database import Pool, acquire

_LOOKED_AT = 200  # parked events of an endpoint among which the first dead letter is looked for
TOLD_SQL = (
    "SELECT wanted.endpoint, event.event_id, parked.tries, parked.due,"
    " coalesce(event.event_id <= p.event_cursor, false) AS is_settled, known.since,"
    " CASE WHEN first.dead IS NOT NULL THEN first.dead"
    f" WHEN first.seen >= {_LOOKED_AT} THEN first.last END AS sure_below"
    " FROM unnest($1::int[]) AS wanted (endpoint)"
    " CROSS JOIN LATERAL (SELECT h.at AS since FROM objects o JOIN object_history h"
    "  ON h.kind = o.kind AND h.id = o.id AND h.version = o.version"
    "  WHERE o.kind = 'webhook_endpoint' AND o.id = wanted.endpoint LIMIT 1) known"
    " CROSS JOIN LATERAL (SELECT count(*) AS seen, max(event_id) AS last,"
    "  min(event_id) FILTER (WHERE due = 'infinity') AS dead FROM (SELECT event_id, due"
    "   FROM webhook_parked WHERE endpoint = wanted.endpoint ORDER BY event_id"
    f"   LIMIT {_LOOKED_AT}) oldest) first"
    " CROSS JOIN unnest($2::bigint[], $3::smallint[]) AS event (event_id, process)"
    " LEFT JOIN processes p ON p.process = event.process"
    " LEFT JOIN LATERAL (SELECT tries, due FROM webhook_parked w"
    "  WHERE w.endpoint = wanted.endpoint AND w.event_id = event.event_id LIMIT 1) parked ON true"
)


class Told(NamedTuple):
    """One event and one endpoint."""

    endpoint: int
    event_id: int
    tries: int | None  # made so far; None = it is not parked
    due: float | None  # of the next try, Unix; infinity: given up
    is_settled: bool  # behind its process's cursor: delivered, parked, or not wanted
    since: float  # when the endpoint became what it is, Unix
    sure_below: int | None  # an endpoint with dead letters may have been left alone from here on


class Tellings:
    """Reads; raises StoreUnavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of(self, endpoints: Sequence[int], event_ids: Sequence[int]) -> list[Told]:
        """What is known of each of these events at each of these endpoints."""
        processes = [process_of(event_id) for event_id in event_ids]
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(TOLD_SQL, list(endpoints), list(event_ids), processes)
        return [
            Told(
                row["endpoint"],
                row["event_id"],
                row["tries"],
                None if row["due"] is None else _unix(row["due"]),
                row["is_settled"],
                row["since"].timestamp(),
                row["sure_below"],
            )
            for row in rows
        ]


def _unix(moment: datetime) -> float:
    return math.inf if moment.year == MAXYEAR else moment.timestamp()
