"""A message's rows in the order of their ids, whichever process wrote them.

    A  killed, back: its ids begin where its mark ended, up to 15 s ahead ─▶ `submitted`  12:00:13
    B  the carrier's report comes here: reads that row ─▶ follows its id ─▶ `delivered`  12:00:13+

Without it B's row would have the lower id, and the pull of events would tell the end first. B
gives no id above its own mark, so it renews that before it follows beyond.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from sms.ids import IdClock

AHEAD_S: Final = 15.0  # ids reserved beyond now at each renewal; three renewals may be late
_PATIENCE_S: Final = 2.0  # for a renewal; while the store is slow, rows may stand out of order


class IdReserve:
    """How far this process may give ids, and who asks for more of them."""

    def __init__(self, ids: IdClock) -> None:
        self._ids = ids
        self._limit = 0
        self._granted = asyncio.Event()
        self.ask: Callable[[], None] = lambda: None  # renew the mark soon; set by the worker

    def granted(self, high_water: int) -> None:
        """The process row reserves all ids up to this one."""
        self._limit = high_water
        self._granted.set()

    async def follow(self, seen: int) -> None:
        """Let what is written from now on lie above `seen`, an event id of what was just read.

        An id further ahead than any mark is a wrong clock's, and nobody's to follow.
        """
        ids = self._ids
        if not ids.is_behind(seen):
            return
        if seen >= self._limit:
            if seen >= ids.high_water(AHEAD_S):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reach(seen), _PATIENCE_S)
        if seen < self._limit:
            ids.follow(seen)

    async def _reach(self, seen: int) -> None:
        while seen >= self._limit:  # a renewal that ran already reserves too little
            self._granted.clear()
            self.ask()
            await self._granted.wait()
