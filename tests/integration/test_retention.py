"""What was kept long enough ends beside the traffic, once, whatever kills the one who ends it."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from gateway.settings import Settings
from gateway.upkeep import kept_of
from sms.errors import ConfigError
from sms.ids import IdClock, id_at, to_text
from store import database, partitions, retention
from store.partitions import TABLES, day_range, name_of, today
from store.read import Reader
from store.retention import Kept, Retention
from store.seal import Keyring, date_of, day_of
from tests.support.postgres import MASTER, World, text
from tests.support.reading_world import Door

pytestmark = pytest.mark.integration

KEPT = Kept()
DAY_S = 86_400
LAST = KEPT.messages_days + 1  # days back of the newest day that is over


class Old:
    """A database with messages of days that are over, and of one that is not yet."""

    retention: Retention

    def __init__(self, world, conn):
        self.world = world
        self.conn = conn  # the owner's
        self.now = time.time()
        self.ids = {}  # days back to message ids

    @classmethod
    async def make(cls, dsn, backs, *, rows=20):
        world = await World.make(dsn)
        conn = await database.connect(dsn, statement_timeout_s=60)
        old = cls(world, conn)
        for back in backs:
            await old.fill(back, rows)
        await conn.execute("UPDATE processes SET low_water = $1", id_at(old.now))
        await world.pool.execute("UPDATE walks SET position = $1", id_at(old.now))
        old.retention = Retention(conn, world.keyring.audit_key, KEPT)
        return old

    async def fill(self, back, rows):
        """Messages accepted and submitted so many days ago."""
        then = self.now - back * DAY_S
        await partitions.ensure(self.conn, self.world.keyring, days_ahead=0, now=then)
        self.world.ids = IdClock(self.world.lease.process, 0, lambda: then)
        acceptor = await self.world.acceptor()
        lane = await self.world.event_lane()
        messages = [text(created_at=then, valid_until=then + 60) for _ in range(rows)]
        await acceptor.accept(messages)
        lane.add([self.world.event(one.id, at=then) for one in messages], urgent=True)
        await acceptor.stop()
        await lane.stop()
        self.ids[back] = [one.id for one in messages]
        self.world.ids = IdClock(self.world.lease.process, 0, time.time)

    async def round(self):
        return await self.retention.round(self.now)

    async def days(self, table="messages"):
        """How many days back its partitions are."""
        rows = await self.conn.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ $1",
            f"^{table}_[0-9]{{8}}$",
        )
        here = today(self.now)
        found = (retention._day_of(table, row["relname"]) for row in rows)
        return sorted(here - day for day in found if day is not None)

    async def state(self):
        return {one.what: one for one in await retention.look(self.conn)}


@pytest.fixture
async def old(dsn):
    made = await Old.make(dsn, [LAST - 1, LAST + 1])  # each with the day before it
    yield made
    await made.conn.close()
    await made.world.close()


async def test_days_that_are_over_are_dropped_with_their_keys_and_told(old):
    before = await old.conn.fetchval("SELECT count(*) FROM data_keys")
    kept, gone = old.ids[LAST - 1], old.ids[LAST + 1]
    done_at = (await old.state())["messages"].done_at
    ended = await old.round()
    names = [
        name_of(table, today(old.now) - back)
        for back in (LAST + 2, LAST + 1, LAST)
        for table in ("messages", "inbound", "events")
    ]
    assert [name for name in ended.partitions if "attempts" not in name] == names
    for table in ("messages", "inbound", "events"):
        assert await old.days(table) == [-2, -1, 0, 1, LAST - 1]
    assert await old.days("webhook_attempts") == [-2, -1, 0, 1]
    # the keys of those days and no others
    assert ended.rows == {"data_keys": 3 * 16}
    assert await old.conn.fetchval("SELECT count(*) FROM data_keys") == before - 3 * 16
    oldest = await old.conn.fetchval("SELECT min(day) FROM data_keys")
    assert oldest == date_of(today(old.now) - LAST + 1)
    reader = Reader(old.world.pool, Keyring(MASTER))
    assert (await reader.messages(gone)) == {}
    assert set(await reader.messages(kept)) == set(kept)
    state = await old.state()
    assert (state["messages"].dropped, state["data_keys"].dropped) == (3, 48)
    assert state["messages"].done_at > done_at
    assert round((old.now - state["messages"].oldest_at) / DAY_S - 0.5) in (LAST - 1, LAST - 2)
    bodies = [
        json.loads(row["body"]) for row in await old.conn.fetch("SELECT body FROM audit_events")
    ]
    dropped = [body["object"]["name"] for body in bodies if body["action"] == "partition.dropped"]
    assert dropped == ended.partitions
    assert bodies[0]["actor"]["name"] == "retention"
    assert [body["action"] for body in bodies].count("data_keys.destroyed") == 1
    # nothing more the second time
    again = await old.round()
    assert (again.partitions, again.rows, again.held) == ([], {}, {})


async def test_what_is_gone_is_answered_like_what_never_was(old):
    [gone, *_], [kept, *_] = old.ids[LAST + 1], old.ids[LAST - 1]
    carrier_id = f"c{gone}"
    door = await Door.open(old.world)
    door.flow.reader = old.world.reader
    try:
        assert (await door.call("GET", f"/v1/messages/{to_text('msg', kept)}")).status_code == 200
        assert to_text("msg", gone) in {row["id"] for row in await door.all()}
        await old.round()
        for path in ("", "/timeline"):
            answer = await door.call("GET", f"/v1/messages/{to_text('msg', gone)}{path}")
            assert answer.status_code == 404, path
        told = {row["id"] for row in await door.all()}
        assert told == {to_text("msg", one) for one in old.ids[LAST - 1]}
        # a receipt that comes after all that time finds nobody
        assert await old.world.reader.by_carrier_ids([(1, carrier_id)], now=old.now) == {}
        assert await old.world.reader.heads([gone]) == []
    finally:
        await door.close()


UNDER_WAY = {
    "a parked message": "INSERT INTO parked (message_id, due, why, class, tenant, process)"
    " VALUES ({id}, now(), 3, 0, 1, {process})",
    "a message past its deadline": "INSERT INTO deadlines VALUES ({id}, now())",
    "an overdue message": "INSERT INTO overdue (message_id, channel, since, due)"
    " VALUES ({id}, 1, now(), now())",
    "a claimed message": "INSERT INTO claims VALUES ({process}, 9, '{{{id}}}')",
    "the low-water mark": "UPDATE processes SET low_water = {id}",
    "the walk to the receipt deadline": "UPDATE walks SET position = {id} - 1 WHERE kind = 0",
}


async def test_a_message_that_is_not_at_its_end_holds_its_day_and_all_after_it(old):
    owner = await old.world.opener()()
    [under_way, *_] = old.ids[LAST + 1]
    words = {"id": under_way, "process": old.world.lease.process}
    before = (await old.state())["messages"].done_at
    for why, sql in UNDER_WAY.items():
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(sql.format(**words))
        await transaction.commit()
        ended = await old.round()
        assert why in ended.held["messages"], (why, ended.held)
        # the empty day below it has gone the first time
        assert all(
            name.endswith(f"{date_of(today(old.now) - LAST - 2):%Y%m%d}")
            for name in ended.partitions
            if "attempts" not in name
        )
        assert ended.held.keys() == {"messages", "inbound", "events", "data_keys"}
        state = await old.state()
        assert why in state["messages"].held
        assert state["events"].done_at == (await old.state())["events"].done_at
        assert state["messages"].done_at == before
        for table in ("parked", "deadlines", "overdue", "claims"):
            await owner.execute(f"DELETE FROM {table}")
        await owner.execute(f"UPDATE processes SET low_water = {id_at(old.now)}")
        await owner.execute(f"UPDATE walks SET position = {id_at(old.now)}")
    await owner.close()
    assert set(await old.world.reader.messages(old.ids[LAST + 1]))
    ended = await old.round()
    assert ended.held == {}
    assert (await old.state())["messages"].held is None


async def test_rows_of_small_tables_end_too(old):
    at = datetime.fromtimestamp(old.now - LAST * DAY_S, UTC)
    lately = datetime.fromtimestamp(old.now - 150 * DAY_S, UTC)
    long_ago = datetime.fromtimestamp(old.now - 190 * DAY_S, UTC)
    await old.conn.execute(
        "INSERT INTO objects (kind, id, name, version, spec, deleted_at) VALUES"
        " ('tenant', 1, 'gone', 1, '{}', $1), ('tenant', 2, 'going', 1, '{}', $2),"
        " ('tenant', 3, 'here', 1, '{}', NULL)",
        long_ago,
        lately,
    )
    listed = [(0, None), (1, None), (2, None), (3, long_ago), (3, lately), (3, None)]
    for number, (tenant, ended_at) in enumerate(listed):
        await old.conn.execute(
            "INSERT INTO suppressions (tenant, number_index, number, classes, change, created_at,"
            " deleted_at) VALUES ($1, $2::bigint, '', 1, $2::bigint, now(), $3)",
            tenant,
            number,
            ended_at,
        )
    for then in (at, lately):
        await old.conn.execute("INSERT INTO quarantine VALUES (1, $1, 's', 'e', '')", then)
        first = id_at(then.timestamp())
        await old.conn.execute(
            "INSERT INTO batches (first_id, last_id, tenant, at)"
            " VALUES ($1::bigint, $1::bigint + 1, 1, $2)",
            first,
            then,
        )
    ended = await old.round()
    assert {**ended.rows, "data_keys": 0} == {
        "data_keys": 0,
        "batches": 1,
        "quarantine": 1,
        "suppressions": 2,
    }
    left = await old.conn.fetch("SELECT number_index FROM suppressions ORDER BY 1")
    assert [row["number_index"] for row in left] == [0, 2, 4, 5]


async def test_one_process_at_a_time(old, dsn):
    other = await database.connect(dsn)
    await other.execute("SELECT pg_advisory_lock(58, 0)")
    assert await old.round() is None
    assert LAST in await old.days()
    await other.close()


class Senders:
    """A worker that accepts and settles without a pause, and the longest wait for a lock seen."""

    def __init__(self, world):
        self.world = world
        self.accepted = 0
        self.longest_s = 0.0
        self.stop = False

    async def send(self, per_turn=25):
        acceptor = await self.world.acceptor()
        lane = await self.world.event_lane()
        while not self.stop:
            messages = [text() for _ in range(per_turn)]
            await acceptor.accept(messages)
            lane.add([self.world.event(one.id) for one in messages], urgent=True)
            self.accepted += per_turn
            await asyncio.sleep(per_turn / 500)

    async def watch(self, dsn):
        """Waits of backends that serve the worker; the one who drops waits as long as it likes."""
        conn = await database.connect(dsn)
        while not self.stop:
            waited = await conn.fetchval(
                "SELECT max(extract(epoch FROM clock_timestamp() - l.waitstart))::float8"
                " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE NOT l.granted AND starts_with(a.application_name, 'smsgw/')"
            )
            self.longest_s = max(self.longest_s, waited or 0.0)
            await asyncio.sleep(0.002)
        await conn.close()


@contextlib.asynccontextmanager
async def sending(old, dsn):
    senders = Senders(old.world)
    tasks = [asyncio.create_task(senders.send()), asyncio.create_task(senders.watch(dsn))]
    try:
        async with asyncio.timeout(60):
            while senders.accepted < 100 and not tasks[0].done():  # noqa: ASYNC110 - a count
                await asyncio.sleep(0.01)
        yield senders
    finally:
        senders.stop = True
        await asyncio.gather(*tasks)


async def test_days_go_while_messages_come_and_nobody_waits(dsn):
    backs = range(LAST, LAST + 8, 2)
    old = await Old.make(dsn, backs, rows=2000)
    async with sending(old, dsn) as senders:
        before = senders.accepted
        ended = await old.round()
        during = senders.accepted - before
    assert len([name for name in ended.partitions if name.startswith("messages")]) == 8
    assert during > 0
    print(
        f"\n{len(ended.partitions)} partitions, {during} messages meanwhile,"
        f" longest wait for a lock {senders.longest_s * 1000:.1f} ms"
    )
    assert senders.longest_s < retention.LOCK_MS / 1000 + 0.1  # what the statement gives up after
    heard = old.world.heard
    assert (heard.refused, heard.quarantined, heard.leases_lost) == ([], [], 0)
    assert (
        await old.conn.fetchval(
            "SELECT count(*) FROM messages WHERE id > $1", day_range(today(old.now) - 2)[0]
        )
        == senders.accepted
    )
    await old.conn.close()
    await old.world.close()


async def upkeep(dsn, data_dir):
    """`smsgw upkeep` in a process of its own."""
    key = data_dir / "master.key"
    key.write_bytes(base64.b64encode(MASTER))
    key.chmod(0o600)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SMSGW_")}
    env |= {
        "SMSGW_DATABASE_URL": dsn,
        "SMSGW_DATA_DIR": str(data_dir),
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "upkeep", "--json"),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def until(what, *, seconds=60):
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110 - asked of the database
            await asyncio.sleep(0.02)


async def test_one_that_is_killed_in_a_detach_leaves_it_to_the_next(dsn, durable, tmp_path):
    old = await Old.make(dsn, [LAST])
    reader = await database.connect(dsn, statement_timeout_s=600)
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM messages")  # an export that runs for long

    async def is_pending():
        return await old.conn.fetchval(
            "SELECT bool_or(inhdetachpending) FROM pg_inherits"
            " WHERE inhparent = 'messages'::regclass"
        )

    async with sending(old, dsn) as senders:
        first = await upkeep(dsn, tmp_path)
        await until(is_pending)
        first.send_signal(signal.SIGKILL)
        await first.wait()
        before = senders.accepted
        await asyncio.sleep(0.5)
        assert senders.accepted > before  # a detach that waits holds nobody up
        assert await is_pending()
        await transaction.rollback()
        second = await upkeep(dsn, tmp_path)
        told, words = await second.communicate()
        assert second.returncode == 0, words
    assert LAST not in await old.days()
    assert not await is_pending()
    state = await old.state()
    # what one of the two had dropped is told once
    bodies = [
        json.loads(row["body"]) for row in await old.conn.fetch("SELECT body FROM audit_events")
    ]
    names = [body["object"]["name"] for body in bodies if body["action"] == "partition.dropped"]
    assert len(names) == len(set(names)) == sum(state[table].dropped for table in TABLES)
    assert name_of("messages", today(old.now) - LAST) in names
    assert json.loads(told.splitlines()[-1])["is_done"] is True
    assert old.world.heard.refused == []
    assert senders.longest_s < retention.LOCK_MS / 1000 + 0.1
    await reader.close()
    await old.conn.close()
    await old.world.close()


async def test_what_stands_detached_is_dropped(old):
    name = name_of("messages", today(old.now) - LAST)
    await old.conn.execute(f"ALTER TABLE messages DETACH PARTITION {name} CONCURRENTLY")
    await old.conn.execute("CREATE TABLE webhook_attempts_20260101 (LIKE webhook_attempts)")
    await old.conn.execute("CREATE TABLE messages_20269999 (id int)")  # nobody's day
    ended = await old.round()
    assert {name, "webhook_attempts_20260101"} <= set(ended.partitions)
    assert await old.conn.fetchval("SELECT to_regclass('messages_20269999')") is not None


@pytest.mark.parametrize(
    ("name", "least"),
    [("MESSAGES", 191), ("OPTOUTS", 153), ("AUDIT", 184), ("ATTEMPTS", 7)],
)
def test_less_than_the_law_asks_for_stops_the_start(name, least):
    setting = f"SMSGW_RELIABILITY__RETENTION_{name}_DAYS"
    with pytest.raises(ConfigError, match=f"{setting}: give {least} to"):
        Settings.load({setting: str(least - 1)})
    assert kept_of(Settings.load({setting: str(least)})) == replace(
        KEPT, **{f"{name.lower()}_days": least}
    )
    assert kept_of(Settings.load({})) == KEPT


def test_ids_and_days_agree_with_the_function_of_the_database():
    assert day_of(day_range(today(time.time()))[0]) == today(time.time())
