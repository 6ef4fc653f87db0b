"""Reading back: one message, a receipt's message, what a restart must take up again.

Nothing is folded here: the rows come in order and `receipts.state` says what they mean. A read
that knows the id touches one partition; one that does not is batched and names its partitions
newest first (DESIGN decision 3).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple

import asyncpg

from sms.errors import StoreUnavailable
from sms.ids import process_of
from sms.model import (
    CARRIERS,
    CLASSES_BY_CODE,
    ENCODINGS_BY_CODE,
    STATES_BY_CODE,
    Carrier,
    EventRow,
    Message,
    MessageClass,
)
from sms.reasons import CODE_BY_SMALLINT
from store.copying import COUNTRY_SHIFT, EVENT_COLUMNS, ON_UNCERTAIN, texts_of
from store.database import AnyConnection, Pool, acquire
from store.fragments import ASIDE, ParkedWebhook, Why
from store.partitions import day_range, today
from store.seal import COLUMN_OPTIONS, Keyring, Sealer, day_of

# Whose a carrier's id is: message_id, segments, copy.
Owner = tuple[int, tuple[int, ...], int]

_MESSAGE_COLUMNS = (
    "id,tenant,number,body,options,class,encoding,segments,flags,valid_until,created_at,send_at"
)
_HEAD_COLUMNS = "m.id, m.tenant, m.class, m.valid_until, m.flags"
# Paths of receipts.state.Path after whose newest row a message needs nobody who owns it:
# submitted or final. A test holds them together.
RESTING_PATHS = (1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18)
# The due < 'infinity' lets the planner see that the partial index holds all it needs.
DUE_WEBHOOKS_SQL = (
    "SELECT due.* FROM unnest($2::int[]) WITH ORDINALITY AS wanted (endpoint, place)"
    " CROSS JOIN LATERAL (SELECT endpoint, event_id, message_id, sequence, tries, due"
    "  FROM webhook_parked WHERE endpoint = wanted.endpoint AND process = $1"
    "  AND due <= $3 AND due < 'infinity' ORDER BY due LIMIT $4) due"
    " ORDER BY wanted.place, due.due"
)
WITH_DUE_WEBHOOKS_SQL = (  # LATERAL and LIMIT: a look into the index for each, never a join
    "SELECT wanted.endpoint FROM unnest($2::int[]) AS wanted (endpoint)"
    " CROSS JOIN LATERAL (SELECT FROM webhook_parked WHERE process = $1"
    "  AND endpoint = wanted.endpoint AND due <= $3 AND due < 'infinity' LIMIT 1) due"
)
OLDEST_WEBHOOK_SQL = (
    "SELECT event_id FROM webhook_parked WHERE process = $1"
    " AND due < 'infinity' ORDER BY event_id LIMIT 1"
)
DUE_PARKED_SQL = (
    "SELECT message_id, due, why, class, tenant FROM parked"
    " WHERE process = $1 AND due <= $2 AND why <> 0 ORDER BY due LIMIT $3"
)
PARKED_HEADS_SQL = (
    "SELECT message_id FROM parked WHERE process = $1 AND why = $2 AND why <> 0 AND message_id > $3"
    " ORDER BY message_id LIMIT $4"
)
UNCERTAIN_SQL = (
    "SELECT class, count(*) AS n, (array_agg(message_id ORDER BY message_id))[1:$3] AS first"
    " FROM parked WHERE process = $1 AND why = $2 AND why <> 0 GROUP BY class"
)
# Whose they are is looked at afterwards: the planner takes such a filter for so rare that it
# would sort all that follows for each page.
UNFINISHED_SQL = "SELECT id FROM messages WHERE id > $1 ORDER BY id LIMIT $2"
_CONSERVATION_SQL = (
    "SELECT tenant, sum(open)::bigint, sum(parked)::bigint, sum(handed)::bigint,"
    " sum(held)::bigint FROM ("
    " SELECT tenant, sum(accepted - submitted - final) AS open, 0 AS parked, 0 AS handed,"
    "  0 AS held FROM deltas GROUP BY tenant"
    " UNION ALL SELECT tenant, 0, count(*), 0, 0 FROM parked GROUP BY tenant"
    " UNION ALL SELECT tenant, 0, 0, count(*), 0 FROM handovers, unnest(tenants) AS tenant"
    "  GROUP BY tenant"
    " UNION ALL SELECT tenant, 0, 0, 0, sum(held) FROM holdings WHERE tenant <> 0 GROUP BY tenant"
    ") counts GROUP BY tenant"
)
_NO_KEY = "the data key of a message is gone: its day was destroyed"
# A message is scheduled at most 35 days ahead, valid for 3 more, its receipt awaited for 3 (after
# that it is `unknown`), and a report that nobody knows is looked up for 3: beyond a day more for
# the clocks it is nobody's. The other 180 partitions that may stand are never asked.
OLDEST_DAYS = 45
# Partitions a receipt is looked for in: first, next, then a week, then all that it may be in. Four
# hold what is three days old.
LOOK_DAYS = (2, 4, 7, OLDEST_DAYS)
_BY_MESSAGE = itemgetter("message_id")


@dataclass(slots=True)
class Stored:
    """One message as stored: `message` holds what was accepted, its live fields are not folded."""

    message: Message
    rows: list[EventRow] = field(default_factory=list)  # by sequence


@dataclass(frozen=True, slots=True)
class Parked:
    """One row of `parked`; `due` in Unix seconds."""

    message_id: int
    due: float
    why: Why
    message_class: MessageClass
    tenant: int


class Head(NamedTuple):
    """What a lane needs to know of a message whose text is not read yet."""

    id: int
    tenant: int
    message_class: MessageClass
    valid_until: float  # Unix seconds
    carrier: Carrier
    country: int
    has_rows: bool  # False: certainly no event row, its state is `accepted`


class Conserved(NamedTuple):
    """One tenant's messages that are neither submitted nor final, counted from both sides."""

    open: int  # accepted less submitted less final, as the flushes counted
    parked: int
    handed: int  # on their way between processes
    held: int  # what the owners say they hold beside


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: its messages are first_id … last_id without a gap."""

    first_id: int
    last_id: int
    tenant: int
    state: int
    at: float
    verdicts: bytes | None


class Bodies:
    """Rows of `messages`, still sealed."""

    def __init__(self, rows: Mapping[int, asyncpg.Record], keyring: Keyring) -> None:
        self._rows = rows
        self._keyring = keyring

    def message(self, message_id: int) -> Message | None:
        """The message as it was accepted; None when there is none.

        Raises StoreUnavailable when the data key of its day is gone.
        """
        row = self._rows.get(message_id)
        if row is None:
            return None
        sealer = self._keyring.sealer_for(row["tenant"], message_id)
        if sealer is None:
            raise StoreUnavailable(_NO_KEY)
        return _message(row, sealer)


class Reader:
    """All reads; every method raises StoreUnavailable when PostgreSQL is away."""

    def __init__(
        self, pool: Pool, keyring: Keyring, seen: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        """`seen` is told the highest event id of what is read, before it is given."""
        self._pool = pool
        self._keyring = keyring
        self._seen = seen

    async def message(self, message_id: int, tenant: int | None = None) -> Stored | None:
        """One message with its rows; None when absent or another tenant's."""
        stored = (await self.messages([message_id])).get(message_id)
        if stored is None or tenant not in (None, stored.message.tenant):
            return None
        return stored

    async def readable(self, ids: Sequence[int]) -> dict[int, Stored]:
        """The same as `messages`, without those whose day's key was destroyed before its rows."""
        return await self.messages(ids, is_key_needed=False)

    async def messages(
        self, ids: Sequence[int], *, is_key_needed: bool = True
    ) -> dict[int, Stored]:
        """Those of the messages that exist, with their rows, in order of id."""
        if not ids:
            return {}
        wanted = sorted(set(ids))
        async with acquire(self._pool) as conn:
            rows = []
            events: list[asyncpg.Record] = []
            for some in _by_day(wanted):
                rows += await conn.fetch(
                    f"SELECT {_MESSAGE_COLUMNS} FROM messages"
                    f" WHERE {_within('id', some)} AND id = ANY($1) ORDER BY id",
                    some,
                )
                events += await conn.fetch(
                    f"SELECT {EVENT_COLUMNS} FROM events"
                    f" WHERE {_within('message_id', some)} AND message_id = ANY($1)"
                    " ORDER BY message_id, sequence",
                    some,
                )
            stored = await self._restore(conn, rows, events, is_key_needed=is_key_needed)
        if self._seen is not None and events:
            await self._seen(max(row["event_id"] for row in events))
        return stored

    async def by_carrier_ids(
        self, pairs: Sequence[tuple[int, str]], *, now: float
    ) -> dict[tuple[int, str], Owner]:
        """Find the messages behind (channel, carrier id): (message_id, segments, copy).

        Asked in the two newest partitions, then in the next two, the rest of a week, then in the
        rest of `OLDEST_DAYS`: a receipt may come three days later. A carrier id used twice means
        the newer message; one for several segments of a message means all of them.
        """
        found: dict[tuple[int, str], Owner] = {}
        wanted = {pair for pair in pairs if "\0" not in pair[1]}  # no text column holds a NUL
        lows = [day_range(max(today(now) - days + 1, 0))[0] for days in LOOK_DAYS]
        steps = zip(lows, [None, *lows[:-1]], strict=True)
        async with acquire(self._pool) as conn:
            for low, high in steps:
                if wanted and (high is None or high > low):
                    sql = carrier_ids_sql(low, high)
                    channels = list({channel for channel, _ in wanted})
                    carrier_ids = list({carrier_id for _, carrier_id in wanted})
                    rows = await conn.fetch(sql, channels, carrier_ids)
                    for row in sorted(rows, key=_BY_MESSAGE, reverse=True):
                        key = (row["channel"], row["carrier_id"])
                        if key in wanted:  # newest first; two channels may share an id
                            found[key] = _owner(found.get(key), row)
                    wanted -= found.keys()
        return found

    async def unfinished(
        self, process: int, low_water: int, *, page: int = 1000
    ) -> AsyncIterator[list[Stored]]:
        """What the former owner of this process number had not brought to rest, by id.

        Its messages from `low_water` on that are neither submitted, final nor parked, in pages
        of at most `page` messages. It costs what all processes accepted since the mark, not what
        is stored.
        """
        async for wanted in self._unfinished_ids(process, low_water, page):
            yield list((await self.messages(wanted)).values())

    async def unfinished_heads(
        self, process: int, low_water: int, *, page: int = 5000
    ) -> AsyncIterator[list[Head]]:
        """The same without text, number and rows: nothing is opened or folded."""
        async for conn, ids in self._accepted_ids(process, low_water, page):
            heads: list[Head] = []
            for some in _by_day(ids):
                columns = f"{_HEAD_COLUMNS}, newest.path IS NOT NULL"
                free = f"SELECT id FROM ({_free_sql(some, _UNPARKED)}) free"
                source = (
                    f"(SELECT * FROM messages WHERE {_within('id', some)}"
                    f" AND id = ANY(ARRAY({free}))) m"
                )
                sql = _open_sql(some, columns, source)
                rows = await conn.fetch(sql, some, list(RESTING_PATHS), process)
                heads += [_head(row) for row in rows]
            if heads:
                yield heads

    async def _unfinished_ids(
        self, process: int, low_water: int, page: int
    ) -> AsyncIterator[list[int]]:
        async for conn, ids in self._accepted_ids(process, low_water, page):
            wanted = await _open_of(conn, process, ids, _UNPARKED)
            if wanted:
                yield wanted

    async def _accepted_ids(
        self, process: int, low_water: int, page: int
    ) -> AsyncIterator[tuple[AnyConnection, list[int]]]:
        """What the process accepted since its mark, in pages, each with a connection to go on."""
        after = low_water - 1
        while True:
            async with acquire(self._pool) as conn:
                rows = await conn.fetch(UNFINISHED_SQL, after, page)
                if not rows:
                    return
                after = rows[-1]["id"]
                ours = [row["id"] for row in rows if process_of(row["id"]) == process]
                if ours:
                    yield conn, ours

    async def _heads(self, ids: Sequence[int]) -> list[Head]:
        heads: list[Head] = []
        async with acquire(self._pool) as conn:
            for some in _by_day(ids):
                heads += [
                    _head(row)
                    for row in await conn.fetch(
                        f"SELECT {_HEAD_COLUMNS}, EXISTS (SELECT FROM events"
                        f" WHERE {_within('message_id', some)} AND message_id = m.id)"
                        f" FROM messages m WHERE {_within('id', some)} AND id = ANY($1)"
                        " ORDER BY id",
                        some,
                    )
                ]
        return heads

    async def still_mine(self, process: int, ids: Sequence[int]) -> list[int]:
        """Those that are not at rest and that no other process is to send, in one snapshot.

        For messages found by this process's claims, whatever their ids: what another process
        claims or looks after in `parked`, and what is on its way in `handovers`, is left out. So
        is what stands aside until its hour or its batch, whoever looks after it.
        """
        mine: list[int] = []
        async with acquire(self._pool) as conn:
            for some in _by_day(sorted(set(ids))):
                mine += await _open_of(conn, process, some, _PARKED_HERE)
        return mine

    async def heads(self, ids: Sequence[int]) -> list[Head]:
        """What a lane must know of these messages, in order of id."""
        return await self._heads(sorted(ids)) if ids else []

    async def bodies(self, ids: Sequence[int]) -> Bodies:
        """Messages that are known to have no event rows, to be opened one by one.

        Half the cost of `messages`: their events are not asked for, and the caller decides how
        many it opens in one turn of the loop (5 µs each).
        """
        rows: dict[int, asyncpg.Record] = {}
        async with acquire(self._pool) as conn:
            for some in _by_day(sorted(ids)):
                day = day_of(some[0])
                if self._keyring.sealer(0, day) is None:  # the keys of a day come together
                    await self._keyring.load_days(conn, [day])
                for row in await conn.fetch(
                    f"SELECT {_MESSAGE_COLUMNS} FROM messages"
                    f" WHERE {_within('id', some)} AND id = ANY($1)",
                    some,
                ):
                    rows[row["id"]] = row
        return Bodies(rows, self._keyring)

    async def claims(self, process: int) -> dict[int, list[int]]:
        """The blocks that stand in the table, by number."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT block, ids FROM claims WHERE process = $1 ORDER BY block", process
            )
        return {row["block"]: list(row["ids"]) for row in rows}

    async def events_after(self, process: int, cursor: int, limit: int) -> list[EventRow]:
        """The event rows this process wrote after its cursor, by event_id."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                f"SELECT {EVENT_COLUMNS} FROM events WHERE event_id > $1"
                " AND (event_id >> 12) & 1023 = $2 ORDER BY event_id LIMIT $3",
                cursor,
                process,
                limit,
            )
        return [_event(row) for row in rows]

    async def due_parked(self, process: int, now: float, limit: int) -> list[Parked]:
        """Parked messages this process looks after and whose time has come, oldest due first.

        Scheduled ones (why 0) are not among them: a million of those may be due at once, and are
        taken up by `store.scheduled`.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(DUE_PARKED_SQL, process, moment(now), limit)
        return [
            Parked(
                row["message_id"],
                row["due"].timestamp(),
                Why(row["why"]),
                CLASSES_BY_CODE[row["class"]],
                row["tenant"],
            )
            for row in rows
        ]

    async def parked_heads(self, process: int, why: Why, after_id: int, limit: int) -> list[Head]:
        """Messages this process looks after that are parked for this reason, by id, a page.

        `after_id` is the last id of the page before, 0 at first; an empty page is the end.
        """
        while True:
            async with acquire(self._pool) as conn:
                rows = await conn.fetch(PARKED_HEADS_SQL, process, why, after_id, limit)
            if not rows:
                return []
            ids = [row["message_id"] for row in rows]
            heads = await self._heads(ids)
            if heads:
                return heads
            after_id = ids[-1]  # their day is gone

    async def uncertain(self, process: int, most: int) -> dict[MessageClass, tuple[int, list[int]]]:
        """How many uncertain messages this process looks after, and the first `most` ids of them.

        By class; what is in its memory and what is not.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(UNCERTAIN_SQL, process, Why.UNCERTAIN, most)
        return {CLASSES_BY_CODE[row["class"]]: (row["n"], row["first"]) for row in rows}

    async def parked_counts(self) -> dict[tuple[int, int], int]:
        """How many messages are parked, by (tenant, Why)."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT tenant, why, count(*) AS n FROM parked GROUP BY tenant, why"
            )
        return {(row["tenant"], row["why"]): row["n"] for row in rows}

    async def due_webhooks(
        self, process: int, now: float, limit: int, *, endpoints: Sequence[int]
    ) -> list[ParkedWebhook]:
        """Parked webhook events of this process whose next try is due, by endpoint, then by due.

        At most `limit` for each of these endpoints: what one of them lets pile up hides nothing
        of another's. Dead letters (due = inf) are never among them.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                DUE_WEBHOOKS_SQL, process, list(dict.fromkeys(endpoints)), moment(now), limit
            )
        return [
            ParkedWebhook(
                row["endpoint"],
                row["event_id"],
                row["message_id"],
                row["sequence"],
                row["tries"],
                row["due"].timestamp(),
            )
            for row in rows
        ]

    async def endpoints_with_due(
        self, process: int, now: float, endpoints: Sequence[int]
    ) -> set[int]:
        """Those of the endpoints that `due_webhooks` would find something for."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(WITH_DUE_WEBHOOKS_SQL, process, list(endpoints), moment(now))
        return {row["endpoint"] for row in rows}

    async def oldest_webhook(self, process: int) -> int | None:
        """The lowest event id of this process that is parked and will be tried again."""
        async with acquire(self._pool) as conn:
            oldest: int | None = await conn.fetchval(OLDEST_WEBHOOK_SQL, process)
        return oldest

    async def batch(self, first_id: int, tenant: int) -> Batch | None:
        """One batch by its first message; None when absent or another tenant's."""
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(
                "SELECT first_id, last_id, tenant, state, at, verdicts FROM batches"
                " WHERE first_id = $1 AND tenant = $2",
                first_id,
                tenant,
            )
        if row is None:
            return None
        return Batch(
            row["first_id"],
            row["last_id"],
            row["tenant"],
            row["state"],
            row["at"].timestamp(),
            row["verdicts"],
        )

    async def segments(self, first_id: int, last_id: int) -> list[int]:
        """How many segments each message of a batch takes, in order of id: nothing is opened."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT segments FROM messages"
                f" WHERE {_within('id', (first_id, last_id))} ORDER BY id"
            )
        return [row["segments"] for row in rows]

    async def deltas(self) -> dict[int, tuple[int, int, int]]:
        """Per tenant: accepted, now submitted, final, as the flushes counted them."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT tenant, sum(accepted)::bigint, sum(submitted)::bigint, sum(final)::bigint"
                " FROM deltas GROUP BY tenant"
            )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    async def fold_deltas(self, process: int) -> None:
        """Make one row a tenant of what this process's flushes left; for once a minute or so."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                "WITH old AS (DELETE FROM deltas WHERE process = $1 RETURNING *)"
                " INSERT INTO deltas (process, tenant, accepted, submitted, final)"
                " SELECT process, tenant, sum(accepted), sum(submitted), sum(final)"
                " FROM old GROUP BY process, tenant",
                process,
            )

    async def conservation(self) -> dict[int, Conserved]:
        """Per tenant: what is open, and who accounts for it, in one snapshot (RELIABILITY 3)."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(_CONSERVATION_SQL)
        return {row[0]: Conserved(*row[1:]) for row in rows}

    async def recount(self) -> dict[int, int]:
        """Messages stored per tenant, counted one by one: for tests and the nightly check."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch("SELECT tenant, count(*) AS n FROM messages GROUP BY tenant")
        return {row["tenant"]: row["n"] for row in rows}

    async def ping(self) -> None:
        """Raise StoreUnavailable unless PostgreSQL answers and takes writes."""
        async with acquire(self._pool) as conn:
            if await conn.fetchval("SELECT pg_is_in_recovery()"):
                raise StoreUnavailable("PostgreSQL is a standby: it takes no writes")

    # ---- restoring ----

    async def _restore(
        self,
        conn: AnyConnection,
        rows: Iterable[asyncpg.Record],
        events: Iterable[asyncpg.Record],
        *,
        is_key_needed: bool,
    ) -> dict[int, Stored]:
        stored: dict[int, Stored] = {}
        for row in rows:
            sealer = await self._sealer(conn, row)
            if sealer is not None:
                stored[row["id"]] = Stored(_message(row, sealer))
            elif is_key_needed:
                raise StoreUnavailable(_NO_KEY)
        for event in events:
            if (owner := stored.get(event["message_id"])) is not None:
                owner.rows.append(_event(event))
        return stored

    async def _sealer(self, conn: AnyConnection, row: asyncpg.Record) -> Sealer | None:
        sealer = self._keyring.sealer_for(row["tenant"], row["id"])
        if sealer is None:
            await self._keyring.load_days(conn, [day_of(row["id"])])
            sealer = self._keyring.sealer_for(row["tenant"], row["id"])
        return sealer


def _owner(known: Owner | None, row: asyncpg.Record) -> Owner:
    """Whose id it is: the first row says, and others of that message add their segments."""
    segment = row["segment"] or 0
    if known is None:
        return row["message_id"], (segment,), row["copy"]
    message_id, segments, copy = known
    if (message_id, copy) != (row["message_id"], row["copy"]) or segment in segments:
        return known
    return message_id, tuple(sorted((*segments, segment))), copy


def carrier_ids_sql(low: int, high: int | None) -> str:
    """The look-up of one step: partitions by literal bounds, so that planning prunes them.

    In no order: asked for one, the planner may walk a small partition by its key instead.
    """
    below = "" if high is None else f" AND message_id < {high}"
    return (
        "SELECT message_id, segment, copy, channel, carrier_id FROM events"
        f" WHERE message_id >= {low}{below}"
        " AND channel = ANY($1) AND carrier_id = ANY($2)"
    )


# Which parked rows leave a message out: any, or those that another process looks after, and what
# was put off or held: a claim that still lists it is left over from before.
_UNPARKED = ""
_PARKED_HERE = f" AND (process <> $3 OR why IN ({','.join(str(int(why)) for why in ASIDE)}))"


async def _open_of(conn: AnyConnection, process: int, ids: Sequence[int], parked: str) -> list[int]:
    """The ids (ascending) that are not at rest and that nobody but this process is to send.

    One statement, so one snapshot: what moves from owner to owner meanwhile stands in exactly one
    of these tables at every moment, and looking at them one by one could miss it in each.
    """
    sql = open_of_sql(ids, parked)
    rows = await conn.fetch(sql, list(ids), list(RESTING_PATHS), process)
    return [row["id"] for row in rows]


def open_of_sql(ids: Sequence[int], parked: str) -> str:
    """Its statement for these sorted ids; $1 the ids, $2 the paths at rest, $3 the process."""
    return _open_sql(ids, "m.id", f"({_free_sql(ids, parked)}) m")


def _free_sql(ids: Sequence[int], parked: str) -> str:
    """Those of $1 that stand in no list of somebody else's, $3 being the process that asks.

    EXCEPT and not NOT IN or an anti-join: it hashes the page and streams the other side past it
    (or sorts both), whatever the planner believes about the tables. A NOT IN whose other side
    looks larger than hash_mem, and a nested loop planned for a table that was empty when it was
    analysed, read all of it once for every message: a takeover fills `handovers` like that.
    """
    first, last = int(ids[0]), int(ids[-1])
    return (
        "SELECT unnest($1::bigint[]) AS id EXCEPT ("
        f"SELECT message_id FROM parked WHERE {_within('message_id', ids)}{parked}"
        " UNION ALL SELECT handed.id FROM handovers, unnest(ids) AS handed (id)"
        f"  WHERE first_id <= {last} AND last_id >= {first} AND {_within('handed.id', ids)}"
        " UNION ALL SELECT claimed.id FROM claims, unnest(ids) AS claimed (id)"
        f"  WHERE process <> $3 AND {_within('claimed.id', ids)})"
    )


def _open_sql(ids: Sequence[int], columns: str, source: str) -> str:
    """What of `source`, which gives free ids as `m`, is not at rest; $2 are the paths at rest.

    `newest` is the newest row that moved the message, else any row, NULL without rows.
    """
    return (
        f"SELECT {columns} FROM {source}"
        " LEFT JOIN (SELECT DISTINCT ON (message_id) message_id, path FROM events"
        f"  WHERE {_within('message_id', ids)} ORDER BY message_id, path = 0, sequence DESC) newest"
        " ON newest.message_id = m.id"
        " WHERE newest.path IS NULL OR newest.path <> ALL($2)"
        " ORDER BY m.id"
    )


def _within(column: str, ids: Sequence[int]) -> str:
    """A literal range round sorted ids: it prunes partitions when the plan is made."""
    return f"{column} >= {int(ids[0])} AND {column} <= {int(ids[-1])}"


def _by_day(ids: Iterable[int]) -> Iterable[list[int]]:
    groups: dict[int, list[int]] = {}
    for message_id in ids:
        groups.setdefault(day_of(message_id), []).append(message_id)
    return groups.values()


def moment(unix_s: float) -> datetime:
    """A Unix time as PostgreSQL's parameters want it."""
    return datetime.fromtimestamp(unix_s, UTC)


def _head(row: asyncpg.Record) -> Head:
    message_id, tenant, message_class, valid_until, flags, has_rows = row
    return Head(
        message_id,
        tenant,
        CLASSES_BY_CODE[message_class],
        valid_until.timestamp(),
        CARRIERS[flags & 7],
        flags >> COUNTRY_SHIFT,
        has_rows,
    )


def _message(row: asyncpg.Record, sealer: Sealer) -> Message:
    """One row of `_MESSAGE_COLUMNS`; by place and not by name, it is read back by the thousand."""
    message_id, tenant, number, body, options, cls, encoding, segments, flags, until, at, go = row
    sender_ext = client_ref = metadata = None
    if options is not None:
        plain = sealer.open(tenant, message_id, COLUMN_OPTIONS, options)
        sender_ext, client_ref, metadata = json.loads(plain)
    number, body = sealer.open_message(tenant, message_id, number, body)
    return Message(
        message_id,
        tenant,
        CLASSES_BY_CODE[cls],
        number.decode(),
        CARRIERS[flags & 7],
        flags >> COUNTRY_SHIFT,
        ENCODINGS_BY_CODE[encoding],
        texts_of(body, segments),
        until.timestamp(),
        at.timestamp(),
        sender_ext,
        client_ref,
        metadata,
        ON_UNCERTAIN[flags >> 3 & 3],
        None if go is None else go.timestamp(),
    )


def _event(row: asyncpg.Record) -> EventRow:
    reason = row["reason"]
    return EventRow(
        message_id=row["message_id"],
        sequence=row["sequence"],
        event_id=row["event_id"],
        tenant=row["tenant"],
        path=row["path"],
        status=STATES_BY_CODE[row["status"]],
        at=row["at"].timestamp(),
        segment=row["segment"],
        copy=row["copy"],
        channel=row["channel"],
        carrier_id=row["carrier_id"],
        code=row["code"],
        reason=None if reason is None else CODE_BY_SMALLINT.get(reason, "internal.error"),
        times=tuple(row["times"] or ()),
    )
