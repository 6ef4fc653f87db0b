"""The conservation law over a real store: what goes missing is seen, what moves is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.lanes import HELD
from sms.model import MessageClass
from sms.outcomes import Uncertain
from store.conservation import Recount, reading, recount
from store.seal import day_of
from tests.support.inside import Inside, inside

pytestmark = pytest.mark.integration

OTP, TRANSACTIONAL, MARKETING = MessageClass
SMALL = {"lane_otp": 3200, "lane_transactional": 3200, "lane_marketing": 3200}  # 200 held


async def rounds(worker: Inside, count: int = 3) -> dict[int, float]:
    """Some readings; the gauge by tenant after the last, those at 0 left out."""
    worker.flow.tenant_names = {1: "1", 2: "2"}
    for _ in range(count):
        await worker.worker.conservation.round()
    values = worker.metrics.conservation_residual.values
    return {int(name): value for (name,), value in values.items() if value}


def judged(worker: Inside) -> float:
    return worker.metrics.conservation_readings_total.values[()]


def lose_one(worker: Inside, tenant: int = 1) -> int:
    """Take a message out of its lane as a bug would: nothing else hears of it."""
    queue = worker.flow.lanes.lane(HELD).queue(TRANSACTIONAL)
    lost = queue._by_tenant[tenant].pop()
    queue.size -= 1
    return lost.id


async def test_a_message_that_fell_out_of_a_lane_is_seen(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        await worker.send(50)
        await worker.send(50, tenant=2)
        assert await rounds(worker) == {}
        assert judged(worker) == 2
        lose_one(worker)
        assert await rounds(worker, 1) == {}  # one look is not believed
        assert await rounds(worker, 2) == {1: 1.0}
        assert worker.metrics.stray_messages.values[()] == 1.0
        lose_one(worker, tenant=2)
        assert await rounds(worker, 3) == {1: 1.0, 2: 1.0}


async def test_one_that_vanished_from_the_books_is_seen(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        await worker.send(50)
        assert await rounds(worker) == {}
        del worker.flow.ledger.live[lose_one(worker)]
        assert await rounds(worker) == {1: 1.0}


async def test_one_that_vanished_from_the_spill_is_seen(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        await worker.send(1000)
        assert await rounds(worker) == {}
        [taken] = worker.spill.take(TRANSACTIONAL, (1,), 1, lambda _: 1)
        assert await rounds(worker) == {}  # in hand is held
        worker.spill.landed([taken])
        assert await rounds(worker) == {1: 1.0}


async def test_a_loss_is_seen_under_traffic_and_a_lossless_run_is_clean(
    dsn: str, tmp_path: Path
) -> None:
    async with inside(dsn, tmp_path, channels=2, **SMALL) as worker:
        worker.run()
        held = await worker.send(20)
        lost = lose_one(worker)
        assert lost in held
        worker.link(is_up=True)
        await worker.drained_but(1)
        await rounds(worker, 1)
        for _ in range(4):
            await worker.send(300)
            worker.answer()
            found = await rounds(worker, 1)
        assert found == {1: 1.0}
        assert judged(worker) >= 3


async def test_what_is_parked_spilled_uncertain_or_submitted_is_not_missing(
    dsn: str, tmp_path: Path
) -> None:
    async with inside(dsn, tmp_path, parked_after_s=0.3, **SMALL) as worker:
        await worker.send(1000, valid_s=3000.0)
        worker.link(is_up=True)
        await worker.worker.standing.committed()
        await worker.until(lambda: len(worker.seen()) > 150)
        channel = worker.channels[1]
        some, channel.open = channel.open[:10], channel.open[10:]
        worker.flow.outcomes(1, [(one, Uncertain("test")) for one in some])
        worker.link(is_up=False)
        await worker.worker.standing.committed()
        await asyncio.sleep(0.4)
        await worker.worker.standing.park()
        assert await rounds(worker) == {}
        now = await reading(worker.pool)
        assert now.parked[1] > 500
        assert sum(now.counted[1].values()) == now.parked[1] + sum(
            said.held for said in now.said[1].values()
        )


async def test_a_new_life_counts_on_from_the_old_ones_flushes(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        worker.run()
        await worker.send(700)
        worker.link(is_up=True)
        await worker.until(lambda: len(worker.seen()) > 100)
        await worker.flow.reader.fold_deltas(worker.life.lease.process)
        await worker.crash()
        await worker.start()
        assert await rounds(worker) == {}
        assert judged(worker) == 2
        worker.run()
        worker.link(is_up=True)
        await worker.drained()
        assert await rounds(worker) == {}
        now = await reading(worker.pool)
        assert sum(now.counted[1].values()) == 0
        assert now.said.get(1, {}) == {}


# -- message by message ---------------------------------------------------------------------


async def test_a_recount_puts_every_message_of_a_day_somewhere(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, parked_after_s=0.3, **SMALL) as worker:
        ids = await worker.send(600, valid_s=3000.0)
        worker.link(is_up=True)
        await worker.until(lambda: len(worker.seen()) > 100)
        worker.link(is_up=False)
        await worker.worker.standing.committed()
        others = await worker.send(50, tenant=2)
        worker.answer()
        await worker.worker.standing.committed()
        day = day_of(ids[0])
        found = await recount(worker.pool, day, page=130)  # several pages
        assert {tenant: one.accepted for tenant, one in found.items()} == {1: 600, 2: 50}
        assert found[1].submitted >= 100
        assert found[1].held == 600 - found[1].submitted
        assert found[2] == Recount(held=50)
        await asyncio.sleep(0.4)
        await worker.worker.standing.park()
        await worker.life._renew()
        found = await recount(worker.pool, day)
        assert found[2] == Recount(parked=50)
        assert (found[1].held, found[1].stranded) == (0, 0)
        await worker.ask("DELETE FROM parked WHERE message_id = ANY($1)", others[10:13])
        found = await recount(worker.pool, day, page=130)
        assert found[2] == Recount(parked=47, stranded=3, stranded_ids=others[10:13])


async def test_a_recount_agrees_with_what_the_flushes_counted(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, **SMALL) as worker:
        worker.run()
        ids = await worker.send(1500)
        worker.link(is_up=True)
        await worker.until(lambda: len(worker.seen()) > 700)
        worker.link(is_up=False)
        worker.answer()
        await worker.worker.standing.committed()
        counted = (await worker.flow.reader.deltas())[1]
        found = (await recount(worker.pool, day_of(ids[0])))[1]
        assert counted == (found.accepted, found.submitted, found.final)
