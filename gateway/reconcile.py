"""Receipts that are overdue: found in the store, counted, and asked of vendors that can be asked.

    walk: accepted 1 h ago, no end ─┬─ submitted ─▶ counted; a row in `overdue`, if there is room
                                    └─ not yet ───▶ the same row, for later
    `overdue`: due ─▶ whoever has the channel up asks ─▶ a report, or nothing (adapters/http)
                   ─▶ a while later: how is it now? counted ─▶ due again, twice as late each time

A channel's own book asks for what this process sent and still remembers (`ask_after_s`); this is
for what a restart forgot, and it is the same for all processes: one asks, and each message has one
row. What a vendor says comes as any report does. Few questions a second, beside the submits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from adapters.base import Channel, Lost
from gateway.channel import ChannelRuntime
from gateway.evidence import submit_of
from gateway.ledger import Ledger
from gateway.walking import Opener, Walker, commit
from sms.ids import id_at
from sms.model import FINAL_STATES, Message, State
from store.read import Reader
from store.silence import (
    NOT_SENT,
    SilenceStore,
    Taken,
    Turn,
    Walk,
    forget_overdue_sql,
    overdue_sql,
    put_off_sql,
)
from telemetry.metrics import Metrics

LOOK_S = 120.0  # so long after a question it is looked what came of it
MOST_S = 43_200.0  # between two questions about one message
WATCHED = 10_000  # overdue messages of a channel in the table; the oldest
LOOKED_AT = 200  # of channels that cannot be asked, in one round
WALK_EVERY = 5  # rounds: the walk's row is written each time
PAGES = 10  # walked in one round at most
STANDING_S = 60.0  # between two counts of the table


class Reconciler:
    """Keeps after overdue receipts; `round` is called once a second in every process."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by gateway.silence)
        self,
        *,
        store: SilenceStore,
        reader: Reader,
        ledger: Ledger,
        channels: Mapping[int, ChannelRuntime],
        asks: Callable[[int], bool],
        metrics: Metrics,
        after_s: float,
        deadline_s: float,
        per_s: int,
    ) -> None:
        """`asks`: by the configuration, also where another process runs the channel."""
        self._store = store
        self._opener = Opener(reader, metrics)
        self._ledger = ledger
        self._channels = channels
        self._asks = asks
        self._metrics = metrics
        self._after_s = after_s
        self._deadline_s = deadline_s
        self._per_s = per_s
        self._walker = Walker(Walk.OVERDUE, after_s, store, self._opener, ledger)
        self._counts: dict[int, int] = {}  # in the table, as last counted and put there since
        self._counted_at = 0.0
        self._rounds = 0
        self._overdue: dict[str, int] = {}  # of the page that is walked

    async def round(self) -> None:
        """Walk on, look at what is due; raises Unavailable, LeaseLost."""
        if self._after_s >= self._deadline_s:
            return  # there would be nothing to ask about
        is_walking = self._rounds % WALK_EVERY == 0 and await self._walk()
        self._rounds += 1
        await self._look(is_walking=is_walking)

    async def _walk(self) -> bool:
        """Some pages; whether the walk is ours."""
        for page in range(PAGES):
            turn = await self._walker.begin()
            if turn is None:
                self._silence()
                return False
            if not page:
                await self._count(turn)
            self._overdue = {}
            since = id_at(turn.now - self._deadline_s)
            is_more = await self._walker.step(turn, self._walked, since)
            for name, number in self._overdue.items():
                self._metrics.overdue_total.inc((name,), number)
            if not is_more:
                break
        return True

    # -- finding ---------------------------------------------------------------------------

    async def _walked(self, messages: Sequence[Message], now: float) -> str:
        rows: list[tuple[int, int, float, float]] = []
        for message in messages:
            if message.state in FINAL_STATES:
                continue
            channel, since, due = NOT_SENT, max(now, message.send_at or 0.0), 0.0
            if message.state is State.SUBMITTED:
                name = self._name(message.channel)
                self._overdue[name] = self._overdue.get(name, 0) + 1
                channel, since = message.channel, message.submitted_at or message.created_at
            else:
                due = since
            if self._counts.get(channel, 0) < WATCHED:
                self._counts[channel] = self._counts.get(channel, 0) + 1
                rows.append((message.id, channel, since, max(now, due + self._after_s)))
        return overdue_sql(rows)

    async def _count(self, turn: Turn) -> None:
        """What stands in the table: for the gauges, and for the room that is left."""
        if turn.now - self._counted_at < STANDING_S:
            return
        self._counted_at = turn.now
        await self._store.forget_before(turn.now - self._deadline_s)
        standing = await self._store.standing()
        self._counts = {channel: one.number for channel, one in standing.items()}
        metrics = self._metrics
        self._silence()
        for channel, one in standing.items():
            if channel != NOT_SENT:
                metrics.overdue_messages.set((self._name(channel),), one.number)
                metrics.overdue_oldest_age_seconds.set((self._name(channel),), one.oldest_s)

    def _silence(self) -> None:
        self._metrics.overdue_messages.clear()
        self._metrics.overdue_oldest_age_seconds.clear()

    def _name(self, channel: int) -> str:
        return self._ledger.channel_names.get(channel, "")

    # -- asking ----------------------------------------------------------------------------

    async def _look(self, *, is_walking: bool) -> None:
        asking = {
            channel: runtime.adapter
            for channel, runtime in self._channels.items()
            if runtime.is_up and runtime.adapter.can_ask
        }
        taken = await self._store.take(
            list(asking),
            self._per_s,
            look_s=LOOK_S,
            again_s=max(self._after_s, LOOK_S),
            most_s=MOST_S,
        )
        if is_walking:
            others = [one for one in self._ledger.channel_names if self._asks(one)]
            taken += await self._store.look(others, LOOKED_AT)
        if not taken:
            return
        messages, _ = await self._opener.open([one.message_id for one in taken])
        by_id = {message.id: message for message in messages}
        gone, moved = self._judge(taken, by_id, asking)
        sql = forget_overdue_sql(gone) + put_off_sql(moved, self._after_s)
        if sql:
            await commit(self._ledger, sql=sql)

    def _judge(
        self,
        taken: Iterable[Taken],
        messages: Mapping[int, Message],
        asking: Mapping[int, Channel],
    ) -> tuple[list[int], list[tuple[int, int, float]]]:
        """Ask, or count what came of it; (what has ended, what goes to another channel's rows)."""
        gone: list[int] = []
        moved: list[tuple[int, int, float]] = []
        questions: dict[int, list[Lost]] = {}
        for one in taken:
            message = messages.get(one.message_id)
            is_over = message is None or message.state in FINAL_STATES
            if one.channel in asking and not one.is_asking:
                outcome = message.state.value if message is not None and is_over else "open"
                self._metrics.reconciled_total.inc((self._name(one.channel), outcome))
            if message is None or is_over:
                gone.append(one.message_id)
            elif _is_elsewhere(message, one.channel) or one.channel not in asking:
                moved.append(_later(message))
            elif one.is_asking and (carrier_id := _first_open_id(message)) is not None:
                since = message.submitted_at or message.created_at
                lost = Lost(submit_of(message), since, 0.0, carrier_id)
                questions.setdefault(one.channel, []).append(lost)
        for channel, lost_ones in questions.items():
            asking[channel].ask(lost_ones)
        return gone, moved


def _later(message: Message) -> tuple[int, int, float]:
    """The row of one that is not asked about now: it was sent again, or its vendor is mute."""
    if message.state is not State.SUBMITTED:
        return message.id, NOT_SENT, message.send_at or 0.0
    return message.id, message.channel, message.submitted_at or message.created_at


def _is_elsewhere(message: Message, channel: int) -> bool:
    """Whether it was sent again since its row was made, or will be."""
    return message.state is not State.SUBMITTED or message.channel != channel


def _first_open_id(message: Message) -> str | None:
    """The carrier's id of the first segment that has no end; None = it cannot be asked about."""
    states, ids = message.segment_states, message.carrier_ids
    for index, carrier_id in enumerate(ids):
        if carrier_id and not (index < len(states) and states[index] in FINAL_STATES):
            return carrier_id
    return None
