"""Blocks of messages that come from other processes, and our own that nobody can send.

    to me, and it fits ─┐
    mine, and its       ├─▶ take ═COMMIT: row gone, claim ours═▶ read back ─▶ lanes
    receiver is lost ───┘

Of two that want a block one gets it; what was taken is ours by its claim until it has left
(`Message.is_adopted`), also after a crash: recovery finds the claim. Wake-ups over Valkey make it
quick, polling makes it certain.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from gateway.dispatch import Dispatcher
from gateway.ledger import Ledger
from gateway.remote import ANY, RemoteChannels
from gateway.reports import fold_owned
from sms.errors import Unavailable
from sms.model import CLASS_CODES, Message, MessageClass, State
from store.claims import ClaimBook
from store.handovers import Besides, Handover, Handovers
from store.read import Reader
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

POLL_S = 0.1  # while blocks are out or waiting …
IDLE_POLL_S = 0.5  # … and while none are
AWAY_S = 0.5  # after PostgreSQL did not answer
LOOK = 64  # blocks looked at in one go, of those for a channel and of those for any
TURN = 8  # ordinary blocks taken at once: reading them back takes 0.1 s, and otp's may come
LATE_S = 10.0  # of a block taken without room, what lives longer goes back into the store
TAKEN = "taken"  # what a giver is woken with
ADOPTED_OTP = 20_000  # otp's fit always, up to so many that stand here by their claim

_OTP = MessageClass.OTP
_OPEN = frozenset({State.ACCEPTED, State.QUEUED})

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A block that is ours by its claim and not read back yet."""

    block: int
    ids: list[int]
    message_class: MessageClass
    is_beyond: bool  # there was no room for it: only what expires was to be had
    is_paid: bool = False  # its giver's retry budget has let it go: the one that saw it fail


@dataclass(slots=True)
class Look:
    """What one look at the blocks that wait has found; mutable while looking."""

    room: dict[int, int] = field(default_factory=dict)  # messages more, by channel
    beyond: set[int] = field(default_factory=set)  # blocks that fit for what expires only


class HandoverDesk:
    """Takes what fits and takes back what its receiver lost; `run` is its one long-lived loop."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        handovers: Handovers,
        claims: ClaimBook,
        reader: Reader,
        ledger: Ledger,
        dispatcher: Dispatcher,
        remote: RemoteChannels,
        metrics: Metrics,
        unix: Callable[[], float],
    ) -> None:
        self._handovers = handovers
        self._claims = claims
        self._reader = reader
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._remote = remote
        self._metrics = metrics
        self._unix = unix
        self._adopting: list[Taken] = []
        self._waiting: frozenset[int] = frozenset()  # channels with blocks that did not fit
        self._held: dict[int, list[int]] = {}  # by channel: blocks of claims that were taken for it
        self._has_asked = False  # whether blocks of an earlier life were looked for
        self._wake = asyncio.Event()
        self.is_stopped = False  # draining: nothing is taken any more

    # -- the loop --------------------------------------------------------------------------

    def kick(self) -> None:
        """Look now: something was handed to us, or taken from us."""
        self._wake.set()

    def look_again(self) -> None:
        """There may be blocks whose giver we are now without having written them."""
        self._has_asked = False
        self.kick()

    def hungry(self, channel: int) -> None:
        """There may be room again in a channel's windows: look now if blocks wait for it."""
        if not self._waiting:
            return
        if any(of in self._waiting and self._room(of) > 0 for of in (channel, ANY)):
            self._wake.set()

    async def run(self) -> None:
        """Give, take and take back until cancelled."""
        while True:
            wait_s = POLL_S if self._remote.blocks or self._waiting else IDLE_POLL_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)
            self._wake.clear()
            try:
                await self.round()
            except Unavailable as error:
                log.warning("handovers wait for the store", error=str(error))
                await asyncio.sleep(AWAY_S)

    async def round(self) -> None:
        """One look at what is ours to take; raises Unavailable, LeaseLost."""
        await self._adopt()
        if self._remote.blocks or not self._has_asked:
            await self._look_after_given()
        if not self.is_stopped:
            await self._receive()

    # -- what we gave ----------------------------------------------------------------------

    async def _look_after_given(self) -> None:
        asked = self._remote.committed()
        standing = await self._handovers.mine()
        self._has_asked = True
        self._remote.seen(asked, standing)
        back = [
            handover
            for handover in standing
            if self._remote.is_committed(handover.id) and self._remote.must_come_back(handover)
        ]
        back = self._turn(back)
        if back and not self.is_stopped:
            await self._take(back, "taken_back")
            self._remote.seen([handover.id for handover in back], await self._handovers.mine())

    def _turn(self, handovers: Sequence[Handover]) -> list[Handover]:
        """Otp's and a few others: the next look, for otp's that come meanwhile, is soon."""
        ordered = sorted(handovers, key=_by_class)
        otps = sum(handover.message_class is _OTP for handover in ordered)
        if len(ordered) > otps + TURN:
            self._wake.set()
        return ordered[: otps + TURN]

    # -- what we are given -----------------------------------------------------------------

    async def _receive(self) -> None:
        look = Look()
        fits: list[Handover] = []
        waiting: set[int] = set()
        # whole milliseconds: the store, which rounds, must not show what has not expired here
        unix = math.floor(self._unix() * 1000) / 1000
        for is_chosen in (True, False):
            but = Besides(unix)
            while True:
                found = await self._handovers.to_me(LOOK, is_chosen=is_chosen, but=but)
                some = self.fitting(found, look, but)
                fits += some
                if len(found) < LOOK:
                    break
                if len(some) == len(found):
                    self._wake.set()  # there may be more
                    break
            waiting |= but.full | but.shut
        self._waiting = frozenset(waiting)
        fits = self._turn(fits)
        if fits:
            await self._take(fits, "taken", look.beyond)
            for giver in {handover.giver for handover in fits}:
                self._remote.wake(giver, TAKEN)

    def fitting(self, waiting: Sequence[Handover], look: Look, but: Besides) -> list[Handover]:
        """Those that may be taken now: of what was taken before, at most two windows are open.

        Otp's fit wherever the channel is up; so does what has expired, to be told so in time.
        What need not be shown again in this look is noted in `but`.
        """
        room = look.room
        fits: list[Handover] = []
        for handover in waiting:
            channel = handover.channel
            if channel not in room:
                room[channel] = self._room(channel)
            is_beyond = not self._fits(handover, room[channel])
            if handover.until <= but.unix or not is_beyond:
                fits.append(handover)
                but.ids.add(handover.id)
                room[channel] -= len(handover.ids)
                if is_beyond:
                    look.beyond.add(handover.id)
            else:
                but.full.add(channel)
                if handover.message_class is _OTP:
                    but.shut.add(channel)
        return fits

    def _fits(self, handover: Handover, room: int) -> bool:
        if handover.message_class is _OTP:
            return (
                self._dispatcher.can_send(handover.channel) and self._ledger.adopted < ADOPTED_OTP
            )
        return room > 0

    def _room(self, channel: int) -> int:
        """Messages more that may be taken for a channel."""
        held = sum(map(self._claims.open_in, self._held.get(channel, ())))
        return self._dispatcher.room_for(channel) - held

    def moved(self, was: int, block: int) -> None:
        """Messages of a claim go over to another one; they count as taken all the same."""
        for blocks in self._held.values():
            if was in blocks:
                blocks.append(block)

    def _prune(self) -> None:
        """Forget blocks of claims that ended, whatever channel they were for."""
        open_in = self._claims.open_in
        held = {of: [b for b in blocks if open_in(b)] for of, blocks in self._held.items()}
        self._held = {channel: blocks for channel, blocks in held.items() if blocks}

    # -- taking ----------------------------------------------------------------------------

    async def _take(
        self, handovers: Sequence[Handover], end: str, beyond: Collection[int] = ()
    ) -> None:
        """Make them ours where nobody was faster; otp's are read back and sent first."""
        self._prune()
        blocks = {handover.id: self._claims.reserve() for handover in handovers}
        taken = await self._handovers.take(blocks)
        if failpoints.is_armed and taken:
            failpoints.hit("handover.taken")
        for handover in handovers:
            ids = taken.get(handover.id)
            if ids is None:
                continue
            block = blocks[handover.id]
            self._claims.adopt(block, ids)
            is_beyond = handover.id in beyond
            is_paid = handover.channel != ANY
            taken_one = Taken(block, ids, handover.message_class, is_beyond, is_paid)
            self._adopting.append(taken_one)
            self._held.setdefault(handover.channel, []).append(block)
            self._metrics.handovers_total.inc((end,), len(ids))
        await self._adopt()

    async def _adopt(self) -> None:
        """Read back what we hold by its claim; when the store goes away this is done later.

        So is a block that came back before we heard that our own handover of it had committed:
        until then its messages still stand in memory as handed over. Otp's go first, also before
        what was taken earlier.
        """
        for taken in sorted(self._adopting, key=lambda one: CLASS_CODES[one.message_class]):
            if any(map(self._is_leaving, taken.ids)):
                continue
            stored = await self._reader.messages(taken.ids)
            self._adopting.remove(taken)
            self.adopt(taken, [fold_owned(record) for record in stored.values()])

    def adopt_later(self, block: int, ids: list[int]) -> None:
        """Own messages that a statement of ours has just claimed: with the next look, at once."""
        self._claims.adopt(block, ids)
        # before all others, whatever their class: they are to be ended, and somebody waits for it
        self._adopting.append(Taken(block, ids, _OTP, is_beyond=False))
        self.kick()

    def _is_leaving(self, message_id: int) -> bool:
        message = self._ledger.live.get(message_id)
        return message is not None and message.is_handed

    def adopt(self, taken: Taken, messages: Sequence[Message]) -> None:
        """Own the messages of a block of claims; those at an end need their claim no more."""
        live = self._ledger.live
        mine = [m for m in messages if m.state in _OPEN and m.id not in live]
        for message in mine:
            message.claim = taken.block
            message.is_adopted = True
            self._ledger.take_back(message)
            if taken.is_paid and message.attempt:
                self._dispatcher.retries.free(message)
        self._claims.settled(taken.block, len(taken.ids) - len(mine))
        soon = self._unix() + LATE_S if taken.is_beyond else math.inf
        self._dispatcher.put_adopted([m for m in mine if m.valid_until <= soon])
        rest = [m for m in mine if m.valid_until > soon]
        if rest:  # there was no room for them, and there is none yet
            self._remote.give(rest, self._ledger.process, ANY)


def _by_class(handover: Handover) -> tuple[int, int]:
    return CLASS_CODES[handover.message_class], handover.id
