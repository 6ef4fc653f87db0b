"""Whose text is it that a phone sent, and which message does it answer?

    `inbound_numbers` of a tenant, the longest that the number begins with
        │ none
        ▼
    the only tenant whose routes lead to the channel
        │ several
        ▼
    who sent to that phone over that channel last, within 72 h
        │ nobody
        ▼
    nobody's: kept for the platform (tenant 0), no event

The probable parent is that same last message, better one that went out under the very number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from receipts.state import fold
from sms.config import Snapshot
from sms.model import Message
from store.read import Stored

NOBODY = 0
ANSWERS_S = 259_200.0  # 72 h: what came later answers nothing that we know of
LOOKED_AT = 5  # newest messages of a tenant to a number
MOST_TENANTS = 1000  # whose sendings are looked through for one text


class Sought(NamedTuple):
    """What is known of a text."""

    channel: int
    number: str  # of the phone, E.164 digits
    to: str  # the number it was sent to


class Owned(NamedTuple):
    """Whose it is, and what it probably answers."""

    tenant: int
    parent: Message | None


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
    """Answers for many texts at a time: two reads, however many they are."""

    def __init__(self, finder: MessageFinder, source: MessageSource, indexes: IndexMaker) -> None:
        self._finder = finder
        self._source = source
        self._indexes = indexes
        self._by_prefix: dict[str, int] = {}
        self._longest = 0
        self._of_channel: dict[int, tuple[int, ...]] = {}
        self._senders: dict[int, str] = {}

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Take over who has which numbers, and whose routes lead where."""
        self._by_prefix = {
            prefix: tenant.id
            for tenant in sorted(snapshot.tenants.values(), key=lambda one: -one.id)
            for prefix in tenant.inbound_numbers
        }
        self._longest = max(map(len, self._by_prefix), default=0)
        everybody = tuple(sorted(snapshot.tenants))
        using: dict[int, set[int]] = {channel: set() for channel in snapshot.channels}
        for route in snapshot.routes:
            for channel in route.channels:
                using.setdefault(channel, set()).update(
                    (route.tenant,) if route.tenant else everybody
                )
        known = frozenset(everybody)
        self._of_channel = {
            channel: tuple(sorted(tenants & known)) for channel, tenants in using.items()
        }
        self._senders = {channel.id: channel.sender for channel in snapshot.channels.values()}

    async def find(self, texts: Sequence[Sought], now: float) -> list[Owned]:
        """One answer for each, in the same order. Raises Unavailable."""
        asked = [self._candidates(text) for text in texts]
        indexes = {
            self._indexes.number_index(tenant, text.number)
            for text, tenants in zip(texts, asked, strict=True)
            for tenant in tenants
        }
        found = await self._finder.recent(sorted(indexes), now - ANSWERS_S, LOOKED_AT)
        stored = await self._source.messages([one for ids in found.values() for one in ids])
        sent: dict[str, list[Message]] = {}
        for _, record in sorted(stored.items(), reverse=True):
            fold(record.message, record.rows)
            if record.message.channel:  # it was tried at least
                sent.setdefault(record.message.number, []).append(record.message)
        return [
            self._owned(text, tenants, sent.get(text.number, ()))
            for text, tenants in zip(texts, asked, strict=True)
        ]

    def _candidates(self, text: Sought) -> tuple[int, ...]:
        for size in range(min(self._longest, len(text.to)), 0, -1):
            tenant = self._by_prefix.get(text.to[:size])
            if tenant is not None:
                return (tenant,)
        tenants = self._of_channel.get(text.channel, ())
        return tenants if len(tenants) <= MOST_TENANTS else ()

    def _owned(self, text: Sought, tenants: tuple[int, ...], sent: Sequence[Message]) -> Owned:
        own = [message for message in sent if message.tenant in tenants]
        here = [message for message in own if message.channel == text.channel]
        exact = [
            message
            for message in here
            if self._senders.get(text.channel, "") + (message.sender_ext or "") == text.to
        ]
        is_known = len(tenants) == 1
        parent = next(iter(exact or here or (own if is_known else ())), None)
        if is_known:
            return Owned(tenants[0], parent)
        return Owned(NOBODY if parent is None else parent.tenant, parent)
