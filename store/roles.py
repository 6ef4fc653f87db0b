"""Two roles of PostgreSQL: one owns the schema, one runs the gateway.

    owner    migrations, `smsgw upkeep`: makes tables, ends old partitions and rows
    runtime  the workers: reads and writes rows, and of the audit log only reads and appends

The runtime role owns nothing, makes nothing and is a member of nothing, so what keeps the audit log
append-only is PostgreSQL's own grants: it can neither change, remove or empty rows nor touch the
table, its triggers and functions. Its partitions it gets from a function of the owner
(`make_partition`). Where one role does both, a trigger alone keeps the log, and its owner could
take that away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from sms.errors import ConfigError, StoreUnavailable
from store import database
from store.database import TROUBLE, Connection

RUNTIME_ROLE: Final = "smsgw_run"  # of the embedded PostgreSQL
_ALL: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
# What the runtime role may do less with; a table that is not named here is the flow's.
LESS: Final[Mapping[str, frozenset[str]]] = {
    "audit_events": frozenset({"SELECT", "INSERT"}),
    "audit_anchors": frozenset({"SELECT"}),
    "retention": frozenset({"SELECT"}),
    "lineage": frozenset({"SELECT"}),
    "schema_floor": frozenset({"SELECT"}),
    "schema_migrations": frozenset({"SELECT"}),
    "data_keys": frozenset({"SELECT", "INSERT"}),
}
_FUNCTIONS: Final = ("make_partition(text, date)", "end_backend(int, bigint)")
_GRANTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
# Ours: what the owner made in its schema. Partitions are reached through their parents.
_TABLES = (
    "SELECT c.relname AS name,"
    " array(SELECT p FROM unnest($2::text[]) p WHERE has_table_privilege($1, c.oid, p)) AS has"
    " FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace"
    " AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    " AND pg_has_role(current_user, c.relowner, 'USAGE')"
    " AND EXISTS (SELECT FROM pg_class t WHERE t.relname = 'schema_migrations'"
    "  AND t.relnamespace = c.relnamespace AND t.relowner = c.relowner)"
    " ORDER BY c.relname"
)
# Who may more than rows, may more than a grant can take: the schema's and the database's owner may
# drop a table that is not theirs, a superuser and a member of the owner may anything.
_RIGHTS = """
SELECT r.rolsuper OR r.rolcreaterole OR r.rolbypassrls AS is_mighty,
  pg_has_role(r.oid, a.relowner, 'MEMBER') AS is_owner,
  pg_has_role(r.oid, n.nspowner, 'MEMBER') OR pg_has_role(r.oid, d.datdba, 'MEMBER') AS owns_place,
  has_schema_privilege(r.oid, n.oid, 'CREATE') AS may_create,
  has_table_privilege(r.oid, a.oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')
    OR has_any_column_privilege(r.oid, a.oid, 'UPDATE') AS may_change
FROM pg_class a JOIN pg_namespace n ON n.oid = a.relnamespace, pg_roles r, pg_database d
WHERE a.oid = to_regclass('audit_events') AND d.datname = current_database()
  AND r.rolname = $1
"""
# Nobody else may make partitions, for PUBLIC may not.
_RUNTIME = """
SELECT DISTINCT r.rolname
FROM pg_proc p, aclexplode(p.proacl) a JOIN pg_roles r ON r.oid = a.grantee
WHERE p.oid = to_regprocedure($1) AND a.privilege_type = 'EXECUTE' AND r.oid <> p.proowner
"""
_WORDS = {
    "is_mighty": "is a superuser or makes roles",
    "is_owner": "owns the tables",
    "owns_place": "owns the schema or the database",
    "may_create": "makes tables in the schema",
    "may_change": "may change rows of the audit log",
}


def role_of(dsn: str) -> str | None:
    """The role that an address names; None when it leaves it to the environment."""
    parts = urlsplit(dsn)
    if parts.username:
        return unquote(parts.username)
    given = parse_qs(parts.query).get("user")
    return given[0] if given else None


async def excess(conn: Connection, role: str) -> str | None:
    """Why the log is not append-only by grant for that role; None when it is.

    Words that go after the role's name, as "owns the tables". None too before the migrations.
    """
    row = await conn.fetchrow(_RIGHTS, role)
    if row is None:
        return None
    return next((words for name, words in _WORDS.items() if row[name]), None)


async def look(dsn: str) -> tuple[str, str | None]:
    """The role behind this address, and its `excess`; raises StoreUnavailable when away."""
    conn = await database.connect(dsn)
    try:
        role = await conn.fetchval("SELECT current_user::text")
        return role, await excess(conn, role)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL went away") from error
    finally:
        await database.close(conn)


async def may_migrate(dsn: str) -> bool:
    """Whether the role behind this address owns the schema, or there is none yet.

    Raises StoreUnavailable, also where nobody can write.
    """
    conn = await database.connect(dsn)
    try:
        await database.must_be_writable(conn)
        is_owner = await conn.fetchval(
            "SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class"
            " WHERE oid = to_regclass('schema_migrations')"
        )
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL went away") from error
    finally:
        await database.close(conn)
    return is_owner is not False


async def exists(dsn: str, role: str) -> bool:
    """Whether there is such a role; raises StoreUnavailable when PostgreSQL is away."""
    conn = await database.connect(dsn)
    try:
        found = await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL went away") from error
    finally:
        await database.close(conn)
    return found is not None


async def runtime_roles(owner_dsn: str) -> list[str]:
    """Whom `grant` made a runtime role of this schema; raises StoreUnavailable."""
    conn = await database.connect(owner_dsn)
    try:
        rows = await conn.fetch(_RUNTIME, _FUNCTIONS[0])
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL went away") from error
    finally:
        await database.close(conn)
    return [row["rolname"] for row in rows]


async def grant(owner_dsn: str, role: str, *, make: bool = False) -> None:
    """Give the runtime role exactly what it needs; called after every migration, changes only.

    `make`: it is made when it is missing, without a password. Raises ConfigError when it is
    missing, or may what cannot be taken from it, with the statement that mends it.
    """
    conn = await database.connect(owner_dsn, statement_timeout_s=30)
    try:
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock(43, 1)")  # beside the migrations' lock
            await _grant(conn, role, make=make)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigError(
            f"SMSGW_MIGRATE_DATABASE_URL: its role may not grant ({error.args[0]}); "
            "it must own the schema and the database"
        ) from error
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL granted nothing") from error
    finally:
        await database.close(conn)


async def _grant(conn: Connection, role: str, *, make: bool) -> None:
    name = quoted(role)
    if not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
        if not make:
            raise ConfigError(
                f"SMSGW_DATABASE_URL: there is no role {role}; make it with "
                f"CREATE ROLE {name} LOGIN PASSWORD '…'"
            )
        await conn.execute(f"CREATE ROLE {name} LOGIN")
    schema = await conn.fetchval("SELECT quote_ident(current_schema())")
    place = await conn.fetchval("SELECT quote_ident(current_database())")
    if await conn.fetchval("SELECT has_schema_privilege($1, current_schema(), 'CREATE')", role):
        await conn.execute(f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {name}")
    if not await conn.fetchval("SELECT has_schema_privilege($1, current_schema(), 'USAGE')", role):
        await conn.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
    if not await conn.fetchval(
        "SELECT has_database_privilege($1, current_database(), 'CONNECT')"
        " AND has_database_privilege($1, current_database(), 'TEMP')",
        role,
    ):
        await conn.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {place} TO {name}")
    for row in await conn.fetch(_TABLES, role, list(_GRANTS)):
        await _grant_table(conn, name, row["name"], frozenset(row["has"]))
    for function in _FUNCTIONS:
        if not await conn.fetchval(
            "SELECT has_function_privilege($1, $2, 'EXECUTE')", role, function
        ):
            await conn.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {name}")
    await _grant_ending(conn, role)
    why = await excess(conn, role)
    if why is not None:
        raise ConfigError(
            f"SMSGW_DATABASE_URL: the role {role} {why}, so the audit log would not be append-only "
            "by grant; name a role of its own there, or leave SMSGW_MIGRATE_DATABASE_URL unset"
        )


async def _grant_ending(conn: Connection, role: str) -> None:
    """Let the owner end a dead process's connections of that role, where it may say so.

    Who made the role may (PostgreSQL 16: ADMIN); elsewhere a takeover waits (store.processes).
    """
    if not await conn.fetchval("SELECT pg_has_role(current_user, $1::text, 'USAGE')", role):
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.execute(f"GRANT {quoted(role)} TO CURRENT_USER")


async def _grant_table(conn: Connection, role: str, table: str, has: frozenset[str]) -> None:
    wanted = LESS.get(table, _ALL)
    if has - wanted:
        more = ", ".join(sorted(has - wanted))
        await conn.execute(f"REVOKE {more} ON {quoted(table)} FROM {role}, PUBLIC")
    if wanted - has:
        await conn.execute(f"GRANT {', '.join(sorted(wanted - has))} ON {quoted(table)} TO {role}")


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'
