"""Reports that wait for their message: who looks at one now, when the next look is due, how many.

They belong to no process. Whoever finds one due *takes* it, in one statement that locks what it
takes and passes over what another one has locked, and nobody else sees it until `TAKEN_S` is over:
so one process at a time looks a report up, and a dead one's are looked up by the others after that.

    due ─▶ take() ─▶ looked up ─▶ nobody's: later_sql(), due at its next step
                          └─────▶ at its end: delete_reports_sql(), in a commit
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from store.database import Pool, acquire
from store.fragments import ParkedReport, moment_sql, open_report
from store.read import moment
from store.seal import Keyring

_ROUNDED_S: Final = 0.001  # moments in SQL are cut to milliseconds
TAKEN_S: Final = 30.0  # far longer than a look takes; shorter than most waits between two

# In the order in which they fell due, over all channels: none is passed by another's flood. Their
# own order again at the end, for an UPDATE gives its rows back in any.
TAKE_SQL: Final = (
    "WITH due AS MATERIALIZED (SELECT id FROM parked_reports"
    " WHERE due <= $1 AND taken_until <= $1 ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED),"
    " taken AS (UPDATE parked_reports SET taken_until = $3"
    " WHERE id = ANY(ARRAY(SELECT id FROM due)) RETURNING *)"
    " SELECT id, channel, carrier_id, raw, tries, due, reference, part, parts, is_orphan"
    " FROM taken ORDER BY due, id"
)
STOCK_SQL: Final = (
    "SELECT channel, count(*), count(*) FILTER (WHERE id < $1), min(id)"
    " FROM parked_reports GROUP BY channel"
)
# Only what would wait longer than the first steps do, and the look is none of its steps. The newest
# first: a receipt of a lost answer is about as old as that. What somebody has is passed over.
HASTEN_SQL: Final = (
    "UPDATE parked_reports SET due = now(), tries = tries - 1 WHERE id = ANY(ARRAY("
    "SELECT id FROM parked_reports WHERE id >= $1 AND channel = ANY($2) AND tries > 0"
    " AND due > now() + interval '5 s' ORDER BY id DESC LIMIT $3 FOR UPDATE SKIP LOCKED))"
)
HASTENED: Final = 5000  # at most at once, a tenth of a second


class Stock(NamedTuple):
    """What waits of one channel."""

    waiting: int
    old: int  # of these, how many came before the moment asked for
    oldest: int  # id, hence when it came


class ParkedReportStore:
    """Every method raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    async def take(self, now: float, limit: int) -> list[ParkedReport]:
        """At most `limit` reports that are due and that nobody has, the longest due first.

        They are the caller's until `now` + TAKEN_S: by then they are moved on or at their end.
        """
        until = moment(now + TAKEN_S)
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(TAKE_SQL, moment(now), limit, until)
        return [
            ParkedReport(
                row["id"],
                row["channel"],
                row["carrier_id"],
                *open_report(self._keyring, row["id"], row["raw"]),
                tries=row["tries"],
                due=row["due"].timestamp(),
                reference=row["reference"],
                part=(row["part"], row["parts"]) if row["part"] else None,
                is_orphan=row["is_orphan"],
            )
            for row in rows
        ]

    async def hasten(self, channels: Collection[int], since: int) -> None:
        """Look again soon at parked reports of these channels with an id from `since` on."""
        async with acquire(self._pool) as conn:
            await conn.execute(HASTEN_SQL, since, list(channels), HASTENED)

    async def stock(self, old_before: int) -> dict[int, Stock]:
        """What waits, by channel; `old`: with an id below `old_before`. Reads the whole table."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(STOCK_SQL, old_before)
        return {row[0]: Stock(row[1], row[2], row[3]) for row in rows}


def later_sql(reports: Iterable[tuple[ParkedReport, float]]) -> str:
    """Give taken reports back, each with the due time it was taken with; `due` is its next one.

    One that was hastened while it was looked at stays due: what it waited for may have come since.
    One that is gone stays away.
    """
    values = ",".join(
        f"({int(report.id)},{moment_sql(was_due + _ROUNDED_S)},{moment_sql(report.due)},"
        f"{int(report.tries)},{bool(report.is_orphan)})"
        for report, was_due in reports
    )
    if not values:
        return ""
    return (
        "UPDATE parked_reports p SET taken_until = '-infinity', tries = v.tries,"
        " is_orphan = v.is_orphan,"
        " due = CASE WHEN p.due <= v.was THEN v.due ELSE p.due END"
        f" FROM (VALUES {values}) AS v (id,was,due,tries,is_orphan) WHERE p.id = v.id;"
    )
