"""Migrations: how the schema grows under running code, and which code may work on it.

    NNNN_pre_what.sql   expand: adds, takes nothing away. Code of before goes on beside it
    NNNN_post_what.sql  contract: takes away what code of before needed. Never by itself

The first run before new code (`smsgw migrate`, and `smsgw up` by itself), the others when nobody
needs what they take away (`smsgw migrate --contract`). The head of a contracting file says which
migration code has to know to work without that:

    -- needs: 0021

Each file is one transaction, so a kill leaves it done or not begun. A table in use is not waited
for longer than LOCK_WAIT_MS: who comes behind a lock that waits waits too. The file is tried again
later instead.

Who knows what: a process writes the newest migration it knows beside its epoch; one that wrote
nothing for its epoch is of before that. The floor (`schema_floor`) is raised before a contraction
looks who lives, and a starting process looks at the floor after it wrote down what it knows: one of
the two sees the other.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import asyncpg

from sms.errors import ConfigError, StoreUnavailable
from store.database import TROUBLE, AnyConnection, Connection, close, connect

APPLICATION: Final = "smsgw/migrate"  # in pg_stat_activity
LOCK_WAIT_MS: Final = 50
_CANCEL_VACUUM_MS: Final = 20  # after so long PostgreSQL ends an autovacuum that is in the way
_PAUSE_S: Final = (0.3, 1.0)  # between two tries
_TRIES_S: Final = 600.0
_STATEMENT_S: Final = 600.0
_LOCK: Final = 43  # the first key of 42 belongs to the processes
_LEFT: Final = "left"  # the role of a process that drained (store.processes)
_NAME: Final = re.compile(r"(\d{4})_(pre|post)_[a-z0-9_]+\.sql")
_NEEDS: Final = re.compile(r"^-- needs: (\d{4})$", re.MULTILINE)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    name: str
    sql: str
    number: int
    is_contracting: bool
    needs: int = 0  # of a contracting one: code must know this migration

    @classmethod
    def of(cls, name: str, sql: str) -> Migration:
        """Read name and head; raises ValueError where they are not as they must be."""
        parts = _NAME.fullmatch(name)
        if parts is None:
            raise ValueError(
                f"{name}: a migration is called NNNN_pre_what.sql or NNNN_post_what.sql"
            )
        number, is_contracting = int(parts[1]), parts[2] == "post"
        needs = _NEEDS.search(sql)
        if is_contracting != (needs is not None):
            raise ValueError(
                f"{name}: `-- needs: NNNN` stands in a contracting file, and only there"
            )
        if needs is not None and int(needs[1]) >= number:
            raise ValueError(f"{name}: it needs what an earlier release brought")
        return cls(name, sql, number, is_contracting, int(needs[1]) if needs else 0)


@cache
def files() -> tuple[Migration, ...]:
    """Every migration of this code, in the order of their numbers."""
    folder = resources.files("store.migrations")
    return tuple(
        Migration.of(entry.name, entry.read_text("utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".sql")
    )


def migration_names() -> list[str]:
    """The expanding ones: what a database must have for this code."""
    return [one.name for one in files() if not one.is_contracting]


def knows() -> int:
    """The number of the newest migration of this code."""
    return max(one.number for one in files())


# ---- running them ----


async def migrate(
    dsn: str, on_progress: Tell | None = None, *, of: Sequence[Migration] | None = None
) -> list[str]:
    """Expand the schema; returns the names applied now, empty when nothing was left.

    Two that migrate at once wait for each other. Raises StoreUnavailable when PostgreSQL is away,
    or a table stays in use for ten minutes.
    """
    wanted = [one for one in (files() if of is None else of) if not one.is_contracting]
    conn = await _open(dsn)
    try:
        return await _run(conn, wanted, on_progress)
    finally:
        await close(conn)


async def contract(
    dsn: str, on_progress: Tell | None = None, *, of: Sequence[Migration] | None = None
) -> list[str]:
    """Take away what no code needs any more; returns the names applied now.

    Raises ConfigError while the schema is not expanded, or code runs that needs it: its processes
    are named. Nothing was changed then.
    """
    ours = files() if of is None else of
    conn = await _open(dsn)
    try:
        ran = await _ran(conn)
        waiting = [one for one in ours if one.is_contracting and one.name not in ran]
        if not waiting:
            return []
        if {one.name for one in ours if not one.is_contracting} - ran:
            raise ConfigError("the database waits for migrations: run `smsgw migrate` first")
        needs = max(one.needs for one in waiting)
        await _nobody_needs_it(conn, needs)
        before = await conn.fetchval("SELECT needs FROM schema_floor")
        await _set_floor(conn, max(before, needs))
        try:
            await _nobody_needs_it(conn, needs)  # who started meanwhile
        except ConfigError:
            await _set_floor(conn, before)
            raise
        return await _run(conn, waiting, on_progress)
    finally:
        await close(conn)


async def _open(dsn: str) -> Connection:
    """A connection that is the only one to migrate."""
    conn = await connect(dsn, statement_timeout_s=_STATEMENT_S)
    try:
        await conn.execute(f"SET application_name = '{APPLICATION}'")
        await conn.execute("SELECT pg_advisory_lock($1, 0)", _LOCK)
        await conn.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
    except BaseException:
        await close(conn)
        raise
    return conn


async def _ran(conn: AnyConnection) -> set[str]:
    return {row["name"] for row in await conn.fetch("SELECT name FROM schema_migrations")}


async def _run(
    conn: Connection, wanted: Sequence[Migration], on_progress: Tell | None
) -> list[str]:
    ran = await _ran(conn)
    applied = []
    for one in wanted:
        if one.name not in ran:
            if on_progress is not None:
                on_progress(one.name)
            await _apply(conn, one, on_progress)
            applied.append(one.name)
    return applied


async def _apply(conn: Connection, one: Migration, on_progress: Tell | None) -> None:
    """One file, in one transaction, when the tables are free for a moment."""
    end = time.monotonic() + _TRIES_S
    is_told = False
    while True:
        try:
            async with conn.transaction():
                await _wait_briefly(conn)
                await conn.execute(one.sql)
                await conn.execute("INSERT INTO schema_migrations (name) VALUES ($1)", one.name)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if time.monotonic() > end:
                raise StoreUnavailable(
                    f"{one.name}: a table is in use and was not free once in {_TRIES_S:g} s: find "
                    "the long transaction in pg_stat_activity (xact_start), then migrate again"
                ) from error
            if on_progress is not None and not is_told:
                on_progress(f"{one.name}: waiting until no long transaction uses its tables")
                is_told = True
            await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - no secret
        else:
            return


async def _wait_briefly(conn: Connection) -> None:
    """Give up a lock soon; but an autovacuum gives way by itself, where we may ask it to."""
    await conn.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
    if await conn.fetchval("SELECT has_parameter_privilege('deadlock_timeout', 'SET')"):
        await conn.execute(f"SET LOCAL deadlock_timeout = {_CANCEL_VACUUM_MS}")


async def _nobody_needs_it(conn: AnyConnection, needs: int) -> None:
    """Raise ConfigError naming the processes whose code does not know that migration.

    Those that died count until they are taken over: a frozen one may come back.
    """
    rows = await conn.fetch(
        "SELECT node, slot FROM processes p WHERE node IS NOT NULL AND role <> $2"
        " AND NOT EXISTS (SELECT FROM process_versions v"
        "  WHERE v.process = p.process AND v.epoch = p.epoch AND v.knows >= $1)"
        " ORDER BY node, slot",
        needs,
        _LEFT,
    )
    if rows:
        who = ", ".join(f"worker-{row['slot']} of node {row['node']}" for row in rows)
        raise ConfigError(
            f"code runs that does not know migration {needs:04} and needs what would be taken "
            f"away: {who}. Upgrade it, then run this again"
        )


async def _set_floor(conn: AnyConnection, needs: int) -> None:
    await conn.execute("UPDATE schema_floor SET needs = $1", needs)


# ---- which code may work on it ----


@dataclass(frozen=True, slots=True)
class Standing:
    """How a schema stands to this code."""

    pending: tuple[str, ...]  # expanding ones that have not run
    contracting: tuple[str, ...]  # ones of this code that may run once no code of before does
    newer: tuple[str, ...]  # that ran, and that this code does not know
    floor: int  # code must know this migration


async def standing(conn: AnyConnection) -> Standing:
    """Look; an empty database lacks everything."""
    if await conn.fetchval("SELECT to_regclass('schema_migrations')") is None:
        ran: set[str] = set()
    else:
        ran = await _ran(conn)
    floor = 0
    if await conn.fetchval("SELECT to_regclass('schema_floor')") is not None:
        floor = await conn.fetchval("SELECT needs FROM schema_floor")
    ours = {one.name: one for one in files()}
    lacking = [one for name, one in ours.items() if name not in ran]
    return Standing(
        tuple(one.name for one in lacking if not one.is_contracting),
        tuple(one.name for one in lacking if one.is_contracting),
        tuple(sorted(ran - ours.keys())),
        floor,
    )


def judge(found: Standing, known: int) -> None:
    """Raise ConfigError unless code that knows up to that migration may work on the schema."""
    if found.floor > known:
        raise ConfigError(
            "install the version that the other nodes have, or a newer one: what migration "
            f"{found.floor:04} replaced is gone from the database, and this code knows up to "
            f"{known:04}"
        )
    if found.pending:
        raise ConfigError(
            "run `smsgw migrate` of this version first, the code that runs goes on meanwhile: the "
            f"database lacks {', '.join(found.pending)}"
        )


async def must_fit_code(dsn: str, *, is_expanded: bool = True) -> None:
    """Raise ConfigError with the remedy when this code must not work on the schema.

    `is_expanded`: it must also have every migration of ours; not asked by who will migrate.
    """
    conn = await connect(dsn)
    try:
        found = await standing(conn)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            "the role of SMSGW_DATABASE_URL may not read the schema: run `smsgw migrate` with "
            "SMSGW_MIGRATE_DATABASE_URL beside it, which grants what is lacking"
        ) from error
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL did not tell its migrations") from error
    finally:
        await close(conn)
    if not is_expanded:
        found = Standing((), found.contracting, found.newer, found.floor)
    judge(found, knows())
