"""A lane's connection: sends a flush and tells exactly how it ended.

    run() ─▶ returned            committed, with fsync
          ─▶ Aborted             certainly not committed; the connection is fine
          ─▶ StoreUnavailable    nothing was sent
          ─▶ LinkLost            sent, and nobody answered: ask `was_committed`
          ─▶ LeaseLost           certainly not committed, and never again

After LinkLost the old backend may still be about to commit. Asking at once loses messages
(seen): it is ended first, then the process's exclusive lock is taken, which every writing
transaction holds shared, and only then is the question asked, in a fresh snapshot.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import asyncpg

from sms.errors import GatewayError, LeaseLost, StoreUnavailable
from store.copying import copy_in
from store.database import AWAY, LEASE_LOST_CODE, Connection, OpenConnection

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
UNIQUE_VIOLATION = "23505"
LOCK_NOT_AVAILABLE = "55P03"
DISK_FULL = "53100"
_CHECK_VIOLATION = "23514"
_END_WAIT_MS = 1000  # below the statement time-out
_BACKOFF_S = (0.05, 2.0)


def ask(hook: Callable[..., T], fallback: T, *args: object) -> T:
    """Call a hook of the flow; a bug behind it must not stop a lane, so it gives `fallback`."""
    try:
        return hook(*args)
    except Exception:  # noqa: BLE001 - logged here, at the one door to the hooks
        _LOG.exception("a hook of a lane failed")
        return fallback


class Aborted(GatewayError):
    """The server refused the flush and undid it."""

    def __init__(self, sqlstate: str, text: str, constraint: str | None = None) -> None:
        super().__init__(f"{sqlstate} {text}")
        self.sqlstate = sqlstate
        self.has_no_partition = sqlstate == _CHECK_VIOLATION and constraint is None

    def is_data(self) -> bool:
        """Whether the rows themselves are at fault, so that dividing them finds the bad one."""
        return self.sqlstate[:2] in ("22", "23", "54")


class LinkLost(GatewayError):
    """The connection broke while a flush was under way."""


class Backoff:
    """Waiting times between tries: doubling, jitter 20 %, capped."""

    def __init__(self) -> None:
        self._next_s = _BACKOFF_S[0]

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, _BACKOFF_S[1])
        return wait_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter needs no cryptography

    def reset(self) -> None:
        """It worked: start small again."""
        self._next_s = _BACKOFF_S[0]


class Link:
    """One connection of one lane; used by that lane alone."""

    def __init__(
        self,
        open_conn: OpenConnection,
        process: int,
        timeout_s: float,
        on_end: Callable[[], None],  # the connection ended, perhaps while nothing was to do
    ) -> None:
        self._open_conn = open_conn
        self._on_end = on_end
        self._process = process
        self._timeout_s = timeout_s
        self._started: tuple[int, datetime] | None = None  # pid and start of our backend
        self._old: tuple[int, datetime] | None = None  # a backend that may still commit
        self.conn: Connection | None = None
        self.full_at = -math.inf  # monotonic; when PostgreSQL last said that its disk is full

    def is_up(self) -> bool:
        """Whether a flush can be tried."""
        return self.conn is not None and not self.conn.is_closed()

    async def connect(self) -> None:
        """Open the connection anew; raises StoreUnavailable.

        When a flush was lost with the former one, its backend has certainly ended afterwards.
        """
        self.abandon()
        conn = await self._open_conn()
        try:
            if self._old is not None:
                await self._end_old(conn)
            started = await conn.fetchrow(
                "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            )
        except (*AWAY, asyncpg.PostgresError) as error:
            conn.terminate()
            raise StoreUnavailable("PostgreSQL went away again") from error
        except BaseException:
            conn.terminate()
            raise
        if started is None:
            conn.terminate()
            raise StoreUnavailable("our own backend is not listed")
        conn.add_termination_listener(lambda _: self._on_end())
        self.conn, self._started = conn, (started["pid"], started["backend_start"])

    def abandon(self) -> None:
        """Drop the connection without a word."""
        conn, self.conn = self.conn, None
        if conn is not None and not conn.is_closed():
            conn.terminate()

    async def run(self, sql: str, data: memoryview | None) -> str:
        """Send one flush: `sql` with a COPY in it when there is `data`. See the head of the file.

        Returns the tag of its last statement, nothing for a COPY.
        """
        conn = self._sound()
        try:
            if data is None:
                return await conn.execute(sql, timeout=self._timeout_s)
            await copy_in(conn, sql, data, self._timeout_s)
        except (asyncpg.PostgresError, *AWAY) as error:
            raise self.judge(error) from error
        return ""

    async def read(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        """Read inside a transaction of the lane; raises as `run`."""
        conn = self._sound()
        try:
            return await question(conn)
        except (asyncpg.PostgresError, *AWAY) as error:
            raise self.judge(error) from error

    def _sound(self) -> Connection:
        conn = self.conn
        if conn is None or conn.is_closed():
            raise StoreUnavailable("PostgreSQL is away")
        return conn

    def judge(self, error: BaseException) -> GatewayError:
        """What an error of a flush means; drops the connection where it is not sound."""
        if isinstance(error, asyncpg.PostgresError) and not isinstance(error, AWAY):
            sqlstate = str(error.sqlstate or "")
            if sqlstate == LEASE_LOST_CODE:
                return LeaseLost(f"process {self._process} has a newer owner")
            if sqlstate == DISK_FULL:
                self.full_at = time.monotonic()
            if not sqlstate.startswith("57P") and self.is_up():
                return Aborted(sqlstate, str(error), error.constraint_name)
        # A FATAL can arrive after the commit and before its confirmation.
        self._old = self._started
        self.abandon()
        return LinkLost(f"the connection broke during a flush: {type(error).__name__}")

    async def was_committed(self, question: str) -> bool:
        """Whether the flush that was lost is durable; `question` selects one boolean.

        Reconnects where needed. Raises StoreUnavailable while nobody can say, LeaseLost when
        somebody else owns the answer.
        """
        if not self.is_up():
            await self.connect()
        conn = self.conn
        if conn is None:
            raise StoreUnavailable("PostgreSQL is away")
        try:
            async with conn.transaction():
                await conn.execute("SELECT pg_advisory_xact_lock(42, $1)", self._process)
                is_ours = await conn.fetchval(
                    "SELECT epoch = current_setting('smsgw.epoch')::int FROM processes"
                    " WHERE process = $1",
                    self._process,
                )
                answer = bool(await conn.fetchval(question))
        except (*AWAY, asyncpg.PostgresError) as error:
            self.abandon()
            raise StoreUnavailable("PostgreSQL went away again") from error
        if not is_ours:
            raise LeaseLost(f"process {self._process} has a newer owner")
        return answer

    async def _end_old(self, conn: Connection) -> None:
        if self._old is None:
            return
        pid, started = self._old
        running = (
            "SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity"
            " WHERE pid = $1 AND backend_start = $2"
        )
        await conn.execute(running, pid, started, _END_WAIT_MS)
        if await conn.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2)",
            pid,
            started,
        ):
            raise StoreUnavailable("the backend of a lost flush has not ended yet")
        self._old = None
