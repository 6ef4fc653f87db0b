"""Channels that other processes have: their messages go over in blocks, a row in PostgreSQL each.

    lane of the channel ─▶ block of one class ═COMMIT═▶ out of our memory ─▶ receiver woken

Until that commit the messages are ours, from then on the row in `handovers` is all there is of
them, and whoever takes it owns them (`gateway.handover`). One block of a kind commits at a time,
so that the next one gathers what comes meanwhile. All methods are synchronous.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from gateway.lanes import Lane, Lanes
from gateway.ledger import Ledger
from sms.config import Snapshot
from sms.ids import IdClock, unix_of
from sms.model import FINAL_STATES, Message, MessageClass
from store.fragments import unpark_sql
from store.handovers import Handover, handover_sql
from telemetry.failpoints import failpoints
from telemetry.metrics import Metrics

BLOCK = 500  # messages of one block at most
SMALL_BLOCK = 50  # and at least, however small the channel's window is
OPEN_BLOCKS = 4  # of one channel, not yet taken by one receiver; otp's are not counted
ANY = 0  # for whatever channel the receiver chooses
HANDOVER = "handover"  # what a receiver is woken with
MARKETING_TURN = 5  # every fifth block is marketing's when transactional waits too

_OTP, _TRANSACTIONAL = MessageClass.OTP, MessageClass.TRANSACTIONAL
_MARKETING = MessageClass.MARKETING


@dataclass(slots=True)
class Block:
    """One block that we gave and nobody took yet; mutable, one per handover."""

    id: int
    receiver: int
    channel: int
    message_class: MessageClass
    size: int
    is_committed: bool = False


class RemoteChannels:
    """Who has which channel, and what we handed over to whom."""

    def __init__(
        self,
        *,
        ids: IdClock,
        lanes: Lanes,
        ledger: Ledger,
        metrics: Metrics,
        unix: Callable[[], float],
    ) -> None:
        self._ids = ids
        self._lanes = lanes
        self._ledger = ledger
        self._metrics = metrics
        self._unix = unix
        self._up: dict[int, tuple[int, ...]] = {}  # by channel; processes of our node first
        self._left: frozenset[int] = frozenset()  # channels that are up only where they are left
        self._near: frozenset[int] = frozenset()  # the processes of our node
        self._turns: dict[int, int] = {}
        self._sizes: dict[int, int] = {}  # messages of a block, by channel
        self._out: dict[int, dict[int, Block]] = {}  # the blocks below, by channel
        self.blocks: dict[int, Block] = {}  # by handover id, oldest first
        # joined by wiring
        self.wake: Callable[[int, str], None] = lambda process, what: None
        self.go_on: Callable[[int], None] = self.pump  # if the channel is still another's
        self.expired: Callable[[Message], None] = lambda message: None
        # Of one that was tried before: whether it has its budget; it waits elsewhere if not.
        self.may_try: Callable[[Message], bool] = lambda message: True

    def configure(self, snapshot: Snapshot) -> None:
        """Use the windows of a new configuration: a block is no larger than what a channel takes.

        What a receiver has claimed and not sent is uncertain when its machine is lost.
        """
        self._sizes = {
            channel.id: min(BLOCK, max(SMALL_BLOCK, channel.sessions * channel.window))
            for channel in snapshot.channels.values()
        }

    # -- who has what ----------------------------------------------------------------------

    def is_up(self, channel: int) -> bool:
        """Whether another process has a session of the channel."""
        return channel in self._up or channel in self._left

    def takes(self, channel: int) -> bool:
        """Whether one sends over it, too: its breaker does not keep the channel."""
        return channel in self._up

    def receivers(self, channel: int) -> tuple[int, ...]:
        """The other processes that send over the channel, those of our node first."""
        return self._up.get(channel, ())

    def update(
        self,
        up: Mapping[int, Sequence[int]],
        near: Collection[int],
        left: Collection[int] = (),
    ) -> tuple[set[int], set[int]]:
        """Take over a new picture: processes by channel, and who is on our node.

        `left` are channels that processes have a session of and do not send over. Returns the
        channels that came up and those that went down.
        """
        self._left = frozenset(left)
        self._near = frozenset(near)
        before = self._up.keys()
        now = {
            channel: tuple(sorted(processes, key=lambda process: process not in self._near))
            for channel, processes in up.items()
            if processes
        }
        came, went = set(now.keys() - before), set(before - now.keys())
        self._up = now
        return came, went

    # -- giving ----------------------------------------------------------------------------

    def pump(self, channel: int) -> None:
        """Hand over as much of the channel's lane as its receivers may be given now."""
        if channel not in self._up:
            return
        lane = self._lanes.lane(channel)
        while lane.size():
            message_class = self._next_class(channel, lane)
            receiver = None
            if message_class is not None:
                receiver = self._receiver(channel, message_class)
            if message_class is None or receiver is None:
                return
            if message_class is not _OTP:
                self._turns[channel] = self._turns.get(channel, 0) + 1
            messages = self._take(lane, message_class, self._sizes.get(channel, BLOCK))
            if not messages:  # the rest of a long lane with the next tick
                return
            self.give(messages, receiver, channel)

    def give(self, messages: Sequence[Message], receiver: int, channel: int) -> None:
        """Hand over a block of owned messages of one class that stand in no lane any more."""
        block = Block(self._ids.next(), receiver, channel, messages[0].message_class, len(messages))
        self._add(block)
        for message in messages:
            message.is_handed = True
        ids = [message.id for message in messages]
        sql = handover_sql(
            block.id,
            self._ids.process,
            receiver,
            channel,
            block.message_class,
            ids,
            [message.tenant for message in messages],
            min(message.valid_until for message in messages),
        )
        # all of them: a parked row may be on its way, and `is_parked` not set yet
        sql += unpark_sql(ids, self._ids.process) + self._ledger.unclaim_sql(ids)
        self._ledger.commit([], sql=sql, done=lambda: self._given(block, messages))

    def _add(self, block: Block) -> None:
        self.blocks[block.id] = block
        self._out.setdefault(block.channel, {})[block.id] = block

    def _given(self, block: Block, messages: Sequence[Message]) -> None:
        if failpoints.is_armed:
            failpoints.hit("handover.given")
        self._ledger.forget(messages)
        block.is_committed = True
        self._metrics.handovers_total.inc(("given",), block.size)
        self.wake(block.receiver, HANDOVER)
        if block.channel:
            self.go_on(block.channel)

    def _next_class(self, channel: int, lane: Lane) -> MessageClass | None:
        """Whose block is next: otp's at once, the others by turns; None while one commits."""
        committing = {
            block.message_class is _OTP
            for block in self._out.get(channel, {}).values()
            if not block.is_committed
        }
        if lane.otp.size and True not in committing:
            return _OTP
        if False in committing:
            return None
        if not lane.marketing.size:
            return _TRANSACTIONAL if lane.transactional.size else None
        if not lane.transactional.size:
            return _MARKETING
        is_turn = self._turns.get(channel, 0) % MARKETING_TURN == MARKETING_TURN - 1
        return _MARKETING if is_turn else _TRANSACTIONAL

    def _receiver(self, channel: int, message_class: MessageClass) -> int | None:
        """Our node's least busy process with the channel, else another node's; None = all full."""
        out = dict.fromkeys(self._up.get(channel, ()), 0)
        for block in self._out.get(channel, {}).values():
            if block.message_class is not _OTP:
                out[block.receiver] = out.get(block.receiver, 0) + 1
        free = [
            process
            for process in self._up.get(channel, ())
            if message_class is _OTP or out[process] < OPEN_BLOCKS
        ]
        return min(free, key=lambda p: (p not in self._near, out[p]), default=None)

    def _take(self, lane: Lane, message_class: MessageClass, size: int) -> list[Message]:
        queue, unix = lane.queue(message_class), self._unix()
        messages: list[Message] = []
        short = 0  # that have no budget
        while queue.size and len(messages) < size and short < BLOCK:
            message = queue.take()
            if message is None or message.is_handed or message.state in FINAL_STATES:
                continue
            if message.valid_until <= unix:
                self.expired(message)
            elif not message.attempt or self.may_try(message):
                messages.append(message)
            else:
                short += 1
        return messages

    # -- what became of it -----------------------------------------------------------------

    def committed(self) -> set[int]:
        """The blocks whose rows stand, as far as we know: to be compared with the store."""
        return {block.id for block in self.blocks.values() if block.is_committed}

    def is_committed(self, block_id: int) -> bool:
        """Whether we heard of the commit: before that its messages stand here, as handed over."""
        block = self.blocks.get(block_id)
        return block is not None and block.is_committed

    def seen(self, asked: Collection[int], standing: Collection[Handover]) -> None:
        """The store's answer to a question that was put when `asked` had committed.

        What does not stand any more was taken. What stands and is not known was given in an
        earlier life of this process.
        """
        for handover in standing:
            if handover.id not in self.blocks:
                block = Block(
                    handover.id,
                    handover.receiver,
                    handover.channel,
                    handover.message_class,
                    len(handover.ids),
                    is_committed=True,
                )
                self._add(block)
        touched: set[int] = set()
        for block_id in set(asked) - {handover.id for handover in standing}:
            taken = self.blocks.pop(block_id, None)
            if taken is not None:
                del self._out[taken.channel][block_id]
                touched.add(taken.channel)
        for channel in touched:
            if not self._out[channel]:
                del self._out[channel]
            self.go_on(channel)

    def must_come_back(self, handover: Handover) -> bool:
        """Whether its receiver cannot send it: it is dead, or has lost or left the channel."""
        return bool(handover.channel) and handover.receiver not in self.receivers(handover.channel)

    def oldest_age_s(self) -> float:
        """Age of the oldest block that nobody took yet, 0 without one."""
        if not self.blocks:
            return 0.0
        return max(0.0, self._unix() - unix_of(min(self.blocks)))
