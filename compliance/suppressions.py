"""Who may not be sent to, in memory: asked for each message of a class that has any entry.

    (tenant, number) ─▶ blind index ─▶ bucket of sorted 64-bit values ─▶ in it?

Only blind indexes are kept, 8 bytes each, never a number. An entry of tenant 0 is the platform's
and holds for every tenant. Two numbers share an index once in 10^19 pairs: a hit is believed.
Pure: what changes is brought by the caller.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final

from sms.model import MessageClass

PLATFORM: Final = 0
OPTED_OUT: Final = "policy.opted_out"  # it stands on the tenant's own list
BLOCKED: Final = "recipient.blocked"  # it stands on the platform's
_BUCKETS: Final = 1 << 14  # of a million values 61 each: an insertion moves half a kilobyte


class IndexSet:
    """A set of signed 64-bit values at some 12 bytes each; a Python set takes 60 to 100."""

    __slots__ = ("_buckets", "size")

    def __init__(self) -> None:
        self._buckets: list[array[int] | None] = [None] * _BUCKETS
        self.size = 0

    def __contains__(self, value: int) -> bool:
        bucket = self._buckets[value & _BUCKETS - 1]
        if bucket is None:
            return False
        place = bisect_left(bucket, value)
        return place < len(bucket) and bucket[place] == value

    def add(self, value: int) -> bool:
        """Put a value in; False when it was there."""
        bucket = self._buckets[value & _BUCKETS - 1]
        if bucket is None:
            bucket = self._buckets[value & _BUCKETS - 1] = array("q")
        place = bisect_left(bucket, value)
        if place < len(bucket) and bucket[place] == value:
            return False
        bucket.insert(place, value)
        self.size += 1
        return True

    def discard(self, value: int) -> bool:
        """Take a value out; False when it was not there."""
        bucket = self._buckets[value & _BUCKETS - 1]
        if bucket is None:
            return False
        place = bisect_left(bucket, value)
        if place == len(bucket) or bucket[place] != value:
            return False
        del bucket[place]
        self.size -= 1
        return True


class Suppressions:
    """All entries of the platform, by class."""

    def __init__(self, index_of: Callable[[int, str], int]) -> None:
        """`index_of(tenant, number)` is the keyed blind index that the entries were made with."""
        self._index_of = index_of
        self._sets = {message_class: IndexSet() for message_class in MessageClass}
        self._counts: dict[MessageClass, dict[int, int]] = {cls: {} for cls in MessageClass}

    def change(self, tenant: int, index: int, classes: Collection[MessageClass]) -> None:
        """An entry holds for these classes from now on, and for no other; none: it is gone."""
        for message_class, held in self._sets.items():
            counts = self._counts[message_class]
            if message_class in classes:
                if held.add(index):
                    counts[tenant] = counts.get(tenant, 0) + 1
            elif held.discard(index):
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
        if tenant in counts and self._index_of(tenant, number) in held:
            return OPTED_OUT
        if PLATFORM in counts and self._index_of(PLATFORM, number) in held:
            return BLOCKED
        return None


def unkeyed_index(tenant: int, number: str) -> int:
    """An index without a key, for policies that stand alone: a list that nobody stores."""
    digest = blake2b(f"{tenant} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
