"""Extra attempts wait for their budget and go on when there is some: the flow on fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.lastlook import SLICE
from sms.model import Message, MessageClass, State
from sms.outcomes import Cause, NotSent, Rejected, Submitted, Uncertain
from tests.support.flow_kit import Kit

SYSTEM = Rejected("0x00000008", Cause.CHANNEL, "carrier.system_error")
NUMBER = Rejected("0x0000000B", Cause.NUMBER, "recipient.invalid")


def refused(kit: Kit, *messages: Message) -> None:
    """The first channel refuses them all, the waits of a second are over."""
    kit.accept(*messages)
    for submit in list(kit.channels[1].open):
        kit.answer(1, SYSTEM, submit)
    kit.clock.now += 1.3
    later(kit)


def later(kit: Kit, seconds: float = 0.0) -> None:
    """Time passes, and the backup takes what it gets."""
    while True:
        step_s = min(seconds, 5.0)
        kit.clock.now += step_s
        kit.dispatcher.tick()
        kit.events.flush()
        for submit in list(kit.channels[2].open):
            kit.answer(2, Submitted(f"b{submit.message.id}"), submit)
        seconds -= step_s
        if seconds <= 0.0:
            return


def ids(messages: list[Message]) -> list[int]:
    return sorted(message.id for message in messages)


def on_backup(kit: Kit) -> list[Message]:
    return [submit.message for submit in kit.channels[2].seen]


def test_beyond_the_budget_they_wait_and_go_on_when_there_is_some() -> None:
    kit = Kit(window=100)
    messages = [kit.message() for _ in range(25)]
    refused(kit, *messages)
    assert len(on_backup(kit)) == 10
    assert kit.dispatcher.retries.size == 15
    assert {m.state for m in kit.dispatcher.retries} == {State.QUEUED}  # none of them failed
    later(kit, 30.0)
    assert len(on_backup(kit)) == 10
    later(kit, 31.0)
    assert len(on_backup(kit)) == 20
    later(kit, 62.0)
    assert on_backup(kit) == messages  # oldest first
    assert kit.dispatcher.retries.size == 0


def test_by_class_then_by_age_whoever_is_who_has_waited() -> None:
    kit = Kit(window=100)
    blast = [kit.message(MessageClass.MARKETING, tenant=n % 3 + 1) for n in range(12)]
    notices = [kit.message(tenant=n % 3 + 1) for n in range(12)]
    codes = [kit.message(MessageClass.OTP) for _ in range(4)]
    refused(kit, *blast, *notices, *codes)
    first = on_backup(kit)
    assert len(first) == 10
    assert all(code in first for code in codes)
    wanted = [m for group in (notices, blast) for m in group if m not in first]
    later(kit, 62.0)
    assert ids(on_backup(kit)[10:]) == ids(wanted[:10])
    later(kit, 62.0)
    assert ids(on_backup(kit)[20:]) == ids(wanted[10:])


def test_a_tenant_without_budget_lets_the_others_pass() -> None:
    kit = Kit(window=4000)
    well = [kit.message(tenant=2) for _ in range(300)]
    kit.accept(*well)
    later(kit, 1.1)
    assert kit.dispatcher.retries.size == 0
    bad = [kit.message(tenant=1) for _ in range(40)]
    more = [kit.message(tenant=2) for _ in range(15)]
    kit.accept(*bad, *more)
    for submit in list(kit.channels[1].open):
        kit.answer(1, SYSTEM if submit.message not in well else Submitted("x"), submit)
    later(kit, 1.3)
    gone = on_backup(kit)
    assert sum(m.tenant == 1 for m in gone) == 10
    assert sum(m.tenant == 2 for m in gone) == 15


def test_what_waits_expires_with_the_reason_it_had_to_wait_for() -> None:
    kit = Kit(window=100)
    messages = [kit.message(valid_s=20.0) for _ in range(12)]
    refused(kit, *messages)
    waiting = list(kit.dispatcher.retries)
    assert len(waiting) == 2
    later(kit, 22.0)
    kit.events.flush()
    assert [m.state for m in waiting] == [State.EXPIRED] * 2
    assert {(m.reason, m.carrier_code) for m in waiting} == {("carrier.system_error", "0x00000008")}
    assert kit.dispatcher.retries.size == 0


def test_what_was_never_sent_costs_nothing() -> None:
    kit = Kit(window=100)
    refused(kit, *[kit.message() for _ in range(10)])  # the budget is used up
    fresh = [kit.message() for _ in range(30)]
    kit.accept(*fresh)
    kit.dispatcher.link_changed(1, is_up=False)
    for submit in list(kit.channels[1].open):
        kit.answer(1, NotSent("channel.link_lost"), submit)
    later(kit, 0.1)
    assert set(map(id, fresh)) <= set(map(id, on_backup(kit)))


def test_a_bad_number_never_sees_a_second_channel_budget_or_not() -> None:
    kit = Kit(window=100)
    message = kit.message()
    kit.accept(message)
    kit.answer(1, NUMBER)
    later(kit, 5.0)
    assert message.state is State.FAILED
    assert on_backup(kit) == []


@pytest.mark.parametrize("ended", ["canceled", "handed"])
def test_what_a_command_ended_or_held_is_not_let_go(ended: str) -> None:
    kit = Kit(window=100)
    refused(kit, *[kit.message() for _ in range(12)])
    first, second = kit.dispatcher.retries
    if ended == "canceled":
        first.state = State.CANCELED
    else:
        first.is_handed = True
    later(kit, 62.0)
    assert first not in on_backup(kit)
    assert second in on_backup(kit)
    assert kit.dispatcher.retries.size == 0


def test_one_that_was_held_and_read_back_waits_beside_what_it_was() -> None:
    kit = Kit(window=100)
    refused(kit, *[kit.message() for _ in range(11)])
    [held] = kit.dispatcher.retries
    held.is_handed = True  # that object is nobody's from here on
    back = replace(held, is_handed=False, not_before=0.0)
    kit.ledger.live[back.id] = back
    kit.dispatcher.put([back])
    assert kit.dispatcher.retries.size == 2
    later(kit, 62.0)
    gone = [message for message in on_backup(kit) if message.id == held.id]
    assert [id(message) for message in gone] == [id(back)]
    assert kit.dispatcher.retries.size == 0


def test_a_long_lane_without_budget_is_gone_through_in_slices() -> None:
    kit = Kit(window=100)
    messages = [kit.message() for _ in range(2 * SLICE + 30)]
    for message in messages:
        message.state, message.attempt, message.tried = State.QUEUED, 1, (2,)
    kit.ledger.took(messages)
    kit.dispatcher.put(messages)
    sizes = [kit.dispatcher.retries.size]
    while kit.timers:
        kit.timers.pop(0)[1]()
        sizes.append(kit.dispatcher.retries.size)
    assert sizes == [SLICE, 2 * SLICE, 2 * SLICE + 20]  # ten have left


def test_gauges_and_counters_tell_of_it() -> None:
    kit = Kit(window=100)
    refused(kit, *[kit.message() for _ in range(12)])
    kit.dispatcher.retries.set_gauges(kit.clock.unix() + 5.0)
    metrics = kit.metrics
    assert metrics.retries_waiting.values["transactional",] == 2
    assert metrics.retries_oldest_age_seconds.values["transactional",] > 5.0
    assert metrics.retries_denied_total.values["total",] == 2


def test_a_second_copy_that_waits_for_its_budget_is_counted_too_and_denied_once() -> None:
    kit = Kit(window=100)
    codes = [kit.message(MessageClass.OTP) for _ in range(2)]
    kit.accept(*codes)
    for submit in list(kit.channels[1].open):
        kit.answer(1, Uncertain("link.lost"), submit)
    kit.clock.now += 8.0
    refused(kit, *[kit.message() for _ in range(10)])  # the budget is used up
    told = kit.metrics
    for _ in range(3):
        for code in codes:
            kit.evidence.due(code)
    kit.dispatcher.retries.set_gauges(kit.clock.unix() + 5.0)
    assert told.retries_waiting.values["otp",] == 2
    assert told.retries_oldest_age_seconds.values["otp",] > 5.0
    assert told.retries_denied_total.values["total",] == 2
    later(kit, 62.0)  # there is budget again: one is sent, of the other its receipt comes
    kit.evidence.due(codes[0])
    kit.evidence.found(codes[1])
    kit.dispatcher.retries.set_gauges(kit.clock.unix())
    assert told.retries_waiting.values["otp",] == 0


def test_after_recovery_what_a_carrier_had_failed_goes_first_and_keeps_its_reason() -> None:
    kit = Kit(window=100)
    kit.dispatcher.link_changed(2, is_up=False)
    failed = [kit.message() for _ in range(3)]
    kit.accept(*failed)
    for submit in reversed(kit.channels[1].open):
        kit.answer(1, SYSTEM, submit)
    kit.channels[1].open.clear()
    kit.dispatcher.link_changed(1, is_up=False)
    fresh = [kit.message() for _ in range(3)]
    kit.accept(*fresh)
    later(kit, 1.3)  # all of them are held
    assert {m.reason for m in failed} == {"carrier.system_error"}
    kit.dispatcher.link_changed(2, is_up=True)
    later(kit, 1.0)
    assert on_backup(kit) == [*failed, *fresh]
