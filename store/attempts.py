"""What was tried at webhook endpoints, one row per HTTP request, and how the endpoints are.

Rows come in batches, beside the path; no message waits for one. They are kept 30 days. What an
endpoint answered is sealed: it may repeat the text of a message.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import asyncpg

from sms.ids import DAY_MS, TIME_SHIFT, id_at
from store.database import Pool, acquire
from store.seal import Keyring

PREFIX = "wha"
KEPT_DAYS = 30  # RELIABILITY section 12
MAX_TOLD = 200  # attempts of one message's events
_TABLE = "webhook_attempts"
_COLUMNS = (
    *("id", "endpoint", "event_id", "event_ids", "at", "ms", "tries", "status", "code"),
    *("next_at", "answer"),
)
_LISTED = ", ".join(_COLUMNS)
PAGE_SQL = (
    f"SELECT {_LISTED} FROM {_TABLE} WHERE endpoint = $1 AND id >= $2 AND id < $3"
    " ORDER BY id DESC LIMIT $4"
)
OF_EVENTS_SQL = (
    f"SELECT {_LISTED} FROM {_TABLE} WHERE event_id = ANY ($1::bigint[]) AND id >= $2"
    f" UNION ALL SELECT {_LISTED} FROM {_TABLE} WHERE event_ids && $1::bigint[] AND id >= $2"
    f" ORDER BY id LIMIT {MAX_TOLD}"
)
# What began to fail before the newest delivery is over; what goes on keeps its beginning.
_GOES_ON = (
    "h.failing_since > coalesce(greatest(h.delivered_at, excluded.delivered_at), '-infinity')"
)
_HEALTH_SQL = (
    "INSERT INTO webhook_health AS h (endpoint, delivered_at, failing_since)"
    " SELECT * FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[])"
    " ON CONFLICT (endpoint) DO UPDATE SET"
    " delivered_at = greatest(h.delivered_at, excluded.delivered_at),"
    f" failing_since = CASE WHEN {_GOES_ON} THEN h.failing_since ELSE excluded.failing_since END,"
    f" warned_at = CASE WHEN {_GOES_ON} THEN h.warned_at END"
    " RETURNING endpoint, delivered_at, failing_since, warned_at"
)
_NEVER = (1 << 63) - 1
_CLOCKS = 60_000 << TIME_SHIFT  # by which the clock of another process may be behind


@dataclass(slots=True)  # not frozen: one per request, and that costs 3 µs
class Attempt:
    """One HTTP request to an endpoint. Times are Unix seconds."""

    id: int
    endpoint: int
    event_ids: Sequence[int]
    is_batch: bool
    at: float  # it began
    ms: int  # until its answer was read
    tries: int  # of the event that was tried most often, this one among them; 0 = a test
    status: int | None
    code: str  # webhook.delivered, or why not
    next_at: float | None  # None = it is not tried again
    answer: bytes = b""


class Noted(NamedTuple):
    """What a process saw of an endpoint lately: its newest delivery, and the failures after it."""

    endpoint: int
    delivered_at: float | None
    failing_since: float | None


class Standing(NamedTuple):
    """How an endpoint is by the word of all processes; times are Unix seconds."""

    delivered_at: float | None
    failing_since: float | None  # None: it does not fail
    warned_at: float | None


class AttemptStore:
    """Writes; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    async def write(self, attempts: Sequence[Attempt]) -> None:
        """Keep them, all or none."""
        rows = [self._row(one) for one in attempts]
        async with acquire(self._pool) as conn:
            await conn.copy_records_to_table(_TABLE, records=rows, columns=_COLUMNS)

    def _row(self, one: Attempt) -> tuple[object, ...]:
        return (
            one.id,
            one.endpoint,
            None if one.is_batch else one.event_ids[0],
            list(one.event_ids) if one.is_batch else None,
            _moment(one.at),
            min(one.ms, 0x7FFFFFFF),
            min(one.tries, 0x7FFF),
            one.status,
            one.code,
            None if one.next_at is None else _moment(one.next_at),
            self._keyring.seal_secret(one.answer, _context(one.id)) if one.answer else None,
        )

    async def note(self, noted: Sequence[Noted]) -> dict[int, Standing]:
        """Add what this process saw; how those endpoints are by the word of all."""
        ordered = sorted(noted)  # two processes must lock the rows in one order
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                _HEALTH_SQL,
                [one.endpoint for one in ordered],
                [_moment_or_none(one.delivered_at) for one in ordered],
                [_moment_or_none(one.failing_since) for one in ordered],
            )
        return {row["endpoint"]: _standing(row) for row in rows}

    async def warn_once(self, endpoint: int) -> bool:
        """Whether nobody has warned of this failing yet; notes that somebody has."""
        async with acquire(self._pool) as conn:
            done = await conn.execute(
                "UPDATE webhook_health SET warned_at = now()"
                " WHERE endpoint = $1 AND warned_at IS NULL",
                endpoint,
            )
        return done == "UPDATE 1"

    async def forget_health(self, endpoint: int) -> None:
        """An endpoint begins anew: another address, or enabled again."""
        async with acquire(self._pool) as conn:
            await conn.execute("DELETE FROM webhook_health WHERE endpoint = $1", endpoint)


class AttemptReader:
    """Reads; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    async def page(self, endpoint: int, limit: int, below: int | None, now: float) -> list[Attempt]:
        """Attempts of an endpoint, the newest first, with ids under `below`."""
        oldest = max(id_at(now) - (KEPT_DAYS * DAY_MS << TIME_SHIFT), 0)
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                PAGE_SQL, endpoint, oldest, _NEVER if below is None else below, limit
            )
        return [self._attempt(row) for row in rows]

    async def of_events(self, event_ids: Collection[int]) -> list[Attempt]:
        """Attempts that held any of these events, in order; the first `MAX_TOLD`."""
        if not event_ids:
            return []
        async with acquire(self._pool) as conn, conn.transaction(readonly=True):
            # The index of the batches' events can only be read by bitmap.
            await conn.execute("SET LOCAL enable_bitmapscan = on")
            rows = await conn.fetch(OF_EVENTS_SQL, list(event_ids), min(event_ids) - _CLOCKS)
        return [self._attempt(row) for row in rows]

    async def standing(self, endpoints: Collection[int]) -> Mapping[int, Standing]:
        """How these endpoints are; those nothing was sent to are absent."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT endpoint, delivered_at, failing_since, warned_at FROM webhook_health"
                " WHERE endpoint = ANY ($1::int[])",
                list(endpoints),
            )
        return {row["endpoint"]: _standing(row) for row in rows}

    def _attempt(self, row: asyncpg.Record) -> Attempt:
        sealed = row["answer"]
        is_batch = row["event_id"] is None
        return Attempt(
            row["id"],
            row["endpoint"],
            tuple(row["event_ids"]) if is_batch else (row["event_id"],),
            is_batch,
            row["at"].timestamp(),
            row["ms"],
            row["tries"],
            row["status"],
            row["code"],
            None if row["next_at"] is None else row["next_at"].timestamp(),
            b"" if sealed is None else self._keyring.open_secret(sealed, _context(row["id"])),
        )


def _context(attempt_id: int) -> str:
    return f"webhook_attempt {attempt_id}"


def _standing(row: Mapping[str, Any] | asyncpg.Record) -> Standing:
    delivered, failing = _unix(row["delivered_at"]), _unix(row["failing_since"])
    if failing is not None and failing <= (delivered or -math.inf):
        failing = None
    return Standing(delivered, failing, _unix(row["warned_at"]))


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def _moment_or_none(unix_s: float | None) -> datetime | None:
    return None if unix_s is None else _moment(unix_s)


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
