"""A receipt with an unknown id: the one lost answer that it can be about, or an orphan."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from gateway.orphans import Orphans, numbers_of
from gateway.parked import HASTEN_LATER_S, KEPT_S
from gateway.reports import PARKED_POLL_S
from receipts.state import Path
from sms.errors import StoreUnavailable
from sms.ids import unix_of
from sms.model import Message, MessageClass, Report, State
from sms.outcomes import Cause, Rejected, Submitted, Uncertain
from store.fragments import ParkedReport
from store.orphans import Candidate
from store.read import Stored
from tests.unit.gateway.test_reports import Desk

NUMBER = "8613800138000"


def state_of(message: Message) -> State:
    """Its state read anew: mypy holds that what an assert saw before still stands."""
    return message.state


class FakeStore:
    """The open messages to a number, by hand."""

    def __init__(self) -> None:
        self.open: list[Message] = []
        self.asked: list[list[str]] = []

    async def candidates(self, numbers: Any) -> list[Candidate]:
        self.asked.append(list(numbers))
        return [
            Candidate(one.id, one.number, one.state is State.UNCERTAIN)
            for one in self.open
            if one.number in numbers
        ]


class OrphanDesk(Desk):
    """Reports with a store of candidates; parked reports are due at once."""

    def __init__(self, *, sends_whole: bool = False) -> None:
        super().__init__()
        self.store = FakeStore()
        self.reports.parked.orphans = Orphans(self.store, lambda channel: sends_whole)
        self.kit.clock.now = 1000.0

    def lost(
        self, *, texts: tuple[str, ...] = ("hello",), after_s: float = 10.0, channel: int = 1
    ) -> Message:
        """A message whose answer is given up `after_s` after it left over the channel."""
        message = self.kit.message(texts=texts, valid_s=40_000.0)
        self.kit.accept(message)
        submits = list(self.kit.channels[channel].open)
        self.kit.clock.now += after_s
        for submit in submits:
            self.kit.answer(channel, Uncertain("submit.timeout"), submit)
        self.keep(message)
        return message

    def with_both_copies_lost(self, *, texts: tuple[str, ...] = ("hello",)) -> Message:
        """The same, and its second copy's over the other channel."""
        message = self.lost(texts=texts)
        self.kit.clock.now += 30.0
        self.kit.evidence.due(message)
        self.kit.events.flush()
        for submit in list(self.kit.channels[2].open):
            self.kit.answer(2, Uncertain("submit.timeout"), submit)
        self.keep(message)
        assert (message.copy, state_of(message)) == (1, State.UNCERTAIN)
        return message

    def keep(self, message: Message) -> None:
        """What the store knows of it: its rows."""
        rows = [row for row in self.kit.events.rows if row.message_id == message.id]
        self.reader.stored[message.id] = Stored(self.accepted(message), rows)
        if message not in self.store.open:
            self.store.open.append(message)

    def accepted(self, message: Message) -> Message:
        fresh = self.kit.message(texts=message.texts)
        fresh.id, fresh.valid_until = message.id, message.valid_until
        return fresh

    async def retry(
        self,
        *,
        number: str = NUMBER,
        state: str = "DELIVRD",
        ago_s: float = 0.0,
        channel: int = 1,
        carrier_id: str = "unknown",
    ) -> None:
        """A parked report, heard `ago_s` ago, is due."""
        report_id = self.kit.ids.next() - (int(ago_s * 1000) << 22)
        self.reader.due = [
            ParkedReport(report_id, channel, carrier_id, state, "000", number, 0, 0.0)
        ]
        await self.reports.parked.round()
        self.kit.events.flush()

    def ends(self, end: str) -> float:
        return self.kit.metrics.reports_total.values.get(("c1", end), 0)


@pytest.mark.parametrize("number", [NUMBER, "13800138000", "+8613800138000", "008613800138000"])
async def test_exactly_one_candidate_is_its_message(number: str) -> None:
    desk = OrphanDesk()
    message = desk.lost()
    await desk.retry(number=number)
    assert state_of(message) is State.DELIVERED
    assert not message.duplicate_risk
    [row] = desk.kit.events.rows[-1:]
    assert row.carrier_id == "unknown"  # a repeat finds it
    assert desk.ends("adopted") == 1
    assert message.id not in desk.kit.evidence.waiting
    assert any("DELETE FROM parked_reports" in sql for sql in desk.kit.events.sql)


async def test_in_another_process_the_store_says_enough() -> None:
    desk = OrphanDesk()
    message = desk.lost()
    del desk.kit.evidence.waiting[message.id]
    await desk.retry()
    assert desk.kit.events.rows[-1].status is State.DELIVERED
    assert any("DELETE FROM parked WHERE" in sql for sql in desk.kit.events.sql)


async def test_two_candidates_leave_it_an_orphan() -> None:
    desk = OrphanDesk()
    both = [desk.lost(), desk.lost()]
    await desk.retry()
    assert {message.state for message in both} == {State.UNCERTAIN}
    assert desk.ends("adopted") == 0


async def test_one_whose_answer_may_yet_come_leaves_a_doubt() -> None:
    desk = OrphanDesk()
    message, other = desk.lost(), desk.kit.message()
    desk.kit.accept(other)
    desk.keep(other)
    await desk.retry()
    assert state_of(message) is State.UNCERTAIN
    desk.kit.answer(1, Submitted("its-own"))
    desk.keep(other)
    await desk.retry()
    assert state_of(message) is State.DELIVERED


@pytest.mark.parametrize(("ago_s", "is_found"), [(0.0, False), (20.0, True), (139.0, True)])
async def test_only_within_two_minutes_of_the_attempt(ago_s: float, *, is_found: bool) -> None:
    """It left 140 s before now: a report heard now is 20 s too late, one heard earlier is not."""
    desk = OrphanDesk()
    message = desk.lost(after_s=10.0)
    desk.kit.clock.now += 130.0
    await desk.retry(ago_s=ago_s)
    assert (message.state is State.DELIVERED) is is_found


@pytest.mark.parametrize(("channel", "number"), [(2, NUMBER), (1, "8613900139000"), (1, "")])
async def test_another_channel_or_number_is_not_its(channel: int, number: str) -> None:
    desk = OrphanDesk()
    message = desk.lost()
    await desk.retry(channel=channel, number=number)
    assert state_of(message) is State.UNCERTAIN


async def test_a_report_heard_before_the_attempt_is_not_its() -> None:
    desk = OrphanDesk()
    message = desk.lost(after_s=10.0)
    await desk.retry(ago_s=15.0)
    assert state_of(message) is State.UNCERTAIN


async def test_over_a_backup_too_a_report_heard_before_the_attempt_is_not_its() -> None:
    desk = OrphanDesk()
    desk.kit.dispatcher.link_changed(1, is_up=False)
    message = desk.lost(after_s=10.0, channel=2)
    assert len(desk.kit.events.rows[-1].times) == 4  # it tells of its detour
    await desk.retry(ago_s=15.0, channel=2)
    assert state_of(message) is State.UNCERTAIN
    await desk.retry(ago_s=5.0, channel=2)
    assert state_of(message) is State.DELIVERED


async def test_a_row_of_an_earlier_version_has_no_detour() -> None:
    desk = OrphanDesk()
    desk.kit.dispatcher.link_changed(1, is_up=False)
    message = desk.lost(after_s=10.0, channel=2)
    rows = desk.reader.stored[message.id].rows
    rows[-1] = replace(rows[-1], times=rows[-1].times[:2])
    await desk.retry(ago_s=15.0, channel=2)
    assert state_of(message) is State.UNCERTAIN
    await desk.retry(ago_s=5.0, channel=2)
    assert state_of(message) is State.DELIVERED


async def test_after_a_kill_it_left_between_accept_and_recovery() -> None:
    desk = OrphanDesk()
    message = desk.lost(after_s=10.0)
    rows = desk.reader.stored[message.id].rows
    rows[-1] = replace(rows[-1], times=())
    await desk.retry(ago_s=15.0)  # heard before it was accepted
    assert state_of(message) is State.UNCERTAIN
    await desk.retry(ago_s=5.0)
    assert state_of(message) is State.DELIVERED


async def test_an_intermediate_report_says_that_the_carrier_has_it() -> None:
    desk = OrphanDesk()
    message = desk.lost()
    await desk.retry(state="ENROUTE")
    assert state_of(message) is State.SUBMITTED
    assert message.carrier_ids == ["unknown"]


async def test_each_receipt_settles_one_segment_or_all_where_texts_leave_whole() -> None:
    for sends_whole in (False, True):
        desk = OrphanDesk(sends_whole=sends_whole)
        message = desk.lost(texts=("a" * 153, "b"))
        await desk.retry(carrier_id="first")
        desk.keep(message)
        is_over = message.state is State.DELIVERED
        assert is_over is sends_whole
        await desk.retry(carrier_id="second")
        assert state_of(message) is State.DELIVERED


@pytest.mark.parametrize("is_flushed", [True, False])
async def test_a_receipt_kept_twice_settles_one_segment(*, is_flushed: bool) -> None:
    """Killed before it was answered, a parked report comes again; the last segment never left."""
    desk = OrphanDesk()
    message = desk.lost(texts=("one", "two", "three"))
    for page in ("aabab", "bab", "a"):
        desk.reader.due = [
            ParkedReport(desk.kit.ids.next(), 1, one, "DELIVRD", "000", NUMBER, 0, 0.0)
            for one in page
        ]
        await desk.reports.parked.round()
        if is_flushed:
            desk.kit.events.flush()
    desk.kit.events.flush()
    assert message.carrier_ids == ["a", "b", None]
    assert state_of(message) is State.UNCERTAIN
    assert desk.ends("adopted") == 2


async def test_a_receipt_of_the_first_copy_kept_twice_settles_one_segment_of_it() -> None:
    """The ids in memory are the second copy's, and the first one's rows are not stored yet."""
    desk = OrphanDesk()
    message = desk.with_both_copies_lost(texts=("one", "two", "three"))
    for _ in range(3):
        desk.reader.due = [
            ParkedReport(desk.kit.ids.next(), 1, "a", "DELIVRD", "000", NUMBER, 0, 0.0)
        ]
        await desk.reports.parked.round()
    desk.kit.events.flush()
    assert message.first_states == [State.DELIVERED, State.UNCERTAIN, State.UNCERTAIN]
    assert desk.ends("adopted") == 1
    assert desk.reports.parked._adopted == set()


async def test_an_intermediate_report_of_one_segment_leaves_the_others_to_theirs() -> None:
    desk = OrphanDesk()
    message = desk.lost(texts=("one", "two"))
    await desk.retry(state="ENROUTE", carrier_id="a")
    assert state_of(message) is State.UNCERTAIN
    assert message.id in desk.kit.evidence.waiting
    desk.keep(message)
    desk.reader.owners[1, "a"] = message.id, (0,), 0
    await desk.retry(carrier_id="a")
    desk.keep(message)
    await desk.retry(state="ENROUTE", carrier_id="b")
    assert state_of(message) is State.SUBMITTED
    assert message.id not in desk.kit.evidence.waiting
    desk.keep(message)
    desk.reader.owners[1, "b"] = message.id, (1,), 0
    await desk.retry(carrier_id="b")
    assert desk.kit.events.rows[-1].path == Path.DELIVERED


async def test_what_adopts_nothing_is_not_counted_as_adopted() -> None:
    """The first copy is under way somewhere: that says nothing of the second one's lost answer."""
    desk = OrphanDesk()
    message = desk.with_both_copies_lost()
    rows = len(desk.kit.events.rows)
    await desk.retry(state="ENROUTE")
    assert state_of(message) is State.UNCERTAIN
    assert len(desk.kit.events.rows) == rows
    assert (desk.ends("adopted"), desk.ends("intermediate")) == (0, 1)
    await desk.retry()
    assert state_of(message) is State.DELIVERED
    assert desk.ends("adopted") == 1


async def test_a_segment_whose_id_is_known_is_no_candidate() -> None:
    desk = OrphanDesk()
    message = desk.kit.message(texts=("a" * 153, "b"), valid_s=40_000.0)
    desk.kit.accept(message)
    first, second = list(desk.kit.channels[1].open)
    desk.kit.answer(1, Submitted("known"), first)
    desk.kit.answer(1, Uncertain("submit.timeout"), second)
    desk.keep(message)
    await desk.retry()
    assert state_of(message) is not State.DELIVERED
    assert desk.kit.events.rows[-1].segment == 1


async def test_of_two_copies_the_channel_says_which() -> None:
    desk = OrphanDesk()
    message = desk.lost()
    desk.kit.clock.now += 60.0
    assert not isinstance(desk.kit.evidence._resend(message, 0.0, "uncertain.resend"), type(None))
    desk.kit.events.flush()
    desk.kit.answer(2, Uncertain("submit.timeout"))
    desk.keep(message)
    await desk.retry(channel=2, state="UNDELIV")
    assert state_of(message) is State.UNCERTAIN
    await desk.retry(channel=1)
    assert state_of(message) is State.DELIVERED


@pytest.mark.parametrize(("candidates", "end"), [(2, "orphan"), (0, "foreign")])
async def test_what_is_nobodys_for_72_hours_is_counted_by_whether_it_might_have_been_ours(
    candidates: int, end: str
) -> None:
    desk = OrphanDesk()
    for _ in range(candidates):
        desk.lost()
    await desk.retry()
    [report] = desk.reader.due
    assert (report.tries, report.is_orphan) == (1, candidates > 0)
    desk.store.open.clear()  # by then they ended otherwise
    desk.kit.clock.now += KEPT_S - 1.0
    await desk.reports.parked.round()
    desk.kit.events.flush()
    assert (report.tries, desk.ends(end)) == (2, 0)
    assert report.due == pytest.approx(unix_of(report.id) + KEPT_S)
    desk.kit.clock.now += 1.0
    await desk.reports.parked.round()
    assert desk.ends(end) == 0  # not before its commit
    desk.kit.events.flush()
    assert desk.ends(end) == 1
    assert f"DELETE FROM parked_reports WHERE id IN ({report.id})" in desk.kit.events.sql[-1]


async def test_a_lost_answer_hastens_what_waits_on_its_channel() -> None:
    """Not before it is durable that the answer is lost, and outside of the commits of messages."""
    desk = OrphanDesk()
    desk.reader.due = []
    await desk.reports.parked.round()
    desk.kit.events.flush()
    desk.lost()
    await desk.reports.parked.round()
    await desk.reports.parked.round()
    assert desk.reader.hastened == []
    desk.kit.events.flush()
    await desk.reports.parked.round()
    assert desk.reader.hastened == [{1}]
    assert not any("UPDATE parked_reports" in sql for sql in desk.kit.events.sql)


async def test_so_do_ids_that_are_stored_long_after_their_text_left() -> None:
    """After a repair, and with a late answer: another process may keep receipts of them."""
    for is_late in (False, True):
        desk = OrphanDesk()
        desk.reader.due = []
        desk.kit.accept(desk.kit.message(texts=("one", "two")))
        first, second = list(desk.kit.channels[1].open)
        desk.kit.answer(1, Submitted("a"), first)
        if is_late:
            desk.kit.answer(1, Uncertain("submit.timeout"), second)
            assert desk.reports.parked._lately_lost() == {1}
        desk.kit.clock.now += 20.0
        desk.kit.answer(1, Submitted("b"), second)
        await desk.reports.parked.round()
        desk.kit.events.flush()
        await desk.reports.parked.round()
        assert desk.reader.hastened == [{1}]


async def test_while_answers_are_lost_the_others_are_hastened_now_and_then() -> None:
    """Each hurry is a look at all that wait on the channel."""
    desk = OrphanDesk()
    desk.reader.due = []
    for _ in range(24):
        desk.lost(after_s=PARKED_POLL_S)
        await desk.reports.parked.round()
        desk.kit.events.flush()
    assert 3 <= len(desk.reader.hastened) <= 4


async def test_a_hurry_that_fails_comes_later_and_looks_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = OrphanDesk()
    desk.reader.due = []
    desk.lost()
    await desk.reports.parked.round()
    desk.kit.events.flush()
    hasten, tried = desk.reader.hasten, []

    async def cut_off(channels: Collection[int], since: int) -> None:
        tried.append(desk.kit.clock.now)
        raise StoreUnavailable("statement timeout")

    monkeypatch.setattr(desk.reader, "hasten", cut_off)
    for _ in range(9):
        await desk.reports.parked.round()
        desk.kit.clock.now += PARKED_POLL_S
    assert len(tried) == 1
    monkeypatch.setattr(desk.reader, "hasten", hasten)
    desk.kit.clock.now += HASTEN_LATER_S
    await desk.reports.parked.round()
    assert desk.reader.hastened == [{1}]


async def test_whose_row_came_between_the_looks_is_its_own() -> None:
    """Its id was not there yet, and by the second look it is no candidate any more."""
    desk = OrphanDesk()
    message, other = desk.lost(), desk.kit.message()
    desk.kit.accept(other)
    asked = desk.store.candidates

    async def candidates(numbers: Any) -> list[Candidate]:
        if other.state is State.SUBMITTING:
            desk.kit.answer(1, Submitted("late"))
            desk.keep(other)
            desk.reader.owners[1, "late"] = other.id, (0,), 0
        return await asked(numbers)

    desk.store.candidates = candidates  # type: ignore[method-assign]  # to be in between
    desk.kit.matches.get = lambda channel, carrier_id: None  # type: ignore[method-assign]  # far
    await desk.retry(carrier_id="late")
    assert state_of(message) is State.UNCERTAIN
    row = desk.kit.events.rows[-1]
    assert (row.message_id, row.status) == (other.id, State.DELIVERED)
    assert desk.ends("adopted") == 0


def test_words_are_no_numbers() -> None:
    assert numbers_of(Report(1, "x", "DELIVRD", "", "Brand")) == ()
    assert numbers_of(Report(1, "x", "DELIVRD", "", "")) == ()


async def test_a_refused_one_is_no_candidate() -> None:
    desk = OrphanDesk()
    message = desk.kit.message(MessageClass.MARKETING)
    desk.kit.accept(message)
    desk.kit.answer(1, Rejected("11", Cause.NUMBER, "recipient.invalid"))
    desk.keep(message)
    await desk.retry()
    assert state_of(message) is State.FAILED
