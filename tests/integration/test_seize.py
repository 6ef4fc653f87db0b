"""Taking a number from its dead owner: the old epoch is refused, and nobody else gets it too."""

import asyncio
import random
import time
from functools import partial

import asyncpg
import pytest

from sms.errors import LeaseLost, StoreUnavailable
from sms.ids import IdClock, process_of
from store import database
from store.fragments import holdings_sql
from store.processes import (
    KEPT_S,
    ClockStepped,
    DatabaseClock,
    ProcessLease,
    due_for_takeover,
    live_processes,
    owed_to,
    seize,
    settle_debt,
)
from store.sessions import channels_up, publish_channels
from tests.support.postgres import World

pytestmark = pytest.mark.integration

GRACE_S = 2.0
# One statement per fenced table and kind of writing; all of them work for an owner.
WRITES = [
    "INSERT INTO messages SELECT * FROM messages WHERE false",
    "INSERT INTO events SELECT * FROM events WHERE false",
    "INSERT INTO intake_keys SELECT * FROM intake_keys WHERE false",
    "UPDATE intake_keys SET first_id = first_id",
    "INSERT INTO inbound SELECT * FROM inbound WHERE false",
    "INSERT INTO inbound_keys SELECT * FROM inbound_keys WHERE false",
    "UPDATE inbound_keys SET id = id",
    *(
        sql
        for table, column in (
            ("claims", "block"),
            ("parked", "why"),
            ("webhook_parked", "tries"),
            ("handovers", "channel"),
            ("holdings", "held"),
            ("parked_reports", "tries"),
            ("commands", "kind"),
            ("channels_left", "cause"),
            ("walks", "position"),
            ("deadlines", "due"),
            ("overdue", "tries"),
        )
        for sql in (
            f"INSERT INTO {table} SELECT * FROM {table} WHERE false",
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table} WHERE false",
        )
    ),
]


@pytest.fixture
async def worlds(dsn):
    """Three processes; the first one's lease can be ended by `die`."""
    made = [await World.make(dsn, slot=slot) for slot in range(3)]
    yield made
    for world in made:
        await world.close()


async def die(world, ago_s=10.0):
    """Its lease ended some time ago, as after a kill, a freeze or a lost node."""
    conn = await database.connect(world.dsn)
    await conn.execute(
        "UPDATE processes SET lease_until = clock_timestamp() - make_interval(secs => $2)"
        " WHERE process = $1",
        world.lease.process,
        ago_s,
    )
    await conn.close()


def skewed(skew_s):
    return time.time() + skew_s


async def take_over(victim, by, grace_s=GRACE_S):
    return await seize(
        victim.dsn,
        victim.lease.process,
        by=by.lease.process,
        by_epoch=by.lease.epoch,
        grace_s=grace_s,
    )


async def take(dsn, slot, node="node", lease_s=15.0):
    lease = await ProcessLease.take(dsn, node=node, slot=slot, lease_s=lease_s)
    await lease.close()
    return lease


async def test_the_old_epoch_is_refused_on_every_table_that_is_owned(worlds):
    dead, taker, _ = worlds
    conn = await dead.opener()()
    fenced = await conn.fetch("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname='fence'")
    assert {row[0] for row in fenced if "_20" not in row[0]} == {
        sql.split()[2 if sql[0] in "ID" else 1] for sql in WRITES
    }
    for sql in WRITES:
        await conn.execute(sql)
    await die(dead)
    assert await take_over(dead, taker) is not None
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await conn.execute("SELECT 1")  # its backend was ended
    late = await dead.opener()()
    for sql in WRITES:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await late.execute(sql)
        assert caught.value.sqlstate == "SG001", sql
    heir = await taker.opener()()
    for sql in WRITES:
        await heir.execute(sql)
    await late.close()
    await heir.close()


async def test_a_writer_that_cannot_be_ended_is_waited_for_and_then_refused(worlds):
    dead, taker, _ = worlds
    hidden = await dead.opener()()
    await hidden.execute("SET application_name = 'not to be found'")
    transaction = hidden.transaction()
    await transaction.start()
    await hidden.execute("INSERT INTO claims VALUES (0, 7, '{1}')")
    await die(dead)
    seizing = asyncio.create_task(take_over(dead, taker))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(seizing), 0.5)
    await transaction.commit()  # it had begun in time, so it counts
    assert (await seizing) is not None
    assert await taker.reader.claims(0) == {7: [1]}
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hidden.execute("DELETE FROM claims")
    assert caught.value.sqlstate == "SG001"
    await hidden.close()


async def test_the_lanes_of_the_old_owner_learn_that_they_lost(worlds):
    dead, taker, _ = worlds
    lane = await dead.event_lane()
    await die(dead)
    await take_over(dead, taker)
    lane.add([], urgent=True, sql=holdings_sql(0, {1: (1, 1)}))
    for _ in range(200):
        await asyncio.sleep(0.02)
        if dead.heard.leases_lost:
            break
    assert dead.heard.leases_lost == 1
    with pytest.raises(LeaseLost):
        await dead.lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    assert not dead.lease.is_valid()


async def test_who_lives_is_not_seized_and_loses_no_connection(worlds):
    alive, taker, _ = worlds
    conn = await alive.opener()()
    assert await take_over(alive, taker) is None
    await die(alive, ago_s=1.0)  # over, but not for as long as the grace
    assert await due_for_takeover(taker.pool, 1, GRACE_S) == []
    assert await take_over(alive, taker) is None
    assert await take_over(alive, alive, grace_s=0.0) is None  # nor by itself
    assert await conn.fetchval("SELECT 1") == 1
    await alive.lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    assert await take_over(alive, taker, grace_s=0.0) is None
    await conn.close()


async def test_the_longest_dead_are_due_first_and_never_oneself(worlds):
    await die(worlds[0], ago_s=5)
    await die(worlds[1], ago_s=50)
    await die(worlds[2], ago_s=20)
    assert await due_for_takeover(worlds[2].pool, 2, GRACE_S) == [1, 0]
    assert await due_for_takeover(worlds[0].pool, 0, 30) == [1]


async def test_a_seized_number_tells_where_its_debts_begin_and_is_alive_no_more(worlds):
    dead, taker, _ = worlds
    start = dead.lease.id_floor
    await dead.lease.renew(id_high_water=start + 9, low_water=start + 3, event_cursor=start + 5)
    await publish_channels(dead.pool, 0, [(4, 1, True)])
    assert await channels_up(taker.pool) == [(0, "node", 4, False)]
    await die(dead)
    seized = await take_over(dead, taker)
    assert (seized.process, seized.node) == (0, "node")
    marks = (seized.id_high_water, seized.low_water, seized.event_cursor)
    assert marks == (start + 9, start + 3, start + 5)
    assert await owed_to(taker.pool, 1) == [seized]
    assert await owed_to(taker.pool, 2) == []
    assert [live.process for live in await live_processes(taker.pool)] == [1, 2]
    assert await channels_up(taker.pool) == []
    assert await due_for_takeover(taker.pool, 1, GRACE_S) == []
    assert await take_over(dead, taker) is None  # a second time there is nothing to take


async def test_a_released_number_waits_for_its_slot_and_is_told_from_a_death(worlds):
    left, taker, _ = worlds
    start = left.lease.id_floor
    await left.lease.release(id_high_water=start, low_water=start, event_cursor=start)
    await die(left, ago_s=KEPT_S - 2)  # far beyond the grace of a death
    assert await due_for_takeover(taker.pool, 1, GRACE_S) == []
    assert await take_over(left, taker) is None
    again = await take(left.dsn, 0)
    assert (again.process, again.epoch) == (0, 2)  # the slot has its number back
    await die(left, ago_s=GRACE_S + 1)
    assert await due_for_takeover(taker.pool, 1, GRACE_S) == [0]  # this one died
    assert not (await take_over(left, taker)).has_left
    await again.close()


async def test_a_released_number_that_nobody_takes_back_is_taken_as_left(worlds):
    left, taker, _ = worlds
    start = left.lease.id_floor
    await left.lease.release(id_high_water=start, low_water=start, event_cursor=start)
    await die(left, ago_s=KEPT_S + 1)
    assert await due_for_takeover(taker.pool, 1, GRACE_S) == [0]
    seized = await take_over(left, taker)
    assert seized.has_left
    assert await owed_to(taker.pool, 1) == [seized]  # also after a restart of the taker


async def test_of_many_takers_one_gets_it(dsn):
    worlds = [await World.make(dsn, slot=slot) for slot in range(4)]
    for _ in range(15):
        victim = await take(dsn, 9)
        conn = await database.connect(dsn)
        await conn.execute(
            "UPDATE processes SET lease_until = now() - interval '1 h' WHERE process = $1",
            victim.process,
        )
        found = await asyncio.gather(
            *(
                seize(dsn, victim.process, by=world.lease.process, by_epoch=1, grace_s=GRACE_S)
                for world in worlds
                for _ in range(2)
            )
        )
        [index] = [number for number, seized in enumerate(found) if seized is not None]
        winner = worlds[index // 2]
        owed = [await owed_to(world.pool, world.lease.process) for world in worlds]
        assert [len(debts) for debts in owed] == [int(world is winner) for world in worlds]
        epoch = await conn.fetchval(
            "SELECT epoch FROM processes WHERE process = $1", victim.process
        )
        assert epoch == victim.epoch + 1
        await settle_debt(winner.pool, victim.process, by=winner.lease.process)
        await conn.close()
    for world in worlds:
        await world.close()


async def test_who_is_not_alive_takes_nothing_over(worlds):
    dead, taker, _ = worlds
    await die(dead)
    with pytest.raises(LeaseLost):
        await seize(dead.dsn, 0, by=1, by_epoch=taker.lease.epoch + 1, grace_s=GRACE_S)
    await die(taker, ago_s=0.0)
    with pytest.raises(ClockStepped):  # its epoch is its own: it renews first
        await take_over(dead, taker)
    assert await due_for_takeover(dead.pool, 2, GRACE_S) == [0]
    await taker.lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    assert await take_over(dead, taker) is not None


async def test_nobody_is_judged_by_a_clock_that_stepped_since_our_last_renewal(worlds):
    """The others look dead though they live, and ours was renewed late enough to look alive."""
    alive, taker, _ = worlds
    conn = await alive.opener()()
    assert await taker.lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    clock = taker.lease.database_clock
    seizing = partial(seize, alive.dsn, 0, by=1, by_epoch=1, grace_s=GRACE_S)
    await die(alive, ago_s=GRACE_S + 0.1)
    with pytest.raises(ClockStepped):
        await seizing(clock=DatabaseClock(clock.ahead_s - 13.0))
    assert await conn.fetchval("SELECT 1") == 1  # and it keeps its connections
    assert await owed_to(taker.pool, 1) == []
    assert await seizing(clock=clock) is not None
    await conn.close()


async def test_a_step_while_a_number_is_being_seized_is_noticed_too(worlds):
    dead, taker, _ = worlds
    await die(dead)
    await taker.lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    steady, stepped = taker.lease.database_clock, DatabaseClock(-1e12)

    class Stepping(DatabaseClock):
        """Steady at the first look, before the number is locked, and not at the second one."""

        def has_stepped(self, unix_s, answered_at):
            return looks.pop().has_stepped(unix_s, answered_at)

    looks = [stepped, steady]
    with pytest.raises(ClockStepped):
        await seize(dead.dsn, 0, by=1, by_epoch=1, grace_s=GRACE_S, clock=Stepping())
    assert looks == []
    assert await owed_to(taker.pool, 1) == []
    assert await due_for_takeover(taker.pool, 1, GRACE_S) == [0]


async def test_debts_of_a_taker_that_dies_go_to_its_own_taker(worlds):
    first, second, third = worlds
    await die(first)
    await take_over(first, second)
    await die(second)
    assert (await take_over(second, third)).process == 1
    assert [seized.process for seized in await owed_to(third.pool, 2)] == [0, 1]
    with pytest.raises(LeaseLost):
        await settle_debt(second.pool, 0, by=1)
    assert [seized.process for seized in await owed_to(third.pool, 2)] == [0, 1]
    await settle_debt(third.pool, 0, by=2)
    assert [seized.process for seized in await owed_to(third.pool, 2)] == [1]


async def test_a_number_is_free_only_when_its_debts_are_settled(worlds):
    dead, taker, _ = worlds
    lane = await dead.event_lane()
    lane.add([], urgent=True, sql=holdings_sql(0, {1: (5, 5)}))
    assert await lane.drain(60)
    await die(dead)
    await take_over(dead, taker)
    assert (await take(dead.dsn, 0)).process == 3  # the old slot, back too late
    assert (await taker.reader.conservation())[1].held == 5
    await settle_debt(taker.pool, 0, by=2)  # not its debt
    assert (await take(dead.dsn, 4)).process == 4
    await settle_debt(taker.pool, 0, by=1)
    assert await taker.reader.conservation() == {}
    lease = await take(dead.dsn, 5, node="elsewhere")
    assert (lease.process, lease.epoch) == (0, 3)
    await settle_debt(taker.pool, 0, by=1)  # again, as after a crash: the new owner keeps it
    assert [live.process for live in await live_processes(taker.pool)] == [0, 1, 2, 3, 4]
    assert (await take(dead.dsn, 5, node="elsewhere")).process == 0


async def test_a_new_number_is_not_due_before_its_owner_is_there(worlds):
    """Between the row and the first epoch lie two round trips."""
    conn = await database.connect(worlds[0].dsn)
    await conn.execute("SELECT pg_advisory_lock(42, 3)")  # holds the taking up right there
    taking = asyncio.create_task(take(worlds[0].dsn, 3))
    for _ in range(100):
        await asyncio.sleep(0.02)
        if await conn.fetchval("SELECT count(*) FROM processes") == 4:
            break
    assert await due_for_takeover(worlds[0].pool, 0, GRACE_S) == []
    await conn.execute("SELECT pg_advisory_unlock(42, 3)")
    assert (await taking).epoch == 1
    await conn.close()


async def test_a_slot_that_restarts_while_it_is_seized_never_shares_its_number(worlds):
    """Either the slot keeps its number and nothing was seized, or it gets another one.

    Of thirty rounds each ends some.
    """
    taker, dsn = worlds[1], worlds[1].dsn
    for number in range(30):
        slot = 20 + number
        before = await take(dsn, slot, lease_s=-10.0)
        # the one that ends backends first is a little ahead, so each gets a start
        delay_s = random.Random(number).uniform(0, 0.01)

        async def late(delay_s, doing):
            await asyncio.sleep(max(0.0, delay_s))
            return await doing

        seized, after = await asyncio.gather(
            late(delay_s - 0.005, seize(dsn, before.process, by=1, by_epoch=1, grace_s=GRACE_S)),
            late(0.005 - delay_s, take(dsn, slot)),
        )
        if seized is None:
            assert (after.process, after.epoch) == (before.process, before.epoch + 1)
        else:
            assert after.process != before.process
            await settle_debt(taker.pool, before.process, by=1)
        live = await live_processes(taker.pool)
        assert [entry.process for entry in live if entry.slot == slot] == [after.process]


async def test_a_number_that_is_used_again_gives_no_id_twice(dsn):
    """Twelve lives of one number on nodes whose clocks differ by up to 20 s."""
    taker = await World.make(dsn)
    seen: set[int] = set()
    dice = random.Random(5)
    conn = await database.connect(dsn)
    for life in range(12):
        lease = await ProcessLease.take(dsn, node=f"node {life}", slot=0, lease_s=15)
        assert lease.process == 1
        skew_s = dice.uniform(-20, 20)
        clock = IdClock(lease.process, lease.id_floor, partial(skewed, skew_s))
        await lease.renew(
            id_high_water=clock.high_water(15.0), low_water=lease.low_water, event_cursor=0
        )
        ids = set()
        for _ in range(50):
            count = dice.randint(1, 300)
            first = clock.next(count)
            ids |= set(range(first, first + count))
        assert max(ids) <= lease.id_high_water
        assert min(ids) > lease.id_floor
        assert not ids & seen
        assert {process_of(id) for id in ids} == {1}
        seen |= ids
        await lease.close()
        await conn.execute(
            "UPDATE processes SET lease_until = now() - interval '9 s' WHERE process = 1"
        )
        seized = await seize(dsn, 1, by=0, by_epoch=1, grace_s=GRACE_S)
        assert seized is not None
        assert seized.node == f"node {life}"
        await settle_debt(taker.pool, 1, by=0)
    # what the number owed is behind it: a new owner need not look for it
    [row] = await conn.fetch("SELECT * FROM processes WHERE process = 1")
    assert row["low_water"] == row["event_cursor"] == row["id_high_water"] >= max(seen)
    await conn.close()
    await taker.close()


async def test_a_replaced_owner_publishes_nothing(worlds):
    dead, taker, _ = worlds
    await die(dead)
    await take_over(dead, taker)
    pool = await database.open_pool(dead.dsn, process=0, epoch=1, size=1)
    with pytest.raises(LeaseLost):
        await publish_channels(pool, 0, [(1, 1, True)])
    pool.terminate()


async def test_a_seizing_without_postgresql_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable):
        await seize(f"postgresql://smsgw@/x?host={tmp_path}", 0, by=1, by_epoch=1, grace_s=2)
