"""Messages that wait for their hour: `send_at`, or the hours of their class.

    accepted with send_at ═same COMMIT═▶ `parked` ─┐
    marketing, its hours over ═COMMIT═▶ `parked` ──┴─▶ due, by class, otp first, a page at a time
                                            ─▶ an id in the spill ─▶ lane, as it has room

A message that waits is in nobody's memory: its parked row and its row `scheduled` are all there is
of it. What is due becomes an id among the spilled ones (`gateway.backlog`), which come back otp
first, tenants in turns: so a million that are due at the same second cost 12 bytes each and keep
nobody waiting. A page that PostgreSQL did not answer for is asked again before anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from compliance.policy import QUIET_HOURS
from gateway.backlog import DUE_AFTER_S, Backlog
from gateway.ledger import Ledger
from receipts.state import Path
from sms.model import EventRow, Message, MessageClass, State
from store.fragments import Why, park_sql
from store.read import Head
from store.scheduled import Due
from telemetry.failpoints import failpoints
from telemetry.metrics import Metrics

PAGE: Final = 1000  # ids taken up in one go
OTP_LOOK_S: Final = 0.05  # at least so long is left to others between two pages
DUTY: Final = 1.0  # and so much of the time that the last one took


class DueRows(Protocol):
    """The scheduled rows of this process (`store.scheduled.Scheduled`)."""

    async def due(self, message_class: MessageClass, now: float, limit: int) -> list[Due]:
        """A page of what is due, the oldest first."""
        ...

    async def take(self, due_again: Sequence[tuple[int, float]]) -> set[int]:
        """Make spilled rows of scheduled ones; gives those that are ours to take."""
        ...

    async def forget(self, message_ids: Sequence[int]) -> None:
        """Drop rows whose messages are gone."""
        ...


class Heads(Protocol):
    """The reader, as far as the schedule needs it."""

    async def heads(self, ids: Sequence[int]) -> list[Head]:
        """What a lane must know of these messages."""
        ...


class Schedule:
    """Puts messages down until their hour, and takes them up then."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        ledger: Ledger,
        backlog: Backlog,
        rows: DueRows,
        reader: Heads,
        metrics: Metrics,
        unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._backlog = backlog
        self._rows = rows
        self._reader = reader
        self._metrics = metrics
        self._unix = unix
        self._monotonic = monotonic
        self._doubtful: list[Head] = []  # asked for, and the answer was lost

    # -- down ------------------------------------------------------------------------------

    def accepted(self, messages: Sequence[Message]) -> None:
        """They are committed, and so is where they wait: let go of them, tell their tenants."""
        rows: list[EventRow] = []
        for message in messages:
            self._ledger.pass_on(message)
            rows.append(
                EventRow(
                    message.id,
                    message.sequence,
                    message.id,  # of the event too: store.scheduled
                    message.tenant,
                    Path.SCHEDULED,
                    State.SCHEDULED,
                    message.created_at,
                    reason=message.reason,
                    message=message,
                    previous=State.ACCEPTED,
                )
            )
        self._ledger.committed(rows)

    def put_off(self, messages: Sequence[tuple[Message, float]]) -> None:
        """Their hours are over: each waits until its moment (Unix seconds), at most as it is valid.

        They stand in no lane any more. One that was never tried gets its row `scheduled`; for one
        that came back there is no such step (RELIABILITY section 2), it waits as `queued`.
        """
        unix = self._unix()
        rows: list[EventRow] = []
        parks: list[tuple[int, float, int, MessageClass, int]] = []
        gone = [message for message, _ in messages]
        for message, until in messages:
            if message.state is State.ACCEPTED:
                row = self._ledger.row(
                    message, Path.SCHEDULED, State.SCHEDULED, unix, reason=QUIET_HOURS
                )
                if row is not None:
                    rows.append(row)
            message.is_handed = True  # this object is nobody's from here on
            due = min(until, message.valid_until)
            parks.append((message.id, due, Why.SCHEDULED, message.message_class, message.tenant))
        sql = park_sql(self._ledger.process, parks)
        sql += self._ledger.unclaim_sql([message.id for message in gone])
        self._ledger.commit(rows, sql=sql, done=lambda: self._ledger.forget(gone))

    # -- up --------------------------------------------------------------------------------

    async def round(self) -> None:
        """Take up all that is due; for twice a second. Raises StoreUnavailable, LeaseLost."""
        if self._doubtful:
            await self._take(self._doubtful)
        while await self._round_of_classes():
            pass

    async def _round_of_classes(self) -> bool:
        """A page of the first class that has a whole one due; False when no class has."""
        for message_class in MessageClass:
            began = self._monotonic()
            if await self._page(message_class):
                took_s = self._monotonic() - began
                await asyncio.sleep(max(OTP_LOOK_S, took_s * DUTY))
                return True
        return False

    async def _page(self, message_class: MessageClass) -> bool:
        """Take up a page; whether there may be another one of this class."""
        now = self._unix()
        if not self._backlog.has_room(message_class, PAGE):
            return False
        due = await self._rows.due(message_class, now, PAGE)
        age_s = now - due[0].due if due else 0.0
        self._metrics.scheduled_late_seconds.set((message_class.value,), age_s)
        if not due:
            return False
        if failpoints.is_armed:
            failpoints.hit("schedule.due")
        # One whose row to wait is being written just now is not ours to take yet.
        ids = [one.message_id for one in due if not self._is_leaving(one.message_id)]
        heads = await self._reader.heads(ids)
        lost = sorted({*ids} - {head.id for head in heads})
        if lost:
            await self._rows.forget(lost)
        await self._take(heads)
        return len(due) == PAGE

    def _is_leaving(self, message_id: int) -> bool:
        message = self._ledger.live.get(message_id)
        return message is not None and message.is_handed

    async def _take(self, heads: list[Head]) -> None:
        self._doubtful = heads
        now = self._unix()
        again = [(head.id, max(now, head.valid_until) + DUE_AFTER_S) for head in heads]
        taken = await self._rows.take(again)
        if failpoints.is_armed:
            failpoints.hit("schedule.taken")
        self._doubtful = []
        found: list[Head] = []
        for head in heads:
            standing = self._ledger.live.get(head.id)
            if head.id not in taken:
                continue
            if standing is None:
                found.append(head)
            else:  # a claim had brought it back, recovery found it first
                standing.is_parked = True
        self._backlog.take_up(found, is_parked=True)
        self._metrics.scheduled_due_total.inc((), len(found))
