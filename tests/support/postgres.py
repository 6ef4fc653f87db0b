"""A real PostgreSQL for tests: one server a session, one fresh database a test.

The databases are copies of a migrated template (80 ms each). `World` joins what a worker has,
so that a test of one part does not build the others by hand.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sms.ids import IdClock
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State
from store import database, partitions, schema
from store.accept import AcceptHooks, Acceptor
from store.claims import ClaimBook
from store.embedded import EmbeddedServers
from store.events import EventHooks, EventLane
from store.processes import ProcessLease
from store.read import Reader
from store.seal import Keyring

MASTER = bytes(range(32))
TEMPLATE = "template_smsgw"
DATED = "template_dated"  # with the partitions and keys of the days round today


@dataclass
class Server:
    """The session's server; `dsn` addresses one of its databases."""

    servers: EmbeddedServers
    run_dir: Path

    def dsn(self, name: str) -> str:
        return f"postgresql://smsgw@/{name}?host={self.run_dir}"

    async def admin(self, sql: str) -> None:
        conn = await asyncpg.connect(self.dsn("postgres"))
        try:
            await conn.execute(sql)
        finally:
            await conn.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="smsgw-pg-") as folder:
        servers = EmbeddedServers(Path(folder), wanted=("postgres",))
        servers.start()
        try:
            yield Server(servers, servers.run_dir)
        finally:
            servers.stop(is_fast=True)


_is_made: set[Path] = set()
_numbers = itertools.count(1)


async def _make_templates(server: Server) -> None:
    # Nobody cuts this server's power, and each test makes a database: no test waits for a disk.
    await server.admin("ALTER SYSTEM SET fsync = off")
    await server.admin("SELECT pg_reload_conf()")
    await server.admin(f"CREATE DATABASE {TEMPLATE}")
    await schema.migrate(server.dsn(TEMPLATE))
    await server.admin(f"CREATE DATABASE {DATED} TEMPLATE {TEMPLATE}")
    conn = await database.connect(server.dsn(DATED), statement_timeout_s=30)
    await partitions.ensure(conn, Keyring(MASTER), days_ahead=2, now=time.time())
    await conn.close()


@contextlib.asynccontextmanager
async def _fresh(server: Server, template: str) -> AsyncIterator[str]:
    if server.run_dir not in _is_made:
        await _make_templates(server)
        _is_made.add(server.run_dir)
    name = f"test_{next(_numbers)}"
    await server.admin(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.dsn(name)
    await server.admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def dsn(postgres_server: Server) -> AsyncIterator[str]:
    """A fresh, migrated database with the partitions of the days round today."""
    async with _fresh(postgres_server, DATED) as name:
        yield name


@pytest.fixture
async def undated(postgres_server: Server) -> AsyncIterator[str]:
    """The same without a partition: for who is asked to make them."""
    async with _fresh(postgres_server, TEMPLATE) as name:
        yield name


@pytest.fixture
async def durable(dsn: str, postgres_server: Server) -> AsyncIterator[str]:
    """The same, on a server that fsyncs: for who is asked whether it does."""
    await postgres_server.admin("ALTER SYSTEM RESET fsync")
    await postgres_server.admin("SELECT pg_reload_conf()")
    conn = await database.connect(dsn)
    while await conn.fetchval("SELECT current_setting('fsync') FROM pg_sleep(0.02)") != "on":
        pass
    await conn.close()
    yield dsn
    await postgres_server.admin("ALTER SYSTEM SET fsync = off")
    await postgres_server.admin("SELECT pg_reload_conf()")


@dataclass
class Heard:
    """What the lanes told the flow, in order."""

    committed: list[Message] = field(default_factory=list)
    refused: list[Message] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    conflicts: list[EventRow] = field(default_factory=list)
    quarantined: list[EventRow] = field(default_factory=list)
    leases_lost: int = 0
    flushes: list[tuple[str, int]] = field(default_factory=list)

    def lose(self) -> None:
        self.leases_lost += 1

    def flushed(self, lane: str, rows: int, _: float) -> None:
        self.flushes.append((lane, rows))


class World:
    """One worker's store on one database; start with `await World.make(dsn)`."""

    def __init__(self, dsn: str, lease: ProcessLease, keyring: Keyring, pool: database.Pool):
        self.dsn = dsn
        self.lease = lease
        self.keyring = keyring
        self.pool = pool
        self.heard = Heard()
        self.ids = IdClock(lease.process, lease.id_floor, time.time)
        self.event_ids = IdClock(lease.process, 0, time.time)
        self.claims = ClaimBook(lease.process)
        self.reader = Reader(pool, keyring)
        self.tally: Callable[[list[EventRow]], Mapping[int, tuple[int, int]]] = _tally
        self.chooser: Callable[[list[Message]], list[Message]] = lambda _: []
        self.lanes: list[Acceptor | EventLane] = []

    @classmethod
    async def make(cls, dsn: str, *, slot: int = 0, lease_s: float = 15.0) -> World:
        keyring = Keyring(MASTER)
        conn = await database.connect(dsn, statement_timeout_s=30)
        await partitions.ensure(conn, keyring, days_ahead=2, now=time.time())  # for its keys
        await conn.close()
        lease = await ProcessLease.take(dsn, node="node", slot=slot, lease_s=lease_s)
        pool = await database.open_pool(dsn, process=lease.process, epoch=lease.epoch, size=2)
        return cls(dsn, lease, keyring, pool)

    def opener(self, dsn: str | None = None) -> database.OpenConnection:
        return database.connector(
            dsn or self.dsn, process=self.lease.process, epoch=self.lease.epoch
        )

    async def acceptor(self, dsn: str | None = None, **knobs: Any) -> Acceptor:
        acceptor = Acceptor(
            self.opener(dsn),
            process=self.lease.process,
            ids=self.ids,
            keyring=self.keyring,
            claims=self.claims,
            hooks=AcceptHooks(
                choose_claims=lambda messages: self.chooser(messages),  # noqa: PLW0108 - tests set it
                on_committed=self.heard.committed.extend,
                on_refused=self.heard.refused.extend,
                on_lease_lost=self.heard.lose,
                on_flush=self.heard.flushed,
            ),
            **knobs,
        )
        await acceptor.start()
        self.lanes.append(acceptor)
        return acceptor

    async def event_lane(self, dsn: str | None = None, **knobs: Any) -> EventLane:
        lane = EventLane(
            self.opener(dsn),
            process=self.lease.process,
            claims=self.claims,
            hooks=EventHooks(
                on_committed=self.heard.events.extend,
                on_conflict=self.heard.conflicts.extend,
                on_quarantined=lambda rows, _: self.heard.quarantined.extend(rows),
                on_lease_lost=self.heard.lose,
                tally=lambda rows: self.tally(rows),  # noqa: PLW0108 - tests replace it later
                on_flush=self.heard.flushed,
            ),
            **knobs,
        )
        await lane.start()
        self.lanes.append(lane)
        return lane

    async def close(self) -> None:
        for lane in self.lanes:
            await lane.stop()
        await self.lease.close()
        self.pool.terminate()

    def event(self, message_id: int, sequence: int = 2, **fields: object) -> EventRow:
        row = EventRow(
            message_id=message_id,
            sequence=sequence,
            event_id=self.event_ids.next(),
            tenant=1,
            path=1,
            status=State.SUBMITTED,
            at=time.time(),
            channel=1,
            carrier_id=f"c{message_id}",
        )
        for name, value in fields.items():
            setattr(row, name, value)
        return row


def _tally(rows: list[EventRow]) -> dict[int, tuple[int, int]]:
    counts: dict[int, tuple[int, int]] = {}
    for row in rows:
        submitted, final = counts.get(row.tenant, (0, 0))
        counts[row.tenant] = (submitted + (row.path == 1), final + (row.path == 9))
    return counts


@pytest.fixture
async def world(dsn: str) -> AsyncIterator[World]:
    world = await World.make(dsn)
    yield world
    await world.close()


def text(tenant: int = 1, **fields: object) -> Message:
    """A message as the door hands it over, not accepted yet."""
    now = time.time()
    message = Message(
        id=0,
        tenant=tenant,
        message_class=MessageClass.TRANSACTIONAL,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.UCS2,
        texts=("【某商城】您的订单已发货",),
        valid_until=now + 3600,
        created_at=now,
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message
