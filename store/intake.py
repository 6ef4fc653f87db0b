r"""What a request is known by: an Idempotency-Key, a client_ref; each is stored once.

    words ─keyed hash─▶ IntakeKey ─▶ INSERT … ON CONFLICT ─┬─ ours: COPY messages ═COMMIT═▶ 202
                                     in sorted order       └─ taken: replay, 422 or 409

A key is inserted in the transaction of its messages and before them, so a key that can be seen
always points to messages that are durable. Who inserts what another process has inserted and not
committed waits for that commit: the order is the same everywhere, so nobody waits in a circle.
What stands in the table are hashes with a key of their own: no number, no text, no word of a
tenant can be read or guessed from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

import asyncpg

from sms.errors import StoreUnavailable
from sms.model import Message
from store.database import Connection, Pool, acquire
from store.link import LOCK_NOT_AVAILABLE, Aborted, Link

HASH_BYTES = 16
LOOK_KEYS = 1000  # of one look-up
TAKE_TRIES = 3
FORGET_ROWS = 5000  # of one DELETE, some 50 ms
_TENANT_BYTES = 4


class Kind(IntEnum):
    """What a key was made of. Append only: the store holds these numbers."""

    REQUEST = 0
    CLIENT_REF = 1


CLIENT_REF_LIFE_S = 7 * 86_400
_LIFE: dict[int, str] = {Kind.REQUEST: "24 hours", Kind.CLIENT_REF: "7 days"}
Slot = tuple[int, int, bytes]  # kind, tenant, key: the primary key


class IntakeKey(NamedTuple):
    """One key of one accept; `place` is its message's in it."""

    kind: int
    tenant: int
    key: bytes
    digest: bytes = b""
    place: int = 0

    @property
    def slot(self) -> Slot:
        """What is unique of it."""
        return self[:3]


class KeyRow(NamedTuple):
    """A key with the message it brings: a row of the table."""

    kind: int
    tenant: int
    key: bytes
    digest: bytes
    first_id: int

    @property
    def slot(self) -> Slot:
        """What is unique of it."""
        return self[:3]


class Stored(NamedTuple):
    """What is stored under a key."""

    digest: bytes
    first_id: int


class Hasher:
    """Makes keys and digests."""

    def __init__(self, secret: bytes) -> None:
        self._heads = {
            kind: blake2b(digest_size=HASH_BYTES, key=secret, person=kind.name.encode())
            for kind in Kind
        }
        self._body = blake2b(digest_size=HASH_BYTES, key=secret, person=b"BODY")

    def body(self) -> blake2b:
        """An empty hash to feed a request's body to; its digest goes into `request`."""
        return self._body.copy()

    def request(self, tenant: int, path: str, name: bytes, digest: bytes) -> IntakeKey:
        """The key of a POST to `path` whose Idempotency-Key is `name`."""
        key = self._hash(Kind.REQUEST, tenant, b"POST\n%b\n%b" % (path.encode(), name))
        return IntakeKey(Kind.REQUEST, tenant, key, digest)

    def refs(self, messages: Sequence[Message]) -> list[IntakeKey]:
        """The keys of those of the messages that have a client_ref."""
        return [
            self.ref(message.tenant, message.client_ref, place)
            for place, message in enumerate(messages)
            if message.client_ref is not None
        ]

    def ref(self, tenant: int, client_ref: str, place: int = 0) -> IntakeKey:
        """The key of one client_ref."""
        words = client_ref.encode("utf-8", "surrogatepass")
        key = self._hash(Kind.CLIENT_REF, tenant, words)
        return IntakeKey(Kind.CLIENT_REF, tenant, key, place=place)

    def _hash(self, kind: Kind, tenant: int, words: bytes) -> bytes:
        found = self._heads[kind].copy()
        found.update(tenant.to_bytes(_TENANT_BYTES, "big") + words)
        return found.digest()


class Intake:
    """What the door asks of keys; `secret` is `Keyring.intake_key`."""

    def __init__(self, pool: Pool, secret: bytes) -> None:
        self.hasher = Hasher(secret)
        self._pool = pool
        self._wanted: list[tuple[IntakeKey, asyncio.Future[Stored | None]]] = []
        self._looking = asyncio.Lock()

    async def find(self, key: IntakeKey) -> Stored | None:
        """What is committed under a key; raises StoreUnavailable.

        One look-up at a time, for everybody who waits: a tenant over its limit who retries with
        keys costs one statement for many requests.
        """
        future: asyncio.Future[Stored | None] = asyncio.get_running_loop().create_future()
        self._wanted.append((key, future))
        async with self._looking:
            if not future.done():
                wanted, self._wanted = self._wanted[:LOOK_KEYS], self._wanted[LOOK_KEYS:]
                await self._look(wanted)
        return await future

    async def _look(self, wanted: list[tuple[IntakeKey, asyncio.Future[Stored | None]]]) -> None:
        error: Exception = StoreUnavailable("the look-up of a key was broken off")
        found: dict[Slot, Stored] | None = None
        try:
            async with acquire(self._pool) as conn:
                found = await look_up(conn, [key.slot for key, _ in wanted])
        except StoreUnavailable as away:
            error = away
        finally:  # also when the one who asks for all is cancelled
            for key, future in wanted:
                if future.done():
                    continue
                if found is None:
                    future.set_exception(error)
                else:
                    future.set_result(found.get(key.slot))

    async def forget(self, most: int) -> int:
        """Delete up to `most` keys whose time is over; returns how many. Raises StoreUnavailable.

        Several processes may do it at once: nobody waits for what another one deletes.
        """
        gone = 0
        while gone < most:
            async with acquire(self._pool) as conn:
                tag = await conn.execute(FORGET_SQL, FORGET_ROWS)
            deleted = int(tag.rpartition(" ")[2])
            gone += deleted
            if deleted < FORGET_ROWS:
                break
        return gone


LOOK_SQL = (  # LATERAL and LIMIT: a look into the index for each, never a join
    "SELECT wanted.kind, wanted.tenant, wanted.key, found.digest, found.first_id"
    " FROM unnest($1::smallint[], $2::int[], $3::bytea[]) AS wanted (kind, tenant, key)"
    " CROSS JOIN LATERAL (SELECT digest, first_id FROM intake_keys k"
    "  WHERE k.kind = wanted.kind AND k.tenant = wanted.tenant AND k.key = wanted.key"
    "  AND expires_at > now() LIMIT 1) found"
)
FORGET_SQL = (
    "DELETE FROM intake_keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM intake_keys"
    " WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))"
)


async def look_up(
    conn: Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record], slots: Sequence[Slot]
) -> dict[Slot, Stored]:
    """Those of the keys that stand in the table and are not over."""
    rows = await conn.fetch(
        LOOK_SQL,
        [slot[0] for slot in slots],
        [slot[1] for slot in slots],
        [slot[2] for slot in slots],
    )
    return {tuple(row)[:3]: Stored(row["digest"], row["first_id"]) for row in rows}


async def take(link: Link, rows: Iterable[KeyRow], lock_ms: int) -> dict[Slot, Stored]:
    """Begin a transaction and insert the keys; returns those that another request has.

    What is not returned is ours if the transaction commits. A key whose time is over is overtaken.
    Raises what `Link.run` raises; in every case nothing is stored, and where the connection is
    sound the transaction is still open or broken: `ROLLBACK` ends it.

    A key that was taken and then belongs to nobody is neither ours nor another request's: there
    is no verdict, and all are inserted anew. PostgreSQL keeps what an INSERT ran into locked, so
    this is not to be expected.
    """
    ordered = sorted(rows)
    for _ in range(TAKE_TRIES):
        found = await _take_once(link, ordered, lock_ms)
        if found is not None:
            return {
                row.slot: found[row.slot]
                for row in ordered
                if row.slot in found and found[row.slot].first_id != row.first_id
            }
        await link.run("ROLLBACK", None)
    raise Aborted(LOCK_NOT_AVAILABLE, "a key is taken and belongs to nobody")


async def _take_once(
    link: Link, ordered: Sequence[KeyRow], lock_ms: int
) -> dict[Slot, Stored] | None:
    """What stands in the table when not all were ours at once; None = one of them does not."""
    values = ",".join([_value(row) for row in ordered])
    tag = await link.run(
        f"BEGIN;SET LOCAL lock_timeout={int(lock_ms)};"
        "INSERT INTO intake_keys AS k (kind,tenant,key,digest,first_id,expires_at)"
        f" VALUES {values} ON CONFLICT (kind,tenant,key) DO UPDATE SET digest=excluded.digest,"
        " first_id=excluded.first_id, expires_at=excluded.expires_at WHERE k.expires_at<=now()",
        None,
    )
    if tag == f"INSERT 0 {len(ordered)}":
        return {}
    found = await link.read(lambda conn: look_up(conn, [row.slot for row in ordered]))
    return found if len(found) == len(ordered) else None


def release_sql(rows: Iterable[KeyRow]) -> str:
    """Give keys back that this transaction inserted."""
    listed = ",".join([f"({int(row.kind)},{int(row.tenant)},{_bytes(row.key)})" for row in rows])
    return f"DELETE FROM intake_keys WHERE (kind,tenant,key) IN ({listed});" if listed else ""


def _value(row: KeyRow) -> str:
    kind, tenant, key, digest, first_id = row
    return (
        f"({int(kind)},{int(tenant)},{_bytes(key)},{_bytes(digest)},{int(first_id)},"
        f"now()+interval '{_LIFE[kind]}')"
    )


def _bytes(data: bytes) -> str:
    return f"'\\x{data.hex()}'::bytea"
