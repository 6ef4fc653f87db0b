"""What a database is made of, as sets that can be compared: before and after, here and there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from store.database import AnyConnection

# name, then what may not change under code of before
_TABLES = """
SELECT c.relname::text AS name, c.relfilenode::text AS file FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
"""
_COLUMNS = """
SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
  a.attnotnull AS is_needed, a.atthasdef OR a.attidentity <> '' AS has_default
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
  AND a.attnum > 0 AND NOT a.attisdropped
"""
_INDEXES = """
SELECT c.relname::text AS name, t.relname::text AS of, x.indisvalid AS is_valid,
  pg_get_indexdef(c.oid) AS told
FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
WHERE c.relnamespace = 'public'::regnamespace
"""
_CONSTRAINTS = """
SELECT t.relname || ' ' || k.conname AS name, t.relname::text AS of, k.contype::text AS kind,
  k.convalidated AS is_valid, pg_get_constraintdef(k.oid) AS told
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
WHERE k.connamespace = 'public'::regnamespace AND k.contype <> 'n'
"""
_TRIGGERS = """
SELECT t.relname || ' ' || g.tgname AS name, t.relname::text AS of,
  g.tgenabled::text || ' ' || pg_get_triggerdef(g.oid) AS told
FROM pg_trigger g JOIN pg_class t ON t.oid = g.tgrelid
WHERE NOT g.tgisinternal AND t.relnamespace = 'public'::regnamespace
"""
_FUNCTIONS = """
SELECT p.proname::text AS name, md5(pg_get_functiondef(p.oid)) AS told
FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f'
"""
_LOCKS = """
WITH held AS (
  SELECT coalesce(x.indrelid, l.relation) AS oid, l.mode FROM pg_locks l
  LEFT JOIN pg_index x ON x.indexrelid = l.relation WHERE l.pid = pg_backend_pid()
)
SELECT DISTINCT c.relname::text AS name, held.mode FROM held
JOIN pg_class c ON c.oid = coalesce(pg_partition_root(held.oid), held.oid)
WHERE c.relnamespace = 'public'::regnamespace
"""

_CHILDLESS = """
SELECT relname FROM pg_class c WHERE relkind = 'p' AND relnamespace = 'public'::regnamespace
AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid)
"""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Each by name."""

    tables: dict[str, Row]
    columns: dict[str, Row]
    indexes: dict[str, Row]
    constraints: dict[str, Row]
    triggers: dict[str, Row]
    functions: dict[str, Row]


async def catalog(conn: AnyConnection, *, with_files: bool = False) -> Catalog:
    """Look; `with_files`: also in which file a table lies, which a rewrite changes."""
    found = [
        {row["name"]: dict(row) for row in await conn.fetch(sql)}
        for sql in (_TABLES, _COLUMNS, _INDEXES, _CONSTRAINTS, _TRIGGERS, _FUNCTIONS)
    ]
    if not with_files:
        for row in found[0].values():
            del row["file"]
    return Catalog(*found)


async def with_a_partition(conn: AnyConnection) -> None:
    """Give each partitioned table one, where it has none: what is done to it is done to that."""
    for row in await conn.fetch(_CHILDLESS):
        await conn.execute(f'CREATE TABLE "{row[0]}_rest" PARTITION OF "{row[0]}" DEFAULT')


async def locked(conn: AnyConnection) -> dict[str, set[str]]:
    """What this connection's transaction holds: modes by table.

    An index's lock counts as its table's, a partition's as its parent's.
    """
    held: dict[str, set[str]] = {}
    for row in await conn.fetch(_LOCKS):
        held.setdefault(row["name"], set()).add(row["mode"])
    return held
