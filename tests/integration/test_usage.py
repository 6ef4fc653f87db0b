"""Usage in the store: exact while it is folded, by tenant and day, page by page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.usage import usage_moves
from receipts.state import Path, apply_row
from sms.ids import to_text
from sms.model import EventRow, Message, MessageClass, State
from store.usage import Usage, date_of_number, day_number
from tests.support.fake_flow import OTHER, SHOP
from tests.support.postgres import World, text
from tests.support.reading_world import MOBILE, UNICOM, Door

pytestmark = pytest.mark.integration


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    door = await Door.open(world)
    yield door
    await door.close()


def moved(world: World, message: Message, path: Path, status: State, **fields: Any) -> EventRow:
    """The message's next row, applied as the ledger does."""
    row = world.event(
        message.id, message.sequence + 1, tenant=message.tenant, path=path, status=status, **fields
    )
    row.message = message
    assert apply_row(message, row)
    return row


async def test_the_platform_sees_a_tenants_usage_with_what_it_cost(world, door):
    acceptor, lane = await world.acceptor(), await lane_of(world)
    messages = [text(message_class=MessageClass.OTP, texts=("a", "b")) for _ in range(4)]
    await acceptor.accept(messages)
    channels = dict(door.flow.snapshot.channels)
    channels[MOBILE] = replace(channels[MOBILE], price_per_segment=Decimal("0.035"))
    object.__setattr__(door.flow.snapshot, "channels", channels)
    rows = [
        moved(world, message, Path.SUBMITTED, State.SUBMITTED, channel=channel, segment=0)
        for message, channel in zip(messages, (MOBILE, MOBILE, UNICOM), strict=False)
    ]
    lane.add(rows, urgent=True)
    assert await lane.drain(20)
    path = f"/v1/tenants/{to_text('ten', SHOP)}/usage"
    answer = await door.call("GET", path, key="admin")
    assert answer.status_code == 200, answer.text
    cells = answer.json()["data"]
    costs = {(one["status"], one["channel"]): one["cost"] for one in cells}
    assert costs == {
        ("accepted", None): "0",
        ("submitted", "mobile-a"): "0.14",
        ("submitted", "unicom-b"): None,  # it has no price
    }
    # All but the cost is what the tenant reads itself.
    assert [{k: v for k, v in one.items() if k != "cost"} for one in cells] == await usage(door)
    first = (await door.call("GET", path, key="admin", params={"limit": 1})).json()
    params = {"limit": 5, "cursor": first["next_cursor"]}
    rest = (await door.call("GET", path, key="admin", params=params)).json()
    assert first["data"] + rest["data"] == cells


async def test_a_tenants_usage_with_costs_is_for_admin_keys_and_tenants_that_exist(door):
    path = f"/v1/tenants/{to_text('ten', SHOP)}/usage"
    assert (await door.call("GET", path)).status_code == 403
    for wrong in (to_text("ten", 4711), "ten_x", to_text("msg", SHOP)):
        answer = await door.call("GET", f"/v1/tenants/{wrong}/usage", key="admin")
        assert answer.status_code == 404
    answer = await door.call("GET", f"{path}?day=1", key="admin")
    assert answer.status_code == 422


async def lane_of(world: World) -> Any:
    lane = await world.event_lane()
    lane._hooks = replace(lane._hooks, usage=usage_moves)
    return lane


async def usage(door: Door, key: str = "both", **params: Any) -> list[dict[str, Any]]:
    answer = await door.call("GET", "/v1/usage", key=key, params=params)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


async def test_counts_are_exact_before_and_after_folding(world, door):
    acceptor, lane, stored = await world.acceptor(), await lane_of(world), Usage(world.pool)
    messages = [text(message_class=MessageClass.OTP, texts=("a", "b")) for _ in range(9)]
    await acceptor.accept(messages)
    await acceptor.accept([text(tenant=OTHER)])
    today = str(date_of_number(day_number(time.time())))
    cell = {"day": today, "class": "otp", "carrier": "CM", "channel": None}
    assert await usage(door) == [{**cell, "status": "accepted", "count": 9, "segments": 18}]
    assert await stored.fold()
    assert (await usage(door))[0]["count"] == 9
    sent = [
        moved(world, m, Path.SUBMITTED, State.SUBMITTED, channel=MOBILE, segment=0)
        for m in messages[:6]
    ]
    ended = [
        moved(world, m, Path.DELIVERED, State.DELIVERED, channel=MOBILE, segment=None)
        for m in messages[:2]
    ]
    lane.add(sent + ended, urgent=True)
    assert await lane.drain(60)
    want = {("accepted", None): 3, ("submitted", "mobile-a"): 4, ("delivered", "mobile-a"): 2}
    for _ in range(3):
        shown = await usage(door)
        assert {(one["status"], one["channel"]): one["count"] for one in shown} == want
        assert sum(one["segments"] for one in shown) == 18
        assert await stored.fold()
    assert await world.pool.fetchval("SELECT count(*) FROM usage_deltas") == 0
    assert [one["count"] for one in await usage(door, "other")] == [1]


async def test_reading_while_folding_never_sees_a_message_twice_or_not(world, door):
    acceptor, stored = await world.acceptor(), Usage(world.pool)
    is_over = False

    async def folding() -> None:
        while not is_over:
            await stored.fold()

    task = asyncio.create_task(folding())
    accepted = 0
    for _ in range(40):
        await acceptor.accept([text() for _ in range(5)])
        accepted += 5
        assert sum(one["count"] for one in await usage(door)) == accepted
    is_over = True
    await task


async def test_pages_and_days(world, door):
    now = time.time()
    for back in range(4):
        for cls in MessageClass:
            moves = {(SHOP, day_number(now) - back, list(MessageClass).index(cls), 0, UNICOM, 5): 7}
            (cell, count), *_ = moves.items()
            await world.pool.execute(
                "INSERT INTO usage_days VALUES ($1,$2,$3,$4,$5,$6,$7,$7)", *cell, count
            )
    today = date_of_number(day_number(now))
    everything = await usage(door)
    assert [one["day"] for one in everything] == sorted([one["day"] for one in everything])[::-1]
    assert len(everything) == 12
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 5}
    while True:
        page = (await door.call("GET", "/v1/usage", params=params)).json()
        found += page["data"]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert found == everything
    one_day = str(today - timedelta(days=2))
    some = await usage(door, **{"from": one_day, "to": one_day})
    assert {one["day"] for one in some} == {one_day}
    await Usage(world.pool).forget(today - timedelta(days=1))
    assert len(await usage(door)) == 6


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"from": "2026-02-30"}, "/from"),
        ({"to": "2026-1-1"}, "/to"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "/to"),
        ({"cursor": "x"}, "/cursor"),
    ],
)
async def test_a_wrong_parameter_is_named(door, params, pointer):
    answer = await door.call("GET", "/v1/usage", params=params)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_the_migration_counts_what_was_there(world, door):
    """Its count is the one that the flushes would have made."""
    from importlib import resources

    acceptor, lane = await world.acceptor(), await lane_of(world)
    messages = [text() for _ in range(6)]
    await acceptor.accept(messages)
    rows = [moved(world, m, Path.SUBMITTED, State.SUBMITTED, channel=MOBILE) for m in messages[:4]]
    rows.append(moved(world, messages[0], Path.DELIVERED, State.DELIVERED, channel=MOBILE))
    rows.append(moved(world, messages[4], Path.REQUEUED, State.QUEUED, channel=UNICOM))
    rows.append(moved(world, messages[4], Path.SUBMITTED, State.SUBMITTED, channel=MOBILE))
    rows.append(moved(world, messages[5], Path.EXPIRED, State.EXPIRED, channel=0))
    lane.add(rows, urgent=True)
    assert await lane.drain(60)
    counted = await usage(door)
    assert date.fromisoformat(counted[0]["day"])
    await world.pool.execute("TRUNCATE usage_deltas, usage_days")
    whole = (resources.files("store.migrations") / "0008_pre_reads.sql").read_text("utf-8")
    await world.pool.execute(whole[whole.index("INSERT INTO usage_days") :])
    assert await usage(door) == counted
