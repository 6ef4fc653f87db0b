"""What commands do to messages in memory: on fakes, one turn of the loop at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import pytest

from gateway.withdraw import BY_TENANT, Ending, Verdict, Withdrawals
from receipts.state import Path
from sms.model import Message, MessageClass, State
from sms.outcomes import Submitted, Throttled
from store.commands import BatchState, CommandTable, Halted, Place
from store.fragments import Why
from store.handovers import Handovers
from store.read import Head, Reader
from tests.support.backlog_kit import BacklogKit, FakeReader

OTP, TRANSACTIONAL, MARKETING = MessageClass
OPTED_OUT = Ending(Path.REJECTED, State.REJECTED, "policy.opted_out")
ME = 1


class FakeTable:
    """Places of what the kit's store holds; `aside`: parked rows that are all there is."""

    def __init__(self, kit: BacklogKit) -> None:
        self._kit = kit
        self.batches: dict[int, Halted] = {}
        self.aside: dict[int, Why] = {}

    async def places(self, ids: Sequence[int]) -> list[Place]:
        newest = {row.message_id: int(row.path) for row in self._kit.events.rows}
        return [
            Place(one, newest.get(one), ME if one in self.aside else None, self.aside.get(one),
                  None, is_handed=False)
            for one in ids
            if one in self._kit.store.stored
        ]  # fmt: skip

    async def halted(self, first_id: int | None = None) -> list[Halted]:
        return [b for first, b in self.batches.items() if first_id in (None, first)]


class HeldReader(FakeReader):
    """Nothing is held in the store: what is let go is tested on a real one."""

    async def parked_heads(self, process: int, why: Why, after: int, limit: int) -> list[Head]:
        return []


class WithdrawKit(BacklogKit):
    """The flow's kit with withdrawals; the event lane commits whenever somebody waits."""

    def __init__(self, **knobs: int | bool) -> None:
        super().__init__(**knobs)  # type: ignore[arg-type]
        self.store = HeldReader()
        self.backlog._reader = cast("Reader", self.store)
        self.table = FakeTable(self)
        self.withdrawals = Withdrawals(
            ledger=self.ledger,
            dispatcher=self.dispatcher,
            backlog=self.backlog,
            reader=cast("Reader", self.store),
            table=cast("CommandTable", self.table),
            handovers=cast("Handovers", None),
            reserve=lambda: 1,
            unix=self.clock.unix,
            monotonic=self.clock.monotonic,
        )

    async def during(self, work):
        """Run it, flushing the event lane meanwhile."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.sleep(0)
            self.events.flush()
        return task.result()

    async def end(self, *ids: int, tenant: int = 1, ending: Ending = BY_TENANT):
        return await self.during(self.withdrawals.end(tenant, ids, ending))

    async def follow(self, ids: Sequence[int], state: BatchState) -> None:
        self.table.batches[ids[0]] = Halted(ids[0], ids[-1], 1, state)
        await self.during(self.withdrawals.follow(ids[0]))

    def looks(self) -> bool:
        """Whether what enters a lane is looked at."""
        return self.dispatcher.sift is not None

    def up(self) -> None:
        for number in self.channels:
            self.dispatcher.link_changed(number, is_up=True)
        self.events.flush()

    def drain(self) -> list[int]:
        """Answer until nothing is open; ids in the order the carriers got them."""
        for number, channel in self.channels.items():
            while channel.open:
                self.answer(number, Submitted("c"))
        return [message.id for message in self.seen()]


async def test_a_canceled_message_is_skipped_and_gives_its_room_back():
    kit = WithdrawKit(is_up=False)
    first, second = kit.send(2)
    assert await kit.end(first) == {first: Verdict.ENDED}
    assert kit.lanes.used(TRANSACTIONAL) == 1
    assert [row.path for row in kit.events.rows] == [Path.CANCELED]
    assert kit.metrics.final_total.values["canceled", "transactional", ""] == 1
    kit.up()
    assert kit.drain() == [second]


async def test_nobody_is_told_before_the_commit():
    kit = WithdrawKit(is_up=False)
    [one] = kit.send(1)
    task = asyncio.ensure_future(kit.withdrawals.end(1, [one], BY_TENANT))
    for _ in range(20):
        await asyncio.sleep(0)
    assert kit.ledger.live[one].state is State.CANCELED
    assert not task.done()
    kit.events.flush()
    assert await task == {one: Verdict.ENDED}


async def test_another_ending_is_another_row():
    kit = WithdrawKit(is_up=False)
    [one] = kit.send(1)
    await kit.end(one, ending=OPTED_OUT)
    [row] = kit.events.rows
    assert (row.path, row.status, row.reason) == (13, State.REJECTED, "policy.opted_out")


async def test_what_is_being_claimed_is_canceled_and_its_claim_goes():
    kit = WithdrawKit(is_up=True)
    message = kit.message()
    kit.store.stored[message.id] = message
    kit.lanes.reserve(message.message_class, 1)
    kit.ledger.took([message])
    kit.dispatcher.put([message])
    assert message.claim
    assert not kit.seen()
    assert await kit.end(message.id) == {message.id: Verdict.ENDED}
    assert not kit.seen()
    assert set(kit.claims.blocks.values()) == {0}


async def test_what_is_being_claimed_is_held_and_its_claim_goes():
    kit = WithdrawKit(is_up=True)
    message = kit.message()
    kit.store.stored[message.id] = message
    kit.lanes.reserve(message.message_class, 1)
    kit.ledger.took([message])
    kit.dispatcher.put([message])
    assert message.claim
    await kit.follow([message.id], BatchState.PAUSED)
    assert not kit.seen()
    assert set(kit.claims.blocks.values()) == {0}
    assert kit.dispatcher.channels[1].claiming == 0
    assert not kit.ledger.live


@pytest.mark.parametrize("texts", [("one",), ("one", "two")])
async def test_an_open_attempt_is_busy_also_when_only_a_part_of_it_left(texts):
    kit = WithdrawKit(is_up=True, window=1)
    message = kit.message(texts=texts)
    kit.store.stored[message.id] = message
    kit.accept(message)
    assert kit.seen() == [message]  # of two segments one found no slot yet
    assert await kit.end(message.id) == {message.id: Verdict.BUSY}
    assert kit.drain() == [message.id] * len(texts)


async def test_what_waits_to_be_tried_again_is_canceled():
    kit = WithdrawKit(is_up=True)
    [one] = kit.send(1)
    kit.answer(1, Throttled(1.0, "0x58"))
    assert kit.dispatcher.delayed_ids() == [one]
    assert await kit.end(one) == {one: Verdict.ENDED}
    kit.clock.now += 10
    kit.dispatcher.tick()
    kit.events.flush()
    assert len(kit.seen()) == 1
    assert not kit.ledger.live


async def test_a_message_with_a_marked_copy_is_never_canceled():
    kit = WithdrawKit(is_up=False)
    [one] = kit.send(1)
    message = kit.ledger.live[one]
    message.copy, message.duplicate_risk, message.state = 1, True, State.QUEUED
    assert await kit.end(one) == {one: Verdict.BUSY}


async def test_a_spilled_id_in_hand_is_canceled_when_it_lands():
    kit = WithdrawKit(memory=8, is_up=False)
    ids = kit.send(40)
    kit.up()
    read = kit.store.bodies
    asked: list[asyncio.Task[object]] = []

    async def slow(some):
        found = await read(some)  # what it says is older than the cancel
        if not asked:
            asked.append(asyncio.ensure_future(kit.withdrawals.end(1, list(some), BY_TENANT)))
            for _ in range(3):
                await asyncio.sleep(0)
        return found

    kit.store.bodies = slow  # type: ignore[method-assign]
    assert await kit.backlog.refill()
    found = await kit.during(asked[0])
    assert set(found.values()) == {Verdict.ENDED}
    await kit.refill_all()
    while kit.channels[1].open:
        kit.answer(1, Submitted("c"))
        await kit.refill_all()
    seen = [message.id for message in kit.seen()]
    assert sorted([*seen, *found]) == ids


async def test_a_row_that_lost_its_place_is_not_remembered_as_an_end():
    kit = WithdrawKit(is_up=False)
    [one] = kit.send(1)
    kit.events.committed = lambda rows: None  # nothing is marked as stored
    await kit.end(one)
    assert not kit.ledger.gone


async def test_what_was_ended_is_forgotten_after_a_while():
    kit = WithdrawKit(is_up=False)
    first, second = kit.send(2)
    await kit.end(first)
    assert list(kit.ledger.gone) == [first]
    kit.clock.now += 200
    await kit.end(second)
    assert list(kit.ledger.gone) == [second]


async def test_nothing_is_looked_at_on_its_way_while_nothing_is_halted():
    kit = WithdrawKit(is_up=False)
    ids = kit.send(3)
    assert not kit.looks()
    await kit.follow(ids, BatchState.PAUSED)
    assert kit.looks()
    await kit.follow(ids, BatchState.RUNNING)
    assert not kit.looks()


async def test_a_paused_batch_leaves_lanes_and_spill():
    kit = WithdrawKit(memory=16, is_up=False)
    ids = kit.send(40)
    others = kit.send(2, tenant=2)
    await kit.follow(ids, BatchState.PAUSED)
    assert kit.backlog.queued() == 2
    assert set(kit.ledger.live) <= set(others)
    held = "".join(kit.events.sql)
    assert all(f"({one},1," in held for one in ids)
    for cls in MessageClass:
        kit.dispatcher._sweep(cls)
    assert set(kit.standing()) == set(kit.ledger.live)
    kit.up()
    await kit.refill_all()
    assert kit.drain() == others


async def test_what_enters_a_lane_of_a_canceled_batch_ends_there():
    kit = WithdrawKit(is_up=False)
    ids = kit.send(3)
    messages = [kit.ledger.live[one] for one in ids]
    for message in messages:
        message.is_handed = True  # on its way while the command comes
    kit.table.batches[ids[0]] = Halted(ids[0], ids[-1], 1, BatchState.CANCELED)
    await kit.during(kit.withdrawals.load())
    fresh: list[Message] = []
    for message in messages:
        kit.ledger.forget([message])
        message.is_handed, message.is_adopted = False, True
        message.claim = kit.claims.block([message.id], None)
        kit.ledger.take_back(message)
        fresh.append(message)
    kit.dispatcher.put_adopted(fresh)
    kit.events.flush()
    assert {row.path for row in kit.events.rows} == {Path.CANCELED}
    assert not kit.ledger.live
    assert not kit.ledger.adopted


@pytest.mark.parametrize("seed", range(10))
async def test_in_any_order_every_message_is_canceled_or_seen_once(seed):
    """Sends, cancels, pauses, refills, answers, links: nothing lost, nothing both."""
    chance = random.Random(seed)
    kit = WithdrawKit(memory=16, is_up=False, window=4)
    ids: list[int] = []
    for _ in range(60):
        match chance.randrange(6):
            case 0:
                ids += kit.send(chance.randrange(1, 20))
            case 1 if ids:
                await kit.end(*chance.sample(ids, min(len(ids), 5)))
            case 2:
                kit.dispatcher.link_changed(1, is_up=chance.random() < 0.7)
            case 3:
                await kit.refill_all()
            case 4 if kit.channels[1].open:
                kit.answer(1, Submitted("c"))
            case _:
                kit.dispatcher.tick()
        kit.turn_timers()
    kit.up()
    await kit.refill_all()
    while kit.channels[1].open or kit.spill.total:
        if kit.channels[1].open:
            kit.answer(1, Submitted("c"))
        kit.turn_timers()
        await kit.refill_all()
    seen = [message.id for message in kit.seen()]
    ended = [row.message_id for row in kit.events.rows if row.path == Path.CANCELED]
    assert sorted(seen + ended) == sorted(ids)
    assert not kit.ledger.live
    assert [kit.lanes.used(cls) for cls in MessageClass] == [0, 0, 0]
