"""Ported numbers: which carrier a number lives with when it is not its prefix's.

A change is a set of numbers in one COMMIT, with its audit row. It locks the one row of
`ported_changes` and takes a number for each row; processes read what has a higher number than they
know. A number stands here sealed, beside its blind index; on the path only the index is asked.

    start   last change ─▶ every bucket of `sms.indexmap`, packed by PostgreSQL ─▶ from there on
    later   rows with a higher change, in its order
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sms.indexmap import BUCKET_SHIFT, BUCKETS, TAG_BITS
from sms.model import CARRIERS, Carrier
from store.audit import Author, Entry, append
from store.database import AnyConnection, Pool, acquire, committing
from store.seal import Keyring

MOST: Final = 10_000  # numbers of one change: some 0.3 s under the lock
PARTS: Final = 64  # in which the whole is read: of five million 80,000 each
_TENANT: Final = -1  # in blind indexes: nobody's, so that no index is one of another table
_FIRST_BUCKET: Final = -BUCKETS // 2
_PLACES = {carrier: place for place, carrier in enumerate(CARRIERS)}


@dataclass(frozen=True, slots=True)
class Ported:
    """One override in force. The number is whole, digits only."""

    number: str
    carrier: Carrier
    change: int
    changed_at: datetime


class Changed(NamedTuple):
    """What a process must know of one number as it stands now; None: by its prefix again."""

    number_index: int
    carrier: Carrier | None
    change: int


class Counts(NamedTuple):
    """What a change came to: `put` are new or live with another carrier than before."""

    put: int
    removed: int
    unchanged: int


class PortedStore:
    """Reads and writes overrides; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    def index_of(self, number: str) -> int:
        """The blind index of a number's digits."""
        return self._keyring.number_index(_TENANT, number)

    # -- writing ---------------------------------------------------------------------------

    async def put(self, author: Author, numbers: Mapping[str, Carrier | None]) -> Counts:
        """Let each number (digits) live with a carrier, None: its prefix's. At most `MOST`.

        All of it or nothing. Raises OutcomeUnknown when the connection is lost in COMMIT: asking
        again is safe.
        """
        if len(numbers) > MOST:
            raise ValueError(f"more than {MOST} numbers in one change")
        async with committing(self._pool) as conn:
            last = await conn.fetchval(
                "UPDATE ported_changes SET last = last + $1 RETURNING last", len(numbers)
            )
            kept = {number: at for number, at in numbers.items() if at is not None}
            gone = [number for number, at in numbers.items() if at is None]
            put = await self._write(conn, kept, last - len(numbers))
            removed = await self._end(conn, gone, last - len(gone))
            if put or removed:
                await self._tell(conn, author, put, removed)
        changed = put.total() + removed
        return Counts(put.total(), removed, len(numbers) - changed)

    async def _write(
        self, conn: AnyConnection, numbers: Mapping[str, Carrier], after: int
    ) -> Counter[Carrier]:
        """New or moved numbers, by carrier."""
        if not numbers:
            return Counter()
        indexes = [self.index_of(number) for number in numbers]
        rows = await conn.fetch(
            "INSERT INTO ported_numbers AS old (number_index, number, carrier, change, changed_at)"
            " SELECT number_index, number, carrier, $4 + place, clock_timestamp()"
            " FROM unnest($1::bigint[], $2::bytea[], $3::smallint[])"
            " WITH ORDINALITY AS given (number_index, number, carrier, place)"
            " ON CONFLICT (number_index) DO UPDATE SET carrier = excluded.carrier,"
            " change = excluded.change, changed_at = excluded.changed_at"
            " WHERE old.carrier IS DISTINCT FROM excluded.carrier RETURNING carrier",
            indexes,
            [self._seal(*pair) for pair in zip(indexes, numbers, strict=True)],
            [_PLACES[carrier] for carrier in numbers.values()],
            after,
        )
        return Counter(CARRIERS[row["carrier"]] for row in rows)

    async def _end(self, conn: AnyConnection, numbers: Sequence[str], after: int) -> int:
        if not numbers:
            return 0
        rows = await conn.fetch(
            "UPDATE ported_numbers AS old SET carrier = NULL, change = $2 + place,"
            " changed_at = clock_timestamp()"
            " FROM unnest($1::bigint[]) WITH ORDINALITY AS given (number_index, place)"
            " WHERE old.number_index = given.number_index AND old.carrier IS NOT NULL RETURNING 1",
            [self.index_of(number) for number in numbers],
            after,
        )
        return len(rows)

    async def _tell(
        self, conn: AnyConnection, author: Author, put: Counter[Carrier], removed: int
    ) -> None:
        """The audit log holds how many, never a number."""
        by_carrier = {str(carrier): put[carrier] for carrier in CARRIERS if put[carrier]}
        told = Entry(
            action="ported_numbers.changed",
            kind="ported_numbers",
            id="ported_numbers",
            name="ported numbers",
            version=0,
            before=None,
            after={"put": by_carrier, "removed": removed},
        )
        await append(conn, self._keyring.audit_key, author, [told])

    def _seal(self, index: int, number: str) -> bytes:
        return self._keyring.seal_secret(number.encode(), _context(index))

    # -- reading ---------------------------------------------------------------------------

    async def page(self, limit: int, below: int | None = None) -> list[Ported]:
        """Overrides in force, the last changed first, with changes under `below`."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT number_index, number, carrier, change, changed_at FROM ported_numbers"
                " WHERE carrier IS NOT NULL AND ($1::bigint IS NULL OR change < $1)"
                " ORDER BY change DESC LIMIT $2",
                below,
                limit,
            )
        return [
            Ported(
                self._keyring.open_secret(row["number"], _context(row["number_index"])).decode(),
                CARRIERS[row["carrier"]],
                row["change"],
                row["changed_at"],
            )
            for row in rows
        ]

    async def last(self) -> int:
        """The newest change; what is read after this holds at least all up to it."""
        async with acquire(self._pool) as conn:
            return int(await conn.fetchval("SELECT last FROM ported_changes"))

    async def part(self, place: int) -> list[tuple[int, bytes]]:
        """Buckets with their words, as `IndexMap.fill` takes them: part `place` of `PARTS`."""
        size = BUCKETS // PARTS
        first = _FIRST_BUCKET + place * size
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                f"SELECT number_index >> {BUCKET_SHIFT} AS bucket,"
                f" string_agg(int8send(number_index << {TAG_BITS} | carrier), ''::bytea"
                " ORDER BY number_index) AS words"
                " FROM ported_numbers WHERE carrier IS NOT NULL"
                " AND number_index BETWEEN $1 AND $2 GROUP BY 1",
                first << BUCKET_SHIFT,
                (first + size << BUCKET_SHIFT) - 1,
            )
        return [(row["bucket"], row["words"]) for row in rows]

    async def changed(self, after: int, limit: int) -> list[Changed]:
        """What changed since, in the order of the changes; without numbers."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT number_index, carrier, change FROM ported_numbers"
                " WHERE change > $1 ORDER BY change LIMIT $2",
                after,
                limit,
            )
        return [
            Changed(index, None if place is None else CARRIERS[place], change)
            for index, place, change in rows
        ]


def _context(index: int) -> str:
    return f"ported number {index}"
