"""A backlog beyond memory on a real PostgreSQL: spilled, read back, recovered, expired, parked."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import pytest

from gateway import recover
from sms.model import MessageClass
from store.fragments import Why
from tests.support.inside import inside

pytestmark = pytest.mark.integration

OTP, TRANSACTIONAL, MARKETING = MessageClass
SMALL = {"lane_otp": 400, "lane_transactional": 400, "lane_marketing": 400}
WINDOW = 64  # of the carrier in `Inside`


def assert_in_order(seen: list[int], ids: list[int]) -> None:
    """Each once, and none overtakes more than what may leave at once.

    What a window takes in two goes is claimed in two commits, of different lanes perhaps: the
    second one may be the first to return, and nobody is to wait for that.
    """
    assert sorted(seen) == ids
    place = {message_id: at for at, message_id in enumerate(ids)}
    assert max(abs(place[one] - at) for at, one in enumerate(seen)) < WINDOW


async def test_everything_comes_back_once_and_in_order(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        ids = await worker.send(3000, MARKETING)
        others = await worker.send(20, MARKETING, tenant=2)
        otp = await worker.send(30, OTP)
        assert worker.flow.lanes.used(MARKETING) <= 400
        assert worker.spill.size(MARKETING) >= 2600
        worker.run()
        worker.link(is_up=True)
        seen = await worker.drained()
        assert seen[: len(otp)] == otp
        assert_in_order([one for one in seen if one in set(ids)], ids)
        assert max(seen.index(one) for one in others) < 300
        assert len(seen) == 3050
        rows = await worker.ask("SELECT count(*), count(DISTINCT message_id) FROM events")
        assert rows == [(3050, 3050)]
        assert worker.flow.lanes.queued() == 0


async def test_a_message_read_back_is_the_one_that_was_accepted(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        await worker.send(300)
        worker.run()
        worker.link(is_up=True)
        await worker.drained()
        first, *_, last = (one.message for one in worker.channels[1].seen)
        for name in ("tenant", "message_class", "number", "carrier", "country", "encoding"):
            assert getattr(first, name) == getattr(last, name)
        submits = worker.channels[1].seen
        assert {one.payload for one in submits} == {submits[0].payload}


async def test_a_crash_in_the_middle_loses_nothing_and_reads_only_heads(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "PAGE", 1000)
    async with inside(dsn, tmp_path, **SMALL) as worker:
        ids = await worker.send(2500)
        worker.run()
        worker.link(is_up=True)
        await worker.until(lambda: len(worker.channels[1].seen) > 600)
        gone = {one[0] for one in await worker.ask("SELECT message_id FROM events")}
        await worker.crash()
        await worker.start()
        left = worker.spill.total + len(worker.flow.ledger.live)
        ended = {one[0] for one in await worker.ask("SELECT message_id FROM events")}
        assert gone <= ended
        assert left == len(ids) - len(ended)
        assert len(worker.flow.ledger.live) <= 64 + 256 * 2  # what was claimed
        worker.run()
        worker.link(is_up=True)
        await worker.drained()
        [(rows, messages)] = await worker.ask(
            "SELECT count(*), count(DISTINCT message_id) FROM events WHERE path IN (1, 4)"
        )
        assert rows == messages == len(ids)


async def test_the_mark_waits_for_what_is_spilled(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        ids = await worker.send(500)
        _, mark, _ = worker.life._marks(0.0, await worker.life._low_water())
        assert ids[0] - (1 << 33) < mark <= ids[0]


async def test_what_stands_for_long_is_parked_and_found_by_the_next_life(
    dsn: str, tmp_path: Path
) -> None:
    async with inside(dsn, tmp_path, parked_after_s=0.5, **SMALL) as worker:
        ids = await worker.send(1500)
        held = worker.flow.lanes.used(TRANSACTIONAL)
        await asyncio.sleep(0.6)
        await worker.worker.standing.park()
        parked = await worker.ask("SELECT why, count(*) FROM parked GROUP BY why ORDER BY why")
        assert parked == [(Why.QUEUED, held), (Why.SPILLED, 1500 - held)]
        await worker.life._renew()
        [(mark,)] = await worker.ask("SELECT low_water FROM processes")
        assert isinstance(mark, int)
        assert mark > ids[-1]  # a crash now would not find them above the mark
        late = await worker.send(10)
        await worker.crash()
        await worker.start()
        assert worker.spill.total == 1510
        worker.run()
        worker.link(is_up=True)
        seen = await worker.drained()
        assert_in_order(seen, ids + late)
        assert await worker.ask("SELECT count(*) FROM parked") == [(0,)]


async def test_spilled_messages_expire_within_seconds(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        ids = await worker.send(1500, valid_s=1.0)
        kept = await worker.send(200, valid_s=600.0, tenant=2)
        await asyncio.sleep(max(0.0, 2.1 - time.time() % 1.0))
        await worker.flow.backlog.sweep()
        in_memory = set(worker.flow.ledger.live)
        rows = {one[0] for one in await worker.ask("SELECT message_id FROM events WHERE path = 12")}
        assert rows == set(ids) - in_memory
        assert worker.spill.total == len(set(kept) - in_memory)


async def test_a_due_row_of_a_stranger_is_taken_up(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        ids = await worker.send(300)
        await worker.flow.backlog.park()
        assert await worker.ask("SELECT count(*) FROM parked") == [(0,)]  # not old enough
        spilled = [one for one in ids if worker.spill.has(TRANSACTIONAL, 1, one)]
        await worker.ask(
            "INSERT INTO parked (message_id, process, due, why, class, tenant)"
            " SELECT id, $1, now(), $2, class, tenant FROM messages WHERE id = ANY($3)",
            worker.life.lease.process,
            Why.SPILLED,
            spilled,
        )
        before = worker.spill.total
        await worker.worker.standing.round()
        assert worker.spill.total == before  # it knew them
        [(due,)] = await worker.ask("SELECT count(*) FROM parked WHERE due > now()")
        assert due == len(spilled)


async def test_intake_closes_by_class_when_more_waits_than_can_be_sent_in_time(
    dsn: str, tmp_path: Path
) -> None:
    """Spilled ones count; with two processes that accept each has half of it."""
    async with inside(dsn, tmp_path, shed_queue_s=1.0, **SMALL) as worker:
        flow = worker.flow
        rate = sum(one.segments_per_second for one in flow.snapshot.channels.values())
        await worker.send(int(rate) + 10)
        assert worker.spill.total > 0

        def closed() -> list[MessageClass]:
            flow.refresh_shed()
            return [cls for cls in MessageClass if flow.shed(cls) is not None]

        assert closed() == [MARKETING]
        assert flow.shed(MARKETING) == (
            "shed.queue_full",
            "More is queued than the channels can send in time.",
            10,
        )
        flow.accepting = 2
        assert closed() == [TRANSACTIONAL, MARKETING]


async def test_the_loop_is_not_held_while_thousands_come_back(dsn: str, tmp_path: Path) -> None:
    """CPU of one turn of the loop; a collection of the test's own garbage is not part of it."""
    async with inside(dsn, tmp_path, lane_marketing=8000) as worker:
        await worker.send(20_000, MARKETING)
        gc.collect()
        gc.disable()
        try:
            worker.run()
            worker.link(is_up=True)
            worst = 0.0
            while worker.spill.total:
                before = time.thread_time()
                await asyncio.sleep(0)
                worst = max(worst, time.thread_time() - before)
                worker.answer(16)
        finally:
            gc.enable()
        assert worst < 0.02  # 5 ms are meant for one callback; a turn has several
