"""What happened to messages, appended: the event lane (DESIGN decisions 2, 4).

    add() ─▶ entries ─▶ one sorted COPY ═▶ COMMIT ─▶ on_committed ─▶ each done()
                            │ key taken
                            └▶ temp table ─▶ INSERT … ON CONFLICT DO NOTHING ─▶ losers: on_conflict

Nothing added is ever dropped: a broken connection means the same rows again, where a row that
already stands there with our event_id counts as written; a row PostgreSQL cannot hold goes to
`quarantine` alone. An entry is one commit: its rows and its SQL together.

A row that lost its key was judged on a history that is not the message's, and so was every later
row of that message: they lose with it, in the same flush and in those after it, until who judges
them anew has read what stands there (`settled`). Else an end could be stored twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import asyncpg

from sms.errors import LeaseLost, StoreUnavailable
from sms.model import EventRow
from store.claims import ClaimBook
from store.copying import (
    BAD_ROW,
    COPY_EVENTS,
    EVENT_COLUMNS,
    build_event,
    build_events,
    copy_in,
    payload,
)
from store.database import AWAY, Connection, OpenConnection
from store.fragments import deltas_sql
from store.link import UNIQUE_VIOLATION, Aborted, Backoff, Link, LinkLost, ask
from store.usage import Moves, usage_sql
from telemetry.failpoints import failpoints

_LOG = logging.getLogger(__name__)
_TIMED_OUT = "57014"
_SQL_PER_ROW = 100  # bytes of a fragment that weigh as much as a row in a flush
_KEY = attrgetter("message_id", "sequence")
_IDENTITY = attrgetter("message_id", "sequence", "event_id")
_COPY_INCOMING = f"COPY pg_temp.incoming ({EVENT_COLUMNS}) FROM STDIN (FORMAT binary)"
_MAKE_INCOMING = "CREATE TEMP TABLE IF NOT EXISTS incoming (LIKE events) ON COMMIT DELETE ROWS"
_INSERT = (
    f"INSERT INTO events ({EVENT_COLUMNS}) SELECT {EVENT_COLUMNS} FROM pg_temp.incoming"
    " ORDER BY message_id, sequence ON CONFLICT DO NOTHING"
    " RETURNING message_id, sequence, event_id"
)
_TAKE_OUT = "DELETE FROM pg_temp.incoming WHERE event_id = ANY($1::bigint[])"


def _nothing(_: list[EventRow]) -> Moves:
    return {}


@dataclass(frozen=True, slots=True)
class EventHooks:
    """What the flow is told; all synchronous, none may raise (if one does, the commit stands)."""

    on_committed: Callable[[list[EventRow]], None]
    """These rows are durable, in order of (message_id, sequence); before any `done`."""
    on_conflict: Callable[[list[EventRow]], None]
    """Another writer has these keys: re-read, fold, add again with the next sequence."""
    on_quarantined: Callable[[list[EventRow], str], None]
    """PostgreSQL cannot hold these rows; they stand in `quarantine` with the reason."""
    on_lease_lost: Callable[[], None]
    tally: Callable[[list[EventRow]], Mapping[int, tuple[int, int]]]
    """Tenant to (newly submitted, newly final) of the rows; written in the same commit."""
    on_flush: Callable[[str, int, float], None]
    """("events", rows, seconds) of every flush that committed."""
    usage: Callable[[list[EventRow]], Moves] = _nothing
    """What the rows move between the cells of `usage_days`; written in the same commit."""


class _Entry:
    __slots__ = ("done", "event_floor", "message_floor", "rows", "since", "sql", "weight")

    def __init__(self, rows: list[EventRow], sql: str, done: Callable[[], None] | None) -> None:
        self.rows = rows
        self.sql = sql
        self.done = done
        self.since = time.monotonic()
        self.event_floor = min((row.event_id for row in rows), default=0)
        self.message_floor = min((row.message_id for row in rows), default=0)
        self.weight = max(len(rows), len(sql) // _SQL_PER_ROW, 1)  # in rows


class _BadData(Exception):
    """The entries hold something PostgreSQL cannot store."""


class _TooMuch(Exception):
    """The entries together outlast the statement time-out."""


class EventLane:
    """The event lane of one process."""

    def __init__(  # noqa: PLR0913 - keyword-only knobs with defaults, set once by wiring
        self,
        open_conn: OpenConnection,
        *,
        process: int,
        claims: ClaimBook,
        hooks: EventHooks,
        max_rows: int = 500,  # rows of one flush
        delay_s: float = 0.005,  # how long rows that are not urgent may gather
        timeout_s: float = 5.0,  # of one flush
    ) -> None:
        self._process = process
        self._claims = claims
        self._hooks = hooks
        self._max_rows = max_rows
        self._delay_s = delay_s
        self._timeout_s = timeout_s
        self._link = Link(open_conn, process, timeout_s, self._wake)
        self._entries: list[_Entry] = []
        self._flying: list[_Entry] = []
        self._rows = 0
        # By message: its rows up to this event_id were judged on one that lost its key.
        self._losing: dict[int, float] = {}
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._drained: asyncio.Event = asyncio.Event()
        self._is_draining = False
        self._task: asyncio.Task[None] | None = None
        self._is_lost = False

    async def start(self) -> None:
        """Connect; raises StoreUnavailable when PostgreSQL is away."""
        await self._link.connect()
        self._task = asyncio.create_task(self._lane())

    async def drain(self, timeout_s: float) -> bool:
        """Flush everything; True when nothing is left within the time."""
        self.kick()
        self._drained.clear()
        if not self._is_empty():
            self._is_draining = True
            try:
                await asyncio.wait_for(self._drained.wait(), timeout_s)
            except TimeoutError:
                return False
            finally:
                self._is_draining = False
        return True

    async def stop(self) -> None:
        """Stop at once; what is not flushed is found by the next recovery."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._link.abandon()

    # ---- what the flow calls ----

    def add(
        self,
        rows: list[EventRow],
        *,
        urgent: bool,
        sql: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Append these rows, with `sql` of `store.fragments` in the same commit.

        `done` runs after it, also when rows were handed back through `on_conflict` or
        `on_quarantined` before. Not urgent rows may wait `delay_s`. After a lost lease nothing
        is written any more and no `done` runs.
        """
        if self._is_lost:
            return
        self._entries.append(_Entry(rows, sql, done))
        self._rows += len(rows)
        if urgent or self._rows >= self._max_rows:
            self.kick()
        elif self._timer is None and not self._is_due:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._time_out)

    def settled(self, message_ids: Iterable[int], mark: int) -> None:
        """These messages were read again: their rows with an event_id above `mark` may be stored.

        What is older goes to `on_conflict`, without a try.
        """
        for message_id in message_ids:
            if message_id in self._losing:
                self._losing[message_id] = mark

    def kick(self) -> None:
        """Flush soon, if only what the claims have pending."""
        self._is_due = True
        self._wake()

    def is_up(self) -> bool:
        """Whether the lane is connected and the lease is ours."""
        return not self._is_lost and self._link.is_up()

    def pending(self) -> int:
        """Rows that are not committed yet."""
        return self._rows + sum(len(entry.rows) for entry in self._flying)

    def oldest_age_s(self) -> float:
        """Age of the oldest entry that is not committed yet, 0 without one."""
        since = min((entry.since for entry in self._uncommitted()), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def full_at(self) -> float:
        """When PostgreSQL last had no room for rows (monotonic); -inf: never."""
        return self._link.full_at

    def pending_floor(self) -> int | None:
        """The lowest event_id that is not committed yet."""
        return min((e.event_floor for e in self._uncommitted() if e.rows), default=None)

    def pending_message_floor(self) -> int | None:
        """The lowest message id with a row that is not committed yet."""
        return min((e.message_floor for e in self._uncommitted() if e.rows), default=None)

    # ---- the lane ----

    def _uncommitted(self) -> list[_Entry]:
        return self._flying + self._entries

    def _is_empty(self) -> bool:
        return not (self._entries or self._flying or self._claims.has_pending())

    def _time_out(self) -> None:
        self._timer = None
        self.kick()

    def _wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    async def _lane(self) -> None:
        backoff = Backoff()
        while not self._is_lost:
            try:
                if not self._link.is_up():
                    await self._link.connect()
                    backoff.reset()
                if self._is_due or self._flying:
                    await self._flush_next()
                else:
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())
            except LeaseLost:
                self._is_lost = True
                ask(self._hooks.on_lease_lost, None)
            except Exception:  # noqa: BLE001 - the one of this loop (HOUSE 5)
                # The lane must outlive a bug of ours; its entries are tried again.
                _LOG.exception("an event flush failed in an unforeseen way")
                self._link.abandon()
                self._is_due = True
                await asyncio.sleep(backoff.next_s())

    async def _flush_next(self) -> None:
        if not self._flying:
            self._flying = self._take()
        if self._flying or self._claims.has_pending():
            await self._flush(list(self._flying))
        if self._is_empty():
            self._drained.set()
        elif self._is_draining:  # a commit leaves claims to delete, which no later row carries
            self._is_due = True

    def _take(self) -> list[_Entry]:
        rows = weight = count = 0
        for entry in self._entries:
            if count and weight + entry.weight > self._max_rows:
                break
            weight += entry.weight
            rows += len(entry.rows)
            count += 1
        taken, self._entries = self._entries[:count], self._entries[count:]
        self._rows -= rows
        if not self._entries:
            self._is_due = False
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return taken

    async def _flush(self, entries: list[_Entry]) -> None:
        """Bring these entries to their end, dividing them where they cannot go together."""
        try:
            await self._commit(entries)
        except (_BadData, _TooMuch) as error:
            if len(entries) > 1:
                middle = len(entries) // 2
                await self._flush(entries[:middle])
                await self._flush(entries[middle:])
                return
            await self._isolate(entries[0], str(error))
        for entry in entries:
            self._flying.remove(entry)
            if entry.done is not None:
                ask(entry.done, None)

    async def _isolate(self, entry: _Entry, error: str) -> None:
        """Find the bad row of one entry; everything else of it is committed."""
        pieces = [_Entry([row], "", None) for row in entry.rows]
        if entry.sql:
            pieces.append(_Entry([], entry.sql, None))
        if len(pieces) == 1:
            await self._quarantine(pieces[0], error)
            return
        for piece in pieces:
            try:
                await self._commit([piece])
            except _BadData as bad:
                await self._quarantine(piece, str(bad))

    async def _commit(self, entries: list[_Entry]) -> None:
        """One transaction. Raises _BadData when it cannot hold, _TooMuch when several entries
        could go one by one; waits as long as it takes.
        """
        rows = sorted((row for entry in entries for row in entry.rows), key=_KEY)
        rows, stale = self._divide(rows)
        sql = "".join([entry.sql for entry in entries])
        try:
            data = payload([build_events(rows)]) if rows else None
        except BAD_ROW as error:
            raise _BadData(type(error).__name__) from error
        is_contested = False
        backoff = Backoff()
        while True:
            try:
                lost = await self._try(rows, data, sql, is_contested=is_contested)
            except Aborted as error:
                if error.sqlstate == UNIQUE_VIOLATION and not is_contested:
                    is_contested = True
                elif self._is_bad(error, sql):
                    raise _BadData(error.sqlstate) from error
                elif error.sqlstate == _TIMED_OUT and len(entries) > 1:
                    raise _TooMuch from error
                else:
                    _LOG.warning("an event flush is tried again: %s", error.sqlstate)
                    await asyncio.sleep(backoff.next_s())
            except LinkLost:
                # Connecting ends the old backend; then rows that stand there already are ours.
                is_contested = True
                await self._reconnect(backoff)
            except StoreUnavailable:
                await self._reconnect(backoff)
            else:
                self._report(rows, lost, stale)
                return

    def _divide(self, rows: list[EventRow]) -> tuple[list[EventRow], list[EventRow]]:
        """(what may be stored, what was judged on a row that lost).

        Forgets what nothing waits for any more.
        """
        if not self._losing:
            return rows, []
        floor = min(self.pending_floor() or math.inf, rows[0].event_id if rows else math.inf)
        self._losing = {one: mark for one, mark in self._losing.items() if mark >= floor}
        stale = [row for row in rows if row.event_id <= self._losing.get(row.message_id, 0)]
        return _without(rows, stale), stale

    async def _try(
        self, rows: list[EventRow], data: memoryview | None, sql: str, *, is_contested: bool
    ) -> list[EventRow]:
        """One transaction; returns the rows that lost their keys."""
        began = time.monotonic()
        claims_sql, token = self._claims.take_sql()
        lost: list[EventRow] = []
        if failpoints.is_armed and rows:
            failpoints.hit("settle.before_commit")
        try:
            if data is None:
                if claims_sql or sql:
                    await self._link.run(claims_sql + sql, None)
            elif is_contested:
                lost = await self._contest(rows, data, claims_sql + sql)
            else:
                await self._link.run(claims_sql + sql + self._deltas(rows) + COPY_EVENTS, data)
        except BaseException as error:
            is_certain = isinstance(error, Aborted | StoreUnavailable | LeaseLost)
            self._claims.failed(token, is_certain=is_certain)
            raise
        if failpoints.is_armed and rows:
            failpoints.hit("settle.committed")
        self._claims.committed(token)
        seconds = time.monotonic() - began
        ask(self._hooks.on_flush, None, "events", len(rows) - len(lost), seconds)
        return lost

    @staticmethod
    def _is_bad(error: Aborted, sql: str) -> bool:
        """Data at fault, or a broken fragment (class 42), which must not stop the lane."""
        return error.is_data() or (error.sqlstate.startswith("42") and bool(sql))

    async def _reconnect(self, backoff: Backoff) -> None:
        while True:
            try:
                await self._link.connect()
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())
            else:
                return

    def _deltas(self, rows: list[EventRow]) -> str:
        none: Mapping[int, tuple[int, int]] = {}
        counts = ask(self._hooks.tally, none, rows) if rows else none
        moves: Moves = ask(self._hooks.usage, {}, rows) if rows else {}
        return deltas_sql(
            self._process, {tenant: (0, *both) for tenant, both in counts.items() if any(both)}
        ) + usage_sql(moves)

    async def _contest(self, rows: list[EventRow], data: memoryview, sql: str) -> list[EventRow]:
        """The slow way, for keys that others may hold: returns the rows that lost theirs."""
        conn = self._link.conn
        if conn is None or conn.is_closed():
            raise StoreUnavailable("PostgreSQL is away")
        try:
            async with conn.transaction():
                await conn.execute(_MAKE_INCOMING)
                await copy_in(conn, _COPY_INCOMING, data, self._timeout_s)
                new, lost = await _insert(conn, rows)
                riders = sql + self._deltas(new)
                if riders:
                    await conn.execute(riders)
        except (asyncpg.PostgresError, *AWAY) as error:
            raise self._link.judge(error) from error
        return lost

    def _report(self, rows: list[EventRow], lost: list[EventRow], stale: list[EventRow]) -> None:
        if lost:
            rows = _without(rows, lost)
            self._losing.update(dict.fromkeys((row.message_id for row in lost), math.inf))
        if rows:
            ask(self._hooks.on_committed, None, rows)
        if lost or stale:
            ask(self._hooks.on_conflict, None, sorted(lost + stale, key=_KEY))

    async def _quarantine(self, piece: _Entry, error: str) -> None:
        row = piece.rows[0] if piece.rows else None
        backoff = Backoff()
        while True:
            conn = self._link.conn
            try:
                if conn is None:
                    raise StoreUnavailable("PostgreSQL is away")
                await conn.execute(
                    "INSERT INTO quarantine (message_id, step, error, row) VALUES ($1, $2, $3, $4)",
                    row.message_id if row else None,
                    "event" if row else "fragment",
                    error,
                    _picture(row) if row else piece.sql.encode(),
                )
            except (StoreUnavailable, *AWAY):
                await self._reconnect(backoff)
            else:
                break
        if row is not None:
            ask(self._hooks.on_quarantined, None, [row], error)


def _without(rows: list[EventRow], some: list[EventRow]) -> list[EventRow]:
    keys = {id(row) for row in some}
    return [row for row in rows if id(row) not in keys]


async def _insert(conn: Connection, rows: list[EventRow]) -> tuple[list[EventRow], list[EventRow]]:
    """What of `incoming` is new, and what lost: its key is another's, or that of one before it.

    Another writer may commit while the statement runs, so what stands behind a lost row is known
    only afterwards: then it is taken out and the rest goes once more.
    """
    while True:
        savepoint = conn.transaction()
        await savepoint.start()
        won = {tuple(row) for row in await conn.fetch(_INSERT)}
        new = [row for row in rows if _IDENTITY(row) in won]
        lost = await _not_ours(conn, [row for row in rows if _IDENTITY(row) not in won])
        lowest: dict[int, int] = {}
        for row in lost:
            lowest.setdefault(row.message_id, row.sequence)  # `rows` are sorted
        behind = [row for row in new if row.sequence > lowest.get(row.message_id, row.sequence)]
        if not behind:
            await savepoint.commit()
            return new, lost
        await savepoint.rollback()
        await conn.execute(_TAKE_OUT, [row.event_id for row in behind])


async def _not_ours(conn: Connection, rows: Sequence[EventRow]) -> list[EventRow]:
    """Those whose key holds another event than theirs; a former try of ours may have committed."""
    if not rows:
        return []
    first, last = rows[0].message_id, rows[-1].message_id
    found = await conn.fetch(
        f"SELECT message_id, sequence, event_id FROM events WHERE message_id >= {first}"
        f" AND message_id <= {last} AND message_id = ANY($1)",
        list({row.message_id for row in rows}),
    )
    standing = {(row[0], row[1]): row[2] for row in found}
    return [row for row in rows if standing.get((row.message_id, row.sequence)) != row.event_id]


def _picture(row: EventRow) -> bytes:
    """A bad row for a person's eyes: its built bytes, or its fields where they cannot be built."""
    try:
        return build_event(row)
    except BAD_ROW:
        names = ("sequence", "event_id", "path", "status", "segment", "channel", "reason", "times")
        return repr({name: getattr(row, name) for name in names}).encode()
