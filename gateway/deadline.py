"""The receipt deadline: what was submitted and never heard of again ends (RELIABILITY 2, row 18).

    walk: accepted 72 h ago, no end ─┬─ submitted 72 h ago ─▶ its last row ═COMMIT═▶ told
                                     └─ anything else ──────▶ `deadlines`: 72 h after its submit
    `deadlines`: due ─┬─ over ──▶ its last row        ├─ ended ─▶ forgotten
                      └─ not yet ─▶ later

A submitted message is in nobody's memory and has no owner: whichever process walks ends it. Its
row goes to the place behind those that were read, so that of two processes, or of a report that
comes at that moment, one wins; who loses is judged anew (conflicts.py). What lost is watched as
well, for a kill takes that judgement with it. Uncertain ones end by evidence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.ledger import Ledger
from gateway.walking import ASIDE_S, SLICE, Opener, Walker, Work, commit
from receipts.deadline import NO_EVIDENCE, end_at_deadline
from receipts.state import path_to
from sms.model import FINAL_STATES, EventRow, Message, State
from store.read import Reader
from store.silence import (
    SilenceStore,
    Walk,
    forget_overdue_sql,
    unwatch_sql,
    watch_sql,
)
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

DUE_LIMIT = 1000  # of `deadlines`, between two rests
LOST_S = 60.0  # a row that lost its place is looked after again by then

log = get_logger(__name__)


class Deadlines:
    """Ends what is silent; `round` is called every few seconds in every process."""

    def __init__(
        self,
        *,
        store: SilenceStore,
        reader: Reader,
        ledger: Ledger,
        metrics: Metrics,
        deadline_s: float,
    ) -> None:
        self._store = store
        self._opener = Opener(reader, metrics)
        self._ledger = ledger
        self._metrics = metrics
        self._deadline_s = deadline_s
        self.is_stopped: Callable[[], bool] = lambda: False  # draining
        self.walker = Walker(Walk.DEADLINE, deadline_s, store, self._opener, ledger)

    async def round(self) -> None:
        """Walk on to what is due now; raises Unavailable, LeaseLost."""
        try:
            await self._walk()
        finally:
            behind = self._metrics.deadline_behind_seconds
            if self.walker.is_ours:  # also of a round that failed
                behind.set((), self.walker.behind_s)
            else:  # another process walks
                behind.clear()

    async def _walk(self) -> None:
        while (turn := await self.walker.begin()) is not None:
            work, before = Work(), self.walker.slices
            is_more = await self.walker.step(turn, self._walked)
            looked = await self._look(turn.now)
            is_more |= looked == DUE_LIMIT
            self._metrics.deadline_behind_seconds.set((), self.walker.behind_s)
            if not is_more or self.is_stopped():
                return
            await work.rest(self.walker.slices - before + looked // SLICE)

    async def _look(self, now: float) -> int:
        """Those that are watched and due, at most `DUE_LIMIT`; how many."""
        ids = await self._store.due(DUE_LIMIT)

        async def handle(messages: list[Message], aside: list[int]) -> list[tuple[int, float]]:
            return await self._decide(messages, now) + [(one, now + ASIDE_S) for one in aside]

        later = [one for some in await self._opener.each(ids, handle) for one in some]
        gone = set(ids) - {message_id for message_id, _ in later}
        sql = watch_sql(later) + unwatch_sql(gone) + forget_overdue_sql(gone)
        if sql:
            await commit(self._ledger, sql=sql)
        return len(ids)

    async def _walked(self, messages: Sequence[Message], now: float) -> str:
        later = await self._decide(messages, now)
        watched = {message_id for message_id, _ in later}
        ended = [one.id for one in messages if one.id not in watched]
        return watch_sql(later) + forget_overdue_sql(ended)

    async def _decide(self, messages: Sequence[Message], now: float) -> list[tuple[int, float]]:
        """End what is over; the others, with when they are to be looked at again."""
        rows: list[EventRow] = []
        later: list[tuple[int, float]] = []
        for message in messages:
            if message.state in FINAL_STATES:
                continue
            try:
                due = self._due(message, now)
                row = None if due > now else self._last_row(message, now)
            except Exception:  # as one that cannot be read
                log.exception("deadline crashed its handler", message_id=message.id)
                self._opener.count()
                later.append((message.id, now + ASIDE_S))
                continue
            if row is not None:
                rows.append(row)
            else:
                later.append((message.id, max(due, now + LOST_S) if due <= now else due))
        if rows:
            await commit(self._ledger, rows)
        for row in rows:
            if row.is_stored:
                self._count(row)
            else:
                later.append((row.message_id, now + LOST_S))
        return later

    def _due(self, message: Message, now: float) -> float:
        """When its deadline is over; of what is not submitted, when it may be at the earliest."""
        if message.state is State.SUBMITTED:
            return (message.submitted_at or message.created_at) + self._deadline_s
        return max(now, message.send_at or 0.0) + self._deadline_s

    def _last_row(self, message: Message, now: float) -> EventRow | None:
        end = end_at_deadline(message)
        path = path_to(message, end)
        if path is None:
            log.error("no way to its deadline", message_id=message.id, state=message.state.value)
            return None
        return self._ledger.row(
            message,
            path,
            end,
            now,
            copy=message.copy,
            channel=message.channel,
            reason=None if end is State.DELIVERED else NO_EVIDENCE,
        )

    def _count(self, row: EventRow) -> None:
        name = self._ledger.channel_names.get(row.channel, "")
        self._metrics.deadline_ended_total.inc((name, row.status.value))
