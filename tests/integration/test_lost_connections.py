"""A connection that breaks inside a flush: adopt what committed, forget what did not."""

import asyncio
import os
import signal
import time

import pytest

from sms.errors import GatewayError, OutcomeUnknown, StoreUnavailable
from store import database
from tests.support.cutter import Cutter
from tests.support.postgres import text

pytestmark = pytest.mark.integration


@pytest.fixture
async def cutter(dsn):
    async with Cutter(dsn) as cutter:
        yield cutter


async def stored_ids(world):
    conn = await database.connect(world.dsn)
    rows = await conn.fetch("SELECT id FROM messages ORDER BY id")
    await conn.close()
    return [row["id"] for row in rows]


async def test_a_commit_whose_answer_is_lost_is_adopted(world, cutter):
    world.chooser = lambda messages: messages
    acceptor = await world.acceptor(cutter.dsn, lanes=1)
    messages = [text() for _ in range(3)]
    cutter.cut = "answer"
    await acceptor.accept(messages)
    assert cutter.cuts == 1
    assert world.heard.committed == messages
    assert world.heard.refused == []
    assert await stored_ids(world) == [message.id for message in messages]
    assert set(await world.reader.claims(0)) == {messages[0].claim}
    await acceptor.accept([text()])


async def test_a_flush_that_never_arrived_is_forgotten(world, cutter):
    world.chooser = lambda messages: messages
    acceptor = await world.acceptor(cutter.dsn, lanes=1)
    message = text()
    cutter.cut = "request"
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([message])
    assert world.heard.refused == [message]
    assert await stored_ids(world) == []
    await acceptor.accept([text()])
    assert len(await stored_ids(world)) == 1
    assert sum(map(len, (await world.reader.claims(0)).values())) == 1


async def test_a_backend_that_is_still_at_work_is_ended_before_asking(world, cutter):
    acceptor = await world.acceptor(cutter.dsn, lanes=1)
    blocker = await database.connect(world.dsn)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE messages IN SHARE MODE")
        message = text()
        cutter.cut = "sent"
        with pytest.raises((StoreUnavailable, OutcomeUnknown)) as caught:
            await acceptor.accept([message])
    assert caught.type is StoreUnavailable
    await asyncio.sleep(0.3)  # a backend that had survived would commit now
    assert await stored_ids(world) == []
    await acceptor.accept([text()])
    await blocker.close()


async def test_outcome_unknown_while_nobody_can_say_and_adopted_later(world, cutter):
    acceptor = await world.acceptor(cutter.dsn, lanes=1, timeout_s=0.3)
    message = text()
    cutter.cut, cutter.is_open = "answer", False
    with pytest.raises(OutcomeUnknown):
        await acceptor.accept([message])
    assert (world.heard.committed, world.heard.refused) == ([], [])
    assert acceptor.pending_floor() == message.id
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([text()])
    cutter.is_open = True
    for _ in range(100):
        await asyncio.sleep(0.05)
        if world.heard.committed:
            break
    assert world.heard.committed == [message]
    assert acceptor.live == {message.id: message}
    assert acceptor.pending_floor() is None


async def test_what_waits_behind_a_lost_flush_is_refused_not_forgotten(world, cutter):
    acceptor = await world.acceptor(cutter.dsn, lanes=1, timeout_s=0.3)
    cutter.cut, cutter.is_open = "request", False
    first = acceptor.accept([text()])
    await asyncio.sleep(0)
    second = acceptor.accept([text()])
    for future in (first, second):
        with pytest.raises(GatewayError):
            await asyncio.wait_for(future, 60)
    cutter.is_open = True
    for _ in range(100):
        await asyncio.sleep(0.05)
        if acceptor.pending_floor() is None:
            break
    assert await stored_ids(world) == []


@pytest.mark.parametrize("cut", ["answer", "request", "sent"])
async def test_event_rows_survive_a_lost_flush_once(world, cutter, cut):
    acceptor = await world.acceptor()
    messages = [text() for _ in range(50)]
    await acceptor.accept(messages)
    lane = await world.event_lane(cutter.dsn)
    block = world.claims.block([messages[0].id])
    cutter.cut = cut
    done = []
    lane.add([world.event(m.id) for m in messages], urgent=True, done=lambda: done.append(1))
    assert await lane.drain(60)
    assert cutter.cuts == 1
    assert len(world.heard.events) == 50
    assert world.heard.conflicts == []
    assert done == [1]
    conn = await database.connect(world.dsn)
    assert await conn.fetchval("SELECT count(*) FROM events") == 50
    await conn.close()
    assert (await world.reader.deltas())[1] == (50, 50, 0)
    assert set(await world.reader.claims(0)) == {block}


async def test_nothing_acknowledged_is_lost_when_postgresql_is_killed(world, postgres_server):
    acceptor = await world.acceptor(timeout_s=2.0)
    lane = await world.event_lane()
    ends: dict[int, str] = {}

    async def send():
        while time.monotonic() < until:
            message = text()
            try:
                await acceptor.accept([message])
            except StoreUnavailable:
                ends[message.id] = "refused"
                await asyncio.sleep(0.01)
            except OutcomeUnknown:
                ends[message.id] = "unknown"
            else:
                ends[message.id] = "stored"
                lane.add([world.event(message.id)], urgent=False)

    until = time.monotonic() + 4.0
    senders = [asyncio.create_task(send()) for _ in range(20)]
    await asyncio.sleep(1.0)
    os.kill(postgres_server.servers.pids()["postgres"], signal.SIGKILL)
    await asyncio.sleep(0.1)
    postgres_server.servers.restart_dead()
    await asyncio.gather(*senders)
    assert await lane.drain(60)
    for _ in range(100):
        if acceptor.pending_floor() is None:
            break
        await asyncio.sleep(0.05)
    there = set(await stored_ids(world))
    stored = {id for id, end in ends.items() if end == "stored"}
    refused = {id for id, end in ends.items() if end == "refused"}
    assert len(stored) > 100
    assert stored <= there
    assert not refused & there
    assert {message.id for message in world.heard.committed} == there
    conn = await database.connect(world.dsn)
    written = {row[0] for row in await conn.fetch("SELECT message_id FROM events")}
    await conn.close()
    assert written == stored == {row.message_id for row in world.heard.events}
    assert world.heard.conflicts == []


async def test_an_idle_accept_lane_commits_claims_alone(world):
    """While the event lane is busy, or has none to do it."""
    acceptor = await world.acceptor()
    claimed = asyncio.Event()
    number = world.claims.block([7, 8], claimed.set)
    acceptor.kick()
    await asyncio.wait_for(claimed.wait(), 60)
    assert await world.reader.claims(0) == {number: [7, 8]}
    world.claims.settled(number, 2)
    acceptor.kick()  # what ended is the event lane's
    message = text()
    await acceptor.accept([message])
    assert await world.reader.claims(0) == {number: [7, 8]}
    lane = await world.event_lane()
    assert await lane.drain(60)
    assert await world.reader.claims(0) == {}
    assert world.heard.committed == [message]


async def so_far(is_so, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("cut", ["answer", "request"])
async def test_claims_whose_commit_is_in_doubt_ride_again(world, dsn, cut):
    async with Cutter(dsn, b"INSERT INTO claims", b"INSERT 0") as cutter:
        acceptor = await world.acceptor(cutter.dsn, lanes=1)
        told = []
        number = world.claims.block([7, 8], lambda: told.append("claimed"))
        cutter.cut = cut
        acceptor.kick()
        await so_far(lambda: cutter.cuts)
        lane = await world.event_lane()
        lane.kick()
        await so_far(lambda: told)
        assert await world.reader.claims(0) == {number: [7, 8]}
        message = text()
        await so_far(acceptor.is_up)
        await acceptor.accept([message])
        assert told == ["claimed"]
        assert await world.reader.claims(0) == {number: [7, 8]}
