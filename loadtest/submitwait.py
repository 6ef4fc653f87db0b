"""How long messages waited for their submit, by the store's own rows.

Accept is the moment in the message's id, before it is written to disk; the submit is written when
the carrier's answer comes, less the time that the answer took.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from receipts.state import Path as StatePath
from sms.ids import id_at, unix_of
from sms.model import CLASS_CODES, MessageClass
from store import database
from store.embedded import endpoints_of, run_directory

TIMEOUT_S: Final = 60.0
# times: how long it waited for a free slot, and how long the carrier's answer took, milliseconds.
_SUBMITTED: Final = """
SELECT id, extract(epoch FROM at)::float8 AS at, times[2] AS answer_ms
FROM messages JOIN events ON message_id = id
WHERE id >= $1 AND id < $2 AND class = $3 AND path = $4
"""


async def accept_to_submit(
    data_dir: Path, message_class: MessageClass, since: float, until: float
) -> list[float]:
    """Milliseconds of every message of the class accepted between these moments (Unix)."""
    conn = await database.connect(
        endpoints_of(run_directory(data_dir)).database_url, statement_timeout_s=TIMEOUT_S
    )
    try:
        wanted = CLASS_CODES[message_class], int(StatePath.SUBMITTED)
        rows = await conn.fetch(_SUBMITTED, id_at(since), id_at(until), *wanted)
    finally:
        await database.close(conn)
    return [1000 * (row["at"] - unix_of(row["id"])) - row["answer_ms"] for row in rows]
