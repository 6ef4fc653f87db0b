"""The objects of the configuration as they are kept, and a change of them as one transaction.

References between objects are names inside `spec`, because ids are given here, counted per kind
from 1. Names are unique per kind: a tenant's, channel's own; "tenant/key", "/key" for an admin
key, with "/key_…" behind it once it was rotated out; "tenant url" for a webhook endpoint;
"tenant/class/carrier/country" for a route; "tenant/name" for a template, "*/name" for one of all;
a canary's own.

Every change runs under the lock of `config_version`, gives its objects the next version, keeps
them in `object_history`, and writes its audit rows, all in one COMMIT.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import asyncpg

from sms.errors import ConfigError
from sms.ids import to_text
from store.audit import Author, Entry, append
from store.database import AnyConnection
from store.seal import Keyring

KINDS = ("tenant", "api_key", "channel", "route", "webhook_endpoint", "template", "canary")
PREFIXES = {
    "tenant": "ten",
    "api_key": "key",
    "channel": "chn",
    "route": "rte",
    "webhook_endpoint": "whe",
    "template": "tpl",
    "canary": "can",
}
_COLUMNS = "kind, id, name, version, spec, secrets, created_at"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as it stands; `secrets` are open and never shown."""

    id: int
    version: int
    spec: dict[str, Any]
    secrets: dict[str, Any] = field(repr=False)
    kind: str = ""
    name: str = ""
    created_at: datetime | None = None

    @property
    def public_id(self) -> str:
        """As the API shows it; a key's is the one inside its text."""
        return public_id(self.kind, self.id, self.spec)


def public_id(kind: str, number: int, spec: Mapping[str, Any]) -> str:
    """`ten_…` and the like."""
    return to_text(PREFIXES[kind], spec["key_id"] if kind == "api_key" else number)


@dataclass(frozen=True, slots=True)
class Upsert:
    """One object as it shall be; `spec` and `secrets` are JSON values.

    `was`: the name it had until now, when it gets another one.
    """

    kind: str
    name: str
    spec: dict[str, Any]
    secrets: dict[str, Any] = field(repr=False)
    verb: str | None = None  # of its audit row; None = created or updated
    was: str | None = None


@dataclass(frozen=True, slots=True)
class Removal:
    """One object to take out of force; its history stays."""

    kind: str
    name: str


class Change:
    """A change under way: read what stands, `put` and `remove`. Made by `ConfigStore.change`."""

    def __init__(self, conn: AnyConnection, keyring: Keyring, version: int, author: Author) -> None:
        self.version = version  # what the objects written now will have
        self._conn = conn
        self._keyring = keyring
        self._author = author
        self._entries: list[Entry] = []
        self._next_ids: dict[str, int] = {}
        self._standing: dict[tuple[str, str], StoredObject] | None = None  # all, once read

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written so far."""
        return not self._entries

    @property
    def conn(self) -> AnyConnection:
        """The transaction, for rows beside the objects that are true only with them."""
        return self._conn

    async def by_name(self, kind: str, name: str) -> StoredObject | None:
        """The object in force with that name."""
        if self._standing is not None:
            return self._standing.get((kind, name))
        return await self._one("kind = $1 AND name = $2", kind, name)

    async def by_id(self, kind: str, number: int) -> StoredObject | None:
        """The object in force with that id."""
        if number >= 1 << 31:
            return None
        return await self._one("kind = $1 AND id = $2", kind, number)

    async def key(self, key_id: int) -> StoredObject | None:
        """The API key in force with that id."""
        where = "kind = 'api_key' AND (spec ->> 'key_id')::bigint = $1"
        return await self._one(where, key_id)

    async def sharing_numbers(
        self, numbers: Collection[str], but: int | None
    ) -> dict[str, dict[str, Any]]:
        """Specs by name of the tenants, all but one, that have any of these inbound numbers."""
        if not numbers:
            return {}
        rows = await self._conn.fetch(
            "SELECT name, spec FROM objects WHERE kind = 'tenant' AND deleted_at IS NULL"
            " AND id IS DISTINCT FROM $1 AND spec::jsonb -> 'inbound_numbers' ?| $2::text[]",
            but,
            list(numbers),
        )
        return {row["name"]: json.loads(row["spec"]) for row in rows}

    async def count(self, kind: str, tenant: str) -> int:
        """How many objects of a kind in force are the tenant's, by its name."""
        return int(
            await self._conn.fetchval(
                "SELECT count(*) FROM objects WHERE kind = $1 AND deleted_at IS NULL"
                " AND spec ->> 'tenant' = $2",
                kind,
                tenant,
            )
        )

    async def specs(self, *kinds: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Specs of every object in force of some kinds, by kind and name; their secrets unread."""
        rows = await self._conn.fetch(
            "SELECT kind, name, spec FROM objects WHERE kind = ANY ($1) AND deleted_at IS NULL",
            kinds,
        )
        return {(row["kind"], row["name"]): json.loads(row["spec"]) for row in rows}

    async def read_all(self) -> None:
        """Read everything at once: for a change of many objects."""
        rows = await self._conn.fetch(f"SELECT {_COLUMNS} FROM objects WHERE deleted_at IS NULL")
        self._standing = {(row["kind"], row["name"]): open_row(row, self._keyring) for row in rows}

    async def _one(self, where: str, *values: object) -> StoredObject | None:
        row = await self._conn.fetchrow(
            f"SELECT {_COLUMNS} FROM objects WHERE {where} AND deleted_at IS NULL", *values
        )
        return None if row is None else open_row(row, self._keyring)

    async def at(self, standing: StoredObject, version: int) -> StoredObject | None:
        """The object as it was at a version of the configuration; None when it was not there."""
        if not 0 <= version < 1 << 31:
            return None
        row = await self._conn.fetchrow(
            "SELECT version, spec, secrets, is_deleted FROM object_history"
            " WHERE kind = $1 AND id = $2 AND version <= $3 ORDER BY version DESC LIMIT 1",
            standing.kind,
            standing.id,
            version,
        )
        if row is None or row["is_deleted"]:
            return None
        spec = json.loads(row["spec"])
        name = standing.name
        if standing.kind == "webhook_endpoint":  # its name goes with its URL
            name = f"{spec['tenant']} {spec['url']}"
        secrets = open_secrets(self._keyring, standing.kind, name, row["secrets"])
        return replace(standing, name=name, version=row["version"], spec=spec, secrets=secrets)

    async def put(self, upsert: Upsert) -> StoredObject:
        """Write one object; what does not differ from what stands is left as it is."""
        if upsert.kind not in KINDS:
            raise ValueError(f"unknown kind {upsert.kind!r}")
        standing = await self.by_name(upsert.kind, upsert.was or upsert.name)
        if standing is not None and not _differs(upsert, standing):
            return standing
        number = standing.id if standing else await self._next_id(upsert.kind)
        spec = json.dumps(upsert.spec, ensure_ascii=False, sort_keys=True)
        sealed = seal_secrets(self._keyring, upsert)
        row = await self._conn.fetchrow(
            "INSERT INTO objects (kind, id, name, version, spec, secrets)"
            " VALUES ($1, $2, $3, $4, $5, $6)"
            " ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version,"
            " name = excluded.name, spec = excluded.spec, secrets = excluded.secrets"
            f" RETURNING {_COLUMNS}",
            upsert.kind,
            number,
            upsert.name,
            self.version,
            spec,
            sealed,
        )
        await self._record(upsert.kind, number, spec, sealed, is_deleted=False)
        verb = upsert.verb or ("updated" if standing else "created")
        after = StoredObject(
            number, self.version, upsert.spec, upsert.secrets, upsert.kind, upsert.name,
            row["created_at"] if row else None,
        )  # fmt: skip
        if self._standing is not None:
            self._standing.pop((upsert.kind, upsert.was or upsert.name), None)
            self._standing[upsert.kind, upsert.name] = after
        self._tell(verb, standing, after)
        return after

    async def remove(self, standing: StoredObject, verb: str = "removed") -> None:
        """Take an object out of force. Its name is free again, its id is not."""
        await self._conn.execute(
            "UPDATE objects SET deleted_at = now(), version = $3 WHERE kind = $1 AND id = $2",
            standing.kind,
            standing.id,
            self.version,
        )
        spec = json.dumps(standing.spec, ensure_ascii=False, sort_keys=True)
        await self._record(standing.kind, standing.id, spec, None, is_deleted=True)
        if self._standing is not None:
            self._standing.pop((standing.kind, standing.name), None)
        self._tell(verb, standing, None)

    async def finish(self) -> None:
        """Write the audit rows and the new version; nothing when nothing was written."""
        if self.is_empty:
            return
        await append(self._conn, self._keyring.audit_key, self._author, self._entries)
        await self._conn.execute("UPDATE config_version SET version = $1", self.version)

    async def _next_id(self, kind: str) -> int:
        number = self._next_ids.get(kind)
        if number is None:
            number = int(
                await self._conn.fetchval(
                    "SELECT coalesce(max(id), 0) + 1 FROM objects WHERE kind = $1", kind
                )
            )
        self._next_ids[kind] = number + 1
        return number

    async def _record(
        self, kind: str, number: int, spec: str, sealed: bytes | None, *, is_deleted: bool
    ) -> None:
        await self._conn.execute(
            "INSERT INTO object_history (kind, id, version, actor, spec, secrets, is_deleted)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)"
            " ON CONFLICT (kind, id, version) DO UPDATE SET spec = excluded.spec,"
            " secrets = excluded.secrets, is_deleted = excluded.is_deleted",
            kind,
            number,
            self.version,
            self._author.told(),
            spec,
            sealed,
            is_deleted,
        )

    def _tell(self, verb: str, before: StoredObject | None, after: StoredObject | None) -> None:
        one = after or before
        if one is None:
            raise ValueError("a change is of something")
        old, new = (known.secrets if known else {} for known in (before, after))
        changed = [name for name in {*old, *new} if old.get(name) != new.get(name)]
        self._entries.append(
            Entry(
                action=f"{one.kind}.{verb}",
                kind=one.kind,
                id=one.public_id,
                name=shown_name(one),
                version=self.version,
                before=None if before is None else public_spec(before),
                after=None if after is None else public_spec(after),
                secrets_changed=changed,
            )
        )


def open_row(row: Mapping[str, Any] | asyncpg.Record, keyring: Keyring) -> StoredObject:
    """An object from its row; raises ConfigError when another master key sealed its secrets."""
    kind, name = row["kind"], row["name"]
    secrets = open_secrets(keyring, kind, name, row["secrets"])
    spec = json.loads(row["spec"])
    return StoredObject(row["id"], row["version"], spec, secrets, kind, name, row["created_at"])


def open_secrets(keyring: Keyring, kind: str, name: str, sealed: bytes | None) -> dict[str, Any]:
    """The secrets of an object; raises ConfigError when another master key sealed them."""
    if sealed is None:
        return {}
    try:
        plain = keyring.open_secret(sealed, f"{kind} {name}")
    except ValueError as error:
        raise ConfigError(
            f"SMSGW_MASTER_KEY_FILE: the secrets of {kind} {name} were sealed with another "
            "master key; put back the key file this database was made with"
        ) from error
    secrets: dict[str, Any] = json.loads(plain)
    return secrets


def seal_secrets(keyring: Keyring, upsert: Upsert) -> bytes | None:
    """The secrets as stored: sealed for this kind and name, and no other."""
    if not upsert.secrets:
        return None
    plain = json.dumps(upsert.secrets, ensure_ascii=False).encode()
    return keyring.seal_secret(plain, f"{upsert.kind} {upsert.name}")


def _differs(upsert: Upsert, standing: StoredObject) -> bool:
    return (standing.name or upsert.name, standing.spec, standing.secrets) != (
        upsert.name,
        upsert.spec,
        upsert.secrets,
    )


def public_spec(stored: StoredObject) -> dict[str, Any]:
    """What may be told of an object: everything but secrets, and what a URL may carry as one."""
    spec = {name: value for name, value in stored.spec.items() if name != "key_id"}
    if stored.kind == "webhook_endpoint":
        spec["url"] = _without_query(spec["url"])
    return spec


def shown_name(stored: StoredObject) -> str:
    """The object's name, without what a URL may carry as a secret."""
    return _without_query(stored.name) if stored.kind == "webhook_endpoint" else stored.name


def _without_query(url: str) -> str:
    head, is_given, _ = url.partition("?")
    return f"{head}?…" if is_given else head
