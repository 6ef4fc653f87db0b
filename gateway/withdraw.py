"""Messages taken back from being sent: ended by a command, or held while their batch is paused.

    end    wherever it waits ─▶ its last row ═COMMIT═▶ certainly never sent
    hold   lane, spill ─▶ a row in `parked` (held) ═COMMIT═▶ out of memory
    let go            ─▶ spill ─▶ its lane, in fair order

A message may be on its way while it is looked for: read back, adopted, moved between lanes. So
whatever enters a lane is looked at too (`sift`), and what a command has ended is remembered for a
while (`Ledger.gone`), for an older read of it may still be on its way into memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from gateway.backlog import DUE_AFTER_S, Backlog
from gateway.dispatch import Dispatcher
from gateway.halts import Halts
from gateway.ledger import ENDS, Ledger
from gateway.reports import fold_stored
from receipts.state import Path
from sms.model import FINAL_STATES, EventRow, Message, State
from store.commands import BatchState, CommandTable, Halted, Place, in_pages
from store.fragments import ASIDE, Why, park_sql, repark_sql, unpark_sql
from store.handovers import Handovers
from store.read import Head, Reader

PAGE: Final = 250  # messages decided in one turn of the loop, some 1 ms
# What is on its way within this process arrives in between; then whoever asked looks again.
TRIES_S: Final = (0.0, 0.01, 0.03, 0.06, 0.1, 0.2)
GONE_S: Final = 120.0  # no read takes so long
STRANDED: Final = 500  # rows looked at in one go
SETTLE_FIRST_S, SETTLE_LAST_S = 5.0, 600.0  # between looks at a canceled batch, doubling
SETTLE_MARGIN_S: Final = 60.0  # clocks differ, and a report is judged before its commit
_WAITS = frozenset({State.ACCEPTED, State.SCHEDULED, State.QUEUED})
_IN_LANES = frozenset({State.ACCEPTED, State.QUEUED})


class Verdict(StrEnum):
    """What became of one message that was to end."""

    ENDED = "ended"  # it is final: by this command, or before it
    BUSY = "busy"  # an attempt is open, or a carrier may have it
    ELSEWHERE = "elsewhere"  # not this process's, or not to be found just now


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ends messages."""

    path: Path
    state: State
    reason: str


BY_TENANT: Final = Ending(Path.CANCELED, State.CANCELED, "canceled.by_tenant")

Found = dict[int, Verdict]


class Withdrawals:
    """Ends, holds and lets go what this process is to send."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        ledger: Ledger,
        dispatcher: Dispatcher,
        backlog: Backlog,
        reader: Reader,
        table: CommandTable,
        handovers: Handovers,
        reserve: Callable[[], int],
        unix: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reserve` gives a block number for claims."""
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._backlog = backlog
        self._reader = reader
        self._table = table
        self._handovers = handovers
        self._reserve = reserve
        self._unix = unix
        self._monotonic = monotonic
        self._wanted: dict[int, Ending] = {}  # ids that are being looked for
        self._gone: deque[tuple[float, int]] = deque()  # of `Ledger.gone`, oldest first
        self._looks: dict[int, tuple[float, float]] = {}  # by canceled batch: when again, how long
        # What concerns one batch goes one by one, what concerns others beside it.
        self._batches: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._letting_go = asyncio.Lock()  # two that let go of the same would have its id twice
        self.halts = Halts()
        self.adopt: Callable[[int, list[int]], None] = lambda block, ids: None  # joined by wiring

    # -- ending ----------------------------------------------------------------------------

    async def end(self, tenant: int, ids: Sequence[int], ending: Ending) -> Found:
        """End those of a tenant's messages that this process is to send, or that are on their way.

        When it returns, what it ended is committed. Raises StoreUnavailable; some may have ended.
        """
        found: Found = {}
        self._forget_gone()
        mine = {message_id: ending for message_id in ids if message_id not in self._wanted}
        self._wanted |= mine
        self._arm()
        try:
            for wait_s in TRIES_S:
                if wait_s:
                    await asyncio.sleep(wait_s)
                await self._end_live(tenant, _left(ids, found), ending, found)
                await self._end_stored(tenant, _left(ids, found), ending, found)
                if len(found) == len(ids):
                    break
        finally:
            for message_id in mine:
                self._wanted.pop(message_id, None)
            self._arm()
        await self.committed()
        return {message_id: found.get(message_id, Verdict.ELSEWHERE) for message_id in ids}

    async def _end_live(
        self, tenant: int, ids: Sequence[int], ending: Ending, found: Found
    ) -> None:
        live = self._ledger.live
        for page in in_pages(ids, PAGE):
            messages = [live[message_id] for message_id in page if message_id in live]
            self._end([message for message in messages if message.tenant == tenant], ending, found)
            if len(ids) > PAGE:
                await asyncio.sleep(0)

    async def _end_stored(
        self, tenant: int, ids: Sequence[int], ending: Ending, found: Found
    ) -> None:
        """Those that are not in memory as messages: spilled, parked, on their way."""
        if not ids:
            return

        def end(some: Sequence[Message]) -> None:
            self._end(some, ending, found)
            # what may not end, a copy that came back, is in memory now and goes on
            self._dispatcher.arrived([m for m in some if m.state not in FINAL_STATES])

        await self._backlog.fetch(tenant, ids, end)
        left = _left(ids, found)
        aside: list[int] = []
        handed: list[int] = []
        for place in await self._table.places(left):
            verdict = self._verdict(place)
            if verdict is not None:
                found[place.id] = verdict
            elif place.is_handed:
                handed.append(place.id)
            elif place.why in ASIDE:
                aside.append(place.id)
        for page in in_pages(aside, PAGE):
            await self._end_aside(tenant, page, ending, found)
        if handed:
            await self._pluck(handed)

    def _verdict(self, place: Place) -> Verdict | None:
        """What the store alone says; None = it is ours to end."""
        state = None if place.path is None else ENDS[place.path]
        if state in FINAL_STATES:
            return Verdict.ENDED
        if state is State.SUBMITTED or state is State.UNCERTAIN:
            return Verdict.BUSY
        if place.owner() not in (None, self._ledger.process):
            return Verdict.ELSEWHERE
        return None

    async def _end_aside(
        self, tenant: int, ids: Sequence[int], ending: Ending, found: Found
    ) -> None:
        """Scheduled or held: read, ended, and out of memory again with the commit."""
        stored = await self._reader.messages(ids)
        messages: list[Message] = []
        for record in stored.values():
            message = fold_stored(record)
            if message.id in self._ledger.live or message.id in self._ledger.gone:
                continue  # it came into memory meanwhile: with the next try
            if message.state in _WAITS and message.tenant == tenant:
                message.is_parked = True
                self._ledger.take_back(message)
                messages.append(message)
        self._end(messages, ending, found)
        ended = [message.id for message in messages if message.state in FINAL_STATES]
        # let go meanwhile, it may wait as an id
        self._backlog.spill.landed(self._backlog.spill.pick(tenant, ended))
        self._ledger.forget([m for m in messages if m.state not in FINAL_STATES])

    async def _pluck(self, ids: Sequence[int]) -> None:
        """Make them ours out of the handovers they are in: they end as they enter a lane."""
        block = self._reserve()
        won = await self._handovers.pluck(ids, block)
        if won:
            self.adopt(block, won)

    def _end(self, messages: Iterable[Message], ending: Ending, found: Found) -> None:
        """Give each its last row, those that may have one; one turn of the loop."""
        unix, now = self._unix(), self._monotonic()
        rows: list[EventRow] = []
        parked: list[int] = []
        for message in messages:
            if message.state in FINAL_STATES:
                found[message.id] = Verdict.ENDED
                continue
            if message.is_handed:
                continue  # it leaves our memory: then its place is known
            row = None
            if message.state in _WAITS and not message.duplicate_risk:
                row = self._ledger.row(
                    message, ending.path, ending.state, unix, reason=ending.reason
                )
            if row is None:
                found[message.id] = Verdict.BUSY
                continue
            found[message.id] = Verdict.ENDED
            rows.append(row)
            if message.is_parked:
                message.is_parked = False
                parked.append(message.id)
            self._ledger.gone[message.id] = ending.state
            self._gone.append((now, message.id))
            self._withdrawn(message)
        if rows:
            self._ledger.commit(rows, sql=unpark_sql(parked), done=partial(self._ended, rows))

    def _ended(self, rows: Sequence[EventRow]) -> None:
        """What lost its place to another process's row has not ended."""
        for row in rows:
            if not row.is_stored:
                self._ledger.gone.pop(row.message_id, None)

    def _forget_gone(self) -> None:
        before = self._monotonic() - GONE_S
        while self._gone and self._gone[0][0] < before:
            self._ledger.gone.pop(self._gone.popleft()[1], None)

    def _withdrawn(self, message: Message) -> None:
        self._dispatcher.withdrawn.setdefault(message.message_class, set()).add(message.tenant)

    # -- what enters a lane ----------------------------------------------------------------

    def _arm(self) -> None:
        """Look at what enters lanes only while there is a reason to."""
        self._dispatcher.sift = self.sift if self._wanted or len(self.halts) else None

    def sift(self, messages: Iterable[Message]) -> list[Message]:
        """What of them may go on; the others end here, or are held."""
        kept: list[Message] = []
        held: list[Message] = []
        ends: dict[Ending, list[Message]] = {}
        halts, wanted = self.halts, self._wanted
        for message in messages:
            ending = wanted.get(message.id)
            if ending is None and message.id > halts.last:
                kept.append(message)
                continue
            if message.state not in _WAITS or message.is_handed:
                kept.append(message)  # nothing is decided of it any more
                continue
            state = halts.state_of(message.id)
            if ending is None and state is BatchState.CANCELED:
                ending = BY_TENANT
            if ending is not None:
                ends.setdefault(ending, []).append(message)
            elif state is BatchState.PAUSED:
                held.append(message)
            else:
                kept.append(message)
        for ending, some in ends.items():
            self._end(some, ending, {})
            for message in some:  # what may not end, a copy, goes on, unless its batch is paused
                is_held = halts.state_of(message.id) is BatchState.PAUSED
                (held if is_held else kept).append(message)
        held = [message for message in held if message.state not in FINAL_STATES]
        if held:
            self._hold(held)
        return [message for message in kept if message.state not in FINAL_STATES]

    def _hold(self, messages: Sequence[Message]) -> None:
        """Out of memory, into `parked`, until their batch runs again or their time is over.

        From here on the objects are nobody's, as after a handover.
        """
        for message in messages:
            message.is_handed = True
            self._withdrawn(message)
        rows = [(m.id, m.valid_until, Why.HELD, m.message_class, m.tenant) for m in messages]
        sql = park_sql(self._ledger.process, rows)
        sql += self._ledger.unclaim_sql([message.id for message in messages])
        self._ledger.commit([], sql=sql, done=partial(self._ledger.forget, messages))

    # -- batches ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Know the halted batches, before anything of an earlier life enters a lane."""
        self.halts.replace(await self._table.halted())
        self._arm()

    async def follow(self, first_id: int) -> None:
        """Do what the row of a batch says now. Raises StoreUnavailable."""
        async with self._batches.setdefault(first_id, asyncio.Lock()):
            for batch in await self._table.halted(first_id):
                self.halts.set(batch)
                self._arm()
                match batch.state:
                    case BatchState.RUNNING:
                        await self._resume(batch)
                    case BatchState.PAUSED:
                        await self._pause(batch)
                    case BatchState.CANCELED | BatchState.SETTLED:
                        ids = range(batch.first_id, batch.last_id + 1)
                        await self.end(batch.tenant, ids, BY_TENANT)

    async def _pause(self, batch: Halted) -> None:
        live = self._ledger.live
        ids = range(batch.first_id, batch.last_id + 1)
        for page in in_pages(ids, PAGE):
            messages = [live[message_id] for message_id in page if message_id in live]
            waiting = [m for m in messages if m.state in _IN_LANES and not m.is_handed]
            if waiting:
                self._hold(waiting)
            await asyncio.sleep(0)
        spill = self._backlog.spill
        taken = spill.pick(batch.tenant, ids)
        if taken:
            rows = [
                (one.id, one.valid_until(), Why.HELD, one.queue.message_class, one.queue.tenant)
                for one in taken
            ]
            sql = park_sql(self._ledger.process, rows)
            self._ledger.commit([], sql=sql, done=partial(spill.landed, taken))
        await self.committed()

    async def _resume(self, batch: Halted) -> None:
        await self.committed()  # what is being held just now has its row
        size = batch.last_id - batch.first_id + 1
        async with self._letting_go:
            heads = await self._reader.parked_heads(
                self._ledger.process, Why.HELD, batch.first_id - 1, size
            )
            await self._let_go([head for head in heads if head.id <= batch.last_id])

    async def _let_go(self, heads: Sequence[Head]) -> None:
        """Back among the spilled ids, behind what waits there: read when it is their turn."""
        for start in range(0, len(heads), PAGE):
            some = heads[start : start + PAGE]
            rows = [(head.id, head.valid_until + DUE_AFTER_S, Why.SPILLED) for head in some]
            self._ledger.commit(
                [],
                sql=repark_sql(self._ledger.process, rows),
                done=partial(self._backlog.take_up, some, is_parked=True),
            )
            await asyncio.sleep(0)
        await self.committed()

    async def refresh(self) -> None:
        """Learn what was missed: a command while our lease was over, rows of who died.

        Raises StoreUnavailable.
        """
        self._forget_gone()
        changes = self.halts.changes
        picture = await self._table.halted()
        await self._settle([batch for batch in picture if batch.state is BatchState.CANCELED])
        if self.halts.changes == changes:
            self.halts.replace(picture)
            self._arm()
        async with self._letting_go:
            heads = await self._reader.heads(await self._table.stranded(STRANDED))
            await self._let_go([h for h in heads if self._state_of(h) is BatchState.RUNNING])
        canceled: dict[int, list[int]] = {}
        for head in heads:
            if self._state_of(head) is BatchState.CANCELED:
                canceled.setdefault(head.tenant, []).append(head.id)
        for tenant, some in canceled.items():
            for page in in_pages(some, PAGE):
                await self.end(tenant, page, BY_TENANT)

    async def _settle(self, batches: Sequence[Halted]) -> None:
        """What may still come by keeps a canceled batch among the halted ones.

        That is also what a carrier has, as long as its receipt may bring it back (RELIABILITY 17).
        Each is looked at more and more rarely: it may be so for days.
        """
        now, looks = self._monotonic(), self._looks
        self._looks = {}
        for batch in batches:
            look_at, wait_s = looks.get(batch.first_id, (now, SETTLE_FIRST_S))
            if look_at <= now and await self._may_settle(batch):
                await self._table.settle(batch.first_id)
            elif look_at <= now:
                self._looks[batch.first_id] = now + wait_s, min(2 * wait_s, SETTLE_LAST_S)
            else:
                self._looks[batch.first_id] = look_at, wait_s

    async def _may_settle(self, batch: Halted) -> bool:
        before = self._unix() - SETTLE_MARGIN_S
        standings = await self._table.standings(batch.first_id, batch.last_id)
        for path, valid_until in standings.items():
            state = State.ACCEPTED if path is None else ENDS[path]
            if state in _WAITS or state is State.UNCERTAIN:
                return False
            if state is State.SUBMITTED and valid_until > before:
                return False
        return True

    def _state_of(self, head: Head) -> BatchState:
        return self.halts.state_of(head.id)

    async def committed(self) -> None:
        """Wait until everything decided so far is durable."""
        done = asyncio.Event()
        self._ledger.commit([], done=done.set)
        await done.wait()


def _left(ids: Iterable[int], found: Found) -> list[int]:
    return [message_id for message_id in ids if message_id not in found]
