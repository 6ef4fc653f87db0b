"""Receipts that carry our own word for an attempt, and receipts about one segment of a text."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.reports import SECOND_LOOK_S, fold_stored
from receipts.state import Path
from sms.attempts import reference
from sms.model import Message, MessageClass, Report, State
from sms.outcomes import Cause, Rejected, Submitted, Uncertain
from store.fragments import hasten_reports_sql
from store.read import Stored
from tests.unit.gateway.test_reports import Desk


def push(desk: Desk, word: str, state: str = "DELIVRD", carrier_id: str = "", **more: Any) -> None:
    report = Report(more.pop("channel", 1), carrier_id, state, "", "", "token", word, **more)
    desk.reports.receive(report.channel, [report])


def lost(desk: Desk, **made: Any) -> Message:
    """A message whose answer was lost over channel 1."""
    message = desk.kit.message(**made)
    desk.kit.accept(message)
    for submit in list(desk.kit.channels[1].open):
        desk.kit.answer(1, Uncertain("http.timeout"), submit)
    assert message.state is State.UNCERTAIN
    return message


async def looked_up(desk: Desk) -> None:
    """Both looks at what is pending, and their commits."""
    await desk.reports._round()
    desk.kit.clock.now += SECOND_LOOK_S
    await desk.reports._round()
    desk.kit.events.flush()


def stored(desk: Desk, message: Message, texts: tuple[str, ...] = ("hello",)) -> Message:
    """The message as a process finds it that does not have it in memory."""
    again = desk.kit.message(texts=texts)
    again.id = message.id
    rows = [row for row in desk.kit.events.rows if row.message_id == message.id]
    desk.reader.stored[message.id] = Stored(again, rows)
    desk.kit.evidence.waiting.pop(message.id, None)
    return again


def test_our_word_ends_a_message_whose_answer_was_lost() -> None:
    desk = Desk()
    message = lost(desk)
    push(desk, reference(message.id, 1))
    assert desk.answers == []
    desk.kit.events.flush()
    assert message.state is State.DELIVERED
    assert desk.answers == [("token", True)]
    assert message.id not in desk.kit.evidence.waiting


@pytest.mark.parametrize("carrier_id", ["", "another-id"])
async def test_our_word_finds_a_message_of_another_life(carrier_id: str) -> None:
    desk = Desk()
    message = lost(desk)
    fresh = stored(desk, message)
    push(desk, reference(message.id, 1), carrier_id=carrier_id)
    await looked_up(desk)
    assert fresh.state is State.DELIVERED
    assert desk.answers == [("token", True)]


async def test_an_undelivered_receipt_by_our_word_under_another_id_counts() -> None:
    desk = Desk()
    message = desk.kit.message()
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("request-7"))
    fresh = stored(desk, message)
    push(desk, reference(message.id, 1), "UNDELIV", carrier_id="receipt-9")
    await looked_up(desk)
    assert fresh.state is State.UNDELIVERED


def test_the_carriers_id_wins_over_our_word() -> None:
    desk = Desk()
    one, other = desk.kit.message(), desk.kit.message()
    desk.kit.accept(one, other)
    desk.kit.answer(1, Submitted("abc"))
    desk.kit.answer(1, Uncertain("http.timeout"))
    push(desk, reference(other.id, 1), carrier_id="abc")
    desk.kit.events.flush()
    assert (one.state, other.state) == (State.DELIVERED, State.UNCERTAIN)


@pytest.mark.parametrize(
    "case", ["attempt never made", "attempt still open", "refused", "channel", "unknown"]
)
async def test_a_word_that_the_rows_do_not_bear_out_is_an_orphan(case: str) -> None:
    desk = Desk()
    message = desk.kit.message()
    desk.kit.accept(message)
    word, channel = reference(message.id, 1), 1
    if case == "refused":
        desk.kit.answer(1, Rejected("x", Cause.CHANNEL, "channel.fault"))
    elif case != "attempt still open":
        desk.kit.answer(1, Submitted(""))
    if case == "attempt never made":
        word = reference(message.id, 2)
    elif case == "channel":
        channel = 2
    elif case == "unknown":
        word = reference(message.id + 1, 1)
    stored(desk, message)
    before = len(desk.kit.events.rows)
    push(desk, word, channel=channel)
    await looked_up(desk)
    assert len(desk.kit.events.rows) == before
    assert any("parked_reports" in sql for sql in desk.kit.events.sql)
    assert desk.answers == [("token", True)]  # kept, for it may yet prove right


async def test_a_receipt_before_the_end_of_its_answer_waits_and_is_hastened_by_it() -> None:
    desk = Desk()
    message = desk.kit.message(MessageClass.OTP)
    desk.kit.accept(message)
    push(desk, reference(message.id, 1))
    await looked_up(desk)
    assert message.state is State.SUBMITTING
    desk.kit.evidence.is_vendor = lambda channel: channel == 1
    desk.kit.answer(1, Uncertain("http.timeout"))
    [sql] = [sql for sql in desk.kit.events.sql if "UPDATE parked_reports" in sql]
    assert hasten_reports_sql(message.id, 1) in sql


async def test_an_unfinished_word_of_ours_says_that_the_vendor_has_it() -> None:
    desk = Desk()
    message = lost(desk)
    push(desk, reference(message.id, 1), "ENROUTE", carrier_id="v-1")
    desk.kit.events.flush()
    assert message.state is State.SUBMITTED
    assert message.carrier_ids == ["v-1"]
    assert message.id not in desk.kit.evidence.waiting
    push(desk, reference(message.id, 1), "ENROUTE", carrier_id="v-1")
    await looked_up(desk)
    assert desk.kit.paths(message) == [Path.UNCERTAIN, Path.SUBMITTED_LATE]


async def test_of_an_attempt_that_a_newer_one_replaced_only_delivered_counts() -> None:
    desk = Desk()
    message = lost(desk)
    desk.kit.evidence.due(message)  # too early for the deadline: the marked copy leaves
    desk.kit.events.flush()
    desk.kit.answer(2, Submitted("copy"))
    assert (message.copy, message.attempt) == (1, 2)
    fresh = stored(desk, message)
    push(desk, reference(message.id, 1), "UNDELIV")
    await looked_up(desk)
    assert fresh.first_states == [State.UNDELIVERED]  # noted; the other decides
    push(desk, reference(message.id, 2), channel=2)
    await looked_up(desk)
    assert fresh.state is State.DELIVERED


def long(desk: Desk, segments: int) -> Message:
    """A text of several segments that the carrier gave one id."""
    message = desk.kit.message(texts=tuple("x" * 67 for _ in range(segments)))
    desk.kit.accept(message)
    for submit in list(desk.kit.channels[1].open):
        desk.kit.answer(1, Submitted("one"), submit)
    return message


def test_a_word_about_all_segments_ends_them_all() -> None:
    desk = Desk()
    message = long(desk, 3)
    push(desk, "", carrier_id="one")
    assert message.state is State.DELIVERED


def test_a_carrier_that_reports_each_segment_ends_each_by_its_own_word() -> None:
    desk = Desk()
    message = long(desk, 3)
    push(desk, "", carrier_id="one", part=(3, 3))
    push(desk, "", "UNDELIV", carrier_id="one", part=(1, 3))
    push(desk, "", carrier_id="one", part=(3, 3))
    assert message.final_at is None
    push(desk, "", carrier_id="one", part=(2, 3))
    assert message.state is State.PARTIALLY_DELIVERED
    states = [State.UNDELIVERED, State.DELIVERED, State.DELIVERED]
    assert message.segment_states == states


@pytest.mark.parametrize("part", [(0, 2), (-1, 2), (3, 2), (9, 2)])
def test_a_segment_that_cannot_be_changes_nothing(part: tuple[int, int]) -> None:
    desk = Desk()
    message = long(desk, 2)
    push(desk, "", carrier_id="one", part=part)
    desk.kit.events.flush()
    assert message.state is State.SUBMITTED
    assert desk.answers == [("token", True)]


def test_where_the_carrier_cut_otherwise_its_last_word_counts_or_the_first_bad_one() -> None:
    good, bad = Desk(), Desk()
    message = long(good, 2)
    push(good, "", carrier_id="one", part=(1, 3))
    push(good, "", carrier_id="one", part=(2, 3))
    assert message.final_at is None
    push(good, "", carrier_id="one", part=(3, 3))
    assert message.state is State.DELIVERED
    message = long(bad, 2)
    push(bad, "", carrier_id="one", part=(1, 3))
    push(bad, "", "UNDELIV", carrier_id="one", part=(2, 3))
    assert message.state is State.UNDELIVERED


def test_a_read_back_message_knows_when_its_attempt_left() -> None:
    desk = Desk()
    message = desk.kit.message()
    desk.kit.accept(message)
    desk.kit.clock.now += 60.0
    desk.kit.answer(1, Uncertain("http.timeout"))
    again = stored(desk, message)
    fold_stored(desk.reader.stored[message.id])
    assert again.left_at == pytest.approx(desk.kit.clock.unix() - 60.0, abs=0.01)
