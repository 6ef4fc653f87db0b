"""Messages that wait for their hour, on a real PostgreSQL: kept, taken up, sent, never twice."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from receipts.state import Path as Step
from sms.errors import StoreUnavailable
from sms.model import Message, MessageClass, State
from store.fragments import Why, park_sql
from store.scheduled import SCHEDULED_PATH
from tests.support.inside import Inside, inside, text

pytestmark = pytest.mark.integration

OTP, TRANSACTIONAL, MARKETING = MessageClass
CLOSED: dict[str, Any] = {"marketing_opens_h": 23.99, "marketing_closes_h": 24}  # nearly always


def waiting(cls: MessageClass, in_s: float, valid_s: float = 3600.0, tenant: int = 1) -> Message:
    """A message with a `send_at`, as `admit` makes it."""
    message = text(cls, tenant, valid_s)
    message.send_at = message.created_at + in_s
    message.valid_until += in_s
    message.state = State.SCHEDULED
    message.sequence = 2
    return message


async def accept(worker: Inside, messages: list[Message]) -> list[int]:
    for start in range(0, len(messages), 1000):
        some = messages[start : start + 1000]
        assert worker.flow.room(some[0].message_class, len(some))
        await worker.flow.accept(some)
    return [message.id for message in messages]


def spilled(worker: Inside) -> int:
    return worker.spill.total


async def due(worker: Inside) -> None:
    """Time passes for all that is scheduled."""
    await worker.ask("UPDATE parked SET due = now() - interval '1 s' WHERE why = 0 RETURNING 1")


async def test_it_is_kept_with_its_accept_and_sent_once_it_is_due(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path) as worker:
        worker.run()
        worker.link(is_up=True)
        [one] = await accept(worker, [waiting(TRANSACTIONAL, 600)])
        [now] = await worker.send(1)
        rows = await worker.ask("SELECT why, due > now() + interval '9 min' FROM parked")
        assert rows == [(Why.SCHEDULED, True)]
        assert await worker.ask(
            "SELECT sequence, path, event_id FROM events WHERE message_id = $1", one
        ) == [(2, SCHEDULED_PATH, one)]
        await worker.flow.schedule.round()
        await worker.until(lambda: now in worker.seen())
        assert one not in worker.seen()
        await worker.until(lambda: not worker.flow.ledger.live)
        assert worker.flow.lanes.queued() == 0
        stored = await worker.flow.reader.message(one)
        assert stored is not None
        assert stored.message.send_at == pytest.approx(stored.message.created_at + 600)
        await due(worker)
        await worker.flow.schedule.round()
        await worker.drained()
        assert worker.seen().count(one) == 1
        paths = await worker.ask(
            "SELECT path FROM events WHERE message_id = $1 ORDER BY sequence", one
        )
        assert paths == [(Step.SCHEDULED,), (Step.SUBMITTED,)]
        assert await worker.ask("SELECT * FROM parked") == []
        await worker.flow.schedule.round()
        assert worker.seen().count(one) == 1
        assert worker.metrics.illegal_transition_total.samples() == [([], [0.0])]


async def test_a_crash_between_the_accept_and_the_hour_loses_nothing(
    dsn: str, tmp_path: Path
) -> None:
    async with inside(dsn, tmp_path) as worker:
        ids = await accept(worker, [waiting(OTP, 600) for _ in range(50)])
        await worker.crash()
        await worker.start()
        assert spilled(worker) == 0  # nobody needs them in memory yet
        assert not worker.flow.ledger.live
        await due(worker)
        await worker.flow.schedule.round()
        assert spilled(worker) == 50
        await worker.crash()  # taken up, not sent
        await worker.start()
        assert spilled(worker) == 50
        worker.run()
        worker.link(is_up=True)
        assert sorted(await worker.drained()) == ids
        [(count, messages)] = await worker.ask(
            "SELECT count(*), count(DISTINCT message_id) FROM events WHERE path = 1"
        )
        assert count == messages == 50


async def test_what_is_due_too_late_expires(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path) as worker:
        worker.run()
        worker.link(is_up=True)
        [one] = await accept(worker, [waiting(TRANSACTIONAL, 0.05, valid_s=0.05)])
        await asyncio.sleep(0.15)
        await worker.flow.schedule.round()
        await worker.flow.backlog.sweep()
        await worker.drained()
        assert worker.seen() == []
        paths = await worker.ask(
            "SELECT path FROM events WHERE message_id = $1 ORDER BY sequence", one
        )
        assert paths == [(Step.SCHEDULED,), (Step.EXPIRED,)]
        assert await worker.ask("SELECT * FROM parked") == []


async def test_a_lost_answer_to_the_taking_up_loses_nothing(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside(dsn, tmp_path) as worker:
        ids = await accept(worker, [waiting(TRANSACTIONAL, 600) for _ in range(20)])
        await due(worker)
        schedule = worker.flow.schedule
        take = schedule._rows.take

        async def lost(due_again: object) -> set[int]:
            await take(due_again)  # type: ignore[arg-type]  # as it was asked
            raise StoreUnavailable("the answer did not come")

        monkeypatch.setattr(schedule._rows, "take", lost)
        with pytest.raises(StoreUnavailable):
            await schedule.round()
        assert spilled(worker) == 0
        monkeypatch.undo()
        await schedule.round()
        assert spilled(worker) == 20
        worker.run()
        worker.link(is_up=True)
        assert sorted(await worker.drained()) == ids


async def test_marketing_whose_hours_end_in_its_lane_is_put_off(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **CLOSED) as worker:
        worker.run()
        ids = await worker.send(1200, MARKETING)
        others = await worker.send(5, TRANSACTIONAL)
        worker.link(is_up=True)
        await worker.drained()
        assert worker.seen() == others
        [(count,)] = await worker.ask("SELECT count(*) FROM parked WHERE why = 0")
        assert count == 1200
        assert await worker.ask(
            "SELECT DISTINCT path, sequence, reason FROM events WHERE message_id = ANY($1)", ids
        ) == [(Step.SCHEDULED, 2, 91)]
        assert worker.flow.lanes.queued() == 0
        worker.flow.policy._hours = type(worker.flow.policy._hours)(0, 24)
        await due(worker)
        await worker.flow.schedule.round()
        await worker.drained()
        assert sorted(worker.seen()[5:]) == ids


async def test_many_due_at_once_do_not_keep_otp_waiting(dsn: str, tmp_path: Path) -> None:
    """Thousands due at the same second: otp accepted meanwhile reaches a carrier at once.

    SMSGW_TEST_DUE=1000000 makes it a million.
    """
    count = int(os.environ.get("SMSGW_TEST_DUE", "20000"))
    async with inside(dsn, tmp_path) as worker:
        worker.run()
        renewing = asyncio.create_task(_renew_forever(worker))
        texts = (waiting(MARKETING, 36_000, tenant=1 + n // 1000 % 3) for n in range(count))
        for some in iter(lambda: list(itertools.islice(texts, 1000)), []):
            await accept(worker, some)
        await _ask_long(worker, "UPDATE parked SET due = now()")
        worker.link(is_up=True)
        began = time.monotonic()
        taking = asyncio.create_task(_take_up(worker))
        waits = []
        while not taking.done():
            waits.append(await _otp(worker))
            await asyncio.sleep(0.02)
        await taking
        renewing.cancel()
        took_s = time.monotonic() - began
        waits.sort()
        p50, p99 = (waits[int(len(waits) * share)] * 1000 for share in (0.5, 0.99))
        print(
            f"\n{count} due at once: taken up in {took_s:.1f} s; otp meanwhile, accept to carrier:"
            f" p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {waits[-1] * 1000:.1f} ms of {len(waits)}"
        )
        assert worker.metrics.scheduled_due_total.samples()[0][1] == [count]
        # Without the classes' order they would wait for about all that is taken up.
        assert p50 / 1000 < 0.1 * took_s
        assert waits[-1] < max(5, 0.5 * took_s)


async def _renew_forever(worker: Inside) -> None:
    """As the worker does: a renewal gives ids for 15 s."""
    while True:
        await worker.life._renew()
        await asyncio.sleep(3.0)


async def _take_up(worker: Inside) -> None:
    """As the worker does: a statement that was too slow just now is asked again."""
    while True:
        try:
            return await worker.flow.schedule.round()
        except StoreUnavailable:
            await asyncio.sleep(0.5)


async def _ask_long(worker: Inside, sql: str) -> None:
    """One statement that may take longer than a worker's."""
    async with worker.pool.acquire() as conn, conn.transaction():
        await conn.execute("SET LOCAL statement_timeout = 600000")
        await conn.execute(sql, timeout=600)


async def _otp(worker: Inside) -> float:
    """Seconds from the accept of an otp until a carrier has it."""
    seen = worker.channels[1].seen
    before = len(seen)
    began = time.monotonic()
    [one] = await worker.send(1, OTP)
    await worker.until(lambda: any(s.message.id == one for s in seen[before:]))
    return time.monotonic() - began


@pytest.mark.parametrize("why", [Why.SCHEDULED, Why.HELD])
async def test_what_is_put_off_while_its_old_row_comes_due_keeps_its_hour(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: Why
) -> None:
    """Back as an id after a restart, its row of then due; put off before that is acted on."""
    async with inside(dsn, tmp_path) as worker:
        [one] = await worker.send(1, MARKETING)
        backlog, me = worker.flow.backlog, worker.life.lease.process
        valid_until = worker.flow.ledger.live[one].valid_until
        later = time.time() + 1800

        async def commit(sql: str) -> None:
            worker.flow.ledger.commit([], sql=sql)
            await worker.worker.standing.committed()

        still_mine = worker.flow.reader.still_mine

        async def put_off_meanwhile(process: int, ids: list[int]) -> list[int]:
            mine = await still_mine(process, ids)
            await commit(park_sql(me, [(one, later, why, MARKETING, 1)]))
            return mine

        await commit(park_sql(me, [(one, time.time() - 1, Why.QUEUED, MARKETING, 1)]))
        monkeypatch.setattr(worker.flow.reader, "still_mine", put_off_meanwhile)
        await backlog.take_up_due([one])
        await worker.worker.standing.committed()
        assert later < valid_until
        rows = await worker.ask("SELECT why, extract(epoch FROM due)::float FROM parked")
        assert rows == [(why, pytest.approx(later, abs=0.01))]
        monkeypatch.undo()
        await backlog.take_up_due([one])  # asked of it by a look from before: it is not to be had
        await worker.worker.standing.committed()
        assert len(await worker.ask("SELECT why FROM parked")) == 1


async def test_one_that_is_put_off_while_its_row_is_written_keeps_a_row(
    dsn: str, tmp_path: Path
) -> None:
    """It stood in a lane for long when its hours ended: both say where it waits, one after the
    other, and the first one's end must not take the second one's row away.
    """
    async with inside(dsn, tmp_path) as worker:
        [one] = await worker.send(1, MARKETING)
        message = worker.flow.ledger.live[one]
        worker.worker.standing.push_out([message])
        worker.flow.schedule.put_off([(message, time.time() + 3600)])
        for _ in range(3):
            await worker.worker.standing.committed()
        assert not worker.flow.ledger.live
        assert await worker.ask("SELECT message_id, why FROM parked") == [(one, Why.SCHEDULED)]
        worker.run()
        worker.link(is_up=True)
        await due(worker)
        await worker.flow.schedule.round()
        await worker.drained()
        assert worker.seen() == [one]
        assert await worker.ask("SELECT * FROM parked") == []
