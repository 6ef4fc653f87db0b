"""Which processes have left which channel, and the events that tell a channel's tenants.

    transaction: one lock for all processes ─▶ who has left ─▶ rows, events ─▶ COMMIT

The lock makes the first to leave and the last to come back certain. Such changes are rare: a
breaker makes four in ten minutes at most.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sms.model import CARRIERS, STATE_CODES, Carrier, EventRow, State
from store.database import AnyConnection, Pool, acquire

Way = tuple[int, Carrier | None]  # a channel, as a whole (None) or for one carrier

STALE_S = 45.0  # a process that has not repeated its rows for so long is dead

_LOCK = 52
_WHOLE = -1
_PATHS = "66, 67"  # receipts.state.ChannelPath
_LEFT = (
    "SELECT channel, carrier, process, cause, since, told,"
    " seen < clock_timestamp() - make_interval(secs => $1) AS is_stale FROM channels_left"
)
_PUT = (
    "INSERT INTO channels_left SELECT *, clock_timestamp() FROM unnest($1::int[], $2::smallint[],"
    " $3::smallint[], $4::text[], $5::timestamptz[], $6::bigint[])"
    " ON CONFLICT (channel, carrier, process) DO UPDATE SET seen = excluded.seen"
)
_DROP = (
    "DELETE FROM channels_left WHERE (channel, carrier, process) IN"
    " (SELECT * FROM unnest($1::int[], $2::smallint[], $3::smallint[]))"
)
_ADD = (
    "INSERT INTO events (message_id, sequence, event_id, tenant, path, channel, segment, code,"
    " times, at, status, copy) SELECT id, sequence, id, tenant, path, channel, segment, code,"
    " array[since_ms], at, $10::smallint, 0 FROM unnest($1::bigint[], $2::smallint[], $3::int[],"
    " $4::smallint[], $5::smallint[], $6::smallint[], $7::text[], $8::int[], $9::timestamptz[])"
    " AS new (id, sequence, tenant, path, channel, segment, code, since_ms, at)"
)
_EVENTS = (
    "SELECT event_id, sequence, tenant, path, channel, segment, code, times, at FROM events"
    " WHERE message_id >= {first} AND message_id <= {last} AND message_id = ANY($1)"
    f" AND path IN ({_PATHS})"
)


@dataclass(frozen=True, slots=True)
class Left:
    """A process that has left a channel, and what was told when the first one did."""

    way: Way
    process: int
    cause: str
    since: float  # Unix seconds
    told: int  # the highest event id of those that told it
    is_stale: bool = False  # the process has not said so for long: it is dead


class ChannelNewsStore:
    """All SQL about it; raises StoreUnavailable, and LeaseLost when fenced."""

    def __init__(self, pool: Pool, stale_s: float = STALE_S) -> None:
        """`stale_s`: see `STALE_S`."""
        self._pool = pool
        self._stale_s = stale_s

    async def left(self) -> list[Left]:
        """Who has left what, as it stands; not locked."""
        async with acquire(self._pool) as conn:
            return await rows_left(conn, self._stale_s)

    async def events(self, ids: Collection[int]) -> dict[int, EventRow]:
        """Those of these events that are committed and are a channel's, by event id."""
        if not ids:
            return {}
        async with acquire(self._pool) as conn:
            return await _events(conn, ids)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[NewsTransaction]:
        """What is done inside is done or not as one, and by nobody else meanwhile.

        After StoreUnavailable it may have been committed all the same: `NewsTransaction.events`
        of the next one tells.
        """
        async with acquire(self._pool) as conn, conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", _LOCK)
            yield NewsTransaction(conn, self._stale_s)


class NewsTransaction:
    """What may be done under the lock."""

    def __init__(self, conn: AnyConnection, stale_s: float) -> None:
        self._conn = conn
        self._stale_s = stale_s

    async def left(self) -> list[Left]:
        """Who has left what."""
        return await rows_left(self._conn, self._stale_s)

    async def events(self, ids: Collection[int]) -> dict[int, EventRow]:
        """Those of these events that an earlier transaction committed, by event id."""
        return await _events(self._conn, ids) if ids else {}

    async def put(self, rows: Sequence[Left]) -> None:
        """These processes have left it, or say so again."""
        await self._conn.execute(
            _PUT,
            [row.way[0] for row in rows],
            [_place(row.way[1]) for row in rows],
            [row.process for row in rows],
            [row.cause for row in rows],
            [datetime.fromtimestamp(row.since, UTC) for row in rows],
            [row.told for row in rows],
        )

    async def drop(self, rows: Sequence[Left]) -> None:
        """These have come back, or are dead."""
        await self._conn.execute(
            _DROP,
            [row.way[0] for row in rows],
            [_place(row.way[1]) for row in rows],
            [row.process for row in rows],
        )

    async def add(self, rows: Sequence[EventRow]) -> None:
        """Events, one for each tenant that is told."""
        await self._conn.execute(
            _ADD,
            [row.event_id for row in rows],
            [row.sequence for row in rows],
            [row.tenant for row in rows],
            [row.path for row in rows],
            [row.channel for row in rows],
            [row.segment for row in rows],
            [row.code for row in rows],
            [row.times[0] for row in rows],
            [datetime.fromtimestamp(row.at, UTC) for row in rows],
            STATE_CODES[State.ACCEPTED],  # it says nothing here
        )


def _place(carrier: Carrier | None) -> int:
    return _WHOLE if carrier is None else CARRIERS.index(carrier)


async def rows_left(conn: AnyConnection, stale_s: float = STALE_S) -> list[Left]:
    """Who has left what, as it stands, the dead's rows too."""
    return [
        Left(
            (row["channel"], None if row["carrier"] == _WHOLE else CARRIERS[row["carrier"]]),
            row["process"],
            row["cause"],
            row["since"].timestamp(),
            row["told"],
            row["is_stale"],
        )
        for row in await conn.fetch(_LEFT, stale_s)
    ]


async def _events(conn: AnyConnection, ids: Collection[int]) -> dict[int, EventRow]:
    wanted = sorted(ids)
    sql = _EVENTS.format(first=int(wanted[0]), last=int(wanted[-1]))
    return {
        row["event_id"]: EventRow(
            row["event_id"],
            row["sequence"],
            row["event_id"],
            row["tenant"],
            row["path"],
            State.ACCEPTED,
            row["at"].timestamp(),
            segment=row["segment"],
            channel=row["channel"],
            code=row["code"],
            times=tuple(row["times"]),
        )
        for row in await conn.fetch(sql, wanted)
    }
