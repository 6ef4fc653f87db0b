"""Texts from phones: kept once, joined, told to their tenant; the carrier is answered afterwards.

    receive ─▶ pending ─▶ a batch ─▶ whose? ─▶ one COMMIT: keys, joins, texts, events,
                                               suppressions ─▶ answers, webhooks, waiting messages

Nothing is answered before its COMMIT is known. What a carrier sends again finds its key taken and
is answered like the first. While the store is away the batch waits and is tried again as it is,
under the same ids: its keys tell whether the lost COMMIT was one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from gateway.inbound_commit import (
    Delivery,
    Ids,
    InboundCommit,
    InboundPolicy,
    Outcome,
    has_own_id,
)
from gateway.inbound_notices import notices_of_inbound
from gateway.notices import Notice
from gateway.owners import Owners
from sms.config import Snapshot
from sms.errors import LeaseLost, Unavailable
from sms.ids import IdClock
from sms.model import EventRow, Inbound, InboundMessage
from sms.numbers import phone_of
from store.inbound import InboundStore, Join, Unreadable
from store.inbound_read import InboundReader
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

BATCH: Final = 200  # deliveries of one commit
MAX_PENDING: Final = 10_000  # beyond, the carrier is told "later"
MAX_CHARACTERS: Final = 8_000_000  # of all that wait: at most 32 MB
MAX_IN_SEGMENT: Final = 1600  # characters; what is longer was cut by nobody for the air
POLL_S: Final = 1.0  # between two looks for long texts whose wait is over
DUE_AT_ONCE: Final = 100
AWAY_S: Final = 0.5
CRASHES: Final = 5  # what crashes its handler so often is set aside for a person
FIRST_AGAIN_S: Final = 1.0  # after a crash, then twice as long each time: 15 s in all
MAX_CRASHES: Final = 1000  # long texts whose crashes are counted
THROUGH_S: Final = 30.0  # a session that lives so long behind an answer has passed it on
PROMPT_S: Final = 5.0  # after which a carrier may have begun to send it again
MAX_UNSURE: Final = 20_000
KEYS_AT_ONCE: Final = 50_000
NATIONAL: Final = "national_cn"  # `number_format` of a channel that writes numbers without 86

log = get_logger(__name__)


class Told(Protocol):
    """Who must hear of events: the webhooks."""

    def committed(self, notices: Sequence[Notice], *, up_to: int = 0) -> None:
        """Called after a commit; `up_to` is the highest event id in it."""
        ...


class Answerer(Protocol):
    """How a carrier is answered: through the channel that brought the texts."""

    def __call__(self, channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        """Tell it that they are kept (or to send them again later)."""
        ...


class _Answered(NamedTuple):
    """What was answered and is known by its contents alone."""

    at: float  # monotonic
    key: bytes
    id: int
    token: object


class InboundDesk:
    """Settles what phones sent; `receive` is synchronous, everything else is one loop."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        store: InboundStore,
        reader: InboundReader,
        owners: Owners,
        ids: IdClock,
        metrics: Metrics,
        answer: Answerer,
        told: Told,
        suppressed: Callable[[], Awaitable[None]],
        is_linked: Callable[[object], bool] = lambda _token: False,
        policy: InboundPolicy | None = None,
        unix: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`suppressed` brings new entries of the suppression list into force in this process.

        `is_linked`: whether the session that a token came over still stands.
        """
        self._store = store
        self._reader = reader
        self._owners = owners
        self._commit = InboundCommit(store, owners, policy or InboundPolicy(), self._new_ids)
        self._ids = ids
        self._metrics = metrics
        self.opted_out: Callable[[int, int], None] = lambda _channel, _number: None  # how many
        self._answer = answer
        self._told = told
        self._suppressed = suppressed
        self._is_linked = is_linked
        self._unsure: deque[_Answered] = deque(maxlen=MAX_UNSURE)
        self._unix = unix
        self._monotonic = monotonic
        self._pending: list[Delivery] = []
        self._flying: list[Delivery] = []
        self._most = BATCH  # of one commit, as things are
        self._held = 0  # deliveries that wait, in all three places
        self._characters = 0  # of their texts
        self._aside: dict[bytes, Delivery] = {}  # what crashed, by key: each tried again alone
        self._most_due = DUE_AT_ONCE  # of one look, as things are
        self._planned: dict[bytes, Ids] = {}  # of texts to release
        self._join_crashes: dict[bytes, int] = {}  # by key of the long text
        self._waiting = 0  # long texts, as last seen
        self._polled_at = -POLL_S
        self._names: dict[int, str] = {}
        self._mainland: frozenset[int] = frozenset()  # channels whose bare numbers are +86
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_stopping = False
        metrics.before_scrape.append(self._set_gauges)

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Take over a new configuration."""
        self._owners.reconfigure(snapshot)
        self._names.update({channel.id: channel.name for channel in snapshot.channels.values()})
        # The mainland's own protocols have put the 86 in front already.
        self._mainland = frozenset(
            channel.id
            for channel in snapshot.channels.values()
            if channel.protocol == "smpp"
            and (
                channel.countries == frozenset({86})
                or channel.settings.get("number_format") == NATIONAL
            )
        )

    # -- from a channel --------------------------------------------------------------------

    def receive(self, channel: int, texts: Sequence[Inbound]) -> None:
        """Texts of one burst of one channel; answered when they are durable."""
        beyond: list[Inbound] = []
        unix, now = self._unix(), self._monotonic()
        for text in texts:
            if self._held >= MAX_PENDING or self._characters + len(text.text) > MAX_CHARACTERS:
                beyond.append(text)
                continue
            self._held += 1
            self._characters += len(text.text)
            if text.mark is not None and len(text.text) > MAX_IN_SEGMENT:
                text.mark = None  # the row of a long text is written anew with each segment
            text.number = phone_of(text.number, is_mainland=channel in self._mainland)
            key = self._store.keys.of_delivery(text)
            self._pending.append(Delivery(text, self._new_ids(), key, unix, now, [text.token]))
        if beyond:
            self._answer(channel, [text.token for text in beyond], accepted=False)
            self._count({(channel, "refused"): len(beyond)})
        if self._pending:
            self._wake.set()

    def pending_floor(self) -> int | None:
        """The lowest event id that may still be committed; None when nothing waits."""
        floors = [one.ids.events[0] for one in self._waiting_ones()]
        floors += [ids.events[0] for ids in self._planned.values()]
        return min(floors, default=None)

    def _waiting_ones(self) -> list[Delivery]:
        return [*self._flying, *self._pending, *self._aside.values()]

    def _new_ids(self) -> Ids:
        first = self._ids.next(3)
        return Ids(first, (first + 1, first + 2))

    # -- the loop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep what came, release what waited long enough, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            self._wake.clear()
            if self._is_stopping:
                continue
            self._idle.clear()
            try:
                await self.round()
            except LeaseLost:
                raise
            except Unavailable:
                self._metrics.inbound_total.inc(("", "store_away"))
                self._wake.set()
                await asyncio.sleep(AWAY_S)
            except Exception:  # a defect of ours must not end the loop, and with it the worker
                log.exception("a turn of texts from phones failed", step="inbound")
                self._metrics.inbound_total.inc(("", "failed"))
                self._wake.set()
                await asyncio.sleep(AWAY_S)
            finally:
                self._idle.set()

    async def stop(self, timeout_s: float) -> None:
        """Begin nothing new and wait for what is being committed; the channels are stopped.

        What is left is unanswered: the carrier sends it again, to whoever comes next.
        """
        self._is_stopping = True
        for delivery in (*self._pending, *self._aside.values()):
            self._let_go(delivery)
        self._pending.clear()
        self._aside.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    async def round(self) -> None:
        """One turn; raises Unavailable and keeps what it could not settle."""
        while not self._is_stopping and self._next():
            try:
                await self._settle(self._flying)
            except Unavailable:
                self._halve()
                raise
            self._flying = []
            self._most = min(BATCH, self._most * 2)
        if self._monotonic() - self._polled_at >= POLL_S:
            self._polled_at = self._monotonic()
            await self._release()
            await self._forget_answered()
            self._waiting = await self._store.waiting()

    async def forget(self) -> None:
        """Remove what deliveries of long ago were known by."""
        await self._store.forget_keys(KEYS_AT_ONCE)

    def _next(self) -> bool:
        """Choose what is settled next, unless something still is; False when nothing is due."""
        if self._flying:
            return True
        now = self._monotonic()
        again = next((one for one in self._aside.values() if one.again_at <= now), None)
        if again is not None:
            del self._aside[again.key]
            self._flying = [again]
            return True
        while self._pending and not self._flying:
            batch, self._pending = self._pending[: self._most], self._pending[self._most :]
            self._flying = self._merged(batch)
        return bool(self._flying)

    def _halve(self) -> None:
        """A batch that took too long would do so again: half of it goes first."""
        self._most = max(1, len(self._flying) // 2)
        self._flying, back = self._flying[: self._most], self._flying[self._most :]
        self._pending = back + self._pending

    def _merged(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """A repeat in the same batch, or of one that is set aside, is answered with the first."""
        by_key: dict[bytes, Delivery] = {}
        for delivery in deliveries:
            first = self._aside.get(delivery.key) or by_key.setdefault(delivery.key, delivery)
            if first is not delivery:
                first.tokens += delivery.tokens
                self._let_go(delivery)
        return list(by_key.values())

    async def _settle(self, batch: list[Delivery]) -> None:
        """Keep a batch; one that crashes its handler is tried again alone, and given up at last."""
        try:
            outcome = await self._commit.keep(batch, self._unix())
        except (Unavailable, LeaseLost):
            raise
        except Exception as error:  # one bad delivery must not stop the others
            if len(batch) > 1:
                for delivery in batch:
                    await self._settle([delivery])
                    self._flying = [one for one in self._flying if one is not delivery]
                return
            log.exception("a text from a phone crashed its handler", step="inbound")
            await self._crashed(batch[0], type(error).__name__)
            return
        await self._done(outcome)
        self._respond(batch, accepted=True)
        self._remember(batch)

    def _respond(self, batch: Iterable[Delivery], *, accepted: bool) -> None:
        by_channel: dict[int, list[object]] = {}
        for delivery in batch:
            self._let_go(delivery)
            by_channel.setdefault(delivery.text.channel, []).extend(delivery.tokens)
        for channel, tokens in by_channel.items():
            try:
                self._answer(channel, tokens, accepted=accepted)
            except Exception:  # the others must have theirs; this one comes again
                log.exception("texts could not be answered", step="inbound")

    def _remember(self, batch: Iterable[Delivery]) -> None:
        """Whose keys may be forgotten once their answers have surely arrived."""
        now = self._monotonic()
        for one in batch:
            if not has_own_id(one.text) and now - one.since <= PROMPT_S:
                self._unsure.append(_Answered(now, one.key, one.ids.text, one.tokens[-1]))

    async def _forget_answered(self) -> None:
        """The carrier has these answers, so the same words once more are another text.

        Where the session ended meanwhile nobody knows: there the key keeps its time.
        """
        before = self._monotonic() - THROUGH_S
        through: list[tuple[bytes, int]] = []
        while self._unsure and self._unsure[0].at <= before:
            one = self._unsure.popleft()
            if self._is_linked(one.token):
                through.append((one.key, one.id))
        if through:
            await self._store.forget(through)

    def _let_go(self, delivery: Delivery) -> None:
        self._held -= 1
        self._characters -= len(delivery.text.text)

    async def _crashed(self, delivery: Delivery, error: str) -> None:
        """Again after 1, 2, 4 and 8 s; then a person must look at it, and the carrier is answered.

        It is not left to the carrier: some send three times in all, each time to another process.
        """
        delivery.crashes += 1
        self._count({(delivery.text.channel, "failed"): 1})
        if delivery.crashes < CRASHES:
            again_s = FIRST_AGAIN_S * 2 ** (delivery.crashes - 1)
            delivery.again_at = self._monotonic() + again_s
            self._aside[delivery.key] = delivery
            return
        is_safe = False
        try:
            await self._store.quarantine(delivery.text, error)
            is_safe = True
        except (Unavailable, LeaseLost):
            raise
        except Exception:
            log.exception("a bad text could not be set aside", step="inbound")
        if is_safe:
            self._metrics.quarantined_total.inc(("inbound",))
        self._respond([delivery], accepted=is_safe)

    async def _done(self, outcome: Outcome) -> None:
        """After the commit: tell, count, act."""
        known = [(message, outcome.rows[message.id]) for message in outcome.messages]
        known += await self._read_back(outcome.doubtful)
        notices = [notice for message, rows in known for notice in self._notices(message, rows)]
        self._count(outcome.ends)
        try:
            self._told.committed(notices, up_to=max((one.event_id for one in notices), default=0))
            if any(message.suppressed for message, _ in known):
                with contextlib.suppress(Unavailable):  # the poll brings it too
                    await self._suppressed()
        except LeaseLost:
            raise
        except Exception:  # it is committed: its carrier must be answered
            log.exception("kept texts could not be told", step="inbound")

    async def _read_back(self, ids: Sequence[int]) -> list[tuple[InboundMessage, list[EventRow]]]:
        """Those that a lost COMMIT kept; one that cannot be read costs no other its answer."""
        try:
            return [(one.message, one.rows) for one in (await self._reader.messages(ids)).values()]
        except (Unavailable, LeaseLost):
            raise
        except Exception:
            log.exception("a kept text cannot be read back", step="inbound")
        if len(ids) == 1:
            return []
        return [known for one in ids for known in await self._read_back([one])]

    def _notices(self, message: InboundMessage, rows: Sequence[EventRow]) -> list[Notice]:
        try:
            return notices_of_inbound(message, rows, None, self._names)
        except Exception:  # it is committed: its carrier must be answered
            log.exception("a kept text cannot be told", step="inbound", message_id=message.id)
            return []

    # -- what waited long enough -----------------------------------------------------------

    async def _release(self) -> None:
        """Texts whose segments did not all come: told as they are. Raises Unavailable."""
        found = await self._store.due(self._most_due)
        due = {one.key: one for one in found if not isinstance(one, Unreadable)}
        for one in found:
            if isinstance(one, Unreadable):
                await self._join_crashed(one.key, one.error)
        for key in due:
            if key not in self._planned:
                self._planned[key] = self._new_ids()
        # What crashed is tried alone, behind the others.
        bad = [key for key in due if key in self._join_crashes]
        try:
            await self._release_some([key for key in self._planned if key not in bad], due)
        except Unavailable:
            self._most_due = max(1, self._most_due // 2)
            raise
        self._most_due = min(DUE_AT_ONCE, self._most_due * 2)
        for key in bad:
            await self._release_some([key], due)

    async def _release_some(self, keys: Sequence[bytes], due: dict[bytes, Join]) -> None:
        if not keys:
            return
        plans = {key: self._planned[key] for key in keys}
        own = {key: due[key] for key in keys if key in due}
        try:
            outcome = await self._commit.release(own, plans, self._unix())
        except (Unavailable, LeaseLost):
            raise
        except Exception as error:  # one bad long text must not stop the others
            if len(keys) > 1:
                for key in keys:
                    await self._release_some([key], due)
                return
            log.exception("a long text crashed its handler", step="inbound")
            self._planned.pop(keys[0], None)
            await self._join_crashed(keys[0], type(error).__name__)
            return
        await self._done(outcome)
        for key in keys:
            self._planned.pop(key, None)
            self._join_crashes.pop(key, None)

    async def _join_crashed(self, key: bytes, error: str) -> None:
        """A long text that five looks could not release goes to quarantine as it stands."""
        times = self._join_crashes.get(key, 0) + 1
        if times < CRASHES:
            if len(self._join_crashes) >= MAX_CRASHES:
                self._join_crashes.clear()
            self._join_crashes[key] = times
            return
        try:
            if await self._store.quarantine_join(key, error):
                log.error("a long text is set aside", step="inbound", error=error)
                self._metrics.quarantined_total.inc(("inbound",))
        except (Unavailable, LeaseLost):
            raise
        except Exception:
            log.exception("a bad long text could not be set aside", step="inbound")
        self._join_crashes.pop(key, None)

    # -- metrics ---------------------------------------------------------------------------

    def _count(self, ends: dict[tuple[int, str], int]) -> None:
        for (channel, end), number in ends.items():
            self._metrics.inbound_total.inc((self._names.get(channel, ""), end), number)
            if end == "opted_out":
                self.opted_out(channel, number)

    def _set_gauges(self) -> None:
        oldest = min((one.since for one in self._waiting_ones()), default=None)
        age_s = 0.0 if oldest is None else self._monotonic() - oldest
        self._metrics.inbound_oldest_age_seconds.set((), age_s)
        self._metrics.inbound_joins.set((), self._waiting)
