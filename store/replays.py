"""Webhook events to be sent again: a replay is a row until its last event is parked.

    202 ◀═COMMIT═ webhook_replays ─▶ a page ─▶ webhook_parked (due now) ═COMMIT═▶ next page

A page and the place where the next one begins are one commit, so that a process that dies in
between leaves nothing out; the next one goes on. Events are sent as if they had never been tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, TIME_SHIFT, id_at
from store.attempts import KEPT_DAYS
from store.database import AnyConnection, Pool, acquire, committing
from store.pull import HORIZON_SQL

PAGE = 1000  # events of one step
MOST_WAITING = 5000  # events due at an endpoint; a replay waits while there are more
# A dead letter is as old as its event and three days of tries, and is kept 30 more.
_DEAD_KEPT = (KEPT_DAYS + 4) * DAY_MS << TIME_SHIFT
_ADD_LOCK = 57  # beside the id of the endpoint
_CLEANED = 5000  # rows of one step
# How much older than its event a message may be, as in `store.pull`.
_OLDEST_MESSAGE = 45 * DAY_MS << TIME_SHIFT
_NEWEST_MESSAGE = 3_600_000 << TIME_SHIFT

_EVENTS_SQL = (
    "SELECT event_id, message_id, sequence, path FROM events"
    " WHERE tenant = $1 AND event_id > $2 AND event_id <= $3"
    " AND path <> 0 AND path <> 2 AND path <> 6"  # as the index has it: of these nobody is told
    " AND message_id >= $4 AND message_id < $5 ORDER BY event_id LIMIT $6"
)
_PARK_SQL = (
    "INSERT INTO webhook_parked (endpoint, event_id, process, message_id, sequence, tries, due)"
    " SELECT $1, *, 0, now() FROM (SELECT e, $2::smallint, m, s"
    "  FROM unnest($3::bigint[], $4::bigint[], $5::smallint[]) AS u (e, m, s) ORDER BY e) page"
    " ON CONFLICT (endpoint, event_id) DO UPDATE"
    " SET process = excluded.process, tries = 0, due = excluded.due"
)
_REVIVE_SQL = (
    "WITH page AS (SELECT endpoint, event_id FROM webhook_parked"
    "  WHERE endpoint = $1 AND due = 'infinity' AND event_id > $3 AND event_id <= $4"
    "  ORDER BY event_id LIMIT $5 FOR UPDATE)"
    " UPDATE webhook_parked w SET process = $2, tries = 0, due = now() FROM page"
    " WHERE w.endpoint = page.endpoint AND w.event_id = page.event_id RETURNING w.event_id"
)
_BACK_SQL = "UPDATE webhook_replays SET at = clock_timestamp() WHERE id = $1"
# Each endpoint that has rows, found by leaps along the primary key: ten thousand dead letters of
# one cost one leap.
_ENDPOINTS_SQL = (
    "WITH RECURSIVE known AS ("
    " (SELECT endpoint FROM webhook_parked ORDER BY endpoint LIMIT 1)"
    " UNION ALL SELECT (SELECT w.endpoint FROM webhook_parked w WHERE w.endpoint > known.endpoint"
    "  ORDER BY w.endpoint LIMIT 1) FROM known WHERE known.endpoint IS NOT NULL"
    ") SELECT endpoint, EXISTS (SELECT FROM objects o WHERE o.kind = 'webhook_endpoint'"
    "  AND o.id = known.endpoint AND o.deleted_at IS NULL) AS is_there"
    " FROM known WHERE endpoint IS NOT NULL"
)

Wants = Callable[[int, int], bool]  # (endpoint, path): whether the endpoint is told of such rows


@dataclass(frozen=True, slots=True)
class Replay:
    """What shall be sent again: events with ids above `after`, up to `until`."""

    id: int
    endpoint: int
    tenant: int
    is_failed: bool  # dead letters only
    after: int
    until: int


class Step(NamedTuple):
    """What became of one page: so many events were parked, and whether the next may follow now."""

    endpoint: int
    parked: int
    has_more: bool  # False: it is done, the endpoint has enough, or events are not certain yet


class ReplayStore:
    """Raises StoreUnavailable; LeaseLost when this process has a newer owner."""

    def __init__(self, pool: Pool, process: int) -> None:
        """`process` sends what it takes up; the pool's connections are its own."""
        self._pool = pool
        self._process = process

    async def add(self, replay: Replay) -> bool:
        """Keep a replay until it is done; raises OutcomeUnknown too.

        False, and nothing is kept: the endpoint has one that is not done.
        """
        async with committing(self._pool) as conn:
            await conn.execute("SELECT pg_advisory_xact_lock($1, $2)", _ADD_LOCK, replay.endpoint)
            is_busy: bool = await conn.fetchval(
                "SELECT EXISTS (SELECT FROM webhook_replays WHERE endpoint = $1)", replay.endpoint
            )
            if is_busy:
                return False
            await conn.execute(
                "INSERT INTO webhook_replays (id, endpoint, tenant, is_failed, position, until, at)"
                " VALUES ($1, $2, $3, $4, $5, $6, now())",
                replay.id,
                replay.endpoint,
                replay.tenant,
                replay.is_failed,
                replay.after,
                replay.until,
            )
        return True

    async def one(self, endpoint: int, tenant: int, event_id: int, wants: Wants) -> bool:
        """Have one event of the tenant sent again; False when there is none to tell."""
        async with committing(self._pool) as conn:
            rows = await _events(conn, tenant, event_id - 1, event_id, 1)
            rows = [row for row in rows if wants(endpoint, row["path"])]
            await self._park(conn, endpoint, rows)
        return bool(rows)

    async def step(self, endpoints: Collection[int], wants: Wants) -> Step | None:
        """A page of the replay that has waited longest; None = nothing to do.

        Of these endpoints only. One that another process is at is left to it.
        """
        taken: list[int] = []
        try:
            async with committing(self._pool) as conn:
                return await self._step(conn, endpoints, wants, taken)
        except StoreUnavailable:
            for number in taken:  # it may be this page alone that takes too long: others first
                async with committing(self._pool) as conn:
                    await conn.execute(_BACK_SQL, number)
            raise

    async def _step(
        self, conn: AnyConnection, endpoints: Collection[int], wants: Wants, taken: list[int]
    ) -> Step | None:
        row = await conn.fetchrow(
            "SELECT id, endpoint, tenant, is_failed, position, until FROM webhook_replays"
            " WHERE endpoint = ANY ($1::int[]) ORDER BY at LIMIT 1 FOR UPDATE SKIP LOCKED",
            list(endpoints),
        )
        if row is None:
            return None
        taken.append(row["id"])
        if await self._is_full(conn, row["endpoint"]):
            await conn.execute(_BACK_SQL, row["id"])
            return Step(row["endpoint"], 0, has_more=False)
        page = self._revived if row["is_failed"] else self._parked
        position, step = await page(conn, row, wants)
        if position >= row["until"]:
            await conn.execute("DELETE FROM webhook_replays WHERE id = $1", row["id"])
        else:
            await self._move(conn, row["id"], position)
        return step

    async def _parked(
        self, conn: AnyConnection, row: asyncpg.Record, wants: Wants
    ) -> tuple[int, Step]:
        # Nothing is passed that may still be committed below.
        horizon: int = await conn.fetchval(HORIZON_SQL)
        until = min(row["until"], horizon - 1)
        if until <= row["position"]:
            return row["position"], Step(row["endpoint"], 0, has_more=False)
        found = await _events(conn, row["tenant"], row["position"], until, PAGE)
        wanted = [one for one in found if wants(row["endpoint"], one["path"])]
        await self._park(conn, row["endpoint"], wanted)
        has_more = len(found) == PAGE
        step = Step(row["endpoint"], len(wanted), has_more)
        return found[-1]["event_id"] if has_more else until, step

    async def _revived(
        self, conn: AnyConnection, row: asyncpg.Record, _wants: Wants
    ) -> tuple[int, Step]:
        span = row["endpoint"], self._process, row["position"], row["until"], PAGE
        found = [one["event_id"] for one in await conn.fetch(_REVIVE_SQL, *span)]
        has_more = len(found) == PAGE
        return max(found) if has_more else row["until"], Step(row["endpoint"], len(found), has_more)

    async def _park(
        self, conn: AnyConnection, endpoint: int, rows: Sequence[asyncpg.Record]
    ) -> None:
        if not rows:
            return
        ids, messages, sequences = (
            [row[name] for row in rows] for name in ("event_id", "message_id", "sequence")
        )
        await conn.execute(_PARK_SQL, endpoint, self._process, ids, messages, sequences)

    @staticmethod
    async def _move(conn: AnyConnection, number: int, position: int) -> None:
        await conn.execute(
            "UPDATE webhook_replays SET position = $2, at = clock_timestamp() WHERE id = $1",
            number,
            position,
        )

    @staticmethod
    async def _is_full(conn: AnyConnection, endpoint: int) -> bool:
        is_full: bool = await conn.fetchval(
            "SELECT EXISTS (SELECT FROM webhook_parked"
            " WHERE endpoint = $1 AND due <= now() OFFSET $2)",
            endpoint,
            MOST_WAITING,
        )
        return is_full

    async def give_up(self, endpoints: Collection[int]) -> int:
        """Make dead letters of what waits for endpoints that are switched off; rows of one step."""
        async with acquire(self._pool) as conn:
            done = await conn.execute(
                "UPDATE webhook_parked w SET due = 'infinity' FROM ("
                " SELECT endpoint, event_id FROM webhook_parked"
                " WHERE process = $1 AND endpoint = ANY ($2::int[]) AND due < 'infinity'"
                " ORDER BY endpoint, event_id LIMIT $3 FOR UPDATE SKIP LOCKED) page"
                " WHERE w.endpoint = page.endpoint AND w.event_id = page.event_id",
                self._process,
                list(endpoints),
                _CLEANED,
            )
        return int(done.rsplit(" ", 1)[-1])

    async def clean(self, now: float) -> int:
        """Delete dead letters whose time is over, and what waits for removed endpoints."""
        async with acquire(self._pool) as conn:
            known = await conn.fetch(_ENDPOINTS_SQL)
            deleted = 0
            for row in known:
                what = "due = 'infinity' AND event_id < $2" if row["is_there"] else "event_id <= $2"
                bound = id_at(now) - (_DEAD_KEPT if row["is_there"] else 0)
                done = await conn.execute(
                    "DELETE FROM webhook_parked w USING (SELECT endpoint, event_id"
                    f" FROM webhook_parked WHERE endpoint = $1 AND {what}"
                    " ORDER BY event_id LIMIT $3 FOR UPDATE SKIP LOCKED) page"
                    " WHERE w.endpoint = page.endpoint AND w.event_id = page.event_id",
                    row["endpoint"],
                    bound,
                    _CLEANED,
                )
                deleted += int(done.rsplit(" ", 1)[-1])
            for table in ("webhook_health", "webhook_replays"):
                await conn.execute(
                    f"DELETE FROM {table} t WHERE NOT EXISTS (SELECT FROM objects o"
                    " WHERE o.kind = 'webhook_endpoint' AND o.id = t.endpoint"
                    " AND o.deleted_at IS NULL)"
                )
        return deleted


async def _events(
    conn: AnyConnection, tenant: int, after: int, until: int, limit: int
) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await conn.fetch(
        _EVENTS_SQL,
        tenant,
        after,
        until,
        max(after - _OLDEST_MESSAGE, 0),
        until + _NEWEST_MESSAGE,
        limit,
    )
    return rows
