"""Whose text is it that a phone sent, and which message does it answer?

    `inbound_numbers` of a tenant, the longest that the number begins with
        │ none
        ▼
    the only tenant whose routes lead to the channel
        │ several
        ▼
    who sent to that phone over that channel last, within 72 h, showing the number it came to
        │ nobody
        ▼
    nobody's: kept for the platform (tenant 0), no event

The probable parent is that same last message, better one that went out under the very number.
Among several tenants a message that showed another number counts for nothing: the text would be
read by somebody whom its sender never wrote to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, Protocol

from receipts.state import fold
from sms.config import Channel, Snapshot
from sms.errors import Unavailable
from sms.model import Carrier, Message, MessageClass
from store.read import Stored
from telemetry.logs import get_logger

NOBODY = 0
ANSWERS_S = 259_200.0  # 72 h: what came later answers nothing that we know of
LOOKED_AT = 5  # newest messages of a tenant to a number
MOST_TENANTS = 1000  # whose sendings are looked through for one text
MOST_INDEXES = 2000  # of one statement: it must end long before its time-out
log = get_logger(__name__)

_TURN = 200  # indexes made, or messages folded, in one turn of the loop
_MAINLAND = 86


class Sought(NamedTuple):
    """What is known of a text."""

    channel: int
    number: str  # of the phone, E.164 digits
    to: str  # the number it was sent to


class Owned(NamedTuple):
    """Whose it is, and what it probably answers."""

    tenant: int
    parent: Message | None
    among: tuple[int, ...] = ()  # of nobody's text: the tenants one of which it may answer


class MessageFinder(Protocol):
    """The newest messages to numbers (store.inbound)."""

    async def recent(
        self, indexes: Sequence[int], since: float, most: int
    ) -> Mapping[int, Sequence[int]]:
        """By blind index, the newest first."""
        ...


class MessageSource(Protocol):
    """Messages with their rows (store.read)."""

    async def messages(self, ids: Sequence[int]) -> Mapping[int, Stored]:
        """Unknown ids are absent."""
        ...


class IndexMaker(Protocol):
    """The blind index of a number (store.seal)."""

    def number_index(self, tenant: int, number: str) -> int:
        """Keyed; equal numbers of a tenant are equal."""
        ...


def taken_numbers(
    numbers: Sequence[str], owner: str, tenants: Mapping[str, Mapping[str, Any]]
) -> dict[int, str]:
    """Those of a tenant's numbers, by index, that another tenant (named) has as well.

    One may begin with another's: the longer one wins. `tenants` are specs by name.
    """
    others = {
        number: name
        for name, spec in tenants.items()
        if name != owner
        for number in spec.get("inbound_numbers", ())
    }
    return {index: others[one] for index, one in enumerate(numbers) if one in others}


def taken_detail(other: str) -> str:
    """What to do about one."""
    return (
        f"is a number of tenant {other} too, and a reply can be only one tenant's; give each its "
        "own extension"
    )


class Owners:
    """Answers for many texts at a time, in statements and turns of the loop of bounded size."""

    def __init__(self, finder: MessageFinder, source: MessageSource, indexes: IndexMaker) -> None:
        self._finder = finder
        self._source = source
        self._indexes = indexes
        self._by_prefix: dict[str, int] = {}
        self._longest = 0
        self._snapshot = Snapshot()
        self._of_channel: dict[int, tuple[int, ...]] | None = {}  # None: to be found out

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Take over who has which numbers, and whose routes lead where."""
        self._by_prefix = {}
        for tenant in sorted(snapshot.tenants.values(), key=lambda one: one.id):
            for prefix in tenant.inbound_numbers:
                owner = self._by_prefix.setdefault(prefix, tenant.id)
                if owner != tenant.id:  # nothing lets it in: written past us
                    log.warning("two tenants have one number", number=prefix, owner=owner)
        self._longest = max(map(len, self._by_prefix), default=0)
        self._snapshot = snapshot
        self._of_channel = None

    async def find(self, texts: Sequence[Sought], now: float) -> list[Owned]:
        """One answer for each, in the same order.

        Raises Unavailable, except for one text alone whose owner is known: that one is not held
        back for the sake of its parent.
        """
        while self._of_channel is None:
            snapshot = self._snapshot
            found = await users_of_channels(snapshot)
            if snapshot is self._snapshot:
                self._of_channel = found
        asked = [self._candidates(text) for text in texts]
        try:
            sent = await self._sent(zip(texts, asked, strict=True), now)
        except Unavailable:
            if len(texts) > 1 or len(asked[0]) != 1:
                raise
            sent = {}
        return [
            self._owned(text, tenants, sent.get(text.number, ()))
            for text, tenants in zip(texts, asked, strict=True)
        ]

    async def _sent(
        self, asked: Iterable[tuple[Sought, tuple[int, ...]]], now: float
    ) -> dict[str, list[Message]]:
        """What was sent to these phones of late and left, the newest first, by number."""
        pairs = {(tenant, text.number) for text, tenants in asked for tenant in tenants}
        indexes: set[int] = set()
        for made, (tenant, number) in enumerate(pairs, 1):
            indexes.add(self._indexes.number_index(tenant, number))
            if not made % _TURN:
                await asyncio.sleep(0)
        wanted = sorted(indexes)
        ids: list[int] = []
        for start in range(0, len(wanted), MOST_INDEXES):
            some = wanted[start : start + MOST_INDEXES]
            for found in (await self._finder.recent(some, now - ANSWERS_S, LOOKED_AT)).values():
                ids += found
        ids.sort(reverse=True)
        sent: dict[str, list[Message]] = {}
        for start in range(0, len(ids), _TURN):
            stored = await self._source.messages(ids[start : start + _TURN])
            for _, record in sorted(stored.items(), reverse=True):
                fold(record.message, record.rows)
                if record.message.channel:  # it was tried at least
                    sent.setdefault(record.message.number, []).append(record.message)
            await asyncio.sleep(0)
        return sent

    def _candidates(self, text: Sought) -> tuple[int, ...]:
        for size in range(min(self._longest, len(text.to)), 0, -1):
            tenant = self._by_prefix.get(text.to[:size])
            if tenant is not None:
                return (tenant,)
        tenants = (self._of_channel or {}).get(text.channel, ())
        return tenants if len(tenants) <= MOST_TENANTS else ()

    def _owned(self, text: Sought, tenants: tuple[int, ...], sent: Sequence[Message]) -> Owned:
        own = [message for message in sent if message.tenant in tenants]
        here = [message for message in own if message.channel == text.channel]
        channel = self._snapshot.channels.get(text.channel)
        exact = [message for message in here if _shown(channel, message) == text.to]
        if len(tenants) == 1:
            return Owned(tenants[0], next(iter(exact or here or own), None))
        if channel is None or text.to == channel.sender:
            likely = here  # carriers cut extensions off
        elif channel.sender:
            likely = []
        else:  # what the carrier showed instead of a sender is not known here
            likely = [message for message in here if not message.sender_ext]
        parent = next(iter(exact or likely), None)
        if parent is None:
            return Owned(NOBODY, None, tenants)
        return Owned(parent.tenant, parent)


def _shown(channel: Channel | None, message: Message) -> str:
    return ("" if channel is None else channel.sender) + (message.sender_ext or "")


def _channels_of(snapshot: Snapshot, tenant: int, countries: Sequence[int]) -> set[int]:
    """The channels that messages of a tenant may go over.

    A route of its own takes what it matches out of the routes for everybody, as in sending.
    """
    found: set[int] = set()
    for country in countries:
        carriers = tuple(Carrier) if country == _MAINLAND else (Carrier.OTHER,)
        for message_class, carrier in product(MessageClass, carriers):
            key = (tenant, message_class, carrier, country)
            found.update(snapshot.channels_for(*key))
            trial = snapshot.trial_for(*key)
            found.update(() if trial is None else trial[1])
    return found


async def users_of_channels(snapshot: Snapshot) -> dict[int, tuple[int, ...]]:
    """The tenants whose messages may go over a channel, by channel; lets the loop go in between."""
    own_routes = {route.tenant for route in snapshot.routes}
    alike: dict[tuple[int, ...], set[int]] = {}  # of tenants without routes of their own
    users: dict[int, list[int]] = {}
    for tenant in sorted(snapshot.tenants.values(), key=lambda one: one.id):
        if tenant.id in own_routes:
            await asyncio.sleep(0)
            channels = _channels_of(snapshot, tenant.id, tenant.countries)
        elif tenant.countries in alike:
            channels = alike[tenant.countries]
        else:
            channels = _channels_of(snapshot, tenant.id, tenant.countries)
            alike[tenant.countries] = channels
        for channel in channels:
            users.setdefault(channel, []).append(tenant.id)
    return {channel: tuple(tenants) for channel, tenants in users.items()}
