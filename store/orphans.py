"""Whose a receipt without a known id might be: what is open to its number, in every process.

    uncertain (`parked`) ─┐
                          ├─▶ to one of these numbers ─▶ candidates, in one snapshot
    claimed (`claims`) ───┘   (a claimed one may be at a carrier, unanswered)

Asked for what nobody knows and only while something is uncertain; it costs the messages to these
numbers since the oldest open one, not what is stored.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from store.database import Pool, acquire
from store.fragments import Why
from store.seal import Keyring

MAX_INDEXES = 20_000  # numbers times tenants in one statement

_OPEN = (
    f"SELECT (SELECT array_agg(DISTINCT tenant) FROM parked WHERE why = {int(Why.UNCERTAIN)})"
    f" AS tenants, least((SELECT min(message_id) FROM parked WHERE why = {int(Why.UNCERTAIN)}),"
    " (SELECT min(id) FROM claims, unnest(ids) AS c (id))) AS low"
)


class Candidate(NamedTuple):
    """An open message to one of the numbers."""

    id: int
    number: str
    is_uncertain: bool  # else it is claimed, and may be waiting for its answer


class OrphanStore:
    """Finds candidates; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    async def candidates(self, numbers: Collection[str]) -> list[Candidate]:
        """The open messages to these numbers (E.164 digits); [] while nothing is uncertain."""
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(_OPEN)
            if row is None or not row["tenants"]:
                return []
            index_of = self._keyring.number_index
            whose = [(tenant, number) for number in numbers for tenant in row["tenants"]]
            known = {index_of(*one): one for one in whose[:MAX_INDEXES]}
            rows = await conn.fetch(_candidates_sql(row["low"]), list(known))
        found = []
        for row in rows:
            tenant, number = known[row["number_index"]]
            if row["tenant"] == tenant:  # 64 bits can collide
                found.append(Candidate(row["id"], number, row["is_uncertain"]))
        return found


def _candidates_sql(low: int) -> str:
    """With the index values $1; the literal bound prunes partitions when the plan is made."""
    return (
        "SELECT m.id, m.tenant, m.number_index, p.message_id IS NOT NULL AS is_uncertain"
        " FROM messages m"
        f" LEFT JOIN parked p ON p.message_id = m.id AND p.why = {int(Why.UNCERTAIN)}"
        f" WHERE m.id >= {int(low)} AND m.number_index = ANY($1::bigint[]) AND"
        " (p.message_id IS NOT NULL OR EXISTS (SELECT FROM claims c WHERE c.ids @> ARRAY[m.id]))"
    )
