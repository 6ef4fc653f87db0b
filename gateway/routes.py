"""Which channels a message may take, in order: those of the most exact route that can serve it.

    kind of message ─▶ the same for every one? ─▶ one look-up
         └▶ not ─▶ those that have its text ─▶ on the route's canary, by its number? ─▶ its channels
                                  └▶ not ─▶ the first by its number and the route's weights

Of a route with channels that send registered templates only, a message takes the channels that
have its text. That is found once per message, at its first choice: later its text may be dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from failover.share import Share
from failover.split import Split, key_of
from gateway.twins import takers
from sms.config import Route, Snapshot
from sms.model import Carrier, Message, MessageClass

RouteKey = tuple[int, MessageClass, Carrier, int]  # tenant, class, carrier, country
_SplitOf = Callable[[Route, tuple[int, ...]], Split]


class _Trial(NamedTuple):
    """The part of such messages that is on a canary of their route."""

    share: Share
    channels: tuple[int, ...]  # whatever the text; the first is the candidate


class _Kind(NamedTuple):
    """A kind of message whose channels, or their order, differ from message to message."""

    channels: tuple[int, ...]  # whatever the text, in the route's order
    route: Route | None
    trial: _Trial | None
    every: tuple[int, ...]  # the route's and the trial's
    is_for_all: bool  # whether they take every text

    def order(self, able: tuple[int, ...], number: str, split_of: _SplitOf) -> tuple[int, ...]:
        """Those of `able` that a number's message takes, in its own order."""
        trial, route = self.trial, self.route
        if trial is not None and trial.channels[0] in able and trial.share.has(number):
            return self._only(trial.channels, able)
        channels = self._only(self.channels, able)
        if route is None or not route.weights:
            return channels
        return split_of(route, channels).order(key_of(number))

    def _only(self, channels: tuple[int, ...], able: tuple[int, ...]) -> tuple[int, ...]:
        return channels if self.is_for_all else tuple(one for one in channels if one in able)


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
            kind = _kind_of(self._snapshot, key)
            route = kind.route
            if kind.is_for_all and kind.trial is None and not (route and route.weights):
                self._known[key] = kind.channels
            else:
                self._kinds[key] = kind
        return kind

    def _own(self, message: Message, key: RouteKey) -> tuple[int, ...]:
        """For a kind that is not known, or not the same for every message."""
        kind = self._kind(key)
        able = kind.every if kind.is_for_all else self._of_text(message, kind.every)
        return kind.order(able, message.number, self._split)

    def _split(self, route: Route, channels: tuple[int, ...]) -> Split:
        split = self._splits.get((route.id, channels))
        if split is None:
            split = self._splits[route.id, channels] = _split(route, channels)
        return split

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


def are_same(before: Snapshot, after: Snapshot) -> bool:
    """Whether every message that waits still has its channels, as far as routes and canaries say.

    A canary that is only paused, or judged anew, has the same numbers on the same channels.
    """
    return before.routes == after.routes and _trials(before) == _trials(after)


def _trials(snapshot: Snapshot) -> set[tuple[int, int, int, tuple[int, ...]]]:
    return {(one.route, one.id, one.share, one.channels) for one in snapshot.canaries}


def in_turn(snapshot: Snapshot, key: RouteKey, number: str, text: str) -> tuple[int, ...]:
    """The same for a message that is none yet: its channels in its own order, by its final text."""
    kind = _kind_of(snapshot, key)
    tenant, message_class, _, country = key
    able = kind.every
    if not kind.is_for_all:
        able = takers(snapshot, able, tenant, message_class, country, text)
    return kind.order(able, number, _split)


def _kind_of(snapshot: Snapshot, key: RouteKey) -> _Kind:
    channels = snapshot.channels_for(*key)
    every, trial = channels, None
    found = snapshot.trial_for(*key)
    if found is not None:
        canary, able = found
        trial = _Trial(Share(canary.id, canary.share), able)
        every = tuple(dict.fromkeys(channels + able))
    is_for_all = snapshot.demanding.isdisjoint(every)
    return _Kind(channels, snapshot.route_for(*key), trial, every, is_for_all)


def _split(route: Route, channels: tuple[int, ...]) -> Split:
    """The weights of those channels that take the message at all; the rest's are theirs too."""
    weight_of = dict(zip(route.channels, route.weights, strict=False))
    return Split.of(channels, [weight_of.get(one, 0) for one in channels])
