"""Every report comes to exactly one end, and is counted there once it is durable."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import parked as parked_module
from gateway.parked import KEPT_S, MAX_PARKED, OLD_S, STOCK_S, ParkedReports, next_due
from gateway.reports import CRASHES, PARKED_POLL_S, SECOND_LOOK_S, Reports
from gateway.unknown import Unknown
from receipts import ends
from receipts.state import Path
from sms.errors import StoreUnavailable
from sms.ids import id_at, unix_of
from sms.model import Message, MessageClass, Report, State
from sms.outcomes import Submitted, Uncertain
from store.fragments import ParkedReport
from store.parked_reports import Stock
from store.read import Stored
from tests.unit.gateway.test_reports import Desk, elsewhere


class Counted(Desk):
    """A desk that says how reports ended, with a table of parked reports that commits fill."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[int, ParkedReport] = {}
        self._made: dict[int, ParkedReport] = {}
        self._add = self.kit.events.add
        self.kit.events.add = self.add  # type: ignore[method-assign]

    def add(self, rows: Any, *, urgent: bool, sql: str = "", done: Any = None) -> None:
        def committed() -> None:
            for word in sql.split(";"):
                kind, _, listed = word.partition(" ")
                for number in filter(None, listed.split(",")):
                    if kind == "PARK":
                        self.table[int(number)] = self._made[int(number)]
                    elif kind == "FORGET":
                        del self.table[int(number)]
            if done is not None:
                done()

        self._add(rows, urgent=urgent, sql=sql, done=committed)

    def park_sql(self, _: object, reports: Iterable[ParkedReport]) -> str:
        """A word that the desk's commit carries out, in place of SQL."""
        some = {one.id: one for one in reports}
        self._made |= some
        return f"PARK {','.join(map(str, some))};"

    def forget_sql(self, ids: Iterable[int]) -> str:
        return f"FORGET {','.join(map(str, ids))};"

    def ends(self) -> dict[str, int]:
        series = self.kit.metrics.reports_total.samples()
        return {labels[1]: int(values[0]) for labels, values in series}

    def received(self) -> int:
        return sum(int(one[1][0]) for one in self.kit.metrics.reports_received_total.samples())

    def in_memory(self) -> int:
        waiting = sum(len(some) for _, some in self.reports._second)
        assert sum(self.reports._unknown._of.values()) == len(self.reports._unknown) + waiting
        return len(self.reports._unknown) + waiting

    def submitted(self, *names: str, cls: MessageClass = MessageClass.TRANSACTIONAL) -> Message:
        message = self.kit.message(cls, texts=tuple("x" for _ in names))
        self.kit.accept(message)
        for name in names:
            self.kit.answer(1, Submitted(name))
        return message

    def unknown(self, message: Message) -> None:
        """Transition 18."""
        row = self.kit.ledger.row(message, Path.UNKNOWN, State.UNKNOWN, self.kit.clock.unix())
        assert row is not None
        self.kit.ledger.commit([row])
        self.kit.events.flush()

    def look(self, after_s: float = 0.0) -> None:
        """One round, and its commits."""
        self.kit.clock.now += after_s
        drive(self.reports._round())
        self.kit.events.flush()


def drive(step: Coroutine[Any, Any, object]) -> None:
    """Run what waits for nothing but its turn."""
    with contextlib.suppress(StopIteration):
        while True:
            assert step.send(None) is None


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return table_of(Counted(), monkeypatch)


def table_of(desk: Counted, monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(parked_module, "park_reports_sql", desk.park_sql)
    monkeypatch.setattr(parked_module, "delete_reports_sql", desk.forget_sql)

    async def take(now: float, limit: int) -> list[ParkedReport]:
        due = sorted((one for one in desk.table.values() if one.due <= now), key=lambda x: x.due)
        return due[:limit]

    desk.reader.take = take  # type: ignore[method-assign]
    return desk


def test_matched_duplicate_and_contradictory_in_one_burst_and_after_it(desk: Counted) -> None:
    message = desk.submitted("a")
    words = [("a", "DELIVRD"), ("a", "DELIVRD"), ("a", "UNDELIV")]
    desk.reports.receive(1, [Report(1, *word, "", "", number) for number, word in enumerate(words)])
    assert desk.ends() == {}  # nothing is at its end before it is durable
    desk.kit.events.flush()
    assert desk.ends() == {"matched": 1, "duplicate": 1, "contradictory": 1}
    assert desk.answers == [(0, True), (1, True), (2, True)]
    desk.kit.matches.put(1, "a", message, 0, 0)  # as the store finds it later
    for state in ("DELIVRD", "EXPIRED"):
        desk.report("a", state)
        desk.kit.events.flush()
    assert desk.ends() == {"matched": 1, "duplicate": 2, "contradictory": 2}
    assert message.state is State.DELIVERED
    assert desk.kit.paths(message)[-1] == Path.DELIVERED


def test_after_unknown_one_correction_then_nothing_moves(desk: Counted) -> None:
    message = desk.submitted("a")
    desk.unknown(message)
    for state in ("UNDELIV", "UNDELIV", "DELIVRD"):
        desk.kit.matches.put(1, "a", message, 0, 0)
        desk.report("a", state)
        desk.kit.events.flush()
    assert desk.ends() == {"corrected": 1, "duplicate": 1, "contradictory": 1}
    assert message.state is State.UNDELIVERED
    assert desk.kit.paths(message)[1:] == [Path.UNKNOWN, Path.UNDELIVERED]


def test_a_segment_that_ends_after_its_message_is_noted_and_the_last_one_corrects(
    desk: Counted,
) -> None:
    message = desk.submitted("a", "b")
    desk.unknown(message)
    desk.report("a")
    desk.kit.events.flush()
    assert (desk.ends(), message.state) == ({"late": 1}, State.UNKNOWN)
    desk.report("b")
    desk.kit.events.flush()
    assert desk.ends() == {"late": 1, "corrected": 1}
    assert message.state is State.DELIVERED


def test_a_failed_message_stays_failed_whatever_its_first_attempt_says(desk: Counted) -> None:
    message = desk.submitted("a", cls=MessageClass.OTP)
    desk.report("a", "UNDELIV", "034")
    desk.kit.events.flush()
    row = desk.kit.ledger.row(message, Path.QUEUE_FAILED, State.FAILED, desk.kit.clock.unix())
    assert row is not None
    desk.kit.ledger.commit([row])
    desk.report("a")
    desk.kit.events.flush()
    assert desk.ends() == {"resent": 1, "late": 1}
    assert message.state is State.FAILED


def test_what_a_newer_attempt_replaced_is_superseded(desk: Counted) -> None:
    message = desk.submitted("a", cls=MessageClass.OTP)
    again = desk.kit.message(MessageClass.OTP)
    again.id = message.id
    desk.reader.stored[message.id] = Stored(again, [])
    desk.report("a", "UNDELIV", "034")
    desk.kit.events.flush()
    desk.look()
    desk.kit.answer(2, Submitted("b"))
    desk.report("a", "UNDELIV")
    desk.kit.events.flush()
    assert desk.ends() == {"resent": 1, "superseded": 1}
    assert message.state is State.SUBMITTED


@pytest.mark.parametrize("at", ["first look", "second look", "parked"])
def test_a_report_before_its_answer_is_early_however_long_it_waits(desk: Counted, at: str) -> None:
    message = desk.kit.message()
    desk.kit.accept(message)
    desk.report("a")
    if at != "first look":
        desk.look()
    if at == "parked":
        desk.look(SECOND_LOOK_S)
        assert desk.answers == [("token a", True)]
        assert len(desk.table) == 1
    desk.kit.answer(1, Submitted("a"))
    desk.look(1.0)
    assert desk.ends() == {"early": 1}
    assert message.state is State.DELIVERED
    assert desk.answers == [("token a", True)]
    assert desk.table == {}


def test_a_message_whose_day_was_dropped_is_gone_and_keeps_nobody_waiting(desk: Counted) -> None:
    message_id, fresh, rows = elsewhere(desk)
    desk.reader.owners[1, "abc"] = (message_id, (0,), 0)
    desk.reader.stored[message_id] = Stored(fresh, rows)
    desk.reader.owners[1, "old"] = (message_id - 5, (0,), 0)
    desk.report("old")
    desk.report("abc")
    desk.look()
    assert desk.ends() == {"gone": 1, "matched": 1}
    assert sorted(desk.answers) == [("token abc", True), ("token old", True)]
    assert desk.table == {}


def test_a_message_that_leaves_memory_while_the_store_is_asked_is_not_gone(
    desk: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = desk.kit.message(texts=("x", "y"))
    desk.kit.accept(message)
    desk.kit.answer(1, Submitted("first"))
    desk.kit.answer(1, Uncertain("submit.timeout"))
    desk.kit.events.flush()
    desk.kit.matches.forget(1, "first")  # it is bounded
    desk.reader.owners[1, "first"] = (message.id, (0,), 0)
    message_id, fresh, rows = elsewhere(desk)
    desk.reader.owners[1, "abc"] = (message_id, (0,), 0)
    desk.reader.stored[message_id] = Stored(fresh, rows)
    readable = desk.reader.readable

    async def meanwhile(ids: Sequence[int]) -> dict[int, Stored]:
        desk.kit.evidence.found(message)
        return await readable(ids)

    monkeypatch.setattr(desk.reader, "readable", meanwhile)
    assert message.id in desk.kit.evidence.waiting
    desk.report("first")
    desk.report("abc")
    desk.look()
    assert desk.ends() == {"matched": 2}
    assert message.segment_states[0] is State.DELIVERED


def test_a_message_that_cannot_be_read_keeps_no_other_waiting_and_its_report_is_kept(
    desk: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id, fresh, rows = elsewhere(desk)
    desk.reader.owners[1, "abc"] = (message_id, (0,), 0)
    desk.reader.stored[message_id] = Stored(fresh, rows)
    desk.reader.owners[1, "bad"] = (message_id - 5, (0,), 0)
    readable = desk.reader.readable

    async def spoiled(ids: Sequence[int]) -> dict[int, Stored]:
        if message_id - 5 in ids:
            raise ValueError("a sealed column does not open")
        return await readable(ids)

    monkeypatch.setattr(desk.reader, "readable", spoiled)
    desk.report("bad")
    desk.report("abc")
    desk.look()
    assert desk.ends() == {"matched": 1}
    desk.look(SECOND_LOOK_S)
    assert sorted(desk.answers) == [("token abc", True), ("token bad", True)]
    assert [one.carrier_id for one in desk.table.values()] == ["bad"]


def test_a_parked_report_whose_message_is_dropped_meanwhile_ends_too(desk: Counted) -> None:
    desk.report("old")
    desk.look()
    desk.look(SECOND_LOOK_S)
    desk.reader.owners[1, "old"] = (5, (0,), 0)
    desk.look(1.0)
    assert (desk.ends(), desk.table) == ({"gone": 1}, {})


def test_what_lost_the_race_for_its_key_is_refused_and_counted_when_it_comes_again(
    desk: Counted,
) -> None:
    message = desk.submitted("a", "b")
    committed, desk.kit.events.committed = desk.kit.events.committed, None
    desk.report("a")
    desk.kit.events.flush()
    assert (desk.ends(), desk.answers) == ({"refused": 1}, [("token a", False)])
    desk.kit.events.committed = committed
    desk.report("a")
    desk.kit.events.flush()
    assert desk.ends() == {"refused": 1, "duplicate": 1}  # whoever judges the row anew says it
    assert message.state is State.SUBMITTED


def test_what_crashes_is_refused_and_given_up_at_last(
    desk: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> str:
        raise ZeroDivisionError

    desk.submitted("a")
    monkeypatch.setattr(Reports, "_judge", crash)
    for _ in range(CRASHES):
        desk.report("a")
        desk.kit.events.flush()
    assert desk.ends() == {"refused": CRASHES - 1, "given_up": 1}
    assert desk.answers[-1] == ("token a", True)


def test_a_report_about_several_segments_ends_as_the_most_it_did(desk: Counted) -> None:
    message = desk.submitted("a", "b")
    desk.report("b")
    desk.kit.events.flush()
    desk.kit.matches.put(1, "all", message, 0, 0)
    desk.kit.matches.put(1, "all", message, 1, 0)
    desk.report("all")
    desk.kit.events.flush()
    assert desk.ends() == {"matched": 2}  # its second segment alone would have been a duplicate
    assert message.state is State.DELIVERED


# -- parked ------------------------------------------------------------------------------------


def test_parked_reports_are_tried_at_their_times_and_dropped_after_72_hours(desk: Counted) -> None:
    desk.report("stranger")
    desk.look()
    desk.look(SECOND_LOOK_S)
    [parked] = desk.table.values()
    began, looks = unix_of(parked.id), []
    while desk.table:
        tries = parked.tries
        desk.kit.clock.now += max(0.0, parked.due - desk.kit.clock.unix())
        desk.look(PARKED_POLL_S)  # as late as a poll may be, which does not add up
        if parked.tries > tries:
            looks.append(round(desk.kit.clock.unix() - began - PARKED_POLL_S, 2))
    assert looks[:6] == [1.0, 6.0, 36.0, 336.0, 3936.0, 7536.0]
    assert len(looks) == 4 + 71
    assert round(desk.kit.clock.unix() - began - PARKED_POLL_S) == KEPT_S
    assert desk.ends() == {"foreign": 1}


def test_after_an_outage_the_next_look_is_a_whole_step_away() -> None:
    now = 1_900_000_000.0
    one = ParkedReport(id_at(now - 7200.0), 1, "x", "DELIVRD", "", "", 3, now - 7000.0)
    assert next_due(one, now) == now + 300.0
    one.due = now - 0.4
    assert next_due(one, now) == one.due + 300.0
    one.id, one.tries = id_at(now - KEPT_S + 60.0), 50
    assert next_due(one, now) == pytest.approx(now + 60.0)


def test_a_settled_report_that_crashes_before_it_is_forgotten_is_a_duplicate_then(
    desk: Counted,
) -> None:
    """The row is there, the parked report too: whoever takes it next ends it."""
    message = desk.submitted("a")
    desk.table[7] = ParkedReport(id_at(desk.kit.clock.unix()), 1, "a", "DELIVRD", "", "", 0, 0.0)
    desk.table[7].id = 7
    desk.report("a")
    desk.kit.events.flush()
    desk.kit.matches.put(1, "a", message, 0, 0)
    desk.look()
    assert desk.ends() == {"matched": 1, "duplicate": 1}
    assert desk.table == {}


def test_of_one_channel_no_more_than_so_many_are_kept_and_another_one_is_not_hindered(
    desk: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked_module, "MAX_PARKED", 5)
    now = desk.kit.clock.unix()
    desk.reader.stocks = {1: Stock(3, 1, id_at(now - 500.0))}
    desk.look()
    for number in range(4):
        desk.report(f"x{number}")
    desk.reports.receive(2, [Report(2, "y", "DELIVRD", "", "", "other")])
    desk.look()
    desk.look(SECOND_LOOK_S)
    assert desk.ends() == {"refused": 2}
    kept = [token for token, is_kept in desk.answers if is_kept]
    assert sorted(map(str, kept)) == ["other", "token x0", "token x1"]
    desk.submitted("ours")
    desk.report("ours")
    desk.kit.events.flush()
    assert desk.ends() == {"refused": 2, "matched": 1}
    assert MAX_PARKED >= 100_000


def test_the_gauges_say_what_the_store_holds(desk: Counted) -> None:
    now = desk.kit.clock.unix()
    desk.kit.ledger.channel_names[1] = "c1"
    desk.reader.stocks = {1: Stock(30, 10, id_at(now - 500.0))}
    desk.look()
    desk.reports.parked.set_gauges()
    metrics = desk.kit.metrics
    assert dict(metrics.parked_reports.values) == {("c1", "new"): 20, ("c1", "old"): 10}
    [age] = metrics.parked_reports_oldest_age_seconds.values.values()
    assert age == pytest.approx(500.0)
    desk.reader.stocks = {}
    desk.look(10.0)
    desk.reports.parked.set_gauges()
    assert metrics.parked_reports.values == {}
    assert OLD_S == 336.0


def test_a_count_that_takes_long_is_made_seldom(desk: Counted) -> None:
    parked: ParkedReports = desk.reports.parked
    times = iter([0.0, 0.5] * 9)
    parked._clock = lambda: next(times)
    asked: list[int] = []

    async def stock(old_before: int) -> dict[int, Stock]:
        asked.append(old_before)
        return {}

    desk.reader.stock = stock  # type: ignore[method-assign]
    for _ in range(4):
        desk.look(50.0)
    assert len(asked) == 2  # at once, then after 100 s


def test_a_count_that_is_cut_off_keeps_no_report_waiting(desk: Counted) -> None:
    message = desk.kit.message()
    desk.kit.accept(message)
    desk.report("a")
    desk.look()
    desk.look(SECOND_LOOK_S)
    assert len(desk.table) == 1
    asked: list[int] = []

    async def cut_off(old_before: int) -> dict[int, Stock]:
        asked.append(old_before)
        raise StoreUnavailable("statement timeout")

    desk.reader.stock = cut_off  # type: ignore[method-assign]
    desk.kit.answer(1, Submitted("a"))
    for _ in range(2):
        desk.look(STOCK_S)
    assert desk.ends() == {"early": 1}
    assert len(asked) == 2


# -- the sum -----------------------------------------------------------------------------------

NAMES = [f"id{number}" for number in range(6)] + ["stranger", ""]
ACTIONS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 3)),
    st.tuples(st.just("answer"), st.booleans()),
    st.tuples(
        st.just("report"),
        st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.sampled_from(
                    [("DELIVRD", ""), ("UNDELIV", "001"), ("UNDELIV", "034"), ("ENROUTE", "")]
                ),
            ),
            min_size=1,
            max_size=4,
        ),
    ),
    st.tuples(st.just("flush"), st.booleans()),
    st.tuples(st.just("look"), st.sampled_from([0.0, 0.3, 2.0, 400.0])),
    st.tuples(st.just("unknown"), st.just(0)),
)


class Played:
    """A desk to which things happen in any order."""

    def __init__(self, desk: Counted) -> None:
        self.desk = desk
        self.messages: list[Message] = []
        self.answered = self.given = 0

    def send(self, segments: int) -> None:
        self.messages.append(self.desk.kit.message(MessageClass.OTP, texts=("x",) * segments))
        self.desk.kit.accept(self.messages[-1])

    def answer(self, is_there: bool) -> None:
        if self.desk.kit.channels[1].open:
            name = f"id{self.answered % 6}"
            self.desk.kit.answer(1, Submitted(name) if is_there else Uncertain("submit.timeout"))
            self.answered += 1

    def report(self, words: list[tuple[str, tuple[str, str]]]) -> None:
        some = [Report(1, name, *word, "", object()) for name, word in words]
        self.desk.reports.receive(1, some)
        self.given += len(some)

    def flush(self, is_stored: bool) -> None:
        events = self.desk.kit.events
        committed, events.committed = events.committed, None
        if is_stored:
            events.committed = committed
        events.flush()
        events.committed = committed

    def look(self, after_s: float) -> None:
        self.desk.look(after_s)

    def unknown(self, _: int) -> None:
        for message in self.messages:
            if message.state in {State.SUBMITTED, State.UNCERTAIN}:
                self.desk.unknown(message)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_every_report_ends_once(actions: list[tuple[str, Any]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        desk = table_of(Counted(), patch)
        patch.setattr(parked_module, "MAX_PARKED", 6)
        desk.reports._unknown = Unknown(6)
        played = Played(desk)
        for action, what in actions:
            getattr(played, action)(what)
            desk.kit.events.flush()
            ended = sum(desk.ends().values())
            assert desk.received() == played.given
            assert played.given == ended + desk.in_memory() + len(desk.table)
        for after_s in (1.0, 1.0, 1.0, KEPT_S, KEPT_S, KEPT_S):
            desk.look(after_s)
        assert desk.table == {}
        assert sum(desk.ends().values()) == played.given == len(desk.answers)
        assert set(desk.ends()) <= set(ends.ENDS)
