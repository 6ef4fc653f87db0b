"""Keeps a process whose lease is over from writing to a carrier, also when it was frozen.

Every burst asks for the lease before it leaves; what is left is what a socket had not taken by
then. A process that was stopped past its lease (SIGSTOP, a paused machine) wakes with all its
timers due: this one is among the first, before any socket is written again, and has the lease
renewed at once, which tells whether another process owns our messages now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from adapters.base import Channel
from telemetry.logs import get_logger

LOOK_S = 0.1
FROZEN_S = 1.0  # a look so late was not the loop's doing

log = get_logger(__name__)


def boot_clock() -> float:
    """Seconds since the machine started, also those that it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseGuard:
    """A timer, not a task: it runs before what waits for sockets."""

    def __init__(
        self,
        is_valid: Callable[[], bool],
        channels: Callable[[], Iterable[Channel]],
        ask: Callable[[], None],
        *,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`ask` has the lease renewed at once."""
        self._is_valid = is_valid
        self._channels = channels
        self._ask = ask
        self._clock = clock
        self._looked_at = clock()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on; called on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._run)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        self.start()
        self.look()

    def look(self) -> None:
        """One look at the lease and the clock."""
        now = self._clock()
        stood_s, self._looked_at = now - self._looked_at, now
        if not self._is_valid():
            for channel in self._channels():
                channel.cut_unwritten()
        if stood_s > FROZEN_S:
            log.warning("this process stood still", seconds=round(stood_s, 1))
            self._ask()
