"""A burst of reports in slices: however many come at once, sending has its turns in between.

    burst ─▶ its first slice at once ─▶ the others, one in each turn of the loop, in their order

After an outage a carrier brings what it kept as fast as its windows allow, a thousand in one read:
judged in one go they would hold the loop for 10 ms.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sms.model import Report

SLICE: Final = 200  # reports, some 2 ms

Take = Callable[[int, Sequence[Report]], None]


class Slices:
    """Hands reports on, by channel, in the order in which they came."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._waiting: deque[tuple[int, Sequence[Report]]] = deque()

    def put(self, channel: int, reports: Sequence[Report]) -> None:
        """The reports of one burst; what does not fit a slice waits for the next turns."""
        if self._waiting:
            self._wait(channel, reports)
            return
        rest = reports[SLICE:]
        if rest:
            self._wait(channel, rest)
            asyncio.get_running_loop().call_soon(self._next)
        self._take(channel, reports[:SLICE] if rest else reports)

    def _wait(self, channel: int, reports: Sequence[Report]) -> None:
        starts = range(0, len(reports), SLICE)
        self._waiting.extend((channel, reports[start : start + SLICE]) for start in starts)

    def _next(self) -> None:
        channel, reports = self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        self._take(channel, reports)
