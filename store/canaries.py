"""Counts and gates of canaries: every process adds to the counts, one at a time judges them.

A gate is kept in the transaction of what follows from it, so a process that ends in between has
done neither. Everything raises StoreUnavailable when PostgreSQL is away.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from store.channel_news import Left, rows_left
from store.database import AnyConnection, Pool, acquire
from store.objects import Change

LIVE: Final = ("running", "paused")
_SUMS: Final = ("submits", "failed", "taken", "delivered", "undelivered", "complaints")

_ADD: Final = (
    "INSERT INTO canary_counts (canary, slot, channel, process, life, submits, failed, taken,"
    " delivered, undelivered, complaints, answers)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
    " ON CONFLICT (canary, slot, channel, process, life) DO UPDATE SET submits = excluded.submits,"
    " failed = excluded.failed, taken = excluded.taken, delivered = excluded.delivered,"
    " undelivered = excluded.undelivered, complaints = excluded.complaints,"
    " answers = excluded.answers"
)
_LIVE: Final = (
    "SELECT id FROM objects WHERE kind = 'canary' AND deleted_at IS NULL"
    " AND spec ->> 'state' = ANY ($1)"
)
_DUE: Final = (
    f"{_LIVE} AND created_at <= clock_timestamp() - make_interval(secs => $2)"
    " AND NOT EXISTS (SELECT FROM canary_gates g WHERE g.canary = id"
    " AND g.checked_at > clock_timestamp() - make_interval(secs => $2))"
)
_TOTALS: Final = (
    "SELECT channel, slot >= $2 AS is_step,"
    + ",".join(f" sum({name})::bigint AS {name}" for name in _SUMS)
    + " FROM canary_counts WHERE canary = $1 AND slot >= $3 GROUP BY 1, 2"
)
_ANSWERS: Final = (
    "SELECT channel, slot >= $2 AS is_step, place::int AS place, sum(n)::bigint AS n"
    " FROM canary_counts, unnest(answers) WITH ORDINALITY AS a (n, place)"
    " WHERE canary = $1 AND slot >= $3 AND n > 0 GROUP BY 1, 2, 3"
)
_UP: Final = (
    "SELECT EXISTS (SELECT FROM process_channels c JOIN processes p USING (process)"
    " WHERE c.channel = $1 AND c.is_up AND p.node IS NOT NULL"
    " AND p.lease_until > clock_timestamp())"
)
_JUDGED: Final = (
    "INSERT INTO canary_gates (canary, checked_at, version, bad, gate, is_told)"
    " VALUES ($1, clock_timestamp(), $2, $3, $4, $5)"
    " ON CONFLICT (canary) DO UPDATE SET checked_at = excluded.checked_at,"
    " version = excluded.version, bad = excluded.bad, gate = excluded.gate,"
    " is_told = excluded.is_told"
)


class Slot(NamedTuple):
    """What one channel's segments of one slot came to so far in this life of this process."""

    canary: int
    slot: int
    channel: int
    sums: tuple[int, int, int, int, int, int]  # as `Totals.sums`
    answers: Sequence[int]


class Totals(NamedTuple):
    """What all processes counted of one channel."""

    sums: tuple[int, ...]  # submits, failed halves, taken, delivered, undelivered, complaints
    answers: Mapping[int, int]  # by place in the buckets


class Kept(NamedTuple):
    """The last gate of a canary."""

    checked_at: float  # Unix
    version: int  # of the canary, as it was judged
    bad: int  # bad checks in a row
    gate: dict[str, Any]  # figures, as the judge wrote them


class CanaryStore:
    """Counts and gates; `judging` is for use inside a change of the configuration."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, process: int, life: int, slots: Collection[Slot]) -> None:
        """Keep the totals of some slots; the same again changes nothing."""
        rows = [
            (one.canary, one.slot, one.channel, process, life, *one.sums, list(one.answers))
            for one in slots
        ]
        async with acquire(self._pool) as conn:
            await conn.executemany(_ADD, rows)

    async def due(self, every_s: float) -> list[int]:
        """Live canaries that stand, and that nobody has looked at, for so long."""
        async with acquire(self._pool) as conn:
            return [row["id"] for row in await conn.fetch(f"{_DUE} ORDER BY id", LIVE, every_s)]

    async def gates(self, canaries: Collection[int]) -> dict[int, Kept]:
        """The last gate of each, of those that had one."""
        async with acquire(self._pool) as conn:
            return await _gates(conn, canaries)

    async def untold(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Ends that nobody was told of yet: id, name and gate."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT g.canary, o.name, g.gate FROM canary_gates g"
                " JOIN objects o ON o.kind = 'canary' AND o.id = g.canary WHERE NOT g.is_told"
            )
        return [(row["canary"], row["name"], json.loads(row["gate"])) for row in rows]

    async def told(self, canary: int) -> None:
        """Somebody was."""
        async with acquire(self._pool) as conn:
            await conn.execute("UPDATE canary_gates SET is_told = true WHERE canary = $1", canary)

    async def forget(self, kept_s: float) -> None:
        """Drop counts of canaries that are over and of older slots, and gates of removed ones."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                f"DELETE FROM canary_counts WHERE canary NOT IN ({_LIVE})"
                " OR slot < extract(epoch FROM clock_timestamp()) - $2::float8",
                LIVE,
                kept_s,
            )
            await conn.execute(
                "DELETE FROM canary_gates g WHERE is_told AND NOT EXISTS (SELECT FROM objects o"
                " WHERE o.kind = 'canary' AND o.id = g.canary AND o.deleted_at IS NULL)"
            )

    def judging(self, change: Change) -> Judging:
        """The same inside a change, so that a gate and what follows are one COMMIT."""
        return Judging(change.conn)


class Judging:
    """One canary at a time, under the configuration's lock."""

    def __init__(self, conn: AnyConnection) -> None:
        self._conn = conn

    async def is_due(self, canary: int, every_s: float) -> bool:
        """Whether nobody else has looked meanwhile."""
        found = await self._conn.fetchrow(f"{_DUE} AND id = $3", LIVE, every_s, canary)
        return found is not None

    async def now(self) -> float:
        """The database's time, Unix seconds: judges take turns."""
        return float(await self._conn.fetchval("SELECT extract(epoch FROM clock_timestamp())"))

    async def first_version(self, canary: int) -> int:
        """The version of the configuration that it was made with."""
        return int(
            await self._conn.fetchval(
                "SELECT min(version) FROM object_history WHERE kind = 'canary' AND id = $1", canary
            )
        )

    async def last(self, canary: int) -> Kept | None:
        """Its last gate."""
        return (await _gates(self._conn, [canary])).get(canary)

    async def totals(
        self, canary: int, step: float, since: float
    ) -> dict[tuple[int, bool], Totals]:
        """By channel and whether it is of this step: slots from `step` on, or from `since` on."""
        of = canary, int(step), int(since)
        answers: dict[tuple[int, bool], dict[int, int]] = {}
        for row in await self._conn.fetch(_ANSWERS, *of):
            answers.setdefault((row["channel"], row["is_step"]), {})[row["place"] - 1] = row["n"]
        return {
            (row["channel"], row["is_step"]): Totals(
                tuple(row[name] for name in _SUMS),
                answers.get((row["channel"], row["is_step"]), {}),
            )
            for row in await self._conn.fetch(_TOTALS, *of)
        }

    async def left(self) -> list[Left]:
        """What living processes have left for its health, of all channels."""
        return [row for row in await rows_left(self._conn) if not row.is_stale]

    async def is_up(self, channel: int) -> bool:
        """Whether any living process has a session of the channel."""
        return bool(await self._conn.fetchval(_UP, channel))

    async def judged(
        self, canary: int, version: int, bad: int, gate: Mapping[str, Any], *, is_told: bool
    ) -> None:
        """Keep what a gate said; `is_told`: nobody needs to be told of it."""
        text = json.dumps(gate, ensure_ascii=False)
        await self._conn.execute(_JUDGED, canary, version, bad, text, is_told)


async def _gates(conn: AnyConnection, canaries: Collection[int]) -> dict[int, Kept]:
    rows = await conn.fetch(
        "SELECT canary, checked_at, version, bad, gate FROM canary_gates WHERE canary = ANY ($1)",
        list(canaries),
    )
    return {
        row["canary"]: Kept(
            row["checked_at"].timestamp(), row["version"], row["bad"], json.loads(row["gate"])
        )
        for row in rows
    }
