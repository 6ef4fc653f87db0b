"""Every `pre` migration expands: what it may not do is looked for in what it did.

Files that ran before this rule are named here with what they did. A new one obeys, or says in
itself why not (`tests/support/expanding.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from store import database, schema
from store.schema import Migration
from tests.support import expanding
from tests.support.postgres import Server

pytestmark = pytest.mark.integration

# Before anybody had a database that could not be stopped for a minute.
BEFORE_THE_RULE = {
    "0002_pre_workers.sql": {"changes", "fills", "hooks", "indexes", "locks", "narrows"},
    "0003_pre_door.sql": {"fills", "indexes"},
    "0006_pre_commands.sql": {"indexes"},
    "0007_pre_policy.sql": {"indexes", "drops", "changes"},
    "0008_pre_reads.sql": {"locks"},
    "0012_pre_vendors.sql": {"indexes"},
    "0014_pre_webhook_attempts.sql": {"indexes"},
}


@pytest.fixture
async def conn(postgres_server: Server) -> AsyncIterator[database.Connection]:
    """An empty database."""
    await postgres_server.admin("CREATE DATABASE expanding")
    conn = await database.connect(postgres_server.dsn("expanding"), statement_timeout_s=60)
    yield conn
    await conn.close()
    await postgres_server.admin("DROP DATABASE expanding WITH (FORCE)")


async def test_every_expanding_migration_takes_nothing_away_and_holds_nobody_up(
    conn: database.Connection,
) -> None:
    broken = {}
    for migration in schema.files():
        found = await expanding.apply(conn, migration)
        if migration.is_contracting:
            continue
        told = BEFORE_THE_RULE.get(migration.name, set()) | expanding.allowed(migration)
        assert told <= found.keys(), f"{migration.name} does not break {told - found.keys()}"
        if unsaid := {rule: what for rule, what in found.items() if rule not in told}:
            broken[migration.name] = {
                f"{rule} ({expanding.RULES[rule]})": what for rule, what in unsaid.items()
            }
    assert broken == {}


BAD = {
    "ALTER TABLE t DROP COLUMN a": "drops",
    "ALTER TABLE t RENAME COLUMN a TO c": "drops",
    "ALTER TABLE t RENAME TO u": "drops",
    "DROP INDEX t_a": "drops",
    "DROP TRIGGER g ON t": "drops",
    "ALTER TABLE t DROP CONSTRAINT positive": "drops",
    "ALTER TABLE t ALTER COLUMN a TYPE bigint": "changes",
    "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'": (
        "changes"
    ),
    "ALTER TABLE t DISABLE TRIGGER g": "changes",
    "ALTER TABLE t ADD COLUMN c timestamptz DEFAULT clock_timestamp()": "rewrites",
    "ALTER TABLE t ADD COLUMN c bigint GENERATED ALWAYS AS IDENTITY": "rewrites",
    "ALTER TABLE t ALTER COLUMN b SET NOT NULL": "narrows",
    "ALTER TABLE t ADD COLUMN c int NOT NULL": "narrows",
    "ALTER TABLE t ALTER COLUMN a DROP DEFAULT": "narrows",
    "ALTER TABLE t ADD CHECK (b > 0)": "narrows",
    "ALTER TABLE t ADD UNIQUE (b)": "narrows",
    "ALTER TABLE t ADD FOREIGN KEY (b) REFERENCES s": "narrows",
    "CREATE INDEX ON t (b)": "indexes",
    "UPDATE t SET b = 1": "fills",
    "INSERT INTO s VALUES (1)": "fills",
    "DELETE FROM t": "fills",
    "ALTER TABLE t ADD COLUMN c int; ALTER TABLE s ADD COLUMN c int": "locks",
    "CREATE TRIGGER h BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()": "hooks",
}
GOOD = (
    "CREATE TABLE n (id int PRIMARY KEY, of int UNIQUE); INSERT INTO n VALUES (1, 2)",
    "ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 0, ADD COLUMN d text, SET (fillfactor = 70)",
    "ALTER TABLE t ADD CHECK (b > 0) NOT VALID",
    "CREATE INDEX ON ONLY p (a)",
    "CREATE FUNCTION n() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE t ALTER COLUMN b SET DEFAULT 3",
)
WORLD = """
CREATE TABLE s (id int PRIMARY KEY, b int);
CREATE TABLE t (a int DEFAULT 1, b int, CONSTRAINT positive CHECK (a > 0));
CREATE TABLE p (a int) PARTITION BY RANGE (a);
CREATE INDEX t_a ON t (a);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();
"""


async def test_the_rules_find_what_they_are_for(conn: database.Connection) -> None:
    for sql, rule in [*BAD.items(), *((sql, "") for sql in GOOD)]:
        await conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await conn.execute(WORLD)
        found = await expanding.apply(conn, Migration.of("9001_pre_bad.sql", sql))
        assert rule in found if rule else not found, (sql, found)
