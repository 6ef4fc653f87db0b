"""One carrier id settles one segment, whatever is lost, told twice, or decided in two processes.

Two processes over one table of rows with its key (message, sequence): what a process decides is
applied to its own objects at once and stored when it flushes; rows that lose their key go to
`Conflicts`, as the event lane hands them over. Reports come to either process and are kept in one
table of parked reports. A cut of the power ends both and every journal; what was stored remains.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.conflicts import Conflicts
from gateway.orphans import Orphans, open_segments
from gateway.recover import OPEN, apply_results
from gateway.reports import fold_owned, fold_stored
from receipts.state import Path, apply_row, begin_attempt
from sms.model import FINAL_STATES, EventRow, Message, MessageClass, Report, State
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain
from store.fragments import ParkedReport
from store.orphans import Candidate
from store.parked_reports import Stock
from store.read import Owner, Stored
from tests.support.flow_kit import Clock, FakeEvents, Kit
from tests.unit.gateway.test_report_ends import drive
from tests.unit.gateway.test_reports import Desk

NUMBER = "8613800138000"
REFUSED = Rejected("8", Cause.CHANNEL, "channel.rejected")


class Table:
    """What PostgreSQL holds."""

    def __init__(self) -> None:
        self.message: Message | None = None
        self.rows: dict[int, EventRow] = {}  # by sequence
        self.parked: list[ParkedReport] = []
        self.taken: set[int] = set()
        self.clock = Clock()
        self.clock.now = 1000.0

    def stored(self) -> Stored:
        assert self.message is not None
        rows = [replace(row, message=None) for _, row in sorted(self.rows.items())]
        return Stored(replace(self.message), rows)

    def folded(self) -> Message:
        return fold_stored(self.stored())

    # -- as a reader ---------------------------------------------------------------------------

    async def by_carrier_ids(
        self, pairs: Sequence[tuple[int, str]], *, now: float
    ) -> dict[tuple[int, str], Owner]:
        found: dict[tuple[int, str], Owner] = {}
        for pair in pairs:
            rows = [row for row in self.rows.values() if (row.channel, row.carrier_id) == pair]
            if rows:
                segments = tuple(sorted({row.segment or 0 for row in rows}))
                found[pair] = rows[0].message_id, segments, 0
        return found

    async def messages(self, ids: Sequence[int]) -> dict[int, Stored]:
        stored = self.stored()
        return {one: stored for one in ids if one == stored.message.id}

    readable = messages

    async def candidates(self, numbers: Any) -> list[Candidate]:
        message = self.folded()
        return [Candidate(message.id, NUMBER, message.state is State.UNCERTAIN)]

    async def take(self, now: float, limit: int) -> list[ParkedReport]:
        due = [replace(one) for one in self.parked if one.id not in self.taken]
        self.taken.update(one.id for one in due)
        return due

    async def hasten(self, channels: Collection[int], since: int) -> None: ...

    async def stock(self, old_before: int) -> dict[int, Stock]:
        return {}


class Lane(FakeEvents):
    """The event lane of one process over the table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table
        self._losing = 0.0  # rows up to this event lose with one before them
        self.conflicts: Conflicts | None = None

    def settled(self, message_ids: list[int], mark: int) -> None:
        if self._losing:
            self._losing = mark

    def flush(self) -> None:
        entries, self.waiting = self.waiting, []
        rows = sorted((row for one in entries for row in one[0]), key=lambda row: row.sequence)
        lost = [row for row in rows if row.event_id <= self._losing]
        new: list[EventRow] = []
        for row in rows:
            if any(row is one for one in lost):
                continue
            if row.sequence in self._table.rows or any(x.sequence < row.sequence for x in lost):
                lost.append(row)
                self._losing = math.inf
            else:
                self._table.rows[row.sequence] = row
                new.append(row)
        self.rows += new
        assert self.committed is not None
        assert self.conflicts is not None
        self.committed(new)
        if lost:
            self.conflicts.lost(lost)
        for _, _, done in entries:
            if done is not None:
                done()


class Process:
    """One worker."""

    def __init__(self, table: Table, number: int) -> None:
        self.kit = kit = Kit(process=number, clock=table.clock)
        self.lane = kit.events = Lane(table)
        self.lane.committed = kit.ledger.committed
        kit.ledger.events = kit.events
        kit.claims._events = kit.events
        self.desk = Desk(kit)
        self.reports = self.desk.reports
        reader: Any = table
        self.reports._reader = reader
        self.reports.parked._store = table
        self.reports.parked.orphans = Orphans(table, lambda channel: False)
        self.conflicts = Conflicts(
            ledger=kit.ledger,
            reader=reader,
            ids=kit.ids,
            metrics=kit.metrics,
            resend=lambda message: None,
            misplaced=kit.matches.forget,
        )
        self.lane.conflicts = self.conflicts
        self.conflicts.settled = self.lane.settled

    def settle(self) -> None:
        rows, self.conflicts._rows = self.conflicts._rows, []
        if rows:
            drive(self.conflicts.settle(rows))


class World:
    """A text of some segments, sent by the first of two processes; the carrier took `taken`."""

    def __init__(self, size: int, taken: Collection[int]) -> None:
        self.table = Table()
        self.size, self.taken = size, taken
        self.told: set[int] = set()  # segments whose report has come to us
        self.lives = 0
        self._start()
        message = self.processes[0].kit.message(MessageClass.MARKETING, ("x",) * size, 4e4)
        self.table.message = replace(message)
        self.processes[0].kit.accept(message)
        self.open = list(self.processes[0].kit.channels[1].open)
        self.given_up = list(self.open)  # a late answer may come for these

    def _start(self) -> None:
        self.processes = [Process(self.table, 2 * self.lives + n + 1) for n in range(2)]
        self.lives += 1

    def _outcome(self, segment: int, outcome: Outcome) -> None:
        for submit in self.given_up:
            if submit.segment == segment:
                self.processes[0].kit.settler.outcomes(1, [(submit, outcome)])

    def answer(self, segment: int) -> None:
        """The carrier's word on a segment: also a second time, and late."""
        if segment < self.size:
            self._outcome(segment, Submitted(f"id{segment}") if segment in self.taken else REFUSED)

    def give_up(self, segment: int) -> None:
        self._outcome(segment, Uncertain("submit.timeout"))

    def report(self, segment: int, process: int) -> None:
        """The carrier brings a report; what nobody knows is parked, each time anew."""
        if segment not in self.taken:
            return
        self.told.add(segment)
        report = Report(1, f"id{segment}", "DELIVRD", "000", NUMBER, object())
        one = self.processes[process]
        if one.kit.matches.get(1, report.carrier_id) is not None:
            one.reports.receive(1, [report])
        else:
            number = one.kit.ids.next()
            self.table.parked.append(
                ParkedReport(number, 1, report.carrier_id, "DELIVRD", "000", NUMBER, 0, 0.0)
            )

    def look(self, process: int) -> None:
        drive(self.processes[process].reports.parked.round())

    def due(self) -> None:
        """What was taken and not deleted is looked at again."""
        self.table.taken.clear()

    def flush(self, process: int) -> None:
        self.processes[process].lane.flush()

    def settle(self, process: int) -> None:
        self.processes[process].settle()

    def cut(self) -> None:
        """The power is gone and comes back: no journal, no memory."""
        self._start()
        self.given_up = []
        self.due()
        message = fold_owned(self.table.stored())
        if message.state in OPEN:
            settler = self.processes[0].kit.settler
            self.processes[0].kit.ledger.take_back(message)
            apply_results(
                settler, message, [(n, Uncertain("process.lost"), 1) for n in range(self.size)]
            )

    def rest(self) -> None:
        for process in (0, 1, 0, 1):
            self.flush(process)
            self.settle(process)
            self.flush(process)

    def check(self) -> Message:
        message = self.table.folded()
        ended = sum(state in FINAL_STATES for state in message.segment_states)
        assert ended <= len(self.told), (message.segment_states, sorted(self.told))
        if message.state is State.DELIVERED:
            assert set(self.taken) == set(range(self.size))
        for process in self.processes:
            assert not any(process.kit.metrics.illegal_transition_total.values.values())
        return message


def play(size: int, taken: Collection[int], steps: str) -> Message:
    """Steps as words: `answer0`, `report1.0` (to process 0), `cut`; then what it came to."""
    world = World(size, taken)
    for word in steps.split():
        name = word.rstrip("0123456789.")
        what = [int(one) for one in word[len(name) :].split(".") if one]
        getattr(world, name)(*what)
        world.check()
    world.rest()
    return world.check()


def test_a_segment_told_before_its_text_was_answered_is_known_after_a_power_cut() -> None:
    """The third segment was refused and waits for its repair, two reports are stored: cut."""
    steps = "answer0 answer1 answer2 report0.0 report1.0 flush0 cut flush0"
    message = play(3, {0, 1}, f"{steps} report0.0 report1.0 look0 flush0 due look0")
    assert message.state is State.UNCERTAIN
    assert message.carrier_ids == ["id0", "id1", None]


def resent(size: int) -> tuple[Desk, Message]:
    """Refused by the handset's network, sent once more and not answered yet."""
    kit = Kit()
    desk = Desk(kit)
    message = kit.message(MessageClass.OTP, ("x",) * size, 4e4)
    message.state, message.attempt, message.tried = State.QUEUED, 1, (1,)
    assert begin_attempt(message, 2)
    message.answers, message.open_segments = [None] * size, size
    kit.matches.put(1, "first", message, 0, 0)
    return desk, message


@pytest.mark.parametrize("size", [1, 2])
def test_a_report_of_the_attempt_before_says_nothing_of_the_open_one(size: int) -> None:
    desk, message = resent(size)
    rows = message.sequence
    desk.reports.receive(1, [Report(1, "first", "UNDELIV", "", NUMBER, object())])
    assert (message.state, message.sequence) == (State.SUBMITTING, rows)
    lost = EventRow(
        message.id, message.sequence + 1, 9, 1, Path.UNCERTAIN, State.UNCERTAIN, 1.0, channel=2
    )
    assert apply_row(message, lost)
    assert "first" not in message.carrier_ids
    # its lost answers' own receipts are still about something
    assert open_segments(message, 0) == tuple(range(size))


@pytest.mark.parametrize("size", [1, 2])
def test_unless_it_says_that_it_was_delivered(size: int) -> None:
    desk, message = resent(size)
    rows = message.sequence
    desk.reports.receive(1, [Report(1, "first", "DELIVRD", "", NUMBER, object())])
    assert (message.state, message.sequence) == (State.SUBMITTING, rows + 1)
    assert "first" not in message.carrier_ids


GIVEN_UP = "give_up0 give_up1 give_up2 flush0"


def test_one_kept_twice_and_adopted_in_two_processes_at_once_settles_one_segment() -> None:
    """The second process gives it the next segment; all its rows lose, and are judged again."""
    steps = "report0.0 look0 report1.1 report0.1 look1 flush0 flush1 settle1 flush1"
    message = play(3, {0, 1}, f"{GIVEN_UP} {steps} due look1 flush1 due look0")
    assert message.state is State.UNCERTAIN
    assert message.carrier_ids == ["id0", "id1", None]


@pytest.mark.parametrize("steps", ["", "answer0", "answer0 flush0 report0.0"])
def test_a_late_answer_with_an_adopted_id_settles_no_other_segment(steps: str) -> None:
    """The report of the second segment was given to the first one; then their answers come."""
    steps = f"report1.0 look0 flush0 answer1 {steps} flush0 report1.0 report1.1 look1 flush1"
    message = play(3, {0, 1}, f"{GIVEN_UP} {steps}")
    assert message.state is State.UNCERTAIN
    assert "id1" in message.carrier_ids


@pytest.mark.parametrize(
    "steps",
    [
        "report1.1 look1 answer1 flush1 flush0 settle0 flush0 report1.0 flush0",
        "report1.1 look1 answer1 flush1 flush0 settle0 flush0 report1.1 due look1 flush1",
        "report1.1 look1 answer1 report1.0 flush1 flush0 settle0 flush0",
    ],
)
def test_a_late_answer_that_loses_its_key_to_its_own_report_settles_no_other_segment(
    steps: str,
) -> None:
    message = play(3, {0, 1}, f"{GIVEN_UP} {steps}")
    assert message.carrier_ids == ["id1", None, None]
    assert message.segment_states[1] is State.UNCERTAIN


def test_all_that_a_carrier_took_is_delivered_whosever_segment_each_receipt_was_given() -> None:
    for order in ("report2.0 look0 flush0 answer0 answer1 answer2", "report1.1 look1 answer0"):
        rest = "flush1 flush0 settle0 settle1 flush0 flush1"
        told = "report0.0 report1.1 report2.0 look0 flush0 look1 flush1 due look0"
        message = play(3, {0, 1, 2}, f"{GIVEN_UP} {order} {rest} {told}")
        assert message.state is State.DELIVERED


SEGMENTS = st.integers(0, 2)
PROCESS = st.integers(0, 1)
FIRST = st.sampled_from(["answer", "give_up", "nothing"])
STEPS = st.one_of(
    st.tuples(st.just("report"), SEGMENTS, PROCESS),
    st.tuples(st.just("report"), SEGMENTS, PROCESS),
    st.tuples(st.just("look"), PROCESS),
    st.tuples(st.just("look"), PROCESS),
    st.tuples(st.just("flush"), PROCESS),
    st.tuples(st.just("settle"), PROCESS),
    st.tuples(st.just("answer"), SEGMENTS),
    st.tuples(st.just("give_up"), SEGMENTS),
    st.tuples(st.sampled_from(["due", "cut"])),
)


@settings(max_examples=100)
@given(
    st.sets(SEGMENTS),
    st.lists(FIRST, min_size=3, max_size=3),
    st.lists(STEPS, min_size=8, max_size=30),
)
def test_no_report_settles_two_segments(
    taken: set[int], first: list[str], steps: list[Any]
) -> None:
    world = World(3, taken)
    for segment, step in enumerate(first):
        if step != "nothing":
            getattr(world, step)(segment)
    for step, *what in steps:
        getattr(world, step)(*what)
        world.check()
    world.rest()
    world.check()
