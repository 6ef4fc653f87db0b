"""How long a migration keeps others away from a table, and for how long anybody waits.

A lock that is asked for keeps later ones out as one that is held, so the time counts from the
moment it is asked for: seen every few milliseconds in `pg_locks`, from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from store import database
from store.schema import APPLICATION

LOOK_S: Final = 0.003
# What stands in the way of a writer (PostgreSQL manual 13.3.1).
_STRONG: Final = (
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
_LOOK: Final = """
SELECT coalesce(t.relname, c.relname) AS name FROM pg_locks l
JOIN pg_stat_activity a USING (pid)
JOIN pg_class c ON c.oid = l.relation
LEFT JOIN pg_index i ON i.indexrelid = c.oid
LEFT JOIN pg_class t ON t.oid = i.indrelid
WHERE a.application_name = $1 AND l.mode = ANY($2)
"""


@dataclass(slots=True)
class Held:
    """What was seen so far; milliseconds."""

    by_table: dict[str, float] = field(default_factory=dict)  # the longest time without a break
    looks: int = 0
    widest_ms: float = 0.0  # between two looks: what is longer than it was seen

    @property
    def longest_ms(self) -> float:
        """Of any table."""
        return max(self.by_table.values(), default=0.0)


@contextlib.asynccontextmanager
async def watched(dsn: str, tables: frozenset[str]) -> AsyncIterator[Held]:
    """Watch what migrations hold of these tables."""
    held = Held()
    conn = await database.connect(dsn)
    task = asyncio.create_task(_look(conn, tables, held))
    try:
        yield held
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await database.close(conn)


async def _look(conn: database.Connection, tables: frozenset[str], held: Held) -> None:
    since: dict[str, float] = {}
    look = await conn.prepare(_LOOK)
    before = time.monotonic()
    while True:
        rows = await look.fetch(APPLICATION, list(_STRONG))
        now = time.monotonic()
        held.looks += 1
        held.widest_ms = max(held.widest_ms, (now - before) * 1000)
        seen = {row["name"] for row in rows} & tables
        since = {name: since.get(name, before) for name in seen}
        for name, at in since.items():
            held.by_table[name] = max(held.by_table.get(name, 0.0), (now - at) * 1000)
        before = now
        await asyncio.sleep(LOOK_S)


async def tables(dsn: str) -> frozenset[str]:
    """Every table there is: whatever existed before a migration may be in use."""
    conn = await database.connect(dsn)
    try:
        rows = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND relnamespace = 'public'::regnamespace AND relname <> 'schema_migrations'"
        )
    finally:
        await database.close(conn)
    return frozenset(row["relname"] for row in rows)
