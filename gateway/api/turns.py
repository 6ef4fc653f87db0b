"""Slices of batches, one a turn of the event loop.

A batch lets others have the loop every few milliseconds; with many batches open at once each of
them would take its slice in every turn, and a login code would wait for all of these.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Who waits for a slice, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_due = False

    async def mine(self) -> None:
        """Return when nobody else's slice runs in this turn of the loop."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._next)
        await future

    def _next(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():  # its request may have been given up
                future.set_result(None)
                break
        self._is_due = bool(self._waiting)
        if self._is_due:
            asyncio.get_running_loop().call_soon(self._next)
