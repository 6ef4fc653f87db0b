"""The judge of a campaign: every wrong thing planted once, and found."""

import pytest

from loadtest.campaign.books import Law, Life
from loadtest.campaign.judge import Fault, Kind, Seen, Total, judge
from loadtest.campaign.records import Event, Submit
from loadtest.campaign.timeline import timelines
from loadtest.campaign.traffic import CANCELED, NEVER_SENT, NOT_CANCELED, UNKNOWN, Text
from sms.ids import id_at
from sms.model import MessageClass, State

AT = 1_800_000_000.0
FIRST, SECOND = AT + 10, AT + 20  # faults; each recovered after a second


class World:
    """A round of two faults in which nothing went wrong, until a test says otherwise."""

    def __init__(self):
        self.seen = Seen(
            [Fault(1, "kill.worker", FIRST, FIRST + 1), Fault(2, "wipe", SECOND, SECOND + 1)],
            *([], [], [], []),
        )

    def text(self, at, segments=1, *, refusal="", is_stored=True, message_class="otp"):
        n = 10_000_001 + len(self.seen.texts)
        text = Text(n, message_class, segments, at, at + 0.01, refusal=refusal)
        self.seen.texts.append(text)
        message_id = id_at(at) + n
        if not refusal:
            text.message_id = message_id
        if is_stored:
            self.life(text, message_id)
        return text

    def life(self, text, message_id, **changes):
        fields = {
            "state": State.DELIVERED,
            "is_marked": False,
            "is_to_hold": False,
            "owed": (2, 3),
            "uncertain_at": (),
            "illegal": 0,
            **changes,
        }
        life = Life(
            message_id, text.number, MessageClass(text.message_class), text.segments, **fields
        )
        self.seen.lives.append(life)
        for segment in range(text.segments):
            self.submit(text, segment, text.sent_at + 0.02)
        for sequence in life.owed:
            self.seen.events.append(
                Event(message_id, sequence, "delivered", text.sent_at + 0.5, False)
            )
        return life

    def submit(self, text, segment, at, *, is_taken=True):
        self.seen.submits.append(Submit(text.number, segment, at, is_taken))

    def judged(self):
        return judge(self.seen)

    def findings(self):
        return [dict(verdict.findings) for verdict in self.judged()]


@pytest.fixture
def world():
    return World()


def test_where_nothing_is_wrong_nothing_is_found(world):
    for at in (AT, FIRST + 0.5, FIRST + 2, SECOND + 5):
        world.text(at, segments=3)
    first, second = world.judged()
    assert (first.accepted, second.accepted) == (2, 2)
    assert first.is_good
    assert second.is_good
    assert (first.marked, first.twice, first.uncertain) == (0, 0, 0)


def test_another_answer_to_the_same_key_is_found(world):
    text = world.text(AT)
    text.key, text.tries, text.is_replayed = "request-1", 2, True
    first, _ = world.judged()
    assert (first.retried, first.replayed, first.is_good) == (1, 1, True)
    text.other_id = text.message_id + 1
    assert world.findings() == [{Kind.TWO_ANSWERS: 1}, {}]
    assert world.judged()[0].unmarked == 1


def test_a_text_belongs_to_the_window_in_which_it_was_sent(world):
    world.text(AT)
    lost = world.text(FIRST + 3, is_stored=False)
    assert world.findings() == [{}, {Kind.LOST: 1}]
    assert world.judged()[1].missing == 1
    assert str(lost.n) in world.judged()[1].examples[0]


def test_another_row_than_the_promised_one_is_a_loss(world):
    text = world.text(AT)
    text.message_id += 1
    assert world.findings()[0] == {Kind.LOST: 1}


def test_what_has_not_ended_is_found_and_what_policy_holds_is_not(world):
    world.text(AT)
    world.seen.lives[-1].state = State.SUBMITTED
    held = world.text(AT, message_class="marketing")
    world.seen.lives[-1].state = State.UNCERTAIN
    world.seen.lives[-1].is_to_hold = True
    world.seen.lives[-1].uncertain_at = (FIRST + 0.5,)
    world.text(AT, message_class="transactional")
    world.seen.lives[-1].state = State.UNCERTAIN
    world.seen.lives[-1].uncertain_at = (FIRST + 0.5,)
    assert held.message_class == "marketing"
    assert world.findings()[0] == {Kind.UNFINISHED: 2}
    assert world.judged()[0].uncertain == 2


def test_an_end_that_these_carriers_do_not_make_is_found(world):
    world.text(AT)
    world.seen.lives[-1].state = State.FAILED
    assert world.findings()[0] == {Kind.ENDED_OTHERWISE: 1}
    assert world.judged()[0].missing == 1


def test_delivered_without_a_carrier_having_it_is_found(world):
    world.text(AT, segments=3)
    del world.seen.submits[1]
    assert world.findings()[0] == {Kind.NOT_SENT: 1}


def test_a_vendor_that_cuts_a_text_itself_has_all_its_segments_in_one_line(world):
    text = world.text(AT, segments=3)
    [first, *_] = [one for one in world.seen.submits if one.number == text.number]
    world.seen.submits = [first._replace(segment=0)]
    assert world.findings()[0] == {Kind.NOT_SENT: 1}
    world.seen.submits = [first._replace(segment=0, is_whole=True)]
    assert world.findings()[0] == {}


def test_a_submit_that_the_carrier_refused_is_none(world):
    text = world.text(AT)
    world.submit(text, 0, AT + 1, is_taken=False)
    assert world.findings()[0] == {}
    world.seen.submits = [submit._replace(is_taken=False) for submit in world.seen.submits]
    assert world.findings()[0] == {Kind.NOT_SENT: 1}


def test_an_event_that_never_came_is_found(world):
    world.text(AT)
    world.seen.events.pop()
    assert world.findings()[0] == {Kind.UNTOLD: 1}
    world.seen.events.append(world.seen.events[0])  # a repeat makes nothing good
    assert world.findings()[0] == {Kind.UNTOLD: 1}


def test_twice_at_the_carriers_and_not_marked_is_found(world):
    text = world.text(AT, segments=3)
    world.submit(text, 2, AT + 1)
    assert world.findings()[0] == {Kind.UNMARKED: 1}
    assert world.judged()[0].unmarked == 1


def test_a_marked_copy_belongs_to_the_fault_that_lost_its_answer(world):
    text = world.text(FIRST - 0.03)
    world.submit(text, 0, FIRST + 3)
    life = world.seen.lives[-1]
    life.is_marked, life.uncertain_at = True, (FIRST + 0.4,)
    first, second = world.judged()
    assert first.is_good
    assert (first.marked, first.twice, first.uncertain, second.marked) == (1, 1, 1, 0)
    assert first.open_ms == 10  # it was submitted 20 ms after it was sent


def test_what_the_preparations_of_a_fault_cost_is_its_own(world):
    world.text(SECOND - 0.4)
    life = world.seen.lives[-1]
    life.is_marked, life.uncertain_at = True, (SECOND - 0.3,)
    assert [verdict.marked for verdict in world.judged()] == [1, 0]
    world.seen.faults[1].began_at = SECOND - 0.35
    assert [verdict.marked for verdict in world.judged()] == [0, 1]


def test_three_times_is_found_though_it_is_marked(world):
    text = world.text(AT)
    life = world.seen.lives[-1]
    life.is_marked, life.uncertain_at = True, (FIRST + 0.4,)
    world.submit(text, 0, FIRST + 3)
    world.submit(text, 0, FIRST + 4)
    assert world.findings()[0] == {Kind.THIRD_COPY: 1}


def test_a_mark_without_a_lost_answer_is_found(world):
    world.text(AT)
    world.seen.lives[-1].is_marked = True
    assert world.findings()[0] == {Kind.NO_LOST_ANSWER: 1}


def test_what_was_refused_for_certain_must_be_nowhere(world):
    world.text(AT, refusal="store.unavailable", is_stored=False)
    world.text(AT, refusal=NEVER_SENT, is_stored=False)
    assert world.findings()[0] == {}
    assert world.judged()[0].refused == 2
    sent = world.text(AT, refusal="shed.queue_full", is_stored=False)
    world.submit(sent, 0, AT + 1)
    world.text(AT, refusal="store.unavailable")
    assert world.findings()[0] == {Kind.REFUSED: 2}


def test_what_nobody_answered_may_be_there_but_then_it_is_kept_too(world):
    world.text(AT, refusal=UNKNOWN, is_stored=False)
    world.text(AT, refusal=UNKNOWN)
    assert world.findings()[0] == {}
    assert world.judged()[0].unknown == 2
    world.seen.lives[-1].state = State.ACCEPTED
    assert world.findings()[0] == {Kind.UNFINISHED: 1}


def test_two_rows_and_rows_of_nobody_are_found(world):
    text = world.text(AT)
    world.life(text, text.message_id + 7)
    world.seen.submits.pop()
    assert world.findings()[0][Kind.TWO_ROWS] == 1
    stranger = Text(99_999_999, "otp", 1, AT)
    world.life(stranger, id_at(FIRST + 5))
    world.seen.submits.pop()
    assert world.findings()[0][Kind.STRANGER] == 1


def test_what_goes_out_again_after_its_round_is_found(world):
    world.text(AT)
    world.submit(Text(10_000_000, "otp", 1, AT - 100), 0, SECOND + 0.5)
    assert world.findings() == [{}, {Kind.SENT_LATE: 1}]
    assert world.judged()[1].unmarked == 1


def test_a_fault_is_good_only_with_law_table_and_quarantine(world):
    world.text(AT)
    first, _ = world.judged()
    assert first.is_good
    first.fault.law = Law(5, 5, submitted=1, counted_submitted=1, ended=3, counted_ended=4)
    assert not first.is_good
    first.fault.law = Law(5, 5, 1, 1, 3, 3)
    assert first.is_good
    first.fault.quarantined = ["event: 22021"]
    assert not first.is_good
    first.fault.quarantined = []
    first.fault.problems = ["not done"]
    assert not first.is_good
    first.fault.problems = []
    first.illegal = 1
    assert not first.is_good


def test_the_sum_of_a_campaign(world):
    world.text(AT)
    world.text(FIRST + 3, is_stored=False)
    total = Total()
    for verdict in world.judged():
        verdict.fault.kills = 1
        total.add(verdict)
    assert (total.faults, total.kills, total.bad, total.missing) == (2, 2, 1, 1)
    assert not total.is_good
    assert total.problems
    assert total.problems[0].startswith("2 wipe: text 10000002")


def test_the_time_line_counts_round_the_fault(world):
    world.text(FIRST - 0.1)
    world.text(FIRST + 1.1)
    world.text(FIRST - 100)
    line, _ = timelines(world.seen)
    assert line.fault_s == 3.0
    assert line.recovered_s == 4.0
    assert sum(line.accepted) == sum(line.submitted) == sum(line.delivered) == 2
    assert line.accepted[int(2.95 / line.step_s)] == 1


# -- what the tenant wished --------------------------------------------------------------------


def canceled(world, said):
    """A text that ended canceled; nothing of it is at a carrier."""
    text = world.text(AT)
    text.cancel = said
    world.seen.lives[-1].state = State.CANCELED
    world.seen.submits.clear()
    return text


@pytest.mark.parametrize("said", [CANCELED, UNKNOWN, NOT_CANCELED])
def test_what_the_tenant_canceled_may_end_so(world, said):
    canceled(world, said)
    [verdict, _] = world.judged()
    assert verdict.is_good
    assert verdict.canceled == 1


def test_what_nobody_canceled_must_not_end_so(world):
    canceled(world, "")
    assert world.findings() == [{Kind.ENDED_OTHERWISE: 1}, {}]


def test_what_ended_canceled_must_be_at_no_carrier(world):
    text = canceled(world, CANCELED)
    world.submit(text, 0, AT + 1, is_taken=False)  # the carrier said that it did not take it
    assert world.findings() == [{}, {}]
    world.submit(text, 0, AT + 2)
    assert world.findings() == [{Kind.SENT_CANCELED: 1}, {}]
    assert world.judged()[0].unmarked == 1


@pytest.mark.parametrize(("said", "found"), [(CANCELED, 1), (UNKNOWN, 0), (NOT_CANCELED, 0)])
def test_a_cancel_that_was_answered_is_kept(world, said, found):
    world.text(AT).cancel = said
    [verdict, _] = world.judged()
    assert verdict.findings[Kind.NOT_CANCELED] == found
    assert verdict.missing == found


@pytest.mark.parametrize(("send_at", "found"), [(AT - 1, 0), (AT + 0.02, 0), (AT + 0.5, 1)])
def test_nothing_is_at_a_carrier_before_its_hour(world, send_at, found):
    world.text(AT, segments=3).send_at = send_at
    [verdict, _] = world.judged()
    assert verdict.findings[Kind.TOO_EARLY] == found
    assert verdict.scheduled == 1


def test_the_total_counts_what_was_scheduled_and_canceled(world):
    canceled(world, CANCELED).send_at = AT + 1
    total = Total()
    for verdict in world.judged():
        total.add(verdict)
    assert (total.scheduled, total.canceled, total.is_good) == (1, 1, True)


def test_what_is_to_be_held_may_have_no_second_copy_though_it_is_marked(world):
    text = world.text(FIRST - 1)
    life = world.seen.lives[-1]
    life.uncertain_at, life.is_to_hold = (FIRST + 0.4,), True
    assert world.findings() == [{}, {}]
    world.submit(text, 0, FIRST + 3)
    life.is_marked = True
    assert world.findings() == [{Kind.HELD_COPIED: 1}, {}]


def test_a_mark_alone_breaks_a_hold_too(world):
    world.text(FIRST - 1)
    life = world.seen.lives[-1]
    life.uncertain_at, life.is_to_hold, life.is_marked = (FIRST + 0.4,), True, True
    assert world.findings() == [{Kind.HELD_COPIED: 1}, {}]


def test_lost_answers_are_counted_policy_by_policy(world):
    for is_to_hold in (True, True, False):
        text = world.text(FIRST - 1)
        life = world.seen.lives[-1]
        life.uncertain_at, life.is_to_hold = (FIRST + 0.4,), is_to_hold
    life.is_marked = True
    world.submit(text, 0, FIRST + 3)
    world.seen.lives[0].state = State.UNCERTAIN
    first, _ = world.judged()
    assert (first.with_hold.answers, first.with_hold.held, first.with_hold.twice) == (2, 1, 0)
    assert (first.with_resend.answers, first.with_resend.marked) == (1, 1)
    assert first.with_resend.twice == 1
    total = Total()
    total.add(first)
    assert total.with_hold == first.with_hold


def test_at_rest_is_who_is_to_be_held_or_was_sent_twice(world):
    world.text(FIRST - 1)
    life = world.seen.lives[-1]
    life.state = State.UNCERTAIN
    assert not life.is_at_rest
    life.is_to_hold = True
    assert life.is_at_rest
    life.is_to_hold, life.is_marked = False, True
    assert life.is_at_rest
