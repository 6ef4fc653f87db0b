"""What the journal says about a message that was open when its process died."""

from __future__ import annotations

import pytest

from gateway.recover import LOST, from_line, results_of
from gateway.settle import _line
from sms.model import Message, Submit
from sms.outcomes import Cause, NotSent, Outcome, Rejected, Submitted, Throttled, Uncertain
from store.journal import AnswerLine, Replay, WriteLine
from tests.support.flow_kit import Kit

REFUSED = Rejected("0x00000008", Cause.CHANNEL, "channel.rejected")


def message(texts: tuple[str, ...] = ("x",)) -> Message:
    return Kit().message(texts=texts)


def write(segment: int = 0, attempt: int = 1, copy: int = 0, channel: int = 3) -> WriteLine:
    return WriteLine(segment, attempt, copy, channel)


def answer(outcome: Outcome, segment: int = 0, attempt: int = 1, copy: int = 0) -> AnswerLine:
    text = message()
    text.attempt = attempt
    submit = Submit(
        *(text, segment, 1, "", "", text.encoding, b""),
        has_udh=False,
        validity_s=1,
        attempt=attempt,
        copy=copy,
    )
    return AnswerLine(*_line(submit, outcome)[1:])


def replay(
    text: Message, writes: list[WriteLine], answers: list[AnswerLine], *, is_present: bool = True
) -> Replay:
    return Replay(is_present, {text.id: writes}, {text.id: answers})


def outcomes(text: Message, found: Replay) -> list[Outcome]:
    return [outcome for _, outcome, _ in results_of(text, found)]


def test_claimed_and_never_written_goes_back_to_its_lane() -> None:
    text = message()
    assert outcomes(text, replay(text, [], [])) == []


def test_written_and_not_answered_is_uncertain() -> None:
    text = message()
    assert outcomes(text, replay(text, [write()], [])) == [Uncertain(LOST)]


def test_an_id_that_was_known_without_its_answer_survives_a_kill() -> None:
    line = answer(Uncertain("channel.timeout", "b36924b9"))
    assert from_line(line) == Uncertain(LOST, "b36924b9")


def test_without_a_journal_of_this_boot_everything_claimed_is_uncertain() -> None:
    text = message(("a", "b"))
    found = replay(text, [], [], is_present=False)
    assert outcomes(text, found) == [Uncertain(LOST)] * 2


@pytest.mark.parametrize("outcome", [Submitted("abc"), REFUSED, NotSent(LOST)])
def test_an_answer_line_is_applied(outcome: Outcome) -> None:
    text = message()
    assert outcomes(text, replay(text, [write()], [answer(outcome)])) == [outcome]


def test_throttled_then_written_again_is_uncertain_and_answered_is_not() -> None:
    text = message()
    twice = [write(), write()]
    slow = answer(Throttled(1.0, "0x58"))
    assert outcomes(text, replay(text, twice, [slow])) == [Uncertain(LOST)]
    assert outcomes(text, replay(text, twice, [slow, answer(Submitted("z"))])) == [Submitted("z")]


def test_throttled_here_and_written_to_a_backup_is_uncertain_at_the_backup() -> None:
    text = message()
    slow = answer(Throttled(1.0, "0x58"))
    found = replay(text, [write(channel=3), write(channel=4)], [slow])
    assert results_of(text, found) == [(0, Uncertain(LOST), 4)]


def test_lines_of_attempts_that_have_their_row_are_passed_over() -> None:
    text = message()
    text.attempt = 1  # folded from the rows
    old = replay(text, [write(attempt=1)], [answer(REFUSED, attempt=1)])
    assert outcomes(text, old) == []
    new = replay(text, [write(attempt=1), write(attempt=2)], [answer(REFUSED, attempt=1)])
    assert outcomes(text, new) == [Uncertain(LOST)]


def test_lines_of_the_first_copy_say_nothing_about_the_second() -> None:
    text = message()
    text.copy = 1
    assert outcomes(text, replay(text, [write(copy=0)], [])) == []


def test_a_long_message_of_which_a_part_left_is_uncertain_where_it_is_not_known() -> None:
    text = message(("a", "b", "c"))
    found = replay(text, [write(0), write(1)], [answer(Submitted("one"), segment=0)])
    assert outcomes(text, found) == [Submitted("one"), Uncertain(LOST), Uncertain(LOST)]


def test_a_refusal_keeps_cause_reason_and_code_through_the_journal() -> None:
    assert from_line(answer(REFUSED)) == REFUSED


def test_what_would_be_repaired_is_uncertain_once_another_segment_was_taken() -> None:
    text = message(("a", "b", "c"))
    content = Rejected("0x00000045", Cause.CONTENT, "content.blocked")
    answers = [answer(Submitted("one"), 0), answer(REFUSED, 1), answer(content, 2)]
    found = replay(text, [write(0), write(1), write(2)], answers)
    assert outcomes(text, found) == [Submitted("one"), Uncertain(LOST), content]


def test_a_drain_killed_while_a_segment_waits_for_its_repair_leaves_it_uncertain() -> None:
    """Tried again and throttled again; or its last try is not answered."""
    text = message(("a", "b"))
    slow = Throttled(1.0, "0x58")
    writes = [write(0), write(1), write(1)]
    taken = answer(Submitted("one"), 0)
    for answers in ([taken, answer(slow, 1), answer(slow, 1)], [taken, answer(slow, 1)]):
        found = outcomes(text, replay(text, writes, answers))
        assert found == [Submitted("one"), Uncertain(LOST)]


def test_a_long_message_of_which_nothing_was_taken_is_not_uncertain() -> None:
    text = message(("a", "b"))
    slow = Throttled(1.0, "0x58")
    found = replay(text, [write(0), write(1)], [answer(slow, 0), answer(REFUSED, 1)])
    assert [type(outcome) for outcome in outcomes(text, found)] == [Throttled, Rejected]


def test_a_cause_of_a_newer_version_is_read_as_an_unknown_code() -> None:
    line = AnswerLine(0, 1, 0, 1, "", "of_tomorrow|carrier.rejected|0x00000099")
    assert from_line(line) == Rejected("0x00000099", Cause.UNKNOWN, "carrier.rejected")
