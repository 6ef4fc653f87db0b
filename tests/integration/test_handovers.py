"""Blocks on their way between processes: of two takers one gets them, and none is ever nowhere."""

import asyncio
import math
import struct
import time

import pytest

from sms.errors import LeaseLost, StoreUnavailable
from sms.ids import IdClock
from sms.model import MessageClass
from store import database
from store.fragments import ParkedWebhook, Why, park_sql, park_webhooks_sql
from store.handovers import MINE_SQL, TO_ME_SQL, Besides, Handovers, handover_sql
from store.processes import ProcessLease, seize
from tests.support.cutter import Cutter
from tests.support.postgres import World

pytestmark = pytest.mark.integration

OTP, TRANSACTIONAL, MARKETING = MessageClass


class Side:
    """One process with what it needs to give and take."""

    def __init__(self, world):
        self.world = world
        self.process = world.lease.process
        self.handovers = Handovers(world.pool, self.process)

    async def give(self, receiver, ids, cls=TRANSACTIONAL, channel=3):
        """Commit one handover; its id."""
        handover_id = self.world.ids.next()
        await self.write(
            handover_sql(handover_id, self.process, receiver, channel, cls, ids, [1] * len(ids))
        )
        return handover_id

    async def write(self, sql):
        conn = await self.world.opener()()
        await conn.execute(sql)
        await conn.close()

    async def take(self, *handover_ids):
        return await self.handovers.take({id: self.world.claims.reserve() for id in handover_ids})


@pytest.fixture
async def sides(dsn):
    worlds = [await World.make(dsn, slot=slot) for slot in range(3)]
    yield [Side(world) for world in worlds]
    for world in worlds:
        await world.close()


async def on_the_way(dsn):
    conn = await database.connect(dsn)
    count = await conn.fetchval("SELECT count(*) FROM handovers")
    await conn.close()
    return count


async def test_a_block_goes_from_the_giver_to_the_claims_of_the_receiver(sides):
    giver, receiver, third = sides
    id = await giver.give(1, [11, 12, 13], OTP)
    [found] = await receiver.handovers.to_me(10)
    assert (found.id, found.giver, found.receiver, found.channel) == (id, 0, 1, 3)
    assert (found.message_class, found.ids) == (OTP, [11, 12, 13])
    assert await giver.handovers.mine() == [found]
    assert await third.handovers.to_me(10) == await third.handovers.mine() == []
    block = receiver.world.claims.reserve()
    assert await receiver.handovers.take({id: block}) == {id: [11, 12, 13]}
    assert await receiver.world.reader.claims(1) == {block: [11, 12, 13]}
    assert await giver.handovers.mine() == await receiver.handovers.to_me(10) == []
    assert await giver.take(id) == {}  # too late to take it back


async def test_the_giver_may_take_back_what_nobody_took(sides):
    giver, receiver, _ = sides
    ids = [await giver.give(1, [n]) for n in (11, 12, 13)]
    assert await giver.take(ids[1]) == {ids[1]: [12]}
    assert await receiver.take(*ids, 999) == {ids[0]: [11], ids[2]: [13]}
    assert list((await giver.world.reader.claims(0)).values()) == [[12]]


async def test_otp_comes_first_then_the_oldest(sides):
    giver, receiver, _ = sides
    first = await giver.give(1, [1], MARKETING)
    second = await giver.give(1, [2], TRANSACTIONAL)
    third = await giver.give(1, [3], OTP)
    fourth = await giver.give(1, [4], OTP)
    order = [third, fourth, second, first]
    assert [found.id for found in await receiver.handovers.to_me(10)] == order
    assert [found.id for found in await receiver.handovers.to_me(2)] == order[:2]
    assert [found.id for found in await giver.handovers.mine()] == sorted(order)


async def test_of_two_that_take_the_same_block_exactly_one_wins(sides):
    """Two hundred rounds of three blocks each, the giver against the receiver."""
    giver, receiver, _ = sides
    wins = [0, 0]
    expected: dict[int, set[int]] = {0: set(), 1: set()}
    for number in range(200):
        texts = [number * 10 + n for n in (1, 2, 3)]
        blocks = {await giver.give(1, [id]): id for id in texts}
        order = sorted(blocks)
        mine, theirs = await asyncio.gather(giver.take(*order), receiver.take(*order[::-1]))
        assert not mine.keys() & theirs.keys(), number
        left = order
        while left := [id for id in left if id not in mine and id not in theirs]:
            # a block that both saw locked is still there for the next poll
            mine |= await giver.take(*left)
        assert {**mine, **theirs} == {id: [blocks[id]] for id in order}
        for side, won in ((0, mine), (1, theirs)):
            wins[side] += len(won)
            expected[side] |= {blocks[id] for id in won}
    for side in (giver, receiver):
        claimed = await side.world.reader.claims(side.process)
        assert sorted(id for ids in claimed.values() for id in ids) == sorted(
            expected[side.process]
        )
    assert sum(wins) == 600
    assert await on_the_way(giver.world.dsn) == 0


async def test_others_sees_a_block_at_every_moment_of_its_way(sides):
    """From the giver's view: given, claimed, given back, claimed … but never nowhere."""
    giver, receiver, third = sides
    id = await giver.give(1, [77])
    holder, is_over = receiver, False
    seen = 0

    async def watch():
        nonlocal seen
        while not is_over:
            assert await giver.handovers.others(0) == {77}
            seen += 1

    watching = asyncio.create_task(watch())
    for _ in range(100):
        block = holder.world.claims.reserve()
        assert await holder.handovers.take({id: block}) == {id: [77]}
        assert await holder.handovers.others(holder.process) == set()  # it is its own
        following = third if holder is receiver else receiver
        id = holder.world.ids.next()
        await holder.write(
            f"DELETE FROM claims WHERE process = {holder.process} AND block = {block};"
            + handover_sql(id, holder.process, following.process, 0, OTP, [77], [1])
        )
        holder = following
    is_over = True
    await watching
    assert seen > 50


async def test_a_flush_that_runs_again_hands_nothing_over_twice(sides):
    """The receiver took the block and is done with it before the giver's lane comes back."""
    giver, receiver, _ = sides
    dsn = giver.world.dsn
    async with Cutter(dsn, b"handover_marks", b"INSERT 0 1") as cutter:
        lane = await giver.world.event_lane(cutter.dsn)
        cutter.cut, cutter.is_open = "answer", False
        done = []
        for n in (1, 2):  # two of them in one flush
            sql = handover_sql(giver.world.ids.next(), 0, 1, 3, OTP, [n], [1])
            lane.add([], urgent=n == 2, sql=sql, done=lambda: done.append(1))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if cutter.cuts:
                break
        found = await receiver.handovers.to_me(10)
        assert [handover.ids for handover in found] == [[1], [2]]
        assert len(await receiver.take(*(handover.id for handover in found))) == 2
        await receiver.write("DELETE FROM claims WHERE process = 1")
        assert done == []
        cutter.is_open = True
        assert await lane.drain(60)
        assert done == [1, 1]
        assert await on_the_way(dsn) == 0
        await giver.give(1, [3])
        assert await on_the_way(dsn) == 1
        await lane.stop()


@pytest.mark.parametrize("cut", ["request", "sent"])
async def test_a_handover_whose_flush_was_lost_is_made_all_the_same(sides, cut):
    giver, receiver, _ = sides
    async with Cutter(giver.world.dsn, b"handover_marks") as cutter:
        lane = await giver.world.event_lane(cutter.dsn)
        cutter.cut = cut
        sql = handover_sql(giver.world.ids.next(), 0, 1, 3, OTP, [1, 2], [1, 1])
        lane.add([], urgent=True, sql=sql)
        assert await lane.drain(60)
        assert cutter.cuts == 1
        assert [found.ids for found in await receiver.handovers.to_me(10)] == [[1, 2]]
        await lane.stop()


@pytest.mark.parametrize("cut", ["answer", "request", "sent"])
async def test_a_take_whose_connection_broke_says_truly_what_was_taken(sides, cut):
    giver, receiver, _ = sides
    id = await giver.give(1, [1, 2, 3])
    kept = await giver.give(1, [4])
    # the id stands in the arguments and in the answer, but not in the text that is prepared
    async with Cutter(giver.world.dsn, struct.pack(">q", id)) as cutter:
        pool = await database.open_pool(cutter.dsn, process=1, epoch=1, size=2)
        handovers = Handovers(pool, 1)
        block = receiver.world.claims.reserve()
        cutter.cut = cut
        taken = await asyncio.wait_for(handovers.take({id: block}), 60)
        assert cutter.cuts == 1
        assert taken in ({}, {id: [1, 2, 3]})
        if cut != "sent":  # there it depends on how far the backend came
            assert bool(taken) == (cut == "answer")
        claims = await receiver.world.reader.claims(1)
        assert claims == ({block: [1, 2, 3]} if taken else {})
        await asyncio.sleep(0.3)  # a backend that had survived would commit now
        assert await receiver.world.reader.claims(1) == claims
        left = {found.id for found in await receiver.handovers.to_me(10)}
        assert left == ({kept} if taken else {id, kept})
        pool.terminate()


async def test_a_backend_still_at_a_take_is_ended_before_asking(sides):
    """It waits for a table's lock, so it does not hold the fence's yet: asking would not wait."""
    giver, receiver, _ = sides
    id = await giver.give(1, [5])
    blocker = await database.connect(giver.world.dsn)
    async with Cutter(giver.world.dsn, struct.pack(">q", id)) as cutter:
        pool = await database.open_pool(cutter.dsn, process=1, epoch=1, size=2)
        handovers = Handovers(pool, 1)
        assert await handovers.take({999: 8}) == {}  # the statement is prepared
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE claims IN SHARE MODE")
            cutter.cut = "sent"
            assert await asyncio.wait_for(handovers.take({id: 9}), 60) == {}
        assert cutter.cuts == 1
        await asyncio.sleep(0.3)
        assert await receiver.world.reader.claims(1) == {}
        assert await handovers.take({id: 10}) == {id: [5]}
        pool.terminate()
    await blocker.close()


async def test_a_take_waits_for_the_truth_as_long_as_postgresql_is_away(sides):
    giver, receiver, _ = sides
    id = await giver.give(1, [5])
    async with Cutter(giver.world.dsn, struct.pack(">q", id)) as cutter:
        pool = await database.open_pool(cutter.dsn, process=1, epoch=1, size=1)
        cutter.cut, cutter.is_open = "answer", False
        taking = asyncio.create_task(Handovers(pool, 1).take({id: 9}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(taking), 1.0)
        cutter.is_open = True
        assert await asyncio.wait_for(taking, 60) == {id: [5]}
        assert await receiver.world.reader.claims(1) == {9: [5]}
        pool.terminate()


async def test_what_never_left_for_postgresql_is_certainly_not_taken(sides):
    giver, receiver, _ = sides
    id = await giver.give(1, [5])
    conn = await receiver.world.opener()()
    async with conn.transaction():
        await conn.execute("LOCK TABLE handovers IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable):  # its time-out is an answer, too
            await receiver.take(id)
    await conn.close()
    assert await receiver.world.reader.claims(1) == {}
    receiver.world.pool.terminate()
    with pytest.raises(StoreUnavailable):
        await receiver.take(id)
    assert [found.id for found in await giver.handovers.mine()] == [id]


async def test_a_receiver_that_was_replaced_takes_nothing(sides):
    giver, receiver, third = sides
    id = await giver.give(1, [5])
    conn = await database.connect(giver.world.dsn)
    await conn.execute("UPDATE processes SET lease_until = now() - interval '9 s' WHERE process=1")
    await conn.close()
    await seize(giver.world.dsn, 1, by=2, by_epoch=1, grace_s=2)
    with pytest.raises(LeaseLost):
        await receiver.take(id)
    with pytest.raises(LeaseLost):
        await receiver.handovers.move_receiver(1, 2)
    assert await third.handovers.move_receiver(1, 2) == 1
    assert await third.handovers.move_receiver(1, 2) == 0
    assert await third.take(id) == {id: [5]}


async def test_what_a_seized_process_looked_after_moves_in_batches(sides):
    old, new, _ = sides
    now = time.time()
    parked = [(n, now, Why.SPILLED, OTP, 1) for n in range(1, 251)]
    webhooks = [ParkedWebhook(1, n, n, 2, 1, now if n % 2 else float("inf")) for n in range(1, 101)]
    await old.write(park_sql(0, parked) + park_webhooks_sql(0, webhooks))
    await new.write(park_sql(1, [(900, now, Why.QUEUED, OTP, 1)]))
    moves = [await new.handovers.move_parked(0, 1, 100) for _ in range(4)]
    assert moves == [100, 100, 50, 0]
    assert len(await new.world.reader.due_parked(1, now + 1, 999)) == 251
    assert await old.world.reader.due_parked(0, now + 1, 999) == []
    moves = [await new.handovers.move_webhooks(0, 1, 40) for _ in range(3)]
    assert moves == [40, 10, 0]  # dead letters stay where they are
    assert len(await new.world.reader.due_webhooks(1, now + 1, 999, endpoints=[1])) == 50


async def test_a_handover_has_a_tenant_beside_each_id():
    for ids, tenants in (([], []), ([1, 2], [1])):
        with pytest.raises(ValueError, match="handover of"):
            handover_sql(1, 0, 1, 0, OTP, ids, tenants)


async def test_polling_reads_what_it_returns_and_no_more(sides):
    """However many blocks wait for others."""
    conn = await sides[0].world.opener()()
    await conn.execute(
        "INSERT INTO handovers SELECT g, g % 40, 5 + g % 30, 1, g % 3, '{1}', 1, 1, '{1}'"
        " FROM generate_series(1, 20000) g; ANALYZE handovers"
    )
    for sql, args, index in (
        (TO_ME_SQL, (7, 16, [3], [1, 2], [2], 0.0), "handovers_receiver"),
        (MINE_SQL, (7,), "handovers_giver"),
    ):
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *args))
        assert index in plan
        assert "Seq Scan" not in plan
    rows = await conn.fetch(f"EXPLAIN {TO_ME_SQL}", 7, 9, [], [], [], 0.0)
    assert "Sort" not in "\n".join(row[0] for row in rows)
    await conn.close()


async def test_blocks_for_a_channel_are_not_hidden_by_those_for_any(sides):
    giver, receiver, _ = sides
    for n in range(20):
        await giver.give(1, [n], OTP, channel=0)
    fresh = await giver.give(1, [99])
    assert [h.id for h in await receiver.handovers.to_me(10, is_chosen=True)] == [fresh]
    found = await receiver.handovers.to_me(10, is_chosen=False)
    assert [h.ids for h in found] == [[n] for n in range(10)]


async def test_what_cannot_be_taken_is_left_out_of_a_look(sides):
    """Full channels give way, but for otp's; shut ones for those too; what expires never does."""
    giver, receiver, _ = sides
    full = await giver.give(1, [1], channel=3)
    full_otp = await giver.give(1, [2], OTP, channel=3)
    shut_otp = await giver.give(1, [3], OTP, channel=4)
    free = await giver.give(1, [4], MARKETING, channel=5)
    late = giver.world.ids.next()
    now = time.time()
    await giver.write(handover_sql(late, 0, 1, 4, TRANSACTIONAL, [5], [1], now - 1.0))
    seen = await giver.give(1, [6], channel=5)
    but = Besides(now, {seen}, {3, 4}, {4})
    found = await receiver.handovers.to_me(10, is_chosen=True, but=but)
    assert [h.id for h in found] == [full_otp, late, free]
    assert [h.id for h in await receiver.handovers.to_me(10)] == [
        full_otp,
        shut_otp,
        full,
        late,
        seen,
        free,
    ]


async def test_a_block_tells_when_the_first_of_its_messages_expires(sides):
    giver, receiver, _ = sides
    await giver.give(1, [1])
    until = time.time() + 60
    id = giver.world.ids.next()
    await giver.write(handover_sql(id, 0, 1, 3, OTP, [2], [1], until))
    soon, never = await receiver.handovers.to_me(10)
    assert soon.until == pytest.approx(until, abs=0.001)
    assert never.until == math.inf


async def test_a_taker_takes_back_what_the_dead_process_gave_to_others(sides):
    dead, taker, third = sides
    to_third = await dead.give(2, [1])
    to_taker = await dead.give(1, [2])
    assert await taker.handovers.move_giver(0, 1) == 2
    assert [h.id for h in await taker.handovers.mine()] == [to_third]
    # what the taker has got itself need not come back: it may take any channel
    assert await taker.handovers.to_me(10, is_chosen=True) == []
    found = await taker.handovers.to_me(10, is_chosen=False)
    assert [(h.id, h.channel) for h in found] == [(to_taker, 0)]
    assert await taker.handovers.move_giver(0, 1) == 0
    assert [h.giver for h in await third.handovers.to_me(10)] == [1]


async def test_what_was_meant_for_a_dead_process_may_take_any_channel(sides):
    giver, _, taker = sides
    await giver.give(1, [1], channel=3)
    await taker.handovers.move_receiver(1, 2)
    assert [h.channel for h in await taker.handovers.to_me(10)] == [0]


async def test_a_new_owner_gives_no_handover_an_id_that_counts_as_a_repetition(sides):
    """Its predecessor's last ones may lie above the ids it had reserved."""
    giver, receiver, _ = sides
    ahead = IdClock(0, 0, lambda: time.time() + 3600.0).next()
    await giver.write(handover_sql(ahead, 0, 1, 3, OTP, [1], [1]))
    again = await ProcessLease.take(giver.world.dsn, node="node", slot=0, lease_s=15)
    assert again.id_floor >= ahead
    await again.close()
    assert len(await receiver.handovers.to_me(10)) == 1
