"""A page of texts from phones: opened in turns of the loop, behind the connection."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sms.ids import id_at
from store.inbound_read import InboundReader
from store.seal import COLUMN_BODY, COLUMN_NUMBER, SHARDS, TABLE_INBOUND, Keyring, Sealer, day_of


class OnePool:
    """A pool of one connection that gives these rows; `is_held` while somebody has it."""

    def __init__(self, rows):
        self.rows = rows
        self.is_held = False

    @asynccontextmanager
    async def acquire(self, timeout):  # noqa: ASYNC109 (asyncpg's own)
        self.is_held = True
        yield self
        self.is_held = False

    async def fetch(self, *_):
        return self.rows


async def test_a_page_of_a_thousand_lets_go_of_loop_and_connection():
    keyring = Keyring(bytes(32))
    first = id_at(time.time())
    for shard in range(SHARDS):
        keyring._sealers[day_of(first) * SHARDS + shard] = Sealer(os.urandom(32))
    rows = []
    for id in range(first, first + 1000):
        sealer = keyring.sealer_for(3, id)
        assert sealer is not None
        rows.append(
            {
                "id": id,
                "tenant": 3,
                "number": sealer.seal(3, id, COLUMN_NUMBER, b"8613800138000", TABLE_INBOUND),
                "body": sealer.seal(3, id, COLUMN_BODY, b"hello", TABLE_INBOUND),
                "recipient": "1069",
                "channel": 7,
                "segments": 1,
                "missing": 0,
                "parent": None,
                "suppressed": 0,
                "received_at": datetime.now(UTC),
            }
        )
    pool = OnePool(rows)
    reading = asyncio.create_task(InboundReader(pool, keyring).page(3, 1000))  # type: ignore[arg-type]  # what it uses of one
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += not pool.is_held
    assert turns >= 10
    assert [one.text for one in reading.result()] == ["hello"] * 1000
