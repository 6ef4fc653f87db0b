"""`smsgw upkeep`: what the owner of the tables does each hour, beside the traffic.

    indexes left to be built ─▶ retention: partitions, keys, rows ─▶ anchors of the audit log

`smsgw up` runs it as a child each hour; where the nodes have only the runtime role, a timer runs it
with the owner's address. One process of all does a round, the others end at once.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from gateway.ownership import owner_url
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError
from store import indexes, roles
from store.database import close, connect
from store.retention import Ended, Kept, Retention
from store.seal import Keyring, must_fit, read_master_key
from telemetry.logs import configure, get_logger

STATEMENT_S: Final = 1800.0  # an index of a day's partition
CLOCK_S: Final = 60.0  # ours and the database's may differ so much while anything is ended

log = get_logger("upkeep")


def run(settings: Settings, terminal: Terminal) -> int:
    """One round; 0 = done, or somebody else is at it; 1 = something is held back.

    Raises ConfigError when the address is not the owner's, StoreUnavailable when PostgreSQL is away
    or a lock was not to be had.
    """
    configure(settings.log_level, sys.stderr)
    began = time.monotonic()
    ended = asyncio.run(_round(settings))
    if ended is None:
        terminal.say("another process is at it", "upkeep", is_done=False)
        return 0
    for what, why in ended.held.items():
        log.error("retention held", what=what, why=why)
    seconds = round(time.monotonic() - began, 1)
    log.info("upkeep done", partitions=ended.partitions, rows=ended.rows, seconds=seconds)
    terminal.say(_words(ended), "upkeep", is_done=True, **_told(ended), seconds=seconds)
    return 1 if ended.held else 0


async def _round(settings: Settings) -> Ended | None:
    dsn = owner_url(settings)
    keyring = Keyring(read_master_key(settings.master_key_file))
    await must_fit(dsn, keyring)  # another key would seal anchors that no chain fits
    if not await roles.may_migrate(dsn):
        raise ConfigError(
            "SMSGW_DATABASE_URL: its role only runs the gateway; old data is ended by the owner of "
            "the tables: give SMSGW_MIGRATE_DATABASE_URL to this node or to a timer elsewhere"
        )
    conn = await connect(dsn, statement_timeout_s=STATEMENT_S)
    try:
        for name in await indexes.build_missing(conn):
            log.info("index built", partition=name)
        retention = Retention(conn, keyring.audit_key, kept_of(settings))
        now = await retention.clock()
        if abs(now - time.time()) > CLOCK_S:  # one of the two is wrong: nothing is ended by it
            raise ConfigError("the clocks of this machine and of PostgreSQL differ: set them right")
        return await retention.round(now)
    finally:
        await close(conn)


def kept_of(settings: Settings) -> Kept:
    """How long what is kept, by the settings."""
    numbers = settings.reliability
    return Kept(
        messages_days=numbers.retention_messages_days,
        attempts_days=numbers.retention_attempts_days,
        optouts_days=numbers.retention_optouts_days,
        audit_days=numbers.retention_audit_days,
    )


def _told(ended: Ended) -> dict[str, object]:
    return {"partitions": ended.partitions, "rows": ended.rows, "held": ended.held}


def _words(ended: Ended) -> str:
    parts = [f"{len(ended.partitions)} partitions dropped"]
    parts += [f"{count} rows of {what}" for what, count in ended.rows.items()]
    parts += [f"{what} held back ({why})" for what, why in ended.held.items()]
    return "; ".join(parts)
