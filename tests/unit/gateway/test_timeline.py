"""What happened to a message: steps in order, attempts linked, and why it took another channel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.health import Signal
from gateway.api.standing import Clocks, standing_of
from gateway.detours import detour_of, told_detour
from gateway.holds import Hold, told_holds
from gateway.timeline import timeline
from receipts.state import Path
from sms.config import AdminState
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.flow_kit import Kit

AT = 1_800_000_000.123
NAMES = {1: "c1", 2: "c2", 7: "a", 8: "b"}
SYSTEM = Rejected("8", Cause.CHANNEL, "carrier.system_error")


def make(texts=("a",)):
    return Message(
        1 << 22, 1, MessageClass.OTP, "8613800138000", Carrier.CM, 86, Encoding.UCS2, texts,
        AT + 300, AT,
    )  # fmt: skip


def row(sequence, path, status, at, **columns):
    return EventRow(1 << 22, sequence, sequence, 1, path, status, at, **columns)


def told(steps, *fields):
    return [tuple(step[name] for name in ("step", *fields)) for step in steps]


def test_segments_of_a_long_message():
    rows = [
        row(2, Path.NOTE, State.SUBMITTED, AT + 1, segment=0, channel=7, carrier_id="x0"),
        row(3, Path.SUBMITTED, State.SUBMITTED, AT + 1.1, segment=1, channel=7, carrier_id="x1",
            times=(5, 100)),
        row(4, Path.NOTE, State.DELIVERED, AT + 2, segment=1, channel=7, code="DELIVRD"),
        row(5, Path.PARTIALLY_DELIVERED, State.UNDELIVERED, AT + 3, segment=0, channel=7,
            code="UNDELIV", reason="carrier.undelivered"),
    ]  # fmt: skip
    steps = timeline(make(("a", "b")), rows, NAMES.get)
    assert told(steps, "segment", "carrier_id", "ms", "attempt") == [
        ("accepted", None, None, None, None),
        ("policy", None, None, None, None),
        ("queued", None, None, 5, 1),
        ("attempt", 0, "x0", None, 1),
        ("attempt", 1, "x1", 100, 1),
        ("receipt", 1, "x1", 900, 1),
        ("receipt", 0, "x0", 2000, 1),
    ]


def test_a_failed_attempt_keeps_its_reason_and_the_next_one_says_what_it_follows():
    rows = [
        row(2, Path.REQUEUED, State.QUEUED, AT + 1, channel=7, code="0x08",
            reason="carrier.system_error", times=(1, 20)),
        row(3, Path.SUBMITTED, State.SUBMITTED, AT + 2, segment=0, channel=8, carrier_id="y",
            times=(3, 30, *detour_of("refused", 7))),
        row(4, Path.DELIVERED, State.DELIVERED, AT + 4, segment=0, channel=8),
    ]  # fmt: skip
    steps = timeline(make(), rows, NAMES.get)
    assert told(steps, "channel", "code", "reason", "ms", "attempt", "follows") == [
        ("accepted", None, None, None, None, None, None),
        ("policy", None, "policy.allowed", None, None, None, None),
        ("queued", "a", None, None, 1, 1, None),
        ("attempt", "a", "0x08", "carrier.system_error", 20, 1, None),
        ("queued", "b", None, None, 3, 2, None),
        ("failover", "b", "refused", None, None, 2, None),
        ("attempt", "b", None, None, 30, 2, 1),
        ("receipt", "b", None, None, 2000, 2, None),
    ]
    assert steps[5]["detail"] == "over b instead of a: refused"


def test_ids_that_come_late_stay_with_the_attempt_of_their_copy():
    rows = [
        row(2, Path.UNCERTAIN, State.UNCERTAIN, AT + 1, channel=7, reason="channel.timeout"),
        row(3, Path.QUEUED, State.QUEUED, AT + 2, copy=1, reason="uncertain.resend"),
        row(4, Path.NOTE, State.SUBMITTED, AT + 3, segment=0, channel=7, carrier_id="late"),
        row(5, Path.SUBMITTED, State.SUBMITTED, AT + 4, copy=1, segment=0, channel=8,
            carrier_id="y", times=(3, 30, *detour_of("uncertain", 7))),
        row(6, Path.DELIVERED, State.DELIVERED, AT + 5, segment=0, channel=7),
    ]  # fmt: skip
    steps = timeline(make(), rows, NAMES.get)
    assert told(steps, "channel", "carrier_id", "attempt", "follows") == [
        ("accepted", None, None, None, None),
        ("policy", None, None, None, None),
        ("attempt", "a", None, 1, None),
        ("queued", None, None, None, None),
        ("attempt", "a", "late", 1, None),
        ("queued", "b", None, 2, None),
        ("failover", "b", None, 2, None),
        ("attempt", "b", "y", 2, 1),
        ("receipt", "a", "late", 1, None),
    ]


def test_an_end_without_a_carrier_is_told_by_its_status():
    rows = [row(2, Path.EXPIRED, State.EXPIRED, AT + 300, reason="validity.expired")]
    steps = timeline(make(), rows, NAMES.get)
    assert told(steps, "code", "reason", "ms") == [
        ("accepted", None, None, None),
        ("policy", "policy.allowed", None, None),
        ("expired", "validity.expired", "validity.expired", 300_000),
    ]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        (Path.REJECTED, State.REJECTED, "policy.opted_out"),
        (Path.CANCELED, State.CANCELED, None),
        (Path.QUEUE_FAILED, State.FAILED, "channel.unavailable"),
    ],
)
def test_an_end_in_the_queue_says_how_long_it_waited_since_its_hour_or_its_last_attempt(
    path, status, reason
):
    message = make()
    message.send_at = AT + 10
    hour = row(2, Path.SCHEDULED, State.SCHEDULED, AT, reason="policy.quiet_hours")
    steps = timeline(message, [hour, row(3, path, status, AT + 12, reason=reason)], NAMES.get)
    assert told(steps, "code", "ms")[2:] == [
        ("scheduled", "policy.quiet_hours", None),
        (status.value, reason, 2000),
    ]
    again = row(2, Path.REQUEUED, State.QUEUED, AT + 1, channel=7, times=(1, 20))
    steps = timeline(make(), [again, row(3, path, status, AT + 31)], NAMES.get)
    assert told(steps[-1:], "ms") == [(status.value, 30_000)]
    late = row(2, Path.SUBMITTED, State.SUBMITTED, AT + 1, channel=7, times=(1, 20))
    steps = timeline(make(), [late, row(3, Path.EXPIRED, State.EXPIRED, AT + 31)], NAMES.get)
    assert told(steps[-1:], "ms") == [("expired", None)]  # that is the carrier's word


def test_every_cause_of_a_failover_is_kept():
    words = {*map(str, Signal), "paused", "refused", "uncertain", "throttled"}
    assert {told_detour((0, 0, *detour_of(word, 7))) for word in words} == {
        (word, 7) for word in words
    }
    assert told_detour((0, 0, *detour_of("of a newer version", 7))) == ("", 7)
    assert told_detour((0, 0, 999, 7)) == ("", 7)
    assert told_detour((5, 6)) is told_detour(()) is None


def use(kit, **states):
    """Channels in these states from now on."""
    known = kit.dispatcher.snapshot
    channels = {
        number: replace(one, admin_state=states.get(one.name, one.admin_state))
        for number, one in known.channels.items()
    }
    kit.dispatcher.reconfigure(replace(known, version=known.version + 1, channels=channels))
    while kit.timers:
        kit.timers.pop(0)[1]()
    kit.events.flush()


def pass_time(kit, seconds):
    kit.clock.now += seconds
    kit.dispatcher.tick()
    kit.events.flush()


def steps_of(kit, message):
    rows = [row for row in kit.events.rows if row.message_id == message.id]
    return timeline(message, rows, NAMES.get)


@pytest.mark.parametrize(
    ("first", "cause"), [(SYSTEM, "refused"), (Uncertain("channel.timeout"), "uncertain")]
)
def test_a_tried_channel_is_named_with_what_it_said(first, cause):
    kit = Kit()
    message = kit.message(MessageClass.OTP)
    kit.accept(message)
    kit.answer(1, first)
    pass_time(kit, 20)
    if message.state is State.UNCERTAIN:
        kit.evidence.due(message)
        kit.events.flush()
    kit.answer(2, Submitted("y"))
    kit.events.flush()
    steps = steps_of(kit, message)
    found = [step for step in steps if step["step"] in ("attempt", "failover")]
    assert told(found, "channel", "attempt", "follows") == [
        ("attempt", "c1", 1, None),
        ("failover", "c2", 2, None),
        ("attempt", "c2", 2, 1),
    ]
    assert (found[1]["code"], found[1]["detail"]) == (cause, f"over c2 instead of c1: {cause}")
    assert found[0]["reason"] == first.reason


def test_a_channel_that_is_down_or_throttles_is_named_while_it_waits_and_afterwards():
    kit = Kit(window=1)
    kit.dispatcher.link_changed(1, is_up=False)
    first, second = kit.message(), kit.message()
    kit.accept(first, second)
    standing = standing_of(second, NAMES.get, Clocks(kit.clock.now, 0.0)) or {}
    assert standing["detail"] == "waits in the queue of c2, instead of c1: link"
    standing = standing_of(first, NAMES.get, Clocks(kit.clock.now, 0.0)) or {}
    assert standing["detail"] == "attempt on c2, no answer yet, instead of c1: link"
    assert (standing["attempt"], standing["follows"]) == (1, None)
    kit.answer(2, Submitted("y"))
    kit.events.flush()
    assert ("failover", "link") in told(steps_of(kit, first), "code")

    kit.dispatcher.link_changed(1, is_up=True)
    kit.answer(2, Submitted("z"))
    third = kit.message()
    kit.accept(third)
    assert third.detour == ()
    kit.answer(1, Submitted("x"))
    kit.events.flush()
    assert told(steps_of(kit, third), "attempt") == [
        ("accepted", None), ("policy", None), ("queued", 1), ("attempt", 1),
    ]  # fmt: skip

    fourth = kit.message(MessageClass.OTP)
    kit.accept(fourth)
    for _ in range(2):
        kit.answer(1, Throttled(1.0, "8"))
        pass_time(kit, 2)
    kit.answer(2, Submitted("w"))
    kit.events.flush()
    assert ("failover", "throttled") in told(steps_of(kit, fourth), "code")
    [_, queued] = [step for step in steps_of(kit, fourth) if step["step"] in ("policy", "queued")]
    assert (queued["channel"], queued["code"]) == ("c2", "throttled")


def queued_of(kit, message):
    return [step for step in steps_of(kit, message) if step["step"] == "queued"]


def test_a_wait_says_how_long_the_carrier_throttled_it():
    kit = Kit()
    message, other = kit.message(), kit.message()
    kit.accept(message)
    for _ in range(2):
        kit.answer(1, Throttled(1.0, "8"))
        standing = standing_of(message, NAMES.get, Clocks(kit.clock.now, 0.0)) or {}
        assert standing["detail"].startswith("throttled by c1, waits to be tried again in ")
        pass_time(kit, 2)
    kit.answer(1, Submitted("x"))
    kit.accept(other)
    kit.answer(1, Submitted("y"))
    kit.events.flush()
    [queued] = queued_of(kit, message)
    assert (queued["channel"], queued["code"], queued["ms"]) == ("c1", "throttled", 4000)
    assert queued["detail"] == "4000 ms of it because the carrier throttled it"
    [queued] = queued_of(kit, other)
    assert (queued["code"], "detail" in queued) == (None, False)
    assert [len(row.times) for row in kit.events.rows if row.message_id == other.id] == [2]


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_wait_says_how_long_no_channel_of_the_route_was_there(is_paused):
    kit = Kit()
    names = ("c1", "c2")
    if is_paused:
        use(kit, **dict.fromkeys(names, AdminState.PAUSED))
    else:
        for channel in (1, 2):
            kit.dispatcher.link_changed(channel, is_up=False)
    message = kit.message()
    kit.accept(message)
    pass_time(kit, 7)
    if is_paused:
        use(kit, **dict.fromkeys(names, AdminState.ACTIVE))
    else:
        for channel in (1, 2):
            kit.dispatcher.link_changed(channel, is_up=True)
    pass_time(kit, 0)
    while kit.timers:
        kit.timers.pop(0)[1]()
    kit.answer(message.channel, Submitted("x"))
    kit.events.flush()
    [queued] = queued_of(kit, message)
    assert (queued["code"], queued["ms"]) == ("channel", 7000)
    assert "all down or paused" in queued["detail"]


def test_a_wait_says_how_long_its_retry_budget_was_used_up():
    kit = Kit(window=100)
    messages = [kit.message() for _ in range(12)]
    kit.accept(*messages)
    for submit in list(kit.channels[1].open):
        kit.answer(1, SYSTEM, submit)
    pass_time(kit, 3)
    [held] = {message.id for message in kit.dispatcher.retries} - {messages[-2].id}
    message = messages[-1]
    assert message.id == held
    standing = standing_of(message, NAMES.get, Clocks(kit.clock.now, 0.0)) or {}
    assert standing["detail"].startswith("waits for its retry budget since ")
    for seconds in (0, 62):
        pass_time(kit, seconds)
        for submit in list(kit.channels[2].open):
            kit.answer(2, Submitted(f"b{submit.message.id}"), submit)
        kit.events.flush()
    first, second = queued_of(kit, message)
    assert (first["code"], second["code"], second["attempt"]) == (None, "budget", 2)
    assert 59_000 <= second["ms"] <= 66_000
    assert ("failover", "refused") in told(steps_of(kit, message), "code")


def test_waits_stand_behind_a_detour_or_alone():
    assert told_holds((5, 6, 0, 3, 0)) == [(Hold.CHANNEL, 3)]
    assert told_holds((5, 6, *detour_of("link", 7), 1, 0, 2)) == [
        (Hold.THROTTLED, 1),
        (Hold.BUDGET, 2),
    ]
    assert told_detour((5, 6, *detour_of("link", 7), 1, 0, 2)) == ("link", 7)
    assert told_detour((5, 6, 0, 3, 0)) is None
    assert told_holds((5, 6, *detour_of("link", 7))) == told_holds((5, 6)) == told_holds(()) == []
