"""Where the configuration is kept: whole objects, versioned, secrets sealed.

References between objects are names inside `spec`, because ids are given here, counted per kind
from 1. Names are unique per kind: a tenant's, channel's own; "tenant/key", "/key" for an admin
key; "tenant url" for a webhook endpoint; "tenant/class/carrier/country" for a route. An object
that a file no longer names stays: removing is a deliberate act (`disable`). Workers ask for
`version()` each second; one number changes when anything does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
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

    async def version(self) -> int:
        """The number that grows with every change."""
        try:
            return int(await self._pool.fetchval("SELECT version FROM config_version"))
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error

    async def load(self) -> Snapshot:
        """The whole configuration, one consistent version of it.

        Raises ConfigError when an object names another that does not exist, or when the
        secrets were sealed with another master key.
        """
        try:
            async with (
                self._pool.acquire() as conn,
                conn.transaction(isolation="repeatable_read", readonly=True),
            ):
                version = int(await conn.fetchval("SELECT version FROM config_version"))
                objects = await self._read(conn)
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL is away") from error
        return _snapshot(version, objects)

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
        return {
            (row["kind"], row["name"]): StoredObject(
                row["id"],
                row["version"],
                json.loads(row["spec"]),
                self._open(row["kind"], row["name"], row["secrets"]),
            )
            for row in rows
        }

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


def _snapshot(version: int, objects: _Objects) -> Snapshot:
    by_kind: dict[str, list[tuple[str, StoredObject]]] = {kind: [] for kind in KINDS}
    for (kind, name), stored in objects.items():
        by_kind.setdefault(kind, []).append((name, stored))
    return Snapshot(
        version=version,
        tenants={stored.id: _tenant(name, stored) for name, stored in by_kind["tenant"]},
        api_keys={
            key.id: key for key in [_api_key(stored, objects) for _, stored in by_kind["api_key"]]
        },
        channels={stored.id: _channel(name, stored) for name, stored in by_kind["channel"]},
        routes=tuple(_route(name, stored, objects) for name, stored in by_kind["route"]),
        endpoints={
            stored.id: _endpoint(stored, objects) for _, stored in by_kind["webhook_endpoint"]
        },
    )


def _id_of(kind: str, name: str, objects: _Objects, user: str) -> int:
    stored = objects.get((kind, name))
    if stored is None:
        raise ConfigError(f"{user} names the {kind} {name!r}, which does not exist: apply it too")
    return stored.id


def _tenant(name: str, stored: StoredObject) -> Tenant:
    spec = dict(stored.spec)
    for key in ("signatures", "countries"):
        if key in spec:
            spec[key] = tuple(spec[key])
    spec["class_limits"] = tuple(
        ClassLimit(MessageClass(word), **limit)
        for word, limit in sorted(spec.get("class_limits", {}).items())
    )
    spec["bursts"] = tuple(Burst(**burst) for burst in spec.get("bursts", ()))
    return Tenant(id=stored.id, name=name, **spec)


def _api_key(stored: StoredObject, objects: _Objects) -> ApiKey:
    spec = stored.spec
    owner = spec.get("tenant")
    return ApiKey(
        id=spec["key_id"],  # stands inside the key's text, so it was chosen before its row
        name=spec["name"],
        tenant=_id_of("tenant", owner, objects, f"API key {spec['name']}") if owner else 0,
        scopes=frozenset(spec.get("scopes", ())),
        secret_hash=bytes.fromhex(stored.secrets["secret_hash"]),
    )


def _channel(name: str, stored: StoredObject) -> Channel:
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


def _endpoint(stored: StoredObject, objects: _Objects) -> WebhookEndpoint:
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
