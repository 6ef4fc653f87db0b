"""A walk over the ids of all processes at one age: page by page, by one process at a time.

    ours? ─no──▶ come again
      │ yes, up to where the walk stands and the age allows
      ▼
    a page ─▶ the open ones, read and folded in slices ─▶ decided ═COMMIT═▶ the walk moves ═COMMIT═▶

The walk moves behind the commits of what was decided: who is killed in between leaves a page that
is walked once more, and what has its row by then is passed over. A message that cannot be read
(a spoiled row, a code of a newer version) does not stop the others: it is set aside for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic, thread_time
from typing import TypeVar

from gateway.ledger import Ledger
from gateway.reports import fold_stored
from sms.errors import LeaseLost, StoreUnavailable, Unavailable
from sms.ids import id_at, unix_of
from sms.model import EventRow, Message
from store.read import Reader
from store.silence import SilenceStore, Turn, Walk, move_sql, watch_sql
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

PAGE = 5000  # messages in a page, some 10 ms of the database
LEAST_PAGE = 100  # where the statement time-out cut it off
SLICE = 200  # messages read and decided in one commit
OVERLAP = 3  # slices under way
HOLD_S = 15.0  # a walk whose process says nothing for so long is another's
# A walk that is behind rests as long as the event loop computed meanwhile, and a quarter of the
# whole at least; where a slice takes longer than this, as long as all of it: the store is busy.
SLOW_S = 0.1
LEAST_REST = 0.25
# So long behind its age a message is looked at: by then it was sent, or waits for something, and
# its accept, which may have waited for the database, is committed.
LAG_S, LAG_LEAST_S, LAG_SHARE = 600.0, 1.0, 0.05
ASIDE_S = 86_400.0  # so much later one that crashed its handler is tried again

T = TypeVar("T")
Decide = Callable[[Sequence[Message], float], Awaitable[str]]

log = get_logger(__name__)


def lag_s(age_s: float) -> float:
    """How long behind its age a message is looked at."""
    return min(LAG_S, max(LAG_LEAST_S, age_s * LAG_SHARE))


def rest_s(elapsed_s: float, computed_s: float, slices: int) -> float:
    """How long to rest after so many slices, so that the others have the loop and the lane."""
    if elapsed_s > SLOW_S * max(1, slices):
        return elapsed_s
    return max(computed_s, elapsed_s * LEAST_REST)


@dataclass(slots=True)
class Work:
    """What a part of a walk took."""

    began: float = field(default_factory=monotonic)
    computed: float = field(default_factory=thread_time)  # of all that ran on this loop

    async def rest(self, slices: int) -> None:
        """Sleep for what `rest_s` says."""
        elapsed_s, computed_s = monotonic() - self.began, thread_time() - self.computed
        await asyncio.sleep(rest_s(elapsed_s, computed_s, slices))


class Opener:
    """Reads messages for a walk, whatever some of them are like."""

    def __init__(self, reader: Reader, metrics: Metrics) -> None:
        self._reader = reader
        self._metrics = metrics

    async def open(self, ids: Sequence[int]) -> tuple[list[Message], list[int]]:
        """Those that stand, and the ids of those to be set aside. Raises Unavailable, LeaseLost.

        What was dropped, or has lost its keys, is in neither: nobody can end it.
        """
        try:
            return await read(self._reader, ids), []
        except (Unavailable, LeaseLost):
            raise
        except Exception:  # one bad row must not end the walk, nor the worker
            if len(ids) == 1:
                log.exception("message cannot be read", message_id=ids[0])
                self.count()
                return [], list(ids)
        messages: list[Message] = []
        aside: list[int] = []
        for message_id in ids:
            found, bad = await self.open([message_id])
            messages += found
            aside += bad
        return messages, aside

    async def each(
        self, ids: Sequence[int], handle: Callable[[list[Message], list[int]], Awaitable[T]]
    ) -> list[T]:
        """`handle` what `open` gives of each slice, in order of begin; what it returned.

        One slice is read at a time, `OVERLAP` are under way: while one is committed the next one
        is decided. Whatever one raises is raised, and none is under way any more.
        """
        room, reading = asyncio.Semaphore(OVERLAP), asyncio.Lock()

        async def one(some: Sequence[int]) -> T:
            async with room:
                async with reading:
                    messages, aside = await self.open(some)
                return await handle(messages, aside)

        tasks = [asyncio.create_task(one(some)) for some in slices(ids)]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def count(self) -> None:
        """A message was set aside."""
        self._metrics.quarantined_total.inc(("walk",))


class Walker:
    """One walk; `decide` gets open messages and returns SQL for the commit that moves it."""

    def __init__(
        self, walk: Walk, age_s: float, store: SilenceStore, opener: Opener, ledger: Ledger
    ) -> None:
        self._walk = walk
        self._age_s = age_s
        self._store = store
        self._opener = opener
        self._ledger = ledger
        self._page = PAGE
        self._behind_s, self._stood_at = 0.0, monotonic()
        self.is_ours = False
        self.slices = 0  # walked so far

    @property
    def behind_s(self) -> float:
        """How much later than it should it looks at messages; it grows while no step is made."""
        return self._behind_s + monotonic() - self._stood_at

    def _stands(self, behind_s: float) -> None:
        self._behind_s, self._stood_at = behind_s, monotonic()

    async def begin(self) -> Turn | None:
        """Walk on; None while another process does. Raises Unavailable, LeaseLost."""
        turn = await self._store.begin(self._walk, HOLD_S)
        self.is_ours = turn is not None
        return turn

    async def step(self, turn: Turn, decide: Decide, first: int = 0) -> bool:
        """One page; whether there is more. `first`: nothing at or below it is looked at."""
        bound = id_at(turn.now - self._age_s - lag_s(self._age_s))
        position = max(turn.position, first)
        if bound <= position:
            self._stands(0.0)
            return False
        self._stands(unix_of(bound) - unix_of(position))  # unless this step goes well
        try:
            page = await self._store.page(position, bound, self._page)
        except StoreUnavailable:
            self._page = max(LEAST_PAGE, self._page // 2)
            raise
        self._page = min(PAGE, self._page * 2)

        async def handle(messages: list[Message], aside: list[int]) -> str:
            later = watch_sql((one, turn.now + ASIDE_S) for one in aside)
            return await decide(messages, turn.now) + later

        told = await self._opener.each(page.open, handle)
        sql = "".join(told)
        self.slices += len(told)
        await commit(self._ledger, sql=sql + move_sql(self._walk, turn.position, page.last))
        is_behind = page.is_full and unix_of(page.last) < unix_of(bound)
        self._stands(unix_of(bound) - unix_of(page.last) if is_behind else 0.0)
        return is_behind


def slices(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Some at a time, so that the event loop is free in between."""
    for start in range(0, len(ids), SLICE):
        yield ids[start : start + SLICE]


async def read(reader: Reader, ids: Sequence[int]) -> list[Message]:
    """The messages as the store knows them, folded, by id."""
    stored = await reader.readable(ids)
    return [fold_stored(record) for record in stored.values()]


async def commit(ledger: Ledger, rows: list[EventRow] | None = None, *, sql: str = "") -> None:
    """Return when this is durable, or handed back (`is_stored` of a row tells)."""
    done = asyncio.Event()
    ledger.commit(rows or [], sql=sql, done=done.set)
    await done.wait()
