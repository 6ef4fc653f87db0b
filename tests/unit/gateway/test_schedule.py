"""The schedule on fakes: what is put down, what is taken up, in which order, after which faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from gateway import schedule as module
from gateway.backlog import Backlog, BacklogPolicy
from gateway.notice_store import LaneNoticeStore
from gateway.schedule import Schedule
from receipts.state import STATES_OF_PATH, Path
from sms.errors import StoreUnavailable
from sms.model import CLASS_CODES, EventRow, Message, MessageClass, State
from store.fragments import Why
from store.read import Head
from store.scheduled import SCHEDULED_PATH, Due, parked_until, scheduled_sql
from tests.support.flow_kit import Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass


class Rows:
    """The scheduled rows of one process, and faults on demand."""

    def __init__(self) -> None:
        self.due_at: dict[int, tuple[MessageClass, float]] = {}
        self.asked: list[MessageClass] = []
        self.taken: list[int] = []
        self.forgotten: list[int] = []
        self.is_answer_lost = False

    async def due(self, message_class: MessageClass, now: float, limit: int) -> list[Due]:
        self.asked.append(message_class)
        found = [
            Due(number, at)
            for number, (cls, at) in self.due_at.items()
            if cls is message_class and at <= now and number not in self.taken
        ]
        return sorted(found, key=lambda one: one.due)[:limit]

    async def take(self, due_again: Sequence[tuple[int, float]]) -> set[int]:
        mine = {number for number, _ in due_again if number in self.due_at}
        self.taken += sorted(mine - set(self.taken))
        if self.is_answer_lost:
            raise StoreUnavailable("lost")
        return mine

    async def forget(self, message_ids: Sequence[int]) -> None:
        self.forgotten += message_ids
        for number in message_ids:
            self.due_at.pop(number, None)


class Reader:
    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}

    async def heads(self, ids: Sequence[int]) -> list[Head]:
        return [
            Head(m.id, m.tenant, m.message_class, m.valid_until, m.carrier, m.country, True)
            for number in sorted(ids)
            if (m := self.messages.get(number)) is not None
        ]


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def at_once(_: float) -> None:
            return None

        monkeypatch.setattr(asyncio, "sleep", at_once)
        monkeypatch.setattr(module, "PAGE", 10)
        self.kit = Kit()
        self.rows, self.reader = Rows(), Reader()
        self.backlog = Backlog(
            lanes=self.kit.lanes,
            ledger=self.kit.ledger,
            dispatcher=self.kit.dispatcher,
            reader=None,  # type: ignore[arg-type]  # nothing is read back here
            metrics=self.kit.metrics,
            policy=BacklogPolicy(max_ids=1000),
            unix=self.kit.clock.unix,
            monotonic=self.kit.clock.monotonic,
        )
        self.schedule = Schedule(
            ledger=self.kit.ledger,
            backlog=self.backlog,
            rows=self.rows,
            reader=self.reader,
            metrics=self.kit.metrics,
            unix=self.kit.clock.unix,
            monotonic=self.kit.clock.monotonic,
        )

    def message(self, cls: MessageClass = TRANSACTIONAL, in_s: float = 60.0) -> Message:
        message = self.kit.message(cls)
        message.send_at = message.created_at + in_s
        message.valid_until += in_s
        message.state, message.sequence = State.SCHEDULED, 2
        return message

    def wait(self, *messages: Message) -> None:
        """They stand in the store."""
        for message in messages:
            self.reader.messages[message.id] = message
            self.rows.due_at[message.id] = message.message_class, parked_until(message)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_nothing_is_taken_up_before_its_moment(world: World) -> None:
    world.wait(world.message(in_s=60))
    await world.schedule.round()
    assert world.rows.taken == []
    world.kit.clock.now += 61
    await world.schedule.round()
    assert len(world.rows.taken) == 1
    assert world.backlog.spill.total == 1
    assert world.backlog.spill.floor() is None  # its row in `parked` stands for it


async def test_otp_comes_first_also_in_the_middle_of_many(world: World) -> None:
    many = [world.message(MARKETING, in_s=1) for _ in range(35)]
    world.wait(*many)
    world.kit.clock.now += 2
    late = world.message(OTP, in_s=0)
    taken_before = []
    take = world.rows.take

    async def watched(due_again: Sequence[tuple[int, float]]) -> set[int]:
        if len(world.rows.taken) == 10:
            world.wait(late)
        taken_before.append(len(world.rows.taken))
        return await take(due_again)

    world.rows.take = watched  # type: ignore[method-assign]
    await world.schedule.round()
    assert len(world.rows.taken) == 36
    assert world.rows.taken.index(late.id) == 20  # after the page under way


async def test_a_page_whose_answer_was_lost_comes_first_next_time(world: World) -> None:
    messages = [world.message(in_s=1) for _ in range(5)]
    world.wait(*messages)
    world.kit.clock.now += 2
    world.rows.is_answer_lost = True
    with pytest.raises(StoreUnavailable):
        await world.schedule.round()
    assert world.backlog.spill.total == 0
    world.rows.is_answer_lost = False
    await world.schedule.round()
    assert world.backlog.spill.total == 5
    await world.schedule.round()
    assert world.backlog.spill.total == 5


async def test_what_was_canceled_meanwhile_stays_away(world: World) -> None:
    kept, canceled = world.message(in_s=1), world.message(in_s=1)
    world.wait(kept, canceled)
    world.kit.clock.now += 2
    take = world.rows.take

    async def canceled_first(due_again: Sequence[tuple[int, float]]) -> set[int]:
        del world.rows.due_at[canceled.id]
        return await take(due_again)

    world.rows.take = canceled_first  # type: ignore[method-assign]
    await world.schedule.round()
    assert world.backlog.spill.total == 1


async def test_rows_without_their_message_go(world: World) -> None:
    world.rows.due_at[4711] = TRANSACTIONAL, 0.0
    await world.schedule.round()
    assert world.rows.forgotten == [4711]


async def test_a_full_spill_leaves_them_where_they_are(world: World) -> None:
    world.wait(*[world.message(in_s=0) for _ in range(5)])
    world.backlog.has_room = lambda message_class, count: False  # type: ignore[method-assign]
    await world.schedule.round()
    assert world.rows.taken == []


def test_accepted_ones_are_let_go_of_and_told(world: World) -> None:
    message = world.message()
    told: list[EventRow] = []
    world.kit.ledger.told = type("Told", (), {"rows_committed": staticmethod(told.extend)})()
    world.kit.lanes.reserve(TRANSACTIONAL, 1)
    world.kit.ledger.live[message.id] = message
    world.schedule.accepted([message])
    assert world.kit.ledger.live == {}
    assert world.kit.lanes.queued() == 0
    [row] = told
    assert (row.sequence, row.path, row.status) == (2, Path.SCHEDULED, State.SCHEDULED)
    assert row.event_id == message.id


def test_what_waits_is_not_claimed_with_its_accept(world: World) -> None:
    plain, waits = world.kit.message(), world.message()
    assert world.kit.dispatcher.choose_claims([plain, waits]) == [plain]


def test_one_put_off_leaves_memory_with_its_commit(world: World) -> None:
    kit = world.kit
    fresh, tried = kit.message(MARKETING), kit.message(MARKETING)
    kit.lanes.reserve(MARKETING, 2)
    kit.ledger.took([fresh, tried])
    tried.state = State.QUEUED  # it was on its way once
    until = kit.clock.unix() + 100
    world.schedule.put_off([(fresh, until), (tried, until)])
    assert set(kit.ledger.live) == {fresh.id, tried.id}  # nothing is known to be durable yet
    kit.events.flush()
    assert kit.ledger.live == {}
    assert kit.lanes.used(MARKETING) == 0
    [row] = kit.events.rows
    assert (row.message_id, row.path, row.reason) == (
        fresh.id, Path.SCHEDULED, "policy.quiet_hours",
    )  # fmt: skip
    [sql] = kit.events.sql
    for message in (fresh, tried):
        assert (
            f"({message.id},1,to_timestamp({int(until * 1000)}/1000.0),{int(Why.SCHEDULED)}" in sql
        )


async def test_one_whose_parked_row_is_being_written_is_not_taken_up_yet(world: World) -> None:
    kit = world.kit
    late = kit.message(MARKETING)
    kit.lanes.reserve(MARKETING, 1)
    kit.ledger.took([late])
    world.schedule.put_off([(late, kit.clock.unix())])
    world.wait(late)  # the store has committed it, we have not heard of it
    world.rows.due_at[late.id] = MARKETING, kit.clock.unix()
    kit.clock.now += 1
    await world.schedule.round()
    assert world.rows.taken == []
    kit.dispatcher.put([late])
    assert kit.dispatcher.channels[1].adapter.free() == 16  # nobody sends it either
    kit.events.flush()
    await world.schedule.round()
    assert world.rows.taken == [late.id]
    assert world.backlog.spill.total == 1


def test_the_rows_that_ride_with_the_accept(world: World) -> None:
    plain, waits = world.kit.message(), replace(world.message(OTP), reason="policy.quiet_hours")
    short = replace(world.message(MARKETING, in_s=600), valid_until=world.kit.clock.unix() + 5)
    assert scheduled_sql(1, [plain]) == ""
    sql = scheduled_sql(1, [plain, waits, short])
    assert str(plain.id) not in sql
    assert f"({waits.id},2,{waits.id},1,{SCHEDULED_PATH},1,0,0," in sql
    assert parked_until(short) == short.valid_until
    assert f",{CLASS_CODES[OTP]},1)" in sql


@pytest.mark.parametrize(
    ("lane", "accepting", "floor"), [(None, None, None), (7, None, 7), (None, 5, 5), (7, 5, 5)]
)
def test_an_event_that_commits_with_its_accept_holds_the_cursor(
    lane: int | None, accepting: int | None, floor: int | None
) -> None:
    events = type("Lane", (), {"pending_floor": lambda self: lane})()
    store = LaneNoticeStore(events, None, 1, None, None, [lambda: accepting])  # type: ignore[arg-type]  # fakes
    assert store.pending_floor() == floor


def test_the_store_and_the_table_of_states_agree() -> None:
    assert SCHEDULED_PATH == Path.SCHEDULED
    assert STATES_OF_PATH[Path.SCHEDULED] == (State.SCHEDULED,)
