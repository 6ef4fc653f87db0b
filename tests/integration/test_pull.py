"""The pull of events: the webhooks' bodies in the order of their ids, without a hole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from gateway.api.cursors import place_of, seal_cursor
from gateway.idreserve import IdReserve
from gateway.notices import notices_of_stored
from receipts.state import Path
from sms.ids import EPOCH_MS, TIME_SHIFT, IdClock, id_at
from sms.model import STATE_CODES, EventRow, Message, State
from store import pull as pull_module
from store.events import EventLane
from store.processes import NO_MORE_EVENTS, raise_event_floor
from store.read import Reader
from tests.support.fake_flow import OTHER, SHOP
from tests.support.postgres import World, text
from tests.support.reading_world import MOBILE, Door

pytestmark = pytest.mark.integration


@pytest.fixture
async def door(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    """Nothing is held back for its age: the floors alone decide."""
    ahead = pull_module.HORIZON_SQL.replace(
        f"{EPOCH_MS + pull_module.YOUNGEST_MS}", f"{EPOCH_MS - 60_000}"
    )
    assert ahead != pull_module.HORIZON_SQL
    monkeypatch.setattr(pull_module, "HORIZON_SQL", ahead)
    door = await Door.open(world)
    yield door
    await door.close()


async def say(world: World, floor: int | None = None) -> None:
    """What a worker tells each second."""
    pending = [lane.pending_floor() for lane in world.lanes if hasattr(lane, "add")]
    newest = world.event_ids.next() if floor is None else floor
    await raise_event_floor(
        world.pool, world.lease.process, min([newest, *(one for one in pending if one is not None)])
    )


async def messages_of(world: World, count: int, tenant: int = SHOP) -> list[Message]:
    acceptor = next((lane for lane in world.lanes if hasattr(lane, "accept")), None)
    acceptor = acceptor or await world.acceptor()
    messages = [text(tenant=tenant) for _ in range(count)]
    await acceptor.accept(messages)
    return messages


def lives(world: World, messages: list[Message]) -> list[EventRow]:
    """Submitted, a note, delivered."""
    rows: list[EventRow] = []
    for message in messages:
        of = {"tenant": message.tenant, "channel": MOBILE, "segment": 0}
        none = {"carrier_id": None}
        rows += [
            world.event(message.id, 2, **of),
            world.event(message.id, 3, path=Path.NOTE, status=State.SUBMITTED, **of, **none),
            world.event(message.id, 4, path=Path.DELIVERED, status=State.DELIVERED, **of, **none),
        ]
    return rows


async def write(world: World, rows: list[EventRow]) -> None:
    lane = next((lane for lane in world.lanes if isinstance(lane, EventLane)), None)
    lane = lane or await world.event_lane()
    lane.add(rows, urgent=True)
    assert await lane.drain(60)


async def fetch(door: Door, after: str | None = None, key: str = "both", **more: Any) -> Any:
    params = {**({} if after is None else {"after": after}), **more}
    answer = await door.call("GET", "/v1/events", key=key, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def fetch_all(door: Door, after: str | None = None, **more: Any) -> tuple[list[Any], str]:
    found: list[Any] = []
    while True:
        page = await fetch(door, after, **more)
        if not page["data"]:
            return found, page["next_cursor"]
        found += page["data"]
        after = page["next_cursor"]


def key_of(rows: list[EventRow]) -> list[str]:
    told = [row for row in rows if row.path != Path.NOTE]
    return [f"evt_{row.event_id:016x}" for row in sorted(told, key=lambda row: row.event_id)]


async def test_every_event_comes_once_in_order_and_is_a_webhooks_body(world, door):
    messages = await messages_of(world, 60)
    others = await messages_of(world, 5, OTHER)
    rows = lives(world, messages)
    await write(world, rows + lives(world, others))
    await say(world)
    for limit in (1000, 50, 7):
        found, cursor = await fetch_all(door, limit=limit)
        assert [one["id"] for one in found] == key_of(rows)
        again = await fetch(door, cursor)
        assert again["data"] == []
        assert again["next_cursor"] is not None
    stored = await door.reading.reader.message(messages[0].id)
    names = door.flow.channel_names
    bodies = [n.masked for n in notices_of_stored(stored.message, stored.rows, {2, 4}, names)]
    mine = [one for one in found if one["data"]["id"] == f"msg_{messages[0].id:016x}"]
    assert mine == [msgspec.json.decode(body) for body in bodies]
    assert [one["data"]["previous_status"] for one in mine] == ["submitting", "submitted"]
    assert len((await fetch(door, key="other"))["data"]) == 10


async def test_a_delayed_commit_in_one_process_leaves_no_hole(world, door):
    """Its rows have lower ids than what another process commits meanwhile."""
    slow = await World.make(world.dsn, slot=1)
    try:
        mine, slows = await messages_of(world, 6), await messages_of(slow, 6)
        await say(world)
        await say(slow)
        late = lives(slow, slows[:3])
        keeper = await asyncpg.connect(world.dsn)
        await keeper.execute(
            "BEGIN; SELECT pg_advisory_xact_lock(42, $1)".replace("$1", str(slow.lease.process))
        )
        lane = await slow.event_lane(timeout_s=20.0)
        lane.add(late, urgent=True)  # its flush waits in the fence
        await asyncio.sleep(0.3)
        rows = lives(world, mine)
        await write(world, rows)
        assert min(row.event_id for row in rows) > max(row.event_id for row in late)
        await say(world)
        await say(slow)
        found, cursor = await fetch_all(door)
        assert found == []  # committed, and yet not served
        await keeper.execute("ROLLBACK")
        await keeper.close()
        assert await lane.drain(60)
        assert (await fetch_all(door, cursor))[0] == []  # until it says so
        await say(slow)
        await say(world)
        found, _ = await fetch_all(door, cursor, limit=4)
        assert [one["id"] for one in found] == key_of(late + rows)
    finally:
        await slow.close()


WRITTEN = (
    "INSERT INTO events (message_id, sequence, event_id, tenant, path, channel, segment, at,"
    " status, copy) VALUES ($1, $2, $3, $4, $5, $6, $7, now(), $8, 0)"
)


async def test_a_writer_killed_in_its_transaction_holds_the_pull_until_its_successor(world, door):
    """Its rows stand in the table, uncommitted, below what another process has committed."""
    killed = await World.make(world.dsn, slot=1)
    again: World | None = None
    try:
        mine, its = await messages_of(world, 4), await messages_of(killed, 3)
        await say(world)
        await say(killed)
        found, cursor = await fetch_all(door)
        assert found == []
        lost = [lives(killed, [message])[0] for message in its]
        writer = await killed.opener()()
        await writer.execute("BEGIN")
        for row in lost:
            of = (row.message_id, row.sequence, row.event_id, row.tenant, int(row.path))
            await writer.execute(WRITTEN, *of, row.channel, row.segment, STATE_CODES[row.status])
        rows = lives(world, mine)
        await write(world, rows)
        assert min(row.event_id for row in rows) > max(row.event_id for row in lost)
        await say(world)
        await say(killed, min(row.event_id for row in lost))
        assert (await fetch_all(door, cursor))[0] == []
        writer.terminate()  # as kill -9 of the process does
        assert (await fetch_all(door, cursor))[0] == []  # nobody speaks for it yet
        again = await World.make(world.dsn, slot=1)
        assert again.lease.process == killed.lease.process
        await raise_event_floor(killed.pool, killed.lease.process, NO_MORE_EVENTS)
        anew = [lives(again, [message])[0] for message in its]
        await write(again, anew)
        await say(again)
        await say(world)
        found, _ = await fetch_all(door, cursor, limit=5)
        assert [one["id"] for one in found] == key_of(rows + anew)
    finally:
        await killed.close()
        if again is not None:
            await again.close()


async def test_pulling_while_two_processes_write_misses_nothing(world, door):
    other = await World.make(world.dsn, slot=1)
    written: list[EventRow] = []
    is_over = False

    async def writing(one: World) -> None:
        for _ in range(25):
            rows = lives(one, await messages_of(one, 4))
            await asyncio.sleep(0.01)  # made, and not yet in the lane
            written.extend(rows)
            await write(one, rows)

    async def saying(one: World) -> None:
        while not is_over:
            await say(one, one.event_ids.next() - (2000 << TIME_SHIFT))
            await asyncio.sleep(0.03)

    try:
        tasks = [asyncio.create_task(saying(one)) for one in (world, other)]
        writers = asyncio.gather(writing(world), writing(other))
        seen: list[str] = []
        cursor = None
        until = time.monotonic() + 60
        while len(seen) < 400 and time.monotonic() < until:
            page = await fetch(door, cursor, limit=20)
            seen += [one["id"] for one in page["data"]]
            cursor = page["next_cursor"]
            await asyncio.sleep(0.01)
        await writers
        is_over = True
        await asyncio.gather(*tasks)
        assert seen == key_of(written)
    finally:
        await other.close()


async def test_one_message_s_events_come_in_order_though_a_writer_is_ahead(world, door):
    """After a kill a process's ids begin up to 15 s ahead; its receipts may come to another."""
    ahead = await World.make(world.dsn, slot=1)
    try:
        ahead.event_ids = IdClock(ahead.lease.process, id_at(time.time() + 12), time.time)
        (message,) = await messages_of(world, 1)
        await write(ahead, lives(ahead, [message])[:1])
        reserve = IdReserve(world.event_ids)
        reserve.granted(world.event_ids.high_water(15.0))
        stored = await Reader(world.pool, world.keyring, reserve.follow).message(message.id)
        assert stored is not None
        assert [row.sequence for row in stored.rows] == [2]
        await write(world, lives(world, [message])[2:])
        await say(world)
        await say(ahead, NO_MORE_EVENTS)
        found, _ = await fetch_all(door)
        assert [one["data"]["status"] for one in found] == ["submitted", "delivered"]
    finally:
        await ahead.close()


async def test_a_new_owner_speaks_for_itself(world, door):
    """A worker that ended said that nothing more comes; who takes its number may yet write."""
    await raise_event_floor(world.pool, world.lease.process, NO_MORE_EVENTS)
    again = await World.make(world.dsn, slot=0)
    try:
        floor = await again.pool.fetchval("SELECT min(event_floor) FROM processes")
        assert floor < id_at(time.time() + 60)
        await raise_event_floor(world.pool, world.lease.process, NO_MORE_EVENTS)  # fenced
        assert await again.pool.fetchval("SELECT min(event_floor) FROM processes") == floor
    finally:
        await again.close()


async def test_only_what_is_three_seconds_old_is_served(world):
    door = await Door.open(world)
    try:
        messages = await messages_of(world, 2)
        old, new = lives(world, messages[:1]), lives(world, messages[1:])
        for row in old:
            row.event_id -= 4000 << TIME_SHIFT
        await write(world, old + new)
        await raise_event_floor(world.pool, world.lease.process, NO_MORE_EVENTS)
        found, _ = await fetch_all(door)
        assert [one["id"] for one in found] == key_of(old)
    finally:
        await door.close()


async def test_a_week_is_kept_and_an_older_cursor_is_told_so(world, door):
    message = (await messages_of(world, 1))[0]
    rows = lives(world, [message])
    rows[0].event_id -= (8 * 86_400_000) << TIME_SHIFT
    rows[2].event_id -= (6 * 86_400_000) << TIME_SHIFT
    await write(world, rows)
    await say(world)
    found, cursor = await fetch_all(door)
    assert [one["data"]["status"] for one in found] == ["delivered"]
    late = await door.call("GET", "/v1/events", params={"after": "x"})
    assert late.status_code == 422
    assert late.json()["errors"][0]["pointer"] == "/after"
    ancient = seal_cursor(
        world.keyring.cursor_key, place_of("events", SHOP, {}), id_at(time.time() - 8 * 86_400)
    )
    refused = await door.call("GET", "/v1/events", params={"after": ancient})
    assert refused.status_code == 422
    assert "7 days" in refused.json()["detail"]
    foreign = await door.call("GET", "/v1/events", key="other", params={"after": cursor})
    assert foreign.status_code == 422
    assert (await door.call("GET", "/v1/events", key="admin")).status_code == 403


async def test_code_of_before_keeps_the_pull_shut(world, door):
    """It says nothing about its events, so nothing is sure."""
    await write(world, lives(world, await messages_of(world, 1)))
    assert (await fetch_all(door))[0] == []
