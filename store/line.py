"""What waits for an accept lane: units in the order they came, and lanes that have nothing to do.

Pure bookkeeping of one event loop; `store.accept` says what becomes of a unit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from sms.model import Message
from store.intake import KeyRow
from store.link import Link


class Unit:
    """One accept(): stored whole or not at all."""

    __slots__ = (
        "future",
        "is_asked",
        "is_over",
        "keys",
        "messages",
        "over",
        "rows",
        "since",
        "verdicts",
    )

    def __init__(
        self, messages: list[Message], future: asyncio.Future[None], verdicts: bytes | None
    ) -> None:
        self.messages = messages
        self.future = future
        self.verdicts = verdicts
        self.keys: list[KeyRow] = []
        self.over: asyncio.Future[None] | None = None  # with keys: done when it holds them no more
        self.rows = b""
        self.since = time.monotonic()
        self.is_asked = False  # choose_claims was asked about them
        self.is_over = False  # committed or refused


class Line:
    """Units that wait for one of some lanes, and the lanes that wait for units."""

    __slots__ = ("_idle", "links", "rows", "units")

    def __init__(self, links: list[Link]) -> None:
        self.links = links
        self.units: deque[Unit] = deque()
        self.rows = 0  # of the units
        self._idle: list[asyncio.Future[None]] = []

    def put(self, unit: Unit) -> None:
        """Stand at the end; a lane that is free comes at once."""
        self.units.append(unit)
        self.rows += len(unit.messages)
        self.wake()

    def take(self, max_rows: int) -> list[Unit]:
        """The first units, of at most `max_rows` rows unless the first alone has more."""
        taken: list[Unit] = []
        rows = 0
        waiting = self.units
        while waiting and (not taken or rows + len(waiting[0].messages) <= max_rows):
            unit = waiting.popleft()
            rows += len(unit.messages)
            taken.append(unit)
        self.rows -= rows
        return taken

    def take_all(self) -> list[Unit]:
        """Everything: it is not to be stored."""
        taken = list(self.units)
        self.units.clear()
        self.rows = 0
        return taken

    async def work(self) -> None:
        """Return when there may be something to do."""
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        await future

    def wake(self) -> None:
        """Wake one lane."""
        while self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        """Wake every lane."""
        while self._idle:
            self.wake()
