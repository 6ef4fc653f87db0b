"""Messages that nothing more is heard of: the walks over all ids, and what they leave to watch.

    walks.position ─▶ the next ids, all of one age ─▶ those without an end ─▶ gateway decides
                  ◀═ moved in a commit behind what was decided

Each message is looked at once, days later, in a page of neighbours (1.5 µs): nothing on its path
pays for it, and no index has to hold what is open. Moments are the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from store.conservation import ENDED_PATHS
from store.database import Pool, acquire
from store.fragments import moment_sql

_BEGIN: Final = (
    "UPDATE walks SET process = $2, until = clock_timestamp() + $3 * interval '1 s'"
    " WHERE kind = $1 AND (process = $2 OR until < clock_timestamp())"
    " RETURNING position, extract(epoch FROM clock_timestamp())::float8 AS now"
)
_DUE: Final = (
    "SELECT message_id FROM deadlines WHERE due <= clock_timestamp() ORDER BY due LIMIT $1"
)
# LATERAL and LIMIT: a look into the index for each channel; what another process takes just now
# is passed over.
_TAKE: Final = (
    "UPDATE overdue o SET is_asked = NOT o.is_asked, tries = o.tries + (NOT o.is_asked)::int,"
    " due = clock_timestamp() + interval '1 s' * CASE WHEN o.is_asked"
    "  THEN least($4 * 2.0 ^ (o.tries - 1), $5) ELSE $3 END"
    " FROM (SELECT one.message_id FROM unnest($1::int[]) AS wanted (channel)"
    "  CROSS JOIN LATERAL (SELECT message_id FROM overdue"
    "   WHERE channel = wanted.channel AND due <= clock_timestamp()"
    "   ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED) one) taken"
    " WHERE o.message_id = taken.message_id"
    " RETURNING o.message_id, o.channel, o.is_asked"
)
# No `FOR UPDATE`: only who holds the walk looks at these.
_LOOK: Final = (
    "SELECT message_id, channel FROM overdue"
    " WHERE channel <> ALL($1::int[]) AND due <= clock_timestamp() ORDER BY due LIMIT $2"
)
_STANDING: Final = (
    "SELECT channel, count(*) AS n, extract(epoch FROM min(since))::float8 AS since,"
    " extract(epoch FROM clock_timestamp())::float8 AS now FROM overdue GROUP BY channel"
)


_WATCH_OVERDUE: Final = (
    "INSERT INTO overdue (message_id,channel,since,due) VALUES {}"
    " ON CONFLICT (message_id) DO UPDATE SET channel=excluded.channel, since=excluded.since,"
    " due=excluded.due;"
)
NOT_SENT: Final = 0  # in place of a channel


class Walk(IntEnum):
    """Why the ids are walked over. The store holds these numbers."""

    DEADLINE = 0
    OVERDUE = 1


class Turn(NamedTuple):
    """The walk is ours for now."""

    position: int
    now: float  # of the database, Unix seconds


class Page(NamedTuple):
    """Neighbours that were looked at."""

    last: int  # up to this id
    open: list[int]  # of them, those without an end; ascending
    is_full: bool  # there may be more behind


class Taken(NamedTuple):
    """An overdue message whose turn it is."""

    message_id: int
    channel: int
    is_asking: bool  # it is to be asked about; else the answer to that is looked for


class Standing(NamedTuple):
    """What is watched of a channel."""

    number: int
    oldest_s: float  # since its submit


class SilenceStore:
    """Reads and takes; raises StoreUnavailable, LeaseLost. Writes ride with rows: `…_sql`."""

    def __init__(self, pool: Pool, process: int) -> None:
        self._pool = pool
        self._process = process

    async def begin(self, walk: Walk, hold_s: float) -> Turn | None:
        """Walk for the next `hold_s` seconds; None while another process does."""
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(_BEGIN, walk, self._process, hold_s)
        return None if row is None else Turn(row["position"], row["now"])

    async def page(self, position: int, bound: int, size: int) -> Page:
        """At most `size` messages behind `position`, up to `bound`."""
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(
                "SELECT max(id) AS last, count(*) AS n FROM (SELECT id FROM messages"
                f" WHERE id > {int(position)} AND id <= {int(bound)} ORDER BY id LIMIT $1) page",
                size,
            )
            if row is None or not row["n"]:
                return Page(bound, [], False)
            is_full = row["n"] >= size
            last = row["last"] if is_full else bound
            rows = await conn.fetch(open_sql(position, row["last"]))
        return Page(last, [one["id"] for one in rows], is_full)

    async def due(self, limit: int) -> list[int]:
        """Of what is watched for its deadline: messages to be looked at now."""
        async with acquire(self._pool) as conn:
            return [row["message_id"] for row in await conn.fetch(_DUE, limit)]

    async def take(
        self, channels: Sequence[int], limit: int, *, look_s: float, again_s: float, most_s: float
    ) -> list[Taken]:
        """At most `limit` due messages of each of these channels, for this process alone.

        One that is to be asked about comes again after `look_s`, and then after `again_s`, doubled
        with each question up to `most_s`.
        """
        if not channels:
            return []
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(_TAKE, list(channels), limit, look_s, again_s, most_s)
        return [Taken(row["message_id"], row["channel"], row["is_asked"]) for row in rows]

    async def look(self, but: Sequence[int], limit: int) -> list[Taken]:
        """Due messages of channels that cannot be asked; for who holds the walk."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(_LOOK, list(but), limit)
        return [Taken(row["message_id"], row["channel"], False) for row in rows]

    async def forget_before(self, since: float) -> None:
        """What was submitted before is watched as overdue no longer: its deadline is over."""
        async with acquire(self._pool) as conn:
            await conn.execute("DELETE FROM overdue WHERE since < to_timestamp($1)", since)

    async def standing(self) -> dict[int, Standing]:
        """What is watched as overdue, by channel."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(_STANDING)
        return {
            row["channel"]: Standing(row["n"], max(0.0, row["now"] - row["since"])) for row in rows
        }


def open_sql(low: int, high: int) -> str:
    """The ids above `low` up to `high` that have no end.

    Literal bounds prune partitions when the plan is made; EXCEPT hashes or sorts both sides once,
    whatever the planner believes of them (as in store/read.py).
    """
    ended = ",".join(map(str, ENDED_PATHS))
    low, high = int(low), int(high)
    return (
        f"SELECT id FROM messages WHERE id > {low} AND id <= {high} EXCEPT SELECT message_id"
        f" FROM events WHERE message_id > {low} AND message_id <= {high} AND path IN ({ended})"
        " ORDER BY id"
    )


def move_sql(walk: Walk, position: int, to: int) -> str:
    """The walk has come so far; nothing when another process has moved it meanwhile."""
    return (
        f"UPDATE walks SET position={int(to)} WHERE kind={int(walk)} AND position={int(position)};"
    )


def watch_sql(rows: Iterable[tuple[int, float]]) -> str:
    """Look at these messages' deadlines later: (message_id, due)."""
    values = ",".join(f"({int(one)},{moment_sql(due)})" for one, due in rows)
    if not values:
        return ""
    return (
        f"INSERT INTO deadlines (message_id,due) VALUES {values}"
        " ON CONFLICT (message_id) DO UPDATE SET due=excluded.due;"
    )


def unwatch_sql(message_ids: Iterable[int]) -> str:
    """They have ended."""
    ids = ",".join(str(int(one)) for one in message_ids)
    return f"DELETE FROM deadlines WHERE message_id IN ({ids});" if ids else ""


def overdue_sql(rows: Iterable[tuple[int, int, float, float]]) -> str:
    """Watch these overdue messages: (message_id, channel, since, due)."""
    values = ",".join(
        f"({int(one)},{int(channel)},{moment_sql(since)},{moment_sql(due)})"
        for one, channel, since, due in rows
    )
    return _WATCH_OVERDUE.format(values) if values else ""


def put_off_sql(rows: Iterable[tuple[int, int, float]], after_s: float) -> str:
    """Watch these as overdue from now on: (message_id, channel, since), due in `after_s` seconds.

    By the database's clock. What is not sent yet is so since now, or since it is to be.
    """
    wait = f"interval '{float(after_s):.3f} s'"
    values = []
    for one, channel, since in rows:
        latest = f"greatest({moment_sql(since)},clock_timestamp())"
        begun = latest if channel == NOT_SENT else moment_sql(since)
        values.append(f"({int(one)},{int(channel)},{begun},{latest}+{wait})")
    return _WATCH_OVERDUE.format(",".join(values)) if values else ""


def forget_overdue_sql(message_ids: Iterable[int]) -> str:
    """They have ended, or nothing more can come of watching them."""
    ids = ",".join(str(int(one)) for one in message_ids)
    return f"DELETE FROM overdue WHERE message_id IN ({ids});" if ids else ""
