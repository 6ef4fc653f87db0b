"""Who may not be sent to, in memory: asked for each message of a class that has any entry.

    (tenant, number) ─▶ blind index ─▶ IndexMap of the class ─▶ in it, and why?

Only blind indexes are kept, some 9 bytes each, never a number. An entry of tenant 0 is the
platform's and holds for every tenant. Two numbers share an index once in 10^19 pairs: a hit is
believed. Pure: what changes is brought by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final

from sms.indexmap import IndexMap
from sms.model import Held, MessageClass

PLATFORM: Final = 0
OPTED_OUT: Final = "policy.opted_out"  # it stands on the tenant's own list
BLOCKED: Final = "recipient.blocked"  # it stands on the platform's, or a carrier blocks it
INVALID: Final = "recipient.invalid"  # a carrier says that it does not exist
_TENANTS: Final = {Held.ASKED: OPTED_OUT, Held.INVALID: INVALID, Held.BLOCKED: BLOCKED}  # by tag


class Suppressions:
    """All entries of the platform, by class."""

    def __init__(self, index_of: Callable[[int, str], int]) -> None:
        """`index_of(tenant, number)` is the keyed blind index that the entries were made with."""
        self._index_of = index_of
        self._sets = {message_class: IndexMap() for message_class in MessageClass}
        self._counts: dict[MessageClass, dict[int, int]] = {cls: {} for cls in MessageClass}

    def change(
        self,
        tenant: int,
        index: int,
        classes: Collection[MessageClass],
        why: Held = Held.ASKED,
    ) -> None:
        """An entry holds for these classes from now on, and for no other; none: it is gone."""
        for message_class, held in self._sets.items():
            counts = self._counts[message_class]
            if message_class in classes:
                if held.put(index, why) is None:
                    counts[tenant] = counts.get(tenant, 0) + 1
            elif held.pop(index) is not None:
                counts[tenant] -= 1
                if not counts[tenant]:
                    del counts[tenant]

    def has_any(self, message_class: MessageClass) -> bool:
        """Whether an entry for the class exists at all."""
        return bool(self._counts[message_class])

    def size(self, message_class: MessageClass) -> int:
        """How many entries hold for a class."""
        return self._sets[message_class].size

    def refusal(self, tenant: int, message_class: MessageClass, number: str) -> str | None:
        """Why the tenant may not send a text of this class to the number; None when it may.

        An index costs 0.5 µs: it is made only where the tenant, or the platform, has an entry.
        """
        counts = self._counts[message_class]
        held = self._sets[message_class]
        if tenant in counts:
            why = held.get(self._index_of(tenant, number))
            if why is not None:
                return _TENANTS[Held(why)]
        if PLATFORM in counts and held.get(self._index_of(PLATFORM, number)) is not None:
            return BLOCKED
        return None


def unkeyed_index(tenant: int, number: str) -> int:
    """An index without a key, for policies that stand alone: a list that nobody stores."""
    digest = blake2b(f"{tenant} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
