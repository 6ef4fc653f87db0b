"""The ported numbers in this process: read whole at start, then every second what changed.

    store ─buckets at start, then changes by number─▶ sms.portability ◀─ accept, preview

Nothing is accepted before all of them are here. While the store is away they stay as they were:
then nothing is accepted either. A message keeps the carrier it was accepted with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.following import Follower
from sms.portability import Portability
from store.ported import PARTS, Changed, PortedStore
from telemetry.metrics import Metrics


class Porting:
    """Keeps the process's overrides equal to the store's."""

    def __init__(
        self,
        *,
        store: PortedStore,
        metrics: Metrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.store = store
        self.known = Portability(store.index_of)
        self._metrics = metrics
        self._follower = Follower(store.changed, self._take, monotonic)
        self._is_whole = False
        self._reading = asyncio.Lock()  # an API call asks too, beside the poll
        metrics.before_scrape.append(self._set_gauges)

    async def refresh(self) -> None:
        """Take up what changed; raises StoreUnavailable."""
        async with self._reading:
            if not self._is_whole:
                await self._read_whole()
            await self._follower.catch_up()

    async def _read_whole(self) -> None:
        """What changes meanwhile may come as it was or is; then its change brings it again."""
        if not self._follower.seen:  # after a read that broke off the older one holds
            self._follower.seen = await self.store.last()
        # Where nothing was ever changed there is nothing to read.
        for place in range(PARTS if self._follower.seen else 0):
            for bucket, words in await self.store.part(place):
                self.known.fill(bucket, words)
        self._is_whole = True

    def _take(self, rows: Sequence[Changed]) -> None:
        for row in rows:
            self.known.change(row.number_index, row.carrier)

    def _set_gauges(self) -> None:
        self._metrics.ported_numbers.set((), self.known.size)
        self._metrics.portability_age_seconds.set((), self._follower.age_s())
