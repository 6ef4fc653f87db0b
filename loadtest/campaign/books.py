"""What the database says, read from outside: lives of messages, and the counts beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Final, NamedTuple

from receipts.state import STATES_OF_PATH, Path, fold
from sms.errors import StoreUnavailable
from sms.ids import id_at
from sms.model import FINAL_STATES, EventRow, Message, MessageClass, OnUncertain, State
from store import database
from store.read import Reader, Stored
from store.seal import Keyring, read_master_key

PAGE: Final = 1000
STATEMENT_S: Final = 30.0
TABLES: Final = ("messages", "events")
ENDING: Final = [
    int(path) for path, states in STATES_OF_PATH.items() if states and states[-1] in FINAL_STATES
]
SUBMITTING: Final = [
    int(path) for path, states in STATES_OF_PATH.items() if states and states[-1] is State.SUBMITTED
]
_LAW: Final = """
WITH newest AS (
  SELECT (
    SELECT path FROM events WHERE message_id = m.id AND path <> 0
    ORDER BY sequence DESC LIMIT 1
  ) AS path
  FROM messages m WHERE (id >= $1 AND created_at >= $2) OR id = ANY($5)
)
SELECT count(*) AS stored,
  count(*) FILTER (WHERE path = ANY($4)) AS submitted,
  count(*) FILTER (WHERE path = ANY($3)) AS ended,
  (SELECT coalesce(sum(accepted), 0) FROM deltas) AS counted,
  (SELECT coalesce(sum(submitted), 0) FROM deltas) AS counted_submitted,
  (SELECT coalesce(sum(final), 0) FROM deltas) AS counted_ended
FROM newest"""
_OPEN: Final = """
SELECT id FROM messages m WHERE id >= $1 AND created_at >= $2
AND NOT EXISTS (SELECT FROM events WHERE message_id = m.id AND path = ANY($3)) ORDER BY id"""
_IDS: Final = "SELECT id FROM messages WHERE id >= $1 AND created_at >= $2 ORDER BY id"


@dataclass(slots=True)
class Life:
    """One stored message with its rows folded; times are Unix seconds."""

    message_id: int
    number: str
    message_class: MessageClass
    segments: int
    state: State
    is_marked: bool
    is_to_hold: bool  # when its answer is lost: by its own policy, or else its class's
    owed: tuple[int, ...]  # sequences that the tenant must be told
    uncertain_at: tuple[float, ...]  # when an answer was given up
    illegal: int  # rows that no table allows
    rows: tuple[str, ...] = ()  # all of them in words, where one is illegal

    @property
    def is_at_rest(self) -> bool:
        """At its end, or held by policy: nothing more follows but evidence.

        Some are held when their answer is lost, the others when that of their copy is.
        """
        if self.state in FINAL_STATES:
            return True
        return self.state is State.UNCERTAIN and (self.is_to_hold or self.is_marked)


def owed_by(lives: Iterable[Life]) -> set[tuple[int, int]]:
    """(message id, sequence) of each event that the tenant must be told."""
    return {(life.message_id, sequence) for life in lives for sequence in life.owed}


class Told(NamedTuple):
    """One stored message in words."""

    message_id: int
    number: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Law:
    """The conservation law in one snapshot: rows counted one by one, and the flushes' own counts.

    All since a moment, with what was held then; both were written in the same commits, so they
    never differ.
    """

    stored: int
    counted: int
    submitted: int  # now
    counted_submitted: int
    ended: int
    counted_ended: int

    @property
    def residual(self) -> int:
        """How far it is from holding."""
        return (
            abs(self.stored - self.counted)
            + abs(self.submitted - self.counted_submitted)
            + abs(self.ended - self.counted_ended)
        )


class Books:
    """Reads; every method raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, data_dir: FilePath, dsn: str) -> None:
        self._key_file = data_dir / "master.key"
        self._dsn = dsn
        self._conn: database.Connection | None = None
        self._sums = (0, 0, 0)
        self._held: list[int] = []

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[database.Connection]:
        if self._conn is None or self._conn.is_closed():
            self._conn = await database.connect(self._dsn, statement_timeout_s=STATEMENT_S)
        try:
            yield self._conn
        except database.TROUBLE as error:
            await self.close()
            raise StoreUnavailable("PostgreSQL is away") from error

    async def close(self) -> None:
        """Let the connection go; the next question opens it anew."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.terminate()

    async def begin(self) -> None:
        """A new round: what was counted so far is not its own. Nothing may be under way.

        What is held may still end in this round, by evidence that comes late.
        """
        self._sums = await self._counted()
        self._held = await self.open_ids(0.0)

    async def _counted(self) -> tuple[int, int, int]:
        async with self._open() as conn:
            row = await conn.fetchrow(
                "SELECT coalesce(sum(accepted), 0), coalesce(sum(submitted), 0),"
                " coalesce(sum(final), 0) FROM deltas"
            )
        return (int(row[0]), int(row[1]), int(row[2])) if row is not None else (0, 0, 0)

    async def law(self, since: float) -> Law:
        """Both sides of the law for what was accepted since then, in one snapshot."""
        async with self._open() as conn:
            row = await conn.fetchrow(
                _LAW,
                max(0, id_at(since)),
                _moment(since),
                ENDING,
                SUBMITTING,
                self._held if since else [],
            )
        if row is None:
            raise StoreUnavailable("PostgreSQL counted nothing")
        accepted, submitted, final = self._sums if since else (0, 0, 0)
        return Law(
            row["stored"] - (len(self._held) if since else 0),
            int(row["counted"]) - accepted,
            row["submitted"],
            int(row["counted_submitted"]) - submitted,
            row["ended"],
            int(row["counted_ended"]) - final,
        )

    async def whole(self) -> Law:
        """Both sides of the law for everything that is stored."""
        return await self.law(0.0)

    async def open_ids(self, since: float) -> list[int]:
        """Messages accepted since then that have not ended."""
        async with self._open() as conn:
            rows = await conn.fetch(
                _OPEN,
                max(0, id_at(since)),
                _moment(since),
                ENDING,
            )
        return [row["id"] for row in rows]

    async def ids(self, since: float) -> list[int]:
        """Messages accepted since then."""
        async with self._open() as conn:
            rows = await conn.fetch(
                _IDS,
                id_at(since),
                _moment(since),
            )
        return [row["id"] for row in rows]

    async def lives(self, ids: Sequence[int]) -> list[Life]:
        """Those messages, folded; unknown ids are absent."""
        return [life_of(record) for record in await self._stored(ids)]

    async def told(self, ids: Sequence[int]) -> list[Told]:
        """The rows of those messages in words; unknown ids are absent."""
        return [
            Told(one.message.id, one.message.number, tuple(map(_in_words, one.rows)))
            for one in await self._stored(ids)
        ]

    async def parked_reports(self) -> list[str]:
        """Every report that waits for its message: its id, channel, the carrier's id, its steps."""
        async with self._open() as conn:
            rows = await conn.fetch(
                "SELECT id, channel, carrier_id, tries, due, is_orphan FROM parked_reports"
                " ORDER BY id"
            )
        return [
            f"{row['id']:016x} channel {row['channel']} {row['carrier_id']} tries {row['tries']}"
            f" due {row['due']:%H:%M:%S} {'near one' if row['is_orphan'] else '-'}"
            for row in rows
        ]

    async def _stored(self, ids: Sequence[int]) -> list[Stored]:
        found: list[Stored] = []
        pool = await database.open_pool(self._dsn, size=1, statement_timeout_s=STATEMENT_S)
        try:
            reader = Reader(pool, Keyring(read_master_key(self._key_file)))
            for start in range(0, len(ids), PAGE):
                stored = await reader.messages(ids[start : start + PAGE])
                found += stored.values()
        finally:
            pool.terminate()
        return found

    async def quarantined(self, since: float) -> list[tuple[float, str]]:
        """What was set aside since then: when (Unix), and step and error."""
        async with self._open() as conn:
            rows = await conn.fetch(
                "SELECT at, step, error FROM quarantine WHERE at >= $1", _moment(since)
            )
        return [(row["at"].timestamp(), f"{row['step']}: {row['error']}") for row in rows]

    async def missing(self, ids: Sequence[int]) -> list[int]:
        """Those of the ids that are not stored."""
        lost: list[int] = []
        async with self._open() as conn:
            for start in range(0, len(ids), 10 * PAGE):
                some = list(ids[start : start + 10 * PAGE])
                rows = await conn.fetch("SELECT id FROM messages WHERE id = ANY($1)", some)
                lost += set(some) - {row["id"] for row in rows}
        return lost

    async def parked(self) -> set[tuple[int, int]]:
        """Endpoint and event of every webhook that waits for another try, or is a dead letter."""
        async with self._open() as conn:
            rows = await conn.fetch("SELECT endpoint, event_id FROM webhook_parked")
        return {(row["endpoint"], row["event_id"]) for row in rows}

    async def orphans(self, living: int) -> int:
        """How many processes are held by nobody alive, and debts of dead ones not settled."""
        async with self._open() as conn:
            owned = await conn.fetchval("SELECT count(*) FROM processes WHERE node IS NOT NULL")
            owed = await conn.fetchval("SELECT count(*) FROM processes WHERE owed_to IS NOT NULL")
        return max(0, int(owned) - living) + int(owed)

    async def flushed(self) -> int:
        """How far PostgreSQL's log is on the disk, as a byte position."""
        async with self._open() as conn:
            return int(await conn.fetchval("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn"))

    @asynccontextmanager
    async def stalled(self, table: str) -> AsyncIterator[None]:
        """No COPY into the table gets further in the meantime; it breaks off with PostgreSQL."""
        if table not in TABLES:
            raise ValueError(f"{table} is none of {TABLES}")
        conn = await database.connect(self._dsn, statement_timeout_s=STATEMENT_S)
        try:
            await conn.execute(f"BEGIN; LOCK TABLE {table} IN SHARE MODE")
            yield
        except database.TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error
        finally:
            conn.terminate()

    async def end_backends(self) -> int:
        """End every connection of the gateway's own, one fault of many; how many there were."""
        async with self._open() as conn:
            ended = await conn.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE application_name LIKE 'smsgw/%'"
            )
        return int(ended)

    async def backends(self) -> list[int]:
        """The pids of the gateway's connections, as PostgreSQL itself knows them."""
        async with self._open() as conn:
            rows = await conn.fetch(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'smsgw/%'"
            )
        return [row["pid"] for row in rows]


def life_of(stored: Stored) -> Life:
    """Fold one message's rows, noting what its tenant must be told and what is illegal."""
    message = stored.message
    owed: list[int] = []
    uncertain: list[float] = []
    illegal = 0
    for row in stored.rows:
        before = message.state
        illegal += fold(message, [row])
        if message.state not in (before, State.QUEUED):
            owed.append(row.sequence)
        if row.path == Path.UNCERTAIN:
            uncertain.append(row.at)
    return Life(
        message.id,
        message.number,
        message.message_class,
        message.segments,
        message.state,
        message.duplicate_risk,
        _is_to_hold(message),
        tuple(owed),
        tuple(uncertain),
        illegal,
        tuple(map(_in_words, stored.rows)) if illegal else (),
    )


def _in_words(row: EventRow) -> str:
    """For whoever looks for the reason; the event's id says which process wrote it."""
    return (
        f"{row.sequence} {Path(row.path).name} {row.status} segment {row.segment} copy {row.copy} "
        f"channel {row.channel} {row.carrier_id or '-'} {row.code or '-'} {row.reason or '-'} "
        f"at {row.at:.3f} times {row.times} event {row.event_id:016x}"
    )


def _is_to_hold(message: Message) -> bool:
    if message.on_uncertain is not None:
        return message.on_uncertain is OnUncertain.HOLD
    return message.message_class is MessageClass.MARKETING


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
