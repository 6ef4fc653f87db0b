"""The event lane: rows are appended in order, one writer a key, and never dropped."""

import asyncio
import time

import pytest

from sms.model import EventRow, MessageClass, State
from store import database
from store.fragments import (
    ParkedReport,
    ParkedWebhook,
    Why,
    delete_reports_sql,
    delete_webhooks_sql,
    park_reports_sql,
    park_sql,
    park_webhooks_sql,
    unpark_sql,
)
from store.parked_reports import ParkedReportStore
from tests.support.postgres import text

pytestmark = pytest.mark.integration


async def accepted(world, count=1):
    acceptor = world.lanes[0] if world.lanes else await world.acceptor()
    messages = [text() for _ in range(count)]
    await acceptor.accept(messages)
    return [message.id for message in messages]


async def flush(lane, rows, **more):
    done = asyncio.get_running_loop().create_future()
    lane.add(rows, urgent=True, done=lambda: done.set_result(None), **more)
    await asyncio.wait_for(done, 60)


async def test_rows_come_back_field_by_field(world):
    [first] = await accepted(world)
    lane = await world.event_lane()
    rows = [
        world.event(first, 2, times=(3, 40), segment=0, copy=1),
        world.event(
            first,
            3,
            path=15,
            status=State.UNKNOWN,
            channel=0,
            carrier_id=None,
            code="E\0:\ud800x",
            reason="evidence.none",
        ),
        world.event(first, 4, path=0, segment=254, times=tuple(range(8)), code="", carrier_id=""),
    ]
    await flush(lane, rows)
    stored = await world.reader.message(first)
    rows[1].code = "E?:?x"
    for row, back in zip(rows, stored.rows, strict=True):
        assert back.at == pytest.approx(row.at, abs=1e-5)
        back.at = row.at
        assert back == row


async def test_rows_are_sorted_and_reported_in_order_before_done(world):
    ids = await accepted(world, 3)
    lane = await world.event_lane()
    order = []
    rows = [world.event(id, sequence) for id in reversed(ids) for sequence in (3, 2)]
    lane.add(rows, urgent=False, done=lambda: order.append(len(world.heard.events)))
    assert lane.pending_floor() == min(row.event_id for row in rows)
    assert lane.pending_message_floor() == ids[0]
    assert await lane.drain(60)
    assert [(row.message_id, row.sequence) for row in world.heard.events] == [
        (id, sequence) for id in ids for sequence in (2, 3)
    ]
    assert order == [6]
    assert (lane.pending(), lane.pending_floor(), lane.oldest_age_s()) == (0, None, 0.0)


async def test_rows_that_are_not_urgent_gather_and_an_urgent_one_takes_them_along(world):
    ids = await accepted(world, 20)
    lane = await world.event_lane(delay_s=60)
    for id in ids[:-1]:
        lane.add([world.event(id)], urgent=False)
    await asyncio.sleep(0.05)
    assert world.heard.events == []
    await flush(lane, [world.event(ids[-1])])
    assert ("events", 20) in world.heard.flushes


async def test_delay_ends_by_itself(world):
    ids = await accepted(world)
    lane = await world.event_lane(delay_s=0.005)
    lane.add([world.event(ids[0])], urgent=False)
    await asyncio.sleep(0.3)
    assert len(world.heard.events) == 1


async def test_of_two_writers_of_a_key_one_wins_and_the_other_is_told(world):
    [first, second] = await accepted(world, 2)
    lane, other = await world.event_lane(), await world.event_lane()
    winner = world.event(first, 2)
    await flush(other, [winner])
    world.heard.events.clear()
    loser, neighbour = world.event(first, 2, code="late"), world.event(second, 2)
    await flush(lane, [loser, neighbour], sql=park_sql(0, [(first, 1.0, 2, MessageClass.OTP, 1)]))
    assert world.heard.conflicts == [loser]
    assert world.heard.events == [neighbour]
    stored = await world.reader.message(first)
    assert [row.event_id for row in stored.rows] == [winner.event_id]
    assert [parked.message_id for parked in await world.reader.due_parked(0, 2.0, 10)] == [first]
    assert (await world.reader.deltas())[1] == (2, 2, 0)  # the loser is not counted


async def test_what_stands_behind_a_lost_row_is_lost_with_it(world):
    """Judged on a history that is not the message's: an end could be stored twice."""
    [first, second] = await accepted(world, 2)
    lane, other = await world.event_lane(), await world.event_lane()
    await flush(other, [world.event(first, 2)])
    world.heard.events.clear()
    rows = [world.event(first, 2), world.event(first, 3), world.event(first, 4)]
    kept = [world.event(second, 2), world.event(second, 3)]
    await flush(lane, rows + kept)
    assert world.heard.conflicts == rows
    assert world.heard.events == kept
    assert len((await world.reader.message(first)).rows) == 1
    assert (await world.reader.deltas())[1] == (2, 3, 0)


async def test_until_it_is_judged_anew_nothing_of_a_losing_message_is_stored(world):
    [first, second] = await accepted(world, 2)
    lane, other = await world.event_lane(), await world.event_lane()
    await flush(other, [world.event(first, 2)])
    await flush(lane, [world.event(first, 2)])
    stale, kept = world.event(first, 3), world.event(second, 2)
    await flush(lane, [stale, kept])
    assert world.heard.conflicts[1:] == [stale]
    late = world.event(first, 3)  # made before it was read again, flushed after
    again = world.event(first, 3)
    lane.settled([first], late.event_id)
    await flush(lane, [late])
    await flush(lane, [again])
    assert world.heard.conflicts[2:] == [late]
    stored = await world.reader.message(first)
    assert [row.event_id for row in stored.rows][1:] == [again.event_id]
    await flush(lane, [world.event(second, 3)])
    assert not lane._losing  # and nothing is remembered for ever


async def test_the_same_key_twice_in_one_flush_stores_one_and_tells_the_other(world):
    [first] = await accepted(world)
    lane = await world.event_lane()
    rows = [world.event(first, 2), world.event(first, 2)]
    await flush(lane, rows)
    assert len(world.heard.events) == len(world.heard.conflicts) == 1
    assert len((await world.reader.message(first)).rows) == 1


async def test_two_lanes_writing_the_same_messages_do_not_deadlock(world):
    ids = await accepted(world, 40)
    lanes = [await world.event_lane(max_rows=30) for _ in range(2)]
    for sequence in range(2, 8):
        for lane in lanes:
            lane.add(
                [world.event(id, sequence) for id in (ids if lane is lanes[0] else ids[::-1])],
                urgent=True,
            )
    assert await lanes[0].drain(60)
    assert await lanes[1].drain(60)
    assert len(world.heard.events) == len(world.heard.conflicts) == 240


async def test_bad_rows_are_quarantined_alone_and_done_still_runs(world):
    ids = await accepted(world, 6)
    lane = await world.event_lane()
    bad = [world.event(ids[1], 1 << 20), world.event(ids[3], segment=999)]
    entries = [
        [world.event(ids[0])],
        [bad[0], world.event(ids[2])],
        [bad[1]],
        [world.event(ids[4])],
    ]
    done = []
    for number, rows in enumerate(entries):
        lane.add(rows, urgent=False, done=lambda number=number: done.append(number))
    assert await lane.drain(60)
    assert sorted(done) == [0, 1, 2, 3]
    assert world.heard.quarantined == bad
    assert {row.message_id for row in world.heard.events} == {ids[0], ids[2], ids[4]}
    conn = await database.connect(world.dsn)
    rows = await conn.fetch("SELECT message_id, step FROM quarantine")
    assert {(row[0], row[1]) for row in rows} == {(ids[1], "event"), (ids[3], "event")}
    await conn.close()


async def test_a_row_the_server_refuses_is_quarantined_alone(world):
    ids = await accepted(world, 3)
    lane = await world.event_lane()
    conn = await database.connect(world.dsn)
    await conn.execute("ALTER TABLE events ADD CHECK (code IS DISTINCT FROM 'poison')")
    rows = [world.event(ids[0]), world.event(ids[1], code="poison"), world.event(ids[2])]
    await flush(lane, rows, sql=park_sql(0, [(ids[2], 1.0, 2, MessageClass.OTP, 1)]))
    assert world.heard.quarantined == [rows[1]]
    assert world.heard.events == [rows[0], rows[2]]
    assert len(await world.reader.due_parked(0, 2.0, 10)) == 1
    await conn.close()


async def test_a_broken_fragment_does_not_stop_the_lane(world):
    [first] = await accepted(world)
    lane = await world.event_lane()
    lane.add([], urgent=True, sql="DELETE FROM no_such_table;")
    await flush(lane, [world.event(first)])
    assert len(world.heard.events) == 1
    conn = await database.connect(world.dsn)
    assert await conn.fetchval("SELECT step FROM quarantine") == "fragment"
    await conn.close()


async def test_claims_alone_go_out_when_kicked(world):
    [first] = await accepted(world)
    lane = await world.event_lane()
    claimed = asyncio.get_running_loop().create_future()
    block = world.claims.block([first], lambda: claimed.set_result(None))
    lane.kick()
    await asyncio.wait_for(claimed, 60)
    assert await world.reader.claims(0) == {block: [first]}
    world.claims.settled(block)
    assert await lane.drain(60)
    assert await world.reader.claims(0) == {}
    assert world.claims.floor() is None


async def test_a_drain_takes_the_claims_along_that_its_own_commit_settles(world):
    (first,) = await accepted(world, 1)
    claimed = asyncio.get_running_loop().create_future()
    block = world.claims.block([first], lambda: claimed.set_result(None))
    lane = await world.event_lane()
    lane.kick()
    await asyncio.wait_for(claimed, 60)
    lane.add([world.event(first)], urgent=True, done=lambda: world.claims.settled(block))
    assert await lane.drain(60)
    assert await world.reader.claims(0) == {}


async def test_parked_things_move_and_go_with_the_rows(world):
    [first, second] = await accepted(world, 2)
    lane = await world.event_lane()
    report = ParkedReport(7, 3, "c'\\\0d", "DELIVRD", "000", "8613800138000", 1, 100.0)
    webhook = ParkedWebhook(4, world.event_ids.next(), first, 2, 1, 100.0)
    sql = (
        park_sql(0, [(first, 100.0, Why.UNCERTAIN, MessageClass.OTP, 1)])
        + park_sql(0, [(second, 300.0, Why.QUEUED, MessageClass.MARKETING, 1)])
        + park_reports_sql(world.keyring, [report])
        + park_webhooks_sql(0, [webhook])
    )
    await flush(lane, [], sql=sql)
    await flush(lane, [], sql=sql)  # idempotent
    reader = world.reader
    [parked] = await reader.due_parked(0, 200.0, 10)
    assert (parked.message_id, parked.due, parked.why) == (first, 100.0, Why.UNCERTAIN)
    assert await reader.due_parked(1, 500.0, 10) == []
    assert await reader.parked_counts() == {(1, 2): 1, (1, 3): 1}
    store = ParkedReportStore(world.pool, world.keyring)
    [found] = await store.take(200.0, 10)
    report.carrier_id = "c'\\?d"
    assert found == report
    assert await store.take(200.0, 10) == []  # it is taken
    assert await reader.due_webhooks(0, 200.0, 10, endpoints=[4]) == [webhook]
    webhook.due, webhook.tries = 900.0, 2
    await flush(lane, [], sql=park_webhooks_sql(0, [webhook]) + unpark_sql([first]))
    assert await reader.due_webhooks(0, 200.0, 10, endpoints=[4]) == []
    assert await reader.due_webhooks(0, 999.0, 10, endpoints=[4]) == [webhook]
    await flush(
        lane, [], sql=delete_webhooks_sql([(4, webhook.event_id)]) + delete_reports_sql([7])
    )
    assert await reader.due_webhooks(0, 999.0, 10, endpoints=[4]) == []
    assert await store.take(999.0, 10) == []
    assert [parked.message_id for parked in await reader.due_parked(0, 999.0, 10)] == [second]


async def test_a_taken_lease_stops_the_lane_and_nothing_is_written(world):
    [first] = await accepted(world)
    lane = await world.event_lane()
    conn = await database.connect(world.dsn)
    await conn.execute("UPDATE processes SET epoch = epoch + 1")
    ran = []
    lane.add([world.event(first)], urgent=True, done=lambda: ran.append(1))
    for _ in range(100):
        await asyncio.sleep(0.01)
        if world.heard.leases_lost:
            break
    assert world.heard.leases_lost == 1
    assert ran == []
    assert await conn.fetchval("SELECT count(*) FROM events") == 0
    await conn.close()


async def test_packing_a_row_is_cheap(world):
    from store.copying import build_events

    rows: list[EventRow] = [world.event(5, 2, times=(3, 40)) for _ in range(2000)]
    costs = []
    for _ in range(5):
        began = time.perf_counter()
        build_events(rows)
        costs.append((time.perf_counter() - began) / len(rows) * 1e6)
    assert min(costs) < 30  # 1.2 on an idle machine; this is a guard, not a bench
