"""The suppression list in this process: read at start, then every second what changed.

    store ─changes, by number─▶ policy (accept, dispatch) ─▶ what waits here and is now refused:
      ▲                                                       `rejected`
      └─ numbers that carriers refuse for good (gateway.carrier_words)

Nothing is accepted or sent before the whole list is here. While the store is away the list stays
as it was: then nothing is accepted either. What is scheduled or spilled is judged at its turn.

An entry holds from the moment it is read. Who waits already is looked for by the poll alone, one
pass for all entries of a second: a tenant that posts thousands costs no more than one that posts
one, and only texts of a tenant and class that an entry is about are asked for their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from compliance.policy import SendingPolicy
from compliance.suppressions import PLATFORM
from gateway.carrier_words import AUTHOR, CarrierWords
from gateway.following import SLICE, Follower
from gateway.ledger import Ledger
from sms.model import Message, MessageClass
from store.suppressions import Changed, SuppressionStore
from telemetry.metrics import Metrics


class Suppressing:
    """Keeps the policy's list equal to the store's."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        store: SuppressionStore,
        policy: SendingPolicy,
        ledger: Ledger,
        words: CarrierWords,
        reject: Callable[[Iterable[Message]], None],
        metrics: Metrics,
        monotonic: Callable[[], float],
    ) -> None:
        """`reject` ends those of our waiting messages that may not be sent any more."""
        self.store = store
        self._policy = policy
        self._ledger = ledger
        self._words = words
        self._reject = reject
        self._metrics = metrics
        self._follower = Follower(store.changed, self._take, monotonic)
        self._reading = asyncio.Lock()  # an API call asks too, beside the poll
        # By tenant, what classes entries are about that nobody who waits was asked about yet.
        self._changed: dict[int, set[MessageClass]] = {}
        metrics.before_scrape.append(self._set_gauges)

    async def refresh(self) -> None:
        """Take up what changed; raises StoreUnavailable."""
        async with self._reading:
            await self._follower.catch_up()

    def _take(self, rows: Sequence[Changed]) -> None:
        for one in rows:
            if one.classes:
                self._changed.setdefault(one.tenant, set()).update(one.classes)
            self._policy.suppress(one.tenant, one.number_index, one.classes, one.why)

    async def round(self) -> None:
        """Take up what changed, end who waits here and is refused now, write bad numbers.

        Raises StoreUnavailable.
        """
        await self.refresh()
        changed, self._changed = self._changed, {}
        if changed:
            await self._end_refused(changed)
        # Last, for an opt-out must not wait for it. It is in force with the next round.
        if wanted := self._words.waiting():
            await self.store.put_all(AUTHOR, wanted)
            self._words.written(wanted)

    async def _end_refused(self, changed: Mapping[int, Collection[MessageClass]]) -> None:
        everybody = changed.get(PLATFORM, ())
        waiting = list(self._ledger.live.values())
        for start in range(0, len(waiting), SLICE):
            some = [
                message
                for message in waiting[start : start + SLICE]
                if message.message_class in changed.get(message.tenant, everybody)
                or message.message_class in everybody
            ]
            if some:
                self._reject(some)
            await asyncio.sleep(0)

    def _set_gauges(self) -> None:
        for message_class in MessageClass:
            count = self._policy.suppressed(message_class)
            self._metrics.suppressed_numbers.set((message_class.value,), count)
        self._metrics.suppressions_age_seconds.set((), self._follower.age_s())
