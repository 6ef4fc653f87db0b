"""Connections, and the checks before the first promise.

Every connection carries its process number and epoch (the fence trigger reads them), commits
synchronously and reads committed: under repeatable read an old owner wrote after a takeover.
No transaction pooler may stand between us and PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import asyncpg

from sms.errors import ConfigError, LeaseLost, OutcomeUnknown, StoreUnavailable
from sms.tlswords import POSTGRES, tls_trouble

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
AnyConnection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
OpenConnection: TypeAlias = Callable[[], Awaitable[Connection]]

# Plans that read all before they give the first row: right for a tenant of whom little is stored,
# and ten million rows too many for one that only looks so.
_NO_SHORT_CUTS = (
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_sort",
    "enable_incremental_sort",
    "enable_hashjoin",
    "enable_mergejoin",
)
CONNECT_TIMEOUT_S = 5.0
STATEMENTS_KEPT = 100  # prepared ones of a connection, asyncpg's own default
CLIENT_GRACE_S = 3.0  # the server's own time-out speaks first; COMMIT's fsync is outside it
LEASE_LOST_CODE = "SG001"  # what the fence raises

# What tells that PostgreSQL is away or going away, at connect time and in a pool.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidAuthorizationSpecificationError,  # a changed password is no bug of ours
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# What a statement may meet that is no fault of the statement: worth another try later.
TROUBLE = (
    *AWAY,
    asyncpg.OperatorInterventionError,  # time-outs too
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,  # deadlocks too
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until it is promoted
)


def _settings(process: int, epoch: int, statement_timeout_s: float) -> dict[str, str]:
    return {
        "smsgw.process": str(process),
        "smsgw.epoch": str(epoch),
        "application_name": application_name(process, epoch),
        "synchronous_commit": "on",
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "statement_timeout": str(int(statement_timeout_s * 1000)),
        "jit": "off",
        "TimeZone": "UTC",
    }


def application_name(process: int, epoch: int) -> str:
    """What a takeover looks for in pg_stat_activity; epoch 0 belongs to no process."""
    return f"smsgw/{process}/{epoch}" if epoch else "smsgw"


def _away(error: BaseException) -> StoreUnavailable:
    words = tls_trouble(error, POSTGRES)
    if words is not None:
        return StoreUnavailable(f"TLS with PostgreSQL: {words}")
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return StoreUnavailable(
            "SMSGW_DATABASE_URL cannot be used as it is: name files that are there in sslrootcert,"
            " sslcert and sslkey, and an sslmode that PostgreSQL knows"
        )
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        return StoreUnavailable(
            "PostgreSQL does not speak TLS, and SMSGW_DATABASE_URL wants it (sslmode): set ssl=on"
            " there; nothing is sent in clear instead"
        )
    does = "refuses us" if isinstance(error, asyncpg.PostgresError) else "does not answer"
    return StoreUnavailable(f"PostgreSQL {does}: {type(error).__name__}")


async def connect(
    dsn: str, *, process: int = 0, epoch: int = 0, statement_timeout_s: float = 2.0
) -> Connection:
    """Open one connection; raises StoreUnavailable when PostgreSQL is away.

    Without an epoch the connection may read and configure, but the fence refuses it every row
    of a process. Prepared statements are not kept, so a migration cannot surprise it.
    """
    try:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_s + CLIENT_GRACE_S,
            statement_cache_size=0,
            server_settings=_settings(process, epoch, statement_timeout_s),
        )
    except AWAY as error:
        raise _away(error) from error


def connector(
    dsn: str, *, process: int, epoch: int, statement_timeout_s: float = 2.0
) -> OpenConnection:
    """The `open_conn` the lanes are given."""

    async def open_conn() -> Connection:
        return await connect(
            dsn, process=process, epoch=epoch, statement_timeout_s=statement_timeout_s
        )

    return open_conn


async def open_pool(
    dsn: str,
    *,
    process: int = 0,
    epoch: int = 0,
    size: int = 4,
    statement_timeout_s: float = 2.0,
    is_read_only: bool = False,
) -> Pool:
    """A small pool for reading and configuration; raises StoreUnavailable when away.

    A read-only one is for pages of what may be long: it reads along indexes in their order, so
    that a LIMIT bounds the work whatever the planner believes about a tenant. And it plans every
    statement for its own values: they differ widely, and none of them should push the prepared
    ones of the flow out of a cache.
    """
    settings = _settings(process, epoch, statement_timeout_s)
    if is_read_only:
        settings |= {"default_transaction_read_only": "on", **dict.fromkeys(_NO_SHORT_CUTS, "off")}
    try:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=statement_timeout_s + CLIENT_GRACE_S,
            server_settings=settings,
            statement_cache_size=0 if is_read_only else STATEMENTS_KEPT,
        )
    except AWAY as error:
        raise _away(error) from error


@asynccontextmanager
async def acquire(pool: Pool) -> AsyncIterator[AnyConnection]:
    """A connection of the pool; what PostgreSQL does to us becomes one of our errors.

    Raises StoreUnavailable for whatever may go well later, LeaseLost when the fence refused.
    """
    try:
        async with pool.acquire(timeout=2) as conn:
            yield conn
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL is away") from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == LEASE_LOST_CODE:
            raise LeaseLost("this process has a newer owner") from error
        raise


@asynccontextmanager
async def committing(pool: Pool) -> AsyncIterator[AnyConnection]:
    """A transaction of one connection, committed at the end; whatever is raised inside undoes it.

    Raises OutcomeUnknown when the connection is lost in COMMIT, and what `acquire` raises.
    """
    async with acquire(pool) as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            yield conn
        except BaseException:
            with suppress(*TROUBLE):
                await transaction.rollback()
            raise
        try:
            await transaction.commit()
        except TROUBLE as error:
            raise OutcomeUnknown("PostgreSQL went away during the commit") from error


async def must_own(conn: AnyConnection, process: int, *, alone: bool = False) -> None:
    """The fence for a transaction that writes no fenced table; call it first inside one.

    `alone`: only when no other statement of this process runs or can still begin. Raises
    LeaseLost unless the connection's epoch is the process's.
    """
    how = "xact_lock" if alone else "xact_lock_shared"
    await conn.execute(f"SELECT pg_advisory_{how}(42, $1)", process)
    is_ours = await conn.fetchval(
        "SELECT epoch = current_setting('smsgw.epoch')::int FROM processes WHERE process = $1",
        process,
    )
    if not is_ours:
        raise LeaseLost(f"process {process} has a newer owner")


async def must_be_writable(conn: Connection) -> None:
    """Raise StoreUnavailable with the remedy on a standby, and while a backup is replayed."""
    if await conn.fetchval("SELECT pg_is_in_recovery()"):
        raise StoreUnavailable(
            "PostgreSQL is read-only: a standby, or it replays a backup or is paused at its target;"
            " wait, or end that with SELECT pg_wal_replay_resume()"
            " (recovery_target_action = 'promote' does so by itself)"
        )


async def check_durability(dsn: str) -> list[str]:
    """Raise ConfigError when PostgreSQL could lose what it confirmed (RELIABILITY 1.1).

    Returns warnings. Asked without our own session settings, so that it sees the server's.
    """
    try:
        conn = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=5)
    except AWAY as error:
        raise _away(error) from error
    try:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        values = {name: await conn.fetchval(f"SHOW {name}") for name in names}
    finally:
        await close(conn)
    for name in names[:2]:
        if values[name] == "off":
            raise ConfigError(
                f"PostgreSQL runs with {name}=off and could lose accepted messages: "
                f"set {name}=on in postgresql.conf (also for this role and database) and restart it"
            )
    if values["full_page_writes"] == "off":
        return ["PostgreSQL runs with full_page_writes=off: a power cut can tear its pages"]
    return []


async def server_major(dsn: str) -> int:
    """The server's major version, such as 18."""
    conn = await connect(dsn)
    try:
        return int(conn.get_server_version().major)
    finally:
        await close(conn)


async def close(conn: Connection) -> None:
    """Close politely, at once when the peer does not answer."""
    try:
        await asyncio.shield(conn.close(timeout=2))
    except AWAY:
        conn.terminate()
