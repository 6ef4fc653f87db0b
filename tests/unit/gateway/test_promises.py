"""Sequences of events that once broke a promise: flaps, second copies, changed channels, races."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.channel import ChannelRuntime
from gateway.conflicts import Conflicts
from gateway.reports import Reports
from ratelimit.bucket import Bucket
from receipts.state import Path
from sms import config
from sms.model import EventRow, Message, MessageClass, Report, State, Submit
from sms.outcomes import Cause, NotSent, Outcome, Rejected, Submitted, Throttled, Uncertain
from store.read import Stored
from tests.support.flow_kit import FakeChannel, Kit

NUMBER = Rejected("0x0000000B", Cause.NUMBER, "recipient.invalid")


def state_of(message: Message) -> State:
    return message.state


def desk(kit: Kit) -> Reports:
    nobody: Any = None
    return Reports(
        ledger=kit.ledger,
        dispatcher=kit.dispatcher,
        evidence=kit.evidence,
        matches=kit.matches,
        reader=nobody,
        keyring=nobody,
        ids=kit.ids,
        words=kit.words,
        metrics=kit.metrics,
        parked=nobody,
        answer=lambda channel, tokens, *, accepted: None,
        unix=kit.clock.unix,
    )


def illegal(kit: Kit) -> float:
    return kit.metrics.illegal_transition_total.samples()[0][1][0]


def with_copy(kit: Kit, valid_s: float = 3000.0) -> tuple[Message, Submit]:
    """A transactional message whose answer was lost and whose second copy was decided."""
    message = kit.message(valid_s=valid_s)
    kit.accept(message)
    first = kit.answer(1, Uncertain("channel.timeout"))
    kit.clock.now += 130.0
    kit.evidence.due(message)
    return message, first


def late_receipt(kit: Kit, first: Submit) -> None:
    """The first copy's answer and its receipt come after all."""
    kit.settler.outcomes(1, [(first, Submitted("A1"))])
    desk(kit).receive(1, [Report(1, "A1", "DELIVRD", "000", "")])
    kit.events.flush()


def test_what_never_left_gets_no_answer_line() -> None:
    """Lines are counted in pairs after a crash: a lone answer line would hide a lost answer."""
    kit = Kit(window=1)
    kit.lanes.reserve(MessageClass.TRANSACTIONAL, 2)
    messages = [kit.message(), kit.message()]
    for message in messages:
        message.claim = kit.claims.block([message.id], None)
    kit.ledger.took(messages)
    kit.dispatcher._send_claimed(1, messages)
    assert len(kit.channels[1].open) == 1
    kit.dispatcher.link_changed(1, is_up=False)
    assert kit.journal.lines == []
    assert [s.message for s in kit.channels[2].seen] == [messages[1]]


def test_a_recovered_message_has_no_times_rather_than_the_uptime() -> None:
    kit = Kit()
    kit.clock.now = 3e6  # 35 days: in milliseconds beyond 32 bits
    message = kit.message()
    kit.accept(message)
    message.sent_at = 0.0
    kit.answer(1, Submitted("a"))
    assert kit.events.rows[-1].times == ()


def test_a_copy_is_not_sent_once_the_first_is_delivered() -> None:
    kit = Kit(channels=1, window=1)
    message, first = with_copy(kit)
    other = kit.message()
    kit.accept(other)
    kit.events.flush()
    late_receipt(kit, first)
    assert state_of(message) is State.DELIVERED
    sent = len(kit.channels[1].seen)
    while kit.channels[1].open:
        kit.answer(1, Submitted("B"))
    assert all(submit.message is not message for submit in kit.channels[1].seen[sent:])
    assert not any(kit.claims.blocks.values())
    kit.clock.now += 4000.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert illegal(kit) == 0


@pytest.mark.parametrize(
    "outcome", [Uncertain("t"), NUMBER, Throttled(1.0, "0x58"), NotSent("channel.link_lost")]
)
def test_a_delivered_first_copy_decides_whatever_becomes_of_the_second(outcome: Outcome) -> None:
    kit = Kit(channels=1, window=4)
    message, first = with_copy(kit)
    kit.events.flush()
    copy = kit.channels[1].open[-1]
    assert copy.copy == 1
    late_receipt(kit, first)
    kit.answer(1, outcome, copy)
    kit.clock.now += 10.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert state_of(message) is State.DELIVERED
    assert kit.channels[1].open == []
    assert illegal(kit) == 0


def test_a_copy_refused_for_good_leaves_the_message_unknown_not_failed() -> None:
    kit = Kit(channels=1, window=4)
    message, _ = with_copy(kit)
    kit.events.flush()
    kit.answer(1, NUMBER)
    assert state_of(message) is State.UNKNOWN


def test_a_copy_is_not_sent_when_its_row_lost() -> None:
    kit = Kit(channels=1, window=4)
    message, _ = with_copy(kit)
    sent = len(kit.channels[1].seen)
    kit.events.committed = None  # the rows of this flush are another writer's
    kit.events.flush()
    assert len(kit.channels[1].seen) == sent
    assert not kit.events.rows[-1].is_stored
    assert message.copy == 1


def test_a_repair_ends_after_its_minute() -> None:
    kit = Kit(channels=1, window=8)
    message = kit.message(texts=("a", "b"), valid_s=100.0)
    kit.accept(message)
    kit.answer(1, Submitted("S0"))
    kit.answer(1, Throttled(1.0, "x"))
    for _ in range(90):
        kit.clock.now += 1.0
        kit.dispatcher.tick()
        if kit.channels[1].open:
            kit.answer(1, Throttled(1.0, "x"))
    assert state_of(message) is State.UNCERTAIN
    assert len(kit.channels[1].seen) < 70


def test_a_drain_lets_a_long_message_leave_whole_and_nothing_else() -> None:
    """Seen in a rolling restart: its missing segment waited, and it came back as a second copy."""
    kit = Kit(channels=1, window=8)
    half = kit.message(texts=("a", "b"), valid_s=100.0)
    kit.accept(half)
    kit.answer(1, Submitted("S0"))
    kit.answer(1, Throttled(1.0, "x"))
    kit.dispatcher.stop()
    kit.accept(kit.message())  # accepted while we drain: another process sends it
    assert kit.dispatcher.is_mending()
    for _ in range(20):
        kit.clock.now += 0.5
        kit.dispatcher.tick()
    [_, _, again] = kit.channels[1].seen
    assert (again.message, again.segment) == (half, 1)
    kit.answer(1, Submitted("S1"))
    assert state_of(half) is State.SUBMITTED
    assert not kit.dispatcher.is_mending()


def test_a_drain_lets_segments_follow_that_found_no_slot() -> None:
    kit = Kit(channels=1, window=2)
    long = kit.message(texts=("a", "b", "c"), valid_s=100.0)
    kit.accept(long)
    assert len(kit.channels[1].seen) == 2
    kit.dispatcher.stop()
    for _ in range(2):
        kit.answer(1, Submitted("S"))
    kit.dispatcher.tick()
    assert [submit.segment for submit in kit.channels[1].seen] == [0, 1, 2]
    kit.answer(1, Submitted("S2"))
    assert state_of(long) is State.SUBMITTED


def test_a_drain_does_not_wait_for_what_never_left_or_for_a_link_that_is_down() -> None:
    kit = Kit(channels=1, window=8)
    kit.channels[1].size = 0
    kit.accept(kit.message(texts=("a", "b")))
    kit.dispatcher.stop()
    assert not kit.dispatcher.is_mending()
    kit.channels[1].size = 8
    kit.dispatcher.is_stopped = False
    kit.dispatcher.tick()
    kit.events.flush()
    kit.dispatcher.stop()
    assert kit.dispatcher.is_mending()
    kit.dispatcher.link_changed(1, is_up=False)
    assert not kit.dispatcher.is_mending()


def test_a_removed_channel_leaves_no_message_behind() -> None:
    kit = Kit(window=8)
    half = kit.message(texts=("a", "b"))
    kit.accept(half)
    kit.answer(1, Submitted("S0"))
    kit.answer(1, Throttled(1.0, "x"))
    kit.dispatcher.remove_channel(1)
    kit.events.flush()
    assert state_of(half) is State.UNCERTAIN


def test_a_changed_channel_that_does_not_come_up_gives_its_lane_to_the_backup() -> None:
    kit = Kit(window=4)
    kit.accept(*[kit.message() for _ in range(12)])
    waiting = kit.lanes.lane(1).size()
    assert waiting > 0
    old = kit.dispatcher.remove_channel(1)
    assert old is not None
    again = ChannelRuntime(
        config.Channel(1, "c1", "smpp", {}, segments_per_second=7.0),
        FakeChannel(1, kit.clock, 4),
        Bucket(1e6, 1e6, kit.clock.now),
    )
    kit.dispatcher.add_channel(again)
    kit.dispatcher.reconfigure(kit.dispatcher.snapshot)
    kit.events.flush()
    assert kit.lanes.lane(1).size() == 0
    assert len(kit.channels[2].seen) > 0


def test_what_waits_for_a_slot_past_its_validity_expires() -> None:
    kit = Kit(channels=1, window=1)
    kit.lanes.reserve(MessageClass.TRANSACTIONAL, 2)
    messages = [kit.message(valid_s=500.0), kit.message(valid_s=5.0)]
    for message in messages:
        message.claim = kit.claims.block([message.id], None)
    kit.ledger.took(messages)
    kit.dispatcher._send_claimed(1, messages)
    kit.clock.now += 6.0
    kit.answer(1, Submitted("a"))
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert state_of(messages[1]) is State.EXPIRED
    assert len(kit.channels[1].seen) == 1


class Store:
    """What conflicts read back."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    async def messages(self, ids: Sequence[int]) -> dict[int, Stored]:
        return {self.stored.message.id: self.stored}


async def test_a_report_that_lost_its_key_is_judged_again_and_ends_the_message() -> None:
    """Two look-ups fold the same message: each thinks the other segment is still open."""
    kit = Kit(channels=1)
    message = kit.message(texts=("a", "b"))
    kit.accept(message)
    kit.answer(1, Submitted("S0"))
    kit.answer(1, Submitted("S1"))
    rows = list(kit.events.rows)
    written = kit.ledger.row(
        message, Path.NOTE, State.DELIVERED, kit.clock.unix(), segment=0, channel=1
    )
    assert written is not None
    stale = kit.message(texts=("a", "b"))
    stale.id = message.id
    lost = type(written)(
        *(message.id, written.sequence, kit.ids.next(), 1, Path.NOTE, State.DELIVERED),
        kit.clock.unix(),
        segment=1,
        channel=1,
    )
    reader: Any = Store(Stored(stale, [*rows, written]))
    resent: list[Message] = []
    conflicts = Conflicts(
        ledger=kit.ledger,
        reader=reader,
        ids=kit.ids,
        metrics=kit.metrics,
        resend=resent.append,
    )
    await conflicts.settle([lost])
    kit.events.flush()
    last = kit.events.rows[-1]
    assert (last.sequence, last.path) == (written.sequence + 1, Path.DELIVERED)
    assert resent == []


def lose(kit: Kit, submit: Submit, outcome: Outcome) -> EventRow:
    """An answer whose row finds its key taken; the row."""
    kit.settler.outcomes(submit.message.channel, [(submit, outcome)])
    [row] = [row for entry in kit.events.waiting for row in entry[0]]
    kit.events.waiting.clear()
    return row


def elsewhere(
    kit: Kit, row: EventRow, path: Path, status: State
) -> tuple[Conflicts, list[Message]]:
    """Another process wrote about the first copy with the key of `row`."""
    fresh = kit.message()
    fresh.id = row.message_id
    theirs = replace(
        row,
        event_id=kit.ids.next(),
        path=path,
        status=status,
        segment=0,
        copy=0,
        carrier_id=None,
        times=(),
        message=None,
    )
    reader: Any = Store(Stored(fresh, [*kit.events.rows, theirs]))
    resent: list[Message] = []
    conflicts = Conflicts(
        ledger=kit.ledger, reader=reader, ids=kit.ids, metrics=kit.metrics, resend=resent.append
    )
    return conflicts, resent


async def test_a_copy_whose_first_one_another_process_saw_delivered_is_let_go() -> None:
    """Its owner would hold its room, its claim and the low-water mark for ever."""
    kit = Kit()
    message, _ = with_copy(kit)
    kit.events.flush()
    row = lose(kit, kit.channels[2].open.pop(), Submitted("B1"))
    conflicts, resent = elsewhere(kit, row, Path.FIRST_COPY_DELIVERED, State.DELIVERED)
    await conflicts.settle([row])
    kit.events.flush()
    assert message.id not in kit.ledger.live
    assert kit.lanes.used(message.message_class) == 0
    assert set(kit.claims.blocks.values()) == {0}
    assert resent == []
    assert state_of(message) is State.DELIVERED
    # the copy's own report will name this id
    assert (kit.events.rows[-1].path, kit.events.rows[-1].carrier_id) == (Path.NOTE, "B1")


async def test_a_refused_copy_that_lost_its_row_to_a_note_returns_to_its_lane() -> None:
    kit = Kit(channels=3)
    message, _ = with_copy(kit)
    kit.events.flush()
    row = lose(kit, kit.channels[2].open.pop(), Rejected("8", Cause.CHANNEL, "channel.rejected"))
    assert row.path == Path.REQUEUED
    conflicts, resent = elsewhere(kit, row, Path.NOTE, State.UNDELIVERED)
    await conflicts.settle([row])
    assert resent == []  # not before its row is committed
    kit.events.flush()
    assert resent == [message]


def test_one_report_that_crashes_its_handler_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit(channels=1)
    messages = [kit.message(), kit.message()]
    kit.accept(*messages)
    kit.answer(1, Submitted("bad"))
    kit.answer(1, Submitted("good"))
    told: list[tuple[object, bool]] = []
    reports = desk(kit)

    def answer(channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        told.extend((token, accepted) for token in tokens)

    reports._answer = answer
    judge = Reports._judge

    def crash(self: Reports, batch: Any, report: Report, match: Any, new_id: str | None) -> str:
        if report.carrier_id == "bad":
            raise ZeroDivisionError
        return judge(self, batch, report, match, new_id)

    monkeypatch.setattr(Reports, "_judge", crash)
    for _ in range(5):
        reports.receive(1, [Report(1, name, "DELIVRD", "", "", name) for name in ("bad", "good")])
        kit.events.flush()
    assert [accepted for token, accepted in told if token == "bad"] == [False] * 4 + [True]
    assert all(accepted for token, accepted in told if token == "good")
    assert state_of(messages[1]) is State.DELIVERED
