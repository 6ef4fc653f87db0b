"""Which channels a message may take, in order: those of the most exact route that can serve it.

Of a route with channels that send registered templates only, a message takes the channels that
have its text. That is found once per message, at its first choice: later its text may be dropped.
"""

from __future__ import annotations

from gateway.twins import takers
from sms.config import Snapshot
from sms.model import Carrier, Message, MessageClass

RouteKey = tuple[int, MessageClass, Carrier, int]  # tenant, class, carrier, country


class Routes:
    """Looked up once for each kind of message, until the configuration changes."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()
        self._known: dict[RouteKey, tuple[int, ...]] = {}  # the same for every text
        self._by_text: dict[RouteKey, tuple[int, ...]] = {}  # with channels for some texts only

    def use(self, snapshot: Snapshot) -> None:
        """Go by a new configuration."""
        self._snapshot = snapshot
        self._known.clear()
        self._by_text.clear()

    def of(self, message: Message) -> tuple[int, ...]:
        """The channels of the message's route that can take it, in order; empty without any."""
        key = (message.tenant, message.message_class, message.carrier, message.country)
        try:
            return self._known[key]
        except KeyError:
            channels = self.channels_for(*key)
            return self._of_text(message, channels) if key in self._by_text else channels

    def channels_for(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> tuple[int, ...]:
        """The same for what is known of a message that is not in memory, whatever its text."""
        key = (tenant, message_class, carrier, country)
        channels = self._known.get(key)
        if channels is None:
            channels = self._by_text.get(key)
        if channels is None:
            channels = self._snapshot.channels_for(*key)
            is_for_all = self._snapshot.demanding.isdisjoint(channels)
            (self._known if is_for_all else self._by_text)[key] = channels
        return channels

    def _of_text(self, message: Message, channels: tuple[int, ...]) -> tuple[int, ...]:
        version = self._snapshot.version
        known = message.takers
        if known is not None and known[0] == version:
            return known[1]
        if not message.texts[0]:  # a carrier took it, and memory has dropped it
            before = () if known is None else known[1]
            demanding = self._snapshot.demanding
            return tuple(one for one in channels if one not in demanding or one in before)
        found = takers(
            self._snapshot,
            channels,
            message.tenant,
            message.message_class,
            message.country,
            "".join(message.texts),
        )
        message.takers = version, found
        return found
