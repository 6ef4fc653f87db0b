"""Partitions of messages, events and others, one a UTC day by id range, made ahead (DESIGN 3).

CREATE LIKE, then ATTACH: `PARTITION OF` would lock the parent against everybody. The CHECK
spares the ATTACH its scan and is dropped afterwards. There is no default partition: a row for
a day nobody made is an error to be seen, not a row to be moved later.
"""

from __future__ import annotations

from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, EPOCH_MS, TIME_SHIFT
from store.database import TROUBLE, Connection
from store.seal import Keyring, date_of

_LOCK = 44
_KEY_COLUMNS = {
    "messages": "id",
    "events": "message_id",
    "inbound": "id",
    "webhook_attempts": "id",
}
TABLES = tuple(_KEY_COLUMNS)


def day_range(day: int) -> tuple[int, int]:
    """The ids of a day (`seal.day_of`): first, and first of the next."""
    width = DAY_MS << TIME_SHIFT
    return day * width, (day + 1) * width


def today(now: float) -> int:
    """The day of a Unix time, counted from 2026-01-01."""
    return (int(now * 1000) - EPOCH_MS) // DAY_MS


async def ensure(conn: Connection, keyring: Keyring, *, days_ahead: int, now: float) -> list[str]:
    """Make partitions and data keys from yesterday to `days_ahead` days from now; load the keys.

    Idempotent; returns the names of the partitions made. Called at start and hourly. A detach
    that a crash left half done is finished first, or every later one would be refused. Raises
    StoreUnavailable when PostgreSQL is away or in trouble.
    """
    days = range(max(today(now) - 1, 0), today(now) + days_ahead + 1)
    try:
        return await _ensure(conn, keyring, days)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL made no partitions ahead") from error


async def _ensure(conn: Connection, keyring: Keyring, days: range) -> list[str]:
    made: list[str] = []
    await _finish_detach(conn)
    attached, parents = await _attached(conn), await _parents(conn)
    for day in days:
        for table in parents:
            name = f"{table}_{date_of(day):%Y%m%d}"
            if name not in attached and await _make(conn, table, name, day):
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


async def _make(conn: Connection, table: str, name: str, day: int) -> bool:
    low, high = day_range(day)
    key = _KEY_COLUMNS[table]
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", _LOCK)
        if name in await _attached(conn):
            return False  # another process was faster
        await conn.execute(
            f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL,"
            f" CONSTRAINT {name}_range CHECK ({key} >= {low} AND {key} < {high}));"
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({low}) TO ({high});"
            f"ALTER TABLE {name} DROP CONSTRAINT {name}_range"
        )
    return True


async def _finish_detach(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT inhrelid::regclass::text AS child, inhparent::regclass::text AS parent"
        " FROM pg_inherits WHERE inhdetachpending"
    )
    for row in rows:
        await conn.execute(f"ALTER TABLE {row['parent']} DETACH PARTITION {row['child']} FINALIZE")
