"""Which submits are asked about because their receipt stays away: query_sm (SMPP 3.4, 4.8).

One book per channel, since receipts come over any session of it. It holds what this process was
answered and has heard nothing of, at most MAXIMUM; a restart forgets it, and the receipts still
count. A submit whose answer was lost cannot be asked about: the id stood in that answer. Pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sms.model import Report, Submit
from sms.outcomes import Outcome, Submitted

MAXIMUM: Final = 100_000  # of a channel; beyond, the oldest is not asked about
TRIES: Final = 8  # after `after_s`, then twice as long each time
# message_state: delivered, expired, deleted, undeliverable, rejected
FINAL_STATES: Final = frozenset((2, 3, 4, 5, 8))
_UNDER_WAY: Final = frozenset(("ENROUTE", "ACCEPTD", "1", "6"))


@dataclass(slots=True)  # not frozen: one per submit of a channel that asks
class Open:
    """A submit without a receipt."""

    asked_as: str  # its id as the carrier spelled it
    sender: str
    number: str
    due: float  # monotonic
    tries: int = 0


class Book:
    """What one channel has not heard of."""

    def __init__(self, after_s: float) -> None:
        self.is_refused = False  # the carrier does not know the question
        self._after_s = after_s
        self._open: dict[str, Open] = {}
        self._due: list[tuple[float, str]] = []  # a heap; what is no longer open is passed over

    def __len__(self) -> int:
        return len(self._open)

    def taken(
        self, results: Iterable[tuple[Submit, Outcome]], spelled: dict[str, str], now: float
    ) -> None:
        """Submits were answered; `spelled` has the ids that the channel writes in another form."""
        if self.is_refused:
            return
        for submit, outcome in results:
            if isinstance(outcome, Submitted) and outcome.carrier_id:
                carrier_id = outcome.carrier_id
                asked_as = spelled.get(carrier_id, carrier_id)
                due = now + self._after_s
                self._open[carrier_id] = Open(asked_as, submit.sender, submit.number, due)
                heapq.heappush(self._due, (due, carrier_id))
        for _ in range(len(self._open) - MAXIMUM):
            del self._open[next(iter(self._open))]
        if len(self._due) > 2 * MAXIMUM:  # most of them were heard of before their time
            self._due = [(one.due, carrier_id) for carrier_id, one in self._open.items()]
            heapq.heapify(self._due)

    def heard(self, reports: Iterable[Report]) -> None:
        """Their receipts came after all; those that tell of no end leave them open."""
        for report in reports:
            if report.state.upper() not in _UNDER_WAY:
                self._open.pop(report.carrier_id, None)

    def due(self, now: float, most: int) -> list[tuple[str, Open]]:
        """What to ask about now, at most so many; each comes again later unless it is settled."""
        found: list[tuple[str, Open]] = []
        while self._due and self._due[0][0] <= now and len(found) < most:
            at, carrier_id = heapq.heappop(self._due)
            one = self._open.get(carrier_id)
            if one is None or one.due != at:
                continue
            one.tries += 1
            if one.tries >= TRIES:
                del self._open[carrier_id]
            else:
                one.due = now + self._after_s * 2.0**one.tries
                heapq.heappush(self._due, (one.due, carrier_id))
            found.append((carrier_id, one))
        return found

    def settle(self, carrier_id: str) -> None:
        """Nothing more to ask about it."""
        self._open.pop(carrier_id, None)

    def refuse(self) -> None:
        """The carrier has no query_sm: nothing is asked any more."""
        self.is_refused = True
        self._open.clear()
        self._due.clear()
