"""Which channels a message may take, in order: those of the most exact route that can serve it."""

from __future__ import annotations

from sms.config import Snapshot
from sms.model import Carrier, Message, MessageClass

RouteKey = tuple[int, MessageClass, Carrier, int]  # tenant, class, carrier, country


class Routes:
    """Looked up once for each kind of message, until the configuration changes."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()
        self._known: dict[RouteKey, tuple[int, ...]] = {}

    def use(self, snapshot: Snapshot) -> None:
        """Go by a new configuration."""
        self._snapshot = snapshot
        self._known.clear()

    def of(self, message: Message) -> tuple[int, ...]:
        """The channels of the message's route that can take it, in order; empty without any."""
        key = (message.tenant, message.message_class, message.carrier, message.country)
        try:
            return self._known[key]
        except KeyError:
            return self.channels_for(*key)

    def channels_for(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> tuple[int, ...]:
        """The same for what is known of a message that is not in memory."""
        key = (tenant, message_class, carrier, country)
        channels = self._known.get(key)
        if channels is None:
            channels = self._known[key] = self._snapshot.channels_for(*key)
        return channels
