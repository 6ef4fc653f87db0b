"""The suppression list in this process: read at start, then every second what changed.

    store ─changes, by number─▶ policy (accept, dispatch) ─▶ what waits here and is now refused:
                                                              `rejected`

Nothing is accepted or sent before the whole list is here. While the store is away the list stays
as it was: then nothing is accepted either. What is scheduled or spilled is judged at its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from compliance.policy import SendingPolicy
from gateway.following import SLICE, Follower
from gateway.ledger import Ledger
from sms.model import Message, MessageClass
from store.suppressions import Changed, SuppressionStore
from telemetry.metrics import Metrics


class Suppressing:
    """Keeps the policy's list equal to the store's."""

    def __init__(
        self,
        *,
        store: SuppressionStore,
        policy: SendingPolicy,
        ledger: Ledger,
        reject: Callable[[Iterable[Message]], None],
        metrics: Metrics,
        monotonic: Callable[[], float],
    ) -> None:
        """`reject` ends those of our waiting messages that may not be sent any more."""
        self.store = store
        self._policy = policy
        self._ledger = ledger
        self._reject = reject
        self._metrics = metrics
        self._follower = Follower(store.changed, self._take, monotonic)
        self._has_new = False  # an entry that waiting messages were not compared with yet
        self._reading = asyncio.Lock()  # an API call asks too, beside the poll
        metrics.before_scrape.append(self._set_gauges)

    async def refresh(self) -> None:
        """Take up what changed; raises StoreUnavailable."""
        async with self._reading:
            await self._follower.catch_up()
            if self._has_new:
                self._has_new = False
                await self._reject_waiting()

    def _take(self, rows: Sequence[Changed]) -> None:
        for one in rows:
            self._has_new |= bool(one.classes)
            self._policy.suppress(one.tenant, one.number_index, one.classes)

    async def _reject_waiting(self) -> None:
        waiting = list(self._ledger.live.values())
        for start in range(0, len(waiting), SLICE):
            self._reject(waiting[start : start + SLICE])
            await asyncio.sleep(0)

    def _set_gauges(self) -> None:
        for message_class in MessageClass:
            count = self._policy.suppressed(message_class)
            self._metrics.suppressed_numbers.set((message_class.value,), count)
        self._metrics.suppressions_age_seconds.set((), self._follower.age_s())
