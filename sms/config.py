"""What a gateway is configured with: tenants, keys, channels, routes, templates, endpoints.

These are the parsed, validated objects that run; `gateway/apply.py` makes them from YAML and
`store/config.py` keeps them. A `Snapshot` is immutable: a change makes a new one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from itertools import compress, product
from typing import Any, TypeAlias

from sms.codes import family_of
from sms.model import Carrier, Encoding, MessageClass, UncertainPolicy
from sms.templates import Book, Template

MAX_BURST_SEGMENTS = 1_000_000
MAX_CHANNELS = 4  # of one message: a primary and three backups


def default_burst(segments_per_second: float) -> int:
    """The depth of a bucket whose rate alone is given: two seconds of it."""
    return min(MAX_BURST_SEGMENTS, max(1, round(2 * segments_per_second)))


def _bucket_of(spec: Mapping[str, Any]) -> tuple[float, int]:
    rate = float(spec["segments_per_second"])
    return rate, int(spec.get("burst_segments", default_burst(rate)))


@dataclass(frozen=True, slots=True)
class ClassLimit:
    """A bucket of its own for one class of a tenant, beside the tenant's."""

    message_class: MessageClass
    segments_per_second: float
    burst_segments: int

    @classmethod
    def of(cls, name: str, spec: Mapping[str, Any]) -> ClassLimit:
        """From what is stored under the name of the class."""
        return cls(MessageClass(name), *_bucket_of(spec))


@dataclass(frozen=True, slots=True)
class Burst:
    """More for a while: the tenant's bucket from `since` to `until`, Unix seconds."""

    since: float
    until: float
    segments_per_second: float
    burst_segments: int

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Burst:
        """From what is stored; its times are text with a zone."""
        since = spec.get("from")
        until = datetime.fromisoformat(spec["until"]).timestamp()
        begin = 0.0 if since is None else datetime.fromisoformat(since).timestamp()
        return cls(begin, until, *_bucket_of(spec))


@dataclass(frozen=True, slots=True)
class OtpCaps:
    """How many otp messages a number gets, and a block of 10,000 numbers; 0 = no such cap."""

    per_minute: int = 1  # of one number, in any 60 s
    per_hour: int = 5
    per_day: int = 10
    prefix_burst: int = 30  # of one number without its last four digits: depth, filled in 60 s

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> OtpCaps:
        """From what is stored: what is not given has its default."""
        return cls(**{name: int(value) for name, value in spec.items()})

    def __bool__(self) -> bool:
        """Whether there is anything to count."""
        return bool(self.per_minute or self.per_hour or self.per_day or self.prefix_burst)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Our customer: limits, brands, countries."""

    id: int
    name: str
    signatures: tuple[str, ...] = ()
    countries: tuple[int, ...] = (86,)
    segments_per_second: float = 100.0  # rate of the token bucket
    burst_segments: int = 200  # its depth
    segments_per_day: int | None = None  # None = no quota; days and months of UTC+8
    segments_per_month: int | None = None
    class_limits: tuple[ClassLimit, ...] = ()
    bursts: tuple[Burst, ...] = ()
    otp_caps: OtpCaps = OtpCaps()
    is_suspended: bool = False
    allowed_ips: tuple[IPv4Network | IPv6Network, ...] = ()  # empty = from everywhere
    inbound_numbers: tuple[str, ...] = ()  # replies to numbers that begin so are the tenant's
    on_uncertain: UncertainPolicy | None = None  # after a lost answer; None = the platform's
    client_certificates: tuple[str, ...] = ()  # SHA-256, one of which must be shown; empty = none

    def limit_at(self, unix: float) -> tuple[float, int]:
        """Rate and depth of the tenant's bucket at that time: the largest in force."""
        rate, depth = self.segments_per_second, self.burst_segments
        for burst in self.bursts:
            if burst.since <= unix < burst.until:
                rate = max(rate, burst.segments_per_second)
                depth = max(depth, burst.burst_segments)
        return rate, depth


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One API key; of its bearer text only `secret_hash` = HMAC(pepper, secret) is known."""

    id: int
    name: str
    tenant: int  # 0 for admin keys: they belong to the platform
    scopes: frozenset[str]
    secret_hash: bytes = field(repr=False)
    valid_until: float = math.inf  # Unix seconds; a key that was rotated out has an end
    signing_secret: bytes | None = field(default=None, repr=False)  # of a key that may sign


class AdminState(StrEnum):
    """Whether an operator lets a channel take messages."""

    ACTIVE = "active"
    PAUSED = "paused"  # nothing new is submitted; its sessions stay, receipts come
    DRAINING = "draining"  # paused, and its sessions log out once nothing is open there


_UCS2_ONLY = frozenset(("cmpp", "sgip", "smgp", "aliyun", "tencent", "huawei"))


def encodings_of(protocol: str) -> frozenset[Encoding]:
    """What a protocol carries whole: those of the mainland's networks pack no septets, and 160 of
    them do not fit the 140 octets of a segment. Its vendors count 70 and 67 for every text."""
    is_mainland = family_of(protocol) in _UCS2_ONLY
    return frozenset({Encoding.UCS2}) if is_mainland else frozenset(Encoding)


@dataclass(frozen=True, slots=True)
class Channel:
    """One account at one carrier over one protocol.

    `settings` holds the protocol's own settings by their standard names (host, port, system_id,
    password, bind …), already validated by the protocol's folder. Secrets are plain in memory
    and sealed in the store.
    """

    id: int
    name: str
    protocol: str
    settings: Mapping[str, Any]
    sessions: int = 1
    window: int = 16
    segments_per_second: float = field(default=100.0, compare=False)  # no other channel, as below
    classes: frozenset[MessageClass] = frozenset(MessageClass)
    sender: str = ""  # access code or alphanumeric sender; sender_ext is appended
    submit_timeout_s: float | None = None  # None = the class default
    reference_bits: int = 8  # of a long text's reference: 8 or 16; the text is cut to leave room
    opt_out_line: str | None = None  # behind marketing; None = the usual one (compliance.opt_out)
    encodings: frozenset[Encoding] = frozenset(Encoding)
    adds_signature: bool = False  # the carrier puts 【…】 in front itself: we count it, it sends it
    demands_template: bool = False  # it sends registered templates only: texts with a twin there
    # What follows is in force without a new session, so it makes no other channel.
    carriers: frozenset[Carrier] | None = field(default=None, compare=False)  # None = all
    countries: frozenset[int] | None = field(default=None, compare=False)  # None = all
    price_per_segment: Decimal | None = field(default=None, compare=False)
    # What words and codes of its reports mean, before the common tables (receipts.normalise).
    report_classes: Mapping[str, str] = field(default_factory=dict, compare=False)
    admin_state: AdminState = field(default=AdminState.ACTIVE, compare=False)

    def serves(self, message_class: MessageClass, carrier: Carrier, country: int) -> bool:
        """Whether it can take such messages at all."""
        return (
            message_class in self.classes
            and (self.carriers is None or carrier in self.carriers)
            and (self.countries is None or country in self.countries)
        )


@dataclass(frozen=True, slots=True)
class Route:
    """An ordered choice: channels[0] is the primary, then at most three backups.

    With weights several are primaries, each for its part of the numbers (`failover.split`).
    """

    id: int
    tenant: int  # 0 = any
    message_class: MessageClass | None  # None = any
    carrier: Carrier | None  # None = any
    country: int  # 0 = any
    channels: tuple[int, ...]
    weights: tuple[int, ...] = ()  # beside the channels, the rest 0; () = all to channels[0]


class CanaryState(StrEnum):
    """Where a canary is: it has a share in the first two, and is over in the others."""

    RUNNING = "running"
    PAUSED = "paused"  # keeps its share: no gate takes it further, none takes it back
    PROMOTED = "promoted"  # its channels are the route's
    ROLLED_BACK = "rolled_back"  # two bad gates
    ABORTED = "aborted"  # an operator ended it

    @property
    def is_live(self) -> bool:
        """Whether destinations are on it."""
        return self in (CanaryState.RUNNING, CanaryState.PAUSED)


@dataclass(frozen=True, slots=True)
class Canary:
    """A part of a route's destinations on other channels, to see whether these are as good.

    channels[0] is the candidate; what it is measured against is the route's channels[0].
    """

    id: int
    name: str
    route: int
    channels: tuple[int, ...]
    share: int  # percent of the route's destinations
    state: CanaryState
    since: float  # Unix seconds: the begin of this step, or when it was resumed

    def beside(self, own: Sequence[int]) -> tuple[int, ...]:
        """What its messages may take, beside a route's own channels: the candidate, then the
        route's first, which is known to be good, then the canary's others."""
        order = dict.fromkeys((self.channels[0], *own[:1], *self.channels[1:]))
        return tuple(order)[:MAX_CHANNELS]


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where a tenant wants its events."""

    id: int
    tenant: int
    url: str
    events: tuple[str, ...] = ("message.*",)
    batch: bool = False
    full_number: bool = False
    secrets: tuple[bytes, ...] = ()  # the raw keys that sign now, newest first
    ends: tuple[float, ...] = ()  # until when each of them signs, Unix; () = all of them for good
    is_disabled: bool = False  # nothing is sent to it

    def keys(self, now: float) -> Sequence[bytes]:
        """The keys that sign at `now`, Unix seconds: several while a secret is rotated."""
        if not self.ends:
            return self.secrets
        return [key for key, end in zip(self.secrets, self.ends, strict=True) if now < end]


def wants_event(events: Collection[str], kind: str) -> bool:
    """Whether an endpoint's filter lets this event type through."""
    return kind in events or ("message.*" in events and kind.startswith("message."))


# Whose messages a route takes: tenant (0 = any), class, carrier (None = any), country (0 = any).
_RouteKey: TypeAlias = tuple[int, MessageClass | None, Carrier | None, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole configuration at one version."""

    version: int = 0
    tenants: Mapping[int, Tenant] = field(default_factory=dict)
    api_keys: Mapping[int, ApiKey] = field(default_factory=dict)
    channels: Mapping[int, Channel] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    endpoints: Mapping[int, WebhookEndpoint] = field(default_factory=dict)
    templates: Mapping[int, Template] = field(default_factory=dict)
    canaries: tuple[Canary, ...] = ()  # running and paused ones

    book: Book = field(init=False, repr=False, compare=False)  # the templates, to find a text's
    demanding: frozenset[int] = field(init=False, repr=False, compare=False)  # templates only
    paused: frozenset[int] = field(init=False, repr=False, compare=False)  # channels not active
    # One route for each different list of channels: what can be asked of routes is asked of these.
    ways: Mapping[tuple[int, ...], Route] = field(init=False, repr=False, compare=False)
    _shared: frozenset[tuple[int, ...]] = field(init=False, repr=False, compare=False)  # by weights
    _trials: Mapping[int, Canary] = field(init=False, repr=False, compare=False)  # by route
    _by_key: dict[_RouteKey, Route] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the routes: a message's look-up must not grow with the number of tenants."""
        by_key: dict[_RouteKey, Route] = {}
        ways: dict[tuple[int, ...], Route] = {}
        for route in self.routes:
            key = (route.tenant, route.message_class, route.carrier, route.country)
            by_key.setdefault(key, route)
            ways.setdefault(route.channels, route)
        demanding = frozenset(one.id for one in self.channels.values() if one.demands_template)
        paused = frozenset(
            one.id for one in self.channels.values() if one.admin_state is not AdminState.ACTIVE
        )
        object.__setattr__(self, "paused", paused)
        object.__setattr__(self, "book", Book(self.templates.values()))
        object.__setattr__(self, "demanding", demanding)
        object.__setattr__(self, "_by_key", by_key)  # the object is frozen for everybody else
        object.__setattr__(self, "ways", ways)
        shared = frozenset(route.channels for route in self.routes if route.weights)
        object.__setattr__(self, "_shared", shared)
        object.__setattr__(self, "_trials", {one.route: one for one in self.canaries})

    def route_for(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> Route | None:
        """The most exact match wins: tenant, then class, then carrier, then country."""
        find = self._by_key.get
        for owner, cls, network, code in product(
            (tenant, 0), (message_class, None), (carrier, None), (country, 0)
        ):
            route = find((owner, cls, network, code))
            if route is not None:
                return route
        return None

    def channels_for(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> tuple[int, ...]:
        """The channels of the route that can take such messages, in order; () without any."""
        route = self.route_for(tenant, message_class, carrier, country)
        if route is None:
            return ()
        return self._serving(route.channels, message_class, carrier, country)

    def trial_for(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> tuple[Canary, tuple[int, ...]] | None:
        """The live canary of the route, and those of its channels that can take such messages.

        None also where its candidate cannot: such messages stay with the route's own channels.
        """
        route = self.route_for(tenant, message_class, carrier, country) if self._trials else None
        canary = self._trials.get(route.id) if route is not None else None
        if route is None or canary is None:
            return None
        able = self._beside(canary, route.channels, message_class, carrier, country)
        return (canary, able) if canary.channels[0] in able else None

    def _beside(
        self,
        canary: Canary,
        channels: tuple[int, ...],
        message_class: MessageClass,
        carrier: Carrier,
        country: int,
    ) -> tuple[int, ...]:
        own = self._serving(channels, message_class, carrier, country)
        return self._serving(canary.beside(own), message_class, carrier, country)

    def choices(self, message_class: MessageClass) -> frozenset[tuple[int, ...]]:
        """Whatever messages of a class can have as their channels, at least, but never ().

        A channel that does not take every message, or text, makes several choices of one route,
        and so do weights and a canary.
        """
        found: set[tuple[int, ...]] = set()
        for channels in self.ways:
            for carrier, country in self._places(channels):
                serving = self._serving(channels, message_class, carrier, country)
                for choice in self._narrowed(serving):
                    found.add(choice)
                    if channels in self._shared:
                        found.update(_each_first(choice))
        for route in self.routes if self._trials else ():
            canary = self._trials.get(route.id)
            if canary is not None:
                for place in self._places(route.channels + canary.channels):
                    on_it = self._beside(canary, route.channels, message_class, *place)
                    found.update(self._narrowed(on_it))
        return frozenset(found - {()})

    def _places(self, channels: Iterable[int]) -> Iterator[tuple[Carrier, int]]:
        """Where messages that these channels tell apart may go."""
        known = [self.channels[number] for number in channels if number in self.channels]
        countries = {code for channel in known for code in channel.countries or ()}
        return product(Carrier, (0, *countries))  # 0: one that nobody names

    def _narrowed(self, channels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """A choice, and what texts without a twin on some of its channels leave of it."""
        keeps = [(True, False) if number in self.demanding else (True,) for number in channels]
        for kept in product(*keeps):
            yield tuple(compress(channels, kept))

    def _serving(
        self,
        channels: tuple[int, ...],
        message_class: MessageClass,
        carrier: Carrier,
        country: int,
    ) -> tuple[int, ...]:
        return tuple(
            number
            for number in channels
            if (channel := self.channels.get(number)) is None
            or channel.serves(message_class, carrier, country)
        )


def _each_first(channels: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for first in channels:
        yield (first, *(one for one in channels if one != first))
