"""Long texts that leave in one submit (message_payload): counted and settled by their segments."""

from __future__ import annotations

import pytest

from gateway.recover import results_of
from receipts.state import Path
from sms.model import Message, MessageClass, State, Submit
from sms.outcomes import Cause, NotSent, Outcome, Rejected, Submitted, Throttled, Uncertain
from store.journal import AnswerLine, Replay, WriteLine
from tests.support.flow_kit import Kit
from tests.unit.gateway.test_dispatch_settle import state_of
from tests.unit.gateway.test_reports import Desk

TEXTS = ("a" * 153, "b" * 153, "c")


def whole_kit(kit: Kit | None = None) -> Kit:
    """A kit whose first channel takes long texts whole."""
    kit = kit or Kit()
    kit.channels[1].sends_whole = True
    return kit


def test_one_submit_carries_the_whole_text_and_short_ones_stay_as_they_are() -> None:
    kit = whole_kit()
    kit.accept(kit.message(texts=TEXTS), kit.message())
    long, short = kit.channels[1].seen
    assert long.payload == "".join(TEXTS).encode()
    assert (long.has_udh, long.total, long.segment) == (False, 3, 0)
    assert [(part.segment, part.total) for part in long.parts] == [(0, 3), (1, 3), (2, 3)]
    assert short.parts == ()


def test_its_answer_is_the_answer_of_every_segment_and_all_are_journalled() -> None:
    kit = whole_kit()
    message = kit.message(texts=TEXTS)
    kit.accept(message)
    kit.clock.now += 1.0
    kit.answer(1, Submitted("id1"))
    kit.events.flush()
    assert message.state is State.SUBMITTED
    assert message.carrier_ids == ["id1"] * 3
    assert kit.paths(message) == [Path.NOTE, Path.NOTE, Path.SUBMITTED]
    assert [line[:3] for line in kit.journal.lines] == [(message.id, n, 1) for n in range(3)]
    assert kit.matches.get(1, "id1") == (message, (0, 1, 2), 0, 0)
    assert kit.metrics.submits_total.values == {("c1", "answered_ok"): 3.0}  # priced by segments


@pytest.mark.parametrize("word", ["DELIVRD", "UNDELIV", "EXPIRED"])
def test_one_report_ends_the_whole_message(word: str) -> None:
    desk = Desk()
    kit = whole_kit(desk.kit)
    message = kit.message(texts=TEXTS)
    kit.accept(message)
    kit.answer(1, Submitted("id1"))
    desk.report("id1", word, "000" if word == "DELIVRD" else "001")
    assert desk.answers == []
    kit.events.flush()
    assert desk.answers == [("token id1", True)]
    ends = {"DELIVRD": "delivered", "UNDELIV": "undelivered", "EXPIRED": "expired"}
    assert message.state == ends[word]
    assert set(message.segment_states) == {message.state}
    before = len(kit.events.rows)
    desk.report("id1", word)  # the carrier sends it again
    kit.events.flush()
    assert len(kit.events.rows) == before


def test_a_report_is_answered_only_when_all_its_rows_are_stored() -> None:
    desk = Desk()
    kit = whole_kit(desk.kit)
    kit.accept(kit.message(texts=TEXTS))
    kit.answer(1, Submitted("id1"))
    kit.events.flush()
    desk.report("id1")
    rows, _, done = kit.events.waiting[-1]
    assert len(rows) == 3
    rows[-1].is_stored = True  # the others lost their keys to another process
    assert done is not None
    done()
    assert desk.answers == [("token id1", False)]


def state_after(outcome: Outcome, *, is_whole: bool) -> tuple[object, ...]:
    """Where a long message stands when each of its submits ends so."""
    kit = Kit()
    kit.channels[1].sends_whole = is_whole
    message = kit.message(texts=TEXTS, cls=MessageClass.TRANSACTIONAL)
    kit.accept(message)
    for submit in list(kit.channels[1].open):
        kit.answer(1, outcome, submit)
    kit.events.flush()
    other = len(kit.channels[2].seen)
    return message.state, message.attempt, message.throttled, message.tried, other


@pytest.mark.parametrize(
    "outcome",
    [
        Submitted("x"),
        Submitted(""),
        Rejected("0x0b", Cause.NUMBER, "recipient.invalid"),
        Rejected("0x08", Cause.CHANNEL, "channel.fault"),
        Rejected("0x0a", Cause.CONFIG, "channel.misconfigured"),
        Throttled(1.0, "0x58"),
        NotSent("channel.link_lost"),
        Uncertain("channel.timeout"),
    ],
    ids=lambda outcome: f"{type(outcome).__name__} {getattr(outcome, 'cause', '')}",
)
def test_it_ends_as_segments_do_that_all_end_so(outcome: Outcome) -> None:
    assert state_after(outcome, is_whole=True) == state_after(outcome, is_whole=False)


def test_a_late_answer_ends_the_uncertainty_of_all_segments() -> None:
    kit = whole_kit()
    message = kit.message(texts=TEXTS)
    kit.accept(message)
    lost = kit.answer(1, Uncertain("channel.timeout"))
    kit.events.flush()
    assert message.state is State.UNCERTAIN
    kit.answer(1, Submitted("late"), lost)
    kit.events.flush()
    assert state_of(message) is State.SUBMITTED
    assert message.carrier_ids == ["late"] * 3
    assert kit.metrics.illegal_transition_total.samples()[0][1] == [0.0]


def test_what_found_no_slot_goes_to_another_channel_in_its_own_way() -> None:
    kit = whole_kit(Kit(window=1))
    first, second = kit.message(texts=TEXTS), kit.message(texts=TEXTS)
    kit.accept(first)
    kit.accept(second)
    assert [submit.message for submit in kit.channels[1].seen] == [first]
    kit.dispatcher.link_changed(1, is_up=False)
    kit.events.flush()
    assert second.state in (State.QUEUED, State.SUBMITTING)
    kit.dispatcher.tick()
    for _ in range(3):
        for submit in list(kit.channels[2].open):
            kit.answer(2, Submitted(f"s{submit.segment}"), submit)
        kit.dispatcher.tick()
    kit.events.flush()
    assert state_of(second) is State.SUBMITTED
    assert second.carrier_ids == ["s0", "s1", "s2"]
    assert all(not submit.parts for submit in kit.channels[2].seen)


def test_too_late_for_it_expires_while_nothing_of_it_has_left() -> None:
    kit = whole_kit(Kit(channels=1, window=1))
    blocker, message = kit.message(), kit.message(texts=TEXTS, valid_s=5.0)
    kit.accept(blocker, message)
    kit.clock.now += 6.0
    kit.answer(1, Submitted("x"))
    kit.dispatcher.tick()
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert [submit.message for submit in kit.channels[1].seen] == [blocker]
    assert message.state is State.EXPIRED


# -- after a kill ------------------------------------------------------------------------------


def replayed(message: Message, whole: Submit, answered: int) -> list[Outcome]:
    """What recovery finds of it, when the journal holds the answers of so many segments."""
    replay = Replay(is_present=True)
    replay.writes[message.id] = [
        WriteLine(part.segment, part.attempt, part.copy, 1) for part in whole.parts
    ]
    replay.answers[message.id] = [
        AnswerLine(part.segment, part.attempt, part.copy, 0, "id1", "")
        for part in whole.parts[:answered]
    ]
    stored = Kit().message(texts=TEXTS)
    stored.id = message.id
    return [outcome for _, outcome, _ in results_of(stored, replay)]


def test_killed_before_its_answer_is_journalled_it_is_uncertain_and_afterwards_submitted() -> None:
    kit = whole_kit()
    message = kit.message(texts=TEXTS)
    kit.accept(message)
    [whole] = kit.channels[1].seen
    assert {type(outcome) for outcome in replayed(message, whole, 0)} == {Uncertain}
    assert replayed(message, whole, 3) == [Submitted("id1")] * 3
