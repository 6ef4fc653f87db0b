"""Which carrier sessions this process holds, and what it tells the others of its channels.

    sessions of a channel on this node ─▶ shared out over its workers, by lease ─▶ sync_channels
    our channels ─▶ registry ─▶ everybody's `RemoteChannels`

A channel's `sessions` count per node. Of those each worker holds its share; where there are fewer
sessions than workers the holders differ from channel to channel, and what a dead worker held is
taken over by another one after a short while. The registry is news, not a promise: it may be wrong
for as long as a lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.dispatch import Dispatcher
from gateway.remote import RemoteChannels
from sms import config
from sms.errors import Unavailable
from store.database import Pool
from store.processes import LiveProcess, live_processes
from store.sessions import (
    channels_up,
    held_sessions,
    hold_sessions,
    let_sessions_go,
    publish_channels,
)
from telemetry.logs import get_logger

POLL_S = 0.5
SHARE_EVERY = 2  # polls between two looks at who holds which session
SETTLE_S = 3.0  # what its holder leaves free so long is taken by another worker
LIVE_EVERY = 10  # polls between two looks at who lives
CHANNELS = "channels"  # what the others are woken with when our channels change

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this worker stands on its node."""

    node: str
    slot: int
    workers: int  # of the node
    process: int
    epoch: int
    role: Literal["all", "api", "carrier"] = "all"


def share_of(channel: config.Channel, slot: int, workers: int) -> tuple[int, int]:
    """(sessions this worker is to hold, and at most may hold) of a channel's.

    Their sum over the workers is all of them. Which workers get one more, or the only one,
    differs from channel to channel.
    """
    least, rest = divmod(channel.sessions, workers)
    rank = (slot - channel.id) % workers
    return least + (rank < rest), least + (rest > 0)


class Sessions:
    """Holds this worker's sessions and keeps the registry; one long-lived loop."""

    def __init__(
        self,
        pool: Pool,
        place: Place,
        *,
        dispatcher: Dispatcher,
        remote: RemoteChannels,
        is_valid: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        """`is_valid`: whether our lease holds; without it no session is asked for."""
        self._pool = pool
        self._place = place
        self._dispatcher = dispatcher
        self._remote = remote
        self._is_valid = is_valid
        self._monotonic = monotonic
        self._free_since: dict[int, float] = {}  # channels with a session that nobody holds
        self._wake = asyncio.Event()
        self._must_publish = True
        self._published: list[tuple[int, int, bool]] = []
        self._is_leaving = False
        self._rounds = 0
        self._nodes: dict[int, int] = {}  # other nodes that have it up, by channel
        self.held: dict[int, int] = {}  # sessions by channel
        self.live: list[LiveProcess] = []
        # joined by wiring
        self.changed: Callable[[], None] = lambda: None  # `held` is another one now
        self.rates_changed: Callable[[], None] = lambda: None
        self.lived: Callable[[list[LiveProcess]], None] = lambda live: None
        self.wake_other: Callable[[int, str], None] = lambda process, what: None

    # -- the loop --------------------------------------------------------------------------

    def kick(self) -> None:
        """Look now: another process's channels changed."""
        self._wake.set()

    def link_changed(self) -> None:
        """One of our channels got or lost its sessions, or was left for its health: tell it."""
        self._must_publish = True
        self._wake.set()

    def renewed(self) -> None:
        """The lease was renewed: what we tell is told anew with it."""
        self._must_publish = True

    async def run(self) -> None:
        """Keep up with the others until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)
            self._wake.clear()
            try:
                await self.round()
            except Unavailable as error:
                log.warning("channels of other processes unknown", error=str(error))

    async def round(self) -> None:
        """Publish what changed, see what others have, take what is free."""
        self._rounds += 1
        if self._must_publish:
            await self.publish()
        if self._rounds % LIVE_EVERY == 1:
            self.live = await live_processes(self._pool)
            self.lived(self.live)
        await self.look()
        may_share = self._is_valid() and not self._is_leaving and not self._rounds % SHARE_EVERY
        if may_share and await self.share(self._dispatcher.snapshot.channels):
            self.changed()

    # -- the registry ----------------------------------------------------------------------

    async def publish(self) -> None:
        """Say which channels are up here; the others are woken."""
        self._must_publish = False
        rows = [
            (channel, 0 if runtime.watch.is_left else runtime.config.sessions, runtime.is_up)
            for channel, runtime in self._dispatcher.channels.items()
            if not self._is_leaving
        ]
        try:
            await publish_channels(self._pool, self._place.process, rows)
        except Unavailable:
            self._must_publish = True
            raise
        if rows == self._published:
            return
        self._published = rows
        for other in self.live:
            if other.process != self._place.process:
                self.wake_other(other.process, CHANNELS)

    async def look(self) -> None:
        """See which channels the others have."""
        up: dict[int, list[int]] = {}
        left: dict[int, list[int]] = {}
        nodes: dict[int, set[str]] = {}
        near: set[int] = set()
        for process, node, channel, is_left in await channels_up(self._pool):
            if process == self._place.process:
                continue
            (left if is_left else up).setdefault(channel, []).append(process)
            if node == self._place.node:
                near.add(process)
            else:
                nodes.setdefault(channel, set()).add(node)
        came, went = self._remote.update(up, near, left)
        if came or went:
            self._dispatcher.remote_changed(came, went)
        counts = {channel: len(names) for channel, names in nodes.items()}
        if counts != self._nodes:
            self._nodes = counts
            self.rates_changed()

    def rate_share(self, channel: config.Channel) -> float:
        """Our part of the channel's rate: by sessions on this node, evenly over the nodes."""
        held = self.held.get(channel.id, channel.sessions)
        return held / channel.sessions / (1 + self._nodes.get(channel.id, 0))

    # -- our sessions ----------------------------------------------------------------------

    async def share(self, channels: Mapping[int, config.Channel]) -> bool:
        """Hold our share of each channel's sessions, and what has been free for a while.

        Returns whether `held` is another one now. Raises Unavailable, LeaseLost.
        """
        if self._is_leaving:
            return False
        if self._place.role == "api":
            held: dict[int, int] = {}
        elif self._place.workers == 1:
            held = {channel.id: channel.sessions for channel in channels.values()}
        else:
            held = await self._share(channels)
        is_news, self.held = held != self.held, held
        return is_news

    async def _share(self, channels: Mapping[int, config.Channel]) -> dict[int, int]:
        place = self._place
        holders = await held_sessions(self._pool, place.node)
        held: dict[int, int] = {}
        for channel in channels.values():
            own = holders.get(channel.id, {})
            mine = own.get(place.process, 0)
            want = self._want(channel, mine, sum(own.values()))
            if want != mine or sum(own.values()) > channel.sessions:
                mine = await hold_sessions(
                    self._pool,
                    place.node,
                    channel.id,
                    want=want,
                    total=channel.sessions,
                    process=place.process,
                    epoch=place.epoch,
                )
            if mine:
                held[channel.id] = mine
        return held

    def _want(self, channel: config.Channel, mine: int, taken: int) -> int:
        """How many sessions of the channel to ask for, when so many of all are held."""
        share, most = share_of(channel, self._place.slot, self._place.workers)
        free = channel.sessions - taken
        if free <= 0 or mine >= most:
            self._free_since.pop(channel.id, None)
            return min(mine, most)
        if mine < share:
            return share
        now = self._monotonic()
        if now - self._free_since.setdefault(channel.id, now) < SETTLE_S:
            return mine
        return most

    async def leave(self) -> None:
        """We drain: nothing more is to be given to us. Raises Unavailable."""
        self._is_leaving = True
        await self.publish()

    async def left(self) -> None:
        """All our sessions are closed: others may have them. Raises Unavailable."""
        await let_sessions_go(self._pool, self._place.process)
