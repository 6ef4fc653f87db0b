"""Step 4 of the path: messages become durable, and with that ours (DESIGN decisions 2, 4, 5).

    accept() ─▶ waiting ─▶ lane 0 ═COPY═▶ COMMIT ─▶ on_committed ─▶ futures resolve ─▶ 202
                       └─▶ lane 1

A lane flushes when it is free and something waits; rows gather while the disk works. Claims,
counts and batch rows ride in the same transaction. A future that resolves is the one promise
of the gateway: before it we may refuse, after it we must finish.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from sms.errors import LeaseLost, OutcomeUnknown, StoreUnavailable
from sms.ids import IdClock
from sms.model import Message
from store.claims import ClaimBook, ClaimToken
from store.copying import BAD_ROW, COPY_MESSAGES, build_messages, payload
from store.database import AWAY, OpenConnection
from store.fragments import batch_sql, deltas_sql
from store.link import Aborted, Backoff, Link, LinkLost, ask
from store.seal import Keyring, day_of
from telemetry.failpoints import failpoints

_LOG = logging.getLogger(__name__)
_NO_LIMIT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class AcceptHooks:
    """What the flow is told; all synchronous, none may raise (if one does, the commit stands)."""

    choose_claims: Callable[[list[Message]], list[Message]]
    """Which messages of a flush can leave at once; asked once for each message."""
    on_committed: Callable[[list[Message]], None]
    """They are durable and ours; before their futures. claim != 0: chosen and claimed."""
    on_refused: Callable[[list[Message]], None]
    """They are not stored; before their futures fail. claim != 0: they had been chosen."""
    on_lease_lost: Callable[[], None]
    on_flush: Callable[[str, int, float], None]
    """("accept", rows, seconds) of every flush that committed."""


class _Unit:
    """One accept(): stored whole or not at all."""

    __slots__ = ("future", "is_asked", "is_over", "messages", "rows", "since", "verdicts")

    def __init__(
        self, messages: list[Message], future: asyncio.Future[None], verdicts: bytes | None
    ) -> None:
        self.messages = messages
        self.future = future
        self.verdicts = verdicts
        self.rows = b""
        self.since = time.monotonic()
        self.is_asked = False  # choose_claims was asked about them
        self.is_over = False  # committed or refused


class Acceptor:
    """The accept lanes of one process."""

    def __init__(  # noqa: PLR0913 - keyword-only knobs with defaults, set once by wiring
        self,
        open_conn: OpenConnection,
        *,
        process: int,
        ids: IdClock,
        keyring: Keyring,
        claims: ClaimBook,
        hooks: AcceptHooks,
        lanes: int = 2,
        max_rows: int = 2000,  # rows of one flush
        max_waiting: int = 100_000,  # rows; beyond it accepts are refused
        timeout_s: float = 5.0,  # of one flush, and of the patience with a lost one
    ) -> None:
        self.live: dict[int, Message] = {}  # filled here after a commit, emptied by the flow
        self.id_limit = _NO_LIMIT  # ids above what the process row reserves are refused
        self._process = process
        self._ids = ids
        self._keyring = keyring
        self._claims = claims
        self._hooks = hooks
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._links = [Link(open_conn, process, timeout_s, self._wake_all) for _ in range(lanes)]
        self._waiting: deque[_Unit] = deque()
        self._waiting_rows = 0
        self._flying: dict[Link, list[_Unit]] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._orphans: list[_Unit] = []  # in doubt after a bug of ours; recovery's business
        self._is_open = False
        self._is_due = False  # claims were asked for
        self._is_lost = False

    async def start(self) -> None:
        """Connect all lanes; raises StoreUnavailable when PostgreSQL is away."""
        for link in self._links:
            await link.connect()
        self._is_open = True
        self._tasks = [asyncio.create_task(self._lane(link)) for link in self._links]

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Accept no more, flush what waits, close. What is left after the time is refused."""
        self._is_open = False
        self._wake_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for units in self._flying.values():
            self._doubt(units)
        self._refuse_waiting("the gateway stops")
        for link in self._links:
            link.abandon()

    # ---- what the flow calls ----

    def accept(
        self, messages: list[Message], *, batch_verdicts: bytes | None = None
    ) -> asyncio.Future[None]:
        """Give the messages contiguous ids and store them in one transaction.

        The future is done after COMMIT with fsync and after `on_committed`. It fails with
        StoreUnavailable (certainly not stored) or OutcomeUnknown (never retry under a new id).
        Raises ValueError for none or more than 4096 messages; all must be of one tenant.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = self._ids.next(len(messages))
        for message_id, message in enumerate(messages, first):
            message.id = message_id
        unit = _Unit(messages, future, batch_verdicts)
        reason = self._obstacle(first + len(messages) - 1, len(messages))
        if reason is None:
            reason = self._build(unit)
        if reason is not None:
            self._refuse([unit], reason)
            return future
        self._waiting.append(unit)
        self._waiting_rows += len(messages)
        self._wake()
        return future

    def kick(self) -> None:
        """Let a lane that has nothing to store commit the new claims.

        When nothing is accepted, claims need not wait for the event lane's running flush.
        """
        self._is_due = True
        self._wake()

    def is_up(self) -> bool:
        """Whether at least one lane is connected and the lease is ours."""
        return not self._is_lost and any(link.is_up() for link in self._links)

    def waiting(self) -> int:
        """Rows that wait for a lane."""
        return self._waiting_rows

    def oldest_write_age_s(self) -> float:
        """Age of the oldest accept that is not committed yet, 0 when there is none."""
        first = min((unit.since for unit in self._uncommitted()), default=None)
        return 0.0 if first is None else time.monotonic() - first

    def pending_floor(self) -> int | None:
        """The lowest id that was given and is neither committed nor refused."""
        units = self._uncommitted() + self._orphans
        return min((unit.messages[0].id for unit in units), default=None)

    # ---- lanes ----

    async def _lane(self, link: Link) -> None:
        backoff = Backoff()
        while not self._is_lost and (self._is_open or self._waiting):
            try:
                if not link.is_up():
                    await link.connect()
                    backoff.reset()
                units = self._take()
                if units:
                    self._flying[link] = units
                    await self._flush(link, units)
                    del self._flying[link]
                elif self._is_due:
                    self._is_due = False
                    await self._flush_claims(link)
                else:
                    await self._work()
            except StoreUnavailable as error:
                if not self.is_up():
                    self._refuse_waiting(str(error))
                await asyncio.sleep(backoff.next_s())
            except Exception:  # noqa: BLE001 - the one of this loop (HOUSE 5)
                # A lane must outlive a bug of ours. What it had under way is in doubt: it keeps
                # the low-water mark down, so that the next recovery finds what was stored.
                _LOG.exception("an accept flush failed in an unforeseen way")
                if not self.is_up():
                    self._refuse_waiting("PostgreSQL is away")
                units = [unit for unit in self._flying.pop(link, []) if not unit.is_over]
                self._orphans += units
                self._doubt(units)
                link.abandon()
                await asyncio.sleep(backoff.next_s())

    def _take(self) -> list[_Unit]:
        units: list[_Unit] = []
        rows = 0
        waiting = self._waiting
        while waiting and (not units or rows + len(waiting[0].messages) <= self._max_rows):
            unit = waiting.popleft()
            rows += len(unit.messages)
            units.append(unit)
        self._waiting_rows -= rows
        return units

    async def _work(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        await future

    def _wake(self) -> None:
        while self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._idle:
            self._wake()

    # ---- one flush ----

    async def _flush(self, link: Link, units: list[_Unit]) -> None:
        began = time.monotonic()
        messages = [message for unit in units for message in unit.messages]
        block = self._claim(units, messages)
        sql, data = self._riders(units) + COPY_MESSAGES, payload([unit.rows for unit in units])
        claims_sql, token = self._claims.take_new_sql()
        if failpoints.is_armed:
            failpoints.hit("accept.before_copy")
        try:
            await link.run(claims_sql + sql, data)
        except Aborted as error:
            self._undo(token, block)
            await self._divide(link, units, error)
        except LinkLost:
            await self._settle(link, units, token, block)
        except LeaseLost as error:
            self._undo(token, block)
            self._lose_lease(units, str(error))
        except StoreUnavailable as error:
            self._undo(token, block)
            self._refuse(units, str(error))
        except BaseException:
            self._claims.failed(token, is_certain=False)
            raise
        else:
            if failpoints.is_armed:
                failpoints.hit("accept.committed")
            self._succeed(units, messages, token)
            ask(self._hooks.on_flush, None, "accept", len(messages), time.monotonic() - began)

    async def _flush_claims(self, link: Link) -> None:
        """New claims alone. What fails or is in doubt rides again with whatever flushes next."""
        sql, token = self._claims.take_new_sql()
        if not sql:
            return
        try:
            await link.run(sql, None)
        except LeaseLost as error:
            self._claims.failed(token)
            self._lose_lease([], str(error))
        except BaseException as error:
            self._claims.failed(token, is_certain=isinstance(error, Aborted | StoreUnavailable))
            if isinstance(error, Aborted | LinkLost):
                raise StoreUnavailable("claims could not be committed") from error
            raise
        else:
            self._claims.committed(token)

    def _claim(self, units: list[_Unit], messages: list[Message]) -> int:
        """Claim what can leave at once; the halves of a divided flush keep what was chosen."""
        if units[0].is_asked:
            chosen = [message for message in messages if message.claim]
        else:
            for unit in units:
                unit.is_asked = True
            chosen = ask(self._hooks.choose_claims, [], messages)
        if not chosen:
            return 0
        block = self._claims.block([message.id for message in chosen])
        for message in chosen:
            message.claim = block
        return block

    def _riders(self, units: list[_Unit]) -> str:
        counts: dict[int, int] = {}
        batches = ""
        for unit in units:
            first = unit.messages[0]
            counts[first.tenant] = counts.get(first.tenant, 0) + len(unit.messages)
            if unit.verdicts is not None:
                batches += batch_sql(
                    first.id, unit.messages[-1].id, first.tenant, first.created_at, unit.verdicts
                )
        return batches + deltas_sql(
            self._process, {tenant: (n, 0, 0) for tenant, n in counts.items()}
        )

    def _undo(self, token: ClaimToken, block: int) -> None:
        self._claims.failed(token)
        if block:
            self._claims.drop(block)

    def _succeed(self, units: list[_Unit], messages: list[Message], token: ClaimToken) -> None:
        self._claims.committed(token)
        for message in messages:
            self.live[message.id] = message
        ask(self._hooks.on_committed, None, messages)
        for unit in units:
            unit.is_over = True
            if not unit.future.done():
                unit.future.set_result(None)
        if failpoints.is_armed:
            failpoints.hit("accept.told")

    async def _divide(self, link: Link, units: list[_Unit], error: Aborted) -> None:
        """A bad row must not refuse its neighbours: halve until it stands alone."""
        if not error.is_data() or error.has_no_partition:
            self._refuse(units, f"PostgreSQL refused the flush: {error}")
        elif len(units) > 1:
            middle = len(units) // 2
            await self._flush(link, units[:middle])
            await self._flush(link, units[middle:])
        else:
            self._refuse(units, "bad row")
            await self._quarantine(link, units[0], error)

    async def _quarantine(self, link: Link, unit: _Unit, error: Aborted) -> None:
        if link.conn is None:
            return
        try:
            await link.conn.execute(
                "INSERT INTO quarantine (message_id, step, error, row) VALUES ($1, $2, $3, $4)",
                unit.messages[0].id,
                "accept",
                error.sqlstate,
                unit.rows,
            )
        except (*AWAY, asyncpg.PostgresError):
            _LOG.warning("a bad row could not be quarantined", exc_info=True)

    async def _settle(self, link: Link, units: list[_Unit], token: ClaimToken, block: int) -> None:
        """Adopt or forget: find out whether a flush whose connection broke is durable.

        Futures wait at most `timeout_s` for the truth and then fail with OutcomeUnknown; the
        question is asked until it is answered all the same, because what committed is ours.
        """
        messages = [message for unit in units for message in unit.messages]
        question = f"SELECT EXISTS (SELECT FROM messages WHERE id = {messages[0].id})"
        patience_until = time.monotonic() + self._timeout_s
        backoff = Backoff()
        if failpoints.is_armed:
            failpoints.hit("accept.in_doubt")
        while True:
            try:
                is_there = await link.was_committed(question)
                break
            except StoreUnavailable as error:
                if not self.is_up():
                    self._refuse_waiting(str(error))
                if time.monotonic() > patience_until:
                    self._doubt(units)
                await asyncio.sleep(backoff.next_s())
            except LeaseLost as error:
                self._doubt(units)
                self._undo(token, block)
                self._lose_lease([], str(error))
                return
        if is_there:
            self._succeed(units, messages, token)
        else:
            self._undo(token, block)
            self._refuse(units, "the connection to PostgreSQL broke")

    # ---- saying no ----

    def _obstacle(self, last_id: int, rows: int) -> str | None:
        if not self._is_open:
            return "the gateway does not accept messages now"
        if not self.is_up():
            return "PostgreSQL is away"
        if last_id > self.id_limit:
            return "the ids reserved for this process are used up"
        if self._waiting_rows + rows > self._max_waiting:
            return "too many messages wait to be stored"
        return None

    def _build(self, unit: _Unit) -> str | None:
        first = unit.messages[0]
        sealer = self._keyring.sealer_for(first.tenant, first.id)
        if sealer is None:
            return f"no data key for day {day_of(first.id)}"
        try:
            unit.rows = build_messages(unit.messages, sealer, self._keyring)
        except BAD_ROW:
            _LOG.warning("a message does not fit a row", exc_info=True)
            return "bad row"
        return None

    def _uncommitted(self) -> list[_Unit]:
        units = [self._waiting[0]] if self._waiting else []  # ids grow along the list
        for flying in self._flying.values():
            units += flying
        return [unit for unit in units if not unit.is_over]

    def _refuse(self, units: list[_Unit], reason: str) -> None:
        """Certainly not stored."""
        for unit in units:
            unit.is_over = True
            ask(self._hooks.on_refused, None, unit.messages)
            if not unit.future.done():
                unit.future.set_exception(StoreUnavailable(reason))

    def _refuse_waiting(self, reason: str) -> None:
        units = list(self._waiting)
        self._waiting.clear()
        self._waiting_rows = 0
        self._refuse(units, reason)

    def _doubt(self, units: list[_Unit]) -> None:
        for unit in units:
            if not unit.future.done():
                unit.future.set_exception(
                    OutcomeUnknown("the connection to PostgreSQL broke during COMMIT")
                )

    def _lose_lease(self, units: list[_Unit], reason: str) -> None:
        self._is_open = False
        is_first, self._is_lost = not self._is_lost, True
        if is_first:
            ask(self._hooks.on_lease_lost, None)
        self._refuse(units, reason)
        self._refuse_waiting(reason)
        self._wake_all()
