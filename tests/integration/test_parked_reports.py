"""Reports that nobody knows yet, and reports that come late, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, TIME_SHIFT, id_at
from sms.model import Report
from sms.outcomes import Submitted
from store import database, partitions
from store.fragments import (
    ParkedReport,
    delete_reports_sql,
    hasten_reports_sql,
    park_reports_sql,
)
from store.parked_reports import TAKE_SQL, TAKEN_S, ParkedReportStore, Stock, later_sql
from store.partitions import day_range, today
from store.read import LOOK_DAYS, OLDEST_DAYS, carrier_ids_sql
from store.seal import date_of
from tests.integration.test_read import accept, write
from tests.support.inside import inside
from tests.support.postgres import World

pytestmark = pytest.mark.integration

_, _, WEEK, _ = LOOK_DAYS
# Whether a flush with parked reports waits for a lock, looked at without haste.
WAITING = (
    "SELECT count(*) FROM pg_sleep(0.02), pg_stat_activity"
    " WHERE wait_event_type = 'Lock' AND query LIKE '%INTO parked_reports%'"
)


def store_of(world: World) -> ParkedReportStore:
    return ParkedReportStore(world.pool, world.keyring)


def strangers(count: int, due: float, channel: int = 1) -> list[ParkedReport]:
    start = id_at(due)
    return [
        ParkedReport(start + n, channel, f"x{n}", "DELIVRD", "", "13800138000", 0, due)
        for n in range(count)
    ]


async def test_one_process_at_a_time_has_a_report_and_a_dead_ones_are_taken_by_others(world, dsn):
    other = await World.make(dsn, slot=1)
    now = time.time()
    await write(world, [], park_reports_sql(world.keyring, strangers(600, now - 5.0)))
    mine, theirs = store_of(world), store_of(other)
    pages = await asyncio.gather(*(one.take(now, 100) for one in (mine, theirs) for _ in range(4)))
    taken = [report.id for page in pages for report in page]
    assert len(taken) == len(set(taken)) == 600
    assert await theirs.take(now + TAKEN_S - 1.0, 999) == []
    # The one that had them is dead: nobody asks it, and its hold ends by itself.
    again = await theirs.take(now + TAKEN_S + 1.0, 999)
    assert sorted(report.id for report in again) == sorted(taken)
    await other.close()


async def test_what_is_given_back_is_due_at_its_step_and_what_has_ended_stays_away(world):
    now = time.time()
    await write(world, [], park_reports_sql(world.keyring, strangers(3, now - 5.0)))
    store = store_of(world)
    first, second, third = await store.take(now, 9)
    moved = [(replace(one, tries=1, due=now + 5.0), one.due) for one in (first, second, third)]
    await write(world, [], delete_reports_sql([second.id]) + later_sql(moved))
    assert await store.take(now + 4.0, 9) == []
    left = await store.take(now + 6.0, 9)
    assert [(one.id, one.tries) for one in left] == [(first.id, 1), (third.id, 1)]


async def test_one_that_is_hastened_while_it_is_looked_at_is_looked_at_again(world):
    now = time.time()
    [plain] = strangers(1, now - 5.0)
    told = replace(plain, carrier_id="", reference="msg_0000000000000005-1")
    await write(world, [], park_reports_sql(world.keyring, [told]))
    [mine] = await store_of(world).take(now, 9)
    await write(world, [], hasten_reports_sql(5, 1))  # its attempt's row, a moment too late
    await write(world, [], later_sql([(replace(mine, tries=3, due=now + 300.0), mine.due)]))
    [again] = await store_of(world).take(time.time() + 1.0, 9)
    assert (again.id, again.tries) == (told.id, 3)


async def test_the_page_that_is_due_is_found_by_its_index(world):
    conn = await world.opener()()
    await conn.execute(
        "INSERT INTO parked_reports SELECT g, 1, 'c', '', 0, now() + g * interval '1 s'"
        " FROM generate_series(1, 20000) g; ANALYZE parked_reports"
    )
    moments = [datetime.fromtimestamp(time.time() + offset, UTC) for offset in (1e6, 1e6 + 30)]
    plan = await conn.fetch(f"EXPLAIN {TAKE_SQL}", moments[0], 500, moments[1])
    text = "\n".join(row[0] for row in plan)
    page, _, rest = text.partition("CTE due")[2].partition("CTE taken")
    assert "parked_reports_due on" in page
    assert "Sort" not in page
    assert "Seq Scan" not in rest
    await conn.close()


async def test_the_stock_is_what_stands_there(world):
    now = time.time()
    rows = strangers(5, now - 500.0) + strangers(2, now) + strangers(3, now - 9.0, channel=7)
    await write(world, [], park_reports_sql(world.keyring, rows))
    stock = await store_of(world).stock(id_at(now - 336.0))
    assert stock == {
        1: Stock(7, 5, id_at(now - 500.0)),
        7: Stock(3, 0, id_at(now - 9.0)),
    }


async def test_a_stranger_is_answered_when_it_is_kept_and_a_crash_in_between_loses_nothing(
    dsn, tmp_path
):
    """The table is locked, so the commit hangs; whoever is killed there has answered nothing."""
    report = Report(1, "early", "DELIVRD", "", "13800138000", "first")
    async with inside(dsn, tmp_path) as one:
        one.link(is_up=True)
        one.go(one.worker.reports.run())
        lock, looks = await database.connect(dsn), await database.connect(dsn)
        async with lock.transaction():
            await lock.execute("LOCK TABLE parked_reports IN SHARE MODE")
            one.flow.reports(1, [report])
            async with asyncio.timeout(60):
                while not await looks.fetchval(WAITING):
                    pass
            assert one.channels[1].answered == []
            await one.crash()
        async with asyncio.timeout(60):  # what was on its way is stored, or it is not
            while await looks.fetchval(WAITING):
                pass
        await lock.close()
        await looks.close()
        await one.start()
        one.link(is_up=True)
        one.go(one.worker.reports.run())
        # Its answer was lost with the process: the carrier brings it again.
        one.flow.reports(1, [replace(report, token="again")])
        channel = one.channels[1]
        await one.until(lambda: channel.answered)
        assert channel.answered == [("again", True)]
        [(kept,)] = await one.ask("SELECT count(*) FROM parked_reports")
        assert kept in {1, 2}
        [message_id] = await one.send(1)
        await one.until_seen(message_id)
        [submit], channel.open = channel.open, []
        one.flow.outcomes(1, [(submit, Submitted("early"))])
        async with asyncio.timeout(60):
            while await one.ask("SELECT pg_sleep(0.1) FROM parked_reports"):
                pass
        assert await one.ask("SELECT path FROM events ORDER BY sequence") == [(1,), (9,)]
        ended = {labels[1]: values[0] for labels, values in one.metrics.reports_total.samples()}
        assert ended == {"early": 1, "duplicate": 1} if kept == 2 else {"early": 1}


async def aged(world: World, per_day: int) -> float:
    """Forty-five days of events and one day more, `per_day` each; now."""
    now = time.time()
    conn = await database.connect(world.dsn, statement_timeout_s=60)
    began = now - (OLDEST_DAYS + 3) * 86_400
    await partitions.ensure(conn, world.keyring, days_ahead=OLDEST_DAYS + 2, now=began)
    await conn.close()
    conn = await world.opener()()
    await conn.execute("SET statement_timeout = '60s'")
    for day in range(today(now) - OLDEST_DAYS - 3, today(now) + 1):
        low, _ = day_range(day)
        await conn.execute(
            "INSERT INTO events (message_id, sequence, event_id, tenant, path, status, copy,"
            " channel, carrier_id, at)"
            f" SELECT {low} + g, 2, {low} + g, 1, 1, 5, 0, 1 + g % 4, 'd{day}n' || g, now()"
            f" FROM generate_series(1, {per_day}) g"
        )
    await conn.execute("ANALYZE events")
    await conn.close()
    return now


async def test_three_days_and_forty_partitions_later_a_report_finds_its_segment_by_index(
    world, dsn
):
    """In any process; what a batch costs is bounded by the partitions it may be in, not by rows."""
    now = await aged(world, 1000)
    other = await World.make(dsn, slot=1)
    day = today(now)
    ids = {age: f"d{day - age}n7" for age in (0, 3, 6, 7, 40, OLDEST_DAYS - 1, OLDEST_DAYS)}
    found = await other.reader.by_carrier_ids([(4, name) for name in ids.values()], now=now)
    assert found == {
        (4, name): (day_range(day - age)[0] + 7, (0,), 0)
        for age, name in ids.items()
        if age < OLDEST_DAYS  # nothing can be open for longer
    }
    conn = await world.opener()()
    lows = [day_range(day - days + 1)[0] for days in LOOK_DAYS]
    channels, names = [1, 2, 3, 4], [f"d{day - 20}n{n}" for n in range(1, 51)]
    sql = carrier_ids_sql(lows[3], lows[2])
    await conn.execute("SET enable_seqscan = off")
    rows = await conn.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", channels, names)
    plan = "\n".join(row[0] for row in rows)
    await conn.close()
    asked = set(re.findall(r"on (events_[0-9]{8})", plan))
    assert asked == {f"events_{date_of(day - age):%Y%m%d}" for age in range(WEEK, OLDEST_DAYS)}
    assert plan.count("carrier_id_idx") >= len(asked)
    assert "Seq Scan" not in plan
    # Pages of an index: it is walked once for each channel, however many ids are asked for.
    pages = int(re.findall(r"Buffers: shared hit=([0-9]+)", plan)[0])
    print(f"{pages} pages for {len(names)} ids in {len(asked)} partitions")
    assert pages <= len(asked) * len(channels) * len(names)
    await other.close()


async def test_a_message_whose_key_was_destroyed_hinders_no_other_ones_report(world):
    now = time.time()
    conn = await database.connect(world.dsn, statement_timeout_s=30)
    await partitions.ensure(conn, world.keyring, days_ahead=0, now=now - 3 * 86_400)
    [today_s] = await accept(world, 1)
    world.ids._ms = (id_at(now) >> TIME_SHIFT) - 3 * DAY_MS
    world.ids._now = lambda: now - 3 * 86_400
    [old] = await accept(world, 1)
    await conn.execute("DELETE FROM data_keys WHERE day = $1", date_of(today(now - 3 * 86_400)))
    await conn.close()
    world.keyring._sealers.clear()
    with pytest.raises(StoreUnavailable):
        await world.reader.messages([old.id, today_s.id])
    assert list(await world.reader.readable([old.id, today_s.id])) == [today_s.id]
