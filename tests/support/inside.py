"""A worker's parts joined in this process on a real PostgreSQL, with carriers that obey the test.

No HTTP, no supervisor, no sockets to carriers: what stands between the accept and the rows is the
real thing. `crash` leaves it as a kill would: nothing is flushed, the lease is not given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path

from gateway.channel import ChannelRuntime
from gateway.settings import Reliability, Settings
from gateway.wiring import Worker, build
from gateway.worker import _Life
from ratelimit.bucket import Bucket
from sms import config
from sms.model import Carrier, Encoding, Message, MessageClass
from sms.outcomes import Submitted
from store import database, partitions
from store.config import ConfigStore
from store.processes import ProcessLease
from store.read import Reader
from store.restored import Origin, Seen
from store.seal import Keyring
from telemetry.metrics import Metrics
from tests.support.flow_kit import Clock, FakeChannel
from tests.support.postgres import MASTER

PAUSE_S = 0.005
PATIENCE_S = 90.0  # with what must come; the machine may be busy
AROUND_THE_CLOCK = {"marketing_opens_h": 0, "marketing_closes_h": 24}  # tests run at night too


class RealClock(Clock):
    """The monotonic clock, for the fake channel."""

    @property
    def now(self) -> float:
        return time.monotonic()

    @now.setter
    def now(self, value: float) -> None:
        """It moves by itself."""


class Configured(ConfigStore):
    """A configuration that needs no tables."""

    def __init__(self, snapshot: config.Snapshot) -> None:
        self._snapshot = snapshot

    async def load(self) -> config.Snapshot:
        return self._snapshot


class Inside:
    """One worker; make it with `inside`."""

    life: _Life
    worker: Worker

    def __init__(
        self, dsn: str, data_dir: Path, channels: int, slot: int, numbers: dict[str, object]
    ) -> None:
        self.dsn = dsn
        self._slot = slot
        self.settings = Settings(
            data_dir=data_dir,
            database_url=dsn,
            node="inside",
            reliability=Reliability.model_validate(AROUND_THE_CLOCK | numbers),
        )
        self.keyring = Keyring(MASTER)
        self.channels: dict[int, FakeChannel] = {}
        self._count = channels
        self._tasks: list[asyncio.Task[None]] = []
        self.pool: database.Pool

    async def start(self) -> None:
        """Own, recover, configure; every link is down."""
        conn = await database.connect(self.dsn, statement_timeout_s=30)
        await partitions.ensure(conn, self.keyring, days_ahead=1, now=time.time())
        await conn.close()
        lease = await ProcessLease.take(self.dsn, node="inside", slot=self._slot, lease_s=15.0)
        self.pool = await database.open_pool(self.dsn, process=lease.process, epoch=lease.epoch)
        life = self.life = _Life(self.settings, lease, self.pool, self.keyring, Metrics())
        life.seen = Seen(self.settings.data_dir / "seen", lease.process, Origin("", 0, 0))
        held = await Reader(self.pool, self.keyring).claims(lease.process)
        worker = self.worker = life.worker = build(
            self.settings,
            lease=lease,
            pool=self.pool,
            keyring=self.keyring,
            metrics=life.metrics,
            first_block=max(held, default=0) + 1,
            lease_lost=lambda: None,
        )
        self.flow, self.metrics = worker.flow, life.metrics
        self.spill = worker.flow.backlog.spill
        known = {
            number: config.Channel(
                number, f"c{number}", "smpp", {}, classes=frozenset(MessageClass)
            )
            for number in range(1, self._count + 1)
        }
        route = config.Route(1, 0, None, None, 0, tuple(known))
        life.store = Configured(config.Snapshot(version=1, channels=known, routes=(route,)))
        await worker.acceptor.start()
        await worker.events.start()
        await life._renew()
        await life._recover()
        for number, channel in known.items():
            self.channels[number] = FakeChannel(number, RealClock(), 64)
            bucket = Bucket(1e6, 1e6, time.monotonic())
            self.flow.dispatcher.add_channel(ChannelRuntime(channel, self.channels[number], bucket))

    async def crash(self) -> None:
        """End like a kill -9."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.worker.acceptor.stop(0.0)
        await self.worker.events.stop()
        journal = self.flow.journal.journal
        if journal is not None:
            journal.close()
        self.pool.terminate()
        await self.worker.deliverer.close()
        await self.life.lease.close()

    # -- what a test does --------------------------------------------------------------------

    async def send(
        self,
        count: int,
        cls: MessageClass = MessageClass.TRANSACTIONAL,
        tenant: int = 1,
        valid_s: float = 3600.0,
        verdicts: bytes | None = None,
    ) -> list[int]:
        """Accept in batches, one after another; their ids. `verdicts` makes it the API's batch."""
        ids: list[int] = []
        while len(ids) < count:
            some = [text(cls, tenant, valid_s) for _ in range(min(500, count - len(ids)))]
            assert self.flow.room(cls, len(some))
            accepted = self.flow.accept(some, None if verdicts is None else lambda: verdicts)
            ids += [message.id for message in some]
            await accepted
        return ids

    def link(self, number: int = 1, *, is_up: bool) -> None:
        """A channel's link."""
        self.flow.dispatcher.link_changed(number, is_up=is_up)

    def answer(self, limit: int = 1_000_000) -> int:
        """The carriers take what they have; how many."""
        count = 0
        for number, channel in self.channels.items():
            some, channel.open = channel.open[:limit], channel.open[limit:]
            if some:
                self.flow.outcomes(number, [(one, Submitted(f"{one.message.id}")) for one in some])
                self.flow.window_open(number)
            count += len(some)
        return count

    def seen(self) -> list[int]:
        """Ids in the order the carriers got them."""
        return [one.message.id for channel in self.channels.values() for one in channel.seen]

    def run(self) -> None:
        """Start the refill loop."""
        self.go(self.flow.backlog.run())

    def go(self, *loops: Coroutine[None, None, None]) -> None:
        """Start long-lived loops, until the crash."""
        self._tasks += [asyncio.create_task(loop) for loop in loops]

    async def until_seen(self, message_id: int) -> None:
        """Turn the loop until the carriers have a message; nothing is answered."""
        end = time.monotonic() + PATIENCE_S
        while message_id not in self.seen():
            assert time.monotonic() < end, "not in time"
            await asyncio.sleep(PAUSE_S)

    async def until(self, is_true: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Answer and turn the loop until something holds."""
        end = time.monotonic() + timeout_s
        while not is_true():
            assert time.monotonic() < end, "not in time"
            self.answer()
            await asyncio.sleep(PAUSE_S)

    async def drained(self) -> list[int]:
        """Everything is with the carriers and its row committed; the order they got it."""
        live = self.flow.ledger.live
        await self.until(lambda: not live and not self.spill.total and not self._open())
        await self.worker.standing.committed()
        return self.seen()

    async def drained_but(self, count: int) -> None:
        """The same for all but some messages, which stand nowhere."""
        live = self.flow.ledger.live
        await self.until(lambda: len(live) == count and not self._open())
        await self.worker.standing.committed()

    def _open(self) -> int:
        return sum(len(channel.open) for channel in self.channels.values())

    async def ask(self, sql: str, *args: object) -> list[tuple[object, ...]]:
        """One query."""
        async with self.pool.acquire() as conn:
            return [tuple(row) for row in await conn.fetch(sql, *args)]


def text(cls: MessageClass, tenant: int, valid_s: float) -> Message:
    """A message as the door hands it over."""
    now = time.time()
    return Message(
        id=0,
        tenant=tenant,
        message_class=cls,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.UCS2,
        texts=("【某商城】您的订单已发货",),
        valid_until=now + valid_s,
        created_at=now,
    )


@contextlib.asynccontextmanager
async def inside(
    dsn: str, data_dir: Path, *, channels: int = 1, slot: int = 0, **numbers: object
) -> AsyncIterator[Inside]:
    """A worker inside this process; `numbers` are settings of `Reliability`."""
    one = Inside(dsn, data_dir, channels, slot, numbers)
    await one.start()
    try:
        yield one
    finally:
        await one.crash()


__all__ = ["Inside", "Iterable", "inside", "text"]
