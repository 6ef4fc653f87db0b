"""Step 4 of the path: messages become durable, and with that ours (DESIGN decisions 2, 4, 5).

    accept() ─┬─▶ plain line ─┬─▶ lane 0 ═COPY═▶ COMMIT ─▶ on_committed ─▶ futures resolve ─▶ 202
              │               └─▶ lane 1
              ├─▶ otp line ─────▶ lane 2 ═COPY═▶ …
              └─▶ keyed line ───▶ lane 3 ═keys═▶ COPY ═▶ COMMIT ─▶ …
                                         └─▶ taken: the future fails, nothing was stored

A lane flushes when it is free and something waits; rows gather while the disk works. Claims,
counts and batch rows ride in the same transaction. A future that resolves is the one promise
of the gateway: before it we may refuse, after it we must finish.

What has an Idempotency-Key or a client_ref waits in a line of its own: its flush may have to
wait for another process's commit, and nobody without a key waits for that (`store.intake`).
Single otp messages, with or without a key, have a line of their own too: however much others send,
no login code stands behind a flush of hundreds of their messages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from sms.errors import (
    GatewayError,
    KeyBusy,
    KeyTaken,
    LeaseLost,
    NotFirst,
    OutcomeUnknown,
    RefsTaken,
    StoreUnavailable,
)
from sms.ids import IdClock
from sms.model import Message, MessageClass
from store.claims import ClaimBook, ClaimToken
from store.copying import BAD_ROW, COPY_MESSAGES, build_messages, payload
from store.database import AWAY, OpenConnection
from store.fragments import batch_sql, deltas_sql
from store.intake import IntakeKey, KeyRow, Kind, Slot, Stored, release_sql, take
from store.line import Line, Unit
from store.link import LOCK_NOT_AVAILABLE, Aborted, Backoff, Link, LinkLost, ask
from store.scheduled import scheduled_sql
from store.seal import Keyring, day_of
from store.usage import accepted_moves, usage_sql
from telemetry.failpoints import failpoints

_LOG = logging.getLogger(__name__)
_NO_LIMIT = (1 << 63) - 1
_OTP = MessageClass.OTP
_FEW = 16  # otp messages of one request that are login codes, and not a blast of them
# How long a flush waits for keys that another process has not committed yet; once that was too
# long, the halves in which the one that waits is looked for wait less. All of it stays below the
# second of age at which intake is shed (RELIABILITY section 9).
_LOCK_MS, _LOCK_AGAIN_MS = 500, 50
_WAITED = frozenset({LOCK_NOT_AVAILABLE, "40P01"})  # and deadlock_detected
_TOO_LONG = _WAITED | {"57014"}  # the statement's own time, spent on several keys


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
        keyed_lanes: int = 1,
        otp_lanes: int = 1,
        max_rows: int = 500,  # of one flush; what follows its commit holds the event loop
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

        def line(lanes: int) -> Line:
            return Line([Link(open_conn, process, timeout_s, self._wake_all) for _ in range(lanes)])

        self._plain, self._keyed, self._otp = line(lanes), line(keyed_lanes), line(otp_lanes)
        self._lines = (self._plain, self._otp, self._keyed)
        self._links = [link for each in self._lines for link in each.links]
        self._held: dict[Slot, Unit] = {}  # keys of what is neither stored nor refused yet
        self._flying: dict[Link, list[Unit]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._orphans: list[Unit] = []  # in doubt after a bug of ours; recovery's business
        self._is_open = False
        self._is_due = False  # claims were asked for
        self._is_lost = False

    async def start(self) -> None:
        """Connect all lanes; raises StoreUnavailable when PostgreSQL is away."""
        for link in self._links:
            await link.connect()
        self._is_open = True
        self._tasks = [
            asyncio.create_task(self._lane(line, link))
            for line in self._lines
            for link in line.links
        ]

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
        self,
        messages: list[Message],
        *,
        batch_verdicts: Callable[[], bytes] | None = None,
        keys: Sequence[IntakeKey] = (),
    ) -> asyncio.Future[None]:
        """Give the messages contiguous ids and store them in one transaction, with their keys.

        The future is done after COMMIT with fsync and after `on_committed`. It fails with
        StoreUnavailable (certainly not stored), OutcomeUnknown (never retry under a new id), or
        one of NotFirst: another request has one of the keys, and nothing was stored.
        `batch_verdicts` is asked once the messages have their ids. Raises ValueError for none or
        more than 4096 messages; all must be of one tenant, and nobody may be the `holder` of a
        key of theirs.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = self._ids.next(len(messages))
        for message_id, message in enumerate(messages, first):
            message.id = message_id
        unit = Unit(messages, future, None if batch_verdicts is None else batch_verdicts())
        line = self._line_for(messages, bool(keys))
        reason = self._obstacle(line, first + len(messages) - 1, len(messages))
        if reason is None:
            reason = self._build(unit)
        if reason is not None:
            self._refuse([unit], reason)
            return future
        if keys:
            self._hold(unit, keys)
        line.put(unit)
        return future

    def _line_for(self, messages: Sequence[Message], is_keyed: bool) -> Line:
        is_few = messages[0].message_class is _OTP and len(messages) <= _FEW
        # While its lane connects anew, behind the others is better than refused.
        if is_few and self._otp.is_up() and all(one.message_class is _OTP for one in messages):
            return self._otp
        return self._keyed if is_keyed else self._plain

    def holder(self, keys: Iterable[IntakeKey]) -> asyncio.Future[None] | None:
        """When an accept of this process that has one of the keys will be over; None = none has.

        It is done, never failed, when the messages are stored or certainly are not.
        """
        held = self._held
        for key in keys:
            unit = held.get(key.slot)
            if unit is not None:
                return unit.over
        return None

    def kick(self) -> None:
        """Let a lane that has nothing to store commit the new claims.

        When nothing is accepted, claims need not wait for the event lane's running flush.
        """
        self._is_due = True
        self._plain.wake()

    def is_up(self) -> bool:
        """Whether at least one lane is connected and the lease is ours.

        A lane of the plain line: while only the keyed one connects anew, what has a key is refused.
        """
        return not self._is_lost and self._plain.is_up()

    def waiting(self) -> int:
        """Rows that wait for a lane."""
        return sum([line.rows for line in self._lines])

    def oldest_write_age_s(self) -> float:
        """Age of the oldest accept that is not committed yet, 0 when there is none."""
        first = min((unit.since for unit in self._uncommitted()), default=None)
        return 0.0 if first is None else time.monotonic() - first

    def full_at(self) -> float:
        """When PostgreSQL last had no room for an accept (monotonic); -inf: never."""
        return max(link.full_at for link in self._links)

    def pending_floor(self) -> int | None:
        """The lowest id that was given and is neither committed nor refused."""
        units = self._uncommitted() + self._orphans
        return min((unit.messages[0].id for unit in units), default=None)

    # ---- lanes ----

    async def _lane(self, line: Line, link: Link) -> None:
        backoff = Backoff()
        while not self._is_lost and (self._is_open or line.units):
            try:
                if not link.is_up():
                    await link.connect()
                    backoff.reset()
                units = line.take(self._max_rows)
                if units:
                    self._flying[link] = units
                    await self._flush(link, units)
                    del self._flying[link]
                elif self._is_due and line is self._plain:
                    self._is_due = False
                    await self._flush_claims(link)
                else:
                    await line.work()
            except StoreUnavailable as error:
                if not line.is_up():
                    self._refuse(line.take_all(), str(error))
                await asyncio.sleep(backoff.next_s())
            except Exception:  # noqa: BLE001 - the one of this loop (HOUSE 5)
                # A lane must outlive a bug of ours. What it had under way is in doubt: it keeps
                # the low-water mark down, so that the next recovery finds what was stored.
                _LOG.exception("an accept flush failed in an unforeseen way")
                if not line.is_up():
                    self._refuse(line.take_all(), "PostgreSQL is away")
                units = [unit for unit in self._flying.pop(link, []) if not unit.is_over]
                self._orphans += units
                self._doubt(units)
                self._let_go(units)  # whose the keys are, the store knows
                link.abandon()
                await asyncio.sleep(backoff.next_s())

    def _wake_all(self) -> None:
        for line in self._lines:
            line.wake_all()

    # ---- one flush ----

    async def _flush(self, link: Link, units: list[Unit], lock_ms: int = _LOCK_MS) -> None:
        keyed = [unit for unit in units if unit.keys]
        if len(keyed) < len(units):  # in the otp line: who has no key waits for nobody's
            await self._copy(link, [unit for unit in units if not unit.keys] if keyed else units)
        if keyed:
            is_otp = link in self._otp.links  # other login codes stand behind this flush
            await self._flush_keyed(link, keyed, _LOCK_AGAIN_MS if is_otp else lock_ms)

    async def _copy(self, link: Link, units: list[Unit], head: str = "", tail: str = "") -> None:
        """Store the units; `head` goes in front, and `tail` ends a transaction that is open."""
        began = time.monotonic()
        messages = [message for unit in units for message in unit.messages]
        block = self._claim(units, messages)
        sql = self._riders(units) + COPY_MESSAGES + tail
        data = payload([unit.rows for unit in units])
        claims_sql, token = self._claims.take_new_sql()
        if failpoints.is_armed:
            failpoints.hit("accept.before_copy")
        try:
            await link.run(head + claims_sql + sql, data)
        except Aborted as error:
            self._undo(token, block)
            if tail:
                await self._roll_back(link)
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

    async def _flush_keyed(self, link: Link, units: list[Unit], lock_ms: int) -> None:
        """Take the keys of all units; those that find one taken leave, the others are stored."""
        try:
            taken = await take(link, [row for unit in units for row in unit.keys], lock_ms)
        except Aborted as error:
            await self._roll_back(link)
            await self._divide_keyed(link, units, error)
            return
        except LeaseLost as error:
            self._lose_lease(units, str(error))
            return
        except (StoreUnavailable, LinkLost) as error:  # no COMMIT was sent
            self._refuse(units, str(error))
            return
        if failpoints.is_armed:
            failpoints.hit("accept.keyed")
        losers = [u for u in units if any(row.slot in taken for row in u.keys)] if taken else []
        for unit in losers:
            self._refuse([unit], _not_first(unit, taken))
        winners = [unit for unit in units if not unit.is_over]
        if winners:
            won = [row for unit in losers for row in unit.keys if row.slot not in taken]
            await self._copy(link, winners, release_sql(won), ";COMMIT")
        else:
            await self._roll_back(link)

    async def _divide_keyed(self, link: Link, units: list[Unit], error: Aborted) -> None:
        """One key that another process does not let go must not hold up its neighbours."""
        if len(units) > 1 and error.sqlstate in _TOO_LONG:
            middle = len(units) // 2
            await self._flush(link, units[:middle], _LOCK_AGAIN_MS)
            await self._flush(link, units[middle:], _LOCK_AGAIN_MS)
        elif error.sqlstate in _WAITED:
            self._refuse(units, KeyBusy("another process has the key and does not commit"))
        else:
            await self._divide(link, units, error)

    async def _roll_back(self, link: Link) -> None:
        """End a transaction that stored nothing; a connection that cannot even do that goes."""
        try:
            await link.run("ROLLBACK", None)
        except GatewayError:
            link.abandon()

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

    def _claim(self, units: list[Unit], messages: list[Message]) -> int:
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

    def _riders(self, units: list[Unit]) -> str:
        counts: dict[int, int] = {}
        batches = ""
        for unit in units:
            first = unit.messages[0]
            counts[first.tenant] = counts.get(first.tenant, 0) + len(unit.messages)
            if unit.verdicts is not None:
                batches += batch_sql(
                    first.id, unit.messages[-1].id, first.tenant, first.created_at, unit.verdicts
                )
        messages = [message for unit in units for message in unit.messages]
        return (
            batches
            + deltas_sql(self._process, {tenant: (n, 0, 0) for tenant, n in counts.items()})
            + usage_sql(accepted_moves(messages))
            + scheduled_sql(self._process, messages)
        )

    def _undo(self, token: ClaimToken, block: int) -> None:
        self._claims.failed(token)
        if block:
            self._claims.drop(block)

    def _succeed(self, units: list[Unit], messages: list[Message], token: ClaimToken) -> None:
        self._claims.committed(token)
        for message in messages:
            self.live[message.id] = message
        ask(self._hooks.on_committed, None, messages)
        for unit in units:
            unit.is_over = True
            if not unit.future.done():
                unit.future.set_result(None)
        self._let_go(units)
        if failpoints.is_armed:
            failpoints.hit("accept.told")

    async def _divide(self, link: Link, units: list[Unit], error: Aborted) -> None:
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

    async def _quarantine(self, link: Link, unit: Unit, error: Aborted) -> None:
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

    async def _settle(self, link: Link, units: list[Unit], token: ClaimToken, block: int) -> None:
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
                line = next(line for line in self._lines if link in line.links)
                if not line.is_up():
                    self._refuse(line.take_all(), str(error))
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

    def _obstacle(self, line: Line, last_id: int, rows: int) -> str | None:
        if not self._is_open:
            return "the gateway does not accept messages now"
        if self._is_lost or not line.is_up():
            return "PostgreSQL is away"
        if last_id > self.id_limit:
            return "the ids reserved for this process are used up"
        if self.waiting() + rows > self._max_waiting:
            return "too many messages wait to be stored"
        return None

    def _build(self, unit: Unit) -> str | None:
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

    def _uncommitted(self) -> list[Unit]:
        units = [line.units[0] for line in self._lines if line.units]  # ids grow along a line
        for flying in self._flying.values():
            units += flying
        return [unit for unit in units if not unit.is_over]

    def _refuse(self, units: list[Unit], why: str | NotFirst) -> None:
        """Certainly not stored."""
        for unit in units:
            unit.is_over = True
            ask(self._hooks.on_refused, None, unit.messages)
            for message in unit.messages:  # a batch may come again: what it was chosen for is over
                message.claim = 0
            if not unit.future.done():
                error = why if isinstance(why, NotFirst) else StoreUnavailable(why)
                unit.future.set_exception(error)
        self._let_go(units)

    def _refuse_waiting(self, reason: str) -> None:
        for line in self._lines:
            self._refuse(line.take_all(), reason)

    def _hold(self, unit: Unit, keys: Sequence[IntakeKey]) -> None:
        slots = {key.slot for key in keys}
        if len(slots) < len(keys) or not slots.isdisjoint(self._held):
            raise ValueError("a key of the accept is held already")
        unit.over = asyncio.get_running_loop().create_future()
        for key in keys:
            self._held[key.slot] = unit
            unit.keys.append(KeyRow(*key.slot, key.digest, unit.messages[key.place].id))

    def _let_go(self, units: list[Unit]) -> None:
        for unit in units:
            if unit.over is None or unit.over.done():
                continue
            for row in unit.keys:
                self._held.pop(row.slot, None)
            unit.over.set_result(None)

    def _doubt(self, units: list[Unit]) -> None:
        for unit in units:
            if not unit.future.done():
                unit.future.set_exception(
                    OutcomeUnknown("the connection to PostgreSQL broke during COMMIT")
                )

    def _lose_lease(self, units: list[Unit], reason: str) -> None:
        self._is_open = False
        is_first, self._is_lost = not self._is_lost, True
        if is_first:
            ask(self._hooks.on_lease_lost, None)
        self._refuse(units, reason)
        self._refuse_waiting(reason)
        self._wake_all()


def _not_first(unit: Unit, taken: dict[Slot, Stored]) -> NotFirst:
    """Why a unit left its flush; the request's own key is asked before its client_refs."""
    first_id = unit.messages[0].id
    refs: dict[int, int] = {}
    for row in unit.keys:
        stored = taken.get(row.slot)
        if stored is not None:
            if row.kind == Kind.REQUEST:
                return KeyTaken(stored.digest, stored.first_id)
            refs[row.first_id - first_id] = stored.first_id
    return RefsTaken(refs)
