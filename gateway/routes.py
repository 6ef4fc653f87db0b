"""Which channels a message may take, in order: those of the most exact route that can serve it.

    kind of message ─▶ the same for every one? ─▶ one look-up
         └▶ not ─▶ those that have its text ─▶ the first by its number and the route's weights

Of a route with channels that send registered templates only, a message takes the channels that
have its text. That is found once per message, at its first choice: later its text may be dropped.
"""

from __future__ import annotations

from typing import NamedTuple

from failover.split import Split, key_of
from gateway.twins import takers
from sms.config import Route, Snapshot
from sms.model import Carrier, Message, MessageClass

RouteKey = tuple[int, MessageClass, Carrier, int]  # tenant, class, carrier, country


class _Kind(NamedTuple):
    """A kind of message whose channels, or their order, differ from message to message."""

    channels: tuple[int, ...]  # whatever the text, in the route's order
    is_for_all: bool  # whether they take every text
    route: Route | None


class Routes:
    """Looked up once for each kind of message, until the configuration changes."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()
        self._known: dict[RouteKey, tuple[int, ...]] = {}  # the same for every message
        self._kinds: dict[RouteKey, _Kind] = {}  # not the same
        self._splits: dict[tuple[int, tuple[int, ...]], Split] = {}  # by route and channels

    def use(self, snapshot: Snapshot) -> None:
        """Go by a new configuration."""
        self._snapshot = snapshot
        self._known.clear()
        self._kinds.clear()
        self._splits.clear()

    def of(self, message: Message) -> tuple[int, ...]:
        """The channels of the message's route that can take it, in order; empty without any."""
        key = (message.tenant, message.message_class, message.carrier, message.country)
        try:
            return self._known[key]
        except KeyError:
            return self._own(message, key)

    def channels_for(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> tuple[int, ...]:
        """The same for what is known of a message that is not in memory, whatever its text.

        In the route's order: whose turn is first, its number says.
        """
        key = (tenant, message_class, carrier, country)
        channels = self._known.get(key)
        return self._kind(key).channels if channels is None else channels

    def _kind(self, key: RouteKey) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            route = self._snapshot.route_for(*key)
            channels = self._snapshot.channels_for(*key)
            is_for_all = self._snapshot.demanding.isdisjoint(channels)
            kind = _Kind(channels, is_for_all, route)
            if is_for_all and not (route and route.weights):
                self._known[key] = channels
            else:
                self._kinds[key] = kind
        return kind

    def _own(self, message: Message, key: RouteKey) -> tuple[int, ...]:
        """For a kind that is not known, or not the same for every message."""
        channels, is_for_all, route = self._kind(key)
        if not is_for_all:
            channels = self._of_text(message, channels)
        if route is None or not route.weights:
            return channels
        split = self._splits.get((route.id, channels))
        if split is None:
            split = self._splits[route.id, channels] = _split(route, channels)
        return split.order(key_of(message.number))

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


def in_turn(route: Route | None, channels: tuple[int, ...], number: str) -> tuple[int, ...]:
    """Those channels of a route that take a message, in its own order; for a look from outside."""
    if route is None or not route.weights:
        return channels
    return _split(route, channels).order(key_of(number))


def _split(route: Route, channels: tuple[int, ...]) -> Split:
    """The weights of those channels that take the message at all; the rest's are theirs too."""
    weight_of = dict(zip(route.channels, route.weights, strict=False))
    return Split.of(channels, [weight_of.get(one, 0) for one in channels])
