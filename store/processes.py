"""A worker's row in `processes`: number, epoch, lease and the marks recovery starts from.

    take:  end the old backends ▶ exclusive lock (42, process) ▶ epoch + 1 ▶ commit ▶ read

The lock is what the fence trigger takes shared in every writing transaction, so when `take`
returns no statement of an older epoch is running and none can succeed any more. The lease
runs by database time; its end is kept here by the boot clock, which also counts while the
machine sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sms.errors import LeaseLost, StoreUnavailable
from sms.ids import MAX_PROCESS, id_at
from store.database import TROUBLE, Connection, application_name, close, connect

SAFETY_S = 2.0  # we stop sending this long before the lease ends
_TAKE_TIMEOUT_S = 30.0
_NUMBERS_LOCK = 45


def _boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


NEW_PROCESS_MARGIN_S = 60.0  # clocks of nodes differ; far above any difference that may be


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
        self._dsn = dsn
        self._lease_s = lease_s
        self._conn: Connection | None = None

    @classmethod
    async def take(cls, dsn: str, *, node: str, slot: int, lease_s: float) -> ProcessLease:
        """Become the owner of this node's slot; the same slot keeps its process number.

        Whoever calls this knows that the former owner is dead or fenced off: on the same node
        the supervisor has reaped it. Raises StoreUnavailable.
        """
        conn = await connect(dsn, statement_timeout_s=_TAKE_TIMEOUT_S)
        try:
            process = await _number_of(conn, node, slot)
            lease = cls(dsn, process, lease_s)
            await _end_backends(conn, process)
            asked_at = _boot_clock()
            async with conn.transaction():
                await conn.execute("SELECT pg_advisory_xact_lock(42, $1)", process)
                row = await conn.fetchrow(
                    "UPDATE processes SET epoch = epoch + 1,"
                    " lease_until = clock_timestamp() + make_interval(secs => $2)"
                    " WHERE process = $1"
                    " RETURNING epoch, id_high_water, low_water, event_cursor",
                    process,
                    lease_s,
                )
            if row is None:
                raise StoreUnavailable(f"the row of process {process} vanished")
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL failed during a takeover") from error
        finally:
            await close(conn)
        lease.epoch = row["epoch"]
        lease.id_floor = lease.id_high_water = row["id_high_water"]
        lease.low_water = row["low_water"]
        lease.event_cursor = row["event_cursor"]
        lease.lease_end_boot = asked_at + lease_s
        return lease

    def is_valid(self, clock: Callable[[], float] = _boot_clock) -> bool:
        """Whether we may still send: compared before every burst, no I/O."""
        return clock() < self.lease_end_boot - SAFETY_S

    async def renew(self, *, id_high_water: int, low_water: int, event_cursor: int) -> None:
        """Extend the lease and write the marks, one statement.

        Raises LeaseLost when another owner took the number, StoreUnavailable when PostgreSQL
        is away: the lease then still runs to its end.
        """
        await self._write(self._lease_s, id_high_water, low_water, event_cursor)

    async def release(self, *, id_high_water: int, low_water: int, event_cursor: int) -> None:
        """End the lease now, with the last marks, and close."""
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
    ) -> None:
        asked_at = _boot_clock()
        try:
            if self._conn is None or self._conn.is_closed():
                self._conn = await connect(self._dsn, process=self.process, epoch=self.epoch)
            reserved = await self._conn.fetchval(
                "UPDATE processes SET lease_until = clock_timestamp() + make_interval(secs => $3),"
                " id_high_water = greatest(id_high_water, $4), low_water = $5,"
                " event_cursor = greatest(event_cursor, $6)"
                " WHERE process = $1 AND epoch = $2 RETURNING id_high_water",
                self.process,
                self.epoch,
                lease_s,
                id_high_water,
                low_water,
                event_cursor,
            )
        except TROUBLE as error:
            raise StoreUnavailable("PostgreSQL did not renew the lease") from error
        if reserved is None:
            self.lease_end_boot = 0.0
            raise LeaseLost(f"process {self.process} has a newer owner than epoch {self.epoch}")
        self.id_high_water, self.low_water, self.event_cursor = reserved, low_water, event_cursor
        self.lease_end_boot = asked_at + lease_s


async def _number_of(conn: Connection, node: str, slot: int) -> int:
    """The slot's process number, the lowest free one when it has none yet."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1, 0)", _NUMBERS_LOCK)
        known = await conn.fetchval(
            "SELECT process FROM processes WHERE node = $1 AND slot = $2", node, slot
        )
        if known is not None:
            return int(known)
        taken = {row["process"] for row in await conn.fetch("SELECT process FROM processes")}
        process = next((n for n in range(MAX_PROCESS + 1) if n not in taken), None)
        if process is None:
            raise StoreUnavailable(f"all {MAX_PROCESS + 1} process numbers are taken")
        await conn.execute(
            "INSERT INTO processes (process, epoch, node, slot, lease_until,"
            " id_high_water, low_water, event_cursor)"
            " VALUES ($1, 0, $2, $3, '-infinity', $4, $4, $4)",
            process,
            node,
            slot,
            await _now_id(conn),
        )
        return process


async def _now_id(conn: Connection) -> int:
    """Where a new process begins: it owes nothing older, so it need not look for it."""
    unix_s = await conn.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return id_at(float(unix_s) - NEW_PROCESS_MARGIN_S)


async def _end_backends(conn: Connection, process: int) -> None:
    """End what the former owner left running; the exclusive lock waits for the rest."""
    prefix = application_name(process, 1).rsplit("/", 1)[0] + "/"
    await conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE starts_with(application_name, $1) AND pid <> pg_backend_pid()"
        " AND datname = current_database()",  # another gateway may live beside us
        prefix,
    )
