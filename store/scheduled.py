"""Messages that wait for their hour: parked in the commit that accepts them, taken up when due.

    accept ═COPY, its row `scheduled`, its parked row═▶ waits ─▶ due ═the parked row: spilled═▶ ids

One commit, so that a kill right after the 202 loses no schedule. What is due is taken up in pages,
by class, and only its id: `gateway.backlog` reads it back when a lane has room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sms.model import CLASS_CODES, STATE_CODES, Message, MessageClass, State
from sms.reasons import SMALLINT_BY_CODE
from store.database import Pool, acquire
from store.fragments import Why, moment_sql, park_sql

SCHEDULED_PATH = 16  # receipts.state.Path.SCHEDULED; a test holds them together
SEQUENCE = 2  # of the row that follows the message's own
DUE_SQL = (
    "SELECT message_id, due FROM parked"
    " WHERE process = $1 AND class = $2 AND due <= $3 AND why = 0 ORDER BY due LIMIT $4"
)
# A planner that has not heard of a million new rows would gather and sort them for each page.
IN_ORDER_SQL = "SET LOCAL enable_bitmapscan = off"
_TAKE_SQL = (
    "UPDATE parked p SET why = $4, due = v.due"
    " FROM unnest($2::bigint[], $3::timestamptz[]) AS v (id, due)"
    " WHERE p.message_id = v.id AND p.process = $1 AND p.why IN (0, $4)"
    " RETURNING p.message_id"
)
_FORGET_SQL = "DELETE FROM parked WHERE message_id = ANY($2) AND process = $1 AND why = 0"


class Due(NamedTuple):
    """A scheduled message whose time has come; `due` in Unix seconds."""

    message_id: int
    due: float


def parked_until(message: Message) -> float:
    """When a scheduled message is looked at again: at its hour, or when it is too late for it."""
    send_at = message.send_at
    return message.valid_until if send_at is None else min(send_at, message.valid_until)


def scheduled_sql(process: int, messages: Iterable[Message]) -> str:
    """What rides with the COPY of messages: for those with a `send_at` the rows that hold them.

    The id of the event is the message's own: it is this process's, in order, and given only once,
    so that whoever bounds uncommitted events by uncommitted messages bounds these too.
    """
    waiting = [message for message in messages if message.send_at is not None]
    if not waiting:
        return ""
    status = STATE_CODES[State.SCHEDULED]
    values = ",".join(
        f"({message.id},{SEQUENCE},{message.id},{message.tenant},{SCHEDULED_PATH},{status},0,0,"
        f"{moment_sql(message.created_at)},{_reason(message)})"
        for message in waiting
    )
    return park_sql(
        process,
        [(m.id, parked_until(m), Why.SCHEDULED, m.message_class, m.tenant) for m in waiting],
    ) + (
        "INSERT INTO events"
        " (message_id,sequence,event_id,tenant,path,status,copy,channel,at,reason)"
        f" VALUES {values};"
    )


def _reason(message: Message) -> str:
    return "NULL" if message.reason is None else str(SMALLINT_BY_CODE[message.reason])


class Scheduled:
    """The scheduled rows of `parked` that a process looks after.

    Every method raises StoreUnavailable when PostgreSQL is away, LeaseLost when the process no
    longer owns its messages.
    """

    def __init__(self, pool: Pool, process: int) -> None:
        self._pool = pool
        self._process = process

    async def due(self, message_class: MessageClass, now: float, limit: int) -> list[Due]:
        """A page of what is due, the oldest first."""
        moment = datetime.fromtimestamp(now, UTC)
        async with acquire(self._pool) as conn, conn.transaction():
            await conn.execute(IN_ORDER_SQL)
            rows = await conn.fetch(
                DUE_SQL, self._process, CLASS_CODES[message_class], moment, limit
            )
        return [Due(row["message_id"], row["due"].timestamp()) for row in rows]

    async def take(self, due_again: Sequence[tuple[int, float]]) -> set[int]:
        """Make spilled rows of scheduled ones: (message_id, when it is looked at again).

        Gives those that are ours to take; what was canceled meanwhile has no row any more. Asked
        again after a lost answer, it gives the same.
        """
        ids = [message_id for message_id, _ in due_again]
        moments = [datetime.fromtimestamp(due, UTC) for _, due in due_again]
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(_TAKE_SQL, self._process, ids, moments, Why.SPILLED)
        return {row["message_id"] for row in rows}

    async def forget(self, message_ids: Sequence[int]) -> None:
        """Drop rows whose messages are gone: their day was destroyed."""
        async with acquire(self._pool) as conn:
            await conn.execute(_FORGET_SQL, self._process, list(message_ids))
