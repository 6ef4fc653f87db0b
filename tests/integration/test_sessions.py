"""Who holds which carrier session: never more than there are, and never with the dead."""

import asyncio

import pytest

from sms.errors import LeaseLost
from store import database
from store.processes import ProcessLease
from store.sessions import (
    channels_up,
    held_sessions,
    hold_sessions,
    let_sessions_go,
    publish_channels,
)
from tests.support.postgres import World

pytestmark = pytest.mark.integration

CHANNEL = 3


@pytest.fixture
async def worlds(dsn):
    made = [await World.make(dsn, slot=slot) for slot in range(3)]
    yield made
    for world in made:
        await world.close()


async def hold(world, want, total=2, channel=CHANNEL, node="node"):
    lease = world.lease
    return await hold_sessions(
        world.pool,
        node,
        channel,
        want=want,
        total=total,
        process=lease.process,
        epoch=lease.epoch,
    )


async def held(world):
    conn = await database.connect(world.dsn)
    rows = await conn.fetch(
        "SELECT slot, process FROM channel_sessions WHERE node = 'node' AND channel = 3"
    )
    await conn.close()
    return {row["slot"]: row["process"] for row in rows}


async def end_lease(world):
    conn = await database.connect(world.dsn)
    await conn.execute(
        "UPDATE processes SET lease_until = clock_timestamp() WHERE process = $1",
        world.lease.process,
    )
    await conn.close()


async def test_three_processes_that_contest_two_sessions_never_hold_three(worlds):
    for number in range(60):
        wants = [(number + n) % 3 for n in range(3)]
        got = await asyncio.gather(*(hold(w, want) for w, want in zip(worlds, wants, strict=True)))
        now = await held(worlds[0])
        assert set(now) <= {0, 1}, wants
        assert got == [list(now.values()).count(n) for n in range(3)], wants  # as each was told
        assert all(have <= want for have, want in zip(got, wants, strict=True))
        # asked once more, each gets what is left, and all that is wanted is held
        got = [await hold(w, want) for w, want in zip(worlds, wants, strict=True)]
        assert sum(got) == len(await held(worlds[0])) == min(2, sum(wants)), wants


async def test_what_is_held_stays_with_its_holder(worlds):
    first, second, _ = worlds
    assert await hold(first, 1) == 1
    assert await hold(second, 2) == 1
    assert await held(first) == {0: 0, 1: 1}
    for _ in range(3):
        assert (await hold(first, 2), await hold(second, 1)) == (1, 1)
    assert await held(first) == {0: 0, 1: 1}


async def test_what_is_given_back_is_there_for_the_next(worlds):
    first, second, third = worlds
    assert await hold(first, 2) == 2
    assert await hold(second, 1) == 0
    assert await hold(first, 1) == 1
    assert await hold(second, 1) == 1
    assert await hold(first, 1, channel=4) == 1
    await let_sessions_go(first.pool, 0, CHANNEL)
    assert await hold(third, 2) == 1
    assert await hold(third, 1, total=1, channel=4) == 0
    await let_sessions_go(first.pool, 0)
    assert await hold(third, 1, total=1, channel=4) == 1


async def test_nodes_and_channels_have_sessions_of_their_own(worlds):
    first, second, _ = worlds
    assert await hold(first, 2) == 2
    assert await hold(second, 2, node="elsewhere") == 2
    assert await hold(second, 2, channel=4) == 2


async def test_a_channel_with_fewer_sessions_takes_the_highest_back(worlds):
    first, second, _ = worlds
    assert (await hold(first, 1, total=3), await hold(second, 2, total=3)) == (1, 2)
    assert (await hold(second, 2, total=2), await hold(first, 1, total=2)) == (1, 1)
    assert set(await held(first)) == {0, 1}


async def test_the_sessions_of_the_dead_are_free(worlds):
    first, second, _ = worlds
    assert await hold(first, 2) == 2
    assert await hold(second, 1) == 0
    await end_lease(first)
    assert await hold(second, 1) == 1
    assert await hold(first, 2) == 0  # it may not, until it has renewed
    await first.lease.renew(id_high_water=0, low_water=0, event_cursor=0)
    assert await hold(first, 2) == 1
    assert set((await held(first)).values()) == {0, 1}


async def test_a_new_life_of_a_process_begins_without_sessions(worlds):
    first, second, _ = worlds
    await hold(first, 2)
    await publish_channels(first.pool, 0, [(CHANNEL, 2, True)])
    again = await ProcessLease.take(first.dsn, node="node", slot=0, lease_s=15)
    assert await held(first) == {}
    assert await channels_up(second.pool) == []
    assert await hold(second, 2) == 2
    pool = await database.open_pool(first.dsn, process=0, epoch=1, size=1)
    with pytest.raises(LeaseLost):
        await hold_sessions(pool, "node", 3, want=1, total=9, process=0, epoch=1)
    pool.terminate()
    await again.close()


async def test_a_session_of_an_earlier_life_is_free(worlds):
    conn = await database.connect(worlds[0].dsn)
    await conn.execute("INSERT INTO channel_sessions VALUES ('node', 3, 0, 0, 7), ('node',3,1,9,1)")
    await conn.close()
    assert await hold(worlds[1], 2) == 2
    assert await hold(worlds[0], 2) == 0


async def test_others_hear_of_channels_that_are_up_at_the_living(worlds):
    first, second, third = worlds
    await publish_channels(first.pool, 0, [(3, 1, True), (4, 1, False), (5, 2, True)])
    await publish_channels(second.pool, 1, [(3, 1, True)])
    assert await channels_up(third.pool) == [
        (0, "node", 3, False),
        (1, "node", 3, False),
        (0, "node", 5, False),
    ]
    await publish_channels(first.pool, 0, [(4, 1, True)])
    assert await channels_up(third.pool) == [(1, "node", 3, False), (0, "node", 4, False)]
    await end_lease(second)
    assert await channels_up(third.pool) == [(0, "node", 4, False)]
    await publish_channels(first.pool, 0, [(4, 0, True), (5, 0, False)])  # left for its health
    assert await channels_up(third.pool) == [(0, "node", 4, True)]
    await publish_channels(first.pool, 0, [])
    assert await channels_up(third.pool) == []


async def test_only_the_living_are_counted_as_holders(worlds):
    first, second, third = worlds
    await hold(first, 1, total=3)
    await hold(second, 2, total=3)
    await hold(third, 1, total=1, channel=4)
    counts = await held_sessions(first.pool, "node")
    assert counts == {CHANNEL: {0: 1, 1: 2}, 4: {2: 1}}
    await end_lease(second)
    assert await held_sessions(first.pool, "node") == {CHANNEL: {0: 1}, 4: {2: 1}}
    assert await held_sessions(first.pool, "another") == {}
