"""Which channel may take a message now: ours, another process's, or none for the moment.

    route ─▶ not tried, not paused and up, here or in another process, and its breaker takes it
                 │ none                                                          ─▶ the first
                 ▼
             lent to another process ─▶ up, but left: the least bad, slowly
                                            ─▶ HELD while any is only down or paused ─▶ None

It only looks; `gateway.dispatch`, which is one of these, changes what it looks at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from zlib import crc32

from failover.breaker import BreakerState
from failover.choose import Badness, choose, least_bad
from gateway.channel import ChannelRuntime
from gateway.lanes import HELD
from gateway.remote import RemoteChannels
from gateway.routes import Routes
from sms import config
from sms.model import Message, MessageClass

REMOTE_ROOM: Final = 500  # messages on their way through us to a channel that another process has


class ChannelChoice:
    """The channels of this process, what others have, and the choice among them."""

    def __init__(self) -> None:
        """Without a channel; `remote` is joined by wiring."""
        self.routes = Routes()
        self.channels: dict[int, ChannelRuntime] = {}
        self.remote: RemoteChannels | None = None
        self.snapshot = config.Snapshot()

    def first_fit(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        """The channel that a message never tried would take now, None while all are down.

        Whose message it is, is not known: one that is on its ramp counts as left.
        """
        fit = self._first_fit(channels, message_class, ())
        if fit is not None:
            return fit
        return next((one for one in channels if self._is_up(one, message_class)), None)

    def taker(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        """The channel that takes ordinary messages of these now; None while all only wait.

        One that is on its ramp counts as waiting, one whose carrier throttles does not.
        """
        fit = self._first_fit(channels, message_class, ())
        if fit is not None:
            return fit
        return next((one for one in channels if self._is_well(one, message_class)), None)

    def _is_well(self, channel: int, message_class: MessageClass) -> bool:
        return self._is_up(channel, message_class) and self.channels[channel].watch.is_closed

    def _is_up(self, channel: int, message_class: MessageClass) -> bool:
        """Whether a session of ours takes the class, whatever its breakers say."""
        runtime = self.channels.get(channel)
        return runtime is not None and runtime.is_up and message_class in runtime.takes

    def _is_fit(
        self, channel: int, message_class: MessageClass, message: Message | None = None
    ) -> bool:
        runtime = self.channels.get(channel)
        if runtime is None or not runtime.is_up:
            return self._is_taken_elsewhere(channel, message_class)
        if message_class not in runtime.takes or message_class in runtime.crowded:
            return False
        return runtime.watch.is_closed or self._is_taken(runtime, message)

    def _is_taken_elsewhere(self, channel: int, message_class: MessageClass) -> bool:
        """Whether it is another process's channel, and one of them sends over it."""
        if self.remote is None or not self.is_remote(channel):
            return False
        return self.remote.takes(channel) and self._is_open(channel, message_class)

    def _is_taken(self, runtime: ChannelRuntime, message: Message | None) -> bool:
        """Whether its breakers, not all closed, take the message."""
        if message is None:
            return False
        # Who is on it stays on it while it climbs; of channels that climb each has others.
        key = crc32(message.number.encode(), runtime.config.id)
        is_otp = message.message_class is MessageClass.OTP
        return runtime.watch.takes(message.carrier, key, is_otp=is_otp)

    def _badness(self, channel: int, message: Message) -> Badness | None:
        if not self._is_up(channel, message.message_class):
            return None
        return self.channels[channel].watch.rank(message.carrier)

    def is_remote(self, channel: int) -> bool:
        """Whether messages for the channel go to another process: it has a session, we hold none.

        A channel of which we hold sessions that are down is down for us, though others have it;
        `is_lent` says when that changes.
        """
        runtime = self.channels.get(channel)
        if self.remote is None or (runtime is not None and runtime.was_up):
            return False
        return self.remote.is_up(channel)

    def is_lent(self, channel: int) -> bool:
        """Whether another process sends what no other channel of its route can take here.

        Ours has been down, or left for its health, for `LEND_AFTER_S`; it is ours again as soon as
        it is up, or is to be tried.
        """
        runtime = self.channels.get(channel)
        if self.remote is None or runtime is None or not runtime.is_lent:
            return False
        return self.remote.takes(channel)

    def _is_elsewhere(self, channel: int) -> bool:
        return self.is_remote(channel) or self.is_lent(channel)

    def _first_fit(
        self,
        channels: Sequence[int],
        message_class: MessageClass,
        tried: Collection[int],
        message: Message | None = None,
    ) -> int | None:
        """What is up comes first, whatever its place in the route, then what is lent."""
        fit = choose(channels, lambda channel: self._is_fit(channel, message_class, message), tried)
        if fit is None and self.remote is not None:
            fit = choose(
                channels,
                lambda channel: self.is_lent(channel) and self._is_open(channel, message_class),
                tried,
            )
        return fit

    def can_send(self, channel: int) -> bool:
        """Whether we have the channel up ourselves; for 0, whether anybody has any."""
        if not channel:
            return any(self.is_reachable(known) for known in self.snapshot.channels)
        runtime = self.channels.get(channel)
        return runtime is not None and runtime.is_up and not runtime.is_paused

    def is_reachable(self, channel: int) -> bool:
        """Whether messages can go out over the channel, from here or from another process."""
        if channel in self.snapshot.paused:
            return False
        return self.can_send(channel) or self._is_elsewhere(channel)

    def room_for(self, channel: int) -> int:
        """How many messages of other processes may be here: the windows, and once more to wait.

        For 0, whatever the channel: on their way through us to others' channels too.
        """
        if not channel:
            open_channels = self.snapshot.channels.keys() - self.snapshot.paused
            remote = sum(map(self._is_elsewhere, open_channels))
            return sum(map(self.room_for, self.channels)) + remote * REMOTE_ROOM
        runtime = self.channels.get(channel)
        return 2 * runtime.adapter.window() if runtime is not None and self.can_send(channel) else 0

    def _is_configured(self, channel: int, message_class: MessageClass) -> bool:
        """Whether waiting for the channel makes sense, by the configuration.

        Not by what runs: during recovery no channel has been started yet.
        """
        known = self.snapshot.channels.get(channel)
        return known is not None and message_class in known.classes

    def _is_open(self, channel: int, message_class: MessageClass) -> bool:
        """The same, and no operator has paused it."""
        return channel not in self.snapshot.paused and self._is_configured(channel, message_class)

    def choose(self, message: Message) -> int | None:
        """The channel to try next, `HELD` when all left are down, None when none is left."""
        return self.pick(message)[0]

    def pick(self, message: Message) -> tuple[int | None, int]:
        """The same, and the primary channel where it is not that one, else 0."""
        channels = self.routes.of(message)
        if (
            channels
            and not message.tried
            and self._is_fit(channels[0], message.message_class, message)
        ):
            return channels[0], 0
        found = self._choose_other(message, channels)
        return found, channels[0] if channels and found != channels[0] else 0

    def _choose_other(self, message: Message, channels: Sequence[int]) -> int | None:
        if message.copy and message.tried:
            return self._choose_copy(message, channels)
        fit = self._fit_or_least_bad(message, channels, message.tried)
        if fit is not None:
            return fit
        could = any(
            channel not in message.tried and self._is_configured(channel, message.message_class)
            for channel in channels
        )
        return HELD if could else None

    def is_text_unknown(self, message: Message) -> bool:
        """Whether its route has channels, and only none of them has its text as a template."""
        if self.routes.of(message):
            return False
        of_route = self.routes.channels_for(
            message.tenant, message.message_class, message.carrier, message.country
        )
        return any(self._is_configured(one, message.message_class) for one in of_route)

    def _fit_or_least_bad(
        self, message: Message, channels: Sequence[int], tried: Collection[int]
    ) -> int | None:
        fit = self._first_fit(channels, message.message_class, tried, message)
        if fit is not None:
            return fit
        key = crc32(message.number.encode())
        return least_bad(channels, lambda channel: self._badness(channel, message), tried, key)

    def why_not(self, message: Message, primary: int) -> str:
        """Why a message goes to another channel than its route's first one, in one word."""
        if message.copy:
            return "uncertain"
        if primary in message.tried:
            return "refused"
        if primary in self.snapshot.paused:
            return "paused"
        runtime = self.channels.get(primary)
        if runtime is None or not runtime.is_up:
            return "link"
        cause = runtime.watch.cause(message.carrier)
        if cause is not None:
            return cause.value
        return "throttled" if message.message_class in runtime.crowded else "link"

    def is_left(self, channel: int) -> bool:
        """Whether a breaker of a channel of ours is open: nothing that waits for it may stay."""
        runtime = self.channels.get(channel)
        return (
            runtime is not None
            and not runtime.watch.is_closed
            and runtime.watch.state() is BreakerState.OPEN
        )

    def has_other(self, message: Message, channel: int) -> bool:
        """Whether the route has a channel that was not tried yet, besides this one."""
        return any(
            other != channel
            and other not in message.tried
            and self._is_configured(other, message.message_class)
            for other in self.routes.of(message)
        )

    def spare(self, message: Message, channel: int) -> int:
        """Another channel that takes it now, for one that throttles it for too long; 0 = none.

        Not one that is throttled as well: messages would go to and fro between the two.
        """
        others = [other for other in self.routes.of(message) if other != channel]
        fit = self._first_fit(others, message.message_class, message.tried, message)
        runtime = self.channels.get(fit or 0)
        return 0 if fit is None or (runtime and not runtime.throttle.is_free) else fit

    def _choose_copy(self, message: Message, channels: Sequence[int]) -> int | None:
        """The marked copy goes to another channel first, else to the same one."""
        ordered = [channel for channel in channels if channel not in message.tried]
        ordered += [channel for channel in channels if channel in message.tried]
        fit = self._fit_or_least_bad(message, ordered, ())
        if fit is not None:
            return fit
        could = any(self._is_configured(channel, message.message_class) for channel in ordered)
        return HELD if could else None
