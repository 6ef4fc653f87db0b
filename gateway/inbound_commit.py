"""One commit of texts from phones: keys, joins, texts, events, suppressions.

    deliveries ─▶ whose? ─▶ take keys ─▶ lock joins ─▶ opt-outs ─▶ texts and events ─▶ COMMIT

What was decided is in the `Outcome`; who waits for it is the desk's matter (gateway.inbound).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from compliance.opt_out_words import opt_out_word
from gateway.owners import NOBODY, Owned, Owners, Sought
from gateway.views import mask_number
from receipts.state import PhonePath
from sms.concatenation import join as joined
from sms.concatenation import whole
from sms.model import EventRow, Inbound, InboundMessage, Message, MessageClass, State
from store.inbound import InboundStore, InboundTransaction, Join, Wish
from telemetry.failpoints import failpoints

MOST_AMONG: Final = 50  # tenants that an opt-out to nobody is meant for; more: the platform
KEPT_WITH_ID_S: Final = 259_200.0  # a delivery with the carrier's own id is known again so long
SEGMENT_MARGIN_S: Final = 60.0  # between the end of a long text's wait and of its keys


def has_own_id(text: Inbound) -> bool:
    """Whether the carrier names the delivery; an id of zeros tells nothing."""
    return bool(text.carrier_id.strip("0"))


class Ids(NamedTuple):
    """What a text will be called, chosen before its first try."""

    text: int
    events: tuple[int, int]  # received, opted out


@dataclass(frozen=True, slots=True)
class InboundPolicy:
    """Times in seconds."""

    join_s: float = 600.0  # a long text waits so long for its segments, from the first on
    # Without an id of its own, and when its answer may not have arrived, a text is known so long.
    repeat_s: float = 3600.0


@dataclass(slots=True)
class Delivery:
    """One text or segment until it is answered; mutable, lives through tries."""

    text: Inbound
    ids: Ids
    key: bytes
    at: float  # Unix seconds
    since: float  # monotonic
    tokens: list[object] = field(default_factory=list)
    displaced: Ids | None = None  # of an older text that it puts an end to
    crashes: int = 0  # of its handler
    again_at: float = 0.0  # monotonic: after a crash it is tried again then


@dataclass(slots=True)
class Outcome:
    """What one commit did."""

    messages: list[InboundMessage] = field(default_factory=list)
    rows: dict[int, list[EventRow]] = field(default_factory=dict)  # by message
    ends: dict[tuple[int, str], int] = field(default_factory=dict)  # by channel
    among: dict[int, tuple[int, ...]] = field(default_factory=dict)  # who may own nobody's texts
    doubtful: list[int] = field(default_factory=list)  # ids that a lost COMMIT may have kept

    def count(self, channel: int, end: str) -> None:
        """One more that ended so."""
        self.ends[channel, end] = self.ends.get((channel, end), 0) + 1


class InboundCommit:
    """Does one commit at a time; raises Unavailable, after which all of it may be tried again."""

    def __init__(
        self,
        store: InboundStore,
        owners: Owners,
        policy: InboundPolicy,
        new_ids: Callable[[], Ids],
    ) -> None:
        self._store = store
        self._new_ids = new_ids
        self._owners = owners
        self._policy = policy

    async def keep(self, batch: Sequence[Delivery], now: float) -> Outcome:
        """Keep deliveries, each with a key of its own; `now` is Unix seconds."""
        sought = [Sought(one.text.channel, one.text.number, one.text.to) for one in batch]
        owners = await self._owners.find(sought, now)
        outcome = Outcome()
        if failpoints.is_armed:
            failpoints.hit("inbound.before_commit")
        async with self._store.transaction() as tx:
            held = await tx.take(
                {one.key: (one.ids.text, self._known_s(one.text)) for one in batch}
            )
            fresh = [
                (one, owned)
                for one, owned in zip(batch, owners, strict=True)
                if one.key not in held
            ]
            for one in batch:
                if one.key in held:
                    is_ours = held[one.key] == one.ids.text  # of a COMMIT whose answer was lost
                    if is_ours:
                        outcome.doubtful.append(one.ids.text)
                        if one.displaced is not None:
                            outcome.doubtful.append(one.displaced.text)
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
        """For how long a delivery is known again; a segment longer than its text waits."""
        if has_own_id(text):
            return KEPT_WITH_ID_S
        if text.mark is None:
            return self._policy.repeat_s
        return max(self._policy.repeat_s, self._policy.join_s + SEGMENT_MARGIN_S)

    async def _join(
        self, tx: InboundTransaction, fresh: Sequence[tuple[Delivery, Owned]], outcome: Outcome
    ) -> None:
        """Add segments to their long texts; what is complete becomes a text."""
        wanted: dict[bytes, Join] = {}
        keys: dict[int, bytes] = {}
        for one, _ in fresh:
            text = one.text
            if text.mark is not None:
                key = keys[one.ids.text] = self._store.keys.of_join(text)
                wanted.setdefault(
                    key, Join(key, text.channel, text.number, text.to, text.mark.total)
                )
        if not wanted:
            return
        standing = await tx.joins(wanted.values(), self._policy.join_s)
        begun: set[bytes] = set()
        for one, owned in fresh:
            text, mark = one.text, one.text.mark
            if mark is None:
                continue
            join = standing[keys[one.ids.text]]
            if join.is_of_another(mark.number, text.text):
                # Phones use a reference again: the older text will not become whole any more.
                one.displaced = one.displaced or self._new_ids()
                self._make_incomplete(outcome, join, one.displaced, owned)
                join = standing[join.key] = join.anew()
                begun.add(join.key)
            outcome.count(join.channel, "segment")
            if join.add(mark.number, text.text, one.at):
                whole_text = joined(join.texts, join.total)
                self._make(outcome, one, owned, whole_text, segments=join.total, missing=0)
                outcome.count(join.channel, "joined")
                standing[join.key] = join.anew()
                begun.add(join.key)
        await tx.drop_joins([join.key for join in standing.values() if not join.texts])
        waiting = [join for join in standing.values() if join.texts]
        await tx.keep_joins(waiting, begun, self._policy.join_s)

    @staticmethod
    def _make(
        outcome: Outcome,
        one: Delivery,
        owned: Owned,
        text: str,
        *,
        segments: int,
        missing: int,
    ) -> None:
        parent = owned.parent
        message = InboundMessage(
            one.ids.text,
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
        if owned.tenant == NOBODY and 0 < len(owned.among) <= MOST_AMONG:
            outcome.among[message.id] = owned.among
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
                zip(one.ids.events, (PhonePath.RECEIVED, PhonePath.OPTED_OUT), strict=True), 1
            )
        ]

    async def _finish(self, tx: InboundTransaction, outcome: Outcome) -> None:
        """Carry out opt-outs, then write everything."""
        wishes = [
            Wish(message, tenant, mask_number(message.number))
            for message in outcome.messages
            if message.suppressed
            for tenant in outcome.among.get(message.id, (message.tenant,))
        ]
        suppressed: dict[int, frozenset[MessageClass]] = {}
        for wish, classes in zip(wishes, await tx.suppress(wishes), strict=True):
            suppressed[wish.message.id] = suppressed.get(wish.message.id, frozenset()) | classes
        for message in outcome.messages:
            message.suppressed = suppressed.get(message.id, frozenset())
            if message.suppressed:
                outcome.count(message.channel, "opted_out")
            else:
                del outcome.rows[message.id][1:]
            if message.tenant == NOBODY:
                outcome.count(message.channel, "unowned")
                outcome.rows[message.id] = []
        await tx.add(outcome.messages, [row for rows in outcome.rows.values() for row in rows])

    async def release(
        self, due: Mapping[bytes, Join], plans: Mapping[bytes, Ids], now: float
    ) -> Outcome:
        """Texts of joins whose wait is over, as they are; every planned one has its ids.

        A planned one that does not stand any more is doubtful: another process was faster, or a
        lost COMMIT was ours.
        """
        sought = [Sought(one.channel, one.number, one.to) for one in due.values()]
        owners = dict(zip(due, await self._owners.find(sought, now), strict=True))
        outcome = Outcome()
        async with self._store.transaction() as tx:
            standing = await tx.locked(sorted(plans))
            outcome.doubtful += [ids.text for key, ids in plans.items() if key not in standing]
            released = [join for key, join in standing.items() if key in owners]
            for join in released:
                self._make_incomplete(outcome, join, plans[join.key], owners[join.key])
            await tx.drop_joins([join.key for join in released])
            await self._finish(tx, outcome)
        return outcome

    def _make_incomplete(self, outcome: Outcome, join: Join, ids: Ids, owned: Owned) -> None:
        last = Inbound(join.channel, join.number, join.to, "")
        self._make(
            outcome,
            Delivery(last, ids, join.key, join.received_at, 0.0),
            owned,
            joined(join.texts, join.total),
            segments=join.total,
            missing=join.total - len(join.texts),
        )
        outcome.count(join.channel, "incomplete")


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
