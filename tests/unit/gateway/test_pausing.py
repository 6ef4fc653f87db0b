"""An operator pauses a channel: nothing new goes over it, nothing of what waits is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.breaker import BreakerState
from gateway.lanes import HELD
from sms.config import AdminState
from sms.model import FINAL_STATES, State
from sms.outcomes import Submitted, Throttled
from tests.support.flow_kit import Kit

ACTIVE, PAUSED, DRAINING = AdminState


def use(kit: Kit, **states: AdminState) -> None:
    """Channels c1 … in these states from now on; the others as they are."""
    known = kit.dispatcher.snapshot
    channels = {
        number: replace(one, admin_state=states.get(one.name, one.admin_state))
        for number, one in known.channels.items()
    }
    kit.dispatcher.reconfigure(replace(known, version=known.version + 1, channels=channels))
    while kit.timers:
        kit.timers.pop(0)[1]()
    kit.events.flush()


def sent(kit: Kit, channel: int) -> list[int]:
    return [submit.message.id for submit in kit.channels[channel].seen]


@pytest.mark.parametrize("state", [PAUSED, DRAINING])
def test_what_waits_goes_to_the_backup_and_what_is_under_way_ends_here(state):
    kit = Kit(window=4)
    waiting = [kit.message() for _ in range(7)]
    kit.accept(*waiting)
    use(kit, c1=state)
    first, rest = [one.id for one in waiting[:4]], [one.id for one in waiting[4:]]
    assert (sent(kit, 1), sent(kit, 2)) == (first, rest)
    kit.answer(1, Submitted("a1"))
    assert waiting[0].state is State.SUBMITTED
    after = kit.message()
    kit.accept(after)
    assert (sent(kit, 1), sent(kit, 2)) == (first, [*rest, after.id])
    assert kit.metrics.failover_total.values == {("c1", "c2", "paused"): 4}


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_channel_that_is_left_is_tried_at_once_when_somebody_resumes_it(is_looked_at):
    kit = Kit()
    watch = kit.dispatcher.channels[1].watch
    watch.link_failed(5)
    kit.dispatcher.tick()
    assert watch.state() is BreakerState.OPEN
    if is_looked_at:
        use(kit, c1=PAUSED)
    use(kit, c1=ACTIVE)
    kit.clock.now += 1.0
    kit.dispatcher.tick()
    assert (watch.state() is BreakerState.HALF_OPEN) is is_looked_at
    assert watch.is_left is not is_looked_at


def test_with_no_other_channel_it_is_held_until_it_is_resumed():
    kit = Kit(channels=1)
    use(kit, c1=PAUSED)
    message = kit.message()
    kit.accept(message)
    assert (message.state, message.channel) == (State.ACCEPTED, HELD)
    assert not kit.dispatcher.can_send(1)
    assert not kit.dispatcher.is_reachable(1)
    assert kit.dispatcher.room_for(1) == 0
    kit.dispatcher.tick()
    kit.dispatcher.link_changed(1, is_up=False)
    kit.dispatcher.link_changed(1, is_up=True)
    assert sent(kit, 1) == []
    use(kit, c1=ACTIVE)
    assert sent(kit, 1) == [message.id]


def test_two_that_are_paused_at_once_hand_nothing_to_each_other():
    kit = Kit(channels=3, window=1)
    messages = [kit.message() for _ in range(3)]
    block = kit.claims.block([one.id for one in messages], None)
    for message in messages:
        message.claim = block  # it could leave at once
    kit.accept(*messages)
    use(kit, c1=PAUSED, c2=PAUSED)
    assert (len(sent(kit, 1)), sent(kit, 2), len(sent(kit, 3))) == (1, [], 1)


def test_a_long_message_that_left_in_part_leaves_whole():
    """Its missing segment is no new message: it goes where the others went."""
    kit = Kit(window=4)
    message = kit.message(texts=("one", "two"))
    kit.accept(message)
    one, two = list(kit.channels[1].open)
    use(kit, c1=PAUSED)
    kit.answer(1, Submitted("a1"), one)
    kit.answer(1, Throttled(0.0, "8"), two)
    kit.clock.now += 1.5
    kit.dispatcher.tick()
    assert len(kit.channels[1].open) == 1
    kit.answer(1, Submitted("a2"))
    assert message.state is State.SUBMITTED
    assert sent(kit, 2) == []


def test_a_claim_that_comes_back_after_the_pause_goes_elsewhere():
    kit = Kit(window=4)
    message = kit.message()
    kit.lanes.reserve(message.message_class, 1)
    kit.ledger.took([message])
    kit.dispatcher.put([message])  # its claim is in a flush
    use(kit, c1=PAUSED)
    assert (sent(kit, 1), sent(kit, 2)) == ([], [message.id])


def test_it_drains_once_nothing_was_open_for_a_while():
    kit = Kit(channels=1)
    gone: list[int] = []
    kit.dispatcher.drain_after_s, kit.dispatcher.drained = 60.0, gone.append
    kit.accept(kit.message())
    use(kit, c1=DRAINING)

    def wait(seconds: float) -> list[int]:
        kit.clock.now += seconds
        kit.dispatcher.tick()
        return gone

    assert [wait(1), wait(100)] == [[], []]  # a submit is open
    kit.answer(1, Submitted("a1"))
    assert wait(59) == []
    assert wait(2) == [1]
    gone.clear()
    use(kit, c1=PAUSED)
    assert wait(100) == []


STATES = st.tuples(*[st.sampled_from([ACTIVE, PAUSED, DRAINING])] * 3)


@given(
    st.lists(
        st.one_of(st.tuples(st.just("use"), STATES), st.sampled_from(["send", "answer"])),
        max_size=30,
    )
)
def test_no_history_sends_over_a_paused_channel_or_loses_a_message(steps):
    kit = Kit(channels=3, window=2)
    messages = []
    states = (ACTIVE,) * 3
    for step in steps:
        before = {number: len(sent(kit, number)) for number in kit.channels}
        if step == "send":
            messages.append(kit.message())
            kit.accept(messages[-1])
        elif step == "answer":
            for number, channel in kit.channels.items():
                if channel.open:
                    kit.answer(number, Submitted(f"x{len(sent(kit, number))}"))
                    break
        else:
            states = step[1]
            use(kit, **dict(zip(("c1", "c2", "c3"), states, strict=True)))
        for number, state in enumerate(states, 1):
            assert state is ACTIVE or len(sent(kit, number)) == before[number]
    use(kit, c1=ACTIVE, c2=ACTIVE, c3=ACTIVE)
    while any(channel.open for channel in kit.channels.values()):
        for number, channel in kit.channels.items():
            if channel.open:
                kit.answer(number, Submitted(f"x{len(sent(kit, number))}"))
    taken = sorted(one for number in kit.channels for one in sent(kit, number))
    assert taken == sorted(message.id for message in messages)
    assert all(message.state not in FINAL_STATES for message in messages)
