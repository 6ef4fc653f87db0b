"""What a worker that drains leaves behind: nothing claimed that was not sent."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.peers import Peers
from gateway.remote import RemoteChannels
from receipts.state import Path
from sms.model import Message, MessageClass, State
from sms.outcomes import NotSent, Submitted, Throttled
from store.processes import LiveProcess
from tests.support.flow_kit import Kit

ME, OTHER = 1, 6


class Leaving(Kit):
    """The kit as a flow with peers; channel 1 is ours, of window 4."""

    def __init__(self) -> None:
        super().__init__(channels=1, window=4)
        self.remote = RemoteChannels(
            ids=self.ids,
            lanes=self.lanes,
            ledger=self.ledger,
            metrics=self.metrics,
            unix=self.clock.unix,
        )
        self.dispatcher.remote = self.remote
        self.remote.go_on = self.dispatcher.pump
        flow: Any = self
        nobody: Any = None
        self.accepting = 1
        self.peers = Peers(flow, ME, self.remote, nobody, nobody, nobody, nobody, None)

    def adopt(self, count: int) -> list[Message]:
        messages = [self.message() for _ in range(count)]
        self.claims.blocks[90] = count
        for message in messages:
            message.claim, message.is_adopted = 90, True
            self.ledger.take_back(message)
        self.dispatcher.put_adopted(messages)
        return messages


def state_of(message: Message) -> State:
    return message.state


def drained(kit: Leaving) -> None:
    kit.dispatcher.stop()
    kit.peers.hand_back()
    kit.events.flush()


def test_own_messages_that_never_left_lose_their_claim() -> None:
    kit = Leaving()
    messages = [kit.message() for _ in range(10)]
    for message in messages:
        message.claim = kit.claims.block([message.id], None)
    kit.accept(*messages)
    sent = {submit.message.id for submit in kit.channels[1].seen}
    assert 0 < len(sent) < 10
    drained(kit)
    assert {m.id for m in messages if m.claim} == sent
    assert sum(kit.claims.blocks.values()) == len(sent)
    assert len(kit.ledger.live) == 10  # the low-water mark still finds them


def test_segments_that_found_no_slot_are_no_attempt() -> None:
    kit = Leaving()
    runtime = kit.dispatcher.channels[1]
    submits = kit.dispatcher._submits(kit.message(), runtime, kit.clock.unix())
    runtime.unsent.extend(submits)
    assert submits[0].message.state is State.SUBMITTING
    drained(kit)
    assert (state_of(submits[0].message), submits[0].message.attempt) == (State.QUEUED, 0)
    assert kit.journal.lines == []


@pytest.mark.parametrize("is_up", [True, False])
def test_a_long_message_that_left_in_part_and_was_not_mended_in_time_is_uncertain(
    is_up: bool,
) -> None:
    """Not lost, and not sent whole again unmarked, whoever comes next and with what journal."""
    kit = Leaving()
    half = kit.message(texts=("a", "b"))
    kit.accept(half)
    claim = half.claim
    kit.answer(1, Submitted("S0"))
    kit.answer(1, Throttled(1.0, "x"))
    kit.dispatcher.stop()
    if not is_up:
        kit.dispatcher.link_changed(1, is_up=False)
    for _ in range(20):  # each try is throttled again
        kit.clock.now += 0.5
        kit.dispatcher.tick()
        if kit.channels[1].open:
            kit.answer(1, Throttled(1.0, "x"))
    assert state_of(half) is State.SUBMITTING
    kit.peers.hand_back()
    kit.events.flush()
    assert state_of(half) is State.UNCERTAIN
    assert kit.paths(half) == [Path.NOTE, Path.UNCERTAIN]
    note, last = [row for row in kit.events.rows if row.message_id == half.id]
    assert (note.segment, note.carrier_id) == (0, "S0")
    assert last.reason == "segment.uncertain"  # as recovery from the journal says
    assert half.is_parked  # with what is to be done about its lost answer
    assert any("parked" in sql for sql in kit.events.sql)
    assert half.id not in kit.ledger.live
    assert kit.claims.blocks[claim] == 0


def test_a_long_message_of_which_nothing_left_in_the_end_is_no_attempt() -> None:
    kit = Leaving()
    kit.channels[1].size = 1
    long = kit.message(texts=("a", "b"))
    kit.accept(long)
    kit.dispatcher.stop()
    [first] = kit.channels[1].open
    kit.answer(1, NotSent("cut before it was written"), first)
    drained(kit)
    assert (state_of(long), long.attempt) == (State.QUEUED, 0)


def test_what_came_from_others_goes_to_who_has_the_channel_else_waits_for_anybody() -> None:
    for receivers, to, channel in (([OTHER], OTHER, 1), ([], ME, 0)):
        kit = Leaving()
        kit.adopt(10)
        kit.remote.update({1: receivers}, ())
        sent = {submit.message.id for submit in kit.channels[1].seen}
        drained(kit)
        assert kit.ledger.live.keys() == sent
        assert kit.claims.blocks[90] == len(sent)
        [block] = kit.remote.blocks.values()
        assert (block.receiver, block.channel, block.size) == (to, channel, 10 - len(sent))


def test_what_may_wait_is_shared_out_among_those_that_accept() -> None:
    kit = Leaving()
    live = [LiveProcess(number, "n", number, "all", 1) for number in (0, ME, OTHER)]
    carrier = LiveProcess(9, "n", 3, "carrier", 1)
    kit.peers.lived([*live, carrier])
    assert kit.accepting == 3
    kit.peers.lived([carrier])  # our own lease lapsed, and nobody else accepts
    assert kit.accepting == 1


def test_every_class_of_message_is_handed_back_in_blocks_of_its_own() -> None:
    kit = Leaving()
    kit.dispatcher.link_changed(1, is_up=False)
    messages = kit.adopt(4)
    for message, cls in zip(messages, [*MessageClass, MessageClass.OTP], strict=True):
        message.message_class = cls
    drained(kit)
    assert sorted(block.size for block in kit.remote.blocks.values()) == [1, 1, 2]


def test_living_processes_are_counted_by_role() -> None:
    kit = Leaving()
    kit.peers.lived([LiveProcess(n, "node", n, "api" if n else "all", 1) for n in range(3)])
    assert kit.metrics.processes.values == {("all",): 1, ("api",): 2, ("carrier",): 0}
