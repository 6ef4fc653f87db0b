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
from collections import deque
from collections.abc import Callable, Sequence

from gateway.dispatch import Dispatcher
from gateway.ledger import Ledger
from gateway.remote import ANY, RemoteChannels
from gateway.reports import fold_owned
from sms.errors import Unavailable
from sms.model import CLASS_CODES, Message, MessageClass, State
from store.claims import ClaimBook
from store.handovers import Handover, Handovers
from store.read import Reader
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

POLL_S = 0.1  # while blocks are out or waiting …
IDLE_POLL_S = 0.5  # … and while none are
AWAY_S = 0.5  # after PostgreSQL did not answer
LOOK = 64  # blocks looked at in one round, of those for a channel and of those for any
TAKEN = "taken"  # what a giver is woken with
ADOPTED_OTP = 20_000  # otp's fit always, up to so many that stand here by their claim

_OTP = MessageClass.OTP
_OPEN = frozenset({State.ACCEPTED, State.QUEUED})

log = get_logger(__name__)


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
        self._adopting: deque[tuple[int, list[int]]] = deque()  # claimed, not read back yet
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
        if back and not self.is_stopped:
            await self._take(back, "taken_back")
            self._remote.seen([handover.id for handover in back], await self._handovers.mine())

    # -- what we are given -----------------------------------------------------------------

    async def _receive(self) -> None:
        chosen = await self._handovers.to_me(LOOK, is_chosen=True)
        free = await self._handovers.to_me(LOOK, is_chosen=False)
        waiting = [*chosen, *free]
        fits = self.fitting(waiting)
        left = {handover.id for handover in waiting} - {handover.id for handover in fits}
        self._waiting = frozenset(h.channel for h in waiting if h.id in left)
        if fits:
            await self._take(fits, "taken")
            for giver in {handover.giver for handover in fits}:
                self._remote.wake(giver, TAKEN)
            if len(fits) == len(waiting) and len(waiting) >= LOOK:
                self._wake.set()  # there may be more

    def fitting(self, waiting: Sequence[Handover]) -> list[Handover]:
        """Those that may be taken now: of what was taken before, at most two windows are open.

        Otp's fit wherever the channel is up; so does what has expired, to be told so in time.
        """
        unix = self._unix()
        room: dict[int, int] = {}
        fits: list[Handover] = []
        for handover in waiting:
            channel = handover.channel
            if channel not in room:
                room[channel] = self._room(channel)
            if handover.until <= unix or self._fits(handover, room[channel]):
                fits.append(handover)
                room[channel] -= len(handover.ids)
        return fits

    def _fits(self, handover: Handover, room: int) -> bool:
        if handover.message_class is _OTP:
            return (
                self._dispatcher.can_send(handover.channel) and self._ledger.adopted < ADOPTED_OTP
            )
        return room > 0

    def _room(self, channel: int) -> int:
        """Messages more that may be taken for a channel."""
        blocks = self._held.get(channel)
        if not blocks:
            return self._dispatcher.room_for(channel)
        held = {block: left for block in blocks if (left := self._claims.open_in(block))}
        self._held[channel] = list(held)
        return self._dispatcher.room_for(channel) - sum(held.values())

    # -- taking ----------------------------------------------------------------------------

    async def _take(self, handovers: Sequence[Handover], end: str) -> None:
        """Make them ours where nobody was faster; otp's are read back and sent first."""
        blocks = {handover.id: self._claims.reserve() for handover in handovers}
        taken = await self._handovers.take(blocks)
        if failpoints.is_armed and taken:
            failpoints.hit("handover.taken")
        for handover in sorted(handovers, key=_by_class):
            ids = taken.get(handover.id)
            if ids is None:
                continue
            block = blocks[handover.id]
            self._claims.adopt(block, ids)
            self._adopting.append((block, ids))
            self._held.setdefault(handover.channel, []).append(block)
            self._metrics.handovers_total.inc((end,), len(ids))
        await self._adopt()

    async def _adopt(self) -> None:
        """Read back what we hold by its claim; when the store goes away this is done later.

        So is a block that came back before we heard that our own handover of it had committed:
        until then its messages still stand in memory as handed over.
        """
        for _ in range(len(self._adopting)):
            block, ids = self._adopting[0]
            if any(self._is_leaving(message_id) for message_id in ids):
                self._adopting.rotate(-1)
                continue
            stored = await self._reader.messages(ids)
            self._adopting.popleft()
            self.adopt(block, len(ids), [fold_owned(record) for record in stored.values()])

    def adopt_later(self, block: int, ids: list[int]) -> None:
        """Own messages that a statement of ours has just claimed: with the next look, at once."""
        self._claims.adopt(block, ids)
        self._adopting.append((block, ids))
        self.kick()

    def _is_leaving(self, message_id: int) -> bool:
        message = self._ledger.live.get(message_id)
        return message is not None and message.is_handed

    def adopt(self, block: int, size: int, messages: Sequence[Message]) -> None:
        """Own the messages of a block of claims; those at an end need their claim no more."""
        live = self._ledger.live
        mine = [m for m in messages if m.state in _OPEN and m.id not in live]
        for message in mine:
            message.claim = block
            message.is_adopted = True
            self._ledger.take_back(message)
        self._claims.settled(block, size - len(mine))
        self._dispatcher.put_adopted(mine)


def _by_class(handover: Handover) -> tuple[int, int]:
    return CLASS_CODES[handover.message_class], handover.id
