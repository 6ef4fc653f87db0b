"""What a migration did, judged as an expansion: may code of before go on beside it, unhindered?

    catalog before ─▶ the file, in its transaction ─▶ locks it holds, catalog after ─▶ findings

Whatever table was there before is taken for one in use. A file that must break a rule says so in
itself, with the reason: `-- allow fills: the table has one row`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from store.database import AnyConnection
from store.schema import Migration
from tests.support.catalog import Catalog, Row, catalog, locked, with_a_partition

BOOKS = "schema_migrations"
_ALLOW = re.compile(r"^-- allow ([a-z-]+): \S.+$", re.MULTILINE)
# Stands in the way of writers (PostgreSQL manual 13.3.1).
_STRONG = {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}

RULES = {
    "drops": "takes something away that code of before may use",
    "changes": "makes something else of what code of before knows",
    "rewrites": "writes a whole table anew under a lock: a column's default is constant",
    "narrows": "refuses what code of before writes: NOT VALID, a default, a later release",
    "indexes": "builds an index while writers wait: store/indexes.py builds it beside them",
    "fills": "writes rows of a table in use: fill it in batches, from code",
    "locks": "takes locks of more than one table in use: one file each",
    "hooks": "puts a trigger before what code of before writes",
}


def allowed(migration: Migration) -> set[str]:
    """The rules that the file says it must break."""
    found = set(_ALLOW.findall(migration.sql))
    assert found <= RULES.keys(), f"{migration.name}: unknown rules {found - RULES.keys()}"
    return found


async def apply(conn: AnyConnection, migration: Migration) -> dict[str, list[str]]:
    """Run it and commit; the rules it breaks, each with what it did."""
    await with_a_partition(conn)
    before = await catalog(conn, with_files=True)
    async with conn.transaction():
        await conn.execute(migration.sql)
        held = await locked(conn)
    after = await catalog(conn, with_files=True)
    found: dict[str, list[str]] = {}
    for rule, what in [*_lost(before, after), *_narrowed(before, after), *_slow(before, after)]:
        found.setdefault(rule, []).append(what)
    in_use = before.tables.keys() - {BOOKS}
    filled = [name for name, modes in held.items() if "RowExclusiveLock" in modes]
    if fills := sorted(in_use & set(filled)):
        found["fills"] = fills
    strong = sorted(name for name, modes in held.items() if name in in_use and modes & _STRONG)
    if len(strong) > 1:
        found["locks"] = strong
    return found


def _lost(before: Catalog, after: Catalog) -> Iterator[tuple[str, str]]:
    for kind in ("tables", "columns", "indexes", "constraints", "triggers", "functions"):
        then: dict[str, Row] = getattr(before, kind)
        now: dict[str, Row] = getattr(after, kind)
        for name, row in then.items():
            if name not in now:
                yield "drops", f"{kind} {name}"
            elif kind == "tables":
                if row != now[name]:
                    yield "rewrites", name
            elif kind == "columns":
                if row["type"] != now[name]["type"]:
                    yield "changes", name
            elif row["told"] != now[name]["told"]:
                yield "changes", f"{kind} {name}"


def _narrowed(before: Catalog, after: Catalog) -> Iterator[tuple[str, str]]:
    for name, row in after.columns.items():
        if name.partition(".")[0] not in before.tables:
            continue
        known = before.columns.get(name)
        was_needed = known is not None and known["is_needed"]
        if row["is_needed"] and not was_needed and not (known is None and row["has_default"]):
            yield "narrows", name
        if known is not None and known["has_default"] and not row["has_default"]:
            yield "narrows", name
    for name, row in after.constraints.items():
        is_new = name not in before.constraints and row["of"] in before.tables
        if is_new and (row["is_valid"] or row["kind"] in "upx"):
            yield "narrows", name


def _slow(before: Catalog, after: Catalog) -> Iterator[tuple[str, str]]:
    for name, row in after.indexes.items():
        # ON ONLY a parent: not valid, for nothing was built
        if name not in before.indexes and row["of"] in before.tables and row["is_valid"]:
            yield "indexes", name
    for name, row in after.triggers.items():
        if name not in before.triggers and row["of"] in before.tables:
            yield "hooks", name
