"""Counts what a canary's two channels do in this process, and brings them to the store.

    Dispatcher.heard, .receipted ─▶ Meter of the channel ─▶ slots ═every few seconds═▶ canary_counts
    InboundDesk: an opt-out ──────▶   ▲                                                     │
                                      └ made when a canary begins       gateway/canary_judge.py ◀┘

Without a canary there is no meter, and the path asks one empty dictionary. A segment counts in the
slot it was submitted in: what a gate compares left in the same minutes, however late its receipt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from failover.canary import Counts
from failover.health import Answers
from gateway.watching import count_refused
from sms.config import Canary, Snapshot
from sms.model import Submit
from sms.outcomes import Outcome, Submitted
from store.canaries import CanaryStore, Slot
from telemetry.metrics import Metrics

FINE_PARTS: Final = 10  # slots of a step's least time: minutes of ten minutes
FINE_SLOTS: Final = 120  # of a step, from its begin on; later ones are as long as …
COARSE: Final = 60  # … so many of them
KEPT_S: Final = 604_800.0  # a week, in slots


@dataclass(slots=True)  # not frozen: a step begins, it is called off
class _Time:
    """How a canary's time is cut."""

    fine_s: int
    first: float  # Unix seconds: what was submitted before is not counted
    since: float  # the begin of the step

    def slot(self, unix: float) -> int:
        """The begin of the slot; the first one of a step begins with it."""
        begin, long_s = math.ceil(self.since), self.fine_s
        if not begin <= unix < begin + FINE_SLOTS * self.fine_s:
            long_s *= COARSE
        return begin + int((unix - begin) // long_s) * long_s


class Meter:
    """What one channel's segments come to, in one process and for one canary."""

    __slots__ = ("_changed", "_channel", "_slots", "_time", "_unix", "canary")

    def __init__(
        self, canary: Canary, channel: int, fine_s: int, unix: Callable[[], float]
    ) -> None:
        self.canary = canary.id
        self._channel = channel
        self._time = _Time(fine_s, canary.since, canary.since)
        self._unix = unix
        self._slots: dict[int, Counts] = {}
        self._changed: set[int] = set()

    def begin(self, since: float) -> None:
        """A step begins, or has begun before."""
        self._time.since = since

    # -- what happens ----------------------------------------------------------------------

    def answered(self, results: Sequence[tuple[Submit, Outcome]], now: float) -> None:
        """A burst of outcomes; `now` is monotonic.

        Counted as the health of a channel without sessions counts them: a lost link is one error
        for a breaker, but a gate asks what became of each segment.
        """
        unix = self._unix()
        for submit, outcome in results:
            if not submit.sent_at:  # it never left, or nobody knows when
                continue
            waited_s = max(0.0, now - submit.sent_at)
            counts = self._at(unix - waited_s)
            if counts is None:
                continue
            if type(outcome) is Submitted:
                counts.submits += 1
                counts.taken += 1
                counts.answered(waited_s)
                continue
            answers = Answers()
            count_refused(answers, outcome, is_slow=False, has_sessions=False)
            if answers.total:
                counts.submits += 1
                counts.failed += answers.failed
                counts.answered(waited_s)

    def receipted(self, delivered: int, undelivered: int, lag_s: float) -> None:
        """Final receipts came for segments that were submitted `lag_s` ago."""
        counts = self._at(self._unix() - lag_s)
        if counts is not None:
            counts.delivered += delivered
            counts.undelivered += undelivered

    def complained(self, number: int) -> None:
        """So many opt-outs came over the channel."""
        counts = self._at(self._unix())
        if counts is not None:
            counts.complaints += number

    def _at(self, unix: float) -> Counts | None:
        """The counts of the slot, to be changed; None when the canary had not begun."""
        if unix < self._time.first:
            return None
        slot = self._time.slot(unix)
        self._changed.add(slot)
        counts = self._slots.get(slot)
        if counts is None:
            counts = self._slots[slot] = Counts()
        return counts

    # -- to the store ----------------------------------------------------------------------

    def changed(self) -> list[Slot]:
        """What was counted since the last time, as totals; too old slots are forgotten."""
        slots, self._changed = self._changed, set()
        for slot in [one for one in self._slots if one < self._unix() - KEPT_S]:
            del self._slots[slot]
        return [
            _slot(self.canary, slot, self._channel, self._slots[slot])
            for slot in sorted(slots)
            if slot in self._slots
        ]

    def again(self, slots: Sequence[Slot]) -> None:
        """They could not be kept: with the next ones."""
        self._changed.update(one.slot for one in slots)


def _slot(canary: int, slot: int, channel: int, counts: Counts) -> Slot:
    sums = (
        counts.submits,
        counts.failed,
        counts.taken,
        counts.delivered,
        counts.undelivered,
        counts.complaints,
    )
    return Slot(canary, slot, channel, sums, counts.answers.copy())


class Canaries:
    """The meters of this process."""

    def __init__(
        self,
        *,
        store: CanaryStore,
        process: int,
        life: int,
        step_s: float,
        metrics: Metrics,
        unix: Callable[[], float],
    ) -> None:
        """`life` tells this process from an earlier one of the same number."""
        self.meters: dict[int, Meter] = {}  # by channel; the dispatcher asks it
        self._store = store
        self._process = process
        self._life = life
        self._fine_s = max(1, int(step_s / FINE_PARTS))
        self._metrics = metrics
        self._unix = unix
        self._live: tuple[Canary, ...] = ()
        metrics.before_scrape.append(self._set_gauges)

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Canaries begin, take a step or end."""
        self._live = snapshot.canaries
        primaries = {route.id: route.channels[0] for route in snapshot.routes if route.channels}
        measured = {
            channel: canary
            for canary in snapshot.canaries
            for channel in (canary.channels[0], primaries.get(canary.route))
            if channel is not None
        }
        for channel, meter in list(self.meters.items()):
            canary = measured.get(channel)
            if canary is None or canary.id != meter.canary:
                del self.meters[channel]
            else:
                meter.begin(canary.since)
        for channel, canary in measured.items():
            if channel not in self.meters:
                self.meters[channel] = Meter(canary, channel, self._fine_s, self._unix)

    def opted_out(self, channel: int, number: int) -> None:
        """Phones want no more texts, and said so over this channel."""
        meter = self.meters.get(channel)
        if meter is not None:
            meter.complained(number)

    async def flush(self) -> None:
        """Bring what was counted to the store; raises StoreUnavailable, and nothing is lost."""
        taken = [(meter, meter.changed()) for meter in self.meters.values()]
        slots = [slot for _, some in taken for slot in some]
        if not slots:
            return
        try:
            await self._store.add(self._process, self._life, slots)
        except BaseException:
            for meter, some in taken:
                meter.again(some)
            raise

    def _set_gauges(self) -> None:
        self._metrics.canary_share.clear()
        for canary in self._live:
            self._metrics.canary_share.set((canary.name,), canary.share)
