"""What a worker that drains leaves behind: nothing claimed that was not sent."""

from __future__ import annotations

from typing import Any

from gateway.peers import Peers
from gateway.remote import RemoteChannels
from sms.model import Message, MessageClass, State
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
        self.reports_desk = self
        self.share = (0, 1)
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


def test_what_belongs_to_nobody_is_shared_out_among_the_living() -> None:
    kit = Leaving()
    live = [LiveProcess(number, "n", number, "all", 1) for number in (0, ME, OTHER)]
    carrier = LiveProcess(9, "n", 3, "carrier", 1)
    kit.peers.lived([*live, carrier])
    assert kit.share == (1, 4)
    assert kit.accepting == 3  # each of them keeps so much of what may wait
    kit.peers.lived(live)
    assert kit.share == (1, 3)
    kit.peers.lived([LiveProcess(OTHER, "n", 0, "all", 1)])  # our own lease lapsed
    assert kit.share == (1, 3)


def test_every_class_of_message_is_handed_back_in_blocks_of_its_own() -> None:
    kit = Leaving()
    kit.dispatcher.link_changed(1, is_up=False)
    messages = kit.adopt(4)
    for message, cls in zip(messages, [*MessageClass, MessageClass.OTP], strict=True):
        message.message_class = cls
    drained(kit)
    assert sorted(block.size for block in kit.remote.blocks.values()) == [1, 1, 2]
