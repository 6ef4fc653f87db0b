"""Ending what was kept long enough, beside the traffic (RELIABILITY section 12).

    partition of a day ─▶ guard: is anything of it still under way? ─▶ DETACH … CONCURRENTLY
      ─▶ DROP and its audit row, one commit ─▶ keys of the day destroyed when none needs them
    rows of small tables, a page at a time; the audit log up to an anchor

One process of all does a round at a time. Whatever it is killed in, the next one goes on: a detach
that was begun is finished, what stands detached is dropped. No statement waits longer than
`LOCK_MS` for a lock, so nobody waits longer behind one; what does not get its lock tries again.

Only the owner of the tables can do it. `conn` is one connection of its own, in no transaction.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from typing import Final

import asyncpg

from sms.errors import StoreUnavailable
from sms.ids import TIME_SHIFT, id_at
from store.audit import Author, Entry, anchor, append
from store.database import TROUBLE, AnyConnection, Connection, Pool, acquire
from store.partitions import TABLES, day_range, name_of, today
from store.seal import FIRST_DAY, date_of
from telemetry.logs import get_logger

LOCK_MS: Final = 100
AUTHOR: Final = Author("gateway", "retention")
_LOCK: Final = 58
_TRY_S: Final = 60.0  # for the lock of one partition; then the next round goes on
_PAUSE_S: Final = 0.2
_ROWS: Final = 5000  # deleted in one commit
_DAY_S: Final = 86_400
# A message's rows after the message itself: read without it they are nobody's, and a message
# without them would look as if nothing had become of it.
_WITH_MESSAGES: Final = ("messages", "inbound", "events")
_SEALED: Final = ("messages", "inbound")  # by the day's keys

# What of the messages below an id is not at its end, or may not be for all that is known: every
# place where one stands that is neither submitted nor final, the lowest id a process has in hand,
# and messages that the walk to the receipt deadline has not come by.
_UNDER_WAY = """
SELECT 'a parked message' WHERE EXISTS (SELECT FROM parked WHERE message_id < $2)
UNION ALL SELECT 'a message past its deadline'
  WHERE EXISTS (SELECT FROM deadlines WHERE message_id < $2)
UNION ALL SELECT 'an overdue message' WHERE EXISTS (SELECT FROM overdue WHERE message_id < $2)
UNION ALL SELECT 'a message handed over' WHERE EXISTS (SELECT FROM handovers WHERE first_id < $2)
UNION ALL SELECT 'a claimed message'
  WHERE EXISTS (SELECT FROM claims, unnest(ids) AS id WHERE id < $2)
UNION ALL SELECT 'the low-water mark of process ' || min(process) FROM processes
  WHERE low_water < $2 AND (node IS NOT NULL OR owed_to IS NOT NULL) HAVING count(*) > 0
UNION ALL SELECT 'the walk to the receipt deadline' WHERE EXISTS (
  SELECT FROM messages WHERE id >= $1 AND id < $2
    AND id > (SELECT position FROM walks WHERE kind = 0))
LIMIT 1
"""
# Ours, attached or left over by a crash after its detach. relname, not regclass: see partitions.
_STANDING = """
SELECT c.relname AS name, c.oid::int8 AS oid, i.inhdetachpending AS is_pending,
  c.reltuples::int8 AS rows
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
  AND c.relname ~ ('^(' || array_to_string($1::text[], '|') || ')_[0-9]{8}$')
ORDER BY c.relname
"""
_OLDEST = (
    "SELECT parent.relname AS name, min(right(child.relname, 8)) AS day FROM pg_inherits"
    " JOIN pg_class child ON child.oid = inhrelid"
    " JOIN pg_class parent ON parent.oid = inhparent"
    " WHERE parent.relkind = 'p' AND parent.relname = ANY($1)"
    " AND child.relname ~ '_[0-9]{8}$' GROUP BY parent.relname"
)


log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """For how many days each kind is kept, from its accept (or its end) on."""

    messages_days: int = 225
    attempts_days: int = 30
    optouts_days: int = 184  # after an entry of the suppression list, or its tenant, ended
    audit_days: int = 184

    def of(self, table: str) -> int:
        """Of a partitioned table."""
        return self.attempts_days if table == "webhook_attempts" else self.messages_days


@dataclass(slots=True)
class Ended:
    """What one round did: names of partitions, counts of rows; what it held back, and why."""

    partitions: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one kind of data stands; moments are Unix seconds."""

    what: str
    oldest_at: float | None  # where its oldest partition begins; None: it has none
    dropped: int
    done_at: float
    held: str | None


class Retention:
    """One round after another over a connection of the owner."""

    def __init__(self, conn: Connection, audit_key: bytes, kept: Kept) -> None:
        self._conn = conn
        self._key = audit_key
        self._kept = kept

    async def round(self, now: float) -> Ended | None:
        """End all that is over; None while another process is at it.

        `now` is Unix time, by PostgreSQL's clock (`clock`): ours may be wrong by years. Raises
        StoreUnavailable when PostgreSQL is away, or when a lock was not to be had.
        """
        conn = self._conn
        try:
            if not await conn.fetchval("SELECT pg_try_advisory_lock($1, 0)", _LOCK):
                return None
            try:
                await conn.execute(f"SET lock_timeout = {LOCK_MS}")
                return await self._round(now)
            finally:
                await conn.execute("RESET lock_timeout")
                await conn.execute("SELECT pg_advisory_unlock($1, 0)", _LOCK)
        except TROUBLE as error:
            raise StoreUnavailable(f"retention: {type(error).__name__}") from error

    async def clock(self) -> float:
        """The time of the database."""
        found: float = await self._conn.fetchval(
            "SELECT extract(epoch FROM clock_timestamp())::float8"
        )
        return found

    async def _round(self, now: float) -> Ended:
        ended = Ended()
        await self._finish_detaches()
        await self._partitions(now, ended)
        await self._keys(now, ended)
        await self._rows(now, ended)
        await self._audit(ended)
        return ended

    # -- partitions ------------------------------------------------------------------------

    async def _finish_detaches(self) -> None:
        """Of a round that was killed: until then PostgreSQL begins no other detach."""
        for table, name in await self._pending():
            await self._patiently(partial(self._finalize, table, name))

    async def _pending(self) -> list[tuple[str, str]]:
        rows = await self._conn.fetch(
            "SELECT p.relname AS parent, c.relname AS child FROM pg_inherits"
            " JOIN pg_class c ON c.oid = inhrelid JOIN pg_class p ON p.oid = inhparent"
            " WHERE inhdetachpending AND p.relname = ANY($1)",
            list(TABLES),
        )
        return [(row["parent"], row["child"]) for row in rows]

    async def _finalize(self, table: str, name: str) -> None:
        await self._conn.execute(f"ALTER TABLE {table} DETACH PARTITION {name} FINALIZE")

    async def _partitions(self, now: float, ended: Ended) -> None:
        standing = {row["name"]: row for row in await self._conn.fetch(_STANDING, list(TABLES))}
        await self._attempts(now, standing, ended)
        last = today(now) - self._kept.messages_days - 1
        days = sorted(
            {
                day
                for name in standing
                for table in _WITH_MESSAGES
                if (day := _day_of(table, name)) is not None and day <= last
            }
        )
        for day in days:
            why = await self._under_way(day)
            if why is not None:  # those above it are younger: they wait as well
                text = f"{date_of(day):%Y-%m-%d}: {why}"
                ended.held = dict.fromkeys((*_WITH_MESSAGES, "data_keys"), text)
                break
            for table in _WITH_MESSAGES:
                row = standing.get(name_of(table, day))
                if row is not None:
                    await self._end(table, row, ended)
        for what in _WITH_MESSAGES:
            await self._done(what, ended)

    async def _attempts(
        self, now: float, standing: Mapping[str, asyncpg.Record], ended: Ended
    ) -> None:
        table = "webhook_attempts"
        last = today(now) - self._kept.attempts_days - 1
        for name, row in standing.items():
            day = _day_of(table, name)
            if day is not None and day <= last:
                await self._end(table, row, ended)
        await self._done(table, ended)

    async def _under_way(self, day: int) -> str | None:
        low, high = day_range(day)
        found: str | None = await self._conn.fetchval(_UNDER_WAY, low, high)
        return found

    async def _end(self, table: str, row: asyncpg.Record, ended: Ended) -> None:
        """Detach and drop one partition, whatever an earlier round did of it."""
        name: str = row["name"]
        if row["is_pending"] is not None:  # it is attached
            await self._patiently(lambda: self._detach(table, name))
        await self._patiently(lambda: self._drop(table, name, row["rows"]))
        ended.partitions.append(name)

    async def _detach(self, table: str, name: str) -> None:
        """Begin a detach, or finish the one that a try before has begun."""
        if (table, name) in await self._pending():
            await self._finalize(table, name)
        else:
            await self._conn.execute(f"ALTER TABLE {table} DETACH PARTITION {name} CONCURRENTLY")

    async def _drop(self, table: str, name: str, rows: int) -> None:
        told = {"table": table, "estimated_rows": max(rows, 0)}
        async with self._conn.transaction():
            await self._conn.execute(f"DROP TABLE IF EXISTS {name}")
            await self._tell("partition.dropped", "partition", name, told)
            await self._count(table, 1)

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """Until its locks are to be had; a moment for the others between two tries."""
        end = time.monotonic() + _TRY_S
        while True:
            try:
                return await step()
            except asyncpg.LockNotAvailableError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(_PAUSE_S * (0.5 + random.random()))  # noqa: S311 - no secret

    # -- keys and rows ---------------------------------------------------------------------

    async def _keys(self, now: float, ended: Ended) -> None:
        """Destroy the data keys of days of which nothing sealed by them stands any more."""
        last = today(now) - self._kept.messages_days - 1
        rows = await self._conn.fetch(_STANDING, list(_SEALED))
        days = [
            day
            for row in rows
            for table in _SEALED
            if (day := _day_of(table, row["name"])) is not None
        ]
        before = min([*days, last + 1])
        await self._patiently(lambda: self._destroy_keys(before, ended))
        if "data_keys" in ended.rows:
            await self._conn.execute("VACUUM data_keys")  # out of the table's file as well
        await self._done("data_keys", ended)

    async def _destroy_keys(self, before: int, ended: Ended) -> None:
        if before <= 0:
            return
        async with self._conn.transaction():
            gone = await self._conn.fetch(
                "DELETE FROM data_keys WHERE day < $1 RETURNING day", date_of(before)
            )
            if gone:
                told = {"days": sorted({f"{row['day']:%Y-%m-%d}" for row in gone})}
                await self._tell("data_keys.destroyed", "data_keys", "data_keys", told)
                await self._count("data_keys", len(gone))
                ended.rows["data_keys"] = len(gone)

    async def _rows(self, now: float, ended: Ended) -> None:
        oldest = now - self._kept.messages_days * _DAY_S
        over = datetime.fromtimestamp(now - self._kept.optouts_days * _DAY_S, UTC)
        below = id_at(oldest) & ~((1 << TIME_SHIFT) - 1)
        if not ended.held:  # what they tell of is there as long as the messages are
            await self._pages("batches", "last_id < $1", below, ended)
            await self._pages("quarantine", "at < $1", datetime.fromtimestamp(oldest, UTC), ended)
        # Workers learn of an end by its number, in seconds; who starts later reads what lives.
        await self._pages(
            "suppressions",
            "deleted_at < $1 OR tenant IN (SELECT id FROM objects WHERE kind = 'tenant'"
            " AND deleted_at < $1)",
            over,
            ended,
        )

    async def _pages(self, table: str, which: str, argument: object, ended: Ended) -> None:
        total = 0
        while True:
            async with self._conn.transaction():
                told = await self._conn.execute(
                    f"DELETE FROM {table} WHERE ctid = ANY (ARRAY("
                    f"SELECT ctid FROM {table} WHERE {which} LIMIT {_ROWS}))",
                    argument,
                )
                count = int(told.split()[1])
                await self._count(table, count)
            total += count
            if count < _ROWS:
                break
        if total:
            ended.rows[table] = total
        await self._done(table, ended)

    async def _audit(self, ended: Ended) -> None:
        """Anchor each day that is over, then end what is older than it is kept."""
        await self._patiently(self._anchor)
        await self._patiently(lambda: self._trim(ended))
        await self._done("audit_events", ended)

    async def _anchor(self) -> None:
        async with self._conn.transaction():
            ended = await anchor(self._conn, self._key)
        for one in ended:  # a log that is kept elsewhere has them too
            log.info("audit anchor", day=f"{one.day}", row=one.id, hash=one.hash.hex())

    async def _trim(self, ended: Ended) -> None:
        async with self._conn.transaction():
            removed: int = await self._conn.fetchval("SELECT trim_audit($1)", self._kept.audit_days)
            if removed:
                told = {"rows": removed, "kept_days": self._kept.audit_days}
                await self._tell("audit_events.trimmed", "audit_events", "audit_events", told)
                await self._count("audit_events", removed)
                ended.rows["audit_events"] = removed

    # -- what is told ----------------------------------------------------------------------

    async def _tell(self, action: str, kind: str, name: str, gone: Mapping[str, object]) -> None:
        entry = Entry(action, kind, name, name, 0, before=dict(gone), after=None)
        await append(self._conn, self._key, AUTHOR, [entry])

    async def _count(self, what: str, count: int) -> None:
        if count:
            await self._conn.execute(
                "INSERT INTO retention (what, dropped) VALUES ($1, $2)"
                " ON CONFLICT (what) DO UPDATE SET dropped = retention.dropped + $2",
                what,
                count,
            )

    async def _done(self, what: str, ended: Ended) -> None:
        """This kind came to the end of its round, or is held: then its last success stands."""
        held = ended.held.get(what)
        await self._conn.execute(
            "UPDATE retention SET held = $2,"
            " done_at = CASE WHEN $2::text IS NULL THEN clock_timestamp() ELSE done_at END"
            " WHERE what = $1",
            what,
            held,
        )


async def standings(pool: Pool) -> list[Standing]:
    """How each kind stands, for the metrics; raises StoreUnavailable when PostgreSQL is away."""
    async with acquire(pool) as conn:
        return await look(conn)


async def look(conn: AnyConnection) -> list[Standing]:
    """`standings` over a connection of one's own."""
    rows = await conn.fetch(
        "SELECT what, dropped, extract(epoch FROM done_at)::float8 AS done_at, held FROM retention"
    )
    oldest = {row["name"]: row["day"] for row in await conn.fetch(_OLDEST, list(TABLES))}
    return [
        Standing(
            row["what"],
            _begin(oldest[row["what"]]) if row["what"] in oldest else None,
            row["dropped"],
            row["done_at"],
            row["held"],
        )
        for row in rows
    ]


def _begin(day: str) -> float:
    return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp()


def _day_of(table: str, name: str) -> int | None:
    """The day of a partition's name, None when it is not one of that table."""
    head, _, day = name.rpartition("_")
    if head != table:
        return None
    try:
        found = date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        return None
    return (found - FIRST_DAY).days
