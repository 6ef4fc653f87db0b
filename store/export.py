"""A tenant's send log in the order it was accepted, page by page, for `smsgw export`.

It reads on one connection of its own, read-only, every statement bounded in time. Each page is a
statement of its own and no snapshot spans them: one that stood open for hours would keep vacuum
from cleaning behind the flow. Every page stays inside one day, so that planning touches one
partition; what is in memory is one page, whatever is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sms.ids import id_at
from store.audit import Author, Entry, append
from store.database import Pool, acquire, close, connect, open_pool
from store.objects import public_id
from store.partitions import day_range
from store.read import Reader, Stored, moment
from store.seal import Keyring, day_of

STATEMENT_S = 10.0  # a page may wait behind the flow's own work, and ends before it is a burden
# How far a message's id may be from its created_at: ids are reserved ahead of a restart.
_ID_AHEAD_S = 60.0
_ID_BEHIND_S = 5.0
_PAGE = (
    "SELECT id FROM messages WHERE tenant = $1 AND id >= {low} AND id < {high}"
    " AND created_at >= $2 AND created_at < $3 ORDER BY id LIMIT {limit}"
)
# One that was deleted too: its log is asked for when it leaves.
_TENANT = (
    "SELECT id, name, version FROM objects WHERE kind = 'tenant' AND (name = $1 OR id = $2)"
    " ORDER BY deleted_at IS NOT NULL, id DESC LIMIT 1"
)


class Span(NamedTuple):
    """What is exported: accepted at `after` or later and before `before`, Unix seconds."""

    tenant: int
    after: float
    before: float


class Owner(NamedTuple):
    """The tenant an export is about."""

    id: int
    name: str
    version: int

    @property
    def public_id(self) -> str:
        """`ten_…`."""
        return public_id("tenant", self.id, {})


@dataclass(frozen=True, slots=True)
class Page:
    """Messages by id, not folded; `through` is the id up to which all is read."""

    messages: list[Stored]
    unreadable: int  # whose day's key was destroyed before its rows
    through: int


class Export:
    """Reads; every method raises StoreUnavailable when PostgreSQL is away or takes too long."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._reader = Reader(pool, keyring)

    @classmethod
    async def open(cls, dsn: str, keyring: Keyring) -> Export:
        """On a connection of its own."""
        pool = await open_pool(dsn, size=1, statement_timeout_s=STATEMENT_S, is_read_only=True)
        return cls(pool, keyring)

    async def close(self) -> None:
        """Give the connection back."""
        await self._pool.close()

    async def tenant(self, name: str, number: int | None = None) -> Owner | None:
        """The tenant of that name or id, deleted or not; None when there is none."""
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(_TENANT, name, number)
        return None if row is None else Owner(*row)

    async def channels(self) -> Mapping[int, str]:
        """Every channel's name, deleted ones too: the log is older than they are."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch("SELECT id, name FROM objects WHERE kind = 'channel'")
        return {row["id"]: row["name"] for row in rows}

    async def pages(self, span: Span, size: int) -> AsyncIterator[Page]:
        """Everything of the span in order of id, at most `size` messages a page."""
        low, high = bounds(span)
        while low < high:
            below = min(high, day_range(day_of(low))[1])
            ids = await self._ids(span, low, below, size)
            through = ids[-1] if len(ids) >= size else below - 1
            stored = await self._reader.readable(ids)
            yield Page(list(stored.values()), len(ids) - len(stored), through)
            low = through + 1

    async def _ids(self, span: Span, low: int, high: int, limit: int) -> list[int]:
        sql = _PAGE.format(low=int(low), high=int(high), limit=int(limit))
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(sql, span.tenant, moment(span.after), moment(span.before))
        return [row["id"] for row in rows]


def bounds(span: Span) -> tuple[int, int]:
    """The ids that a span's messages may have: the first, and the first beyond."""
    return max(0, id_at(span.after - _ID_BEHIND_S)), max(0, id_at(span.before + _ID_AHEAD_S))


async def record(dsn: str, keyring: Keyring, author: Author, owner: Owner, told: object) -> None:
    """Write the audit row of an export with whole numbers; committed when it returns.

    `told` says of what span and for what reason. Raises StoreUnavailable.
    """
    entry = Entry(
        action="tenant.exported_unmasked",
        kind="tenant",
        id=owner.public_id,
        name=owner.name,
        version=owner.version,
        before=None,
        after={"export": told},
    )
    conn = await connect(dsn)
    try:
        async with conn.transaction():
            await append(conn, keyring.audit_key, author, [entry])
    finally:
        await close(conn)
