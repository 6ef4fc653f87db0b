"""Indexes that a migration could not build without stopping the writers: made beside them.

A migration adds them ON ONLY the parent, which takes no time; partitions that were there before
get theirs CONCURRENTLY, one at a time, by one process. Later partitions are born with them.
"""

from __future__ import annotations

from sms.errors import StoreUnavailable
from store.database import TROUBLE, Connection

_LOCK = 59  # 47 is the audit log's: a change would wait for all that is built
_PARENTS = ("events_pull",)
# Partitions without a child of this parent index, newest first: they are the ones that are read.
_MISSING = """
SELECT p.relname FROM pg_inherits t JOIN pg_class p ON p.oid = t.inhrelid
WHERE t.inhparent = (SELECT indrelid FROM pg_index WHERE indexrelid = $1::text::regclass)
  AND NOT EXISTS (
    SELECT FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid
    WHERE i.inhparent = $1::text::regclass AND x.indrelid = p.oid)
ORDER BY p.relname DESC
"""


async def build_missing(conn: Connection) -> list[str]:
    """Build what is missing; returns the partitions' names. Nothing when another process does.

    `conn` has a long statement time-out and is closed afterwards, which gives the lock back.
    Raises StoreUnavailable; the next call goes on where this one ended.
    """
    try:
        if not await conn.fetchval("SELECT pg_try_advisory_lock($1, 0)", _LOCK):
            return []
        return [name for parent in _PARENTS for name in await _build(conn, parent)]
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL built no index") from error


async def _build(conn: Connection, parent: str) -> list[str]:
    told = await conn.fetchval("SELECT pg_get_indexdef($1::text::regclass)", parent)
    names = [row["relname"] for row in await conn.fetch(_MISSING, parent)]
    for name in names:
        child = f"{name}_{parent}"
        columns = told.partition(" USING ")[2]
        await conn.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {child}")  # half built, and cut off
        await conn.execute(f"CREATE INDEX CONCURRENTLY {child} ON {name} USING {columns}")
        await conn.execute(f"ALTER INDEX {parent} ATTACH PARTITION {child}")
    return names
