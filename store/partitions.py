"""Partitions of messages, events and others, one a UTC day by id range, made ahead (DESIGN 3).

CREATE LIKE, then ATTACH: `PARTITION OF` would lock the parent against everybody. The CHECK
spares the ATTACH its scan and is dropped afterwards. There is no default partition: a row for
a day nobody made is an error to be seen, not a row to be moved later.

The database's function `make_partition` does it, as the owner of the tables: who runs the gateway
need not be that. What ends them is `store.retention`.
"""

from __future__ import annotations

from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, EPOCH_MS, TIME_SHIFT
from store.database import TROUBLE, Connection
from store.seal import Keyring, date_of

TABLES = ("messages", "events", "inbound", "webhook_attempts")


def day_range(day: int) -> tuple[int, int]:
    """The ids of a day (`seal.day_of`): first, and first of the next."""
    width = DAY_MS << TIME_SHIFT
    return day * width, (day + 1) * width


def today(now: float) -> int:
    """The day of a Unix time, counted from 2026-01-01."""
    return (int(now * 1000) - EPOCH_MS) // DAY_MS


def name_of(table: str, day: int) -> str:
    """The partition of a day, as `messages_20261122`."""
    return f"{table}_{date_of(day):%Y%m%d}"


async def ensure(conn: Connection, keyring: Keyring, *, days_ahead: int, now: float) -> list[str]:
    """Make partitions and data keys from yesterday to `days_ahead` days from now; load the keys.

    Idempotent; returns the names of the partitions made. Called at start and hourly. Raises
    StoreUnavailable when PostgreSQL is away or in trouble.
    """
    days = range(max(today(now) - 1, 0), today(now) + days_ahead + 1)
    try:
        return await _ensure(conn, keyring, days)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL made no partitions ahead") from error


async def _ensure(conn: Connection, keyring: Keyring, days: range) -> list[str]:
    made: list[str] = []
    attached, parents = await _attached(conn), await _parents(conn)
    for day in days:
        for table in parents:
            name = name_of(table, day)
            if name not in attached and await conn.fetchval(
                "SELECT make_partition($1, $2)", table, date_of(day)
            ):
                made.append(name)
    await keyring.ensure_days(conn, days)
    return made


async def _parents(conn: Connection) -> list[str]:
    """Those of the tables that there are: a schema of before has fewer."""
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'p' AND relname = ANY($1)", list(TABLES)
    )
    there = {row["relname"] for row in rows}
    return [table for table in TABLES if table in there]


async def _attached(conn: Connection) -> set[str]:
    # Not to_regclass: it may answer from a cache that has not heard of another's commit.
    rows = await conn.fetch(
        "SELECT child.relname FROM pg_inherits"
        " JOIN pg_class child ON child.oid = inhrelid"
        " JOIN pg_class parent ON parent.oid = inhparent"
        " WHERE parent.relkind = 'p' AND parent.relname = ANY($1)",
        list(TABLES),
    )
    return {row["relname"] for row in rows}
