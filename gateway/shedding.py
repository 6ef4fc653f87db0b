"""When new messages are refused, 503, before what is accepted suffers: marketing first, otp last.

    database, event loop, disk, all queues ─────▶ a class is closed, whatever its route
    a route ─┬─ a channel takes messages ─▶ full: it needs too long for what waits for it
             └─ none does ────────────────▶ full much sooner: what waits for any is only held

Looked at some twenty times a second, the routes once a second and only when much waits, so that
a request costs two dictionary lookups. RELIABILITY sections 7 and 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.backlog import Backlog
from gateway.choosing import ChannelChoice
from gateway.lanes import HELD, Lanes
from gateway.settings import Reliability
from gateway.storage import Storage
from sms.config import Snapshot
from sms.model import Message, MessageClass

Refusal = tuple[str, str, int]  # code, detail, Retry-After in seconds
Channels = tuple[int, ...]  # of a route, in order

ROUTES_CHECK_S: Final = 1.0
_OTP, _TRANSACTIONAL = MessageClass.OTP, MessageClass.TRANSACTIONAL
_MARKETING = MessageClass.MARKETING
# Intake closes by class: marketing first, otp last.
FACTORS: Final = {_MARKETING: 1.0, _TRANSACTIONAL: 1.5, _OTP: 2.5}
# What leaves before a message of a class, and so keeps it waiting.
_AHEAD: Final = {
    _OTP: (_OTP,),
    _TRANSACTIONAL: (_OTP, _TRANSACTIONAL),
    _MARKETING: (_OTP, _TRANSACTIONAL, _MARKETING),
}
# Login codes are asked for again soon, and their class opens first.
_HELD_RETRY_S: Final = {_OTP: 5, _TRANSACTIONAL: 15, _MARKETING: 60}
_HELD_WORDS: Final = (
    "No channel of the message's route takes messages now, and as much waits for them as may be"
    " held of this class. What was accepted is kept and goes out first."
)
_FULL_WORDS: Final = "More waits for the channel of the message's route than it can send in time."


@dataclass
class _Aside:
    """How many messages of a class stand in no channel's lane: spilled, or held."""

    by_channels: dict[MessageClass, dict[Channels, int]] = field(default_factory=dict)
    by_taker: dict[MessageClass, dict[int, int]] = field(default_factory=dict)  # where there is one


class Shedding:
    """Whether intake is open, by class and by route; `refresh` keeps it true."""

    def __init__(
        self,
        *,
        limits: Reliability,
        backlog: Backlog,
        lanes: Lanes,
        dispatcher: ChannelChoice,
        data_dir: Path,
        monotonic: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._backlog = backlog
        self._lanes = lanes
        self._dispatcher = dispatcher
        self._monotonic = monotonic
        self._held_s = {
            _OTP: limits.shed_held_otp_s,
            _TRANSACTIONAL: limits.shed_held_transactional_s,
            _MARKETING: limits.shed_held_marketing_s,
        }
        self._storage = Storage(data_dir, monotonic)
        self._routes_at = -math.inf
        self._snapshot: Snapshot | None = None
        self._choices: Mapping[MessageClass, frozenset[Channels]] = {}
        self._rate = self._least = 0.0  # of all channels together, and of the slowest
        self.closed: dict[MessageClass, Refusal] = {}
        self.full: dict[tuple[MessageClass, Channels], Refusal] = {}

    # -- what a request asks ---------------------------------------------------------------

    def route_full(self, message: Message) -> Refusal | None:
        """Why a message of an open class is not taken: its route's channels."""
        if not self.full:
            return None
        return self.full.get((message.message_class, self._dispatcher.routes.of(message)))

    # -- some twenty times a second --------------------------------------------------------

    def refresh(
        self,
        *,
        is_writable: bool,
        is_store_full: bool,
        write_age_s: float,
        loop_lag_s: float,
        accepting: int,
    ) -> None:
        """Look at everything; `accepting` processes share what may wait."""
        self._use(self._dispatcher.snapshot)
        self.closed = {}
        for message_class, factor in FACTORS.items():
            why = self._overload(factor, write_age_s, loop_lag_s, accepting)
            if not is_writable:
                why = "store.unavailable", "The gateway waits for its database.", 2
            elif is_store_full:
                why = "shed.storage_full", "The database has no room left just now.", 10
            if why is not None:
                self.closed[message_class] = why
        now = self._monotonic()
        if now - self._routes_at >= ROUTES_CHECK_S:
            self._routes_at = now
            self.full = self._look_at_routes(accepting)

    def _use(self, snapshot: Snapshot) -> None:
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        rates = [channel.segments_per_second for channel in snapshot.channels.values()]
        self._rate, self._least = sum(rates), min(rates, default=0.0)
        self._choices = {each: snapshot.choices(each) for each in MessageClass}

    def _overload(
        self, factor: float, write_age_s: float, loop_lag_s: float, accepting: int
    ) -> Refusal | None:
        """RELIABILITY section 9; `factor` makes the classes close one after another."""
        limits = self._limits
        if write_age_s > limits.shed_write_age_s * factor:
            return "shed.store_slow", "The database answers too slowly just now.", 2
        if loop_lag_s > limits.shed_loop_lag_s * factor:
            return "shed.overloaded", "The gateway is overloaded just now.", 1
        bound = self._rate * limits.shed_queue_s / accepting
        if bound and self._backlog.queued() > bound * factor:
            return "shed.queue_full", "More is queued than the channels can send in time.", 10
        if self.storage_share() > limits.shed_storage_share:
            return "shed.storage_full", "The gateway's disk is almost full.", 60
        return None

    def storage_share(self) -> float:
        """How much of the fullest disk that this node writes to is used, 0 to 1."""
        return self._storage.share()

    # -- routes ----------------------------------------------------------------------------

    def _look_at_routes(self, accepting: int) -> dict[tuple[MessageClass, Channels], Refusal]:
        if self._backlog.queued() <= self._least * self._soonest_s() / accepting:
            return {}  # no route can be full
        aside = self._aside()
        found: dict[tuple[MessageClass, Channels], Refusal] = {}
        for message_class, choices in self._choices.items():
            for channels in choices:
                why = self._why_full(message_class, channels, aside, accepting)
                if why is not None:
                    found[message_class, channels] = why
        return found

    def _soonest_s(self) -> float:
        return min(self._limits.shed_queue_s, *self._held_s.values())

    def _why_full(
        self, message_class: MessageClass, channels: Channels, aside: _Aside, accepting: int
    ) -> Refusal | None:
        known = self._dispatcher.snapshot.channels
        taker = self._dispatcher.taker(channels, message_class)
        if taker is None:
            fastest = max(known[one].segments_per_second for one in channels)
            bound = fastest * self._held_s[message_class]
            why = "shed.no_channel", _HELD_WORDS, _HELD_RETRY_S[message_class]
        else:
            bound = known[taker].segments_per_second * self._limits.shed_queue_s
            bound *= FACTORS[message_class]
            why = "shed.queue_full", _FULL_WORDS, 10
        waiting = self._waiting(message_class, channels, taker, aside)
        return why if waiting > bound / accepting else None

    def _waiting(
        self, message_class: MessageClass, channels: Channels, taker: int | None, aside: _Aside
    ) -> int:
        """How many messages a new one waits for, of its class or one before it.

        With a channel that takes it: those that wait for that one, whatever stands at the route's
        others. Without: those that wait for any of them.
        """
        places = channels if taker is None else (taker,)
        count = 0
        for ahead in _AHEAD[message_class]:
            for channel in places:
                count += self._lanes.lane(channel).queue(ahead).size
            if taker is not None:
                count += aside.by_taker[ahead].get(taker, 0)
                continue
            for others, number in aside.by_channels[ahead].items():
                if not set(others).isdisjoint(channels):
                    count += number
        return count

    def _aside(self) -> _Aside:
        """Of what is held a sixteenth of its class's memory is here, the rest is spilled."""
        routes = self._dispatcher.routes
        found = _Aside()
        for message_class, queue in self._lanes.lane(HELD).queues():
            counts = dict(self._backlog.spill.waiting(message_class))
            for message in queue:
                channels = routes.of(message)
                counts[channels] = counts.get(channels, 0) + 1
            takers: dict[int, int] = {}
            for channels, number in counts.items():
                taker = self._dispatcher.taker(channels, message_class)
                if taker is not None:
                    takers[taker] = takers.get(taker, 0) + number
            found.by_channels[message_class], found.by_taker[message_class] = counts, takers
        return found
