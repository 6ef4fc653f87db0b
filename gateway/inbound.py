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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from compliance.opt_out_words import opt_out_word
from gateway.inbound_notices import notices_of_inbound
from gateway.notices import Notice
from gateway.owners import NOBODY, Owned, Owners, Sought
from gateway.views import mask_number
from receipts.state import PhonePath
from sms.concatenation import join as joined
from sms.concatenation import whole
from sms.config import Snapshot
from sms.errors import LeaseLost, Unavailable
from sms.ids import IdClock
from sms.model import EventRow, Inbound, InboundMessage, Message, MessageClass, State
from sms.numbers import phone_of
from store.inbound import InboundReader, InboundStore, InboundTransaction, Join
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

BATCH: Final = 200  # deliveries of one commit
MAX_PENDING: Final = 10_000  # beyond, the carrier is told "later"
POLL_S: Final = 1.0  # between two looks for long texts whose wait is over
DUE_AT_ONCE: Final = 100
AWAY_S: Final = 0.5
CRASHES: Final = 5  # a delivery that crashes its handler so often is given up
MAX_CRASHES: Final = 1000  # deliveries whose crashes are counted
KEPT_WITH_ID_S: Final = 259_200.0  # a delivery with the carrier's own id is known again so long
KEYS_AT_ONCE: Final = 50_000

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


@dataclass(frozen=True, slots=True)
class InboundPolicy:
    """Times in seconds."""

    join_s: float = 600.0  # a long text waits so long for its segments, from the first on
    repeat_s: float = 120.0  # the same text again within it, without an id of its own, is a repeat


@dataclass(slots=True)
class Delivery:
    """One text or segment until it is answered; mutable, lives through tries."""

    text: Inbound
    id: int
    event_ids: tuple[int, int]  # received, opted out
    key: bytes
    at: float  # Unix seconds
    since: float  # monotonic
    tokens: list[object] = field(default_factory=list)


@dataclass(slots=True)
class _Outcome:
    """What one commit did."""

    messages: list[InboundMessage] = field(default_factory=list)
    rows: dict[int, list[EventRow]] = field(default_factory=dict)  # by message
    ends: dict[tuple[int, str], int] = field(default_factory=dict)  # by channel
    doubtful: list[int] = field(default_factory=list)  # ids that a lost COMMIT may have kept

    def count(self, channel: int, end: str) -> None:
        self.ends[channel, end] = self.ends.get((channel, end), 0) + 1


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
        policy: InboundPolicy | None = None,
        unix: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`suppressed` brings new entries of the suppression list into force in this process."""
        self._store = store
        self._reader = reader
        self._owners = owners
        self._ids = ids
        self._metrics = metrics
        self._answer = answer
        self._told = told
        self._suppressed = suppressed
        self._policy = policy or InboundPolicy()
        self._unix = unix
        self._monotonic = monotonic
        self._pending: list[Delivery] = []
        self._flying: list[Delivery] = []
        self._planned: dict[bytes, tuple[int, tuple[int, int]]] = {}  # ids of texts to release
        self._crashes: dict[bytes, int] = {}  # by key
        self._waiting = 0  # long texts, as last seen
        self._polled_at = -POLL_S
        self._names: dict[int, str] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_stopping = False
        metrics.before_scrape.append(self._set_gauges)

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Take over a new configuration."""
        self._owners.reconfigure(snapshot)
        self._names.update({channel.id: channel.name for channel in snapshot.channels.values()})

    # -- from a channel --------------------------------------------------------------------

    def receive(self, channel: int, texts: Sequence[Inbound]) -> None:
        """Texts of one burst of one channel; answered when they are durable."""
        room = max(0, MAX_PENDING - len(self._pending) - len(self._flying))
        beyond = texts[room:]
        if beyond:
            self._answer(channel, [text.token for text in beyond], accepted=False)
            self._count({(channel, "refused"): len(beyond)})
        unix, now = self._unix(), self._monotonic()
        for text in texts[:room]:
            text.number = phone_of(text.number)
            first = self._ids.next(3)
            self._pending.append(
                Delivery(
                    text,
                    first,
                    (first + 1, first + 2),
                    self._store.keys.of_delivery(text),
                    unix,
                    now,
                    [text.token],
                )
            )
        if self._pending:
            self._wake.set()

    def pending_floor(self) -> int | None:
        """The lowest event id that may still be committed; None when nothing waits."""
        floors = [one.event_ids[0] for one in (*self._flying, *self._pending)]
        floors += [event_ids[0] for _, event_ids in self._planned.values()]
        return min(floors, default=None)

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
            finally:
                self._idle.set()

    async def stop(self, timeout_s: float) -> None:
        """Begin nothing new and wait for what is being committed; the channels are stopped.

        What is left is unanswered: the carrier sends it again, to whoever comes next.
        """
        self._is_stopping = True
        self._pending.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

    async def round(self) -> None:
        """One turn; raises Unavailable and keeps what it could not settle."""
        while (self._flying or self._pending) and not self._is_stopping:
            if not self._flying:
                self._flying, self._pending = self._pending[:BATCH], self._pending[BATCH:]
                self._flying = self._merged(self._flying)
            await self._settle(self._flying)
            self._flying = []
        if self._monotonic() - self._polled_at >= POLL_S:
            self._polled_at = self._monotonic()
            await self._release()
            self._waiting = await self._store.waiting()

    async def forget(self) -> None:
        """Remove what deliveries of long ago were known by."""
        await self._store.forget_keys(KEYS_AT_ONCE)

    @staticmethod
    def _merged(deliveries: Iterable[Delivery]) -> list[Delivery]:
        """A repeat in the same batch is answered with the first."""
        by_key: dict[bytes, Delivery] = {}
        for delivery in deliveries:
            first = by_key.setdefault(delivery.key, delivery)
            if first is not delivery:
                first.tokens += delivery.tokens
        return list(by_key.values())

    async def _settle(self, batch: list[Delivery]) -> None:
        """Keep a batch; one that crashes its handler goes on alone and is given up at last."""
        try:
            outcome = await self._keep(batch)
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
        by_channel: dict[int, list[object]] = {}
        for delivery in batch:
            by_channel.setdefault(delivery.text.channel, []).extend(delivery.tokens)
        for channel, tokens in by_channel.items():
            self._answer(channel, tokens, accepted=True)

    async def _crashed(self, delivery: Delivery, error: str) -> None:
        """The carrier is to send it again; after five times a person must look at it."""
        channel, times = delivery.text.channel, self._crashes.get(delivery.key, 0) + 1
        is_given_up = times >= CRASHES
        if is_given_up:
            await self._store.quarantine(delivery.text, error)
            self._crashes.pop(delivery.key, None)
            self._metrics.quarantined_total.inc(("inbound",))
        else:
            if len(self._crashes) >= MAX_CRASHES:
                self._crashes.clear()
            self._crashes[delivery.key] = times
        self._count({(channel, "failed"): 1})
        self._answer(channel, delivery.tokens, accepted=is_given_up)

    # -- one commit ------------------------------------------------------------------------

    async def _keep(self, batch: Sequence[Delivery]) -> _Outcome:
        sought = [Sought(one.text.channel, one.text.number, one.text.to) for one in batch]
        owners = await self._owners.find(sought, self._unix())
        outcome = _Outcome()
        if failpoints.is_armed:
            failpoints.hit("inbound.before_commit")
        async with self._store.transaction() as tx:
            held = await tx.take({one.key: (one.id, self._known_s(one.text)) for one in batch})
            fresh = [
                (one, owned)
                for one, owned in zip(batch, owners, strict=True)
                if one.key not in held
            ]
            for one in batch:
                if one.key in held:
                    is_ours = held[one.key] == one.id  # of a COMMIT whose answer was lost
                    if is_ours:
                        outcome.doubtful.append(one.id)
                    else:
                        outcome.count(one.text.channel, "repeated")
            await self._join(tx, fresh, outcome)
            for one, owned in fresh:
                if one.text.mark is None:
                    text = whole(one.text.text)
                    self._make(outcome, one, owned, text, segments=1, missing=0)
                    outcome.count(one.text.channel, "received")
            await self._finish(tx, outcome)
        if failpoints.is_armed:
            failpoints.hit("inbound.committed")
        return outcome

    def _known_s(self, text: Inbound) -> float:
        """For how long a delivery is known again; an id of zeros tells nothing."""
        return KEPT_WITH_ID_S if text.carrier_id.strip("0") else self._policy.repeat_s

    async def _join(
        self, tx: InboundTransaction, fresh: Sequence[tuple[Delivery, Owned]], outcome: _Outcome
    ) -> None:
        """Add segments to their long texts; what is complete becomes a text."""
        wanted: dict[bytes, Join] = {}
        keys: dict[int, bytes] = {}
        for one, _ in fresh:
            text = one.text
            if text.mark is not None:
                key = keys[one.id] = self._store.keys.of_join(text)
                wanted.setdefault(
                    key, Join(key, text.channel, text.number, text.to, text.mark.total)
                )
        if not wanted:
            return
        standing = await tx.joins(wanted.values(), self._policy.join_s)
        complete: list[bytes] = []
        for one, owned in fresh:
            mark = one.text.mark
            if mark is None or keys[one.id] in complete:
                continue
            join = standing[keys[one.id]]
            outcome.count(join.channel, "segment")
            if join.add(mark.number, one.text.text, one.at):
                complete.append(join.key)
                whole_text = joined(join.texts, join.total)
                self._make(outcome, one, owned, whole_text, segments=join.total, missing=0)
                outcome.count(join.channel, "joined")
        await tx.drop_joins(complete)
        await tx.keep_joins([join for key, join in standing.items() if key not in complete])

    @staticmethod
    def _make(
        outcome: _Outcome,
        one: Delivery,
        owned: Owned,
        text: str,
        *,
        segments: int,
        missing: int,
    ) -> None:
        parent = owned.parent
        message = InboundMessage(
            one.id,
            owned.tenant,
            one.text.number,
            one.text.to,
            text,
            one.text.channel,
            one.at,
            segments,
            missing,
            None if parent is None else parent.id,
            _wish(text, parent),
        )
        outcome.messages.append(message)
        outcome.rows[message.id] = [
            EventRow(
                message.id,
                sequence,
                event_id,
                message.tenant,
                path,
                State.ACCEPTED,  # it says nothing here
                one.at,
                channel=message.channel,
            )
            for sequence, (event_id, path) in enumerate(
                zip(one.event_ids, (PhonePath.RECEIVED, PhonePath.OPTED_OUT), strict=True), 1
            )
        ]

    async def _finish(self, tx: InboundTransaction, outcome: _Outcome) -> None:
        """Carry out opt-outs, then write everything."""
        for message in outcome.messages:
            if message.suppressed:
                shown = mask_number(message.number)
                message.suppressed = await tx.suppress(message, message.suppressed, shown)
            if message.suppressed:
                outcome.count(message.channel, "opted_out")
            else:
                del outcome.rows[message.id][1:]
            if message.tenant == NOBODY:
                outcome.count(message.channel, "unowned")
                outcome.rows[message.id] = []
        await tx.add(outcome.messages, [row for rows in outcome.rows.values() for row in rows])

    async def _done(self, outcome: _Outcome) -> None:
        """After the commit: tell, count, act."""
        known = [(message, outcome.rows[message.id]) for message in outcome.messages]
        stored = await self._reader.messages(outcome.doubtful)
        known += [(one.message, one.rows) for one in stored.values()]
        notices = [
            notice
            for message, rows in known
            for notice in notices_of_inbound(message, rows, None, self._names)
        ]
        self._told.committed(notices, up_to=max((one.event_id for one in notices), default=0))
        self._count(outcome.ends)
        if any(message.suppressed for message, _ in known):
            with contextlib.suppress(Unavailable):  # the poll brings it too
                await self._suppressed()

    # -- what waited long enough -----------------------------------------------------------

    async def _release(self) -> None:
        """Texts whose segments did not all come: told as they are."""
        due = {one.key: one for one in await self._store.due(DUE_AT_ONCE)}
        if not due and not self._planned:
            return
        for key in due:
            if key not in self._planned:
                first = self._ids.next(3)
                self._planned[key] = first, (first + 1, first + 2)
        sought = [Sought(one.channel, one.number, one.to) for one in due.values()]
        owners = dict(zip(due, await self._owners.find(sought, self._unix()), strict=True))
        outcome = _Outcome()
        async with self._store.transaction() as tx:
            standing = await tx.locked(sorted(self._planned))
            for key, (first, _) in self._planned.items():
                if key not in standing:  # another process was faster, or a lost COMMIT was ours
                    outcome.doubtful.append(first)
            released = [join for key, join in standing.items() if key in owners]
            for join in released:
                first, event_ids = self._planned[join.key]
                last = Inbound(join.channel, join.number, join.to, "")
                self._make(
                    outcome,
                    Delivery(last, first, event_ids, join.key, join.received_at, 0.0),
                    owners[join.key],
                    joined(join.texts, join.total),
                    segments=join.total,
                    missing=join.total - len(join.texts),
                )
                outcome.count(join.channel, "incomplete")
            await tx.drop_joins([join.key for join in released])
            await self._finish(tx, outcome)
        await self._done(outcome)
        self._planned.clear()

    # -- metrics ---------------------------------------------------------------------------

    def _count(self, ends: dict[tuple[int, str], int]) -> None:
        for (channel, end), number in ends.items():
            self._metrics.inbound_total.inc((self._names.get(channel, ""), end), number)

    def _set_gauges(self) -> None:
        oldest = min((one.since for one in (*self._flying, *self._pending)), default=None)
        age_s = 0.0 if oldest is None else self._monotonic() - oldest
        self._metrics.inbound_oldest_age_seconds.set((), age_s)
        self._metrics.inbound_joins.set((), self._waiting)


def _wish(text: str, parent: Message | None) -> frozenset[MessageClass]:
    """What a reply asks to get no more of: marketing, and what it answers; login codes stay.

    Who asks for a code wants it: a wish of last year must not lock anybody out.
    """
    if opt_out_word(text) is None:
        return frozenset()
    classes = {MessageClass.MARKETING}
    if parent is not None and parent.message_class is not MessageClass.OTP:
        classes.add(parent.message_class)
    return frozenset(classes)
