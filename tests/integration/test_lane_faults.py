"""Faults of our own and of PostgreSQL round the lanes: nobody waits for ever, nothing stops."""

import asyncio
import math
import time
from typing import cast

import asyncpg
import pytest

from sms.errors import OutcomeUnknown, StoreUnavailable
from store import database, partitions
from store.config import ConfigStore
from store.link import Aborted, Link
from store.read import Reader
from tests.support.cutter import Cutter
from tests.support.postgres import text

pytestmark = pytest.mark.integration


def broken(*_):
    raise RuntimeError("a bug of ours")


async def eventually(is_so, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_a_request_that_gave_up_does_not_disturb_the_flush_it_was_in(world):
    acceptor = await world.acceptor(lanes=1)
    calls = [[text()] for _ in range(3)]
    futures = [acceptor.accept(messages) for messages in calls]
    futures[1].cancel()
    await asyncio.gather(futures[0], futures[2])
    assert world.heard.committed == [message for messages in calls for message in messages]
    refused = acceptor.accept([text()])
    refused.cancel()
    conn = await database.connect(world.dsn)
    await conn.execute("ALTER TABLE messages ADD CHECK (segments < 2)")
    gone = acceptor.accept([text(texts=("a", "b"))])
    gone.cancel()
    await acceptor.accept([text()])
    assert len(world.heard.refused) == 1
    await conn.close()


async def test_a_claim_hook_that_fails_leaves_the_commit_and_the_other_hooks_standing(world):
    acceptor = await world.acceptor(lanes=1)
    ran = []
    world.claims.block([1], broken)
    world.claims.block([2], lambda: ran.append(2))
    message = text()
    await acceptor.accept([message])
    assert ran == [2]
    assert world.heard.committed == [message]
    assert acceptor.live == {message.id: message}


@pytest.mark.parametrize("error", [asyncpg.InvalidPasswordError("no"), RuntimeError("a bug")])
async def test_a_lane_that_cannot_connect_refuses_and_does_not_spin(world, error):
    acceptor = await world.acceptor(lanes=1)
    tries = []

    async def refuse():
        tries.append(time.monotonic())
        raise error

    link = acceptor._links[0]
    link._open_conn = refuse
    waiting = acceptor.accept([text()])
    link.abandon()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(waiting, 60)
    await asyncio.sleep(0.3)
    assert 1 <= len(tries) < 10
    link._open_conn = world.opener()
    await eventually(acceptor.is_up)
    await acceptor.accept([text()])


async def test_a_bug_in_a_flush_costs_that_flush_alone(world, monkeypatch):
    acceptor = await world.acceptor(lanes=1)
    ran = []
    world.claims.block([1], lambda: ran.append(1))
    run = Link.run
    monkeypatch.setattr(Link, "run", broken)
    message = text()
    with pytest.raises(OutcomeUnknown):
        await acceptor.accept([message])
    monkeypatch.setattr(Link, "run", run)
    await eventually(acceptor.is_up)
    await acceptor.accept([text()])
    assert ran == [1]  # the claim that rode on it went with the next one
    assert acceptor.pending_floor() == message.id  # recovery must look for it
    assert acceptor.oldest_write_age_s() == 0.0  # and nothing is shed for its sake


async def test_a_bug_in_a_flush_of_events_loses_no_claim_and_no_row(world, monkeypatch):
    acceptor = await world.acceptor()
    message = text()
    await acceptor.accept([message])
    lane = await world.event_lane()
    ran = []
    run = Link.run
    monkeypatch.setattr(Link, "run", broken)
    world.claims.block([message.id], lambda: ran.append(1))
    lane.kick()
    await asyncio.sleep(0.02)
    monkeypatch.setattr(Link, "run", run)
    await eventually(lambda: ran == [1])  # without anybody kicking again


async def test_stop_leaves_no_future_open_while_postgresql_hangs(world):
    acceptor = await world.acceptor(lanes=2)
    blocker = await database.connect(world.dsn)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE messages IN SHARE MODE")
        futures = [acceptor.accept([text()]) for _ in range(4)]
        await asyncio.sleep(0.1)
        futures.append(acceptor.accept([text()]))
        await acceptor.stop(timeout_s=0.2)
        ends = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)
    assert {type(end) for end in ends} <= {OutcomeUnknown, StoreUnavailable}
    assert OutcomeUnknown in {type(end) for end in ends}
    await blocker.close()


async def test_fragments_that_piled_up_do_not_make_a_flush_too_large_to_end(world, dsn):
    """While the store was away 300 fragments gathered: together they would outlast the time-out."""
    async with Cutter(dsn) as cutter:
        lane = await world.event_lane(cutter.dsn, max_rows=20, timeout_s=1.0)
        done = []
        for number in range(300):
            sql = "DO $$ BEGIN PERFORM pg_sleep(0.01); END $$;"
            lane.add([], urgent=False, sql=sql, done=lambda number=number: done.append(number))
        assert await lane.drain(60)
    assert done == list(range(300))


async def test_a_flush_that_outlasts_the_statement_timeout_is_divided(world):
    acceptor = await world.acceptor()
    messages = [text() for _ in range(40)]
    await acceptor.accept(messages)
    conn = await database.connect(world.dsn)
    await conn.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM pg_sleep(0.08); RETURN NEW; END $$;"
        "CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    await conn.close()
    lane = await world.event_lane()
    for message in messages:
        lane.add([world.event(message.id)], urgent=False)
    assert await lane.drain(60)
    assert len(world.heard.events) == 40
    assert world.heard.quarantined == []


class _Pool:
    def __init__(self, error):
        self.error = error

    def acquire(self, **_):
        raise self.error

    async def fetchval(self, *_):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DiskFullError("x"),
        asyncpg.DeadlockDetectedError("x"),
        asyncpg.ReadOnlySQLTransactionError("x"),
        asyncpg.InvalidPasswordError("x"),
        asyncpg.QueryCanceledError("x"),
    ],
)
async def test_trouble_of_the_server_is_unavailability_to_readers(world, error):
    pool = cast(database.Pool, _Pool(error))
    with pytest.raises(StoreUnavailable):
        await Reader(pool, world.keyring).fold_deltas(0)
    with pytest.raises(StoreUnavailable):
        await ConfigStore(pool, world.keyring).version()


async def test_a_full_disk_of_postgresql_is_remembered_and_refuses_certainly(world):
    link = Link(world.opener(), world.lease.process, 2.0, lambda: None)
    await link.connect()
    assert link.full_at == -math.inf
    full = "DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$"
    began = time.monotonic()
    with pytest.raises(Aborted, match="53100"):
        await link.run(full, None)
    assert began <= link.full_at <= time.monotonic()
    assert link.is_up()  # the connection is sound: the next flush asks again
    link.abandon()


async def test_partitions_that_cannot_be_made_now_are_made_later(world):
    conn = await database.connect(world.dsn)
    conn.terminate()
    with pytest.raises(StoreUnavailable):
        await partitions.ensure(conn, world.keyring, days_ahead=3, now=time.time())
    blocker, conn = await world.opener()(), await database.connect(world.dsn)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE messages")
        with pytest.raises(StoreUnavailable):
            await partitions.ensure(conn, world.keyring, days_ahead=3, now=time.time())
    assert len(await partitions.ensure(conn, world.keyring, days_ahead=3, now=time.time())) == len(
        partitions.TABLES
    )
    await blocker.close()
    await conn.close()
