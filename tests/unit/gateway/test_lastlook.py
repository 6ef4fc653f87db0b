"""The last look of policy before a message leaves, with the dispatcher that asks it."""

from __future__ import annotations

from compliance.hours import Hours
from compliance.policy import SendingPolicy
from compliance.suppressions import PLATFORM, unkeyed_index
from gateway.lastlook import SLICE
from sms.model import Message, MessageClass, State
from tests.support.flow_kit import UNIX, Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass
NUMBER = "8613800138000"
CLOSED = Hours(23, 24)  # the kit's clock says 16:16 in Shanghai


def closed(kit: Kit) -> list[tuple[Message, float]]:
    """Outside the hours of marketing; what is put off."""
    put_off: list[tuple[Message, float]] = []
    kit.dispatcher.last_look.policy = SendingPolicy(CLOSED)
    kit.dispatcher.last_look.put_off = put_off.extend
    return put_off


def suppress(kit: Kit, tenant: int, *classes: MessageClass) -> None:
    index = unkeyed_index(tenant, NUMBER)
    kit.dispatcher.last_look.policy.suppress(tenant, index, classes)


def states(*messages: Message) -> list[tuple[State, str | None]]:
    return [(message.state, message.reason) for message in messages]


def test_marketing_outside_its_hours_is_put_off_and_the_others_go() -> None:
    kit = Kit()
    put_off = closed(kit)
    texts = [kit.message(cls) for cls in (MARKETING, TRANSACTIONAL, OTP, MARKETING)]
    kit.accept(*texts)
    assert [message for message, _ in put_off] == [texts[0], texts[3]]
    begins = {until for _, until in put_off}
    assert len(begins) == 1
    assert 0 < begins.pop() - UNIX - kit.clock.now < 86_400
    assert [one.message for one in kit.channels[1].seen] == [texts[2], texts[1]]


def test_who_is_suppressed_after_the_accept_is_rejected() -> None:
    kit = Kit()
    for number in kit.channels:
        kit.dispatcher.link_changed(number, is_up=False)
    texts = [kit.message(cls) for cls in (MARKETING, TRANSACTIONAL, OTP)]
    other = kit.message(MARKETING, tenant=2)
    kit.accept(*texts, other)
    suppress(kit, 1, MARKETING, OTP)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.events.flush()
    assert states(texts[0], texts[2]) == [(State.REJECTED, "policy.opted_out")] * 2
    assert [one.message for one in kit.channels[1].seen] == [texts[1], other]
    assert kit.lanes.used(MARKETING) == 1
    assert texts[0].id not in kit.ledger.live


def test_the_platform_s_list_holds_for_every_tenant() -> None:
    kit = Kit()
    suppress(kit, PLATFORM, MARKETING)
    texts = [kit.message(MARKETING, tenant=tenant) for tenant in (1, 2)]
    kit.accept(*texts)
    assert states(*texts) == [(State.REJECTED, "recipient.blocked")] * 2


def test_what_waits_while_no_channel_is_up_is_rejected_at_once() -> None:
    kit = Kit()
    for number in kit.channels:
        kit.dispatcher.link_changed(number, is_up=False)
    refused, good = kit.message(MARKETING), kit.message(TRANSACTIONAL)
    kit.accept(refused, good)
    suppress(kit, 1, MARKETING)
    look = kit.dispatcher.last_look
    look.reject_refused(list(kit.ledger.live.values()), kit.clock.unix())
    kit.events.flush()
    assert refused.state is State.REJECTED
    assert list(kit.ledger.live) == [good.id]
    kit.dispatcher.link_changed(1, is_up=True)  # it still stands in its lane, and is passed over
    kit.events.flush()
    assert [one.message for one in kit.channels[1].seen] == [good]
    assert kit.metrics.illegal_transition_total.samples() == [([], [0.0])]


def test_what_is_suppressed_in_a_lane_leaves_it_with_the_next_sweep() -> None:
    """Its channel may be down for long: no dead object, no slot of the lane, no age is kept."""
    kit = Kit()
    for number in kit.channels:
        kit.dispatcher.link_changed(number, is_up=False)
    refused = [kit.message(MARKETING) for _ in range(20)]
    good = kit.message(MARKETING, tenant=2)
    kit.accept(*refused, good)
    suppress(kit, 1, MARKETING)
    kit.dispatcher.last_look.reject_refused(list(kit.ledger.live.values()), kit.clock.unix())
    kit.events.flush()
    lane = kit.lanes.lane(0)
    assert lane.size() == 21
    kit.dispatcher._sweep(MARKETING)
    assert [message for _, queue in lane.queues() for message in queue] == [good]
    assert lane.size() == kit.lanes.used(MARKETING) == 1
    assert kit.dispatcher.withdrawn == {}


def test_many_are_stopped_in_slices() -> None:
    kit = Kit(window=4)
    put_off = closed(kit)
    texts = [kit.message(MARKETING) for _ in range(2 * SLICE + 10)]
    kit.lanes.reserve(MARKETING, len(texts))
    kit.ledger.took(texts)
    kit.dispatcher.put(texts)
    for turn in (1, 2):
        assert len(put_off) == turn * SLICE
        [(_, go_on)], kit.timers = kit.timers, []
        go_on()
    assert len(put_off) == len(texts)
    assert kit.timers == []
