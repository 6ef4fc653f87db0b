"""Which batches do not run: ranges of ids, asked for every message that enters a lane.

Pure: who writes the state down and who tells the others is `gateway/commands.py`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable

from store.commands import BatchState, Halted

_HALTED = frozenset({BatchState.PAUSED, BatchState.CANCELED})


class Halts:
    """The halted batches as this process knows them. Batches are ranges that never overlap."""

    def __init__(self) -> None:
        self._firsts: list[int] = []  # sorted
        self._by_first: dict[int, Halted] = {}
        self.last = -1  # no halted message has an id above this: most are passed by it alone
        self.changes = 0  # counts changes, so that an older picture does not undo a newer one

    def __len__(self) -> int:
        return len(self._firsts)

    def set(self, batch: Halted) -> None:
        """Take over one batch's state; one that runs or is settled is forgotten."""
        self.changes += 1
        if batch.state not in _HALTED:
            if self._by_first.pop(batch.first_id, None) is not None:
                self._firsts.remove(batch.first_id)
        else:
            if batch.first_id not in self._by_first:
                insort(self._firsts, batch.first_id)
            self._by_first[batch.first_id] = batch
        self._find_last()

    def replace(self, batches: Iterable[Halted]) -> None:
        """Take over the whole picture."""
        self.changes += 1
        self._by_first = {batch.first_id: batch for batch in batches if batch.state in _HALTED}
        self._firsts = sorted(self._by_first)
        self._find_last()

    def _find_last(self) -> None:
        self.last = self._by_first[self._firsts[-1]].last_id if self._firsts else -1

    def state_of(self, message_id: int) -> BatchState:
        """The state of the batch a message is in; RUNNING also for what is in none."""
        if message_id > self.last:
            return BatchState.RUNNING
        place = bisect_right(self._firsts, message_id)
        if not place:
            return BatchState.RUNNING
        batch = self._by_first[self._firsts[place - 1]]
        return batch.state if message_id <= batch.last_id else BatchState.RUNNING
