"""The conservation law, counted from both sides (RELIABILITY section 3).

    accepted = submitted + final + open          open = parked + handed over + held by an owner

`reading` gives the terms of one moment for the gauge; `recount` looks at every message of one
partition, for the nightly check: it names those that nobody will ever look at again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import asyncpg

from store.database import Pool, acquire
from store.partitions import day_range
from store.read import RESTING_PATHS

PAGE: Final = 20_000  # messages looked at in one statement of a recount
SAMPLES: Final = 20  # stranded ids that are named
SUBMITTED_PATHS: Final = (1, 5)  # of receipts.state.Path; a test holds them together
ENDED_PATHS: Final = tuple(path for path in RESTING_PATHS if path not in SUBMITTED_PATHS)

_READING_SQL: Final = (
    "SELECT 'delta' AS term, process::int, tenant, sum(accepted - submitted - final)::bigint AS n,"
    " 0 AS held FROM deltas GROUP BY process, tenant"
    " UNION ALL SELECT 'said', process, tenant, opened, held FROM holdings WHERE tenant <> 0"
    " UNION ALL SELECT 'spoke', process, 0, (extract(epoch FROM at) * 1000)::bigint, 0"
    "  FROM holdings WHERE tenant = 0"
    " UNION ALL SELECT 'parked', 0, tenant, count(*), 0 FROM parked GROUP BY tenant"
    " UNION ALL SELECT 'handed', 0, tenant, count(*), 0 FROM handovers, unnest(tenants) AS tenant"
    "  GROUP BY tenant"
    " UNION ALL SELECT 'alive', process, 0, epoch, 0 FROM processes"
    "  WHERE node IS NOT NULL AND lease_until > clock_timestamp()"
)

_PAGE_SQL: Final = (
    "SELECT max(id) AS last, count(*) AS n FROM"
    " (SELECT id FROM messages WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3) page"
)
_RECOUNT_SQL: Final = (
    "WITH newest AS ("
    "  SELECT DISTINCT ON (message_id) message_id, path FROM events"
    "  WHERE message_id > {low} AND message_id <= {high} AND path <> 0"
    "  ORDER BY message_id, sequence DESC),"
    " known AS (SELECT m.id, m.tenant, n.path FROM messages m"
    "  LEFT JOIN newest n ON n.message_id = m.id WHERE m.id > {low} AND m.id <= {high}),"
    " judged AS (SELECT k.id, k.tenant, CASE"
    "  WHEN k.path = ANY($1) THEN 'submitted' WHEN k.path = ANY($2) THEN 'final'"
    "  WHEN EXISTS (SELECT FROM parked p WHERE p.message_id = k.id) THEN 'parked'"
    "  WHEN k.id IN (SELECT h.id FROM handovers, unnest(ids) AS h (id)"
    "   WHERE first_id <= {high} AND last_id > {low} AND h.id > {low} AND h.id <= {high})"
    "  THEN 'handed'"
    "  WHEN k.id IN (SELECT c.id FROM claims, unnest(ids) AS c (id)"
    "   WHERE c.id > {low} AND c.id <= {high}) THEN 'held'"
    "  WHEN k.id >= (SELECT low_water FROM processes o WHERE o.process = (k.id >> 12) & 1023)"
    "  THEN 'held' ELSE 'stranded' END AS kind FROM known k)"
    " SELECT tenant, kind, count(*) AS n,"
    "  (array_agg(id ORDER BY id) FILTER (WHERE kind = 'stranded'))[1:{samples}] AS ids"
    " FROM judged GROUP BY tenant, kind"
)


class Said(NamedTuple):
    """What one owner said of one tenant."""

    opened: int  # accepted less submitted less final, of its committed flushes
    held: int  # in its memory, not also parked or handed over


@dataclass(slots=True)
class Reading:
    """The terms of one snapshot; mutable while it is put together."""

    alive: dict[int, int] = field(default_factory=dict)  # process: epoch
    spoke: dict[int, int] = field(default_factory=dict)  # process: when, Unix ms
    said: dict[int, dict[int, Said]] = field(default_factory=dict)  # tenant: process: terms
    counted: dict[int, dict[int, int]] = field(default_factory=dict)  # the same from the deltas
    parked: dict[int, int] = field(default_factory=dict)  # by tenant
    handed: dict[int, int] = field(default_factory=dict)

    def tenants(self) -> set[int]:
        """Everybody a term speaks of."""
        return {*self.said, *self.counted, *self.parked, *self.handed}


@dataclass(slots=True)
class Recount:
    """One tenant's messages of one partition, each in exactly one of these."""

    submitted: int = 0
    final: int = 0
    parked: int = 0
    handed: int = 0
    held: int = 0  # claimed, or above the low-water mark of the process that accepted it
    stranded: int = 0  # none of these: lost. Must be 0
    stranded_ids: list[int] = field(default_factory=list)  # the first SAMPLES of them

    @property
    def accepted(self) -> int:
        """All of them."""
        parts = self.submitted, self.final, self.parked, self.handed, self.held, self.stranded
        return sum(parts)


async def reading(pool: Pool) -> Reading:
    """Every term of the law in one snapshot. Raises StoreUnavailable."""
    found = Reading()
    by_tenant: dict[str, dict[int, int]] = {"parked": found.parked, "handed": found.handed}
    by_process: dict[str, dict[int, int]] = {"spoke": found.spoke, "alive": found.alive}
    async with acquire(pool) as conn:
        rows = await conn.fetch(_READING_SQL)
    for term, process, tenant, number, held in rows:
        if term == "delta":
            found.counted.setdefault(tenant, {})[process] = number
        elif term == "said":
            found.said.setdefault(tenant, {})[process] = Said(number, held)
        elif term in by_tenant:
            by_tenant[term][tenant] = number
        else:
            by_process[term][process] = number
    return found


async def opened_by(pool: Pool, process: int) -> dict[int, int]:
    """By tenant, accepted less submitted less final as this process counted it so far.

    Asked before its first flush of a life. Raises StoreUnavailable.
    """
    async with acquire(pool) as conn:
        rows = await conn.fetch(
            "SELECT tenant, sum(accepted - submitted - final)::bigint FROM deltas"
            " WHERE process = $1 GROUP BY tenant",
            process,
        )
    return {row[0]: row[1] for row in rows}


async def recount(pool: Pool, day: int, *, page: int = PAGE) -> dict[int, Recount]:
    """Look at every message of a day's partition, by tenant (`day` as in `store.seal.day_of`).

    Each page is one snapshot, so that nothing that moves meanwhile looks lost. Raises
    StoreUnavailable.
    """
    found: dict[int, Recount] = {}
    low, end = day_range(day)
    low -= 1
    while True:
        async with (
            acquire(pool) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            bounds = await conn.fetchrow(_PAGE_SQL, low, end, page)
            if bounds is None or not bounds["n"]:
                return found
            high = bounds["last"]
            rows = await conn.fetch(
                _RECOUNT_SQL.format(low=int(low), high=int(high), samples=SAMPLES),
                list(SUBMITTED_PATHS),
                list(ENDED_PATHS),
            )
        low = high
        _add(found, rows)


def _add(found: dict[int, Recount], rows: Iterable[asyncpg.Record]) -> None:
    for row in rows:
        counts = found.setdefault(row["tenant"], Recount())
        kind = row["kind"]
        setattr(counts, kind, getattr(counts, kind) + row["n"])
        counts.stranded_ids = (counts.stranded_ids + (row["ids"] or []))[:SAMPLES]
