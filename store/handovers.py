"""Blocks of messages on their way from one process to another (DESIGN decision 7).

    giver:     handover_sql with its event lane ═COMMIT═▶ nobody's memory holds them
    receiver:  take() ═ DELETE handovers + INSERT claims, one COMMIT ═▶ the receiver's
    giver:     take() as well, when the receiver is gone: of two takers one gets the block

Between the two commits the row is the only pointer to the messages; afterwards the claim of the
taker is, so it stays until they have left.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR

import asyncpg

from sms.errors import StoreUnavailable
from sms.ids import process_of
from sms.model import CLASS_CODES, CLASSES_BY_CODE, MessageClass
from store.database import AWAY, AnyConnection, Pool, acquire, must_own
from store.fragments import moment_sql
from store.link import Backoff

_COLUMNS = "id, giver, receiver, channel, class, ids, until"
_END_WAIT_MS = 1000  # below the statement time-out
# What cannot be taken just now must not stand before what can.
_TO_ME = (
    f"SELECT {_COLUMNS} FROM handovers WHERE receiver = $1 AND id <> ALL($3::bigint[])"
    " AND (channel <> ALL($4::int[]) OR class = 0 AND channel <> ALL($5::int[])"
    " OR until <= to_timestamp($6::float8))"
)
_IN_ORDER = " ORDER BY class, id LIMIT $2"
TO_ME_SQL = _TO_ME + _IN_ORDER
_TO_ME_SQL = {
    None: TO_ME_SQL,
    True: f"{_TO_ME} AND channel <> 0{_IN_ORDER}",
    False: f"{_TO_ME} AND channel = 0{_IN_ORDER}",
}
MINE_SQL = f"SELECT {_COLUMNS} FROM handovers WHERE giver = $1 ORDER BY id"
# Locked rows are being taken by somebody else: waiting for the outcome would gain nothing, and
# two takers that wait for one another in different order would deadlock.
_TAKE_SQL = (
    "WITH wanted AS (SELECT * FROM unnest($2::bigint[], $3::bigint[]) AS w (id, block)),"
    " free AS (SELECT h.id FROM handovers h WHERE h.id = ANY($2) FOR UPDATE SKIP LOCKED),"
    " taken AS (DELETE FROM handovers h USING free, wanted w"
    "  WHERE h.id = free.id AND w.id = free.id RETURNING h.id, w.block, h.ids),"
    " held AS (INSERT INTO claims (process, block, ids) SELECT $1::smallint, block, ids FROM taken)"
    " SELECT id, ids FROM taken ORDER BY id"
)
# Those of the blocks that hold some of $3, a sorted list from $1 to $2.
_LOCK_SQL = (
    "SELECT id, ids, tenants FROM handovers WHERE first_id <= $2 AND last_id >= $1 AND ids && $3"
    " ORDER BY id FOR UPDATE"
)
_OTHERS_SQL = (
    "SELECT DISTINCT unnest(ids) AS id FROM ("
    " SELECT ids FROM handovers UNION ALL SELECT ids FROM claims WHERE process <> $1) others"
)


@dataclass(frozen=True, slots=True)
class Handover:
    """One block that is on its way; `channel` 0 = the receiver chooses.

    `until` is when the first of its messages expires, Unix seconds, inf when nobody said.
    """

    id: int
    giver: int
    receiver: int
    channel: int
    message_class: MessageClass
    ids: list[int]
    until: float = math.inf


@dataclass(slots=True)
class Besides:
    """Which blocks a look leaves out; mutable, it grows from one look to the next.

    What begins to expire by `unix` (Unix seconds) is shown whatever its channel.
    """

    unix: float = 0.0
    ids: set[int] = field(default_factory=set)  # these blocks
    full: set[int] = field(default_factory=set)  # of these channels all but otp's
    shut: set[int] = field(default_factory=set)  # and of these otp's too


def handover_sql(  # noqa: PLR0913, PLR0917 - the columns of a row
    handover_id: int,
    giver: int,
    receiver: int,
    channel: int,
    cls: MessageClass,
    ids: Sequence[int],
    tenants: Sequence[int],
    until: float = math.inf,
) -> str:
    """Hand a block over; rides with the writer's event lane. `tenants` stands beside `ids`,
    `until` is when the first of them expires (Unix seconds).

    `handover_id` comes from the writer's own `IdClock`, drawn in the same step that gives this
    text to the lane: the ids must reach the lane in ascending order. A flush whose connection
    broke runs again, perhaps after the receiver took the block; a text whose id is not above
    the writer's newest is therefore taken for a repetition and changes nothing.
    """
    if not ids or len(ids) != len(tenants):
        raise ValueError(f"a handover of {len(ids)} messages with {len(tenants)} tenants")
    return (
        "WITH mark AS (INSERT INTO handover_marks AS m (process,last_id)"
        f" VALUES ({process_of(handover_id)},{int(handover_id)})"
        " ON CONFLICT (process) DO UPDATE SET last_id=excluded.last_id"
        " WHERE m.last_id<excluded.last_id RETURNING last_id)"
        " INSERT INTO handovers"
        " (id,giver,receiver,channel,class,ids,first_id,last_id,tenants,until)"
        f" SELECT last_id,{int(giver)},{int(receiver)},{int(channel)},{CLASS_CODES[cls]},"
        f"'{{{_numbers(ids)}}}'::bigint[],{int(min(ids))},{int(max(ids))},"
        f"'{{{_numbers(tenants)}}}'::int[],{moment_sql(until)}"
        " FROM mark;"
    )


class Handovers:
    """The handovers of one process, over a pool that speaks in its name and epoch.

    Every method raises StoreUnavailable while PostgreSQL is away; those that write raise
    LeaseLost when the process has a newer owner.
    """

    def __init__(self, pool: Pool, process: int) -> None:
        self._pool = pool
        self._process = process

    async def to_me(
        self, limit: int, *, is_chosen: bool | None = None, but: Besides | None = None
    ) -> list[Handover]:
        """Blocks that wait for this process, `but` for some: otp first, then by age.

        `is_chosen`: only those whose giver has chosen a channel, or only the others.
        """
        but = but or Besides()
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                _TO_ME_SQL[is_chosen],
                self._process,
                limit,
                list(but.ids),
                list(but.full),
                list(but.shut),
                but.unix,
            )
        return [_handover(row) for row in rows]

    async def mine(self) -> list[Handover]:
        """Blocks this process gave and nobody took yet, oldest first."""
        async with acquire(self._pool) as conn:
            return [_handover(row) for row in await conn.fetch(MINE_SQL, self._process)]

    async def take(self, blocks: Mapping[int, int]) -> dict[int, list[int]]:
        """Take handovers: handover id to a reserved block of claims; gives the ids of those won.

        Receiver and giver call the same; what another one was faster with is absent. The claims
        are committed when this returns. When the connection breaks it asks until it knows, as
        long as PostgreSQL is away: StoreUnavailable means that certainly nothing was taken.
        """
        if not blocks:
            return {}
        wanted = sorted(blocks)
        numbers = [blocks[handover_id] for handover_id in wanted]
        pid, rows = 0, None
        try:
            async with acquire(self._pool) as conn:
                pid = conn.get_server_pid()
                rows = await conn.fetch(_TAKE_SQL, self._process, wanted, numbers)
        except StoreUnavailable as error:
            if rows is None and not (pid and _is_in_doubt(error.__cause__)):
                raise
        if rows is None:
            return await self._what_was_taken(pid, dict(zip(numbers, wanted, strict=True)))
        return {row["id"]: list(row["ids"]) for row in rows}

    async def pluck(self, ids: Sequence[int], block: int) -> list[int]:
        """Take single messages out of whatever handovers they are in, into a reserved block.

        For a command about them: whoever gets them first owns them, by this claim, as after
        `take`; the rest of each handover goes on to its receiver. Gives those that were won.
        """
        if not ids:
            return []
        pid, won = 0, None
        try:
            async with acquire(self._pool) as conn:
                pid = conn.get_server_pid()
                won = await self._pluck(conn, sorted(ids), block)
        except StoreUnavailable as error:
            if won is None and not (pid and _is_in_doubt(error.__cause__)):
                raise
        if won is None:
            return (await self._what_was_taken(pid, {block: 0})).get(0, [])
        return won

    async def _pluck(self, conn: AnyConnection, ids: list[int], block: int) -> list[int]:
        wanted, won = set(ids), []
        async with conn.transaction():
            rows = await conn.fetch(_LOCK_SQL, ids[0], ids[-1], ids)
            for row in rows:
                left = [pair for pair in zip(row[1], row[2], strict=True) if pair[0] not in wanted]
                won += [message_id for message_id in row[1] if message_id in wanted]
                if left:
                    await conn.execute(
                        "UPDATE handovers SET ids = $2, tenants = $3 WHERE id = $1",
                        row[0],
                        [message_id for message_id, _ in left],
                        [tenant for _, tenant in left],
                    )
                else:
                    await conn.execute("DELETE FROM handovers WHERE id = $1", row[0])
            if won:
                await conn.execute(
                    "INSERT INTO claims (process, block, ids) VALUES ($1, $2, $3)",
                    self._process,
                    block,
                    won,
                )
        return won

    async def others(self, me: int) -> set[int]:
        """Every message that is on its way or claimed by another process, in one snapshot.

        Recovery of `me` leaves these alone. It must ask before it reads the states of messages:
        what leaves this set later has left a trace there first.
        """
        async with acquire(self._pool) as conn:
            return {row["id"] for row in await conn.fetch(_OTHERS_SQL, me)}

    async def move_receiver(self, old: int, new: int) -> int:
        """What waits for a seized process waits for its taker now; how many blocks that were.

        Whatever channel they were meant for: the taker may have another one.
        """
        async with acquire(self._pool) as conn:
            done = await conn.execute(
                "UPDATE handovers SET receiver = $2, channel = 0 WHERE receiver = $1", old, new
            )
        return _count(done)

    async def move_giver(self, old: int, new: int) -> int:
        """What a seized process gave to others is its taker's to take back; how many blocks.

        What it gave to the taker itself need not come back: it may take any channel.
        """
        async with acquire(self._pool) as conn:
            done = await conn.execute(
                "UPDATE handovers SET giver = CASE WHEN receiver = $2 THEN giver ELSE $2 END,"
                " channel = CASE WHEN receiver = $2 THEN 0 ELSE channel END"
                " WHERE giver = $1 AND (receiver <> $2 OR channel <> 0)",
                old,
                new,
            )
        return _count(done)

    async def move_parked(self, old: int, new: int, limit: int) -> int:
        """Look after up to `limit` parked messages of a seized process; 0 = none are left."""
        async with acquire(self._pool) as conn:
            done = await conn.execute(
                # Scheduled ones (why 0) have an index of their own, and time: they come last.
                "UPDATE parked SET process = $2 WHERE message_id = ANY(ARRAY("
                " (SELECT message_id FROM parked WHERE process = $1 AND why <> 0"
                "  ORDER BY due LIMIT $3)"
                " UNION ALL (SELECT message_id FROM parked WHERE process = $1 AND why = 0"
                "  ORDER BY class, due LIMIT $3) LIMIT $3))"
                " AND process = $1",
                old,
                new,
                limit,
            )
        return _count(done)

    async def move_webhooks(self, old: int, new: int, limit: int) -> int:
        """The same for parked webhooks; dead letters stay, for nobody looks after them."""
        async with acquire(self._pool) as conn:
            done = await conn.execute(
                "UPDATE webhook_parked w SET process = $2 FROM ("
                " SELECT endpoint, event_id FROM webhook_parked"
                " WHERE process = $1 AND due < 'infinity' ORDER BY event_id LIMIT $3) page"
                " WHERE w.endpoint = page.endpoint AND w.event_id = page.event_id"
                " AND w.process = $1",
                old,
                new,
                limit,
            )
        return _count(done)

    # ---- after a lost connection ----

    async def _what_was_taken(self, pid: int, handovers: Mapping[int, int]) -> dict[int, list[int]]:
        """The truth about a take whose answer was lost; `handovers` is by block of claims."""
        backoff = Backoff()
        while True:
            try:
                async with acquire(self._pool) as conn:
                    await _end(conn, pid)
                    return await self._read_claims(conn, handovers)
            except StoreUnavailable:
                await asyncio.sleep(backoff.next_s())

    async def _read_claims(
        self, conn: AnyConnection, handovers: Mapping[int, int]
    ) -> dict[int, list[int]]:
        async with conn.transaction():
            # granted when whatever the old backend still ran has ended (store.link)
            await must_own(conn, self._process, alone=True)
            rows = await conn.fetch(
                "SELECT block, ids FROM claims WHERE process = $1 AND block = ANY($2)",
                self._process,
                list(handovers),
            )
        return {handovers[row["block"]]: list(row["ids"]) for row in rows}


async def _end(conn: AnyConnection, pid: int) -> None:
    """End the backend of a lost statement, unless it serves us again; raises StoreUnavailable."""
    ours = "pid = $1 AND application_name = current_setting('application_name')"
    where = f"FROM pg_stat_activity WHERE {ours} AND pid <> pg_backend_pid()"
    await conn.execute(f"SELECT pg_terminate_backend(pid, {_END_WAIT_MS}) {where}", pid)
    if await conn.fetchval(f"SELECT EXISTS (SELECT {where})", pid):
        raise StoreUnavailable("the backend of a lost handover has not ended yet")


def _is_in_doubt(error: BaseException | None) -> bool:
    """Whether the statement may have committed: the server did not say that it failed."""
    return isinstance(error, AWAY) or not isinstance(error, asyncpg.PostgresError)


def _handover(row: asyncpg.Record) -> Handover:
    return Handover(
        row["id"],
        row["giver"],
        row["receiver"],
        row["channel"],
        CLASSES_BY_CODE[row["class"]],
        list(row["ids"]),
        math.inf if row["until"].year == MAXYEAR else row["until"].timestamp(),  # infinity
    )


def _numbers(values: Iterable[int]) -> str:
    return ",".join(str(int(value)) for value in values)


def _count(status: str) -> int:
    """The number in a command tag such as `UPDATE 12`."""
    return int(status.rsplit(" ", 1)[-1])
