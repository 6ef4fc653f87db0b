"""A worker's row in `processes`: number, epoch, lease and the marks recovery starts from.

    take:   end the old backends ▶ exclusive lock (42, process) ▶ epoch + 1 ▶ commit ▶ read
    release: drained; the number is kept for the slot's next process for `KEPT_S`
    seize:  the same for a number whose lease is over; it becomes vacant, its debts ours
            … its messages are moved (`store.handovers`) … ▶ settle_debt ▶ may be used again

The lock is what the fence trigger takes shared in every writing transaction, so when `take` or
`seize` returns no statement of an older epoch is running and none can succeed any more. The
lease runs by database time; its end is kept here by the boot clock, which also counts while the
machine sleeps.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from sms.errors import LeaseLost, StoreUnavailable
from sms.ids import MAX_PROCESS, id_at
from store.database import (
    TROUBLE,
    AnyConnection,
    Connection,
    Pool,
    acquire,
    application_name,
    close,
    connect,
)
from store.schema import knows

_LOG = logging.getLogger(__name__)
STEP_S = 1.0  # further than this between two renewals no clock drifts
SAFETY_S = 2.0  # we stop sending this long before the lease ends
_TAKE_TIMEOUT_S = 30.0
_TAKE_TRIES = 5  # a number may be seized or given away while we take it
_NUMBERS_LOCK = 45
KEPT_S = 10.0  # a drained number waits so long for the slot's next process, then others take it
_LEFT = "left"  # the role of a process that drained and released its number


def _boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


NO_MORE_EVENTS = (1 << 63) - 1  # the floor of a process that has ended
NEW_PROCESS_MARGIN_S = 60.0  # clocks of nodes differ; far above any difference that may be


class ClockStepped(StoreUnavailable):
    """By the database's clock all leases look over, by ours they are not: who lives renews."""


@dataclass(frozen=True, slots=True)
class DatabaseClock:
    """How far the database's clock is ahead of our boot clock, at most; it knows steps by that."""

    ahead_s: float = math.inf

    def has_stepped(self, unix_s: float, answered_at: float) -> bool:
        """Whether it went forward meanwhile; `answered_at`: when we got the time that it told."""
        return unix_s - answered_at > self.ahead_s + STEP_S


async def _hold_nothing(process: int) -> None:
    """An owner without a journal."""


class ProcessLease:
    """One worker's hold on its process number; made by `take`."""

    def __init__(self, dsn: str, process: int, lease_s: float) -> None:
        self.process = process
        self.epoch = 0
        self.id_floor = 0  # no id up to here may be given again
        self.id_high_water = 0  # what this owner reserved so far
        self.low_water = 0
        self.event_cursor = 0
        self.lease_end_boot = 0.0  # CLOCK_BOOTTIME seconds
        self.database_clock = DatabaseClock()  # as of the last renewal
        self._dsn = dsn
        self._lease_s = lease_s
        self._conn: Connection | None = None

    @classmethod
    async def take(
        cls,
        dsn: str,
        *,
        node: str,
        slot: int,
        lease_s: float,
        role: str = "all",
        hold: Callable[[int], Awaitable[None]] = _hold_nothing,
    ) -> ProcessLease:
        """Become the owner of this node's slot; the same slot keeps its process number.

        When another process took it over meanwhile it gets a vacant number, else a new one.
        `hold` takes what proves that we live, before the epoch is raised: where the number's
        former owner still has it, it raises and that one keeps its number. Raises
        StoreUnavailable.
        """
        conn = await connect(dsn, statement_timeout_s=_TAKE_TIMEOUT_S)
        try:
            for _ in range(_TAKE_TRIES):
                process = await _number_of(conn, node, slot)
                await hold(process)
                asked_at = _boot_clock()
                row = await _become(conn, process, node, slot, lease_s, role)
                if row is not None:
                    break
            else:
                raise StoreUnavailable(f"slot {slot} lost its process number again and again")
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL failed during a takeover") from error
        finally:
            await close(conn)
        lease = cls(dsn, process, lease_s)
        lease.epoch = row["epoch"]
        lease.id_floor = lease.id_high_water = row["id_high_water"]
        lease.low_water = row["low_water"]
        lease.event_cursor = row["event_cursor"]
        lease.lease_end_boot = asked_at + lease_s
        return lease

    def is_valid(self, clock: Callable[[], float] = _boot_clock) -> bool:
        """Whether we may still send: compared before every burst, no I/O."""
        return clock() < self.lease_end_boot - SAFETY_S

    async def renew(self, *, id_high_water: int, low_water: int, event_cursor: int) -> bool:
        """Extend the lease and write the marks, one statement.

        False when the database's clock has stepped forward since the last time: the leases of
        others may look over. Raises LeaseLost when another owner took the number,
        StoreUnavailable when PostgreSQL is away: the lease then still runs to its end.
        """
        return await self._write(self._lease_s, id_high_water, low_water, event_cursor)

    async def release(self, *, id_high_water: int, low_water: int, event_cursor: int) -> None:
        """We drained: end the lease now, with the last marks, and close.

        The number is the same slot's again within `KEPT_S`; later it is seized like a dead one's,
        but told apart (`Seized.has_left`).
        """
        try:
            await self._write(0.0, id_high_water, low_water, event_cursor)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connection; the lease runs out by itself."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await close(conn)

    async def _write(
        self, lease_s: float, id_high_water: int, low_water: int, event_cursor: int
    ) -> bool:
        asked_at = _boot_clock()
        try:
            if self._conn is None or self._conn.is_closed():
                self._conn = await connect(self._dsn, process=self.process, epoch=self.epoch)
            row = await self._conn.fetchrow(
                "UPDATE processes SET lease_until = clock_timestamp() + make_interval(secs => $3),"
                " id_high_water = greatest(id_high_water, $4), low_water = $5,"
                " event_cursor = greatest(event_cursor, $6),"
                f" role = CASE WHEN $3 = 0 THEN '{_LEFT}' ELSE role END"
                " WHERE process = $1 AND epoch = $2"
                f" RETURNING id_high_water, {_NOW} AS unix_s",
                self.process,
                self.epoch,
                lease_s,
                id_high_water,
                low_water,
                event_cursor,
            )
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL did not renew the lease") from error
        answered_at = _boot_clock()
        if row is None:
            self.lease_end_boot = 0.0
            raise LeaseLost(f"process {self.process} has a newer owner than epoch {self.epoch}")
        self.id_high_water = row["id_high_water"]
        self.low_water, self.event_cursor = low_water, event_cursor
        self.lease_end_boot = asked_at + lease_s
        has_stepped = self.database_clock.has_stepped(row["unix_s"], answered_at)
        self.database_clock = DatabaseClock(row["unix_s"] - asked_at)
        return not has_stepped


@dataclass(frozen=True, slots=True)
class Seized:
    """A number that was taken from its dead owner, with the marks its debts start from.

    `node` is where the owner ran, and where its journal lies. `has_left`: it did not die, it
    drained and released the number, and no process of its slot came after it.
    """

    process: int
    node: str | None
    low_water: int
    id_high_water: int
    event_cursor: int
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class LiveProcess:
    """A process whose lease holds."""

    process: int
    node: str
    slot: int
    role: str
    epoch: int


_NOW = "extract(epoch FROM clock_timestamp())::float8"
_DUE = (
    "node IS NOT NULL AND owed_to IS NULL"
    f" AND lease_until + make_interval(secs => CASE WHEN role = '{_LEFT}'"
    f" THEN greatest($2, {KEPT_S}) ELSE $2 END) < clock_timestamp()"
)
_SEIZED = f"process, last_node, low_water, id_high_water, event_cursor, role = '{_LEFT}' AS left_it"


async def due_for_takeover(pool: Pool, me: int, grace_s: float) -> list[int]:
    """Processes whose lease ended more than `grace_s` ago and nobody took over, oldest first.

    Numbers that were released are due `KEPT_S` after that, when it is longer. Raises
    StoreUnavailable, like all functions here.
    """
    async with acquire(pool) as conn:
        rows = await conn.fetch(
            f"SELECT process FROM processes WHERE process <> $1 AND {_DUE} ORDER BY lease_until",
            me,
            grace_s,
        )
    return [row["process"] for row in rows]


async def owed_to(pool: Pool, me: int) -> list[Seized]:
    """What this process took over and did not settle: its takeovers before a restart."""
    async with acquire(pool) as conn:
        rows = await conn.fetch(
            f"SELECT {_SEIZED} FROM processes WHERE owed_to = $1 ORDER BY process", me
        )
    return [_seized(row) for row in rows]


async def seize(
    dsn: str,
    process: int,
    *,
    by: int,
    by_epoch: int,
    grace_s: float,
    clock: DatabaseClock = DatabaseClock(),
) -> Seized | None:
    """Take a dead process's number from it; its debts, also of earlier takeovers, become ours.

    None when it is not due any more: it lives, or another one was faster. Afterwards no
    statement of its former owner is running and none can succeed. Raises LeaseLost when our own
    number has a newer owner, ClockStepped when nobody can be judged: our lease is over too, or
    the database's clock is not `clock` any more, which is our lease's of before it was due.
    """
    if process == by:
        return None
    try:
        conn = await connect(dsn, statement_timeout_s=_TAKE_TIMEOUT_S)
        try:
            due = f"SELECT EXISTS (SELECT FROM processes WHERE process = $1 AND {_DUE})"
            if not await conn.fetchval(due, process, grace_s):
                return None
            await _must_be_judge(conn, by, by_epoch, clock)  # who lives keeps its connections
            await _end_backends(conn, process)
            async with conn.transaction():
                await _lock_both(conn, process, by)
                seized = await _vacate(conn, process, by, grace_s)
                await _must_be_judge(conn, by, by_epoch, clock)  # also when that was decided
                return seized
        finally:
            await close(conn)
    except TROUBLE as error:
        raise StoreUnavailable("PostgreSQL failed during a takeover") from error


async def settle_debt(pool: Pool, process: int, *, by: int) -> None:
    """Everything of the seized process was moved: its number may be used again.

    Its marks go up to now: the next owner owes nothing older. Nothing happens a second time.
    `pool` is the taker's own. Raises LeaseLost when the taker has a newer owner itself.
    """
    async with acquire(pool) as conn, conn.transaction():
        await conn.execute("DELETE FROM holdings WHERE process = $1", process)
        await conn.execute(
            "UPDATE processes SET owed_to = NULL, id_high_water = greatest(id_high_water, $3),"
            " low_water = greatest(id_high_water, $3), event_cursor = greatest(id_high_water, $3)"
            " WHERE process = $1 AND owed_to = $2",
            process,
            by,
            await _now_id(conn),
        )


async def raise_event_floor(pool: Pool, process: int, floor: int) -> None:
    """Tell that no event of ours below `floor` is still to be committed.

    `pool` is our own: whose epoch is over says nothing any more.
    """
    async with acquire(pool) as conn:
        await conn.execute(
            "UPDATE processes SET event_floor = $2"
            " WHERE process = $1 AND epoch = current_setting('smsgw.epoch')::int",
            process,
            floor,
        )


async def live_processes(pool: Pool) -> list[LiveProcess]:
    """Every process whose lease holds, by number."""
    async with acquire(pool) as conn:
        rows = await conn.fetch(
            "SELECT process, node, slot, role, epoch FROM processes"
            " WHERE node IS NOT NULL AND lease_until > clock_timestamp() ORDER BY process"
        )
    return [LiveProcess(*row) for row in rows]


# ---- numbers ----


async def _number_of(conn: Connection, node: str, slot: int) -> int:
    """The slot's process number; when it has none, the lowest vacant one, else a new one."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", _NUMBERS_LOCK)
        known = await conn.fetchval(
            "SELECT process FROM processes WHERE node = $1 AND slot = $2", node, slot
        )
        if known is not None:
            return int(known)
        # its lease begins at once, or another process would find it due before we are there
        vacant = await conn.fetchval(
            "UPDATE processes SET node = $1, slot = $2, lease_until = clock_timestamp(),"
            " id_high_water = greatest(id_high_water, $3), low_water = greatest(id_high_water, $3),"
            " event_cursor = greatest(id_high_water, $3)"
            " WHERE process = (SELECT min(process) FROM processes"
            "  WHERE node IS NULL AND owed_to IS NULL) RETURNING process",
            node,
            slot,
            await _now_id(conn),
        )
        return await _new_number(conn, node, slot) if vacant is None else int(vacant)


async def _new_number(conn: Connection, node: str, slot: int) -> int:
    taken = {row["process"] for row in await conn.fetch("SELECT process FROM processes")}
    process = next((n for n in range(MAX_PROCESS + 1) if n not in taken), None)
    if process is None:
        raise StoreUnavailable(f"all {MAX_PROCESS + 1} process numbers are taken")
    await conn.execute(
        "INSERT INTO processes (process, epoch, node, slot, lease_until,"
        " id_high_water, low_water, event_cursor)"
        " VALUES ($1, 0, $2, $3, clock_timestamp(), $4, $4, $4)",
        process,
        node,
        slot,
        await _now_id(conn),
    )
    return process


async def _now_id(conn: AnyConnection) -> int:
    """Where a new process begins: it owes nothing older, so it need not look for it."""
    unix_s = await conn.fetchval(f"SELECT {_NOW}")
    return id_at(float(unix_s) - NEW_PROCESS_MARGIN_S)


async def _become(
    conn: Connection, process: int, node: str, slot: int, lease_s: float, role: str
) -> asyncpg.Record | None:
    """Raise the epoch; None when the number is not this slot's any more."""
    await _end_backends(conn, process)
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(42, $1)", process)
        row = await conn.fetchrow(
            # a handover whose id is not above the newest would be taken for a repetition
            "UPDATE processes SET epoch = epoch + 1, role = $5,"
            " id_high_water = greatest(id_high_water,"
            "  (SELECT last_id FROM handover_marks m WHERE m.process = processes.process)),"
            " event_floor = id_high_water,"  # the new owner's ids lie above, an old one's is fenced
            " lease_until = clock_timestamp() + make_interval(secs => $4)"
            " WHERE process = $1 AND node = $2 AND slot = $3"
            " RETURNING epoch, id_high_water, low_water, event_cursor",
            process,
            node,
            slot,
            lease_s,
            role,
        )
        if row is not None:
            await _tell_version(conn, process, row["epoch"])
            await _forget_sessions(conn, process)
        return row


async def _tell_version(conn: AnyConnection, process: int, epoch: int) -> None:
    """Say what our code knows; whoever says nothing for an epoch is of before this."""
    await conn.execute(
        "INSERT INTO process_versions VALUES ($1, $2, $3) ON CONFLICT (process)"
        " DO UPDATE SET epoch = excluded.epoch, knows = excluded.knows",
        process,
        epoch,
        knows(),
    )


async def _end_backends(conn: Connection, process: int) -> None:
    """End what the former owner left running; the exclusive lock waits for the rest.

    While nodes go over from one role to another (store.roles) a backend may be another's: the
    owner of the schema ends it for us, where that one may.
    """
    prefix = application_name(process, 1).rsplit("/", 1)[0] + "/"
    rows = await conn.fetch(
        "SELECT pid, usename,"
        " CASE WHEN usename = current_user THEN pg_terminate_backend(pid, 5000) END AS ended"
        " FROM pg_stat_activity"
        " WHERE starts_with(application_name, $1) AND pid <> pg_backend_pid()"
        " AND datname = current_database()",  # another gateway may live beside us
        prefix,
    )
    for row in rows:
        if row["ended"] is None:
            # an owner that is no superuser may not, unless it is a member of that role; what is
            # idle there is fenced by the epoch, what writes holds its lock until it has ended
            try:
                await conn.execute("SELECT end_backend($1, 5000)", row["pid"])
            except asyncpg.InsufficientPrivilegeError:
                _LOG.warning(
                    "a connection of process %d's former owner cannot be ended, what it writes is"
                    " waited for; as a superuser: GRANT %s TO the owner of the tables",
                    process,
                    row["usename"],
                )


# ---- seizing ----


async def _lock_both(conn: Connection, process: int, by: int) -> None:
    """The seized number exclusively, the taker's as its own writes do; in one order for all."""
    for number in sorted((process, by)):
        how = "xact_lock_shared" if number == by else "xact_lock"
        await conn.execute(f"SELECT pg_advisory_{how}(42, $1)", number)


async def _must_be_judge(conn: Connection, by: int, by_epoch: int, clock: DatabaseClock) -> None:
    """Only a newer epoch means that we are lost; a lease that looks over has to be renewed."""
    row = await conn.fetchrow(
        "SELECT epoch, lease_until > clock_timestamp() AS is_running,"
        f" {_NOW} AS unix_s FROM processes WHERE process = $1",
        by,
    )
    answered_at = _boot_clock()
    if row is None or row["epoch"] != by_epoch:
        raise LeaseLost(f"process {by} has a newer owner than epoch {by_epoch}")
    if not row["is_running"]:
        raise ClockStepped("our own lease looks over too: it is renewed first")
    if clock.has_stepped(row["unix_s"], answered_at):
        raise ClockStepped("the clock of PostgreSQL went forward: others must renew first")


async def _vacate(conn: Connection, process: int, by: int, grace_s: float) -> Seized | None:
    row = await conn.fetchrow(
        "UPDATE processes SET epoch = epoch + 1, last_node = node, node = NULL, slot = NULL,"
        f" owed_to = $3 WHERE process = $1 AND {_DUE} RETURNING {_SEIZED}",
        process,
        grace_s,
        by,
    )
    if row is None:
        return None
    await conn.execute("UPDATE processes SET owed_to = $2 WHERE owed_to = $1", process, by)
    await _forget_sessions(conn, process)
    return _seized(row)


async def _forget_sessions(conn: Connection, process: int) -> None:
    """What the former owner had open at carriers is not ours."""
    await conn.execute("DELETE FROM process_channels WHERE process = $1", process)
    await conn.execute("DELETE FROM channel_sessions WHERE process = $1", process)


def _seized(row: asyncpg.Record) -> Seized:
    return Seized(*row)
