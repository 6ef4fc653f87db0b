"""Where the configuration is kept: whole objects, versioned, secrets sealed.

References between objects are names inside `spec`, because ids are given here, counted per kind
from 1. Names are unique per kind: a tenant's, channel's own; "tenant/key", "/key" for an admin
key; "tenant url" for a webhook endpoint; "tenant/class/carrier/country" for a route. An object
that a file no longer names stays: removing is a deliberate act (`disable`). Workers ask for
`version()` each second; one number changes when anything does.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from sms.config import (
    ApiKey,
    Burst,
    Channel,
    ClassLimit,
    Route,
    Snapshot,
    Tenant,
    WebhookEndpoint,
)
from sms.errors import ConfigError, StoreUnavailable
from sms.model import Carrier, MessageClass
from store.database import TROUBLE, AnyConnection, Pool
from store.seal import Keyring

KINDS = ("tenant", "api_key", "channel", "route", "webhook_endpoint")
ANY = "*"
_SLICE = 200  # objects read before the event loop is let go, some 3 ms
_NAMED = frozenset({"tenant", "channel"})  # whose ids stand in other objects


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as it stands; `secrets` are open."""

    id: int
    version: int
    spec: dict[str, Any]
    secrets: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Upsert:
    """One object as it shall be; `spec` and `secrets` are JSON values."""

    kind: str
    name: str
    spec: dict[str, Any]
    secrets: dict[str, Any]


class ConfigStore:
    """The configuration tables; every method raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring
        self._loaded = _Loaded()

    async def version(self) -> int:
        """The number that grows with every change."""
        try:
            return int(await self._pool.fetchval("SELECT version FROM config_version"))
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error

    async def load(self) -> Snapshot:
        """The whole configuration, one consistent version of it.

        Only what changed since the last load is read, and the event loop is let go in between:
        one key more among ten thousand tenants must not stop the traffic. Raises ConfigError when
        an object names another that does not exist, or when the secrets were sealed with another
        master key.
        """
        known = self._loaded
        try:
            async with (
                self._pool.acquire() as conn,
                conn.transaction(isolation="repeatable_read", readonly=True),
            ):
                version = int(await conn.fetchval("SELECT version FROM config_version"))
                if version < known.version:  # another database stands behind the address
                    known = _Loaded()
                rows = await conn.fetch(
                    "SELECT kind, id, name, version, spec, secrets, deleted_at FROM objects"
                    " WHERE version > $1 AND (deleted_at IS NULL OR $1 > 0)"
                    " ORDER BY deleted_at IS NULL, kind, id",
                    known.version,
                )
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error
        self._loaded = await known.with_rows(version, rows, self._stored)
        return self._loaded.snapshot()

    async def current(self) -> dict[tuple[str, str], StoredObject]:
        """Every object that is not disabled, by (kind, name)."""
        try:
            async with self._pool.acquire() as conn:
                return await self._read(conn)
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error

    async def apply(self, upserts: Sequence[Upsert], actor: str) -> int:
        """Write what differs from what stands, all of it or nothing; returns the version.

        The version is the old one when nothing differed. Two that apply wait for each other.
        """
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                version = int(await conn.fetchval("SELECT version FROM config_version FOR UPDATE"))
                standing = await self._read(conn)
                changed = [upsert for upsert in upserts if _differs(upsert, standing)]
                for upsert in changed:
                    await self._write(conn, upsert, standing, version + 1, actor)
                return await _bump(conn, version) if changed else version
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error

    async def disable(self, kind: str, name: str, actor: str) -> int:
        """Take one object out of force; its history stays. Returns the version."""
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                version = int(await conn.fetchval("SELECT version FROM config_version FOR UPDATE"))
                row = await conn.fetchrow(
                    "UPDATE objects SET deleted_at = now(), version = $3"
                    " WHERE kind = $1 AND name = $2 AND deleted_at IS NULL"
                    " RETURNING id, spec, secrets",
                    kind,
                    name,
                    version + 1,
                )
                if row is None:
                    return version
                await _record(conn, (kind, row["id"], version + 1), actor, row, is_deleted=True)
                return await _bump(conn, version)
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error

    async def _read(self, conn: AnyConnection) -> dict[tuple[str, str], StoredObject]:
        rows = await conn.fetch(
            "SELECT kind, id, name, version, spec, secrets FROM objects"
            " WHERE deleted_at IS NULL ORDER BY kind, id"
        )
        return {(row["kind"], row["name"]): self._stored(row) for row in rows}

    def _stored(self, row: asyncpg.Record) -> StoredObject:
        return StoredObject(
            row["id"],
            row["version"],
            json.loads(row["spec"]),
            self._open(row["kind"], row["name"], row["secrets"]),
        )

    async def _write(
        self,
        conn: AnyConnection,
        upsert: Upsert,
        standing: Mapping[tuple[str, str], StoredObject],
        version: int,
        actor: str,
    ) -> None:
        if upsert.kind not in KINDS:
            raise ValueError(f"unknown kind {upsert.kind!r}")
        known = standing.get((upsert.kind, upsert.name))
        object_id = known.id if known else await _next_id(conn, upsert.kind)
        row = {
            "id": object_id,
            "spec": json.dumps(upsert.spec, ensure_ascii=False, sort_keys=True),
            "secrets": self._seal(upsert),
        }
        await conn.execute(
            "INSERT INTO objects (kind, id, name, version, spec, secrets)"
            " VALUES ($1, $2, $3, $4, $5, $6)"
            " ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version,"
            " spec = excluded.spec, secrets = excluded.secrets",
            upsert.kind,
            object_id,
            upsert.name,
            version,
            row["spec"],
            row["secrets"],
        )
        await _record(conn, (upsert.kind, object_id, version), actor, row, is_deleted=False)

    def _seal(self, upsert: Upsert) -> bytes | None:
        if not upsert.secrets:
            return None
        plain = json.dumps(upsert.secrets, ensure_ascii=False).encode()
        return self._keyring.seal_secret(plain, f"{upsert.kind} {upsert.name}")

    def _open(self, kind: str, name: str, sealed: bytes | None) -> dict[str, Any]:
        if sealed is None:
            return {}
        try:
            plain = self._keyring.open_secret(sealed, f"{kind} {name}")
        except ValueError as error:
            raise ConfigError(
                f"SMSGW_MASTER_KEY_FILE: the secrets of {kind} {name} were sealed with another "
                "master key; put back the key file this database was made with"
            ) from error
        secrets: dict[str, Any] = json.loads(plain)
        return secrets


async def _next_id(conn: AnyConnection, kind: str) -> int:
    return int(
        await conn.fetchval("SELECT coalesce(max(id), 0) + 1 FROM objects WHERE kind = $1", kind)
    )


async def _record(
    conn: AnyConnection,
    key: tuple[str, int, int],
    actor: str,
    row: Mapping[str, Any] | asyncpg.Record,
    *,
    is_deleted: bool,
) -> None:
    await conn.execute(
        "INSERT INTO object_history (kind, id, version, actor, spec, secrets, is_deleted)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        *key,
        actor,
        row["spec"],
        row["secrets"],
        is_deleted,
    )


async def _bump(conn: AnyConnection, version: int) -> int:
    await conn.execute("UPDATE config_version SET version = $1", version + 1)
    return version + 1


def _differs(upsert: Upsert, standing: Mapping[tuple[str, str], StoredObject]) -> bool:
    known = standing.get((upsert.kind, upsert.name))
    return known is None or known.spec != upsert.spec or known.secrets != upsert.secrets


# ---- from stored objects to the objects that run ----

_Objects = Mapping[tuple[str, str], StoredObject]
_Running = Tenant | ApiKey | Channel | Route | WebhookEndpoint


class _Loaded:
    """One version as it was read: the stored objects, and beside each the one that runs."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._objects: dict[tuple[str, str], StoredObject] = {}
        self._running: dict[str, dict[str, _Running]] = {kind: {} for kind in KINDS}

    async def with_rows(
        self,
        version: int,
        rows: Sequence[asyncpg.Record],
        open_row: Callable[[asyncpg.Record], StoredObject],
    ) -> _Loaded:
        """The next version: these rows changed, deleted ones first. Raises ConfigError."""
        made = _Loaded(version)
        made._objects = self._objects.copy()
        made._running = {kind: named.copy() for kind, named in self._running.items()}
        changed: list[tuple[str, str]] = []
        has_moved = False
        for place, row in enumerate(rows):
            key = row["kind"], row["name"]
            before = made._objects.get(key)
            if row["deleted_at"] is None:
                stored = made._objects[key] = open_row(row)
                has_moved |= before is not None and before.id != stored.id
                changed.append(key)
            elif before is not None and before.id == row["id"]:
                del made._objects[key]
                made._running.get(key[0], {}).pop(key[1], None)
                has_moved |= key[0] in _NAMED
            await _let_go(place)
        # Another object of that name: everything that names it must be made again.
        for place, key in enumerate(list(made._objects) if has_moved else changed):
            made._run(key)
            await _let_go(place)
        return made

    def _run(self, key: tuple[str, str]) -> None:
        kind, name = key
        make = _MAKE.get(kind)
        if make is not None:
            self._running[kind][name] = make(name, self._objects[key], self._objects)

    def snapshot(self) -> Snapshot:
        """The objects that run; what did not change is the same object as in the last one."""
        tenants, keys, channels, routes, endpoints = (
            self._running[kind].values() for kind in KINDS
        )
        return Snapshot(
            version=self.version,
            tenants={one.id: one for one in tenants if isinstance(one, Tenant)},
            api_keys={one.id: one for one in keys if isinstance(one, ApiKey)},
            channels={one.id: one for one in channels if isinstance(one, Channel)},
            routes=tuple(one for one in routes if isinstance(one, Route)),
            endpoints={one.id: one for one in endpoints if isinstance(one, WebhookEndpoint)},
        )


async def _let_go(place: int) -> None:
    if place % _SLICE == _SLICE - 1:
        await asyncio.sleep(0)


def _id_of(kind: str, name: str, objects: _Objects, user: str) -> int:
    stored = objects.get((kind, name))
    if stored is None:
        raise ConfigError(f"{user} names the {kind} {name!r}, which does not exist: apply it too")
    return stored.id


def _tenant(name: str, stored: StoredObject, _: _Objects) -> Tenant:
    spec = dict(stored.spec)
    for key in ("signatures", "countries"):
        if key in spec:
            spec[key] = tuple(spec[key])
    classes = spec.pop("classes", {})
    spec["class_limits"] = tuple(ClassLimit.of(word, classes[word]) for word in sorted(classes))
    spec["bursts"] = tuple(Burst.of(burst) for burst in spec.get("bursts", ()))
    return Tenant(id=stored.id, name=name, **spec)


def _api_key(_: str, stored: StoredObject, objects: _Objects) -> ApiKey:
    spec = stored.spec
    owner = spec.get("tenant")
    return ApiKey(
        id=spec["key_id"],  # stands inside the key's text, so it was chosen before its row
        name=spec["name"],
        tenant=_id_of("tenant", owner, objects, f"API key {spec['name']}") if owner else 0,
        scopes=frozenset(spec.get("scopes", ())),
        secret_hash=bytes.fromhex(stored.secrets["secret_hash"]),
    )


def _channel(name: str, stored: StoredObject, _: _Objects) -> Channel:
    spec = dict(stored.spec)
    spec.pop("price_per_segment", None)  # kept for people, used by nothing yet
    spec["settings"] = {**spec.get("settings", {}), **stored.secrets}
    if "classes" in spec:
        spec["classes"] = frozenset(MessageClass(word) for word in spec["classes"])
    return Channel(id=stored.id, name=name, **spec)


def _route(name: str, stored: StoredObject, objects: _Objects) -> Route:
    spec = stored.spec
    user = f"route {name}"
    tenant, cls, carrier = (spec.get(key, ANY) for key in ("tenant", "class", "carrier"))
    return Route(
        id=stored.id,
        tenant=0 if tenant == ANY else _id_of("tenant", tenant, objects, user),
        message_class=None if cls == ANY else MessageClass(cls),
        carrier=None if carrier == ANY else Carrier(carrier),
        country=int(spec.get("country", 0)),
        channels=tuple(_id_of("channel", word, objects, user) for word in spec["channels"]),
    )


def _endpoint(_: str, stored: StoredObject, objects: _Objects) -> WebhookEndpoint:
    spec = stored.spec
    return WebhookEndpoint(
        id=stored.id,
        tenant=_id_of("tenant", spec["tenant"], objects, f"webhook endpoint {spec['url']}"),
        url=spec["url"],
        events=tuple(spec.get("events", ("message.*",))),
        batch=bool(spec.get("batch", False)),
        full_number=bool(spec.get("full_number", False)),
        secrets=tuple(base64.b64decode(text) for text in stored.secrets.get("secrets", ())),
    )


_MAKE: Mapping[str, Callable[[str, StoredObject, _Objects], _Running]] = {
    "tenant": _tenant,
    "api_key": _api_key,
    "channel": _channel,
    "route": _route,
    "webhook_endpoint": _endpoint,
}
