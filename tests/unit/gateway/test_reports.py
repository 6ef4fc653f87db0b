"""Reports: whose they are, what they change, and that they are answered only when durable."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.evidence import LOOK_MIN_S
from gateway.parked import retry_after_s
from gateway.reports import SECOND_LOOK_S, Reports
from gateway.slices import SLICE
from gateway.unknown import Unknown
from receipts.state import Path
from sms.model import EventRow, Message, MessageClass, Report, State
from sms.outcomes import Submitted, Uncertain
from store.fragments import ParkedReport
from store.parked_reports import Stock
from store.read import Owner, Stored
from store.seal import Keyring
from tests.support.flow_kit import Kit


class FakeReader:
    """What the store knows, by hand."""

    def __init__(self) -> None:
        self.owners: dict[tuple[int, str], Owner] = {}
        self.stored: dict[int, Stored] = {}
        self.due: list[ParkedReport] = []
        self.stocks: dict[int, Stock] = {}
        self.hastened: list[set[int]] = []

    async def by_carrier_ids(
        self, pairs: Sequence[tuple[int, str]], *, now: float
    ) -> dict[tuple[int, str], Owner]:
        return {pair: self.owners[pair] for pair in pairs if pair in self.owners}

    async def messages(self, ids: Sequence[int]) -> dict[int, Stored]:
        return {key: self.stored[key] for key in ids if key in self.stored}

    readable = messages

    async def take(self, now: float, limit: int) -> list[ParkedReport]:
        return self.due[:limit]

    async def hasten(self, channels: Collection[int], since: int) -> None:
        self.hastened.append(set(channels))

    async def stock(self, old_before: int) -> dict[int, Stock]:
        return self.stocks


class Desk:
    """Reports over the kit."""

    def __init__(self, kit: Kit | None = None) -> None:
        self.kit = kit or Kit()
        self.reader = FakeReader()
        self.answers: list[tuple[object, bool]] = []
        reader: Any = self.reader
        self.reports = Reports(
            ledger=self.kit.ledger,
            dispatcher=self.kit.dispatcher,
            evidence=self.kit.evidence,
            matches=self.kit.matches,
            reader=reader,
            keyring=Keyring(b"k" * 32),
            ids=self.kit.ids,
            words=self.kit.words,
            metrics=self.kit.metrics,
            answer=self._answer,
            parked=reader,
            unix=self.kit.clock.unix,
        )

    def _answer(self, channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        self.answers += [(token, accepted) for token in tokens]

    def report(self, carrier_id: str, state: str = "DELIVRD", error: str = "000") -> None:
        self.reports.receive(1, [Report(1, carrier_id, state, error, "", f"token {carrier_id}")])


def test_a_report_is_answered_only_after_its_row_is_committed() -> None:
    desk = Desk()
    message = desk.kit.message()
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("abc"))
    desk.report("abc")
    assert desk.answers == []
    desk.kit.events.flush()
    assert desk.answers == [("token abc", True)]
    assert message.state is State.DELIVERED
    assert desk.kit.paths(message) == [Path.SUBMITTED, Path.DELIVERED]


def test_a_second_report_is_answered_and_changes_nothing() -> None:
    desk = Desk()
    message = desk.kit.message(texts=("a" * 153, "b"))
    desk.kit.accept(message)
    for number in range(2):
        desk.kit.answer(1, Submitted(f"id{number}"))
    for _ in range(2):
        desk.report("id0")
        desk.kit.events.flush()
    assert desk.answers == [("token id0", True)] * 2
    assert desk.kit.paths(message) == [Path.NOTE, Path.SUBMITTED, Path.NOTE]
    desk.report("id1")
    desk.kit.events.flush()
    assert message.state is State.DELIVERED


def test_a_long_message_is_forgotten_with_its_last_receipt() -> None:
    """Its texts would stay in memory until the cache is full."""
    desk = Desk()
    desk.kit.accept(desk.kit.message(texts=("a" * 153, "b" * 153, "c")))
    for number in range(3):
        desk.kit.answer(1, Submitted(f"id{number}"))
    desk.report("id0")
    desk.report("id2")
    assert len(desk.kit.matches) == 3
    desk.report("id1")
    assert len(desk.kit.matches) == 3  # a repeat may follow before the commit
    desk.kit.events.flush()
    assert len(desk.kit.matches) == 0


def test_an_undelivered_long_message_still_waits_for_its_other_receipts() -> None:
    desk = Desk()
    message = desk.kit.message(texts=("a" * 153, "b"))
    desk.kit.accept(message)
    for number in range(2):
        desk.kit.answer(1, Submitted(f"id{number}"))
    desk.report("id0", "UNDELIV", "001")
    assert len(desk.kit.matches) == 2


def test_an_unfinished_word_leaves_the_message_waiting() -> None:
    desk = Desk()
    message = desk.kit.message()
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("abc"))
    desk.report("abc", "ENROUTE")
    desk.kit.events.flush()
    assert message.state is State.SUBMITTED
    assert desk.answers == [("token abc", True)]


async def test_nobodys_report_is_parked_before_it_is_answered() -> None:
    desk = Desk()
    desk.report("stranger")
    await desk.reports._round()
    desk.kit.clock.now += SECOND_LOOK_S
    assert desk.kit.events.waiting == []
    await desk.reports._round()
    assert desk.answers == []
    desk.kit.events.flush()
    assert desk.answers == [("token stranger", True)]
    assert any("parked_reports" in sql for sql in desk.kit.events.sql)


@pytest.mark.parametrize("reference", ["", "' OR 1=1 --"])
async def test_a_report_that_names_no_message_is_answered_and_not_kept(reference: str) -> None:
    desk = Desk()
    desk.reports.receive(1, [Report(1, "", "DELIVRD", "", "", "token", reference)])
    desk.kit.events.flush()
    assert desk.answers == [("token", True)]
    await desk.reports._round()
    desk.kit.clock.now += SECOND_LOOK_S
    await desk.reports._round()
    assert not any("parked_reports" in sql for sql in desk.kit.events.sql)
    assert [labels[1] for labels, _ in desk.kit.metrics.reports_total.samples()] == ["unreadable"]


async def test_what_ended_in_another_process_is_waited_for_no_more() -> None:
    desk = Desk()
    desk.kit.channels[1].can_ask = True
    message, other = desk.kit.message(), desk.kit.message()
    for one in (message, other):
        desk.kit.accept(one)
        desk.kit.answer(1, Uncertain("http.timeout"))
    desk.kit.events.flush()
    rows = [row for row in desk.kit.events.rows if row.message_id == message.id]
    ended = replace(
        rows[-1], path=Path.DELIVERED, status=State.DELIVERED, sequence=rows[-1].sequence + 1,
        segment=0, carrier_id="v-1", reason=None,
    )  # fmt: skip
    for one, known in ((message, [*rows, ended]), (other, [])):
        again = desk.kit.message()
        again.id = one.id
        if known:
            desk.reader.stored[one.id] = Stored(again, known)
    await desk.reports._round()
    assert message.state is State.UNCERTAIN  # too soon
    desk.kit.clock.now += LOOK_MIN_S
    await desk.reports._round()
    assert (message.state, other.state) == (State.DELIVERED, State.UNCERTAIN)
    assert list(desk.kit.evidence.waiting) == [other.id]


def elsewhere(desk: Desk, carrier_id: str = "abc") -> tuple[int, Message, list[EventRow]]:
    """A message that another process, or an earlier life of ours, submitted as that."""
    old = desk.kit.message()
    desk.kit.accept(old)
    desk.kit.answer(1, Submitted(carrier_id))
    rows = [row for row in desk.kit.events.rows if row.message_id == old.id]
    fresh = desk.kit.message()
    fresh.id = old.id
    desk.kit.matches.forget(1, carrier_id)
    return old.id, fresh, rows


async def test_a_report_for_a_message_of_an_earlier_life_is_read_back_and_settled() -> None:
    desk = Desk()
    message_id, fresh, rows = elsewhere(desk)
    desk.reader.owners[1, "abc"] = (message_id, (0,), 0)
    desk.reader.stored[message_id] = Stored(fresh, rows)
    desk.report("abc")
    await desk.reports._round()
    desk.kit.events.flush()
    assert fresh.state is State.DELIVERED
    assert desk.answers == [("token abc", True)]
    assert desk.kit.events.rows[-1].sequence == 3


async def test_a_report_that_is_quicker_than_its_submitters_commit_is_not_parked() -> None:
    desk = Desk()
    message_id, fresh, rows = elsewhere(desk)
    desk.report("abc")
    await desk.reports._round()
    assert desk.reports._wait_s() == pytest.approx(SECOND_LOOK_S)
    desk.reader.owners[1, "abc"] = (message_id, (0,), 0)  # now the other process has committed it
    desk.reader.stored[message_id] = Stored(fresh, rows)
    desk.kit.clock.now += SECOND_LOOK_S
    await desk.reports._round()
    desk.kit.events.flush()
    assert fresh.state is State.DELIVERED
    assert desk.answers == [("token abc", True)]
    assert not any("parked_reports" in sql for sql in desk.kit.events.sql)


async def test_a_temporary_fault_resends_otp_over_another_channel_after_its_row() -> None:
    desk = Desk()
    message = desk.kit.message(MessageClass.OTP)
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("abc"))
    again = desk.kit.message(MessageClass.OTP)
    again.id = message.id
    desk.reader.stored[message.id] = Stored(again, [])
    desk.report("abc", "UNDELIV", "034")
    await desk.reports._round()
    assert desk.kit.channels[2].seen == []
    desk.kit.events.flush()
    await desk.reports._round()
    desk.kit.events.flush()
    assert [submit.message for submit in desk.kit.channels[2].seen] == [message]
    assert desk.kit.channels[2].seen[0].payload == b"hello"
    assert message.is_parked  # its id may lie below the low-water mark


def test_the_row_that_makes_a_message_ours_again_takes_it_out_of_all_claims() -> None:
    """In one commit: the submitter's block may stand, and would make it uncertain there."""
    desk = Desk()
    message = desk.kit.message(MessageClass.OTP)
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("abc"))

    def strip(message_id: int, sequence: int, event_id: int) -> str:
        return f"STRIP {message_id} {sequence} {event_id};"

    desk.kit.claims.strip_all_sql = strip  # type: ignore[method-assign]
    desk.report("abc", "UNDELIV", "034")
    [([row], sql, _)] = [entry for entry in desk.kit.events.waiting if entry[0]]
    assert f"STRIP {message.id} {row.sequence} {row.event_id};" in sql
    assert "INSERT INTO parked" in sql


def test_a_marketing_text_with_a_temporary_fault_is_final() -> None:
    desk = Desk()
    message = desk.kit.message(MessageClass.MARKETING)
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("abc"))
    desk.report("abc", "UNDELIV", "034")
    desk.kit.events.flush()
    assert message.state is State.UNDELIVERED


def test_a_report_ends_an_uncertain_message_and_its_wait() -> None:
    desk = Desk()
    message = desk.kit.message(MessageClass.OTP, texts=("a" * 153, "b"))
    desk.kit.accept(message)
    first, second = list(desk.kit.channels[1].open)
    desk.kit.answer(1, Submitted("id0"), first)
    desk.kit.answer(1, Uncertain("submit.timeout"), second)
    assert message.state is State.UNCERTAIN
    desk.report("id0")
    desk.kit.events.flush()
    assert message.state is State.UNCERTAIN  # one segment of two
    desk.kit.answer(1, Submitted("id1"), second)
    assert desk.kit.paths(message)[-1] == Path.SUBMITTED_LATE
    desk.report("id1")
    desk.kit.events.flush()
    assert desk.kit.paths(message)[-1] == Path.DELIVERED
    assert message.id not in desk.kit.evidence.waiting


def test_a_report_that_names_an_id_known_without_its_answer_ends_the_wait() -> None:
    """The link was lost, and the report comes over another one: it is the evidence."""
    desk = Desk()
    message = desk.kit.message(MessageClass.OTP, texts=("a" * 153, "b"))
    desk.kit.accept(message)
    for name in ("id0", "id1"):
        desk.kit.answer(1, Uncertain("channel.link_lost", name))
    assert message.id in desk.kit.evidence.waiting
    for name in ("id1", "id0"):
        desk.report(name)
        desk.kit.events.flush()
    assert message.state is State.DELIVERED
    assert message.id not in desk.kit.evidence.waiting
    desk.kit.clock.now += 10.0
    desk.kit.evidence.due(message)
    assert len(desk.kit.channels[2].seen) == 0  # no second copy
    assert len(desk.kit.matches) == 0


def test_more_reports_than_can_wait_are_told_to_come_again() -> None:
    desk = Desk()
    desk.reports._unknown = Unknown(6)
    for number in range(5):
        desk.report(f"x{number}")
    assert [answer for answer in desk.answers if not answer[1]] == [
        ("token x3", False),
        ("token x4", False),
    ]


def test_parked_reports_are_tried_soon_then_hourly() -> None:
    assert [retry_after_s(tries) for tries in range(6)] == [1, 5, 30, 300, 3600, 3600]


async def parked_desk() -> tuple[Desk, ParkedReport]:
    """A submitted message whose report stands in the store."""
    desk = Desk()
    desk.kit.accept(desk.kit.message())
    desk.kit.answer(1, Submitted("abc"))
    parked = ParkedReport(desk.kit.ids.next(), 1, "abc", "DELIVRD", "000", "", 0, 0.0)
    desk.reader.due = [parked]
    return desk, parked


def deletes(desk: Desk) -> list[str]:
    return [sql for sql in desk.kit.events.sql if "DELETE FROM parked_reports" in sql]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_parked_report_is_forgotten_only_once_its_row_is_stored(is_lost: bool) -> None:
    desk, _ = await parked_desk()
    if is_lost:
        desk.kit.events.committed = None  # another writer has the key
    await desk.reports._round()
    desk.kit.events.flush()
    assert len(deletes(desk)) == (0 if is_lost else 1)


async def test_a_parked_report_that_crashes_its_handler_stays_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, parked = await parked_desk()

    def crash(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(Reports, "_judge", crash)
    await desk.reports._round()
    desk.kit.events.flush()
    assert deletes(desk) == []
    assert parked.tries == 1


async def test_what_is_found_in_the_store_is_judged_in_slices() -> None:
    desk = Desk()
    count = 2 * SLICE + 1
    for number in range(count):
        message_id, fresh, rows = elsewhere(desk, f"old{number}")
        desk.reader.owners[1, f"old{number}"] = (message_id, (0,), 0)
        desk.reader.stored[message_id] = Stored(fresh, rows)
        desk.report(f"old{number}")
    turns: list[int] = []

    async def another() -> None:
        while len(turns) < 3:
            turns.append(len(desk.kit.events.waiting))
            await asyncio.sleep(0)

    beside = asyncio.create_task(another())
    await desk.reports._round()
    await beside
    assert len(set(turns)) > 1  # it had turns between two slices
    desk.kit.events.flush()
    assert len({token for token, accepted in desk.answers if accepted}) == count
