"""What the store knows of webhooks that were told: cursors, parked rows, versions of endpoints."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest

from sms.ids import id_at
from store import database
from store.config import ConfigStore
from store.fragments import ParkedWebhook, park_webhooks_sql
from store.objects import Upsert
from store.seal import Keyring
from store.told import TOLD_SQL, Tellings
from tests.support.admin_world import SETUP
from tests.support.postgres import MASTER, World

pytestmark = pytest.mark.integration

SHOP = Upsert("tenant", "shop", {"name": "shop", "signatures": ["某商城"], "countries": [86]}, {})
HOOKS = [
    Upsert("webhook_endpoint", f"shop {url}", {"tenant": "shop", "url": url}, {})
    for url in ("https://a.example/h", "https://b.example/h")
]


async def park(world: World, *rows: ParkedWebhook) -> None:
    lane = await world.event_lane()
    lane.add([], urgent=True, sql=park_webhooks_sql(world.lease.process, rows))
    assert await lane.drain(60)


async def test_each_event_and_endpoint_is_told_by_cursor_and_parked_row(world: World) -> None:
    pool = await database.open_pool(world.dsn, size=1)
    store = ConfigStore(pool, Keyring(MASTER))
    await store.apply([SHOP, *HOOKS], SETUP)
    first, second = sorted((await store.load()).endpoints)
    done, waiting, dead, later = events = [world.event_ids.next() for _ in range(4)]
    due = float(int(time.time()) + 300)
    await park(
        world,
        ParkedWebhook(first, waiting, 7, 2, 3, due),
        ParkedWebhook(second, dead, 7, 3, 10, math.inf),
    )
    lease = world.lease
    high = id_at(time.time() + 60)
    assert await lease.renew(id_high_water=high, low_water=0, event_cursor=dead)
    told = {
        (one.endpoint, one.event_id): one
        for one in await Tellings(pool).of([first, second], events)
    }
    assert len(told) == 8
    assert [told[first, event].is_settled for event in events] == [True, True, True, False]
    assert [told[first, event].tries for event in events] == [None, 3, None, None]
    assert told[first, waiting].due == due
    assert (told[second, dead].tries, told[second, dead].due) == (10, math.inf)
    assert told[first, done].sure_below is None
    assert told[second, later].sure_below == dead
    assert abs(told[first, done].since - time.time()) < 60
    before = told[first, done].since
    changed = replace(HOOKS[0], spec={**HOOKS[0].spec, "batch": True})
    await store.apply([changed], SETUP)
    [one] = await Tellings(pool).of([first], [done])
    assert one.since > before
    assert await Tellings(pool).of([99], [done]) == []
    pool.terminate()


async def test_of_many_parked_events_only_the_first_are_looked_at(world: World) -> None:
    pool = await database.open_pool(world.dsn, size=1)
    store = ConfigStore(pool, Keyring(MASTER))
    await store.apply([SHOP, HOOKS[0]], SETUP)
    [endpoint] = (await store.load()).endpoints
    events = [world.event_ids.next() for _ in range(300)]
    await park(world, *[ParkedWebhook(endpoint, event, 7, 2, 1, 4e9) for event in events])
    [one] = await Tellings(pool).of([endpoint], [events[-1]])
    assert one.sure_below == events[199]
    pool.terminate()


async def test_a_look_reads_primary_keys_only(world: World) -> None:
    conn = await database.connect(world.dsn)
    await conn.execute("SET enable_seqscan = off")
    rows = await conn.fetch(f"EXPLAIN {TOLD_SQL}", [1, 2], [1, 2, 3], [0, 0, 0])
    await database.close(conn)
    plan = "\n".join(row[0] for row in rows)
    for index in ("webhook_parked_pkey", "objects_pkey", "object_history_pkey", "processes_pkey"):
        assert index in plan, plan
    assert "Seq Scan" not in plan, plan
