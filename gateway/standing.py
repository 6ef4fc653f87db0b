"""Messages that stand for long: their pointers are parked, and looked at when they are due.

live for 10 minutes ─▶ parked row, claim of today   the low-water mark and the journal move on
parked row is due ─┬─ still waits for its channel ──▶ pushed out, or read back from the spill
                   ├─ held until its validity ended ▶ expired
                   └─ anything else ────────────────▶ its evidence is looked at
"""

from __future__ import annotations

import asyncio
import math
import time

from gateway.flow import Flow
from gateway.peers import Peers
from gateway.reports import fold_stored
from receipts.state import come_due
from sms.ids import id_at
from sms.model import Message, MessageClass, State
from store.claims import ClaimBook
from store.fragments import STOOD, Why, park_sql, unpark_sql

PARKED_LIMIT = 500
REPARK_S = 600.0
CHECK_S = 30.0
OLDEST = 20  # uncertain messages of a class, of which one tells how old they are
MARK_SLICE = 10_000  # messages looked at in one turn of the loop, some 1 ms
_WAITS = frozenset({State.ACCEPTED, State.QUEUED})
_STANDING = frozenset({State.ACCEPTED, State.QUEUED, State.SUBMITTING})


class Standing:
    """What this process owes and cannot send yet, beyond what memory and the journal may hold."""

    def __init__(
        self, flow: Flow, claims: ClaimBook, peers: Peers, process: int, after_s: float
    ) -> None:
        """`after_s`: what stands longer gets a parked row."""
        self._flow = flow
        self._claims = claims
        self._peers = peers
        self._process = process
        self._after_s = after_s
        self.every_s = min(CHECK_S, after_s / 2)  # between two calls of `park`

    async def round(self) -> None:
        """Look at messages whose wait is over: one page of them, and its commit."""
        flow = self._flow
        due = await flow.reader.due_parked(self._process, time.time(), PARKED_LIMIT)
        if not due:
            return
        away = [row for row in due if self._at_hand(row.message_id) is None]
        await flow.backlog.take_up_due([row.message_id for row in away if row.why in STOOD])
        stored = await flow.reader.messages(
            [row.message_id for row in away if row.why not in STOOD]
        )
        push_out: list[Message] = []
        late: list[Message] = []
        for row in due:
            message = self._at_hand(row.message_id)
            if message is None and row.message_id in stored:
                message = fold_stored(stored[row.message_id])
                message.is_parked = True
                if row.why is Why.HELD:  # it was due before it was held, and no row tells of that
                    come_due(message)
            if message is None:
                continue
            if row.why in STOOD and message.state in _STANDING:
                if not (message.is_handed or message.is_adopted):  # their own pointers stand
                    push_out.append(message)
            elif row.why is Why.HELD and self._is_aside(message):
                flow.ledger.take_back(message)
                late.append(message)
            else:
                flow.evidence.due(message)
        self.push_out(push_out)
        flow.dispatcher.expire_all(late)  # what is held is due when its validity is over
        await self.committed()

    def _is_aside(self, message: Message) -> bool:
        """Whether its parked row is all there is of it, and it was not sent yet."""
        return message.id not in self._flow.ledger.live and message.state in _STANDING

    def _at_hand(self, message_id: int) -> Message | None:
        flow = self._flow
        return flow.ledger.live.get(message_id) or flow.evidence.waiting.get(message_id)

    def push_out(self, messages: list[Message]) -> None:
        """Park what still stands in a lane, for ten minutes: its row finds it after a crash."""
        if not messages:
            return
        ledger = self._flow.ledger
        later = time.time() + REPARK_S
        rows = [
            (message.id, later, Why.QUEUED, message.message_class, message.tenant)
            for message in messages
        ]

        def done() -> None:
            gone: list[int] = []
            for message in messages:
                if message.is_handed:
                    continue  # put off, held or given: the row that stands is of that commit
                if message.id in ledger.live and message.state in _STANDING:
                    message.is_parked = True  # only now may the low-water mark pass it
                elif message.state is not State.UNCERTAIN:  # it left while its row was written
                    gone.append(message.id)
            if gone:
                ledger.commit([], sql=unpark_sql(gone))

        ledger.commit([], sql=park_sql(self._process, rows), done=done)

    async def park(self) -> None:
        """Give what stands too long a parked row: the low-water mark moves on."""
        before = id_at(time.time() - self._after_s)
        live_now = self._flow.ledger.live
        live = list(live_now.values())
        for start in range(0, len(live), MARK_SLICE):
            standing = [
                message
                for message in live[start : start + MARK_SLICE]
                if message.id < before
                and message.state in _STANDING
                and not (message.is_parked or message.is_adopted or message.is_handed)
            ]
            for first in range(0, len(standing), PARKED_LIMIT):
                some = standing[first : first + PARKED_LIMIT]  # some were given meanwhile
                self.push_out([m for m in some if m.id in live_now and not m.is_handed])
                await self.committed()
            await asyncio.sleep(0)
        await self._flow.backlog.park()
        await self.claim_anew(before)
        await self.count_uncertain()

    async def count_uncertain(self) -> None:
        """Tell the gauges of uncertain messages that are not in memory: an earlier life's."""
        flow = self._flow
        known = await flow.reader.uncertain(self._process, OLDEST)
        away = [
            message_id
            for _, first in known.values()
            for message_id in first
            if self._at_hand(message_id) is None
        ]
        since: dict[MessageClass, float] = {}
        for record in (await flow.reader.messages(away) if away else {}).values():
            message = fold_stored(record)
            if message.state is State.UNCERTAIN:
                of = message.message_class
                since[of] = min(message.uncertain_at, since.get(of, math.inf))
        flow.evidence.counted({of: n for of, (n, _) in known.items()}, since)

    async def claim_anew(self, before: int) -> None:
        """Give what was claimed `before` that id and waits, its link being down, a claim of today.

        Its lines in the journal say no more than that nothing of it is open, and the journal
        keeps everything from the oldest claim on.
        """
        old = self._claims.older_than(before)
        if not old:
            return
        live = list(self._flow.ledger.live.values())
        by_claim: dict[int, list[Message]] = {}
        for start in range(0, len(live), MARK_SLICE):
            for message in live[start : start + MARK_SLICE]:
                if message.claim in old and _waits(message):
                    by_claim.setdefault(message.claim, []).append(message)
            await asyncio.sleep(0)
        for was, messages in by_claim.items():
            self._move_claim(was, messages)
        await self.committed()

    def _move_claim(self, was: int, messages: list[Message]) -> None:
        """Both claims stand until the new one is committed."""
        claims, live = self._claims, self._flow.ledger.live
        messages = [message for message in messages if message.claim == was and _waits(message)]
        if not messages:
            return

        def claimed() -> None:
            for message in messages:
                if message.id in live and message.claim == was and _waits(message):
                    claims.settled(was)
                    message.claim = number
                else:  # it left under its old claim meanwhile
                    claims.settled(number)

        number = claims.block([message.id for message in messages], claimed)
        self._peers.desk.moved(was, number)

    async def committed(self) -> None:
        """Return once what was handed to the event lane until now is committed."""
        done = asyncio.Event()
        self._flow.ledger.commit([], done=done.set)
        await done.wait()


def _waits(message: Message) -> bool:
    """Nothing of it is with a carrier or on its way to another process."""
    return message.state in _WAITS and not message.is_handed
