"""A database that was put back to an earlier moment: what it calls unsent may have been sent since.

    open, unsent, its hour come ═▶ `uncertain`, no second copy by itself ─┐
    uncertain already           ═▶ no second copy by itself               ├ one transaction
    claims, handovers           ═▶ gone; epochs and id marks far ahead    ┘

Between the moment that was restored and the end of the old gateway messages went out whose rows
are lost. Nothing in the database tells them from those that still wait, so none of them is sent
again: an operator may (`GET /v1/messages?status=uncertain`), evidence may come, and the receipt
deadline ends the rest.

It is run while no process of any node lives. `Seen` is the other half: what a node remembers of
the database outside of it, so that a worker does not start on an older one by mistake.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sms.errors import ConfigError, StoreUnavailable
from sms.ids import COUNTER_BITS, COUNTERS, TIME_SHIFT, id_at
from sms.model import CLASSES_BY_CODE, STATE_CODES, State
from sms.reasons import SMALLINT_BY_CODE
from store.audit import Author, Entry, append
from store.database import TROUBLE, Connection, close, connect, must_be_writable
from store.fragments import Why
from store.read import RESTING_PATHS
from store.seal import Keyring

RESTORED: Final = "store.restored"
UNCERTAIN_PATH: Final = 4  # receipts.state.Path.UNCERTAIN; a test holds them together
AHEAD_S: Final = 20.0  # ids given by what was lost lie below: a mark is 15 s ahead at most
EPOCHS: Final = 1000  # more often no number changed its owner in what was lost
_TIMEOUT_S: Final = 3600.0

# Any will do; a vacant one where all are: the marks must be raised there too.
_OWNER_SQL = "SELECT process, epoch FROM processes ORDER BY node IS NULL, process LIMIT 1"
_LIVING_SQL = (
    "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name LIKE 'smsgw/%' AND pid <> pg_backend_pid() ORDER BY 1"
)
_MAY_ASK_SQL = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')"
_LINEAGE_SQL = "SELECT coalesce((SELECT id::text FROM lineage), '')"
_OID_SQL = "SELECT oid FROM pg_database WHERE datname = current_database()"
# Who is vacant owes nothing.
_LOW_SQL = (
    "SELECT coalesce(min(low_water) FILTER (WHERE node IS NOT NULL OR owed_to IS NOT NULL),"
    " max(id_high_water)) FROM processes"
)
_CANDIDATES_SQL = (
    "CREATE TEMP TABLE candidate ON COMMIT DROP AS"
    " SELECT id FROM messages WHERE id >= {low} UNION SELECT message_id FROM parked"
    " UNION SELECT unnest(ids) FROM claims UNION SELECT unnest(ids) FROM handovers"
)
# What moved the message last, else any row, as `store.read` finds it: a NOTE (0) moves nothing.
_OPEN_SQL = (
    "CREATE TEMP TABLE opened ON COMMIT DROP AS"
    " SELECT m.id, m.tenant, m.class, coalesce(e.last, 1) AS last,"
    "  coalesce(e.copy, 0) AS copy, coalesce(e.channel, 0) AS channel,"
    f"  coalesce(e.path = {UNCERTAIN_PATH}, false) AS is_uncertain,"
    "  p.why IS NOT DISTINCT FROM 0 AND p.due > now() AS is_to_come,"
    "  row_number() OVER (ORDER BY m.id) - 1 AS place"
    " FROM messages m JOIN candidate USING (id) LEFT JOIN parked p ON p.message_id = m.id"
    " LEFT JOIN (SELECT DISTINCT ON (message_id) message_id, path, copy, channel,"
    "   max(sequence) OVER (PARTITION BY message_id) AS last"
    "  FROM events JOIN candidate ON message_id = id"
    "  ORDER BY message_id, path = 0, sequence DESC) e ON e.message_id = m.id"
    f" WHERE e.path IS NULL OR e.path NOT IN ({','.join(map(str, RESTING_PATHS))})"
)
_ROWS_SQL = (
    "INSERT INTO events"
    " (message_id,sequence,event_id,tenant,path,status,copy,channel,at,reason)"
    f" SELECT id, last + 1, (({{first_ms}} + place / {COUNTERS}) << {TIME_SHIFT})"
    f"  | ({{process}}::bigint << {COUNTER_BITS}) | (place % {COUNTERS}), tenant,"
    f"  {UNCERTAIN_PATH}, {STATE_CODES[State.UNCERTAIN]}, copy, channel, now(),"
    f"  {SMALLINT_BY_CODE[RESTORED]}"
    " FROM opened WHERE NOT is_uncertain AND NOT is_to_come"
)
# Looked at again when the receipt deadline is over: until then nobody makes a copy by himself.
_HOLD_SQL = (
    "INSERT INTO parked (message_id, process, due, why, class, tenant)"
    " SELECT id, {process}, now() + make_interval(secs => {deadline_s}),"
    f" {int(Why.UNCERTAIN)}, class, tenant FROM opened WHERE NOT is_to_come"
    " ON CONFLICT (message_id) DO UPDATE SET due = excluded.due, why = excluded.why,"
    " process = excluded.process"
)
_COUNT_SQL = (
    "SELECT class, count(*) FILTER (WHERE is_to_come) AS to_come,"
    " count(*) FILTER (WHERE is_uncertain) AS held,"
    " count(*) FILTER (WHERE NOT is_uncertain AND NOT is_to_come) AS uncertain"
    " FROM opened GROUP BY class"
)
# Last: the fence compares with the epoch that we took over.
_MARKS_SQL = (
    f"UPDATE processes SET epoch = epoch + {EPOCHS}, lease_until = now(),"
    " id_high_water = greatest(id_high_water, $1)"
)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was found and done; messages by class."""

    uncertain: Mapping[str, int]  # open, and perhaps sent: uncertain now
    held: Mapping[str, int]  # were uncertain: get no second copy by themselves
    scheduled: Mapping[str, int]  # their hour is to come: left as they are


async def mark_restored(
    dsn: str, keyring: Keyring, author: Author, *, receipt_deadline_s: float, is_dry: bool = False
) -> Restored:
    """Let nothing leave a second time that left after the restored moment.

    All or nothing, and a second time nothing more. `is_dry` counts only. Raises ConfigError while
    a process of a gateway is connected, StoreUnavailable.
    """
    first = await connect(dsn)
    try:
        await must_be_writable(first)
        living = [row[0] for row in await first.fetch(_LIVING_SQL)]
        owner = await first.fetchrow(_OWNER_SQL)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL failed") from error
    finally:
        await close(first)
    if living:
        raise ConfigError(
            f"a gateway works on this database ({', '.join(living)}): end every `smsgw up` first"
        )
    if owner is None:
        return Restored({}, {}, {})
    conn = await connect(
        dsn, process=owner["process"], epoch=owner["epoch"], statement_timeout_s=_TIMEOUT_S
    )
    try:
        transaction = conn.transaction()
        await transaction.start()
        done = await _mark(conn, owner["process"], receipt_deadline_s)
        if is_dry:
            await transaction.rollback()
            return done
        told = {"uncertain": done.uncertain, "held": done.held, "scheduled": done.scheduled}
        entry = Entry("database.restored", "database", "", "", 0, None, told)
        await append(conn, keyring.audit_key, author, [entry])
        await transaction.commit()
        return done
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL failed: nothing was changed") from error
    finally:
        await close(conn)


async def _mark(conn: Connection, process: int, deadline_s: float) -> Restored:
    # `public` stays first: a temporary table must not stand before one of ours
    low = int(await conn.fetchval(_LOW_SQL))
    now = float(await conn.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
    newest = int(await conn.fetchval("SELECT coalesce(max(id_high_water), 0) FROM processes"))
    first_ms = (max(newest, id_at(now + AHEAD_S)) >> TIME_SHIFT) + 1
    await conn.execute(_CANDIDATES_SQL.format(low=low))
    await conn.execute("ANALYZE candidate")
    await conn.execute(_OPEN_SQL)
    counts = await conn.fetch(_COUNT_SQL)
    places = int(await conn.fetchval("SELECT count(*) FROM opened"))
    await conn.execute(_ROWS_SQL.format(first_ms=first_ms, process=int(process)))
    await conn.execute(_HOLD_SQL.format(process=int(process), deadline_s=float(deadline_s)))
    await conn.execute("DELETE FROM claims")
    await conn.execute("DELETE FROM handovers")
    mark = ((first_ms + places // COUNTERS + 1) << TIME_SHIFT) - 1
    await conn.execute(_MARKS_SQL, mark)

    def by_class(name: str) -> dict[str, int]:
        return {CLASSES_BY_CODE[row["class"]].value: row[name] for row in counts if row[name]}

    return Restored(by_class("uncertain"), by_class("held"), by_class("to_come"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Which database it is: `lineage` is born with the schema and kept by copies and dumps.

    What is put back to before that table has a new one; then `system`, PostgreSQL's identifier of
    the cluster (0: a provider does not let us ask), with the database's oid says it.
    """

    lineage: str
    system: int
    oid: int

    def is_of(self, other: Origin) -> bool:
        """Whether one may be an older or a newer state of the other."""
        if self.lineage == other.lineage:
            return True
        return self.system != 0 and (self.system, self.oid) == (other.system, other.oid)


class Seen:
    """The highest id mark that a process number committed, kept on the node's own disk.

    <directory>/<process>   {"lineage": ..., "system": ..., "oid": ..., "id_high_water": ...}

    Another database (`Origin`) is not compared.
    """

    def __init__(self, directory: Path, process: int, origin: Origin) -> None:
        self._path = directory / f"{process:04d}"
        self._origin = origin

    def note(self, id_high_water: int) -> None:
        """Keep a committed mark; a disk that is full loses the memory and nothing else."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            told = {**asdict(self._origin), "id_high_water": id_high_water}
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, json.dumps(told).encode())
            finally:
                os.close(handle)
            fresh.replace(self._path)


async def must_not_be_older(dsn: str, directory: Path) -> Origin:
    """Which database it is, once no number's mark is below what this node has seen of it.

    Asked before a process takes a number. Raises ConfigError when the database was put back to an
    earlier moment, StoreUnavailable.
    """
    seen = _seen(directory)  # first: a living worker's mark is committed before it is noted
    conn = await connect(dsn)
    try:
        lineage, oid = str(await conn.fetchval(_LINEAGE_SQL)), int(await conn.fetchval(_OID_SQL))
        system = 0
        if await conn.fetchval(_MAY_ASK_SQL):
            system = int(await conn.fetchval("SELECT system_identifier FROM pg_control_system()"))
        rows = await conn.fetch("SELECT process, id_high_water FROM processes")
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL does not tell its marks") from error
    finally:
        await close(conn)
    origin = Origin(lineage, system, oid)
    marks = {row["process"]: row["id_high_water"] for row in rows}
    if not marks:
        return origin  # nobody ever accepted a message here: none can leave again
    newest = max(marks.values())
    if any(was.is_of(origin) and mark > marks.get(number, newest) for number, was, mark in seen):
        raise ConfigError(
            "the database is older than what this node wrote to it: it was put back to an earlier "
            "moment. End every `smsgw up` on it and run `smsgw restored`, or messages that left "
            "since then would leave again"
        )
    return origin


def _seen(directory: Path) -> list[tuple[int, Origin, int]]:
    """(process, its database, id mark) of every number that this node ever had."""
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text("ascii"))
            origin = Origin(str(kept["lineage"]), int(kept["system"]), int(kept["oid"]))
            found.append((int(path.name), origin, int(kept["id_high_water"])))
    return found
