"""What PostgreSQL says of itself to `smsgw doctor`: one connection, a few small questions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from sms.errors import ConfigError, StoreUnavailable
from store import database, retention, roles
from store.database import TROUBLE, Connection
from store.partitions import TABLES
from store.retention import Standing

_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum", "max_connections")
_PARTITIONS = (
    "SELECT parent.relname AS parent, array_agg(right(child.relname, 8)) AS days FROM pg_inherits"
    " JOIN pg_class child ON child.oid = inhrelid"
    " JOIN pg_class parent ON parent.oid = inhparent"
    " WHERE parent.relkind = 'p' AND parent.relname = ANY($1) GROUP BY parent.relname"
)
# Everybody's that we may see.
_OLDEST = (
    "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::float8"
    " FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
# PostgreSQL tells nothing of them to a role that is neither theirs nor in pg_read_all_stats.
_HIDDEN = (
    "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity"
    " WHERE datname = current_database() AND usesysid IS NOT NULL AND backend_type IS NULL"
)
_ALIVE = "SELECT count(*) FROM processes WHERE lease_until > clock_timestamp()"


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at the database."""

    version: str  # as "18.1"
    ahead_s: float  # its clock less ours, judged from the middle of the question …
    round_trip_s: float  # … that took so long: the offset is not known better than half of it
    settings: Mapping[str, str]  # the server's, not our sessions'
    connections: int
    oldest_transaction_s: float
    migrations: Sequence[str]  # that ran here
    days: Mapping[str, frozenset[str]]  # of each partitioned table, as "20261122"
    processes: int  # of gateways, alive now
    hidden: frozenset[int] = frozenset()  # backends here whose transactions the role may not see
    role: str = ""  # that asked …
    excess: str | None = None  # … and why the audit log is not append-only by grant for it
    ended: Sequence[Standing] = ()  # each kind of data, by its last round of upkeep


async def look(dsn: str) -> Vitals:
    """Ask; raises StoreUnavailable or ConfigError when PostgreSQL is away or refuses us.

    Without the session settings of the flow, so that it sees the server's own.
    """
    try:
        conn = await asyncpg.connect(dsn, timeout=database.CONNECT_TIMEOUT_S, command_timeout=5)
    except (*TROUBLE, asyncpg.PostgresError, ValueError) as error:
        raise ConfigError(f"PostgreSQL could not be asked ({type(error).__name__})") from error
    try:
        return await _look(conn)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL went away") from error
    finally:
        await database.close(conn)


async def _look(conn: Connection) -> Vitals:
    asked = time.time()
    theirs = await conn.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    answered = time.time()
    version = conn.get_server_version()
    migrations = await _migrations(conn)
    rows = await conn.fetch(_PARTITIONS, list(TABLES))
    is_ours = await conn.fetchval("SELECT to_regclass('processes')") is not None
    has_ends = await conn.fetchval("SELECT to_regclass('retention')") is not None
    role = await conn.fetchval("SELECT current_user::text")
    return Vitals(
        version=f"{version.major}.{version.minor}",
        ahead_s=theirs - (asked + answered) / 2,
        round_trip_s=answered - asked,
        settings={name: await conn.fetchval(f"SHOW {name}") for name in _SETTINGS},
        connections=await conn.fetchval("SELECT count(*) FROM pg_stat_activity"),
        oldest_transaction_s=await conn.fetchval(_OLDEST),
        hidden=frozenset(await conn.fetchval(_HIDDEN)),
        migrations=migrations,
        days={row["parent"]: frozenset(row["days"]) for row in rows},
        processes=await conn.fetchval(_ALIVE) if is_ours else 0,
        role=role,
        excess=await roles.excess(conn, role),
        ended=await retention.look(conn) if has_ends else (),
    )


async def _migrations(conn: Connection) -> list[str]:
    if await conn.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return []
    rows = await conn.fetch("SELECT name FROM schema_migrations ORDER BY name")
    return [row["name"] for row in rows]
