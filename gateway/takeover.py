"""What a dead process owed becomes ours: its lease is over and nobody starts it again.

    seize ═epoch + 1═▶ claims: journal on our disk and its owner's lock free? else uncertain
                     ═▶ rows, the rest handed to us
                     ▶ unfinished, in pages ═▶ handed to us, low-water mark raised
                     ▶ what waited in lanes and `parked` ═▶ handed to us; the other parked ═▶ ours
                     ▶ webhooks, handovers, commands ═▶ ours; events after its cursor ═▶ parked
                     ▶ settled: the number may be used again

Each step commits what it did and finds nothing left to do when it runs again: who dies in the
middle is taken over with its debts (`owed_to`), or goes on after its restart.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.dispatch import Dispatcher
from gateway.ledger import Ledger
from gateway.notify import Notifier
from gateway.recover import OPEN, apply_results, results_of
from gateway.remote import ANY, BLOCK
from gateway.reports import fold_owned
from gateway.settle import Settler
from sms.errors import Unavailable
from sms.ids import IdClock
from sms.model import Message, MessageClass, Submit
from store.commands import move_commands
from store.database import Pool
from store.fragments import (
    Why,
    drop_claims_sql,
    event_cursor_sql,
    low_water_sql,
    unpark_sql,
)
from store.handovers import Handovers, handover_sql
from store.journal import Journal, Replay
from store.journal_lock import JournalLock
from store.processes import (
    ClockStepped,
    DatabaseClock,
    Seized,
    due_for_takeover,
    owed_to,
    seize,
    settle_debt,
)
from store.read import Reader
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

PAGE = 2000  # messages, rows or events of one commit
TRIES = 5
# What "takeover settled" tells: how many messages stood where, then rows that hang on messages.
_MESSAGES = ("claimed", "unfinished", "waited", "parked")
_COUNTED = (*_MESSAGES, "claimed_back", "webhooks", "handovers", "events")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Taker:
    """Who takes over, and from where on its disk journals can be read.

    `is_valid`: whether its own lease holds; `clock`: the database's, as of its last renewal.
    """

    dsn: str
    node: str
    process: int
    epoch: int
    journal_dir: Path
    lease_s: float
    grace_s: float
    is_valid: Callable[[], bool]
    clock: Callable[[], DatabaseClock]


@dataclass(frozen=True, slots=True)
class Heir:
    """A message to be handed to us, as far as a handover row needs it."""

    id: int
    tenant: int
    message_class: MessageClass
    valid_until: float


class Aside:
    """Stands where the dispatcher stands for the settler: what would return to a lane is kept."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.back: list[Message] = []
        self.not_sent: Callable[[int, Sequence[Submit], str], None] | None = None
        self.lost: Callable[[int, Sequence[Submit], str], None] | None = None

    def put(self, messages: Iterable[Message], *, first: bool = False) -> None:
        """Keep them: they are handed over once all that was decided of them is committed."""
        self.back += messages

    def answered(self, channel: int, taken: int, throttled: int, answer_s: float) -> None:
        """It was not our pace."""

    def has_other(self, message: Message, channel: int) -> bool:
        """Whether the route has another channel to try."""
        return self._dispatcher.has_other(message, channel)

    def spare(self, message: Message, channel: int) -> int:
        """None is sought: whoever gets the message chooses."""
        return 0

    def spill(self, message: Message, channel: int, cause: str) -> None:
        """Never asked: no channel is spare here."""
        raise AssertionError("a dead process's messages are handed over")

    def repair(self, channel: int, submits: Sequence[Submit], due: float, until: float) -> None:
        """Never asked: what joins the segments of a long message died with its process."""
        raise AssertionError("a dead process's segments cannot be repaired")


class Takeover:
    """Looks for dead processes and settles what they owed; `step` runs once a second."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        taker: Taker,
        pool: Pool,
        *,
        handovers: Handovers,
        reader: Reader,
        ledger: Ledger,
        notifier: Notifier,
        aside: Aside,
        settler: Settler,
        ids: IdClock,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`settler` settles into `aside`."""
        self._taker = taker
        self._pool = pool
        self._handovers = handovers
        self._reader = reader
        self._ledger = ledger
        self._notifier = notifier
        self._aside = aside
        self._settler = settler
        self._ids = ids
        self._metrics = metrics
        self._monotonic = monotonic
        self._steady_since = monotonic()
        self.is_stopped = False  # draining
        self.renew: Callable[[], None] = lambda: None  # our lease, at once; set by the worker
        self.kick: Callable[[], None] = lambda: None  # there are handovers to us now
        self.inherited: Callable[[], None] = lambda: None  # handovers of ours to others, commands

    def unsteady(self) -> None:
        """Leases may be over though their owners live: nobody is judged before they could renew.

        PostgreSQL was away, its clock stepped forward, or we stood still, perhaps with others.
        """
        self._steady_since = self._monotonic()

    def _may_judge(self) -> bool:
        """Whether a lease that is over means a dead process."""
        steady_s = self._monotonic() - self._steady_since
        return self._taker.is_valid() and steady_s >= self._taker.lease_s + self._taker.grace_s

    async def step(self) -> None:
        """Take over who is due and settle what we owe; raises Unavailable, LeaseLost.

        What cannot be done for one of them now is tried again by the next step.
        """
        if self.is_stopped:
            return
        clock = self._taker.clock()  # of the moment when we may judge: later steps are noticed
        if self._may_judge():
            for process in await due_for_takeover(
                self._pool, self._taker.process, self._taker.grace_s
            ):
                if not self._may_judge():
                    break
                await self._seize(process, clock)
        for seized in await owed_to(self._pool, self._taker.process):
            try:
                await self.settle(seized)
            except Unavailable as error:
                log.warning("takeover put off", dead=seized.process, error=str(error))

    async def _seize(self, process: int, clock: DatabaseClock) -> None:
        taker = self._taker
        try:
            seized = await seize(
                taker.dsn,
                process,
                by=taker.process,
                by_epoch=taker.epoch,
                grace_s=taker.grace_s,
                clock=clock,
            )
        except ClockStepped as error:
            log.warning("nobody is judged for now", error=str(error))
            self.unsteady()
            self.renew()
            return
        except Unavailable as error:
            log.warning("takeover put off", dead=process, error=str(error))
            return
        if seized is not None:
            if failpoints.is_armed:
                failpoints.hit("takeover.seized")
            if seized.has_left:  # nobody died: a worker or a node that was ended and did not return
                log.info("drained number taken", process=process, node=seized.node)
                return
            log.warning("process taken over", dead=process, node=seized.node)
            self._metrics.takeovers_total.inc()

    async def settle(self, seized: Seized) -> None:
        """Everything the seized process owed; may be run again at any time.

        Whoever holds the lock of its journal has proved it dead, and keeps the lock until the
        journal is removed: the number may be used again before that.
        """
        lock = None
        if seized.node == self._taker.node:
            lock = JournalLock.of_dead(self._taker.journal_dir, seized.process)
        try:
            await self._settle(seized, lock)
        finally:
            if lock is not None:
                lock.release()

    async def _settle(self, seized: Seized, lock: JournalLock | None) -> None:
        began = self._monotonic()
        counts = Counter(dict.fromkeys(_COUNTED, 0))
        blocks = await self._reader.claims(seized.process)
        replay = Replay() if lock is None else await self._replay(seized, blocks)
        if not await self._claims(seized, blocks, replay, counts):
            return  # perhaps with a carrier: nothing may hand it on before that is decided
        await self._unfinished(seized, counts)
        for why in (Why.QUEUED, Why.SPILLED):
            await self._waiting(seized, why, counts)
        await self._rows(seized, counts)
        await self._events(seized, counts)
        await settle_debt(self._pool, seized.process, by=self._taker.process)
        if failpoints.is_armed:
            failpoints.hit("takeover.settled")
        if lock is not None:
            lock.remove()
        who = {"process": seized.process} if seized.has_left else {"dead": seized.process}
        log.info(
            "drained number settled" if seized.has_left else "takeover settled",
            **who,
            messages=sum(counts[name] for name in _MESSAGES),
            is_proved_dead=lock is not None,
            is_journal_present=replay.is_present,
            seconds=round(self._monotonic() - began, 3),
            **counts,
        )

    async def _replay(self, seized: Seized, blocks: Mapping[int, Sequence[int]]) -> Replay:
        """What its journal says of these claims. Read in a thread: we live on meanwhile."""
        wanted = frozenset(message_id for ids in blocks.values() for message_id in ids)
        return await asyncio.to_thread(
            Journal.replay, self._taker.journal_dir, seized.process, wanted
        )

    # -- claimed ---------------------------------------------------------------------------

    async def _claims(
        self,
        seized: Seized,
        blocks: Mapping[int, list[int]],
        replay: Replay,
        counts: Counter[str],
    ) -> bool:
        """What may be with a carrier: decided as after a restart, but nothing returns to lanes.

        False when something could not be decided: its claim stands, and so does the debt.
        """
        is_clean = True
        some: dict[int, list[int]] = {}
        for block, ids in blocks.items():
            some[block] = ids
            if sum(map(len, some.values())) >= PAGE:
                is_clean &= await self._claimed(seized, replay, some, counts)
                some = {}
        return is_clean & await self._claimed(seized, replay, some, counts)

    async def _claimed(
        self, seized: Seized, replay: Replay, blocks: dict[int, list[int]], counts: Counter[str]
    ) -> bool:
        ids = sorted({message_id for some in blocks.values() for message_id in some})
        returned: set[int] = set()  # decided, and the decision was: again
        for _ in range(TRIES):  # a row may lose its place to a report that comes just now
            back = await self._decide(seized, ids, replay, returned)
            if back is not None:
                counts["claimed"] += len(ids)
                counts["claimed_back"] += len(back)
                heirs = [Heir(m.id, m.tenant, m.message_class, m.valid_until) for m in back]
                sql = unpark_sql(heir.id for heir in heirs)
                await self._hand_over(seized, heirs, sql + drop_claims_sql(seized.process, blocks))
                return True
        log.error("claims of a dead process cannot be decided", dead=seized.process)
        return False

    async def _decide(
        self, seized: Seized, ids: Sequence[int], replay: Replay, returned: set[int]
    ) -> list[Message] | None:
        """Write the rows of what its journal, or the lack of one, says; None when there were any.

        When nothing is left to decide: the messages that go back into a lane.
        """
        stored = await self._reader.messages(await self._reader.still_mine(seized.process, ids))
        self._aside.back = []
        back: list[Message] = []
        decided = 0
        for record in stored.values():
            message = fold_owned(record)
            if message.state not in OPEN:
                continue
            results = results_of(message, replay)
            if not results or message.id in returned:
                back.append(message)
                continue
            message.is_parked = True  # perhaps: what ends it or parks it anew then unparks it
            apply_results(self._settler, message, results)
            decided += 1
        if not decided:
            return back
        await self._committed("")
        returned.update(message.id for message in self._aside.back)
        return None

    # -- not claimed -----------------------------------------------------------------------

    async def _unfinished(self, seized: Seized, counts: Counter[str]) -> None:
        heads = self._reader.unfinished_heads(seized.process, seized.low_water, page=PAGE)
        async for page in heads:
            heirs = [Heir(h.id, h.tenant, h.message_class, h.valid_until) for h in page]
            mark = low_water_sql(seized.process, page[-1].id + 1, by=self._taker.process)
            await self._hand_over(seized, heirs, mark)
            counts["unfinished"] += len(heirs)

    async def _waiting(self, seized: Seized, why: Why, counts: Counter[str]) -> None:
        """Parked only because they waited too long in a lane, or found no room in one."""
        after = 0
        while True:
            page = await self._reader.parked_heads(seized.process, why, after, PAGE)
            if not page:
                return
            after = page[-1].id
            ids = [head.id for head in page]
            mine = set(await self._reader.still_mine(seized.process, ids))
            heirs = [
                Heir(h.id, h.tenant, h.message_class, h.valid_until) for h in page if h.id in mine
            ]
            await self._hand_over(seized, heirs, unpark_sql(ids, seized.process))
            counts["waited"] += len(heirs)

    async def _hand_over(self, seized: Seized, heirs: Sequence[Heir], sql: str) -> None:
        """Handovers from the dead process to us, and `sql`, in one commit."""
        parts: list[str] = []
        for message_class in MessageClass:  # otp first
            own = [heir for heir in heirs if heir.message_class is message_class]
            for start in range(0, len(own), BLOCK):
                block = own[start : start + BLOCK]
                parts.append(
                    handover_sql(
                        self._ids.next(),
                        seized.process,
                        self._taker.process,
                        ANY,
                        message_class,
                        [heir.id for heir in block],
                        [heir.tenant for heir in block],
                        min(heir.valid_until for heir in block),
                    )
                )
        await self._committed("".join(parts) + sql)
        if parts:
            self.kick()

    # -- the rest --------------------------------------------------------------------------

    async def _rows(self, seized: Seized, counts: Counter[str]) -> None:
        """Rows that only change who looks after them."""
        old, new = seized.process, self._taker.process
        while moved := await self._handovers.move_parked(old, new, PAGE):
            counts["parked"] += moved
        while moved := await self._handovers.move_webhooks(old, new, PAGE):
            counts["webhooks"] += moved
        counts["handovers"] += await self._handovers.move_receiver(old, new)
        counts["handovers"] += await self._handovers.move_giver(old, new)
        counts["commands"] += await move_commands(self._pool, old, new)
        self.inherited()

    async def _events(self, seized: Seized, counts: Counter[str]) -> None:
        """What it had committed and perhaps not told: parked for us, then the cursor moves."""
        cursor = seized.event_cursor
        while True:
            rows = await self._reader.events_after(seized.process, cursor, PAGE)
            if not rows:
                return
            cursor = rows[-1].event_id
            self._notifier.inherit(rows)
            counts["events"] += len(rows)
            await self._committed(event_cursor_sql(seized.process, cursor, by=self._taker.process))

    async def _committed(self, sql: str) -> None:
        """Wait until `sql` and everything decided so far is durable."""
        done = asyncio.Event()
        self._ledger.commit([], sql=sql, done=done.set)
        await done.wait()
        if failpoints.is_armed:
            failpoints.hit("takeover.moved")
