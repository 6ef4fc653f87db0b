"""Reading back: recovery costs what was in flight, look-ups touch the partitions they must."""

import asyncio
import json
import random
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from receipts.state import STATES_OF_PATH, Path
from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, TIME_SHIFT, id_at
from sms.model import FINAL_STATES, Carrier, MessageClass, State
from store import database, parked_reports, partitions
from store.fragments import (
    ParkedReport,
    Why,
    hasten_reports_sql,
    holdings_sql,
    park_reports_sql,
    park_sql,
    unpark_sql,
)
from store.handovers import handover_sql
from store.parked_reports import ParkedReportStore, later_sql
from store.partitions import day_range, today
from store.read import (
    DUE_PARKED_SQL,
    DUE_WEBHOOKS_SQL,
    OLDEST_WEBHOOK_SQL,
    PARKED_HEADS_SQL,
    RESTING_PATHS,
    UNFINISHED_SQL,
    WITH_DUE_WEBHOOKS_SQL,
    carrier_ids_sql,
    open_of_sql,
)
from store.scheduled import DUE_SQL, IN_ORDER_SQL
from store.seal import date_of
from tests.support.postgres import World, text

pytestmark = pytest.mark.integration

# Of a message that travels while we look: both at least, however fast or slow the machine.
TRIPS, LOOKS = 60, 40


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
    assert await lane.drain(60)


def parked(world):
    return ParkedReportStore(world.pool, world.keyring)


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
    assert time.perf_counter() - began < 30
    assert [stored.message.id for stored in found] == expected
    assert found[0].message.texts == stages[0].texts
    by_id = {stored.message.id: stored for stored in found}
    assert [row.sequence for row in by_id[stages[5].id].rows] == [2, 3]
    middle = stages[1500].id
    assert [s.message.id for s in await unfinished(world, 0, middle, page=100)] == [
        id for id in expected if id >= middle
    ]
    assert len(await unfinished(world, 1, 0)) == 50
    heads = [
        head
        async for some in world.reader.unfinished_heads(0, stages[0].id, page=700)
        for head in some
    ]
    assert [head.id for head in heads] == expected
    first = stages[0]
    assert heads[0][1:3] == (1, first.message_class)
    assert abs(heads[0].valid_until - first.valid_until) < 1e-5
    await other.close()


async def test_uncertain_ones_are_counted_by_class_with_the_first_of_them(world):
    mine = await accept(world, 6)
    codes = await accept(world, 3, message_class=MessageClass.OTP)
    rows = [(m.id, time.time(), Why.UNCERTAIN, m.message_class, 1) for m in mine + codes]
    other = (mine[5].id, time.time(), Why.QUEUED, mine[5].message_class, 1)
    await write(world, [], park_sql(0, [*rows[:5], other, *rows[6:8]]) + park_sql(7, rows[8:]))
    assert await world.reader.uncertain(0, 2) == {
        mine[0].message_class: (5, [m.id for m in mine[:2]]),
        MessageClass.OTP: (2, [m.id for m in codes[:2]]),
    }
    assert await world.reader.uncertain(3, 2) == {}


async def test_what_is_parked_for_one_reason_is_read_page_by_page(world):
    """By whom it was given to, whoever accepted it; of a day that was dropped nothing is left."""
    mine = await accept(world, 30, message_class=MessageClass.MARKETING)
    due, tenant = time.time(), 1
    gone = [(n, due, Why.SPILLED, MessageClass.OTP, tenant) for n in range(1, 9)]
    here = [(m.id, due, Why.SPILLED, m.message_class, tenant) for m in mine[:20]]
    other = [(m.id, due, Why.QUEUED, m.message_class, tenant) for m in mine[20:25]]
    third = [(m.id, due, Why.SPILLED, m.message_class, tenant) for m in mine[25:]]
    await write(world, [], park_sql(0, gone + here + other) + park_sql(7, third))
    pages, after = [], 0
    while page := await world.reader.parked_heads(0, Why.SPILLED, after, 6):
        pages.append([head.id for head in page])
        after = page[-1].id
    assert [id for page in pages for id in page] == [m.id for m in mine[:20]]
    assert max(map(len, pages)) == 6
    assert page == []
    [head, *_] = await world.reader.parked_heads(7, Why.SPILLED, 0, 99)
    valid_until = pytest.approx(mine[25].valid_until)
    assert head == (mine[25].id, 1, MessageClass.MARKETING, valid_until, Carrier.CM, 86, False)
    assert len(await world.reader.due_parked(7, due + 1, 99)) == 5
    await write(world, [], park_sql(0, third))  # who parks it again looks after it
    assert await world.reader.due_parked(7, due + 1, 99) == []


async def test_a_parked_report_keeps_our_word_and_comes_at_once_when_its_attempt_is_out(world):
    due = int(time.time()) + 300.0
    word = "msg_0000000000000005-2"
    told = [
        ParkedReport(1, 1, "", "DELIVRD", "", "8613800138000", 0, due, word, (2, 3)),
        ParkedReport(2, 1, "c", "DELIVRD", "", "", 0, due, "msg_0000000000000005-1"),
        ParkedReport(3, 1, "d", "DELIVRD", "", "", 0, due),
    ]
    await write(world, [], park_reports_sql(world.keyring, told))
    store = parked(world)
    assert await store.take(time.time(), 9) == []
    await write(world, [], hasten_reports_sql(5, 2))
    [found] = await store.take(time.time() + 1, 9)
    assert replace(found, due=due) == told[0]
    again = replace(found, tries=1, due=due + 300, is_orphan=True)
    await write(world, [], later_sql([(again, found.due)]))
    later = await store.take(due + 600, 9)
    assert sorted(later, key=lambda one: one.id)[0] == again


async def test_a_lost_answer_hastens_what_would_wait_long_and_takes_it_no_step(world):
    """Five seconds are no wait."""
    now, start = time.time(), id_at(time.time())
    stand = [(1, 1, 4.0), (1, 2, 30.0), (1, 3, 300.0), (1, 4, 3600.0), (1, 5, 3600.0)]
    told = [
        ParkedReport(start + number, channel, "x", "DELIVRD", "", "", tries, now + due_s)
        for number, (channel, tries, due_s) in enumerate([*stand, (2, 3, 300.0)])
    ]
    old = start - (1000 << TIME_SHIFT)
    told.append(ParkedReport(old, 1, "x", "DELIVRD", "", "", 5, now + 3600.0))
    await write(world, [], park_reports_sql(world.keyring, told))
    for _ in range(2):  # what is due is not hastened
        await parked(world).hasten([1], start)
    due = await parked(world).take(time.time() + 1, 9)
    assert {one.id - start: one.tries for one in due} == {1: 1, 2: 2, 3: 3, 4: 4}


async def test_a_flood_of_strangers_is_hastened_in_part_the_newest_first(world, monkeypatch):
    monkeypatch.setattr(parked_reports, "HASTENED", 2)
    now, start = time.time(), id_at(time.time())
    told = [ParkedReport(start + n, 1, "x", "DELIVRD", "", "", 3, now + 300.0) for n in range(1, 5)]
    await write(world, [], park_reports_sql(world.keyring, told))
    await parked(world).hasten([1], start)
    due = await parked(world).take(time.time() + 1, 9)
    assert {one.id - start for one in due} == {3, 4}


async def test_our_word_is_found_by_its_index(world):
    later = time.time() + 60.0
    rows = [
        ParkedReport(n, 1, "", "DELIVRD", "", "", 0, later + n, f"msg_{n:016x}-1")
        for n in range(1, 3000)
    ]
    await write(world, [], park_reports_sql(world.keyring, rows))
    async with database.acquire(world.pool) as conn:
        await conn.execute("ANALYZE parked_reports")
        plan = await conn.fetch(f"EXPLAIN {hasten_reports_sql(7, 1)}")
    assert any("parked_reports_reference" in row[0] for row in plan)


async def test_what_is_open_is_accounted_for_in_one_snapshot(world):
    """Accepted, submitted, come back, ended and corrected; parked, handed over, held."""
    other = await World.make(world.dsn, slot=1)
    stages = await accept(world, 10)
    await accept(world, 3, tenant=2)
    ids = [message.id for message in stages]
    assert (await world.reader.conservation())[1] == (10, 0, 0, 0)
    held = handover_sql(world.ids.next(), 0, 1, 0, MessageClass.OTP, ids[4:7], [1, 1, 1])
    parked = [(id, 9.0, Why.UNCERTAIN, MessageClass.OTP, 1) for id in ids[2:4]]
    rows = [
        world.event(ids[0]),  # submitted
        world.event(ids[1], path=Path.QUEUE_FAILED, status=State.FAILED),
    ]
    world.tally = lambda rows: {1: (1, 1)}
    await write(world, rows, park_sql(0, parked) + held + holdings_sql(0, {1: (3, 8), 2: (3, 3)}))
    assert await world.reader.conservation() == {1: (8, 2, 3, 3), 2: (3, 0, 0, 3)}
    world.tally = lambda rows: {1: (-1, 0)}
    await write(world, [world.event(ids[0], 3, path=Path.QUEUED, status=State.QUEUED)])
    assert (await world.reader.conservation())[1] == (9, 2, 3, 3)
    await write(world, [], unpark_sql(ids[2:4]) + holdings_sql(0, {1: (6, 9)}))
    assert await world.reader.conservation() == {1: (9, 0, 3, 6), 2: (3, 0, 0, 0)}
    await write(world, [], holdings_sql(0, {}))
    lane = await other.event_lane()
    lane.add([], urgent=True, sql=holdings_sql(1, {1: (6, 0), 2: (0, 0)}))
    assert await lane.drain(60)
    assert (await world.reader.conservation())[1] == (9, 0, 3, 6)
    await other.close()


async def test_each_process_folds_only_its_own_counts(world):
    other = await World.make(world.dsn, slot=1)
    for one in (world, other):
        for _ in range(3):
            await accept(one, 2)
    conn = await database.connect(world.dsn)
    per_process = "SELECT count(*) FROM deltas WHERE process = $1"
    await world.reader.fold_deltas(0)
    assert await conn.fetchval(per_process, 0) == 1
    assert await conn.fetchval(per_process, 1) == 3
    assert (await world.reader.deltas())[1] == (12, 0, 0)
    await conn.close()
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
            *(
                world.event(messages[5].id, 3 + segment, channel=1, carrier_id="w", segment=segment)
                for segment in (2, 0, 1)
            ),
        ],
    )
    pairs = [(1, "x"), (2, "x"), (1, "old"), (2, "old"), (9, "none"), (1, "w")]
    assert await world.reader.by_carrier_ids(pairs, now=now) == {
        (1, "x"): (messages[0].id, (2,), 1),  # used twice: the newer one
        (2, "x"): (messages[5].id, (0,), 0),
        (1, "old"): (messages[20].id, (0,), 0),
        (1, "w"): (messages[5].id, (0, 1, 2), 0),  # of a text that left whole
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
    probe = await explain(world, WITH_DUE_WEBHOOKS_SQL, 0, list(range(1, 2001)), now)
    assert "webhook_parked_due" in probe
    assert "Hash" not in probe
    assert "Seq Scan" not in probe
    assert await world.reader.endpoints_with_due(0, time.time() + 1, [1, 20, 21]) == {1, 20}
    oldest = await explain(world, OLDEST_WEBHOOK_SQL, 0)
    assert "webhook_parked_oldest" in oldest
    assert "Sort" not in oldest
    assert await world.reader.oldest_webhook(0) == 1 << 22
    await conn.close()


async def test_polls_and_pages_are_read_in_order_of_an_index(world):
    """However much is parked for others and for other reasons."""
    conn = await world.opener()()
    await conn.execute(
        "INSERT INTO parked SELECT g, now() + g * interval '1 s', g % 5, 0, 1, g % 8"
        " FROM generate_series(1, 20000) g; ANALYZE parked"
    )
    now = datetime.fromtimestamp(time.time() + 1e6, UTC)
    guards = (
        (DUE_PARKED_SQL, (3, now, 500), "parked_waiting", ("process =", "due <=")),
        (PARKED_HEADS_SQL, (3, 4, 77, 50), "parked_why", ("process =", "why =", "message_id >")),
    )
    for sql, args, index, columns in guards:
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {sql}", *args))
        assert f"{index} on" in plan
        assert "Sort" not in plan
        [condition] = [line for line in plan.splitlines() if "Index Cond" in line]
        assert all(column in condition for column in columns)
    async with conn.transaction():
        await conn.execute(IN_ORDER_SQL)
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {DUE_SQL}", 3, 0, now, 500))
    assert "Index Scan using parked_scheduled on" in plan
    assert "Sort" not in plan
    await conn.close()


async def test_recovery_walks_the_messages_from_the_mark_on(world):
    await accept(world, 3000)
    low = id_at(time.time() - 60)
    conn = await database.connect(world.dsn)
    await conn.execute("SET enable_seqscan = off")
    plan = [row[0] for row in await conn.fetch(f"EXPLAIN {UNFINISHED_SQL}", low, 100)]
    await conn.close()
    assert not any("Seq Scan" in line or "Sort" in line for line in plan)
    assert any("pkey" in line for line in plan)


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


async def test_what_others_are_to_send_is_neither_unfinished_nor_still_mine(dsn):
    """Claimed or parked by another process, or on its way; our own claims and rows are ours."""
    world, other = await World.make(dsn), await World.make(dsn, slot=1)
    messages = await accept(world, 6)
    ids = [message.id for message in messages]
    mine, theirs, parked_here, parked_there, handed, done = ids
    now = time.time()
    row = [(parked_here, now, Why.QUEUED, MessageClass.OTP, 1)]
    await write(
        world,
        [world.event(done)],
        f"INSERT INTO claims VALUES (0, 1, '{{{mine}}}');" + park_sql(0, row),
    )
    away = handover_sql(other.ids.next(), 1, 2, 0, MessageClass.OTP, [handed], [1])
    row = [(parked_there, now, Why.QUEUED, MessageClass.OTP, 1)]
    await write(
        other, [], f"INSERT INTO claims VALUES (1, 1, '{{{theirs}}}');{away}" + park_sql(1, row)
    )
    assert await world.reader.still_mine(0, ids) == [mine, parked_here]
    assert [s.message.id for s in await unfinished(world, 0, ids[0])] == [mine]
    assert await world.reader.still_mine(1, ids) == [theirs, parked_there]
    await world.close()
    await other.close()


async def test_a_message_on_its_way_from_owner_to_owner_is_never_taken_for_ours(dsn):
    """It is parked, handed over, claimed and parked again, and we look all the time."""
    world, other = await World.make(dsn), await World.make(dsn, slot=1)
    [message] = await accept(world, 1)
    row = [(message.id, time.time(), Why.QUEUED, MessageClass.OTP, 1)]
    await write(other, [], park_sql(1, row))
    trips = looks = 0

    async def travel():
        nonlocal trips
        lane = await other.event_lane()
        while trips < TRIPS or looks < LOOKS:
            away = handover_sql(other.ids.next(), 1, 2, 0, MessageClass.OTP, [message.id], [1])
            lane.add([], urgent=True, sql=away + unpark_sql([message.id]))
            taken = f"DELETE FROM handovers; INSERT INTO claims VALUES (1, 9, '{{{message.id}}}');"
            assert await lane.drain(60)
            lane.add([], urgent=True, sql=taken)
            assert await lane.drain(60)
            lane.add([], urgent=True, sql="DELETE FROM claims;" + park_sql(1, row))
            assert await lane.drain(60)
            trips += 1

    travelling = asyncio.create_task(travel())
    while not travelling.done():
        assert await world.reader.still_mine(0, [message.id]) == []
        assert await unfinished(world, 0, message.id) == []
        looks += 1
    await travelling
    await world.close()
    await other.close()


async def test_a_head_says_whether_anything_happened_to_its_message(world):
    """What has no row needs no second look; a row that moved nothing counts too."""
    plain, noted, requeued, parked = [message.id for message in await accept(world, 4)]
    rows = [
        world.event(noted, path=Path.NOTE, segment=0),
        world.event(requeued, path=Path.REQUEUED, status=State.QUEUED),
    ]
    why = [(parked, 9.0, Why.SPILLED, MessageClass.TRANSACTIONAL, 1)]
    await write(world, rows, park_sql(0, why))
    [page] = [page async for page in world.reader.unfinished_heads(0, 0)]
    assert {head.id: head.has_rows for head in page} == {
        plain: False,
        noted: True,
        requeued: True,
    }
    assert {(head.carrier, head.country, head.tenant) for head in page} == {(Carrier.CM, 86, 1)}
    heads = await world.reader.heads([parked, noted, plain])
    assert [(head.id, head.has_rows) for head in heads] == [
        (plain, False),
        (noted, True),
        (parked, False),
    ]
    bodies = await world.reader.bodies([plain, parked, 5])
    assert bodies.message(plain) == (await world.reader.message(plain)).message
    assert bodies.message(5) is None


def rows_of(plan):
    """Rows that all nodes of an executed plan gave or threw away."""
    seen = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    seen += plan.get("Rows Removed by Join Filter", 0)
    return seen * plan["Actual Loops"] + sum(map(rows_of, plan.get("Plans", ())))


def reaches(plan, name):
    return plan.get("Index Name") == name or any(
        reaches(part, name) for part in plan.get("Plans", ())
    )


@pytest.mark.parametrize("is_analyzed", [True, False])
async def test_a_page_is_asked_for_once_however_much_is_on_its_way(dsn, is_analyzed):
    """400,000 messages, as after a takeover; the statistics may be those of an empty table."""
    world = await World.make(dsn)
    messages = await accept(world, 1000)
    ids = sorted(message.id for message in messages)
    conn = await world.opener()()
    await conn.execute("ALTER TABLE handovers SET (autovacuum_enabled = off)")
    await conn.execute("ANALYZE handovers")
    handed = 400_000
    # from below our page to its end: all of them lie in the range of the widest page
    low = ids[0] - (handed << 12)
    await conn.execute(
        "INSERT INTO handovers (id,giver,receiver,channel,class,ids,first_id,last_id,tenants)"
        " SELECT g, 0, 1, 0, 1, b.ids, b.ids[1], b.ids[500], array_fill(1, array[500])"
        " FROM generate_series(0, $1::int / 500 - 1) g CROSS JOIN LATERAL (SELECT ARRAY("
        "  SELECT $2::bigint + ((g::bigint * 500 + k) << 12) FROM generate_series(0, 499) k)"
        "  AS ids) b",
        handed,
        low,
    )
    if is_analyzed:
        await conn.execute("ANALYZE handovers")

    async def explained(page):
        sql = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {open_of_sql(page, '')}"
        return json.loads(await conn.fetchval(sql, page, list(RESTING_PATHS), 0))[0]["Plan"]

    wide = await explained([low, *ids])
    assert rows_of(wide) < 6 * (handed + len(ids))  # as often as there are nodes, not messages
    narrow = await explained(ids)
    assert rows_of(narrow) < 20 * len(ids)  # no block is unpacked that cannot matter
    assert reaches(narrow, "handovers_range")
    assert await world.reader.still_mine(0, ids) == ids
    assert await world.reader.still_mine(0, [low, *ids]) == ids
    await conn.close()
    await world.close()


async def test_what_is_open_here_is_what_no_list_names(world):
    """Against plain set arithmetic, in blocks of any shape and pages of any kind."""
    dice = random.Random(4)
    messages = await accept(world, 400)
    ids = sorted(message.id for message in messages)
    names = ("handed", "theirs", "mine", "here", "there", "put_off", "lane")
    places: dict[str, set[int]] = {name: set() for name in names}
    conn = await world.opener()()
    for turn in range(12):
        await conn.execute("DELETE FROM handovers; DELETE FROM claims; DELETE FROM parked")
        for there in places.values():
            there.clear()
        for message_id in ids:
            places[dice.choice(list(places))].add(message_id)
        for place, sql in (
            (
                "handed",
                "INSERT INTO handovers"
                " (id,giver,receiver,channel,class,ids,first_id,last_id,tenants)"
                " VALUES ($1,0,1,0,1,$2,$3,$4,array_fill(1,array[$5::int]))",
            ),
            ("theirs", "INSERT INTO claims VALUES (1, $1, $2)"),
            ("mine", "INSERT INTO claims VALUES (0, $1, $2)"),
        ):
            rest = list(places[place])
            dice.shuffle(rest)
            number = 0
            while rest:
                size = dice.choice((1, 2, 7, 40))
                block, rest = rest[:size], rest[size:]
                number += 1
                more = (min(block), max(block), len(block)) if place == "handed" else ()
                await conn.execute(sql, number, block, *more)
        for place, process in (("here", 0), ("there", 1)):
            now, about = time.time(), (Why.QUEUED, MessageClass.OTP, 1)
            await conn.execute(park_sql(process, [(m, now, *about) for m in places[place]]))
        now, about = time.time(), (Why.SCHEDULED, MessageClass.OTP, 1)
        await conn.execute(park_sql(0, [(m, now, *about) for m in places["put_off"]]))
        not_here = places["handed"] | places["theirs"] | places["there"] | places["put_off"]
        for _ in range(8):
            first, last = sorted(dice.sample(range(len(ids)), 2))
            page = [m for m in ids[first : last + 1] if turn % 2 or dice.random() < 0.3] or ids[:1]
            expected = [m for m in page if m not in not_here]
            assert await world.reader.still_mine(0, page) == expected
        found = [stored.message.id for stored in await unfinished(world, 0, ids[0], page=37)]
        assert found == [m for m in ids if m in places["mine"] | places["lane"]]
    await conn.close()
