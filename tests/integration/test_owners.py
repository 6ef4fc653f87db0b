"""One owner at a time: what is handed over stands in no row of its giver any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.recover import recover
from gateway.settings import Settings
from gateway.wiring import Worker, build
from gateway.worker import _Life
from receipts.state import Path as StatePath
from sms.model import EventRow, Message, MessageClass, State
from store import database
from store.fragments import Why, park_sql
from store.handovers import Handovers
from store.journal import Journal, Replay
from store.processes import DatabaseClock, ProcessLease
from store.restored import Origin, Seen
from telemetry.metrics import Metrics
from tests.integration.test_takeover import SNAPSHOT
from tests.support.postgres import World, text

pytestmark = pytest.mark.integration

BULK = MessageClass.TRANSACTIONAL


@dataclass
class Pair:
    """A is a whole worker (process 1), C another process (0) that takes what A gives."""

    other: World
    worker: Worker
    lease: ProcessLease
    pool: database.Pool
    data_dir: Path

    async def accept(self, count: int, *, is_claimed: bool = False) -> list[Message]:
        """Messages of A that stand in no lane any more."""
        messages = [text(message_class=BULK) for _ in range(count)]
        object.__setattr__(
            self.worker.acceptor._hooks, "choose_claims", lambda ms: ms if is_claimed else []
        )
        await self.worker.acceptor.accept(messages)
        queue = self.worker.flow.lanes.lane(0).transactional
        while queue.take() is not None:
            pass
        return messages

    def give(self, messages: list[Message]) -> None:
        self.worker.peers.remote.give(messages, self.other.lease.process, 1)

    async def flushed(self) -> None:
        assert await self.worker.events.drain(60)

    async def taken(self) -> None:
        """C takes what waits for it."""
        handovers = Handovers(self.other.pool, self.other.lease.process)
        blocks = {row.id: n for n, row in enumerate(await handovers.to_me(10), start=1)}
        assert len(await handovers.take(blocks)) == len(blocks) > 0

    async def claimants(self, message: Message) -> list[int]:
        rows = await self.pool.fetch("SELECT process FROM claims WHERE $1=ANY(ids)", message.id)
        return sorted(row["process"] for row in rows)

    async def is_parked(self, message: Message) -> bool:
        found = await self.pool.fetch("SELECT FROM parked WHERE message_id=$1", message.id)
        return bool(found)

    async def still_mine(self, process: int, message: Message) -> bool:
        return bool(await self.other.reader.still_mine(process, [message.id]))


async def worker_of(dsn: str, other: World, data_dir: Path) -> Pair:
    lease = await ProcessLease.take(dsn, node="node", slot=1, lease_s=15)
    pool = await database.open_pool(dsn, process=lease.process, epoch=lease.epoch)
    worker = build(
        Settings(data_dir=data_dir, database_url=dsn, node="node", worker_slot=1),
        lease=lease,
        pool=pool,
        keyring=other.keyring,
        metrics=Metrics(),
        first_block=1,
        lease_lost=lambda: pytest.fail("lease lost"),
    )
    await worker.acceptor.start()
    await worker.events.start()
    worker.flow.reconfigure(SNAPSHOT)
    worker.notifier.reconfigure(SNAPSHOT)
    return Pair(other, worker, lease, pool, data_dir)


@pytest.fixture
async def pair(dsn: str, tmp_path: Path) -> AsyncIterator[Pair]:
    pair = await worker_of(dsn, await World.make(dsn, slot=0), tmp_path)
    yield pair
    await pair.worker.acceptor.stop(1)
    await pair.worker.events.stop()
    await pair.worker.deliverer.close()
    await pair.worker.peers.close()
    pair.pool.terminate()
    await pair.lease.close()
    await pair.other.close()


async def test_what_was_given_is_no_longer_claimed_though_its_block_stands(pair, dsn):
    given, kept = await pair.accept(2, is_claimed=True)
    assert given.claim == kept.claim != 0
    pair.worker.claims.settled(given.claim)  # an uncertain answer: the row lists it all the same
    given.claim = 0
    pair.give([given])
    await pair.flushed()
    await pair.taken()
    assert await pair.claimants(given) == [0]
    assert await pair.claimants(kept) == [1]
    assert await pair.still_mine(0, given)

    journal = Journal(pair.data_dir / "journal", 0, pair.other.lease.epoch)
    journal.write_lines([(given.id, 0, 1, 0, 1)])  # C writes it to a carrier, and dies
    journal.close()
    async with pair.pool.acquire() as conn:
        await conn.execute(
            "UPDATE processes SET lease_until = now() - interval '1 minute' WHERE process = 0"
        )
    takeover = pair.worker.peers.takeover
    takeover._steady_since -= 100
    await takeover.step()
    rows = await pair.pool.fetch("SELECT path FROM events WHERE message_id=$1", given.id)
    assert [row["path"] for row in rows] == [int(StatePath.UNCERTAIN)]
    assert await pair.claimants(given) == []


async def test_a_message_that_is_sent_again_is_claimed_by_nobody(pair):
    message, other = await pair.accept(2, is_claimed=True)
    lane = await pair.other.event_lane()
    ids = pair.other.ids

    def row(sequence: int, event_id: int) -> EventRow:
        path, state = int(StatePath.QUEUED), State.QUEUED
        row: EventRow = pair.other.event(
            message.id, sequence, event_id=event_id, path=path, status=state
        )
        return row

    lost, won = ids.next(), ids.next()
    theirs = pair.other.claims.strip_all_sql(message.id, 1, lost)
    ours = pair.other.claims.strip_all_sql(message.id, 1, won)
    lane.add([row(1, won)], urgent=True)
    assert await lane.drain(60)
    lane.add([row(1, lost)], urgent=True, sql=theirs)  # another process's row was first
    assert await lane.drain(60)
    assert await pair.claimants(message) == [1]
    lane.add([], urgent=True, sql=ours)
    assert await lane.drain(60)
    assert await pair.claimants(message) == []
    assert await pair.claimants(other) == [1]
    assert await pair.still_mine(0, other) is False


def life_of(pair: Pair) -> _Life:
    life = object.__new__(_Life)
    life.worker, life.lease = pair.worker, pair.lease
    return life


def park(pair: Pair, message: Message, due: float) -> None:
    row = (message.id, due, Why.QUEUED, message.message_class, message.tenant)
    pair.worker.flow.ledger.commit([], sql=park_sql(pair.lease.process, [row]))


async def test_what_is_given_while_it_is_being_parked_is_not_parked(pair):
    (message,) = await pair.accept(1)
    pair.worker.standing.push_out([message])
    pair.give([message])
    await pair.flushed()
    assert not await pair.is_parked(message)
    await pair.taken()
    assert await pair.still_mine(0, message)


async def test_a_parked_row_read_before_the_handover_brings_nothing_back(pair, monkeypatch):
    (message,) = await pair.accept(1)
    park(pair, message, time.time() - 1)
    await pair.flushed()
    message.is_parked = True
    reader = pair.worker.flow.reader
    due_parked = reader.due_parked

    async def late(*args: int) -> object:
        rows = await due_parked(*args)
        pair.give([message])
        await pair.flushed()
        return rows

    monkeypatch.setattr(reader, "due_parked", late)
    await pair.worker.standing.round()
    assert not pair.worker.flow.backlog.spill.total
    assert message.id not in pair.worker.flow.ledger.live
    assert not await pair.is_parked(message)
    await pair.taken()
    assert await pair.still_mine(0, message)


async def test_a_spilled_message_given_after_the_answer_whose_it_is_stays_away(pair, monkeypatch):
    (message,) = await pair.accept(1)
    park(pair, message, time.time() - 1)
    await pair.flushed()
    reader = pair.worker.flow.reader
    still_mine = reader.still_mine

    async def late(*args: object) -> list[int]:
        mine: list[int] = await still_mine(*args)
        pair.give([message])
        await pair.flushed()
        return mine

    monkeypatch.setattr(reader, "still_mine", late)
    await pair.worker.flow.backlog.take_up_due([message.id])
    await pair.flushed()
    assert not pair.worker.flow.backlog.spill.total
    assert not await pair.is_parked(message)


async def test_recovery_leaves_a_parked_message_to_who_claims_it(pair):
    given, mine = await pair.accept(2)
    pair.give([given])
    await pair.flushed()
    await pair.taken()
    for message in (given, mine):
        park(pair, message, time.time() + 600)
    await pair.flushed()
    pair.worker.flow.ledger.live.clear()  # a new life

    async def no_journal(_: object) -> Replay:
        return Replay()

    await recover(pair.worker.flow, pair.worker.claims, no_journal)
    assert pair.worker.flow.backlog.spill.total == 1
    assert not await pair.is_parked(given)
    assert await pair.is_parked(mine)
    assert await pair.still_mine(0, given)


async def test_takeover_leaves_a_parked_message_to_who_claims_it(pair):
    (message,) = await pair.accept(1, is_claimed=True)  # by A, and parked at C, which dies
    lane = await pair.other.event_lane()
    row = (message.id, time.time() + 600, Why.QUEUED, message.message_class, message.tenant)
    lane.add([], urgent=True, sql=park_sql(0, [row]))
    assert await lane.drain(60)
    async with pair.pool.acquire() as conn:
        await conn.execute(
            "UPDATE processes SET lease_until = now() - interval '1 minute' WHERE process = 0"
        )
    takeover = pair.worker.peers.takeover
    takeover._steady_since -= 100
    await takeover.step()
    assert not await pair.pool.fetch("SELECT FROM handovers WHERE $1=ANY(ids)", message.id)
    assert not await pair.is_parked(message)
    assert await pair.claimants(message) == [1]


async def renewing_life(pair: Pair) -> tuple[_Life, asyncio.Task[None]]:
    """A life that has nothing to do but to renew its lease."""
    life = life_of(pair)
    life.numbers = Settings(data_dir=pair.data_dir).reliability
    life._is_recovered, life._is_leaving = True, False
    life._renew_now = asyncio.Event()
    life.seen = Seen(pair.data_dir / "seen", pair.lease.process, Origin("", 0, 0))
    return life, asyncio.create_task(life._renew_forever())


async def test_a_lease_is_released_though_a_renewal_runs(pair, dsn):
    """Cut off it would break the connection that releases, and others would wait for 17 s."""
    life, renewing = await renewing_life(pair)
    conn = await database.connect(dsn)
    async with conn.transaction():
        await conn.execute("SELECT FROM processes WHERE process = 1 FOR UPDATE")
        life._renew_now.set()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        for _ in range(200):
            if await conn.fetchval(waiting):
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("no renewal runs")
        releasing = asyncio.create_task(life._release(renewing, 5.0))
        await asyncio.sleep(0.2)
        assert not releasing.done()
    await releasing
    over = "SELECT lease_until <= clock_timestamp() FROM processes WHERE process = 1"
    assert await conn.fetchval(over)
    assert renewing.done()
    assert not pair.lease.is_valid()
    await conn.close()


async def test_a_clock_that_went_forward_puts_off_who_is_judged(pair):
    life, renewing = await renewing_life(pair)
    takeover = pair.worker.peers.takeover
    takeover._steady_since -= 100
    await life._renew()
    assert takeover._may_judge()
    clock = pair.lease.database_clock
    pair.lease.database_clock = DatabaseClock(clock.ahead_s - 13.0)
    await life._renew()
    assert not takeover._may_judge()
    await life._release(renewing, 5.0)


async def test_who_stood_still_judges_nobody_and_renews(pair):
    life, renewing = await renewing_life(pair)
    takeover = pair.worker.peers.takeover
    takeover._steady_since -= 100
    assert takeover._may_judge()
    before = pair.lease.lease_end_boot
    life._stood_still()
    assert not takeover._may_judge()
    for _ in range(200):
        if pair.lease.lease_end_boot > before:
            break
        await asyncio.sleep(0.02)
    else:
        pytest.fail("not renewed")
    await life._release(renewing, 5.0)
