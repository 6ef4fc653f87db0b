"""Where the configuration is kept: whole objects, versioned, secrets sealed.

An object that a file no longer names stays: removing is a deliberate act. Workers ask for
`version()` each second; one number changes when anything does, and `load` then reads what
changed since.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence

import asyncpg

from sms.config import Snapshot
from sms.errors import GatewayError, StoreUnavailable
from store.audit import AuditLog, Author, Entry, append
from store.canaries import CanaryStore
from store.database import AnyConnection, Pool, acquire, committing
from store.objects import (
    Change,
    Removal,
    StoredObject,
    Upsert,
    open_row,
)
from store.seal import Keyring
from store.snapshot import Loaded

_READ = (
    "SELECT kind, id, name, version, spec, secrets, created_at, deleted_at FROM objects"
    " WHERE {} ORDER BY kind, id"
)
ObjectKey = tuple[str, str]  # kind, name
TURN_S = 2.0  # as for a connection


class ConfigMovedError(GatewayError):
    """Somebody else changed the configuration since it was read: read it again."""


class KeyReusedError(GatewayError):
    """An API key has an id that was given before: it was revoked, or belongs to another."""


class ConfigStore:
    """The configuration tables; every method raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring
        self.audit = AuditLog(pool, keyring.audit_key)
        self.canaries = CanaryStore(pool)
        self._loading = asyncio.Lock()  # a load that began later must not end earlier
        self._loaded = Loaded()
        self._changing = asyncio.Lock()

    async def version(self) -> int:
        """The number that grows with every change."""
        async with acquire(self._pool) as conn:
            return int(await conn.fetchval("SELECT version FROM config_version"))

    async def load(self) -> Snapshot:
        """The whole configuration, one consistent version of it.

        Only what changed since the last load is read. Raises ConfigError when an object names
        another that does not exist, or when the secrets were sealed with another master key.
        """
        async with self._loading:
            known = self._loaded
            async with (
                acquire(self._pool) as conn,
                conn.transaction(isolation="repeatable_read", readonly=True),
            ):
                version = int(await conn.fetchval("SELECT version FROM config_version"))
                if version < known.version:  # another database stands behind the address
                    known = Loaded()
                what = "version > $1 AND (deleted_at IS NULL OR $1 > 0)"
                rows = await conn.fetch(_READ.format(what), known.version)
            self._loaded = await known.with_rows(version, rows, self._open)
            return self._loaded.snapshot()

    def _open(self, row: asyncpg.Record) -> StoredObject:
        return open_row(row, self._keyring)

    async def current(self) -> dict[ObjectKey, StoredObject]:
        """Every object that is not disabled, by (kind, name)."""
        return (await self.standing())[1]

    async def standing(self) -> tuple[int, dict[ObjectKey, StoredObject]]:
        """The version, and every object in force at it by (kind, name)."""
        async with (
            acquire(self._pool) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            version = int(await conn.fetchval("SELECT version FROM config_version"))
            rows = await conn.fetch(_READ.format("deleted_at IS NULL"))
        return version, {(row["kind"], row["name"]): open_row(row, self._keyring) for row in rows}

    async def revoked_key_ids(self) -> frozenset[int]:
        """The ids of API keys that are no longer in force; none of them may come back."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT (spec ->> 'key_id')::bigint AS id FROM objects"
                " WHERE kind = 'api_key' AND deleted_at IS NOT NULL"
            )
        return frozenset(row["id"] for row in rows)

    async def page(
        self, kind: str, limit: int, below: int | None = None, owner: str | None = None
    ) -> list[StoredObject]:
        """Objects in force, the newest first, with ids under `below`; keys of one tenant.

        `owner`: the tenant's name, or "" for what belongs to the platform; None = all.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT kind, id, name, version, spec, secrets, created_at FROM objects"
                " WHERE kind = $1 AND deleted_at IS NULL AND ($2::int IS NULL OR id < $2)"
                " AND ($3::text IS NULL OR coalesce(spec ->> 'tenant', '') = $3)"
                " ORDER BY id DESC LIMIT $4",
                kind,
                below,
                owner,
                limit,
            )
        return [open_row(row, self._keyring) for row in rows]

    async def ids(self, kind: str, names: Collection[str]) -> dict[str, int]:
        """The ids of objects in force by their names; of those that there are."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT name, id FROM objects"
                " WHERE kind = $1 AND name = ANY ($2) AND deleted_at IS NULL",
                kind,
                list(names),
            )
        return {row["name"]: row["id"] for row in rows}

    async def find(self, kind: str, number: int) -> StoredObject | None:
        """One object in force by its id; a key by the one inside its text."""
        what = "(spec ->> 'key_id')::bigint" if kind == "api_key" else "id"
        if kind != "api_key" and number >= 1 << 31:
            return None
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(
                "SELECT kind, id, name, version, spec, secrets, created_at FROM objects"
                f" WHERE kind = $1 AND {what} = $2 AND deleted_at IS NULL",
                kind,
                number,
            )
        return None if row is None else open_row(row, self._keyring)

    @contextlib.asynccontextmanager
    async def change(self, author: Author) -> AsyncIterator[Change]:
        """A change under the configuration's lock: committed at the end, with its audit rows.

        Whatever is raised inside undoes it. Raises OutcomeUnknown when the connection is lost in
        COMMIT, KeyReusedError when an API key's id was given before.
        """
        try:
            async with self._turn(), committing(self._pool) as conn:
                change = Change(conn, self._keyring, await _lock(conn) + 1, author)
                yield change
                await change.finish()
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "objects_key_id":
                raise KeyReusedError("an API key's id was given before") from error
            raise

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One change of this process at a time, so that those that wait hold no connection.

        A tenant may make changes too; many at once are not to take the pool from what else uses
        it. Raises StoreUnavailable when it takes too long.
        """
        try:
            async with asyncio.timeout(TURN_S):
                await self._changing.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("other changes of the configuration are under way") from error
        try:
            yield
        finally:
            self._changing.release()

    async def apply(
        self, writes: Sequence[Upsert | Removal], author: Author, based_on: int | None = None
    ) -> int:
        """Write what differs from what stands, all of it or nothing; returns the version.

        The version is the old one when nothing differed. Two that apply wait for each other.
        Raises ConfigMovedError when the version is no longer `based_on`.
        """
        async with self.change(author) as change:
            if based_on is not None and change.version != based_on + 1:
                raise ConfigMovedError("the configuration was changed meanwhile; apply it again")
            if len(writes) > 1:
                await change.read_all()
            for write in writes:
                if isinstance(write, Upsert):
                    await change.put(write)
                    continue
                standing = await change.by_name(write.kind, write.name)
                if standing is not None:
                    verb = "revoked" if write.kind == "api_key" else "removed"
                    await change.remove(standing, verb)
            return change.version - change.is_empty

    async def note(self, author: Author, entry: Entry) -> None:
        """Write into the audit log what changes no object of the configuration.

        Raises StoreUnavailable, or OutcomeUnknown when the connection is lost in COMMIT.
        """
        async with committing(self._pool) as conn:
            await append(conn, self._keyring.audit_key, author, [entry])


async def _lock(conn: AnyConnection) -> int:
    return int(await conn.fetchval("SELECT version FROM config_version FOR UPDATE"))
