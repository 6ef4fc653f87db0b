"""The audit log: who changed what, when, from where; appended, chained, never changed.

    row 1 ─▶ row 2 ─▶ row 3      hash = HMAC-SHA256(key, hash of the row before ‖ body)

A row is written in the transaction of the change it tells of, so there is no change without its
row and no row without its change. The key comes from the master key: who can write to the
database alone cannot make a chain that holds.

    … row 8 ─▶ row 9 │ row 10 ─▶ row 11      anchor of a day: its last row's number and hash, sealed
              anchor ┘

Rows end after their time up to an anchor, which stays: from there the chain is followed. What was
cut off behind an anchor is missed by it; what was cut off since the last one only an anchor kept
elsewhere can show (`head`).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, NamedTuple

import asyncpg

from store.database import AnyConnection, Pool, acquire

GENESIS = bytes(32)
AUDIT_LOCK = 47
_VERIFY_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change. Of a key its id and name; of a command the account it ran as."""

    kind: str  # "key", "command", or "gateway" for what it decides by itself
    name: str  # of the key, of the command, or of what decides
    id: str | None = None  # key_…
    os_user: str | None = None
    address: str | None = None  # where the request came from; None for a command
    request_id: str | None = None

    def told(self) -> str:
        """In a few words, for the history of an object."""
        parts = (self.kind, self.id, self.name, self.os_user)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one row tells of one object. `before` and `after` hold no secret."""

    action: str  # "tenant.created"
    kind: str
    id: str  # as the API shows it: ten_…
    name: str
    version: int
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    secrets_changed: Sequence[str] = field(default=())


class Row(NamedTuple):
    """One row as stored."""

    id: int
    body: str
    hash: bytes


class Anchor(NamedTuple):
    """The last row of a UTC day; `seal` says that a process with the master key wrote it."""

    day: date
    id: int
    hash: bytes
    seal: bytes


class Verdict(NamedTuple):
    """Whether the chain holds: rows looked at, the first that is not as it was written or None."""

    rows: int
    broken_at: int | None
    head: bytes


def chained(key: bytes, before: bytes, body: str) -> bytes:
    """The hash of a row."""
    return hmac.digest(key, before + body.encode(), "sha256")


async def append(conn: AnyConnection, key: bytes, author: Author, entries: Sequence[Entry]) -> None:
    """Write rows inside the caller's transaction; two that append wait for each other."""
    await append_all(conn, key, [(author, entry) for entry in entries])


async def append_all(
    conn: AnyConnection, key: bytes, entries: Sequence[tuple[Author, Entry]]
) -> None:
    """`append` of what several authors did: as many statements as for one."""
    if not entries:
        return
    await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", AUDIT_LOCK)
    last = await conn.fetchrow("SELECT id, hash FROM audit_events ORDER BY id DESC LIMIT 1")
    number, head = (0, GENESIS) if last is None else (last["id"], last["hash"])
    now = await conn.fetchval("SELECT clock_timestamp()")
    rows = []
    for author, entry in entries:
        number += 1
        body = _body(
            number, f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z", author, entry
        )
        head = chained(key, head, body)
        rows.append((number, now, entry.id, body, head))
    await conn.executemany(
        "INSERT INTO audit_events (id, at, object, body, hash) VALUES ($1, $2, $3, $4, $5)", rows
    )


def _body(number: int, at: str, author: Author, entry: Entry) -> str:
    """The document that is hashed and shown; its text never changes afterwards."""
    told = {
        "id": f"aud_{number:016x}",
        "at": at,
        "action": entry.action,
        "actor": {
            "kind": author.kind,
            "id": author.id,
            "name": author.name,
            "os_user": author.os_user,
        },
        "address": author.address,
        "request_id": author.request_id,
        "object": {"kind": entry.kind, "id": entry.id, "name": entry.name},
        "version": entry.version,
        "before": entry.before,
        "after": entry.after,
        "secrets_changed": sorted(entry.secrets_changed),
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


class AuditLog:
    """Reads the log; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, key: bytes) -> None:
        self._pool = pool
        self._key = key

    async def page(self, limit: int, below: int | None = None, of: str | None = None) -> list[Row]:
        """The newest rows first, those with an id under `below`, those of one object."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT id, body, hash FROM audit_events"
                " WHERE ($2::bigint IS NULL OR id < $2) AND ($3::text IS NULL OR object = $3)"
                " ORDER BY id DESC LIMIT $1",
                limit,
                below,
                of,
            )
        return [Row(*row) for row in rows]

    async def verify(self) -> Verdict:
        """Read the whole chain, from its oldest row or the anchor before it, and compare."""
        async with acquire(self._pool) as conn:
            oldest = await conn.fetchval("SELECT min(id) FROM audit_events")
            rows = await conn.fetch("SELECT day, id, hash, seal FROM audit_anchors ORDER BY id")
        anchors = {row["id"]: Anchor(*row) for row in rows}
        before = [one for one in anchors.values() if oldest is not None and one.id < oldest]
        first, head = 1, GENESIS
        if before and _is_sealed(self._key, before[-1]):
            first, head = before[-1].id + 1, before[-1].hash
        return await self._follow(first, head, anchors)

    async def _follow(self, first: int, head: bytes, anchors: Mapping[int, Anchor]) -> Verdict:
        expected = first
        while True:
            async with acquire(self._pool) as conn:
                rows = await conn.fetch(
                    "SELECT id, object, body, hash FROM audit_events WHERE id >= $1"
                    " ORDER BY id LIMIT $2",
                    expected,
                    _VERIFY_PAGE,
                )
            for row in rows:
                head_now = chained(self._key, head, row["body"])
                if row["id"] != expected or not _agrees(row, head_now):
                    return Verdict(expected - first, expected, head)
                told = anchors.get(expected)
                if told is not None and not (_is_sealed(self._key, told) and told.hash == head_now):
                    return Verdict(expected - first, expected, head)
                head = head_now
                expected += 1
            if len(rows) < _VERIFY_PAGE:
                is_cut = any(id_ >= expected for id_ in anchors)
                return Verdict(expected - first, expected if is_cut else None, head)


async def anchor(conn: AnyConnection, key: bytes) -> list[Anchor]:
    """Anchor every UTC day that is over and had rows; inside the caller's transaction.

    Only the owner of the tables may. Returns what was written now.
    """
    await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", AUDIT_LOCK)  # no row is on its way
    rows = await conn.fetch(
        "SELECT DISTINCT ON (day) (at AT TIME ZONE 'UTC')::date AS day, id, hash FROM audit_events"
        " WHERE id > (SELECT coalesce(max(id), 0) FROM audit_anchors)"
        " AND (at AT TIME ZONE 'UTC')::date > coalesce("
        "  (SELECT max(day) FROM audit_anchors), '-infinity')"
        " AND at < date_trunc('day', clock_timestamp(), 'UTC') ORDER BY day, id DESC"
    )
    made = [
        Anchor(row["day"], row["id"], row["hash"], _seal(key, row["day"], row["id"], row["hash"]))
        for row in rows
    ]
    await conn.executemany(
        "INSERT INTO audit_anchors (day, id, hash, seal) VALUES ($1, $2, $3, $4)", made
    )
    return made


def _seal(key: bytes, day: date, number: int, head: bytes) -> bytes:
    return hmac.digest(key, f"anchor {day.isoformat()} {number} ".encode() + head, "sha256")


def _is_sealed(key: bytes, one: Anchor) -> bool:
    return hmac.compare_digest(one.seal, _seal(key, one.day, one.id, one.hash))


def _agrees(row: asyncpg.Record, wanted: bytes) -> bool:
    """Whether the row's hash is the wanted one, and its columns say what its body says."""
    if not hmac.compare_digest(row["hash"], wanted):
        return False
    told = json.loads(row["body"])
    is_same: bool = told["object"]["id"] == row["object"] and told["id"] == f"aud_{row['id']:016x}"
    return is_same
