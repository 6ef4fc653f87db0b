"""What nothing more is heard of, on a real PostgreSQL: its deadline, its vendor is asked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path as FilePath

import pytest

from adapters.base import Lost
from gateway import deadline, reconcile, walking
from gateway.ledger import Ledger
from sms.ids import id_at
from sms.model import EventRow, Message, MessageClass, Report, State
from sms.outcomes import Submitted
from store.partitions import day_range, today
from store.read import Reader
from store.silence import open_sql
from tests.integration.test_commands import status
from tests.support.inside import Inside, inside, text

pytestmark = pytest.mark.integration

DEADLINE_S = 0.4
ENDED = "SELECT message_id FROM events WHERE path = 15"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No lag behind the deadline, and whoever comes may walk."""
    monkeypatch.setattr(walking, "LAG_LEAST_S", 0.0)
    monkeypatch.setattr(walking, "HOLD_S", 0.0)
    monkeypatch.setattr(deadline, "LOST_S", 0.0)


def late(dsn: str, folder: FilePath, slot: int = 0) -> AbstractAsyncContextManager[Inside]:
    """A process whose receipts have little time."""
    return inside(dsn, folder / str(slot), slot=slot, receipt_deadline_s=DEADLINE_S)


def overdue(dsn: str, folder: FilePath, slot: int = 0) -> AbstractAsyncContextManager[Inside]:
    """A process that soon asks for them."""
    return inside(dsn, folder / str(slot), slot=slot, overdue_after_s=DEADLINE_S)


async def submitted(gateway: Inside, count: int) -> list[int]:
    """Messages that the carrier has taken."""
    gateway.link(is_up=True)
    ids = await gateway.send(count)
    await gateway.drained()
    return ids


def report(message_id: int | str, state: str = "DELIVRD") -> Report:
    return Report(1, str(message_id), state, "000", "13800138000", object())


async def until_rows(gateway: Inside, sql: str, count: int) -> None:
    async with asyncio.timeout(60):
        while len(await gateway.ask(sql)) < count:
            await gateway.ask("SELECT pg_sleep(0.01)")


async def over() -> None:
    """What was submitted by now is beyond its deadline."""
    await asyncio.sleep(DEADLINE_S + 0.05)


async def due_of(gateway: Inside) -> float:
    """When the one watched message is looked at."""
    [(due,)] = await gateway.ask("SELECT extract(epoch FROM due)::float8 FROM deadlines")
    assert isinstance(due, float)
    return due


async def residual(gateway: Inside) -> tuple[object, ...]:
    """(submitted now, neither submitted nor final)."""
    [row] = await gateway.ask(
        "SELECT sum(submitted)::int, sum(accepted - submitted - final)::int FROM deltas"
    )
    return row


async def test_each_ends_once_whoever_sent_it_and_however_many_look(dsn, tmp_path):
    async with late(dsn, tmp_path, 1) as one:
        async with late(dsn, tmp_path, 0) as dead:
            ids = await submitted(dead, 450)
            dead.flow.reports(1, [report(message_id) for message_id in ids[:50]])
            await until_rows(dead, "SELECT FROM events WHERE path = 9", 50)
        async with late(dsn, tmp_path, 2) as other:
            for gateway in (one, other):
                gateway.go(gateway.worker.conflicts.run())
            await over()
            await asyncio.gather(
                one.worker.silence.deadlines.round(), other.worker.silence.deadlines.round()
            )
            await until_rows(one, ENDED, 400)
            await other.worker.silence.deadlines.round()
            found = [row[0] for row in await one.ask(f"{ENDED} ORDER BY 1")]
            assert found == ids[50:]
            assert await residual(one) == (0, 0)
            assert await one.ask("SELECT message_id FROM deadlines") == []
            [(reason, channel)] = await one.ask(
                "SELECT DISTINCT reason, channel FROM events WHERE path = 15"
            )
            assert (reason, channel) == (74, 1)
            told = sum(
                sum(values)
                for gateway in (one, other)
                for labels, values in gateway.metrics.snapshot()["deadline_ended_total"]
            )
            assert told == 400


async def test_killed_in_the_middle_nothing_ends_twice_and_nothing_is_forgotten(
    dsn, tmp_path, monkeypatch
):
    monkeypatch.setattr(walking, "SLICE", 10)
    whole, is_cut, calls = walking.commit, asyncio.Event(), itertools.count(1)

    async def cut(ledger: Ledger, rows: list[EventRow]) -> None:
        if next(calls) >= 4:  # three slices become durable, the walk does not move
            is_cut.set()
            await asyncio.sleep(3600)
        await whole(ledger, rows)

    async with late(dsn, tmp_path, 0) as gateway:
        ids = await submitted(gateway, 100)
        await over()
        monkeypatch.setattr(deadline, "commit", cut)
        gateway.go(gateway.worker.silence.deadlines.round())
        await asyncio.wait_for(is_cut.wait(), 60)
        await until_rows(gateway, ENDED, 30)
    monkeypatch.setattr(deadline, "commit", whole)
    async with late(dsn, tmp_path, 1) as other:
        await other.worker.silence.deadlines.round()
        assert [row[0] for row in await other.ask(f"{ENDED} ORDER BY 1")] == ids
        assert await residual(other) == (0, 0)


async def test_a_report_at_the_same_moment_wins_or_loses_and_there_is_one_end(
    dsn, tmp_path, monkeypatch
):
    """Killed with the judgement in memory, the next life still looks at what lost its place."""
    read = walking.read
    async with (
        late(dsn, tmp_path, 0) as gateway,
        late(dsn, tmp_path, 1) as other,
    ):
        [message_id] = await submitted(gateway, 1)
        other.go(other.worker.reports.run())
        await over()

        async def meanwhile(reader: Reader, ids: Sequence[int]) -> list[Message]:
            found = await read(reader, ids)
            if not await other.ask("SELECT FROM events WHERE path = 9"):
                other.flow.reports(1, [report(message_id)])
                await until_rows(other, "SELECT FROM events WHERE path = 9", 1)
            return found

        monkeypatch.setattr(walking, "read", meanwhile)
        await gateway.worker.silence.deadlines.round()  # its conflicts are not settled: as killed
        monkeypatch.setattr(walking, "read", read)
        assert await status(other, message_id) is State.DELIVERED
        await other.worker.silence.deadlines.round()
        assert await other.ask(ENDED) == []
        assert await other.ask("SELECT FROM deadlines") == []
        assert await residual(other) == (0, 0)


async def long_texts(gateway: Inside, count: int) -> list[int]:
    """Messages of two segments, taken under the ids `<message>-0` and `<message>-1`."""
    gateway.link(is_up=True)
    some = [text(MessageClass.TRANSACTIONAL, 1, 3600.0) for _ in range(count)]
    for one in some:
        one.texts = ("the first half ", "and the second")
    assert gateway.flow.room(MessageClass.TRANSACTIONAL, count)
    await gateway.flow.accept(some)
    await gateway.until_seen(some[-1].id)
    submits, gateway.channels[1].open = gateway.channels[1].open, []
    answers = [(one, Submitted(f"{one.message.id}-{one.segment}")) for one in submits]
    gateway.flow.outcomes(1, answers)
    await gateway.drained()
    return [one.id for one in some]


async def test_of_a_long_text_what_arrived_counts_and_a_late_receipt_corrects_the_rest(
    dsn, tmp_path
):
    async with late(dsn, tmp_path) as gateway, late(dsn, tmp_path, 1) as other:
        gateway.go(gateway.worker.reports.run())
        other.go(other.worker.reports.run(), other.worker.conflicts.run())
        part, silent = await long_texts(gateway, 2)
        gateway.flow.reports(1, [report(f"{part}-0")])
        await until_rows(gateway, "SELECT FROM events WHERE status = 6", 1)
        await over()
        await other.worker.silence.deadlines.round()
        assert await status(other, part) is State.PARTIALLY_DELIVERED
        assert await status(other, silent) is State.UNKNOWN
        other.flow.reports(1, [report(f"{silent}-0")])
        await until_rows(other, f"SELECT FROM events WHERE message_id = {silent} AND status = 6", 1)
        assert await status(gateway, silent) is State.UNKNOWN
        other.flow.reports(1, [report(f"{silent}-1")])
        await until_rows(other, f"SELECT FROM events WHERE message_id = {silent} AND path = 9", 1)
        assert await status(gateway, silent) is State.DELIVERED
        assert await residual(other) == (0, 0)


@pytest.mark.parametrize("is_killed", [False, True])
async def test_what_lost_its_place_is_judged_anew_here_or_by_who_comes_after(
    dsn, tmp_path, monkeypatch, is_killed
):
    read = walking.read
    async with late(dsn, tmp_path, 1) as other:
        other.go(other.worker.reports.run())
        async with late(dsn, tmp_path) as gateway:
            [message_id] = await long_texts(gateway, 1)
            await over()

            async def meanwhile(reader: Reader, ids: Sequence[int]) -> list[Message]:
                found = await read(reader, ids)
                other.flow.reports(1, [report(f"{message_id}-0")])
                await until_rows(other, "SELECT FROM events WHERE status = 6", 1)
                return found

            if not is_killed:
                gateway.go(gateway.worker.conflicts.run())
            monkeypatch.setattr(walking, "read", meanwhile)
            await gateway.worker.silence.deadlines.round()
            monkeypatch.setattr(walking, "read", read)
            if not is_killed:
                await until_rows(other, "SELECT FROM events WHERE path = 10", 1)
        await other.worker.silence.deadlines.round()
        assert await status(other, message_id) is State.PARTIALLY_DELIVERED
        assert len(await other.ask("SELECT FROM events WHERE path IN (10, 15)")) == 1
        assert await other.ask("SELECT FROM deadlines") == []
        assert await residual(other) == (0, 0)


async def test_a_message_that_cannot_be_read_is_set_aside_and_the_others_end(
    dsn, tmp_path, monkeypatch
):
    """Spoiled when the walks come by: neither stops there, nor the worker, and it is kept."""
    monkeypatch.setattr(reconcile, "WALK_EVERY", 1)
    async with overdue(dsn, tmp_path, 1) as asking, late(dsn, tmp_path) as gateway:
        ids = await submitted(gateway, 3)
        sql = f"SELECT encode(number, 'hex') FROM messages WHERE id = {ids[1]}"
        [(number,)] = await gateway.ask(sql)
        await gateway.ask(f"UPDATE messages SET number = '\\x00' WHERE id = {ids[1]}")
        await over()
        silence = gateway.worker.silence.deadlines
        for _ in range(2):
            await asking.worker.silence.reconciler.round()
            await silence.round()
        assert [row[0] for row in await gateway.ask(f"{ENDED} ORDER BY 1")] == [ids[0], ids[2]]
        assert await gateway.ask("SELECT message_id FROM deadlines") == [(ids[1],)]
        assert await due_of(gateway) > time.time() + walking.ASIDE_S - 60.0
        await gateway.ask("UPDATE deadlines SET due = now()")
        await silence.round()
        assert await due_of(gateway) > time.time() + walking.ASIDE_S - 60.0
        assert gateway.metrics.quarantined_total.values["walk",] == 2
        await gateway.ask(f"UPDATE messages SET number = '\\x{number}' WHERE id = {ids[1]}")
        await gateway.ask("UPDATE deadlines SET due = now()")
        await silence.round()
        assert await status(gateway, ids[1]) is State.UNKNOWN
        assert await gateway.ask("SELECT FROM deadlines") == []


async def test_what_was_sent_late_has_its_whole_time(dsn, tmp_path):
    async with late(dsn, tmp_path) as gateway:
        [message_id] = await gateway.send(1)  # no link: it waits
        await over()
        silence = gateway.worker.silence.deadlines
        before = time.time()
        await silence.round()
        assert await due_of(gateway) >= before + DEADLINE_S - 0.001
        sent = time.time()
        gateway.link(is_up=True)
        await gateway.drained()
        silence._deadline_s = 3600.0
        await gateway.ask("UPDATE deadlines SET due = now()")
        await silence.round()  # looked at, and submitted less than its deadline ago
        assert await due_of(gateway) >= sent + 3600.0 - 0.001
        assert await status(gateway, message_id) is State.SUBMITTED
        silence._deadline_s = 0.0
        await gateway.ask("UPDATE deadlines SET due = now()")
        await silence.round()
        assert await status(gateway, message_id) is State.UNKNOWN
        assert await gateway.ask("SELECT FROM deadlines") == []


async def test_a_page_reads_the_partitions_of_its_ids_alone(dsn, tmp_path):
    async with inside(dsn, tmp_path / "0") as gateway:
        low, high = day_range(today(time.time()))
        rows = await gateway.ask(f"EXPLAIN {open_sql(low, min(high - 1, id_at(time.time())))}")
        plan = "\n".join(str(row[0]) for row in rows)
        scans = [line for line in plan.splitlines() if " on " in line]
        assert len({line.split(" on ")[1].split()[0].split("_")[-1] for line in scans}) <= 4, plan
        assert "events_" in plan
        assert "messages_" in plan
        assert plan.count("Append") == 0


async def test_an_overdue_receipt_is_asked_for_by_one_process_and_counted(
    dsn, tmp_path, monkeypatch
):
    monkeypatch.setattr(reconcile, "LOOK_S", 3600.0)
    async with overdue(dsn, tmp_path, 0) as dead:
        ids = await submitted(dead, 3)
    async with (
        overdue(dsn, tmp_path, 1) as one,
        overdue(dsn, tmp_path, 2) as other,
    ):
        asked: list[tuple[str, int]] = []
        for gateway in (one, other):
            gateway.channels[1].can_ask = True
            monkeypatch.setattr(
                gateway.channels[1], "ask", lambda lost: asked.extend(map(_about, lost))
            )
            gateway.flow.ledger.channel_names[1] = "c1"
            gateway.link(is_up=True)
            gateway.go(gateway.worker.reports.run())
        await over()
        rounds = (one.worker.silence.reconciler.round, other.worker.silence.reconciler.round)
        await rounds[0]()
        await asyncio.gather(rounds[0](), rounds[1]())
        await rounds[1]()
        assert sorted(asked) == sorted((str(message_id), message_id) for message_id in ids)
        assert total(one, other, "overdue_total") == {("c1",): 3}
        one.flow.reports(1, [report(ids[0])])
        await until_rows(one, "SELECT FROM events WHERE path = 9", 1)
        await one.ask("UPDATE overdue SET due = now()")
        await rounds[0]()
        assert total(one, other, "reconciled_total") == {("c1", "delivered"): 1, ("c1", "open"): 2}
        assert len(await one.ask("SELECT FROM overdue")) == 2
        await rounds[1]()
        assert len(asked) == 3  # the next question is twice as far away


async def test_who_has_never_walked_puts_off_from_now(dsn, tmp_path, monkeypatch):
    """What was sent again over another channel is asked about there, and not at once."""
    monkeypatch.setattr(walking, "HOLD_S", 60.0)  # the first one walks, the other never

    def asking(slot: int) -> AbstractAsyncContextManager[Inside]:
        folder = tmp_path / str(slot)
        return inside(dsn, folder, channels=2, slot=slot, overdue_after_s=DEADLINE_S)

    async with asking(0) as one, asking(1) as other:
        [message_id] = await submitted(one, 1)
        await over()
        await one.worker.silence.reconciler.round()
        [(channel,)] = await one.ask("SELECT channel FROM overdue")
        elsewhere = 3 - int(str(channel))
        await one.ask(f"UPDATE overdue SET channel = {elsewhere}, due = now()")
        other.channels[elsewhere].can_ask = True
        other.link(elsewhere, is_up=True)
        monkeypatch.setattr(other.worker.silence.reconciler, "_after_s", 1000.0)
        await other.worker.silence.reconciler.round()
        [row] = await one.ask(
            "SELECT message_id, channel, due BETWEEN now() + interval '990 s' AND"
            " now() + interval '1000 s', since < now() FROM overdue"
        )
        assert row == (message_id, channel, True, True)


def _about(lost: Lost) -> tuple[str, int]:
    return lost.carrier_id, lost.submit.message.id


def total(one: Inside, other: Inside, name: str) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for gateway in (one, other):
        for labels, values in gateway.metrics.snapshot().get(name, []):
            found[tuple(labels)] = found.get(tuple(labels), 0.0) + values[0]
    return found
