"""What a burst of answers does to a message: dispatch, settle and evidence on fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from receipts.state import Path, begin_attempt
from sms.config import Snapshot
from sms.model import Carrier, Encoding, Message, MessageClass, OnUncertain, State, Submit
from sms.outcomes import Cause, NotSent, Rejected, Submitted, Throttled, Uncertain
from tests.support.flow_kit import Kit

SYSTEM = Rejected("0x00000008", Cause.CHANNEL, "channel.rejected")
NUMBER = Rejected("0x0000000B", Cause.NUMBER, "recipient.invalid")


def state_of(message: Message) -> State:
    """Its state read anew: mypy holds that what an assert saw before still stands."""
    return message.state


def test_nothing_leaves_before_its_claim_is_committed() -> None:
    kit = Kit()
    message = kit.message()
    kit.lanes.reserve(message.message_class, 1)
    kit.ledger.took([message])
    kit.dispatcher.put([message])
    assert kit.channels[1].seen == []
    kit.events.flush()
    assert [submit.message for submit in kit.channels[1].seen] == [message]


def test_an_ordinary_life_is_one_row_and_frees_room_and_claim() -> None:
    kit = Kit()
    message = kit.message()
    kit.accept(message)
    assert message.state is State.SUBMITTING
    kit.answer(1, Submitted("abc"))
    assert kit.paths(message) == [Path.SUBMITTED]
    row = kit.events.rows[0]
    assert (row.sequence, row.carrier_id, row.channel, row.segment) == (2, "abc", 1, 0)
    assert kit.lanes.used(message.message_class) == 0
    assert kit.claims.blocks == {1: 0}
    assert message.id not in kit.ledger.live
    assert message.texts == ("",)


def test_the_window_is_never_overrun_and_an_eighth_is_kept_for_otp() -> None:
    kit = Kit(channels=1, window=16)
    kit.accept(*[kit.message() for _ in range(40)])
    assert len(kit.channels[1].open) == 14
    otp = [kit.message(MessageClass.OTP) for _ in range(5)]
    kit.accept(*otp)
    assert len(kit.channels[1].open) == 16
    assert [s.message.message_class for s in kit.channels[1].open[14:]] == [MessageClass.OTP] * 2


def test_freed_slots_are_filled_again() -> None:
    kit = Kit(channels=1, window=8)
    messages = [kit.message() for _ in range(30)]
    kit.accept(*messages)
    number = 0
    while kit.channels[1].open:
        kit.answer(1, Submitted(str(number)))
        number += 1
    assert number == 30
    assert {m.state for m in messages} == {State.SUBMITTED}


def test_a_system_error_goes_to_the_next_channel_only_after_its_row_is_committed() -> None:
    kit = Kit()
    message = kit.message()
    kit.accept(message)
    submit = kit.channels[1].open.pop()
    kit.settler.outcomes(1, [(submit, SYSTEM)])
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    assert kit.channels[2].seen == []  # the `queued` row is not committed yet
    kit.events.flush()
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert [s.message for s in kit.channels[2].seen] == [message]
    assert message.attempt == 2
    assert message.tried == (1,)


def test_a_refused_number_is_final_and_never_reaches_a_second_channel() -> None:
    kit = Kit()
    message = kit.message()
    kit.accept(message)
    kit.answer(1, NUMBER)
    assert message.state is State.FAILED
    assert message.reason == "recipient.invalid"
    assert message.carrier_code == "0x0000000B"
    assert kit.channels[2].seen == []


def test_all_channels_refusing_ends_failed_after_each_was_tried_once() -> None:
    kit = Kit(channels=3)
    message = kit.message()
    kit.accept(message)
    for channel in (1, 2, 3):
        kit.answer(channel, SYSTEM)
        kit.clock.now += 10.0
        kit.dispatcher.tick()
        kit.events.flush()
    assert message.state is State.FAILED
    assert [len(kit.channels[c].seen) for c in (1, 2, 3)] == [1, 1, 1]


def test_throttled_is_no_attempt_and_slows_the_channel() -> None:
    kit = Kit(channels=1)
    kit.dispatcher.tick()
    message = kit.message()
    kit.accept(message)
    kit.answer(1, Throttled(1.0, "0x58"))
    assert (message.state, message.attempt, message.throttled) == (State.QUEUED, 0, 1)
    assert kit.paths(message) == []
    kit.clock.now += 7.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert 1.0 <= kit.dispatcher.channels[1].throttle.pace < 100.0
    kit.answer(1, Submitted("x"))
    assert message.attempt == 1


def throttled_for(kit: Kit, message: Message, seconds: float, channel: int = 1) -> None:
    """The channel throttles it again and again; to its first try elsewhere, or so long."""
    until = kit.clock.now + seconds
    while kit.clock.now < until and message.channel == channel:
        if kit.channels[channel].open:
            kit.answer(channel, Throttled(1.0, "0x58"))
        kit.clock.now += 0.1
        kit.dispatcher.tick()
        kit.events.flush()


@pytest.mark.parametrize(
    ("message_class", "patience_s"), [(MessageClass.OTP, 1.0), (MessageClass.TRANSACTIONAL, 10.0)]
)
def test_what_is_throttled_for_too_long_goes_to_the_backup(
    message_class: MessageClass, patience_s: float
) -> None:
    """RELIABILITY 6: when it would wait longer than 10 s, otp 1 s; and it is no attempt."""
    kit = Kit(channels=3)
    message = kit.message(message_class)
    kit.accept(message)
    began = kit.clock.now
    throttled_for(kit, message, 60.0)
    assert message.channel == 2
    # It left when the next wait, of at least a second, would have been the one too long.
    assert patience_s - 1.2 <= kit.clock.now - began <= patience_s + 1.0
    assert [s.message for s in kit.channels[2].seen] == [message]
    assert (message.attempt, message.tried) == (1, ())
    names = kit.ledger.channel_names
    assert kit.metrics.failover_total.values[names[1], names[2], "throttled"] == 1
    kit.answer(2, SYSTEM)  # then the first one is a channel like any other again
    kit.clock.now += 3.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert (message.channel, message.attempt, message.tried) == (1, 2, (2,))
    kit.answer(1, Submitted("x"))
    assert message.state is State.SUBMITTED


def test_a_throttled_message_stays_where_no_backup_can_take_it() -> None:
    kit = Kit(channels=2)
    throttle = kit.dispatcher.channels[2].throttle
    throttle.pace, throttle.is_free = 10.0, False  # throttled as well
    message = kit.message(MessageClass.OTP)
    kit.accept(message)
    throttled_for(kit, message, 5.0)
    assert message.channel == 1
    assert kit.channels[2].seen == []
    assert not kit.metrics.failover_total.values
    kit.dispatcher.link_changed(2, is_up=False)
    throttle.pace, throttle.is_free = float("inf"), True
    throttled_for(kit, message, 20.0)
    assert kit.channels[2].seen == []
    assert message.state is not State.FAILED


def test_a_halted_message_does_not_go_on_to_a_backup() -> None:
    kit = Kit(channels=2)
    message = kit.message(MessageClass.OTP)
    kit.accept(message)
    kit.answer(1, Throttled(1.0, "0x58"))
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    kit.events.flush()
    kit.dispatcher.sift = lambda messages: []  # its batch is paused meanwhile
    kit.answer(1, Throttled(1.0, "0x58"))
    assert kit.channels[2].seen == []


def pumped(kit: Kit, seconds: float) -> int:
    """How many segments leave in that time when every one is taken at once."""
    before = len(kit.channels[1].seen)
    until = kit.clock.now + seconds
    while kit.clock.now < until:
        kit.clock.now += 0.01
        kit.dispatcher.pump(1)
        kit.events.flush()
        while kit.channels[1].open:
            kit.answer(1, Submitted(f"{kit.clock.now} {len(kit.channels[1].seen)}"))
    return len(kit.channels[1].seen) - before


def test_what_leaves_follows_the_pace() -> None:
    kit = Kit(channels=1, window=64)
    throttle = kit.dispatcher.channels[1].throttle
    throttle.pace, throttle.is_free = 40.0, False
    kit.accept(*[kit.message() for _ in range(200)])
    assert 36 <= pumped(kit, 1.0) <= 44
    throttle.pace, throttle.is_free = float("inf"), True
    assert pumped(kit, 0.2) > 100


def test_a_carrier_that_says_it_is_congested_gets_nothing_for_a_second() -> None:
    kit = Kit(channels=1, window=64)
    kit.channels[1].busy = 100
    kit.dispatcher.tick()
    kit.accept(*[kit.message() for _ in range(20)])
    assert pumped(kit, 0.9) == 0
    assert pumped(kit, 0.3) > 0


def test_a_ported_number_goes_to_the_next_channel_at_once() -> None:
    kit = Kit()
    message = kit.message()
    kit.accept(message)
    kit.answer(1, Rejected("9", Cause.NETWORK, "recipient.ported"))
    kit.events.flush()
    assert [s.message for s in kit.channels[2].seen] == [message]
    assert (message.attempt, message.not_before) == (2, 0.0)


def test_codes_that_no_table_knows_are_counted_by_name_for_every_segment() -> None:
    kit = Kit(channels=1)
    kit.accept(kit.message(texts=("a", "b")))
    unknown = Rejected("0x00000401", Cause.UNKNOWN, "carrier.unknown_code")
    for outcome in (unknown, Submitted("x")):
        kit.answer(1, outcome)
    assert kit.metrics.unmapped_codes_total.values == {("c1", "0x00000401"): 1.0}


def test_what_a_channel_took_is_priced_and_what_it_refused_is_not() -> None:
    kit = Kit(channels=1)
    kit.settler.prices = {1: 0.035}
    kit.accept(kit.message(texts=("a", "b")), kit.message())
    kit.answer(1, Submitted("x"))
    kit.answer(1, Submitted("y"))
    kit.answer(1, NUMBER)
    assert kit.metrics.submitted_cost_total.values == {("c1",): pytest.approx(0.07)}


def test_a_carrier_that_signs_itself_gets_the_text_without_the_signature() -> None:
    kit = Kit(channels=1)
    runtime = kit.dispatcher.channels[1]
    runtime.config = replace(runtime.config, adds_signature=True)
    message = kit.message(texts=("【某商城】你好",))
    message.encoding = Encoding.UCS2
    kit.accept(message)
    assert kit.channels[1].seen[0].payload.decode("utf-16-be") == "你好"
    assert message.texts == ("【某商城】你好",)


def test_a_message_goes_to_no_channel_that_does_not_serve_its_network() -> None:
    kit = Kit(channels=3)
    snapshot = kit.dispatcher.snapshot
    channels = dict(snapshot.channels)
    channels[1] = replace(channels[1], carriers=frozenset({Carrier.CU}))
    kit.dispatcher.reconfigure(replace(snapshot, channels=channels))
    message = kit.message()
    kit.accept(message)
    assert [len(kit.channels[number].seen) for number in (1, 2, 3)] == [0, 1, 0]
    kit.answer(2, SYSTEM)
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    kit.events.flush()
    kit.answer(3, SYSTEM)
    assert state_of(message) is State.FAILED
    assert not kit.channels[1].seen


def test_not_sent_moves_to_the_backup_when_the_link_is_down() -> None:
    kit = Kit()
    message = kit.message()
    kit.accept(message)
    kit.dispatcher.link_changed(1, is_up=False)
    kit.answer(1, NotSent("channel.link_lost"))
    kit.events.flush()
    assert [s.message for s in kit.channels[2].seen] == [message]
    assert message.attempt == 1


def test_link_down_moves_what_waits_and_all_down_holds_it() -> None:
    kit = Kit(window=8)
    messages = [kit.message() for _ in range(20)]
    kit.accept(*messages)
    kit.dispatcher.link_changed(2, is_up=False)
    kit.dispatcher.link_changed(1, is_up=False)
    assert kit.lanes.lane(0).size() == 13  # 7 are with the carrier
    kit.dispatcher.link_changed(2, is_up=True)
    kit.events.flush()
    assert len(kit.channels[2].seen) == 2  # more wait than a window holds: it begins slowly
    kit.clock.now += 5.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert len(kit.channels[2].seen) == 7
    assert kit.lanes.lane(0).size() == 0


def test_before_any_channel_runs_messages_wait_and_a_refused_one_still_has_a_backup() -> None:
    """So it is during recovery: the routes are known, the channels are started afterwards."""
    kit = Kit()
    running = [kit.dispatcher.remove_channel(number) for number in (1, 2)]
    waiting, refused = kit.message(), kit.message()
    kit.accept(waiting)
    assert kit.lanes.lane(0).size() == 1
    kit.ledger.took([refused])
    kit.lanes.force(refused.message_class)
    begin_attempt(refused, 1)
    refused.open_segments, refused.answers = 1, [None]
    submit = Submit(
        refused, 0, 1, refused.number, "", refused.encoding, b"", has_udh=False, validity_s=1
    )
    kit.answer(1, SYSTEM, submit)
    assert (waiting.state, refused.state) == (State.ACCEPTED, State.QUEUED)
    for runtime in running:
        assert runtime is not None
        kit.dispatcher.add_channel(runtime)
        runtime.is_up = False
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    for number in (1, 2):
        kit.dispatcher.link_changed(number, is_up=True)
    kit.events.flush()
    assert [s.message for s in kit.channels[1].seen] == [waiting]
    assert [s.message for s in kit.channels[2].seen] == [refused]


def test_a_message_whose_last_channel_left_the_configuration_fails() -> None:
    kit = Kit(channels=1)
    kit.dispatcher.link_changed(1, is_up=False)
    message = kit.message()
    kit.accept(message)
    assert message.state is State.ACCEPTED
    kit.dispatcher.remove_channel(1)
    kit.dispatcher.reconfigure(Snapshot(version=2, routes=kit.dispatcher.snapshot.routes))
    assert state_of(message) is State.FAILED
    assert message.reason == "channel.unavailable"


def test_otp_without_answer_gets_one_marked_copy_on_another_channel_first() -> None:
    kit = Kit()
    message = kit.message(MessageClass.OTP)
    kit.accept(message)
    lost = kit.answer(1, Uncertain("submit.timeout"))
    assert message.state is State.UNCERTAIN
    assert message.is_parked
    kit.clock.now += 9.0
    kit.evidence.due(message)
    assert kit.channels[2].seen == []  # the copy is sent only after its row is committed
    kit.events.flush()
    assert [s.copy for s in kit.channels[2].seen] == [1]
    assert message.duplicate_risk
    kit.answer(2, Submitted("copy"))
    assert state_of(message) is State.SUBMITTED
    kit.answer(1, Submitted("late"), lost)  # the first answer comes after all
    assert kit.matches.get(1, "late") == (message, (0,), 0, 0)
    assert kit.metrics.illegal_transition_total.samples()[0][1] == [0.0]


def test_an_id_known_without_its_answer_goes_into_the_rows_of_each_segment() -> None:
    """So that its report is evidence in any process: RELIABILITY 5, SGIP's sequence."""
    kit = Kit()
    one, long = kit.message(), kit.message(texts=("a" * 153, "b" * 153, "c"))
    kit.accept(one, long)
    lost = [Uncertain("channel.link_lost", f"id{number}") for number in range(3)]
    for outcome in lost:
        kit.answer(1, outcome)
    kit.answer(1, Submitted("id3"))
    [row] = [row for row in kit.events.rows if row.message_id == one.id]
    assert (row.path, row.segment, row.carrier_id) == (Path.UNCERTAIN, 0, "id0")
    rows = [row for row in kit.events.rows if row.message_id == long.id]
    found = {(row.path, row.segment, row.carrier_id, row.status) for row in rows}
    assert found == {
        (Path.NOTE, 0, "id1", State.UNCERTAIN),
        (Path.NOTE, 2, "id3", State.SUBMITTED),
        (Path.UNCERTAIN, 1, "id2", State.UNCERTAIN),
    }
    assert long.state is State.UNCERTAIN
    assert long.segment_states == [State.UNCERTAIN, State.UNCERTAIN, State.SUBMITTED]
    assert kit.matches.get(1, "id1") == (long, (0,), 0, 0)


def test_a_late_answer_in_time_ends_the_wait_without_a_copy() -> None:
    kit = Kit()
    message = kit.message(MessageClass.OTP)
    kit.accept(message)
    lost = kit.answer(1, Uncertain("submit.timeout"))
    kit.answer(1, Submitted("late"), lost)
    assert message.state is State.SUBMITTED
    assert not message.duplicate_risk
    kit.evidence.due(message)
    kit.events.flush()
    assert kit.channels[2].seen == []


@pytest.mark.parametrize(
    ("cls", "policy", "valid_s"),
    [
        (MessageClass.MARKETING, None, 3000.0),
        (MessageClass.TRANSACTIONAL, OnUncertain.HOLD, 3000.0),
        (MessageClass.OTP, None, 50.0),  # less than 60 s of validity left
    ],
)
def test_hold_and_short_validity_never_send_a_copy(
    cls: MessageClass, policy: OnUncertain | None, valid_s: float
) -> None:
    kit = Kit()
    message = kit.message(cls, on_uncertain=policy, valid_s=valid_s)
    kit.accept(message)
    kit.answer(1, Uncertain("submit.timeout"))
    kit.clock.now += 9.0
    kit.evidence.due(message)
    kit.events.flush()
    assert message.state is State.UNCERTAIN
    kit.clock.now += 259_200.0
    kit.evidence.due(message)
    kit.events.flush()
    assert state_of(message) is State.UNKNOWN
    assert kit.channels[2].seen == []


def test_validity_over_means_expired_not_sent_late() -> None:
    kit = Kit(channels=1)
    message = kit.message(valid_s=5.0)
    kit.dispatcher.link_changed(1, is_up=False)
    kit.accept(message)
    kit.clock.now += 6.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert message.state is State.EXPIRED
    assert message.reason == "validity.expired"
    kit.dispatcher.link_changed(1, is_up=True)
    assert kit.channels[1].seen == []


def test_a_long_message_gives_one_row_a_segment_and_the_path_rides_on_the_last() -> None:
    kit = Kit(channels=1)
    message = kit.message(texts=("a" * 153, "b" * 153, "c"))
    kit.accept(message)
    assert [s.segment for s in kit.channels[1].open] == [0, 1, 2]
    references = {s.payload[3] for s in kit.channels[1].open}
    assert len(references) == 1
    for number in range(3):
        kit.answer(1, Submitted(f"id{number}"))
    assert kit.paths(message) == [Path.NOTE, Path.NOTE, Path.SUBMITTED]
    assert message.carrier_ids == ["id0", "id1", "id2"]


def test_a_message_longer_than_the_window_leaves_piece_by_piece() -> None:
    kit = Kit(channels=1, window=4)
    message = kit.message(texts=tuple("x" * 10 for _ in range(9)))
    kit.accept(message)
    number = 0
    while kit.channels[1].open:
        kit.answer(1, Submitted(str(number)))
        number += 1
    assert number == 9
    assert message.state is State.SUBMITTED


def test_missing_segments_go_again_to_the_same_channel_with_the_same_reference() -> None:
    kit = Kit()
    message = kit.message(texts=("a" * 153, "b"))
    kit.accept(message)
    first, second = list(kit.channels[1].open)
    kit.answer(1, Submitted("one"), first)
    kit.answer(1, Throttled(1.0, "0x58"), second)
    assert message.state is State.SUBMITTING
    kit.clock.now += 1.5
    kit.dispatcher.tick()
    again = kit.channels[1].seen[-1]
    assert again.segment == 1
    assert again.payload == second.payload
    kit.answer(1, Submitted("two"), again)
    assert state_of(message) is State.SUBMITTED
    assert kit.channels[2].seen == []


def test_missing_segments_whose_channel_stays_down_make_the_message_uncertain() -> None:
    kit = Kit()
    message = kit.message(texts=("a" * 153, "b"))
    kit.accept(message)
    first, second = list(kit.channels[1].open)
    kit.answer(1, Submitted("one"), first)
    kit.dispatcher.link_changed(1, is_up=False)
    kit.answer(1, NotSent("channel.link_lost"), second)
    kit.clock.now += 61.0
    kit.dispatcher.tick()
    kit.events.flush()
    assert message.state is State.UNCERTAIN
    assert kit.channels[2].seen == []


def test_a_slow_bucket_delays_and_wakes() -> None:
    kit = Kit(channels=1, window=600, rate=100.0)
    kit.accept(*[kit.message() for _ in range(400)])
    sent = len(kit.channels[1].seen)
    assert 200 <= sent <= 256
    assert kit.timers
    kit.clock.now += 1.0
    for _, call in list(kit.timers):
        call()
    kit.events.flush()
    assert 80 <= len(kit.channels[1].seen) - sent <= 101


def test_a_long_message_whose_taken_segments_ended_before_the_last_was_refused_ends_too() -> None:
    kit = Kit(channels=1)
    message = kit.message(texts=("a", "b"))
    kit.accept(message)
    kit.answer(1, Submitted("one"))
    kit.answer(1, Throttled(1.0, "0x58"))
    report = kit.ledger.row(
        message, Path.NOTE, State.DELIVERED, kit.clock.unix(), segment=0, channel=1
    )
    assert report is not None
    kit.ledger.commit([report])
    kit.clock.now += 2.0
    kit.dispatcher.tick()
    kit.answer(1, NUMBER)
    assert message.state is State.PARTIALLY_DELIVERED
    assert kit.paths(message)[-2:] == [Path.SUBMITTED, Path.PARTIALLY_DELIVERED]


def test_a_vendor_that_cannot_be_reached_is_left_by_each_message_at_once() -> None:
    """Its link falls with the fifth failure in a row, each after seconds where nothing answers."""
    kit = Kit()
    message = kit.message(MessageClass.OTP)
    kit.accept(message)
    kit.answer(1, NotSent("channel.not_connected"))
    assert [submit.message for submit in kit.channels[2].seen] == [message]
    assert message.attempt == 1  # what was not written was none
    assert dict(kit.metrics.failover_total.values) == {("c1", "c2", "link"): 1}


def test_without_another_channel_it_is_tried_again() -> None:
    kit = Kit(channels=1)
    message = kit.message()
    kit.accept(message)
    kit.answer(1, NotSent("channel.not_connected"))
    assert [submit.message for submit in kit.channels[1].seen] == [message, message]


def test_a_lost_link_makes_nothing_wait_and_the_backup_has_it_in_the_same_moment() -> None:
    kit = Kit(window=8)
    waiting = [kit.message() for _ in range(20)]
    kit.accept(*waiting)
    kit.dispatcher.link_changed(1, is_up=False)
    kit.events.flush()
    assert kit.lanes.lane(1).size() == 0
    assert [one.message for one in kit.channels[2].seen] == waiting[7:14]  # no tick, no time
