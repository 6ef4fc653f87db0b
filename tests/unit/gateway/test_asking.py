"""Vendors that are asked about lost answers: 13, 14a, and that nothing is sent twice for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Lost
from gateway import evidence
from gateway.conflicts import Conflicts
from gateway.evidence import ASK_WAIT_S, LOOK_MAX_S, LOOK_MIN_S, submit_of
from gateway.reports import fold_stored
from gateway.standing import Standing
from receipts.state import NOT_ACCEPTED, Path
from sms.model import FINAL_STATES, Message, MessageClass, OnUncertain, State
from sms.outcomes import NotSent, Outcome, Submitted, Uncertain
from store.read import Stored
from tests.support.flow_kit import Kit

DENIED = NotSent("vendor.absent")


class Asking:
    """Channel 1 can be asked; what it was asked is kept."""

    def __init__(self, channels: int = 3) -> None:
        self.kit = Kit(channels)
        self.asked: list[Lost] = []
        adapter = self.kit.channels[1]
        adapter.can_ask = True
        adapter.ask = self._ask  # type: ignore[method-assign]  # the fake's own does nothing

    def _ask(self, lost: Sequence[Lost]) -> None:
        self.asked += lost

    def lost(self, cls: MessageClass = MessageClass.OTP, **made: object) -> Message:
        """A message over channel 1 whose answer was lost."""
        message = self.kit.message(cls, **made)  # type: ignore[arg-type]  # of the kit's own
        self.kit.accept(message)
        for submit in list(self.kit.channels[1].open):
            self.kit.answer(1, Uncertain("http.timeout"), submit)
        assert message.state is State.UNCERTAIN
        return message

    def tell(self, outcome: Outcome, channel: int = 1, place: int = -1) -> None:
        """The vendor's answer to a question."""
        self.kit.settler.outcomes(channel, [(self.asked[place][0], outcome)])
        self.kit.events.flush()

    def due(self, message: Message) -> None:
        self.kit.evidence.due(message)
        self.kit.events.flush()

    def parked_until(self, message: Message) -> float:
        """The due time of its newest row in `parked`, seconds from now."""
        word = f"({message.id},"
        sql = next(one for one in reversed(self.kit.events.sql) if f"VALUES {word}" in one)
        millis = sql.split("to_timestamp(")[1].split("/")[0]
        return int(millis) / 1000 - self.kit.clock.unix()


def test_a_lost_answer_is_asked_about_at_once_with_the_moment_it_left() -> None:
    world = Asking()
    message = world.kit.message(MessageClass.OTP)
    world.kit.accept(message)
    left = world.kit.clock.unix()
    world.kit.clock.now += 10.0
    world.kit.answer(1, Uncertain("http.timeout"))
    [(submit, at, unsure_s, _)] = world.asked
    assert (submit.message, submit.attempt, submit.copy) == (message, 1, 0)
    assert at == pytest.approx(left)
    assert unsure_s == 0.0


@pytest.mark.parametrize("texts", [("hello",), ("a" * 153, "b" * 153, "c")])
def test_what_the_vendor_has_is_submitted_whole(texts: tuple[str, ...]) -> None:
    world = Asking()
    message = world.lost(texts=texts)
    world.tell(Submitted("v-1"))
    assert message.state is State.SUBMITTED
    assert message.carrier_ids == ["v-1"] * len(texts)
    assert world.kit.paths(message)[-1] == Path.SUBMITTED_LATE
    assert message.id not in world.kit.evidence.waiting


@pytest.mark.parametrize("texts", [("hello",), ("a" * 153, "b")])
def test_what_the_vendor_never_accepted_goes_to_another_channel_unmarked(
    texts: tuple[str, ...],
) -> None:
    world = Asking()
    message = world.lost(texts=texts)
    world.kit.settler.outcomes(1, [(world.asked[0][0], DENIED)])
    assert world.kit.channels[2].seen == []  # committed first
    world.kit.events.flush()
    assert [submit.message for submit in world.kit.channels[2].seen] == [message] * len(texts)
    assert (message.copy, message.duplicate_risk, message.tried) == (0, False, (1,))
    assert world.kit.channels[2].seen[0].payload
    row = next(row for row in world.kit.events.rows if row.path == Path.QUEUED)
    assert row.reason == NOT_ACCEPTED
    world.tell(DENIED)  # said twice: of an attempt that is over
    assert world.kit.paths(message) == [Path.UNCERTAIN, Path.QUEUED]
    for submit in list(world.kit.channels[2].open):
        world.kit.answer(2, Submitted("ok"), submit)
    assert message.state is State.SUBMITTED


def test_half_a_denial_is_none() -> None:
    world = Asking()
    message = world.lost(texts=("a" * 153, "b"))
    whole = world.asked[0][0]
    world.kit.settler.outcomes(1, [(whole.parts[0], DENIED)])
    world.kit.events.flush()
    assert message.state is State.UNCERTAIN


@pytest.mark.parametrize("why", ["no channel left", "validity over", "attempts used up"])
def test_without_a_way_left_it_has_failed(why: str) -> None:
    world = Asking(1 if why == "no channel left" else 2)
    message = world.lost()
    if why == "validity over":
        world.kit.clock.now += 1000.0
    elif why == "attempts used up":
        message.attempt = world.asked[0][0].attempt = 4
    world.tell(DENIED)
    assert (message.state, message.reason) == (State.FAILED, NOT_ACCEPTED)
    assert any("DELETE FROM parked" in sql for sql in world.kit.events.sql)


def test_asked_for_long_enough_the_copy_leaves_in_time() -> None:
    world = Asking()
    message = world.lost()
    world.kit.clock.now += 8.0
    world.due(message)
    assert [submit.copy for submit in world.kit.channels[2].seen] == [1]


def test_a_message_of_an_earlier_life_is_asked_about_before_it_is_sent_again() -> None:
    world = Asking()
    message = world.lost()
    world.asked.clear()
    life = Asking()  # another process
    again = read_back(life, world, message)
    life.kit.clock.now += 60.0
    life.due(again)
    assert [one.submit.message for one in life.asked] == [again]
    assert life.kit.channels[2].seen == []
    assert life.parked_until(again) == pytest.approx(ASK_WAIT_S)
    life.kit.clock.now += ASK_WAIT_S
    life.due(again)
    assert [submit.copy for submit in life.kit.channels[2].seen] == [1]


def read_back(life: Asking, world: Asking, message: Message) -> Message:
    """The message as another process folds it."""
    again = life.kit.message(message.message_class, valid_s=3000.0)
    again.id = message.id
    again.created_at = message.created_at
    rows = [row for row in world.kit.events.rows if row.message_id == message.id]
    fold_stored(Stored(again, rows))
    again.is_parked = True
    return again


def test_what_the_vendor_says_of_a_message_read_back_counts() -> None:
    world, life = Asking(), Asking()
    again = read_back(life, world, world.lost())
    life.due(again)
    life.tell(DENIED)
    assert [submit.message for submit in life.kit.channels[2].seen] == [again]
    assert not again.duplicate_risk


def test_a_channel_that_is_not_here_yet_is_waited_for_and_asked_when_it_comes() -> None:
    world = Asking()
    runtime = world.kit.dispatcher.channels.pop(1)
    world.kit.evidence.asks = lambda channel: channel == 1
    message = world.kit.message(MessageClass.OTP)
    message.state, message.channel, message.attempt = State.UNCERTAIN, 1, 1
    message.uncertain_at = world.kit.clock.unix() - 8.0
    world.due(message)
    assert (world.asked, world.kit.channels[2].seen) == ([], [])
    world.kit.clock.now += 1.0
    world.kit.dispatcher.channels[1] = runtime
    world.kit.evidence.channel_up(1)
    assert [one.submit.message for one in world.asked] == [message]
    world.kit.clock.now += ASK_WAIT_S
    world.due(message)
    assert message.copy == 1


def test_a_channel_that_stays_away_does_not_keep_the_copy_back() -> None:
    world = Asking()
    del world.kit.dispatcher.channels[1]
    world.kit.evidence.asks = lambda channel: channel == 1
    message = world.kit.message(MessageClass.OTP)
    message.state, message.channel, message.attempt = State.UNCERTAIN, 1, 1
    message.uncertain_at = world.kit.clock.unix() - 8.0
    for _ in range(2):
        world.due(message)
        world.kit.clock.now += ASK_WAIT_S
    assert message.copy == 1


def test_what_is_held_is_asked_about_again_and_again_to_the_deadline() -> None:
    world = Asking()
    message = world.lost(MessageClass.MARKETING)
    assert world.parked_until(message) == pytest.approx(LOOK_MIN_S)
    for waited, next_s in ((LOOK_MIN_S, 60.0), (600.0, 660.0), (100_000.0, LOOK_MAX_S)):
        world.kit.clock.now += waited
        asked = len(world.asked)
        world.due(message)
        assert len(world.asked) == asked + 1
        assert world.parked_until(message) == pytest.approx(next_s)
    world.kit.clock.now += 200_000.0
    world.due(message)
    assert message.state is State.UNKNOWN


def test_of_a_channel_that_cannot_be_asked_nothing_changed() -> None:
    world = Asking()
    world.kit.channels[1].can_ask = False
    message = world.lost(MessageClass.MARKETING)
    assert world.asked == []
    assert world.parked_until(message) == pytest.approx(259_200.0)


def test_after_a_kill_it_is_asked_about_all_the_time_since_it_was_accepted() -> None:
    """The request left some time before the recovery: that one's moment alone proves nothing."""
    world = Asking()
    message = world.lost()
    message.left_at, message.uncertain_at = 0.0, message.created_at + 90.0
    world.asked.clear()
    world.kit.clock.now += 91.0
    world.kit.evidence.channel_up(1)
    [(_, sent_unix, unsure_s, _)] = world.asked
    assert (sent_unix, sent_unix - unsure_s) == (message.uncertain_at, message.created_at)


def test_a_denial_that_may_be_about_the_wrong_day_is_no_proof() -> None:
    """Killed before midnight, recovered after it: the vendor was asked about the new day."""
    world = Asking()
    message = world.lost()
    message.left_at = 0.0
    world.asked[0][0].message.uncertain_at = message.created_at + 86_400.0
    world.tell(DENIED)
    assert message.state is State.UNCERTAIN


def test_once_the_copy_is_out_a_denial_of_the_first_leaves_the_end_to_the_copy() -> None:
    world = Asking()
    message = world.lost()
    world.kit.clock.now += 8.0
    world.due(message)
    world.tell(DENIED)
    assert message.first_states == [State.UNDELIVERED]
    world.kit.answer(2, Submitted("copy"))
    assert message.state is State.SUBMITTED
    assert [submit.copy for submit in world.kit.channels[2].seen] == [1]
    assert world.kit.channels[3].seen == []


def test_a_denied_copy_goes_on_as_the_same_copy_and_without_a_way_left_waits() -> None:
    world = Asking()
    for number in (2, 3):
        world.kit.channels[number].can_ask = True
        world.kit.channels[number].ask = world._ask  # type: ignore[method-assign]
    message = world.lost(valid_s=900.0)
    world.kit.clock.now += 8.0
    world.due(message)
    world.kit.answer(2, Uncertain("http.timeout"))
    world.tell(DENIED, 2)
    assert [submit.copy for submit in world.kit.channels[3].seen] == [1]
    world.kit.answer(3, Uncertain("http.timeout"))
    world.tell(DENIED, 3)
    assert (message.state, message.copy) == (State.UNCERTAIN, 1)
    assert len(world.kit.channels[1].seen) == 1


@pytest.mark.parametrize("texts", [("hello",), ("a" * 153, "b")])
@pytest.mark.parametrize("is_first_first", [False, True])
def test_when_both_copies_were_never_accepted_it_is_over(
    texts: tuple[str, ...], is_first_first: bool
) -> None:
    world = Asking(1)
    message = world.lost(texts=texts)
    world.kit.clock.now += 8.0
    world.due(message)
    for submit in list(world.kit.channels[1].open):
        world.kit.answer(1, Uncertain("http.timeout"), submit)
    assert (message.copy, message.state) == (1, State.UNCERTAIN)
    places = (0, -1) if is_first_first else (-1, 0)
    world.tell(DENIED, place=places[0])
    assert message.state is State.UNCERTAIN
    world.tell(DENIED, place=places[1])
    assert (message.state, message.reason) == (State.UNDELIVERED, NOT_ACCEPTED)
    assert message.id not in world.kit.evidence.waiting
    assert any("DELETE FROM parked" in sql for sql in world.kit.events.sql)


def test_what_was_asked_about_last_is_remembered_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "MAX_ASKED", 2)
    world = Asking()
    life = Asking()
    life.kit.evidence._asked.update({1: 0.0, 2: 0.0})  # others cleared these up, and told nobody
    again = read_back(life, world, world.lost())
    life.due(again)
    assert life.kit.channels[2].seen == []  # it waits for the answer to its own question
    life.kit.clock.now += ASK_WAIT_S
    life.due(again)
    assert [submit.copy for submit in life.kit.channels[2].seen] == [1]


def test_a_vendor_that_takes_back_its_denial_is_still_found_by_its_id() -> None:
    world = Asking()
    message = world.lost()
    world.tell(DENIED)
    world.kit.answer(2, Submitted("other"))
    world.tell(Submitted("first"), place=0)
    assert (message.state, message.carrier_ids) == (State.SUBMITTED, ["other"])
    assert world.kit.matches.get(1, "first") is not None
    assert world.kit.events.rows[-1].carrier_id == "first"


TOLD = st.sampled_from(["denied", "taken", "due", "time", "answer other", "lose other"])


@given(
    st.lists(TOLD, max_size=14),
    st.sampled_from([OnUncertain.RESEND, OnUncertain.HOLD]),
    st.integers(1, 3),
)
def test_in_any_order_it_is_sent_at_most_once_more_unless_denied(
    story: list[str], policy: OnUncertain, segments: int
) -> None:
    """Each channel is tried once; a second text without a denial before it is the marked copy."""
    world = Asking()
    message = world.lost(
        texts=tuple("x" * 60 for _ in range(segments)), valid_s=90.0, on_uncertain=policy
    )
    first = world.asked[0][0]
    kit = world.kit
    ids = itertools.count()
    for step in story:
        was_final = message.state in FINAL_STATES
        end = message.state
        if step == "denied":
            kit.settler.outcomes(1, [(first, DENIED)])
        elif step == "taken":
            kit.settler.outcomes(1, [(first, Submitted(f"v{next(ids)}"))])
        elif step == "due":
            kit.evidence.due(message)
        elif step == "time":
            kit.clock.now += 4.0
        elif step in ("answer other", "lose other"):
            for number in (2, 3):
                for submit in list(kit.channels[number].open):
                    said = Submitted(f"o{next(ids)}") if step[0] == "a" else Uncertain("x")
                    kit.answer(number, said, submit)
        kit.events.flush()
        if was_final:
            assert message.state is end
    first_sent = len(kit.channels[1].seen)
    others = kit.channels[2].seen + kit.channels[3].seen
    denials = sum(row.reason == NOT_ACCEPTED and row.path == Path.QUEUED for row in kit.events.rows)
    copies = sum(row.path == Path.QUEUED and row.reason != NOT_ACCEPTED for row in kit.events.rows)
    assert first_sent == segments
    assert denials + copies <= 2
    assert copies <= 1
    assert len(others) == segments * (denials + copies)
    assert message.duplicate_risk == bool(copies)
    assert kit.metrics.illegal_transition_total.samples()[0][1] == [0.0]


def test_the_submit_to_ask_about_is_whole_and_holds_no_text() -> None:
    world = Asking()
    message = world.lost(texts=("a" * 153, "b"))
    submit = submit_of(message)
    assert [part.segment for part in submit.parts] == [0, 1]
    assert submit.payload == b""


async def test_a_denial_that_lost_its_place_is_not_turned_upon_a_newer_attempt() -> None:
    """Another object of the message was denied first and is on its way again, uncertain anew."""
    world = Asking()
    message = world.lost()
    stale = read_back(world, world, message)
    world.tell(DENIED)
    world.kit.answer(2, Uncertain("http.timeout"))
    row = world.kit.ledger.row(
        stale, Path.QUEUED, State.QUEUED, world.kit.clock.unix(), channel=1, reason=NOT_ACCEPTED
    )
    assert row is not None
    reader: Any = ReaderOf(world, message)
    conflicts = Conflicts(
        ledger=world.kit.ledger,
        reader=reader,
        ids=world.kit.ids,
        metrics=world.kit.metrics,
        resend=world.kit.dispatcher.resend,
    )
    before = len(world.kit.events.rows)
    await conflicts.settle([row])
    world.kit.events.flush()
    assert len(world.kit.events.rows) == before
    assert message.state is State.UNCERTAIN
    assert world.kit.channels[3].seen == []


async def test_the_gauges_tell_of_those_of_an_earlier_life_too() -> None:
    """Two rows, of which neither is in memory, and a third that is."""
    world = Asking()
    metrics = world.kit.metrics
    earlier = world.lost()
    del world.kit.evidence.waiting[earlier.id]
    world.kit.ledger.live.clear()
    world.kit.clock.now += 900.0
    world.lost()
    reader = ReaderOf(world, earlier)
    reader.known = {MessageClass.OTP: (3, [earlier.id])}
    kit = world.kit
    flow: Any = SimpleNamespace(reader=reader, evidence=kit.evidence, ledger=kit.ledger)
    none: Any = None
    standing = Standing(flow, none, none, 0, 600.0)
    await standing.count_uncertain()
    kit.evidence.set_gauges()
    assert metrics.uncertain_messages.values["otp",] == 3
    assert metrics.uncertain_oldest_age_seconds.values["otp",] == pytest.approx(900.0, abs=1.0)
    reader.known = {}
    await standing.count_uncertain()
    kit.evidence.set_gauges()
    assert metrics.uncertain_messages.values["otp",] == 1
    assert metrics.uncertain_oldest_age_seconds.values["otp",] < 1.0


class ReaderOf:
    """What the store holds of one message."""

    def __init__(self, world: Asking, message: Message) -> None:
        self._world = world
        self._message = message
        self.known: dict[MessageClass, tuple[int, list[int]]] = {}

    async def uncertain(self, process: int, most: int) -> dict[MessageClass, tuple[int, list[int]]]:
        return self.known

    async def messages(self, ids: Sequence[int]) -> dict[int, Stored]:
        fresh = self._world.kit.message(MessageClass.OTP)
        fresh.id = self._message.id
        rows = [row for row in self._world.kit.events.rows if row.message_id == fresh.id]
        return {fresh.id: Stored(fresh, rows)}


def test_the_gauges_say_how_many_wait_and_since_when() -> None:
    world = Asking()
    metrics = world.kit.metrics
    world.lost()
    world.kit.clock.now += 40.0
    second = world.lost()
    world.kit.clock.now += 2.0
    world.kit.evidence.set_gauges()
    assert metrics.uncertain_messages.values["otp",] == 2
    assert metrics.uncertain_oldest_age_seconds.values["otp",] == pytest.approx(42.0)
    assert metrics.uncertain_messages.values["marketing",] == 0
    world.kit.evidence.found(second)
    for message in list(world.kit.evidence.waiting.values()):
        world.kit.evidence.found(message)
    world.kit.evidence.set_gauges()
    assert metrics.uncertain_messages.values["otp",] == 0
    assert metrics.uncertain_oldest_age_seconds.values["otp",] == 0.0
