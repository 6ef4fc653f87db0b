"""A notifier with a store in memory, endpoints that answer as told, and a clock set by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.courier import Clocks, Deliver
from gateway.endpoint_queue import NotifyPolicy
from gateway.notify import Notifier
from receipts.state import Path, apply_row
from sms.config import Snapshot, WebhookEndpoint
from sms.ids import IdClock
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State
from store.fragments import ParkedWebhook
from store.inbound_read import StoredInbound
from telemetry.metrics import Metrics
from webhooks.address import AllowList
from webhooks.deliver import Delivered, Delivery, Target

TENANT = 7
UNIX = 1_800_000_000.0


@dataclass
class Entry:
    message: Message
    rows: list[EventRow]


@dataclass
class Request:
    """One delivery as the endpoint saw it."""

    url: str
    webhook_id: str
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        parsed = json.loads(self.body)
        found: list[dict[str, Any]] = parsed["data"] if parsed["type"] == "batch" else [parsed]
        return found


class MemoryStore:
    """`NoticeStore`; writes become visible at `commit()`, as after a flush."""

    def __init__(self) -> None:
        self.parked: dict[tuple[int, int], ParkedWebhook] = {}
        self.waiting: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.entries: dict[int, Entry] = {}
        self.texts: dict[int, StoredInbound] = {}  # from phones
        self.news: dict[int, EventRow] = {}  # about channels
        self.floor: int | None = None
        self.due_calls: list[list[int]] = []
        self.probes: list[int] = []  # of how many endpoints was asked whether they have any

    def park(self, rows: Sequence[ParkedWebhook], done: Callable[[], None]) -> None:
        kept = list(rows)
        assert kept, "an empty write"
        assert len({(r.endpoint, r.event_id) for r in kept}) == len(kept), "a key twice"
        self.waiting.append(
            (lambda: self.parked.update({(r.endpoint, r.event_id): r for r in kept}), done)
        )

    def forget(self, keys: Sequence[tuple[int, int]], done: Callable[[], None]) -> None:
        kept = list(keys)

        def write() -> None:
            for key in kept:
                self.parked.pop(key, None)

        self.waiting.append((write, done))

    def commit(self) -> None:
        while self.waiting:
            write, done = self.waiting.pop(0)
            write()
            done()

    async def due(self, endpoints: Sequence[int], now: float, limit: int) -> list[ParkedWebhook]:
        self.due_calls.append(list(endpoints))
        found = []
        for endpoint in endpoints:
            mine = [r for r in self.parked.values() if r.endpoint == endpoint and r.due <= now]
            found += sorted(mine, key=lambda row: row.due)[:limit]
        return found

    async def with_due(self, endpoints: Sequence[int], now: float) -> set[int]:
        self.probes.append(len(endpoints))
        wanted = set(endpoints)
        return {
            row.endpoint
            for row in self.parked.values()
            if row.endpoint in wanted and row.due <= now
        }

    async def oldest_parked(self) -> int | None:
        alive = [row.event_id for row in self.parked.values() if row.due != float("inf")]
        return min(alive, default=None)

    async def messages(self, ids: Sequence[int]) -> dict[int, Entry]:
        fresh = {}
        for message_id in ids:
            entry = self.entries.get(message_id)
            if entry is not None:
                fresh[message_id] = Entry(new_message(message_id), list(entry.rows))
        return fresh

    async def inbound(self, ids: Sequence[int]) -> dict[int, StoredInbound]:
        return {one: self.texts[one] for one in ids if one in self.texts}

    async def channel_events(self, ids: Sequence[int]) -> dict[int, EventRow]:
        return {one: self.news[one] for one in ids if one in self.news}

    async def events_after(self, cursor: int, limit: int) -> list[EventRow]:
        rows = [row for entry in self.entries.values() for row in entry.rows]
        rows = [row for row in rows if row.event_id > cursor]
        return sorted(rows, key=lambda row: row.event_id)[:limit]

    def pending_floor(self) -> int | None:
        return self.floor


def new_message(message_id: int) -> Message:
    return Message(
        id=message_id,
        tenant=TENANT,
        message_class=MessageClass.OTP,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.UCS2,
        texts=("【某商城】验证码 123456",),
        valid_until=UNIX + 300,
        created_at=UNIX,
        client_ref="order-1",
        metadata={"shop": "9"},
    )


def endpoint(number: int = 1, **fields: object) -> WebhookEndpoint:
    url = f"https://hooks{number}.example/sms"
    made = {"id": number, "tenant": TENANT, "url": url, "secrets": (b"k" * 32,), **fields}
    return WebhookEndpoint(**made)  # type: ignore[arg-type]


@dataclass
class World:
    """Everything a test needs in one hand."""

    policy: NotifyPolicy = field(default_factory=NotifyPolicy)
    cursor: int = 0
    now: float = 1000.0
    answer: Callable[[Request], Delivery] = field(default=lambda _: Delivered(200))
    deliver: Deliver | None = None  # None: the requests stay here
    allow: AllowList = field(default_factory=AllowList)

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        self.metrics = Metrics()
        self.requests: list[Request] = []
        self.gate: asyncio.Event | None = None  # when set, requests wait for it
        self.open_requests = 0
        self.most_open = 0
        self.ids = IdClock(3, 0, lambda: UNIX + self.now)
        self.notifier = Notifier(
            store=self.store,
            deliver=self.deliver or self._deliver,
            metrics=self.metrics,
            allow=self.allow,
            cursor=self.cursor,
            policy=self.policy,
            clocks=Clocks(lambda: self.now, lambda: UNIX + self.now, lambda: 0.5),
        )

    def configure(self, *endpoints: WebhookEndpoint) -> None:
        self.notifier.reconfigure(Snapshot(endpoints={e.id: e for e in endpoints}))

    async def _deliver(
        self, target: Target, keys: Sequence[bytes], webhook_id: str, body: bytes
    ) -> Delivery:
        assert keys
        request = Request(str(target.url), webhook_id, body)
        self.open_requests += 1
        self.most_open = max(self.most_open, self.open_requests)
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.open_requests -= 1
        self.requests.append(request)
        return self.answer(request)

    def rows(self, count: int = 1, *, is_stored: bool = True) -> list[EventRow]:
        """`delivered` rows of so many messages, applied and (as a lane does) stored."""
        made = []
        for _ in range(count):
            message = new_message(self.ids.next())
            stored = []
            for path, status in (
                (Path.SUBMITTED, State.SUBMITTED),
                (Path.DELIVERED, State.DELIVERED),
            ):
                row = EventRow(
                    message.id,
                    message.sequence + 1,
                    self.ids.next(),
                    TENANT,
                    path,
                    status,
                    UNIX + self.now,
                    channel=4,
                    message=message,
                    previous=message.state,
                )
                assert apply_row(message, row)
                stored.append(row)
            if is_stored:
                self.store.entries[message.id] = Entry(message, stored)
            made.append(stored[-1])
        return made

    async def settle(self) -> None:
        """Let everything that can run now run."""
        for _ in range(200):
            await asyncio.sleep(0)

    async def tick(self, wait_s: float = 0.0) -> None:
        """Time passes, a flush commits, the notifier looks, what follows runs and commits."""
        self.now += wait_s
        self.store.commit()
        await self.notifier.tick()
        await self.settle()
        self.store.commit()

    async def commit_rows(self, count: int = 1) -> list[EventRow]:
        rows = self.rows(count)
        self.notifier.rows_committed(rows)
        await self.settle()
        return rows
