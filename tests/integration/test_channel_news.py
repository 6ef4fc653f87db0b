"""A channel's tenants told on a real PostgreSQL: once by two processes, and over a kill."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from failover.health import Fault, HealthPolicy, Signal
from failover.watch import Watch
from gateway.channel_news import ChannelNews
from gateway.courier import Clocks
from gateway.idreserve import IdReserve
from gateway.notice_store import LaneNoticeStore
from gateway.notices import Notice
from gateway.notify import Notifier
from sms.config import Channel, Route, Snapshot, Tenant, WebhookEndpoint
from sms.errors import StoreUnavailable
from sms.model import Carrier, MessageClass
from store import pull
from store.channel_news import ChannelNewsStore
from store.inbound_read import InboundReader
from store.processes import NO_MORE_EVENTS
from telemetry.metrics import Metrics
from tests.support.fake_flow import OTHER, SHOP
from tests.support.postgres import World
from tests.support.reading_world import MOBILE, UNICOM, Door
from webhooks.address import AllowList
from webhooks.deliver import Delivered, Delivery, Target

pytestmark = pytest.mark.integration

BANK = 3
DEGRADED, RECOVERED = "channel.degraded", "channel.recovered"
SNAPSHOT = Snapshot(
    tenants={one: Tenant(one, str(one)) for one in (SHOP, OTHER, BANK)},
    channels={
        MOBILE: Channel(MOBILE, "mobile-a", "smpp", {}),
        UNICOM: Channel(UNICOM, "unicom-b", "smpp", {}),
    },
    routes=(
        Route(1, SHOP, MessageClass.OTP, None, 0, (MOBILE,)),
        Route(2, BANK, None, None, 0, (UNICOM, MOBILE)),  # as a backup too
        Route(3, 0, None, None, 0, (UNICOM,)),
    ),
    endpoints={
        1: WebhookEndpoint(1, SHOP, "https://a.example/", (DEGRADED, RECOVERED), secrets=(b"k",)),
        2: WebhookEndpoint(2, BANK, "https://b.example/", ("message.*",), secrets=(b"k",)),
    },
)


class Process:
    """One life of a process: its watches, and what it told its webhooks."""

    def __init__(self, world: World, stale_s: float = 60.0) -> None:
        self.world = world
        self.now = 1000.0
        self.notices: list[Notice] = []
        self.store = ChannelNewsStore(world.pool, stale_s)
        self.watches = {one: SimpleNamespace(watch=self._watch()) for one in (MOBILE, UNICOM)}
        dispatcher: Any = SimpleNamespace(
            is_stopped=False, snapshot=SNAPSHOT, channels=self.watches
        )
        self.news = ChannelNews(
            process=world.lease.process,
            store=self.store,
            dispatcher=dispatcher,
            names={MOBILE: "mobile-a", UNICOM: "unicom-b"},
            ids=world.event_ids,
            reserve=IdReserve(world.event_ids),
            told=self,
            unix=time.time,
            monotonic=lambda: self.now,
        )

    def _watch(self) -> Watch:
        return Watch(HealthPolicy(), self.now, lambda: 0.5)

    def wants(self, tenant: int, kind: str | None = None) -> bool:
        return tenant == SHOP and kind in (DEGRADED, RECOVERED)

    def committed(self, notices: Sequence[Notice], *, up_to: int = 0) -> None:
        assert all(notice.event_id <= up_to for notice in notices)
        self.notices += notices

    def leave(self, carrier: Carrier | None = None, channel: int = MOBILE) -> None:
        watch = self.watches[channel].watch
        way = watch._whole if carrier is None else watch._way(carrier)
        way.breaker.trip(Fault(Signal.SLOW, "too slow"), self.now)
        watch.is_closed = False

    def back(self) -> None:
        self.watches[MOBILE].watch = self._watch()

    async def look(self) -> None:
        self.now += 11.0
        await self.news.round()
        assert self.news.pending_floor() is None


def kinds(notices: Sequence[Notice]) -> list[str]:
    return [notice.type for notice in notices]


@pytest.fixture
async def two(dsn: str) -> AsyncIterator[tuple[Process, Process]]:
    first, second = await World.make(dsn), await World.make(dsn, slot=1)
    yield Process(first), Process(second)
    await second.close()
    await first.close()


async def events(world: World, monkeypatch: pytest.MonkeyPatch, key: str = "both") -> list[Any]:
    """GET /v1/events, whatever their age."""
    monkeypatch.setattr(pull, "HORIZON_SQL", f"SELECT {NO_MORE_EVENTS >> 2}")
    door = await Door.open(world)
    answer = await door.call("GET", "/v1/events", key=key)
    await door.close()
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


async def test_the_first_that_leaves_and_the_last_that_is_back_are_told_to_the_channel_s_tenants(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    for process in (first, second, first):
        process.leave()
        await process.look()
    first.back()
    await first.look()
    await first.look()
    assert (kinds(first.notices), second.notices) == ([DEGRADED], [])
    second.leave(Carrier.CM)  # for one network too: that is told by itself
    await second.look()
    second.back()
    await second.look()
    assert kinds(second.notices) == [DEGRADED, RECOVERED, RECOVERED]
    assert await first.store.left() == []

    told = await events(first.world, monkeypatch)
    about = [(one["type"], one["data"]["carrier"]) for one in told]
    assert about[:2] == [(DEGRADED, None), (DEGRADED, "CM")]
    assert sorted(about[2:], key=str) == [(RECOVERED, "CM"), (RECOVERED, None)]
    sequences = [one["data"]["sequence"] for one in told]
    assert sequences == sorted(set(sequences))
    assert {one["data"]["since"] for one in told if one["data"]["carrier"] is None} == {
        told[0]["data"]["since"]
    }
    body = told[0]
    assert body["data"] | {"since": 0, "sequence": 0} == {
        "id": f"chn_{MOBILE:016x}", "name": "mobile-a", "carrier": None, "cause": "slow",
        "since": 0, "sequence": 0,
    }  # fmt: skip
    assert json.loads(first.notices[0].masked) == body
    assert await events(first.world, monkeypatch, "other") == []  # its routes lead elsewhere


async def test_a_lost_commit_is_made_up_for_and_told_once(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = two
    whole = first.store.transaction

    @asynccontextmanager
    async def lost() -> AsyncIterator[Any]:
        async with whole() as tx:
            yield tx
        raise StoreUnavailable("the answer was lost")

    first.store.transaction = lost  # type: ignore[method-assign]
    first.leave()
    with pytest.raises(StoreUnavailable):
        await first.news.round()
    assert first.news.pending_floor() is not None
    assert first.notices == []
    first.store.transaction = whole  # type: ignore[method-assign]
    await first.look()
    await first.look()
    assert kinds(first.notices) == [DEGRADED]
    assert len(await events(first.world, monkeypatch)) == 1


async def test_killed_between_commit_and_telling_its_next_life_tells_and_the_channel_is_not_left(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    world = first.world
    first.committed = lambda notices, up_to=0: None  # type: ignore[method-assign, misc]  # it dies here
    first.leave()
    await first.look()
    assert len(await first.store.left()) == 1

    # The next life of that process reads on from its cursor; its channels begin closed.
    requests: list[dict[str, Any]] = []
    is_told = asyncio.Event()

    async def deliver(_: Target, keys: Sequence[bytes], name: str, body: bytes) -> Delivery:
        requests.append(json.loads(body))
        is_told.set()
        return Delivered(200)

    lane = await world.event_lane()
    inbound = InboundReader(world.pool, world.keyring)
    notifier = Notifier(
        store=LaneNoticeStore(lane, world.reader, world.lease.process, inbound, first.store),
        deliver=deliver,
        metrics=Metrics(),
        allow=AllowList(),
        clocks=Clocks(),
    )
    notifier.reconfigure(SNAPSHOT)
    assert await notifier.recover(until=world.event_ids.next()) == 1
    await asyncio.wait_for(is_told.wait(), 10)
    assert [one["type"] for one in requests] == [DEGRADED]
    await notifier.stop()

    # Its row counts a while, so that a life which finds the fault again need say nothing …
    again = Process(world)
    await again.look()
    await second.look()
    assert (again.notices, second.notices) == ([], [])
    # … and is then anybody's to end.
    late = Process(second.world, stale_s=0.0)
    await late.look()
    assert kinds(late.notices) == [RECOVERED]
    assert await late.store.left() == []
    assert [one["type"] for one in await events(world, monkeypatch)] == [DEGRADED, RECOVERED]
