"""Cancel, pause and resume on a real PostgreSQL: wherever a message is, and who owns it."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import re
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import OF_TENANT, BatchLook
from gateway.reports import fold_stored
from gateway.withdraw import BY_TENANT, Verdict
from sms.errors import OutcomeUnknown
from sms.model import STATE_CODES, MessageClass, Report, State
from sms.outcomes import Uncertain
from store.commands import BatchState, Command, Kind, paths_sql, places_sql, standings_sql
from store.fragments import Why, park_sql
from store.handovers import handover_sql
from tests.support.inside import Inside, inside, text

pytestmark = pytest.mark.integration

OTP, TRANSACTIONAL, MARKETING = MessageClass
PAUSED, RUNNING, CANCELED = BatchState.PAUSED, BatchState.RUNNING, BatchState.CANCELED
SOON_S = 9.0  # of validity: what lives longer than `handover.LATE_S` is not kept without room
SMALL = {"lane_otp": 32, "lane_transactional": 32, "lane_marketing": 32}


@contextlib.asynccontextmanager
async def one(dsn: str, folder: Path, **numbers: Any) -> AsyncIterator[Inside]:
    async with inside(dsn, folder, **numbers) as gateway:
        start(gateway)
        yield gateway


def start(gateway: Inside) -> None:
    """The loops of a worker that commands need."""
    peers = gateway.worker.peers
    gateway.go(gateway.flow.backlog.run(), peers.desk.run(), peers.commands.run())


@contextlib.asynccontextmanager
async def two(dsn: str, folder: Path) -> AsyncIterator[tuple[Inside, Inside]]:
    async with inside(dsn, folder / "0") as first, inside(dsn, folder / "1", slot=1) as second:
        yield first, second


async def status(gateway: Inside, message_id: int) -> State:
    stored = await gateway.flow.reader.message(message_id)
    assert stored is not None
    return fold_stored(stored).state


async def write(gateway: Inside, sql: str) -> None:
    done = asyncio.Event()
    gateway.flow.ledger.commit([], sql=sql, done=done.set)
    await done.wait()


async def look(gateway: Inside, first_id: int, tenant: int = 1) -> BatchLook:
    found = await gateway.flow.commands.look(tenant, first_id)
    assert found is not None
    return found


async def switch(gateway: Inside, first_id: int, state: BatchState) -> None:
    assert await gateway.flow.commands.switch(1, first_id, state) is state


# -- one message, one process ------------------------------------------------------------------


async def test_what_waits_in_a_lane_is_canceled_and_never_sent(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        first, other = await gateway.send(2)
        assert await gateway.flow.commands.cancel(1, first) is Verdict.ENDED
        assert await status(gateway, first) is State.CANCELED
        assert gateway.flow.lanes.used(TRANSACTIONAL) == 1
        gateway.link(is_up=True)
        assert await gateway.drained() == [other]
        assert await gateway.flow.commands.cancel(1, first) is Verdict.ENDED  # again
        [(rows,)] = await gateway.ask("SELECT count(*) FROM events WHERE path = 14")
        assert rows == 1


async def test_dead_messages_do_not_stay_in_the_lanes(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        ids = await gateway.send(50)
        for message_id in ids:
            await gateway.flow.commands.cancel(1, message_id)
        lane = gateway.flow.lanes.lane(0)
        assert lane.size() == 50
        gateway.flow.dispatcher._sweep(TRANSACTIONAL)
        assert lane.size() == 0
        assert lane.transactional.oldest_at() is None
        assert not gateway.flow.ledger.live


async def test_a_spilled_id_is_canceled(dsn, tmp_path):
    async with one(dsn, tmp_path, **SMALL) as gateway:
        ids = await gateway.send(200)
        assert gateway.spill.total > 100
        assert await gateway.flow.commands.cancel(1, ids[-1]) is Verdict.ENDED
        assert await gateway.flow.commands.cancel(1, ids[-2]) is Verdict.ENDED
        assert gateway.spill.total == 200 - 2 - len(gateway.flow.ledger.live)
        gateway.link(is_up=True)
        assert sorted(await gateway.drained()) == ids[:-2]


async def test_a_spilled_id_with_a_parked_row_leaves_none_behind(dsn, tmp_path):
    async with one(dsn, tmp_path, **SMALL, parked_after_s=0.01) as gateway:
        ids = await gateway.send(100)
        await asyncio.sleep(0.05)
        await gateway.worker.standing.park()
        for message_id in (ids[0], ids[-1]):
            assert await gateway.flow.commands.cancel(1, message_id) is Verdict.ENDED
        left = await gateway.ask("SELECT count(*) FROM parked")
        assert left == [(98,)]


@pytest.mark.parametrize("why", [Why.SCHEDULED, Why.HELD])
async def test_what_stands_aside_in_parked_is_canceled(dsn, tmp_path, why):
    async with one(dsn, tmp_path) as gateway:
        [message_id] = await gateway.send(1)
        live = gateway.flow.ledger.live[message_id]
        row = (message_id, time.time() + 60, why, TRANSACTIONAL, 1)
        await write(gateway, park_sql(gateway.life.lease.process, [row]))
        live.is_handed = True  # as what puts a message aside does
        gateway.flow.ledger.forget([live])
        assert await gateway.flow.commands.cancel(1, message_id) is Verdict.ENDED
        assert await status(gateway, message_id) is State.CANCELED
        assert await gateway.ask("SELECT count(*) FROM parked") == [(0,)]
        assert gateway.flow.lanes.used(TRANSACTIONAL) == 0
        gateway.link(is_up=True)
        assert await gateway.drained() == []


async def test_an_open_attempt_is_not_canceled(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        gateway.link(is_up=True)
        [message_id] = await gateway.send(1)
        await gateway.until_seen(message_id)
        assert await gateway.flow.commands.cancel(1, message_id) is Verdict.BUSY
        await gateway.drained()
        assert await gateway.flow.commands.cancel(1, message_id) is Verdict.BUSY
        assert await status(gateway, message_id) is State.SUBMITTED


async def test_a_foreign_tenant_cancels_nothing(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        [message_id] = await gateway.send(1)
        found = await gateway.flow.commands.withdrawals.end(2, [message_id], BY_TENANT)
        assert found == {message_id: Verdict.ELSEWHERE}
        assert await status(gateway, message_id) is State.ACCEPTED


async def test_an_older_read_does_not_bring_back_what_was_canceled(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        [message_id] = await gateway.send(1)
        flow = gateway.flow
        heads = await flow.reader.heads([message_id])
        bodies = await flow.reader.bodies([message_id])
        stale = bodies.message(message_id)
        assert stale is not None
        await flow.commands.cancel(1, message_id)
        flow.backlog.take_up(heads, is_parked=True)
        assert not gateway.spill.total
        flow.ledger.take_back(stale)
        flow.dispatcher.put([stale])
        gateway.link(is_up=True)
        assert await gateway.drained() == []


async def test_after_a_crash_right_behind_the_answer_it_stays_canceled(dsn, tmp_path):
    async with one(dsn, tmp_path, **SMALL) as gateway:
        ids = await gateway.send(100)
        canceled = ids[::2]
        for message_id in canceled:
            assert await gateway.flow.commands.cancel(1, message_id) is Verdict.ENDED
    async with one(dsn, tmp_path) as gateway:
        gateway.link(is_up=True)
        assert sorted(await gateway.drained()) == ids[1::2]


async def test_cancels_against_a_running_carrier_never_lie(dsn, tmp_path):
    """Half of the messages are canceled while they leave: what was answered 200 is never seen."""
    async with one(dsn, tmp_path, **SMALL) as gateway:
        gateway.link(is_up=True)
        canceled: list[int] = []

        async def cancel(message_id: int) -> None:
            await gateway.flow.commands.cancel(1, message_id)
            if await status(gateway, message_id) is State.CANCELED:
                canceled.append(message_id)

        ids = []
        for _ in range(10):
            some = await gateway.send(60)
            ids += some
            await asyncio.gather(*(cancel(message_id) for message_id in some[::3]))
            gateway.answer(40)
        seen = await gateway.drained()
        assert canceled
        assert len(canceled) < 200
        assert sorted([*seen, *canceled]) == ids


# -- one message, several processes ------------------------------------------------------------


async def test_another_process_cancels_what_the_owner_has(dsn, tmp_path):
    async with two(dsn, tmp_path) as (owner, other):
        start(owner)
        [first, left] = await owner.send(2)
        assert await other.flow.commands.cancel(1, first) is Verdict.ENDED  # without Valkey
        assert await status(other, first) is State.CANCELED
        assert await owner.ask("SELECT count(*) FROM commands") == [(0,)]
        owner.link(is_up=True)
        assert await owner.drained() == [left]


async def test_an_owner_that_does_not_answer_leaves_the_outcome_open(dsn, tmp_path):
    async with two(dsn, tmp_path) as (owner, other):
        [message_id] = await owner.send(1)  # its loops are not started: frozen
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await other.flow.commands.cancel(1, message_id)
        assert 1.5 < time.monotonic() - began < 10
        assert await status(other, message_id) is State.ACCEPTED
        start(owner)  # it wakes up and does what it was asked
        await owner.until(lambda: not owner.flow.ledger.live)
        assert await other.flow.commands.cancel(1, message_id) is Verdict.ENDED
        assert await status(other, message_id) is State.CANCELED


async def test_a_kill_between_commit_and_answer_is_open_and_true_afterwards(dsn, tmp_path):
    async with inside(dsn, tmp_path / "1", slot=1) as other:
        async with inside(dsn, tmp_path / "0") as owner:
            [message_id] = await owner.send(1)
            is_at_answer = asyncio.Event()

            async def answer(_: object) -> None:
                is_at_answer.set()
                await asyncio.sleep(3600)

            owner.flow.commands._table.answer = answer  # type: ignore[method-assign,assignment]
            start(owner)
            asking = asyncio.create_task(other.flow.commands.cancel(1, message_id))
            await asyncio.wait_for(is_at_answer.wait(), 60)
        with pytest.raises(OutcomeUnknown):
            await asking
        assert await status(other, message_id) is State.CANCELED
        async with one(dsn, tmp_path / "0") as owner:
            owner.link(is_up=True)
            assert await other.flow.commands.cancel(1, message_id) is Verdict.ENDED
            assert await owner.drained() == []
            # Its next life answers the older one too; commands are carried out side by side.
            async with asyncio.timeout(60):
                while await other.ask(
                    "SELECT pg_sleep(0.05) FROM commands WHERE answered_at IS NULL"
                ):
                    pass


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_copy_that_a_replayed_cancel_finds_as_an_id_goes_on(dsn, tmp_path, is_paused):
    """Its process was killed before it answered; an attempt is open, so the message goes on."""
    async with one(dsn, tmp_path) as gateway:
        gateway.link(is_up=True)
        ids = await gateway.send(2, verdicts=b"")
        await gateway.until_seen(ids[0])
        [message] = [m for m in gateway.flow.ledger.live.values() if m.id == ids[0]]
        opened = gateway.channels[1].open
        gateway.flow.outcomes(1, [(opened.pop(0), Uncertain("no answer"))])
        await gateway.drained_but(0)
        gateway.link(is_up=False)
        gateway.flow.evidence._resend(message, time.time(), "uncertain.resend")
        await gateway.worker.standing.committed()
        assert message.duplicate_risk
        me = gateway.life.lease.process
        one_id = gateway.worker.ids.next()
        asked = Command(one_id, me + 1, me, Kind.CANCEL, 1, message.id, message.id)
    async with inside(dsn, tmp_path) as gateway:
        commands = gateway.flow.commands
        if is_paused:
            await switch(gateway, ids[0], PAUSED)
            assert not gateway.spill.total
            await switch(gateway, ids[0], RUNNING)
            await commands._table.set_state(ids[0], 1, PAUSED)  # killed before it was acted on
            await commands.load()
        await commands._table.give([asked])
        assert gateway.spill.total == 1
        await commands.step()
        await gateway.until(lambda: all(one.task.done() for one in commands._running.values()))
        await commands.step()
        assert (await commands._table.answers([one_id]))[one_id]["busy"] == 1
        await gateway.worker.standing.committed()
        held = 1 if is_paused else 0
        assert await gateway.ask("SELECT count(*) FROM parked WHERE why = 1") == [(held,)]
        assert gateway.flow.lanes.used(TRANSACTIONAL) == 1 - held
        assert not await gateway.worker.conservation._strays()
        assert not await gateway.worker.conservation._strays()
        if not is_paused:
            start(gateway)
            gateway.link(is_up=True)
            assert await gateway.drained() == [ids[0]]
        assert gateway.flow.lanes.used(TRANSACTIONAL) == 0


async def test_what_is_on_its_way_between_processes_is_canceled_by_whoever_is_asked(dsn, tmp_path):
    """Out of the row in `handovers`, though its receiver takes nothing."""
    async with two(dsn, tmp_path) as (giver, asked):
        ids = await giver.send(5)
        live = [giver.flow.ledger.live[message_id] for message_id in ids]
        receiver = 77
        sql = handover_sql(
            giver.worker.ids.next(), giver.life.lease.process, receiver, 1, TRANSACTIONAL, ids,
            [1] * 5,
        )  # fmt: skip
        await write(giver, sql)
        giver.flow.ledger.forget(live)
        start(asked)
        assert await asked.flow.commands.cancel(1, ids[2]) is Verdict.ENDED
        assert await status(giver, ids[2]) is State.CANCELED
        [(left, tenants)] = await giver.ask("SELECT ids, tenants FROM handovers")
        assert left == [ids[0], ids[1], ids[3], ids[4]]
        assert tenants == [1] * 4
        assert not asked.flow.ledger.live
        assert not asked.flow.ledger.adopted


async def test_what_another_process_has_adopted_is_canceled_there(dsn, tmp_path):
    async with two(dsn, tmp_path) as (giver, owner):
        start(owner)
        ids = await giver.send(3, valid_s=SOON_S)
        live = [giver.flow.ledger.live[message_id] for message_id in ids]
        me, to = giver.life.lease.process, owner.life.lease.process
        sql = handover_sql(giver.worker.ids.next(), me, to, 0, OTP, ids, [1] * 3, 0.0)
        await write(giver, sql)  # past its validity: it is taken though no channel is up, and kept
        giver.flow.ledger.forget(live)
        await owner.until(lambda: len(owner.flow.ledger.live) == 3)
        assert await giver.flow.commands.cancel(1, ids[0]) is Verdict.ENDED
        assert await status(giver, ids[0]) is State.CANCELED
        assert owner.flow.ledger.adopted == 2


async def test_commands_of_a_dead_process_move_to_its_taker(dsn, tmp_path):
    async with inside(dsn, tmp_path / "1", slot=1) as taker:
        async with inside(dsn, tmp_path / "0") as dead:
            [message_id] = await dead.send(1)
            process = dead.life.lease.process
            with pytest.raises(OutcomeUnknown):
                await taker.flow.commands.cancel(1, message_id)
        await taker.ask(
            "UPDATE processes SET lease_until = now() - interval '1 hour' WHERE process = $1",
            process,
        )
        takeover = taker.worker.peers.takeover
        takeover._steady_since = -1e9
        start(taker)
        await takeover.step()
        await taker.until(lambda: not taker.flow.ledger.live, 5)
        for _ in range(100):
            if await status(taker, message_id) is State.CANCELED:
                break
            await asyncio.sleep(0.05)
        assert await status(taker, message_id) is State.CANCELED


# -- batches -----------------------------------------------------------------------------------


async def test_a_paused_batch_waits_beside_the_lanes_and_goes_on_in_order(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        batch = await gateway.send(20, verdicts=b"")
        others = await gateway.send(3)
        await switch(gateway, batch[0], PAUSED)
        told = await look(gateway, batch[0])
        assert told.is_paused
        assert dict(told.counts) == {State.ACCEPTED: 20}
        assert gateway.flow.backlog.queued() == 3
        gateway.flow.dispatcher._sweep(TRANSACTIONAL)
        assert gateway.flow.lanes.lane(0).size() == 3
        gateway.link(is_up=True)
        assert await gateway.drained() == others
        await switch(gateway, batch[0], RUNNING)
        assert not (await look(gateway, batch[0])).is_paused
        assert await gateway.drained() == others + batch
        told = await look(gateway, batch[0])
        assert dict(told.counts) == {State.SUBMITTED: 20}
        assert await gateway.ask("SELECT count(*) FROM parked") == [(0,)]


async def test_a_paused_batch_stays_paused_over_a_restart(dsn, tmp_path):
    async with one(dsn, tmp_path, **SMALL) as gateway:
        batch = await gateway.send(100, verdicts=b"")
        await switch(gateway, batch[0], PAUSED)
        others = await gateway.send(2)
    async with one(dsn, tmp_path, **SMALL) as gateway:
        gateway.link(is_up=True)
        assert await gateway.drained() == others
        assert gateway.flow.commands.is_held(batch[5])
        await switch(gateway, batch[0], RUNNING)
        assert sorted(await gateway.drained()) == sorted(others + batch)


async def test_a_flag_that_was_committed_before_a_crash_holds_the_next_life(dsn, tmp_path):
    """Killed after the batch's row was written, before anything was held."""
    async with inside(dsn, tmp_path, **SMALL) as gateway:
        batch = await gateway.send(60, verdicts=b"")
        await gateway.flow.commands._table.set_state(batch[0], 1, PAUSED)
    async with one(dsn, tmp_path) as gateway:
        gateway.link(is_up=True)
        await gateway.until(lambda: not gateway.spill.total)
        assert await gateway.drained() == []
        assert await gateway.ask("SELECT count(*) FROM parked WHERE why = 1") == [(60,)]


async def test_a_paused_batch_expires(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        batch = await gateway.send(5, verdicts=b"", valid_s=1.0)
        await switch(gateway, batch[0], PAUSED)
        await asyncio.sleep(1.1)
        await gateway.worker.standing.round()
        told = await look(gateway, batch[0])
        assert dict(told.counts) == {State.EXPIRED: 5}
        assert told.is_paused
        assert await gateway.ask("SELECT count(*) FROM parked") == [(0,)]
        assert not gateway.flow.ledger.live
        assert gateway.flow.lanes.used(TRANSACTIONAL) == 0


async def test_what_was_scheduled_and_is_held_expires_too(dsn, tmp_path):
    """Due while its batch is paused: no row says that it is due, and it must end all the same."""
    async with one(dsn, tmp_path) as gateway:
        batch = [text(TRANSACTIONAL, 1, 1.0) for _ in range(5)]
        for message in batch:
            message.send_at = message.created_at + 0.2
            message.state, message.sequence = State.SCHEDULED, 2
            message.counted = State.SCHEDULED, 0
        assert gateway.flow.room(TRANSACTIONAL, 5)
        await gateway.flow.accept(batch, lambda: b"")
        await switch(gateway, batch[0].id, PAUSED)
        gateway.link(is_up=True)
        await asyncio.sleep(0.3)
        await gateway.flow.schedule.round()
        await gateway.until(lambda: not gateway.spill.total)
        await gateway.worker.standing.committed()
        assert await gateway.ask("SELECT count(*) FROM parked WHERE why = 1") == [(5,)]
        await asyncio.sleep(1.0)
        await gateway.worker.standing.round()
        await gateway.worker.standing.committed()
        assert dict((await look(gateway, batch[0].id)).counts) == {State.EXPIRED: 5}
        assert await gateway.ask("SELECT count(*) FROM parked") == [(0,)]
        assert not gateway.flow.ledger.live
        assert gateway.flow.lanes.used(TRANSACTIONAL) == 0
        assert await gateway.ask(
            "SELECT status, sum(messages)::int FROM usage_deltas"
            " GROUP BY status HAVING sum(messages) <> 0"
        ) == [(STATE_CODES[State.EXPIRED], 5)]


async def test_a_canceled_batch_cancels_what_was_not_submitted(dsn, tmp_path):
    async with one(dsn, tmp_path, **SMALL) as gateway:
        batch = await gateway.send(300, verdicts=b"")
        gateway.link(is_up=True)
        await gateway.until_seen(batch[0])
        gateway.channels[1].size = 0
        taken = len(gateway.channels[1].open)
        await switch(gateway, batch[0], CANCELED)
        gateway.channels[1].size = 64
        told = await look(gateway, batch[0])
        assert told.counts[State.CANCELED] >= 300 - taken - 1
        seen = await gateway.drained()
        told = await look(gateway, batch[0])
        assert told.counts == {State.CANCELED: 300 - len(seen), State.SUBMITTED: len(seen)}
        assert await gateway.flow.commands.switch(1, batch[0], RUNNING) is CANCELED


async def test_a_canceled_batch_is_forgotten_once_nothing_of_it_waits(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        commands, halts = gateway.flow.commands, gateway.flow.commands.withdrawals.halts
        batch = await gateway.send(3, verdicts=b"")
        other = await gateway.send(3, verdicts=b"")
        await commands._table.set_state(other[0], 1, CANCELED)  # nobody acted on it yet
        await switch(gateway, batch[0], CANCELED)
        assert halts.state_of(batch[2]) is CANCELED
        await commands.refresh()
        await commands.refresh()
        assert halts.state_of(batch[2]) is RUNNING
        assert halts.state_of(other[2]) is CANCELED
        assert await commands.switch(1, batch[0], RUNNING) is CANCELED
        await switch(gateway, batch[0], CANCELED)


async def test_what_a_receipt_brings_back_of_a_canceled_batch_is_canceled(dsn, tmp_path):
    """A carrier has all of it and fails: another one must not get it after a cancel."""
    async with inside(dsn, tmp_path, channels=2) as gateway:
        start(gateway)
        gateway.go(gateway.worker.reports.run())
        gateway.link(is_up=True)
        batch = await gateway.send(2, verdicts=b"")
        assert await gateway.drained() == batch
        withdrawals = gateway.flow.commands.withdrawals
        await switch(gateway, batch[0], CANCELED)
        for _ in range(3):
            withdrawals._looks.clear()
            await gateway.flow.commands.refresh()
        assert (await look(gateway, batch[0])).counts == {State.SUBMITTED: 2}
        gateway.link(2, is_up=True)
        gateway.flow.reports(1, [Report(1, f"{batch[1]}", "UNDELIV", "034", "")])

        async def canceled() -> bool:
            return (await status(gateway, batch[1])) is State.CANCELED

        for _ in range(100):
            if await canceled():
                break
            await asyncio.sleep(0.02)
        told = await look(gateway, batch[0])
        assert told.counts == {State.SUBMITTED: 1, State.CANCELED: 1}
        assert gateway.seen() == batch
        assert await gateway.ask("SELECT count(*) FROM parked") == [(0,)]
        late = time.time() + 4000
        withdrawals._unix = lambda: late  # past its validity nothing comes back
        withdrawals._looks.clear()
        await gateway.flow.commands.refresh()
        assert await gateway.ask("SELECT state FROM batches") == [(3,)]


async def test_a_canceled_batch_is_looked_at_ever_more_rarely(dsn, tmp_path, monkeypatch):
    async with one(dsn, tmp_path) as gateway:
        gateway.link(is_up=True)
        [message_id] = await gateway.send(1, verdicts=b"")
        await gateway.drained()
        withdrawals, looks = gateway.flow.commands.withdrawals, []
        await switch(gateway, message_id, CANCELED)
        may_settle, begin = withdrawals._may_settle, time.monotonic()

        async def counted(batch):
            looks.append(withdrawals._monotonic() - begin)
            return await may_settle(batch)

        monkeypatch.setattr(withdrawals, "_may_settle", counted)
        for second in range(0, 3600, 10):
            monkeypatch.setattr(withdrawals, "_monotonic", partial(operator.add, begin, second))
            await withdrawals.refresh()
        assert looks[:4] == [0, 10, 20, 40]
        assert len(looks) < 15
        assert len(withdrawals._looks) == 1


async def test_a_paused_batch_is_canceled(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        batch = await gateway.send(30, verdicts=b"")
        await switch(gateway, batch[0], PAUSED)
        await switch(gateway, batch[0], CANCELED)
        assert dict((await look(gateway, batch[0])).counts) == {State.CANCELED: 30}
        assert await gateway.ask("SELECT count(*) FROM parked") == [(0,)]


async def test_every_process_acts_on_a_batch(dsn, tmp_path):
    """Half of it was handed to the other one; that one is asked, and what comes later is held."""
    async with two(dsn, tmp_path) as (first, second):
        start(first)
        start(second)
        batch = await first.send(20, valid_s=SOON_S, verdicts=b"")
        live = [first.flow.ledger.live[message_id] for message_id in batch[10:]]
        me, to = first.life.lease.process, second.life.lease.process
        for one_ in live:
            one_.is_handed = True
        await switch(second, batch[0], PAUSED)
        sql = handover_sql(
            first.worker.ids.next(), me, to, 0, TRANSACTIONAL, batch[10:], [1] * 10, 0.0
        )
        await write(first, sql)
        first.flow.ledger.forget(live)
        for _ in range(200):
            [(held,)] = await first.ask("SELECT count(*) FROM parked WHERE why = 1")
            if held == 20:
                break
            await asyncio.sleep(0.02)
        assert held == 20
        first.link(is_up=True)
        second.link(is_up=True)
        assert not await first.drained()
        await switch(first, batch[0], RUNNING)
        seen = sorted(await first.drained() + await second.drained())
        assert seen == batch


async def test_a_batch_is_not_paused_while_a_process_does_not_answer(dsn, tmp_path):
    async with two(dsn, tmp_path) as (first, second):
        start(first)
        batch = await first.send(3, verdicts=b"")
        with pytest.raises(OutcomeUnknown):
            await first.flow.commands.switch(1, batch[0], PAUSED)
        start(second)  # it answers its command late; then the same call is quick
        await switch(first, batch[0], PAUSED)


async def test_what_was_held_for_a_batch_that_runs_again_is_found(dsn, tmp_path):
    """Rows that came from a dead process after the others had let theirs go."""
    async with one(dsn, tmp_path) as gateway:
        batch = await gateway.send(5, verdicts=b"")
        await switch(gateway, batch[0], PAUSED)
        await gateway.flow.commands._table.set_state(batch[0], 1, RUNNING)
        gateway.link(is_up=True)
        await gateway.flow.commands.refresh()
        assert sorted(await gateway.drained()) == batch


@pytest.mark.parametrize("sql_of", [paths_sql, places_sql, standings_sql])
async def test_a_batch_is_counted_by_its_range_of_ids_alone(dsn, tmp_path, sql_of):
    async with one(dsn, tmp_path) as gateway:
        batch = await gateway.send(5, verdicts=b"")
        async with gateway.pool.acquire() as conn, conn.transaction():
            await conn.execute("SET LOCAL enable_seqscan = off")
            args = [batch] if sql_of is places_sql else []
            sql = f"EXPLAIN {sql_of(batch[0], batch[-1])}"
            plan = [row[0] for row in await conn.fetch(sql, *args)]
    for table in ("messages", "events"):
        assert len(set(re.findall(rf"on {table}_(20[0-9]{{6}}) ", "\n".join(plan)))) == 1, plan
    scans = [line for line in plan if "Seq Scan" in line]
    assert not [line for line in scans if re.search("messages|events|parked", line)], plan
    bounds = [line for line in plan if "Index Cond" in line]
    assert sum("id >= " in line and "id <= " in line for line in bounds) >= 2, plan


async def test_a_foreign_batch_is_none(dsn, tmp_path):
    async with one(dsn, tmp_path) as gateway:
        batch = await gateway.send(2, verdicts=b"")
        assert await gateway.flow.commands.look(2, batch[0]) is None
        assert await gateway.flow.commands.look(1, batch[1]) is None
        assert await gateway.flow.commands.switch(2, batch[0], CANCELED) is None
        assert await status(gateway, batch[0]) is State.ACCEPTED


async def test_a_command_that_crashes_is_answered_and_stops_nobody(dsn, tmp_path):
    async with two(dsn, tmp_path) as (owner, other):
        start(owner)
        table = other.flow.commands._table
        unknown = Command(
            other.worker.ids.next(), 1, owner.life.lease.process, 99, 1, 1, 1, {"a": [1]}
        )
        await table.give([unknown])
        [message_id] = await owner.send(1)
        assert await other.flow.commands.cancel(1, message_id) is Verdict.ENDED
        assert await table.answers([unknown.id]) == {unknown.id: {"failed": True}}


async def test_a_slow_command_keeps_nobody_waiting_but_its_own_tenant(dsn, tmp_path, monkeypatch):
    """A tenant cancels batches that take long; another one's cancel is answered meanwhile."""
    async with two(dsn, tmp_path) as (owner, asked):
        slow = [(await owner.send(2, verdicts=b"")) for _ in range(60)]
        [quick] = await owner.send(1, tenant=2)
        paused = await owner.send(2, tenant=2, verdicts=b"")
        withdrawals, open_doors = owner.flow.commands.withdrawals, asyncio.Event()
        end, at_once = withdrawals.end, 0

        async def slowly(tenant, ids, ending):
            nonlocal at_once
            if tenant == 1:
                at_once += 1
                await open_doors.wait()
                at_once -= 1
            return await end(tenant, ids, ending)

        monkeypatch.setattr(withdrawals, "end", slowly)
        table, me, to = asked.flow.commands._table, 1, owner.life.lease.process
        given = [
            Command(asked.worker.ids.next(), me, to, Kind.BATCH, 1, batch[0], batch[0])
            for batch in slow
        ]
        for batch in slow:
            await table.set_state(batch[0], 1, CANCELED)
        await table.give(given)
        start(owner)
        await owner.until(lambda: at_once == OF_TENANT)
        assert await asked.flow.commands.cancel(2, quick) is Verdict.ENDED
        assert await status(asked, quick) is State.CANCELED
        assert await asked.flow.commands.switch(2, paused[0], PAUSED) is PAUSED
        assert at_once == OF_TENANT
        assert await table.answers([one.id for one in given]) == {}  # true when answered
        open_doors.set()
        for _ in range(500):
            if len(await table.answers([one.id for one in given])) == len(given):
                break
            await asyncio.sleep(0.02)
        assert not owner.flow.commands._running
        owner.link(is_up=True)
        assert await owner.drained() == []
        states = {(await look(asked, batch[0])).counts[State.CANCELED] for batch in slow}
        assert states == {2}


async def test_of_each_tenant_the_oldest_commands_come_first(dsn, tmp_path):
    async with inside(dsn, tmp_path) as gateway:
        table, me = gateway.flow.commands._table, gateway.life.lease.process
        given = [Command(n, me, me, Kind.CANCEL, 1 + n // 20, n, n) for n in range(60)]
        await table.give(given)
        found = await table.open(50, 3)
        assert [one.id for one in found] == [0, 1, 2, 20, 21, 22, 40, 41, 42]
        found = await table.open(4, 3, but=[0, 2, 20], but_tenants=[3])
        assert [one.id for one in found] == [1, 3, 4, 21]


async def test_a_caller_that_gives_up_leaves_no_message_to_nobody(dsn, tmp_path):
    """Cut off while it plucks a message out of a handover: the claim is there, and known here."""
    async with two(dsn, tmp_path) as (giver, asked):
        [message_id] = await giver.send(1)
        live = giver.flow.ledger.live[message_id]
        sql = handover_sql(
            giver.worker.ids.next(), giver.life.lease.process, 77, 1, TRANSACTIONAL, [message_id],
            [1],
        )  # fmt: skip
        await write(giver, sql)
        giver.flow.ledger.forget([live])
        start(asked)
        handovers = asked.flow.commands.withdrawals._handovers
        pluck = handovers.pluck

        async def slow(*args: object) -> list[int]:
            found = await pluck(*args)  # type: ignore[arg-type]
            await asyncio.sleep(0.3)
            return found

        handovers.pluck = slow  # type: ignore[method-assign,assignment]
        asking = asyncio.create_task(asked.flow.commands.cancel(1, message_id))
        await asyncio.sleep(0.2)
        asking.cancel()
        for _ in range(100):
            if await status(giver, message_id) is State.CANCELED:
                break
            await asyncio.sleep(0.05)
        assert await status(giver, message_id) is State.CANCELED
        assert not asked.flow.ledger.live


async def test_conservation_holds_over_pause_cancel_and_expiry(dsn, tmp_path):
    async with one(dsn, tmp_path, **SMALL) as gateway:
        batch = await gateway.send(200, verdicts=b"")
        await switch(gateway, batch[0], PAUSED)
        conserved = (await gateway.flow.reader.conservation())[1]
        assert (conserved.open, conserved.parked) == (200, 200)
        await switch(gateway, batch[0], CANCELED)
        conserved = (await gateway.flow.reader.conservation())[1]
        assert (conserved.open, conserved.parked, conserved.handed) == (0, 0, 0)
        assert not gateway.flow.ledger.live
        assert not gateway.spill.total
