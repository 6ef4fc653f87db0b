"""Webhooks through the real store: parked with a flush, read back, recovered after a takeover."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.courier import Clocks
from gateway.notice_store import LaneNoticeStore
from gateway.notify import Notifier
from receipts.state import Path, apply_row
from sms.config import Snapshot, WebhookEndpoint
from sms.ids import to_text
from sms.model import EventRow, State
from store import database
from store.channel_news import ChannelNewsStore
from store.fragments import ParkedWebhook
from store.inbound_read import InboundReader
from telemetry.metrics import Metrics
from tests.support.postgres import World, text
from webhooks.address import AllowList
from webhooks.deliver import Delivered, Delivery, Failed, Fault, Target
from webhooks.schedule import DEAD

pytestmark = pytest.mark.integration

BROKEN = Failed(Fault.STATUS, 500)
NEAR_THE_END = 253_402_300_799.0  # Unix, the last second a datetime can hold


class Endpoint:
    """Takes what `answer` lets it take."""

    def __init__(self) -> None:
        self.answer: Delivery = Delivered(200)
        self.taken: list[dict[str, Any]] = []
        self.tries = 0

    async def deliver(
        self, _target: Target, _keys: Sequence[bytes], _id: str, body: bytes
    ) -> Delivery:
        self.tries += 1
        await asyncio.sleep(0)
        if isinstance(self.answer, Delivered):
            self.taken += json.loads(body)["data"]
        return self.answer


class Clock:
    """Unix time that a test may push ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def clocks(self) -> Clocks:
        return Clocks(
            lambda: time.monotonic() + self.ahead_s,
            lambda: time.time() + self.ahead_s,
            lambda: 0.5,
        )


def notice_store(world: World, lane) -> LaneNoticeStore:
    inbound = InboundReader(world.pool, world.keyring)
    news = ChannelNewsStore(world.pool)
    return LaneNoticeStore(lane, world.reader, world.lease.process, inbound, news)


def joined(world: World, lane, endpoint: Endpoint, clock: Clock, cursor: int = 0) -> Notifier:
    notifier = Notifier(
        store=notice_store(world, lane),
        deliver=endpoint.deliver,
        metrics=Metrics(),
        allow=AllowList(),
        cursor=cursor,
        clocks=clock.clocks(),
    )
    config = WebhookEndpoint(5, 1, "https://hooks.example/sms", batch=True, secrets=(b"k" * 32,))
    notifier.reconfigure(Snapshot(endpoints={5: config}))
    return notifier


async def lives(world: World, lane, count: int) -> list[EventRow]:
    """So many accepted messages that were submitted and delivered, committed."""
    acceptor = await world.acceptor()
    messages = [text(client_ref=f"ref-{n}") for n in range(count)]
    await acceptor.accept(messages)
    rows = []
    for message in messages:
        for path, status in ((Path.SUBMITTED, State.SUBMITTED), (Path.DELIVERED, State.DELIVERED)):
            row = world.event(message.id, message.sequence + 1, path=path, status=status)
            row.carrier_id = f"c{message.id}" if path is Path.SUBMITTED else None
            row.message, row.previous = message, message.state
            assert apply_row(message, row)
            rows.append(row)
    await flush(lane, rows)
    return rows


async def flush(lane, rows: list[EventRow] | None = None) -> None:
    done = asyncio.get_running_loop().create_future()
    lane.add(rows or [], urgent=True, done=lambda: done.set_result(None))
    await asyncio.wait_for(done, 60)


async def parked(world: World) -> list[tuple[Any, ...]]:
    async with world.pool.acquire() as conn:
        found = await conn.fetch(
            "SELECT endpoint, event_id, message_id, sequence, tries, due FROM webhook_parked"
            " ORDER BY event_id"
        )
    return [tuple(row) for row in found]


async def test_failed_events_are_parked_read_back_delivered_and_deleted(world: World) -> None:
    lane = await world.event_lane()
    endpoint, clock = Endpoint(), Clock()
    notifier = joined(world, lane, endpoint, clock)
    await notifier.recover(until=0)
    endpoint.answer = BROKEN
    rows = await lives(world, lane, 150)
    notifier.rows_committed(rows)
    await asyncio.sleep(0.2)
    await flush(lane)
    kept = await parked(world)
    assert [(k[0], k[1], k[2], k[3], k[4]) for k in kept] == sorted(
        (5, row.event_id, row.message_id, row.sequence, 1) for row in rows
    )
    assert notifier.cursor() == max(row.event_id for row in rows)
    endpoint.answer = Delivered(200)
    clock.ahead_s = 6
    for _ in range(4):
        await notifier.tick()
        await asyncio.sleep(0.1)
        await flush(lane)
    assert await parked(world) == []
    assert {event["id"] for event in endpoint.taken} == {
        to_text("evt", row.event_id) for row in rows
    }
    by_id = {event["id"]: event["data"] for event in endpoint.taken}
    first = by_id[to_text("evt", rows[0].event_id)]
    assert (first["status"], first["sequence"], first["client_ref"]) == ("submitted", 2, "ref-0")
    assert "13800138000" not in json.dumps(endpoint.taken)
    await notifier.stop(1.0)


async def test_a_dead_letter_stays_and_is_never_read_again(world: World) -> None:
    lane = await world.event_lane()
    store = notice_store(world, lane)
    (row, *_) = await lives(world, lane, 1)
    done = asyncio.Event()
    rows = [ParkedWebhook(5, row.event_id, row.message_id, row.sequence, 10, DEAD)]
    store.park(rows, done.set)
    await asyncio.wait_for(done.wait(), 60)
    ((*_, tries, due),) = await parked(world)
    assert tries == 10
    assert due.year == 9999  # how asyncpg shows infinity
    conn = await database.connect(world.dsn)
    assert await conn.fetchval("SELECT due = 'infinity' FROM webhook_parked")
    await conn.close()
    assert await store.due([5], time.time() + 1e9, 10) == []
    assert await store.due([5], NEAR_THE_END, 10) == []
    assert await store.oldest_parked() is None


async def test_a_dead_endpoint_with_5000_due_rows_hides_no_row_of_another(world: World) -> None:
    lane = await world.event_lane()
    store = notice_store(world, lane)
    first = [world.event_ids.next(500) for _ in range(10)]
    ids = [start + n for start in first for n in range(500)]
    now = time.time()
    done = asyncio.Event()
    rows = [ParkedWebhook(5, event_id, 1, 2, 0, now - 9000 + n) for n, event_id in enumerate(ids)]
    rows += [
        ParkedWebhook(6, event_id, 1, 2, 0, now - 10 + n) for n, event_id in enumerate(ids[:3])
    ]
    store.park(rows, done.set)
    await asyncio.wait_for(done.wait(), 60)
    found = await store.due([6, 5, 7], now, 300)
    assert [(row.endpoint, row.event_id) for row in found] == [
        *((6, event_id) for event_id in ids[:3]),
        *((5, event_id) for event_id in ids[:300]),
    ]
    assert [row.endpoint for row in await store.due([6], now, 300)] == [6, 6, 6]
    assert [row.endpoint for row in await store.due([6, 6], now, 1)] == [6]
    assert await store.due([], now, 300) == []
    assert await store.oldest_parked() == ids[0]
    other = LaneNoticeStore(
        lane,
        world.reader,
        world.lease.process + 1,
        InboundReader(world.pool, world.keyring),
        ChannelNewsStore(world.pool),
    )
    assert await other.due([5, 6], now, 300) == []
    assert await other.oldest_parked() is None


async def test_after_a_takeover_what_the_cursor_had_not_passed_is_sent(dsn: str) -> None:
    before = await World.make(dsn)
    lane = await before.event_lane()
    rows = await lives(before, lane, 40)
    half = sorted(row.event_id for row in rows)[39]
    high = max(before.ids.high_water(1.0), before.event_ids.high_water(1.0))
    await before.lease.renew(id_high_water=high, low_water=0, event_cursor=half)
    await before.close()
    after = await World.make(dsn)
    assert after.lease.event_cursor == half
    endpoint, clock = Endpoint(), Clock()
    notifier = joined(after, await after.event_lane(), endpoint, clock, after.lease.event_cursor)
    assert notifier.cursor() == half
    assert await notifier.recover(until=after.lease.id_floor) == 40
    clock.ahead_s = 1
    await notifier.tick()
    await asyncio.sleep(0.2)
    assert {event["id"] for event in endpoint.taken} == {
        to_text("evt", row.event_id) for row in rows if row.event_id > half
    }
    assert notifier.cursor() == after.lease.id_floor
    await notifier.stop(1.0)
    await after.close()
