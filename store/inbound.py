"""Texts from phones: kept once, joined from their segments; read back by store.inbound_read.

    transaction: take keys ─▶ lock joins ─▶ rows, events, suppressions ─▶ COMMIT ─▶ the answers

A delivery that a carrier sends again finds its key taken. A key also tells what became of a COMMIT
whose answer was lost: it stands with our own id, or it does not stand. A long text waits in a row
that is locked by whoever adds a segment, so processes see one another's.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import NamedTuple

import asyncpg

from sms.concatenation import whole
from sms.errors import StoreUnavailable
from sms.ids import id_at
from sms.model import STATE_CODES, EventRow, Inbound, InboundMessage, MessageClass, State
from store.audit import Author
from store.database import AnyConnection, Pool, acquire
from store.seal import COLUMN_BODY, COLUMN_NUMBER, TABLE_INBOUND, Keyring, Sealer
from store.suppressions import SuppressionStore, Wanted, bits_of

PREFIX = "inb"
COLUMNS = (
    "id, tenant, number, body, recipient, channel, segments, missing, parent, suppressed,"
    " received_at"
)
_LOCK_TRIES = 5
NO_KEY = "the data key of an inbound message's day is gone"
# A key with our own id is of a COMMIT whose answer was lost, however long ago: it is held.
_TAKE = (
    "INSERT INTO inbound_keys (key, id, expires_at)"
    " SELECT key, id, clock_timestamp() + make_interval(secs => kept_s)"
    " FROM unnest($1::bytea[], $2::bigint[], $3::float8[]) AS new (key, id, kept_s) ORDER BY key"
    " ON CONFLICT (key) DO UPDATE SET id = excluded.id, expires_at = excluded.expires_at"
    " WHERE inbound_keys.expires_at <= clock_timestamp() AND inbound_keys.id <> excluded.id"
    " RETURNING key"
)
_FORGET = (  # one that somebody is just taking anew is left alone
    "DELETE FROM inbound_keys WHERE key IN (SELECT inbound_keys.key FROM inbound_keys"
    " JOIN unnest($1::bytea[], $2::bigint[]) AS old (key, id) USING (key, id)"
    " FOR UPDATE OF inbound_keys SKIP LOCKED)"
)
_BEGIN_JOINS = (
    "INSERT INTO inbound_joins (key, channel, state, due)"
    " SELECT key, channel, state, clock_timestamp() + make_interval(secs => $4)"
    " FROM unnest($1::bytea[], $2::int[], $3::bytea[]) AS new (key, channel, state) ORDER BY key"
    " ON CONFLICT (key) DO NOTHING"
)
_LOCK_JOINS = (
    "SELECT key, channel, state FROM inbound_joins WHERE key = ANY($1) ORDER BY key FOR UPDATE"
)
_ADD = (
    f"INSERT INTO inbound ({COLUMNS}) SELECT * FROM unnest($1::bigint[], $2::int[], $3::bytea[],"
    " $4::bytea[], $5::text[], $6::int[], $7::smallint[], $8::smallint[], $9::bigint[],"
    " $10::smallint[], $11::timestamptz[])"
)
_ADD_EVENTS = (
    "INSERT INTO events (message_id, sequence, event_id, tenant, path, channel, at, status, copy)"
    " SELECT *, $8::smallint, 0 FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::int[],"
    " $5::smallint[], $6::smallint[], $7::timestamptz[])"
)
# A bounded look into an index of the few partitions since then, for each number.
_RECENT = (
    "SELECT wanted.number_index, found.id FROM unnest($1::bigint[]) AS wanted (number_index)"
    " CROSS JOIN LATERAL (SELECT id FROM messages WHERE number_index = wanted.number_index"
    " AND id >= {low} ORDER BY id DESC LIMIT {most}) found"
)


@dataclass(slots=True)
class Join:
    """A long text of which segments are missing; mutable while its row is locked."""

    key: bytes
    channel: int
    number: str
    to: str
    total: int
    received_at: float = 0.0  # of the newest segment, Unix seconds
    texts: dict[int, str] = field(default_factory=dict)  # by index from 1

    def is_of_another(self, index: int, text: str) -> bool:
        """Whether the segment belongs to a later text under the same reference."""
        return self.texts.get(index, text) != text

    def anew(self) -> Join:
        """The next text under the same reference, empty."""
        return Join(self.key, self.channel, self.number, self.to, self.total)

    def add(self, index: int, text: str, at: float) -> bool:
        """Take a segment of this text; whether all are there now."""
        self.texts[index] = text
        self.received_at = max(self.received_at, at)
        return len(self.texts) == self.total


class Unreadable(NamedTuple):
    """A long text whose row cannot be opened."""

    key: bytes
    error: str  # what went wrong, by its name


class Wish(NamedTuple):
    """An opt-out from a tenant (0 = from everybody) of what stands in the text's `suppressed`."""

    message: InboundMessage
    tenant: int
    shown: str  # stands for the number in the audit log


class Keys:
    """Keyed hashes: no number and no word of a text stands in a key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of_delivery(self, text: Inbound) -> bytes:
        """What a repeat of this delivery has in common with it.

        All that is in it, also beside a carrier's own id: gateways were seen that give every
        delivery the same one, and then nothing but a repeat may be lost.
        """
        mark = "" if text.mark is None else ",".join(map(str, text.mark))
        return self._hash(
            b"D", text.channel, text.carrier_id, text.number, text.to, mark, text.text
        )

    def of_join(self, text: Inbound) -> bytes:
        """What the segments of one long text have in common."""
        if text.mark is None:
            raise ValueError("a whole text has no segments")
        common = f"{text.mark.form},{text.mark.reference},{text.mark.total}"
        return self._hash(b"J", text.channel, common, text.number, text.to)

    def _hash(self, kind: bytes, channel: int, *fields: str) -> bytes:
        digest = blake2b(digest_size=16, key=self._secret, person=b"inbound " + kind)
        digest.update(channel.to_bytes(4, "big"))
        for text in fields:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(4, "big") + data)
        return digest.digest()


class InboundStore:
    """All SQL about texts from phones; raises StoreUnavailable, and LeaseLost when fenced."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring
        self._suppressions = SuppressionStore(pool, keyring)
        self.keys = Keys(keyring.intake_key)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[InboundTransaction]:
        """What is done inside is done or not as one; durable when it ends without an error.

        After StoreUnavailable it may have been committed all the same: the keys tell.
        """
        async with acquire(self._pool) as conn, conn.transaction():
            yield InboundTransaction(conn, self._keyring, self._suppressions)

    async def due(self, most: int) -> list[Join | Unreadable]:
        """Long texts whose wait is over, the oldest first; not locked."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT key, channel, state FROM inbound_joins WHERE due <= clock_timestamp()"
                " ORDER BY due LIMIT $1",
                most,
            )
        return [self._opened(row) for row in rows]

    def _opened(self, row: asyncpg.Record) -> Join | Unreadable:
        try:
            return _join(self._keyring, row)
        except Exception as error:  # noqa: BLE001 (one bad row must not hide the others)
            return Unreadable(row["key"], type(error).__name__)

    async def waiting(self) -> int:
        """How many long texts wait for segments."""
        async with acquire(self._pool) as conn:
            return int(await conn.fetchval("SELECT count(*) FROM inbound_joins"))

    async def recent(
        self, indexes: Collection[int], since: float, most: int
    ) -> dict[int, list[int]]:
        """The newest messages, at most `most` for each blind index, accepted since (Unix)."""
        found: dict[int, list[int]] = {}
        if indexes:
            sql = _RECENT.format(low=int(max(id_at(since), 0)), most=int(most))
            async with acquire(self._pool) as conn:
                for row in await conn.fetch(sql, list(indexes)):
                    found.setdefault(row["number_index"], []).append(row["id"])
        return found

    async def quarantine(self, text: Inbound, error: str) -> None:
        """Set aside, sealed, what cannot be kept, for a person to look at."""
        plain = json.dumps([text.channel, text.number, text.to, text.text, text.mark]).encode()
        async with acquire(self._pool) as conn:
            await conn.execute(
                "INSERT INTO quarantine (step, error, row) VALUES ('inbound', $1, $2)",
                error,
                self._keyring.seal_secret(plain, "quarantine inbound"),
            )

    async def quarantine_join(self, key: bytes, error: str) -> bool:
        """Set a long text aside as it stands, its row sealed; False when it is gone already."""
        async with acquire(self._pool) as conn, conn.transaction():
            state = await conn.fetchval(
                "DELETE FROM inbound_joins WHERE key = $1 RETURNING state", key
            )
            if state is None:
                return False
            # With its key, for that is the context the state was sealed under.
            plain = json.dumps([key.hex(), state.hex()]).encode()
            await conn.execute(
                "INSERT INTO quarantine (step, error, row) VALUES ('inbound', $1, $2)",
                error,
                self._keyring.seal_secret(plain, "quarantine inbound"),
            )
            return True

    async def forget(self, known: Sequence[tuple[bytes, int]]) -> None:
        """Remove these keys, each so far as it still is of this id."""
        async with acquire(self._pool) as conn:
            await conn.execute(_FORGET, [key for key, _ in known], [id for _, id in known])

    async def forget_keys(self, most: int) -> None:
        """Remove keys whose time is over."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                "DELETE FROM inbound_keys WHERE key IN (SELECT key FROM inbound_keys"
                " WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT $1)",
                most,
            )


class InboundTransaction:
    """What may be done in one commit, in the order of its methods."""

    def __init__(
        self, conn: AnyConnection, keyring: Keyring, suppressions: SuppressionStore
    ) -> None:
        self._conn = conn
        self._keyring = keyring
        self._suppressions = suppressions

    async def take(self, wanted: Mapping[bytes, tuple[int, float]]) -> dict[bytes, int]:
        """Take keys for ids, for so many seconds; returns the ids of those that were not free.

        A key that another process is just taking is waited for.
        """
        keys = sorted(wanted)
        ids = [wanted[key][0] for key in keys]
        kept = [wanted[key][1] for key in keys]
        taken = {row["key"] for row in await self._conn.fetch(_TAKE, keys, ids, kept)}
        rest = [key for key in keys if key not in taken]
        if not rest:
            return {}
        rows = await self._conn.fetch("SELECT key, id FROM inbound_keys WHERE key = ANY($1)", rest)
        return {row["key"]: row["id"] for row in rows}

    async def joins(self, wanted: Iterable[Join], wait_s: float) -> dict[bytes, Join]:
        """The joins under these keys as they stand, locked; those that were not there begin."""
        missing = {join.key: join for join in wanted}
        locked: dict[bytes, Join] = {}
        for _ in range(_LOCK_TRIES):
            if not missing:
                return locked
            keys = sorted(missing)
            channels = [missing[key].channel for key in keys]
            states = [self._sealed(missing[key]) for key in keys]
            await self._conn.execute(_BEGIN_JOINS, keys, channels, states, wait_s)
            locked |= await self.locked(keys)
            # Another process may have completed and deleted it between the two statements.
            missing = {key: missing[key] for key in keys if key not in locked}
        raise StoreUnavailable("long texts are completed faster than they can be locked")

    async def locked(self, keys: Sequence[bytes]) -> dict[bytes, Join]:
        """Those of the joins that stand, locked."""
        rows = await self._conn.fetch(_LOCK_JOINS, keys)
        return {row["key"]: _join(self._keyring, row) for row in rows}

    async def keep_joins(
        self, joins: Sequence[Join], begun: Collection[bytes], wait_s: float
    ) -> None:
        """Write what was added; those with a key in `begun` are other texts and wait anew."""
        if joins:
            await self._conn.executemany(
                "UPDATE inbound_joins SET state = $2, due = CASE WHEN $3"
                " THEN clock_timestamp() + make_interval(secs => $4) ELSE due END WHERE key = $1",
                [(join.key, self._sealed(join), join.key in begun, wait_s) for join in joins],
            )

    async def drop_joins(self, keys: Sequence[bytes]) -> None:
        """They are texts now."""
        if keys:
            await self._conn.execute("DELETE FROM inbound_joins WHERE key = ANY($1)", keys)

    async def suppress(self, wishes: Sequence[Wish]) -> list[frozenset[MessageClass]]:
        """Carry out opt-outs; for each the classes that were not suppressed before.

        It takes locks that all processes share: only `add` comes behind it.
        """
        return await self._suppressions.put_in(
            self._conn,
            [
                (
                    Author("recipient", "opt-out word", id=f"{PREFIX}_{wish.message.id:016x}"),
                    Wanted(wish.tenant, wish.message.number, wish.message.suppressed, wish.shown),
                )
                for wish in wishes
            ],
        )

    async def add(self, messages: Sequence[InboundMessage], rows: Sequence[EventRow]) -> None:
        """Write texts and their events."""
        if messages:
            sealed = [self._number_and_body(message) for message in messages]
            await self._conn.execute(
                _ADD,
                [message.id for message in messages],
                [message.tenant for message in messages],
                [number for number, _ in sealed],
                [body for _, body in sealed],
                [whole(message.to) for message in messages],
                [message.channel for message in messages],
                [message.segments for message in messages],
                [message.missing for message in messages],
                [message.parent for message in messages],
                [bits_of(message.suppressed) for message in messages],
                [_moment(message.received_at) for message in messages],
            )
        if rows:
            await self._conn.execute(
                _ADD_EVENTS,
                [row.message_id for row in rows],
                [row.sequence for row in rows],
                [row.event_id for row in rows],
                [row.tenant for row in rows],
                [row.path for row in rows],
                [row.channel for row in rows],
                [_moment(row.at) for row in rows],
                STATE_CODES[State.ACCEPTED],
            )

    def _number_and_body(self, message: InboundMessage) -> tuple[bytes, bytes]:
        sealer: Sealer | None = self._keyring.sealer_for(message.tenant, message.id)
        if sealer is None:
            raise StoreUnavailable(NO_KEY)
        number, body = (
            sealer.seal(message.tenant, message.id, column, text.encode(), TABLE_INBOUND)
            for column, text in ((COLUMN_NUMBER, message.number), (COLUMN_BODY, message.text))
        )
        return number, body

    def _sealed(self, join: Join) -> bytes:
        plain = json.dumps([join.number, join.to, join.total, join.received_at, join.texts])
        return self._keyring.seal_secret(plain.encode(), _context(join.key))


def _join(keyring: Keyring, row: asyncpg.Record) -> Join:
    plain = keyring.open_secret(row["state"], _context(row["key"]))
    number, to, total, received_at, texts = json.loads(plain)
    by_index = {int(index): text for index, text in texts.items()}
    return Join(row["key"], row["channel"], number, to, total, received_at, by_index)


def _context(key: bytes) -> str:
    return f"inbound_join {key.hex()}"


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
