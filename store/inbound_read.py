"""Texts from phones, read back: by their ids with their events, and in pages of a tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from sms.errors import StoreUnavailable
from sms.model import EventRow, InboundMessage, State
from store.database import AnyConnection, Pool, acquire
from store.inbound import COLUMNS, NO_KEY
from store.seal import COLUMN_BODY, COLUMN_NUMBER, TABLE_INBOUND, Keyring, day_of
from store.suppressions import classes_of

_AT_ONCE = 100  # texts opened in one turn of the loop


class StoredInbound(NamedTuple):
    """A text and its rows in `events`, by sequence."""

    message: InboundMessage
    rows: list[EventRow]


class InboundReader:
    """Reads what is kept; raises StoreUnavailable when PostgreSQL is away."""

    def __init__(self, pool: Pool, keyring: Keyring) -> None:
        self._pool = pool
        self._keyring = keyring

    async def messages(self, ids: Sequence[int]) -> dict[int, StoredInbound]:
        """Those of the texts that exist, with their event rows."""
        if not ids:
            return {}
        wanted = sorted(set(ids))
        span = f">= {int(wanted[0])} AND {{0}} <= {int(wanted[-1])} AND {{0}} = ANY($1)"
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                f"SELECT {COLUMNS} FROM inbound WHERE id {span.format('id')}", wanted
            )
            events = await conn.fetch(
                "SELECT message_id, sequence, event_id, tenant, path, channel, at FROM events"
                f" WHERE message_id {span.format('message_id')} ORDER BY message_id, sequence",
                [row["id"] for row in rows],
            )
            await self._load_days(conn, rows)
        found = {row["id"]: StoredInbound(self._open(row), []) for row in rows}
        for event in events:
            found[event["message_id"]].rows.append(_event(event))
        return found

    async def page(
        self, tenant: int | None, limit: int, below: int | None = None
    ) -> list[InboundMessage]:
        """Texts of a tenant (None: of all, nobody's included), the newest first.

        They are opened behind the connection, which others wait for, and in turns of the loop.
        """
        whose = "true" if tenant is None else f"tenant = {int(tenant)}"
        under = "" if below is None else f" AND id < {int(below)}"
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                f"SELECT {COLUMNS} FROM inbound WHERE {whose}{under} ORDER BY id DESC LIMIT $1",
                limit,
            )
            await self._load_days(conn, rows)
        found: list[InboundMessage] = []
        for row in rows:
            found.append(self._open(row))
            if not len(found) % _AT_ONCE:
                await asyncio.sleep(0)
        return found

    async def _load_days(self, conn: AnyConnection, rows: Sequence[asyncpg.Record]) -> None:
        """The keys of days that are not known yet."""
        days = {
            day_of(row["id"])
            for row in rows
            if self._keyring.sealer_for(row["tenant"], row["id"]) is None
        }
        if days:
            await self._keyring.load_days(conn, sorted(days))

    def _open(self, row: asyncpg.Record) -> InboundMessage:
        sealer = self._keyring.sealer_for(row["tenant"], row["id"])
        if sealer is None:
            raise StoreUnavailable(NO_KEY)
        number, body = (
            sealer.open(row["tenant"], row["id"], column, row[name], TABLE_INBOUND).decode()
            for column, name in ((COLUMN_NUMBER, "number"), (COLUMN_BODY, "body"))
        )
        return InboundMessage(
            id=row["id"],
            tenant=row["tenant"],
            number=number,
            to=row["recipient"],
            text=body,
            channel=row["channel"],
            received_at=row["received_at"].timestamp(),
            segments=row["segments"],
            missing=row["missing"],
            parent=row["parent"],
            suppressed=classes_of(row["suppressed"]),
        )


def _event(row: asyncpg.Record) -> EventRow:
    return EventRow(
        row["message_id"],
        row["sequence"],
        row["event_id"],
        row["tenant"],
        row["path"],
        State.ACCEPTED,  # it says nothing here
        row["at"].timestamp(),
        channel=row["channel"],
    )
