"""Reading back: recovery costs what was in flight, look-ups touch the partitions they must."""

import time
from datetime import UTC, datetime

import pytest

from receipts.state import STATES_OF_PATH, Path
from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, TIME_SHIFT, id_at
from sms.model import FINAL_STATES, MessageClass, State
from store import database, partitions
from store.fragments import Why, park_sql
from store.partitions import day_range, today
from store.read import DUE_WEBHOOKS_SQL, OLDEST_WEBHOOK_SQL, RESTING_PATHS, carrier_ids_sql
from store.seal import date_of
from tests.support.postgres import World, text

pytestmark = pytest.mark.integration


async def accept(world, count, **fields):
    acceptor = next((lane for lane in world.lanes if hasattr(lane, "accept")), None)
    acceptor = acceptor or await world.acceptor()
    messages = [text(**fields) for _ in range(count)]
    for start in range(0, count, 500):
        await acceptor.accept(messages[start : start + 500])
    return messages


async def write(world, rows, sql=""):
    lane = next((lane for lane in world.lanes if hasattr(lane, "add")), None)
    lane = lane or await world.event_lane()
    lane.add(rows, urgent=True, sql=sql)
    assert await lane.drain(20)


def test_resting_paths_are_those_that_end_with_a_carrier_or_for_good():
    resting = {
        path
        for path in Path
        if STATES_OF_PATH[path] and STATES_OF_PATH[path][-1] in {State.SUBMITTED, *FINAL_STATES}
    }
    assert set(RESTING_PATHS) == {int(path) for path in resting}


async def unfinished(world, process, low_water, page=1000):
    return [
        stored
        async for some in world.reader.unfinished(process, low_water, page=page)
        for stored in some
    ]


async def test_recovery_finds_exactly_what_nobody_brought_to_rest(world):  # noqa: C901 - ten stages
    """3,000 messages in all stages, and another process's beside them."""
    other = await World.make(world.dsn, slot=1)
    assert other.lease.process == 1
    await accept(other, 50)
    stages = await accept(world, 3000)
    rows, parked, expected = [], [], []
    for number, message in enumerate(stages):
        stage, id = number % 10, message.id
        if stage in (0, 1):  # accepted, claimed or not: no row yet
            expected.append(id)
        elif stage == 2:
            rows.append(world.event(id))
        elif stage == 3:
            rows += [world.event(id), world.event(id, 3, path=Path.DELIVERED)]
        elif stage == 4:  # came back by itself
            rows.append(world.event(id, path=Path.REQUEUED, carrier_id=None))
            expected.append(id)
        elif stage == 5:  # a receipt named a temporary fault
            rows += [world.event(id), world.event(id, 3, path=Path.QUEUED, carrier_id=None)]
            expected.append(id)
        elif stage == 6:  # uncertain waits in parked
            rows.append(world.event(id, path=Path.UNCERTAIN, carrier_id=None))
            parked.append((id, time.time() + 60, Why.UNCERTAIN, MessageClass.OTP, 1))
        elif stage == 7:
            rows.append(world.event(id, path=Path.QUEUE_FAILED, carrier_id=None))
        elif stage == 8:  # a segment's note says nothing about the message
            rows += [world.event(id), world.event(id, 3, path=Path.NOTE, segment=0)]
        else:  # its second copy is on the way
            rows += [world.event(id, path=Path.UNCERTAIN), world.event(id, 3, path=Path.QUEUED)]
            expected.append(id)
    for start in range(0, len(rows), 1500):
        await write(world, rows[start : start + 1500])
    await write(world, [], sql=park_sql(0, parked))
    began = time.perf_counter()
    found = await unfinished(world, 0, stages[0].id)
    assert time.perf_counter() - began < 5
    assert [stored.message.id for stored in found] == expected
    assert found[0].message.texts == stages[0].texts
    by_id = {stored.message.id: stored for stored in found}
    assert [row.sequence for row in by_id[stages[5].id].rows] == [2, 3]
    middle = stages[1500].id
    assert [s.message.id for s in await unfinished(world, 0, middle, page=100)] == [
        id for id in expected if id >= middle
    ]
    assert len(await unfinished(world, 1, 0)) == 50
    await other.close()


async def test_a_report_finds_its_message_in_today_and_in_older_partitions(world):
    now = time.time()
    conn = await database.connect(world.dsn, statement_timeout_s=30)
    for days in (1, 5, 20):
        await partitions.ensure(conn, world.keyring, days_ahead=0, now=now - days * 86400)
    await conn.close()
    messages = {}
    for days in (20, 5, 0):
        world.ids._ms = (id_at(now) >> TIME_SHIFT) - days * DAY_MS
        world.ids._now = lambda days=days: now - days * 86400
        [messages[days]] = await accept(world, 1)
    await write(
        world,
        [
            world.event(messages[0].id, channel=1, carrier_id="x", segment=2, copy=1),
            world.event(messages[5].id, channel=2, carrier_id="x"),
            world.event(messages[20].id, channel=1, carrier_id="old"),
            world.event(messages[20].id, 3, channel=1, carrier_id="x"),
        ],
    )
    pairs = [(1, "x"), (2, "x"), (1, "old"), (2, "old"), (9, "none")]
    assert await world.reader.by_carrier_ids(pairs, now=now) == {
        (1, "x"): (messages[0].id, 2, 1),  # used twice: the newer one
        (2, "x"): (messages[5].id, 0, 0),
        (1, "old"): (messages[20].id, 0, 0),
    }
    assert await world.reader.by_carrier_ids([], now=now) == {}
    # what was sealed on other days opens again in a process that never had the keys
    world.keyring._sealers.clear()
    stored = await world.reader.messages([message.id for message in messages.values()])
    assert [s.message.number for s in stored.values()] == ["8613800138000"] * 3


async def explain(world, sql, *args):
    """The plan, with sequential scans allowed only where nothing else is possible."""
    conn = await database.connect(world.dsn)
    await conn.execute("SET enable_seqscan = off")
    rows = await conn.fetch(f"EXPLAIN {sql}", *args)
    await conn.close()
    return "\n".join(row[0] for row in rows)


async def test_the_first_step_of_a_receipt_reads_two_partitions_by_index(world):
    newest = day_range(today(time.time()) - 1)[0]
    plan = await explain(world, carrier_ids_sql(newest, None), [1, 2], ["a", "b"])
    assert "Seq Scan" not in plan
    assert "carrier_id_idx" in plan
    day = today(time.time())
    names = [f"events_{date_of(d):%Y%m%d}" for d in range(day - 1, day + 3)]
    assert all(name in plan for name in names)  # the days ahead are empty
    older = await explain(world, carrier_ids_sql(0, newest), [1], ["a"])
    assert not any(name in older for name in names)


async def test_due_webhooks_are_read_in_order_of_an_index(world):
    """Neither a sort nor a filter sees more rows than the limit, however many are due."""
    conn = await world.opener()()
    await conn.execute(
        "INSERT INTO webhook_parked SELECT 1 + g % 20, g::bigint << 22, g, 2, 1, now()"
        " FROM generate_series(1, 20000) g; ANALYZE webhook_parked"
    )
    now = datetime.fromtimestamp(time.time() + 1, UTC)
    plan = await explain(world, DUE_WEBHOOKS_SQL, 0, [1, 2], now, 100)
    [at] = [
        n for n, line in enumerate(plan.splitlines()) if "Scan using webhook_parked_due" in line
    ]
    assert "Limit" in plan.splitlines()[at - 1]  # no sort in between
    assert "Filter" not in plan
    for column in ("process =", "endpoint =", "due <="):
        assert column in plan.splitlines()[at + 1]
    oldest = await explain(world, OLDEST_WEBHOOK_SQL, 0)
    assert "webhook_parked_oldest" in oldest
    assert "Sort" not in oldest
    assert await world.reader.oldest_webhook(0) == 1 << 22
    await conn.close()


async def test_reading_one_message_touches_one_partition(world):
    [message] = await accept(world, 1)
    conn = await database.connect(world.dsn)
    plan = await conn.fetch(
        f"EXPLAIN SELECT id FROM messages WHERE id >= {message.id} AND id <= {message.id}"
        " AND id = ANY($1)",
        [message.id],
    )
    await conn.close()
    assert sum("messages_20" in row[0] and "on" in row[0] for row in plan) == 1


async def test_the_cursor_reads_on_in_order_of_event_ids(world):
    messages = await accept(world, 20)
    rows = [world.event(message.id) for message in messages]
    await write(world, rows[::-1])
    found = await world.reader.events_after(0, rows[4].event_id, 10)
    assert [row.event_id for row in found] == [row.event_id for row in rows[5:15]]
    assert await world.reader.events_after(1, 0, 10) == []


async def test_a_store_that_is_away_says_so(world):
    await world.reader.ping()
    world.pool.terminate()
    with pytest.raises(StoreUnavailable):
        await world.reader.message(5)
