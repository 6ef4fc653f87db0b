"""Rows that lost the race for their sequence: read again, judge again, try the next sequence.

Only rows after the first `submitted` or `uncertain` can lose (DESIGN decision 2): two processes,
or two look-ups of one, may hear of the same message. What a report means is decided anew on the
fresh fold: the other writer's row may have made it the last segment, or may already say it. After
three tries a row is given up, counted and logged.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.ledger import Ledger
from gateway.matches import is_of_another, place_of
from receipts.deadline import NO_EVIDENCE, end_at_deadline
from receipts.state import NOT_ACCEPTED, Path, apply_row, fold, path_to, report_path
from sms.errors import Unavailable
from sms.ids import IdClock
from sms.model import FINAL_STATES, EventRow, Message, State
from store.read import Reader
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

MAX_TRIES = 3
JITTER_S = 0.02

log = get_logger(__name__)

# The live part of a message: what a fresh fold may put right. Of one that is being submitted the
# store does not know the open attempt, so there only what the rows add is taken over.
_LIVE = (
    *("state", "sequence", "attempt", "tried", "channel", "copy", "duplicate_risk"),
    *("carrier_ids", "segment_states", "segment_codes", "first_states"),
    *("reason", "carrier_code"),
    *("submitted_at", "final_at", "counted"),
)
_COMES_BACK = frozenset({Path.QUEUED, Path.REQUEUED})
_LIVE_SUBMITTING = ("sequence", "first_states", "segment_codes", "counted")


class Conflicts:
    """Holds the losers of a flush until they are settled."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        reader: Reader,
        ids: IdClock,
        metrics: Metrics,
        resend: Callable[[Message], None],
        misplaced: Callable[[int, str], None] = lambda channel, carrier_id: None,
    ) -> None:
        """`misplaced`: this id of a channel stands for another segment than memory has it."""
        self._ledger = ledger
        self._reader = reader
        self._ids = ids
        self._metrics = metrics
        self._resend = resend
        self._misplaced = misplaced
        # The event lane keeps back what was judged before these were read (`EventLane.settled`).
        self.settled: Callable[[list[int], int], None] = lambda message_ids, mark: None
        self._rows: list[EventRow] = []
        self._wake = asyncio.Event()

    def lost(self, rows: list[EventRow]) -> None:
        """Called by the event lane: these rows are not in the table."""
        self._rows += rows
        self._wake.set()

    async def run(self) -> None:
        """Settle losers until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if any(row.tries for row in self._rows):  # not in step with who won the last time
                await asyncio.sleep(random.uniform(0.0, JITTER_S))  # noqa: S311 (no secret)
            rows, self._rows = self._rows, []
            try:
                await self.settle(rows)
            except Unavailable:
                self._metrics.row_conflicts_total.inc(("waits",))
                self._rows = rows + self._rows
                await asyncio.sleep(0.5)
                self._wake.set()

    async def settle(self, rows: list[EventRow]) -> None:
        """Read the messages again and give each row its place, or none."""
        stored = await self._reader.messages(sorted({row.message_id for row in rows}))
        fresh: dict[int, Message] = {}
        stored_rows = {message_id: record.rows for message_id, record in stored.items()}
        self.settled(sorted({row.message_id for row in rows}), self._ids.next())
        for message_id, record in stored.items():
            fold(record.message, record.rows)
            fresh[message_id] = record.message
        for row in sorted(rows, key=lambda row: (row.message_id, row.sequence)):
            message = fresh.get(row.message_id)
            if message is None or row.tries >= MAX_TRIES:
                self._metrics.quarantined_total.inc(("conflict",))
                self._metrics.row_conflicts_total.inc(("given_up",))
                log.error("row given up after conflicts", message_id=row.message_id)
            else:
                self._again(row, message, stored_rows[row.message_id])

    def _again(self, row: EventRow, fresh: Message, rows: Sequence[EventRow]) -> None:
        path, status = self._judge(row, fresh)
        if is_of_another(row, rows):
            path = None  # not stored, so it comes again, and is known then
        segment = _place_of(row, fresh)
        if segment != row.segment and row.carrier_id:
            self._misplaced(row.channel, row.carrier_id)
        live = row.message
        if live is not None and fresh.state in FINAL_STATES:
            self._ended_elsewhere(live, fresh)
        again = replace(
            row,
            path=Path.NOTE if path is None else path,
            status=status,
            segment=segment,
            sequence=fresh.sequence + 1,
            event_id=self._ids.next(),
            message=live or fresh,
            previous=fresh.state,
            tries=row.tries + 1,
        )
        if path is None or not (apply_row(fresh, again) or _as_note(fresh, again)):
            self._metrics.row_conflicts_total.inc(("needless",))
            if live is not None:
                refresh(live, fresh)
            return  # the other writer's row already says it, or says better
        if live is not None:
            refresh(live, fresh)
        back = live or fresh

        def done() -> None:
            if again.is_stored and path in _COMES_BACK:
                self._resend(back)

        self._metrics.row_conflicts_total.inc(("again",))
        self._ledger.commit([again], done=done)

    def _ended_elsewhere(self, live: Message, fresh: Message) -> None:
        """Its first copy was told about to another process while the second one was ours."""
        if self._ledger.live.get(live.id) is live and live.state is not State.SUBMITTING:
            refresh(live, fresh)
            self._ledger.forget([live])

    def _judge(self, row: EventRow, fresh: Message) -> tuple[int | None, State]:
        """(path, status) of the row now: the end for want of evidence is what is known by now."""
        if row.reason != NO_EVIDENCE or row.segment is not None:
            return self._path(row, fresh), row.status
        end = end_at_deadline(fresh)
        return path_to(fresh, end), end

    @staticmethod
    def _path(row: EventRow, fresh: Message) -> int | None:
        """What the row does to the message as it stands now; None = nothing any more.

        That a vendor never accepted an attempt (14a) says nothing of a newer one.
        """
        live = row.message
        if row.reason == NOT_ACCEPTED and row.segment is None:
            return row.path if live is not None and live.attempt == fresh.attempt else None
        if row.segment is None or row.status not in FINAL_STATES:
            return row.path
        return report_path(fresh, row.segment, row.copy, row.status)


def refresh(live: Message, fresh: Message) -> None:
    """What the store knows better goes over into the live object."""
    for name in _LIVE_SUBMITTING if live.state is State.SUBMITTING else _LIVE:
        setattr(live, name, getattr(fresh, name))


def _place_of(row: EventRow, fresh: Message) -> int | None:
    """The row's segment now: a receipt may have settled one under the id of a late answer."""
    is_answer = row.status is State.SUBMITTED and row.copy == fresh.copy and fresh.segments > 1
    live = row.message
    if not is_answer or row.segment is None or row.carrier_id is None or live is None:
        return row.segment
    # Its own answer is noted in the live object before the row is made.
    answers = [None if n == row.segment else one for n, one in enumerate(live.answers)]
    return place_of(fresh, row.segment, row.carrier_id, answers)


def _as_note(fresh: Message, again: EventRow) -> bool:
    """A carrier's id of a message that has ended meanwhile is kept: its report will name it."""
    if again.carrier_id is None:
        return False
    again.path = Path.NOTE
    return apply_row(fresh, again)
