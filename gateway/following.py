"""A list in memory that follows a table whose changes are numbered.

store ─rows with a higher change than seen, in order─▶ take
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

PAGE: Final = 20_000  # rows of one read
SLICE: Final = 1000  # of them in one turn of the loop, some 1 to 3 ms


class _Numbered(Protocol):
    @property
    def change(self) -> int:
        """The number of the change."""
        ...


Row = TypeVar("Row", bound=_Numbered)


class Follower(Generic[Row]):
    """Knows what it has seen; one call of `catch_up` at a time."""

    def __init__(
        self,
        changed: Callable[[int, int], Awaitable[Sequence[Row]]],
        take: Callable[[Sequence[Row]], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`changed(after, limit)` reads a page; `take` puts some rows in force, in their order."""
        self._changed = changed
        self._take = take
        self._monotonic = monotonic
        self._read_at = monotonic()
        self.seen = 0  # the newest change that is in force here

    async def catch_up(self) -> None:
        """Take up what changed; raises what `changed` raises."""
        while True:
            began = self._monotonic()
            page = await self._changed(self.seen, PAGE)
            for start in range(0, len(page), SLICE):
                rows = page[start : start + SLICE]
                self._take(rows)
                self.seen = rows[-1].change
                await asyncio.sleep(0)
            if len(page) < PAGE:
                self._read_at = began
                return

    def age_s(self) -> float:
        """Since the list was last equal to the table."""
        return self._monotonic() - self._read_at
