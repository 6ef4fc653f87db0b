"""The suppression list: whose numbers may not be sent to, for which classes.

Each change locks the one row of `suppression_changes`, takes the next number and writes its audit
row, all in one COMMIT; processes read what has a higher number than they know. A number stands
here sealed, beside its blind index; what it is asked by on the path is the index alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from sms.ids import to_text
from sms.model import CLASS_CODES, Held, MessageClass
from store.audit import Author, Entry, append, append_all
from store.database import AnyConnection, Pool, acquire, committing
from store.seal import Keyring

PREFIX = "sup"
_NAMES = ("id", "tenant", "number_index", "number", "classes", "held", "created_at")
_COLUMNS = ", ".join(_NAMES)
_QUALIFIED = ", ".join(f"suppressions.{name}" for name in _NAMES)
_NEXT_CHANGES = "UPDATE suppression_changes SET last = last + $1 RETURNING last"
_STANDING = (
    f"SELECT {_COLUMNS} FROM unnest($1::int[], $2::bigint[]) AS wanted (tenant, number_index)"
    " JOIN suppressions USING (tenant, number_index) WHERE deleted_at IS NULL"
)
_CREATE = (
    "INSERT INTO suppressions (tenant, number_index, number, classes, change, held, created_at)"
    " SELECT *, clock_timestamp() FROM unnest($1::int[], $2::bigint[], $3::bytea[],"
    f" $4::smallint[], $5::bigint[], $6::smallint[]) RETURNING {_COLUMNS}"
)
_ADD_CLASSES = (
    "UPDATE suppressions SET classes = suppressions.classes | new.classes, change = new.change,"
    " held = least(suppressions.held, new.held) FROM unnest($1::bigint[], $2::smallint[],"
    " $3::bigint[], $4::smallint[]) AS new (id, classes, change, held)"
    f" WHERE suppressions.id = new.id RETURNING {_QUALIFIED}"
)


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


_Place: TypeAlias = tuple[int, int]  # tenant and blind index


class _Merged:
    """All that is wanted of one number in one commit."""

    __slots__ = ("author", "change", "classes", "new", "why")

    def __init__(self, author: Author, new: Wanted, change: int) -> None:
        self.author = author
        self.new = new
        self.change = change
        self.classes = new.classes
        self.why = new.why


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
        new = Wanted(tenant, number, frozenset(classes), shown)
        async with committing(self._pool) as conn:
            [(before, entry)] = await self._put(conn, [(author, new)])
            return entry, before is None

    async def put_all(self, author: Author, wanted: Sequence[Wanted]) -> None:
        """`put` of several in one commit."""
        async with committing(self._pool) as conn:
            await self._put(conn, [(author, one) for one in wanted])

    async def put_in(
        self, conn: AnyConnection, wanted: Sequence[tuple[Author, Wanted]]
    ) -> list[frozenset[MessageClass]]:
        """`put` of several inside the caller's transaction; the classes that each newly suppressed.

        It holds the locks of all changes and of the audit log until that transaction ends, so it
        stands near its end. The number of statements is the same however many are wanted.
        """
        return [
            entry.classes - (frozenset() if before is None else before.classes)
            for before, entry in await self._put(conn, wanted)
        ]

    async def _put(
        self, conn: AnyConnection, wanted: Sequence[tuple[Author, Wanted]]
    ) -> list[tuple[Suppression | None, Suppression]]:
        """For each (the entry as it stood, None without one; as it stands behind it).

        An entry keeps its reason, but what somebody asks for goes before what a carrier said. One
        number wanted twice is one change, told as the first one's.
        """
        if not wanted:
            return []
        last = await conn.fetchval(_NEXT_CHANGES, len(wanted))  # the lock, and their numbers
        places: list[_Place] = []
        merged: dict[_Place, _Merged] = {}
        for change, (author, new) in enumerate(wanted, last - len(wanted) + 1):
            place = new.tenant, self._keyring.number_index(new.tenant, new.number)
            places.append(place)
            one = merged.setdefault(place, _Merged(author, new, change))
            one.classes |= new.classes
            one.why = min(one.why, new.why)
        rows = await conn.fetch(_STANDING, *_columns(merged, 2))
        before = {(row["tenant"], row["number_index"]): self._open(row) for row in rows}
        after = before | await self._write(conn, merged, before)
        told = [
            (one.author, _entry(one.new.shown, before.get(place), after[place]))
            for place, one in merged.items()
            if after[place] is not before.get(place)
        ]
        await append_all(conn, self._keyring.audit_key, told)
        running: dict[_Place, Suppression | None] = dict(before)
        found: list[tuple[Suppression | None, Suppression]] = []
        for place, (_, new) in zip(places, wanted, strict=True):
            was = running.get(place)
            classes = new.classes if was is None else was.classes | new.classes
            running[place] = now = replace(after[place], classes=classes)
            found.append((was, now))
        return found

    async def _write(
        self,
        conn: AnyConnection,
        merged: Mapping[_Place, _Merged],
        before: Mapping[_Place, Suppression],
    ) -> dict[_Place, Suppression]:
        """Create what does not stand and add to what does; the entries that were written."""
        created = [
            (
                *place,
                self._keyring.seal_secret(one.new.number.encode(), _context(*place)),
                bits_of(one.classes),
                one.change,
                int(one.why),
            )
            for place, one in merged.items()
            if place not in before
        ]
        changed = [
            (standing.id, bits_of(one.classes), one.change, int(one.why))
            for place, one in merged.items()
            if (standing := before.get(place)) is not None
            and not (standing.classes >= one.classes and standing.why <= one.why)
        ]
        rows: list[asyncpg.Record] = []
        if created:
            rows += await conn.fetch(_CREATE, *_columns(created, 6))
        if changed:
            rows += await conn.fetch(_ADD_CLASSES, *_columns(changed, 4))
        return {(row["tenant"], row["number_index"]): self._open(row) for row in rows}

    async def remove(self, author: Author, entry: Suppression, shown: str) -> bool:
        """End an entry; False when somebody else did so meanwhile."""
        async with committing(self._pool) as conn:
            change = await conn.fetchval(_NEXT_CHANGES, 1)
            row = await conn.fetchrow(
                "UPDATE suppressions SET deleted_at = clock_timestamp(), change = $2"
                " WHERE id = $1 AND deleted_at IS NULL RETURNING id",
                entry.id,
                change,
            )
            if row is None:
                return False
            told = _entry(shown, entry, None)
            await append(conn, self._keyring.audit_key, author, [told])
            return True

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


def _entry(shown: str, before: Suppression | None, after: Suppression | None) -> Entry:
    """What the audit log holds of a change; `shown` stands for the number."""
    entry = after or before
    if entry is None:
        raise RuntimeError("nothing was changed")
    verb = "removed" if after is None else "updated" if before is not None else "created"
    return Entry(
        action=f"suppression.{verb}",
        kind="suppression",
        id=entry.public_id,
        name=shown,
        version=0,
        before=None if before is None else _told(before),
        after=None if after is None else _told(after),
    )


def _columns(rows: Iterable[tuple[Any, ...]], size: int) -> list[list[Any]]:
    """The rows as arrays for `unnest`."""
    columns: list[list[Any]] = [[] for _ in range(size)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


def _told(entry: Suppression) -> dict[str, object]:
    """What the audit log holds: never the number."""
    classes = sorted(str(cls) for cls in entry.classes)
    return {"tenant": entry.tenant, "classes": classes, "reason": entry.why.name.lower()}
