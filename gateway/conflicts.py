"""Rows that lost the race for their sequence: read again, fold, try the next sequence.

Only rows after the first `submitted` or `uncertain` can lose (DESIGN decision 2): two processes
may hear of the same message. Three tries, then the row is given up and counted.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.ledger import Ledger
from receipts.state import apply_row, fold
from sms.errors import Unavailable
from sms.ids import IdClock
from sms.model import EventRow, Message
from store.read import Reader
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

MAX_TRIES = 3

log = get_logger(__name__)

# The live part of a message: what a fresh fold may put right.
_LIVE = (
    *("state", "sequence", "attempt", "tried", "channel", "copy", "duplicate_risk"),
    *("carrier_ids", "segment_states", "first_states", "reason", "carrier_code"),
    *("submitted_at", "final_at"),
)


class Conflicts:
    """Holds the losers of a flush until they are settled."""

    def __init__(self, *, ledger: Ledger, reader: Reader, ids: IdClock, metrics: Metrics) -> None:
        self._ledger = ledger
        self._reader = reader
        self._ids = ids
        self._metrics = metrics
        self._rows: list[tuple[EventRow, int]] = []
        self._tries: dict[int, int] = {}  # event_id of the newest try → tries so far
        self._wake = asyncio.Event()

    def lost(self, rows: list[EventRow]) -> None:
        """Called by the event lane: these rows are not in the table."""
        for row in rows:
            self._rows.append((row, self._tries.pop(row.event_id, 0) + 1))
        self._wake.set()

    async def run(self) -> None:
        """Settle losers until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            rows, self._rows = self._rows, []
            try:
                await self._settle(rows)
            except Unavailable:
                self._metrics.reports_total.inc(("", "conflict_waits"))
                self._rows = rows + self._rows
                await asyncio.sleep(0.5)
                self._wake.set()

    async def _settle(self, rows: list[tuple[EventRow, int]]) -> None:
        stored = await self._reader.messages(sorted({row.message_id for row, _ in rows}))
        fresh: dict[int, Message] = {}
        for message_id, record in stored.items():
            fold(record.message, record.rows)
            fresh[message_id] = record.message
        for row, tries in sorted(rows, key=lambda pair: (pair[0].message_id, pair[0].sequence)):
            message = fresh.get(row.message_id)
            if message is None or tries > MAX_TRIES:
                self._metrics.quarantined_total.inc(("conflict",))
                log.error("row given up after conflicts", message_id=row.message_id, tries=tries)
                continue
            self._again(row, message, tries)

    def _again(self, row: EventRow, fresh: Message, tries: int) -> None:
        live = row.message
        again = replace(
            row, sequence=fresh.sequence + 1, event_id=self._ids.next(), message=live or fresh
        )
        if not apply_row(fresh, again):
            self._metrics.reports_total.inc(("", "conflict_settled"))
            return  # the other writer's row already says it, or says better
        if live is not None:
            for name in _LIVE:
                setattr(live, name, getattr(fresh, name))
        self._tries[again.event_id] = tries
        self._ledger.commit([again])
