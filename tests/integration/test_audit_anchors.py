"""The audit log over its years: anchors, and rows that end up to one of them."""

import asyncpg
import pytest

from store import database
from store.audit import AuditLog, Author, anchor
from store.config import ConfigStore
from store.objects import Upsert
from store.retention import Kept, Retention
from store.seal import Keyring
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

OPS = Author("command", "test")
KEY = Keyring(MASTER).audit_key


class Log:
    """A log whose rows can be as old as they like."""

    def __init__(self, pool, conn):
        self.store = ConfigStore(pool, Keyring(MASTER))
        self.audit = AuditLog(pool, KEY)
        self.conn = conn

    async def write(self, rows, days_ago):
        first = 1 + (await self.conn.fetchval("SELECT coalesce(max(id), 0) FROM audit_events"))
        for number in range(first, first + rows):
            await self.store.apply([Upsert("tenant", f"t{number}", {}, {})], OPS)
        await self.conn.execute(
            "ALTER TABLE audit_events DISABLE TRIGGER USER;"
            f" UPDATE audit_events SET at = at - interval '{days_ago} days' WHERE id >= {first};"
            " ALTER TABLE audit_events ENABLE TRIGGER USER"
        )

    async def anchor(self):
        async with self.conn.transaction():
            return await anchor(self.conn, KEY)

    async def trim(self, kept_days=184):
        return await self.conn.fetchval("SELECT trim_audit($1)", kept_days)

    async def tamper(self, sql):
        for table in ("audit_events", "audit_anchors"):
            await self.conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        await self.conn.execute(sql)


@pytest.fixture
async def log(dsn):
    pool = await database.open_pool(dsn, size=2)
    conn = await database.connect(dsn, statement_timeout_s=30)
    yield Log(pool, conn)
    await conn.close()
    pool.terminate()


async def test_each_day_that_is_over_gets_one_anchor(log):
    await log.write(3, 200)
    await log.write(2, 190)
    await log.write(2, 0)
    made = await log.anchor()
    assert [one.id for one in made] == [3, 5]
    assert made[0].day < made[1].day
    assert await log.anchor() == []
    assert (await log.audit.verify())[:2] == (7, None)


async def test_rows_end_after_their_time_and_the_chain_goes_on_from_the_anchor(log):
    await log.write(3, 200)
    await log.write(2, 190)
    await log.write(2, 100)
    assert await log.trim() == 0  # nothing is anchored yet
    await log.anchor()
    assert await log.trim(400) == 0
    assert await log.trim(1) == 5  # never less than the law asks for
    assert (await log.audit.verify())[:2] == (2, None)
    await log.write(1, 0)
    assert [row.id for row in await log.audit.page(9)] == [8, 7, 6]
    assert (await log.audit.verify())[:2] == (3, None)
    assert await log.conn.fetchval("SELECT count(*) FROM audit_anchors") == 3  # they stay


async def test_a_log_in_which_nothing_has_changed_for_long_keeps_its_newest_row(log):
    """The next row takes up its number and hash."""
    await log.write(2, 300)
    await log.write(2, 250)
    await log.anchor()
    assert await log.trim() == 2
    assert [row.id for row in await log.audit.page(9)] == [4, 3]
    assert await log.trim() == 0
    await log.write(1, 0)
    assert (await log.audit.verify())[:2] == (3, None)


@pytest.mark.parametrize(
    ("sql", "broken_at"),
    [
        ("DELETE FROM audit_events WHERE id = 7", 7),  # the end is cut off, behind an anchor
        ("DELETE FROM audit_events", 1),
        ("DELETE FROM audit_events WHERE id = 6", 6),
        ("UPDATE audit_anchors SET hash = sha256(hash) WHERE id = 5", 1),  # its first row: no base
        ("UPDATE audit_anchors SET seal = sha256(seal) WHERE id = 7", 7),
        ("UPDATE audit_anchors SET day = day - 1 WHERE id = 7", 7),
        ("DELETE FROM audit_anchors", 1),
        # more than what was over is gone, and an anchor was made for it without the key
        (
            "DELETE FROM audit_events WHERE id = 6; DELETE FROM audit_anchors WHERE id = 6;"
            "INSERT INTO audit_anchors SELECT day - 1, 6, hash, seal FROM audit_anchors"
            " WHERE id = 7",
            1,
        ),
    ],
)
async def test_what_was_tampered_with_is_found(log, sql, broken_at):
    await log.write(5, 200)
    await log.write(2, 100)
    await log.anchor()
    assert await log.trim() == 5
    await log.tamper(sql)
    assert (await log.audit.verify()).broken_at == broken_at


@pytest.mark.parametrize(
    "sql",
    [
        "SET smsgw.audit_trim = 'on'; DELETE FROM audit_events",
        "SET smsgw.audit_trim = 'on'; DELETE FROM audit_events WHERE id = 4",  # over, no anchor
        "SET smsgw.audit_trim = 'on'; DELETE FROM audit_events WHERE id > 5",  # too young
        "SET smsgw.audit_trim = 'on'; UPDATE audit_events SET at = '2020-01-01'",
        "SET smsgw.audit_trim = 'on'; TRUNCATE audit_events",
        "SET smsgw.audit_trim = 'on'; DELETE FROM audit_anchors",
    ],
)
async def test_not_even_the_owner_ends_rows_in_another_way(log, sql):
    await log.write(5, 200)
    await log.write(2, 0)
    await log.anchor()
    with pytest.raises(asyncpg.PostgresError) as refused:
        await log.conn.execute(sql)
    assert refused.value.sqlstate == "SG002"
    assert (await log.audit.verify())[:2] == (7, None)


async def test_a_round_of_upkeep_anchors_trims_and_tells_it(log):
    await log.write(5, 200)
    await log.write(2, 100)
    retention = Retention(log.conn, KEY, Kept())
    ended = await retention.round(await retention.clock())
    assert ended is not None
    assert ended.rows["audit_events"] == 5
    assert (await log.audit.verify()).broken_at is None
    [told, *_] = await log.audit.page(1)
    assert '"action":"audit_events.trimmed"' in told.body
    assert '"rows":5' in told.body
