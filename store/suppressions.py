"""The suppression list: whose numbers may not be sent to, for which classes.

Each change locks the one row of `suppression_changes`, takes the next number and writes its audit
row, all in one COMMIT; processes read what has a higher number than they know. A number stands
here sealed, beside its blind index; what it is asked by on the path is the index alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import asyncpg

from sms.ids import to_text
from sms.model import CLASS_CODES, Held, MessageClass
from store.audit import Author, Entry, append
from store.database import AnyConnection, Pool, acquire, committing
from store.seal import Keyring

PREFIX = "sup"
_COLUMNS = "id, tenant, number_index, number, classes, held, created_at"
_NEXT_CHANGE = "UPDATE suppression_changes SET last = last + 1 RETURNING last"


@dataclass(frozen=True, slots=True)
class Suppression:
    """One entry; tenant 0 is the platform's. The number is whole."""

    id: int
    tenant: int
    number: str
    classes: frozenset[MessageClass]
    created_at: datetime
    why: Held = Held.ASKED

    @property
    def public_id(self) -> str:
        """As the API shows it."""
        return to_text(PREFIX, self.id)


class Changed(NamedTuple):
    """What a process must know of one entry as it stands now; no classes: it has ended."""

    tenant: int
    number_index: int
    classes: frozenset[MessageClass]
    change: int
    why: Held = Held.ASKED


class Wanted(NamedTuple):
    """A number to be suppressed; `shown` stands for it in the audit log."""

    tenant: int
    number: str
    classes: frozenset[MessageClass]
    shown: str
    why: Held = Held.ASKED


class SuppressionStore:
    """Reads and writes the list; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    # -- writing ---------------------------------------------------------------------------

    async def put(
        self,
        author: Author,
        tenant: int,
        number: str,
        classes: Collection[MessageClass],
        shown: str,
    ) -> tuple[Suppression, bool]:
        """Suppress a number; the entry as it stands then, and whether it is new.

        Classes are only ever added: who is suppressed for one stays so until the entry is
        deleted. `shown` stands for the number in the audit log. Raises OutcomeUnknown when the
        connection is lost in COMMIT: asking again is safe.
        """
        async with self._changing() as (conn, change):
            new = Wanted(tenant, number, frozenset(classes), shown)
            before, entry = await self._put(conn, change, author, new)
            return entry, before is None

    async def put_all(self, author: Author, wanted: Sequence[Wanted]) -> None:
        """`put` of several in one commit."""
        async with committing(self._pool) as conn:
            for one in wanted:
                await self._put(conn, await conn.fetchval(_NEXT_CHANGE), author, one)

    async def put_in(
        self,
        conn: AnyConnection,
        author: Author,
        tenant: int,
        number: str,
        classes: Collection[MessageClass],
        shown: str,
    ) -> frozenset[MessageClass]:
        """`put` inside the caller's transaction, as its last statement; the classes that are new.

        It holds the lock of all changes until that transaction ends.
        """
        change = await conn.fetchval(_NEXT_CHANGE)
        new = Wanted(tenant, number, frozenset(classes), shown)
        before, entry = await self._put(conn, change, author, new)
        return entry.classes - (frozenset() if before is None else before.classes)

    async def _put(
        self, conn: AnyConnection, change: int, author: Author, new: Wanted
    ) -> tuple[Suppression | None, Suppression]:
        """(the entry as it stood, None without one; as it stands now), under the lock of changes.

        An entry keeps its reason, but what somebody asks for goes before what a carrier said.
        """
        tenant, number, classes, shown, why = new
        index = self._keyring.number_index(tenant, number)
        standing = await conn.fetchrow(
            f"SELECT {_COLUMNS} FROM suppressions"
            " WHERE tenant = $1 AND number_index = $2 AND deleted_at IS NULL",
            tenant,
            index,
        )
        before = None if standing is None else self._open(standing)
        if standing is None:
            row = await conn.fetchrow(
                "INSERT INTO suppressions"
                " (tenant, number_index, number, classes, change, held, created_at)"
                f" VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp()) RETURNING {_COLUMNS}",
                tenant,
                index,
                self._keyring.seal_secret(number.encode(), _context(tenant, index)),
                bits_of(classes),
                change,
                why,
            )
        elif before is not None and before.classes >= classes and before.why <= why:
            return before, before
        else:
            row = await conn.fetchrow(
                "UPDATE suppressions SET classes = classes | $2, change = $3,"
                f" held = least(held, $4) WHERE id = $1 RETURNING {_COLUMNS}",
                standing["id"],
                bits_of(classes),
                change,
                why,
            )
        if row is None:
            raise RuntimeError("a row that was written did not come back")
        entry = self._open(row)
        await self._tell(conn, author, shown, before, entry)
        return before, entry

    async def remove(self, author: Author, entry: Suppression, shown: str) -> bool:
        """End an entry; False when somebody else did so meanwhile."""
        async with self._changing() as (conn, change):
            row = await conn.fetchrow(
                "UPDATE suppressions SET deleted_at = clock_timestamp(), change = $2"
                " WHERE id = $1 AND deleted_at IS NULL RETURNING id",
                entry.id,
                change,
            )
            if row is None:
                return False
            await self._tell(conn, author, shown, entry, None)
            return True

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[tuple[AnyConnection, int]]:
        """A transaction that holds the lock of changes, and the number of this one."""
        async with committing(self._pool) as conn:
            change = await conn.fetchval(_NEXT_CHANGE)
            yield conn, change

    async def _tell(
        self,
        conn: AnyConnection,
        author: Author,
        shown: str,
        before: Suppression | None,
        after: Suppression | None,
    ) -> None:
        entry = after or before
        if entry is None:
            raise RuntimeError("nothing was changed")
        verb = "removed" if after is None else "updated" if before is not None else "created"
        told = Entry(
            action=f"suppression.{verb}",
            kind="suppression",
            id=entry.public_id,
            name=shown,
            version=0,
            before=None if before is None else _told(before),
            after=None if after is None else _told(after),
        )
        await append(conn, self._keyring.audit_key, author, [told])

    # -- reading ---------------------------------------------------------------------------

    async def find(self, number: int) -> Suppression | None:
        """One entry in force by its id."""
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(
                f"SELECT {_COLUMNS} FROM suppressions WHERE id = $1 AND deleted_at IS NULL", number
            )
        return None if row is None else self._open(row)

    async def page(self, tenant: int, limit: int, below: int | None = None) -> list[Suppression]:
        """Entries in force of a tenant (0: the platform's), the newest first."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                f"SELECT {_COLUMNS} FROM suppressions WHERE tenant = $1 AND deleted_at IS NULL"
                " AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
                tenant,
                below,
                limit,
            )
        return [self._open(row) for row in rows]

    async def changed(self, after: int, limit: int) -> list[Changed]:
        """What changed since, in the order of the changes; without numbers."""
        async with acquire(self._pool) as conn:
            rows: Sequence[asyncpg.Record] = await conn.fetch(
                "SELECT tenant, number_index, change, held,"
                " CASE WHEN deleted_at IS NULL THEN classes ELSE 0 END AS classes"
                " FROM suppressions WHERE change > $1 ORDER BY change LIMIT $2",
                after,
                limit,
            )
        return [
            Changed(
                row["tenant"],
                row["number_index"],
                classes_of(row["classes"]),
                row["change"],
                Held(row["held"]),
            )
            for row in rows
        ]

    def _open(self, row: asyncpg.Record) -> Suppression:
        context = _context(row["tenant"], row["number_index"])
        return Suppression(
            row["id"],
            row["tenant"],
            self._keyring.open_secret(row["number"], context).decode(),
            classes_of(row["classes"]),
            row["created_at"],
            Held(row["held"]),
        )


def _context(tenant: int, index: int) -> str:
    return f"suppression {tenant} {index}"


def bits_of(classes: Collection[MessageClass]) -> int:
    """A bit for each class, by its number."""
    return sum(1 << CLASS_CODES[message_class] for message_class in set(classes))


_BY_BITS = tuple(
    frozenset(cls for cls, code in CLASS_CODES.items() if bits >> code & 1)
    for bits in range(1 << len(CLASS_CODES))
)


def classes_of(bits: int) -> frozenset[MessageClass]:
    """The classes again."""
    return _BY_BITS[bits & len(_BY_BITS) - 1]


def _told(entry: Suppression) -> dict[str, object]:
    """What the audit log holds: never the number."""
    classes = sorted(str(cls) for cls in entry.classes)
    return {"tenant": entry.tenant, "classes": classes, "reason": entry.why.name.lower()}
