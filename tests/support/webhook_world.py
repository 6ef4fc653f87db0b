"""A worker's doors, webhook desk, notifier and store, joined; endpoints that answer as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.api.access import Access
from gateway.api.app import build
from gateway.api.auth import new_key
from gateway.courier import Clocks
from gateway.notice_store import LaneNoticeStore
from gateway.notify import Notifier
from gateway.webhook_desk import HealthPolicy, WebhookDesk
from receipts.state import Path, apply_row
from sms.model import EventRow, Message, State
from store.attempts import AttemptStore
from store.channel_news import ChannelNewsStore
from store.config import ConfigStore
from store.events import EventLane
from store.inbound_read import InboundReader
from store.objects import Upsert
from store.reading import Reading, open_reading
from store.replays import ReplayStore
from telemetry.metrics import Metrics
from tests.support.admin_world import SETUP
from tests.support.fake_flow import FakeFlow
from tests.support.postgres import World, text
from webhooks.address import AllowList
from webhooks.deliver import Delivered, Delivery, Target

URL = "https://backend.example/hooks/sms"
PATH = "/v1/webhook-endpoints"
STAR = {"if-match": "*"}
_KEYS = {
    "both": ("shop", ["send", "read"]),
    "send": ("shop", ["send"]),
    "read": ("shop", ["read"]),
    "other": ("other", ["send", "read"]),
    "ops": (None, ["admin"]),
}


@dataclass
class Request:
    """One request as an endpoint saw it."""

    url: str
    keys: list[bytes]
    webhook_id: str
    body: bytes


class Rig:
    """One process; `ahead_s` moves its clocks, `answer` says what every endpoint does."""

    def __init__(self, world: World, reading: Reading, lane: EventLane) -> None:
        self.world = world
        self.lane = lane
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Delivery] = lambda _: Delivered(200, b"thank you")
        self.ahead_s = 0.0
        self.keys: dict[str, str] = {}
        self.config = ConfigStore(world.pool, world.keyring)
        self.metrics = Metrics()
        self.desk = WebhookDesk(
            attempts=AttemptStore(world.pool, world.keyring),
            replays=ReplayStore(world.pool, world.lease.process),
            config=self.config,
            metrics=self.metrics,
            next_id=world.event_ids.next,
            allow=AllowList.of(["http://127.0.0.1:9900"]),
            policy=HealthPolicy(),
            unix=self.now,
        )
        inbound = InboundReader(world.pool, world.keyring)
        self.notifier = Notifier(
            store=LaneNoticeStore(
                lane, world.reader, world.lease.process, inbound, ChannelNewsStore(world.pool)
            ),
            deliver=self._deliver,
            metrics=self.metrics,
            allow=self.desk.allow,
            clocks=Clocks(lambda: time.monotonic() + self.ahead_s, self.now, lambda: 0.5),
        )
        self.notifier.join(self.desk)
        self.flow = FakeFlow()
        self.flow.keyring = world.keyring  # type: ignore[assignment]  # the real one has the pepper
        self.flow.reading = reading
        self.flow.reader = reading.reader  # type: ignore[assignment]  # the real one
        self.flow.webhooks = self.desk
        self.flow.access = Access(config=self.config, refresh=self.poll, now=self.now)
        self.app = build(self.flow)

    def now(self) -> float:
        return time.time() + self.ahead_s

    async def set_up(self) -> None:
        writes = [
            Upsert("tenant", name, {"signatures": ["某商城"]}, {}) for name in ("shop", "other")
        ]
        for number, (name, (tenant, scopes)) in enumerate(_KEYS.items(), start=0x8000_0000_0001):
            self.keys[name], digest = new_key(self.world.keyring.pepper, number)
            spec = {"tenant": tenant, "name": name, "scopes": scopes, "key_id": number}
            secrets = {"secret_hash": digest.hex()}
            writes.append(Upsert("api_key", f"{tenant or ''}/{name}", spec, secrets))
        await self.config.apply(writes, SETUP)
        await self.poll()
        await self.notifier.recover(until=0)

    async def poll(self) -> None:
        """What a worker does each second."""
        self.flow.snapshot = await self.config.load()
        self.notifier.reconfigure(self.flow.snapshot)

    async def _deliver(
        self, target: Target, keys: Sequence[bytes], webhook_id: str, body: bytes
    ) -> Delivery:
        request = Request(str(target.url), list(keys), webhook_id, body)
        self.requests.append(request)
        await asyncio.sleep(0)
        return self.answer(request)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str = "both",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        told = {"authorization": f"Bearer {self.keys[key]}", **(headers or {})}
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            if body is None:
                return await http.request(method, path, headers=told)
            return await http.request(method, path, json=body, headers=told)

    async def make(self, **fields: Any) -> dict[str, Any]:
        """A new endpoint as it was shown."""
        made = await self.call("POST", PATH, {"url": URL, **fields})
        assert made.status_code == 201, made.text
        told: dict[str, Any] = made.json()
        return told

    async def delivered(self, count: int = 1) -> list[EventRow]:
        """So many messages that were submitted and delivered, committed and told of."""
        acceptor = await self.world.acceptor()
        messages = [text(client_ref=f"ref-{n}") for n in range(count)]
        await acceptor.accept(messages)
        rows = [row for message in messages for row in self._life(message)]
        await self.flush(rows)
        self.notifier.rows_committed(rows)
        await self.settle()
        return rows

    def _life(self, message: Message) -> list[EventRow]:
        rows = []
        for path, status in ((Path.SUBMITTED, State.SUBMITTED), (Path.DELIVERED, State.DELIVERED)):
            row = self.world.event(message.id, message.sequence + 1, path=path, status=status)
            row.carrier_id = f"c{message.id}" if path is Path.SUBMITTED else None
            row.message, row.previous = message, message.state
            assert apply_row(message, row)
            rows.append(row)
        return rows

    async def flush(self, rows: list[EventRow] | None = None) -> None:
        done = asyncio.get_running_loop().create_future()
        self.lane.add(rows or [], urgent=True, done=lambda: done.set_result(None))
        await asyncio.wait_for(done, 60)

    async def settle(self) -> None:
        """What can be sent is sent, what followed is committed and written."""
        for _ in range(3):
            for _ in range(200):
                await asyncio.sleep(0)
            await self.flush()
        await self.desk.round()

    async def tick(self, ahead_s: float = 0.0) -> None:
        """Time passes; what is due is read back and sent."""
        self.ahead_s += ahead_s
        await self.notifier.tick()
        await self.settle()

    async def attempts(self, endpoint: str) -> list[dict[str, Any]]:
        """Of an endpoint, the newest first."""
        answer = await self.call("GET", f"{PATH}/{endpoint}/attempts")
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    async def read(self, endpoint: str) -> dict[str, Any]:
        answer = await self.call("GET", f"{PATH}/{endpoint}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told


@asynccontextmanager
async def open_rig(world: World) -> AsyncIterator[Rig]:
    """A rig on this database, for one test."""
    reading = await open_reading(world.dsn, world.keyring)
    rig = Rig(world, reading, await world.event_lane())
    await rig.set_up()
    yield rig
    await rig.notifier.stop(1.0)
    reading.pool.terminate()
