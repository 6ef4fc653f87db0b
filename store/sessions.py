"""Which process holds which carrier session, and who has a session now (DESIGN decision 7).

A channel's sessions are counted per node; a session that a process holds is a row with its
number and epoch, and is free again when its holder's lease or epoch is over. What is published
in `process_channels` is news for the others, not a promise: everything here may be wrong for as
long as a lease, and the row in `handovers` decides who sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from store.database import Pool, acquire, must_own

_SESSIONS_LOCK = 46
_FREE_SLOTS = (
    "SELECT g.slot FROM generate_series(0, $3::int - 1) AS g (slot) WHERE NOT EXISTS ("
    " SELECT FROM channel_sessions s JOIN processes p USING (process)"
    " WHERE s.node = $1 AND s.channel = $2 AND s.slot = g.slot"
    " AND p.epoch = s.epoch AND p.lease_until > clock_timestamp())"
)


class ChannelUp(NamedTuple):
    """A process of which a channel is known to have a session."""

    process: int
    node: str
    channel: int
    is_left: bool = False  # it has a session, and a breaker keeps messages from it


async def hold_sessions(  # noqa: PLR0913 - who asks for what, keyword-only
    pool: Pool, node: str, channel: int, *, want: int, total: int, process: int, epoch: int
) -> int:
    """Hold up to `want` of the channel's `total` sessions on this node; how many are held now.

    Takes free ones and gives back what is above `want`; asked again and again, so that what a
    dead process held is taken up. 0 when our own lease is over. `pool` is the process's own.
    Raises StoreUnavailable, and LeaseLost when the process has a newer owner.
    """
    async with acquire(pool) as conn, conn.transaction():
        await conn.execute(
            "SELECT pg_advisory_xact_lock($1, hashtext($2))", _SESSIONS_LOCK, f"{node} {channel}"
        )
        await must_own(conn, process)
        if not await conn.fetchval(
            "SELECT lease_until > clock_timestamp() FROM processes WHERE process = $1", process
        ):
            want = 0
        await conn.execute(
            "DELETE FROM channel_sessions WHERE node = $1 AND channel = $2 AND process = $3"
            " AND slot NOT IN (SELECT slot FROM channel_sessions"
            "  WHERE node = $1 AND channel = $2 AND process = $3 AND epoch = $4 AND slot < $5"
            "  ORDER BY slot LIMIT $6)",
            node,
            channel,
            process,
            epoch,
            total,
            want,
        )
        held = await conn.fetchval(
            "SELECT count(*) FROM channel_sessions"
            " WHERE node = $1 AND channel = $2 AND process = $3",
            node,
            channel,
            process,
        )
        if held >= want:
            return int(held)
        taken = await conn.fetch(
            "INSERT INTO channel_sessions (node, channel, slot, process, epoch)"
            " SELECT $1, $2, slot, $4::smallint, $5::int"
            f" FROM ({_FREE_SLOTS} ORDER BY slot LIMIT $6) free"
            " ON CONFLICT (node, channel, slot)"
            " DO UPDATE SET process = excluded.process, epoch = excluded.epoch RETURNING slot",
            node,
            channel,
            total,
            process,
            epoch,
            want - held,
        )
        return int(held) + len(taken)


async def held_sessions(pool: Pool, node: str) -> dict[int, dict[int, int]]:
    """Who holds how many sessions of a node's channels: by channel and process, the living only.

    Raises StoreUnavailable.
    """
    async with acquire(pool) as conn:
        rows = await conn.fetch(
            "SELECT s.channel, process, count(*) AS held FROM channel_sessions s"
            " JOIN processes p USING (process) WHERE s.node = $1 AND p.epoch = s.epoch"
            " AND p.lease_until > clock_timestamp() GROUP BY s.channel, process",
            node,
        )
    held: dict[int, dict[int, int]] = {}
    for row in rows:
        held.setdefault(row["channel"], {})[row["process"]] = row["held"]
    return held


async def let_sessions_go(pool: Pool, process: int, channel: int | None = None) -> None:
    """Give back all sessions of a channel, or of all channels; raises StoreUnavailable."""
    async with acquire(pool) as conn:
        await conn.execute(
            "DELETE FROM channel_sessions WHERE process = $1 AND ($2::int IS NULL OR channel = $2)",
            process,
            channel,
        )


async def publish_channels(pool: Pool, process: int, rows: Sequence[tuple[int, int, bool]]) -> None:
    """Say which channels this process has: (channel, sessions used, is up), all at once.

    Up with no session used is one that the process has left for its health: to older versions it
    is simply up. What it said before is gone. `pool` is the process's own. Raises
    StoreUnavailable, and LeaseLost when the process has a newer owner.
    """
    channels = [row[0] for row in rows]
    async with acquire(pool) as conn, conn.transaction():
        await must_own(conn, process)
        await conn.execute(
            "DELETE FROM process_channels WHERE process = $1 AND channel <> ALL($2::int[])",
            process,
            channels,
        )
        await conn.execute(
            "INSERT INTO process_channels (process, channel, sessions, is_up, at)"
            " SELECT $1::smallint, n.*, clock_timestamp()"
            " FROM unnest($2::int[], $3::smallint[], $4::bool[]) AS n"
            " ON CONFLICT (process, channel) DO UPDATE"
            " SET sessions = excluded.sessions, is_up = excluded.is_up, at = excluded.at",
            process,
            channels,
            [row[1] for row in rows],
            [row[2] for row in rows],
        )


async def channels_up(pool: Pool) -> list[ChannelUp]:
    """Who has a session of which channel: living processes only. Raises StoreUnavailable."""
    async with acquire(pool) as conn:
        rows = await conn.fetch(
            "SELECT process, p.node, c.channel, c.sessions = 0 FROM process_channels c"
            " JOIN processes p USING (process)"
            " WHERE c.is_up AND p.node IS NOT NULL AND p.lease_until > clock_timestamp()"
            " ORDER BY channel, process"
        )
    return [ChannelUp(*row) for row in rows]
