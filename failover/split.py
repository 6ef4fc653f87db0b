"""Which channel of a route is a message's first, where the route shares them out by weights.

    number ─▶ key ─▶ 0 … 6999 ─▶ (a, b, c)      weights 70, 30, none:
                  └▶ 7000 … 9999 ─▶ (b, a, c)   the others follow in the route's order

The same number has the same first channel as long as the weights stay; when they change, only
the numbers move that must. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from failover.breaker import SHARES

# Odd, so that it loses nothing. Another salt gives a share of the numbers that has nothing to do
# with this one, nor with a breaker's ramp: a ramp must not try a channel with one split's numbers.
SPLIT_SALT: Final = 0x9E37_79B1


def key_of(number: str, salt: int = SPLIT_SALT) -> int:
    """The number's own place in 0 … SHARES - 1, the same in every process and at every time."""
    return ((crc32(number.encode()) * salt) & 0xFFFF_FFFF) * SHARES >> 32


@dataclass(frozen=True, slots=True)
class Split:
    """The channels of a route in every order that they have for some numbers."""

    ends: tuple[int, ...]  # of the parts of the keys, upwards; the last one is SHARES
    orders: tuple[tuple[int, ...], ...]  # one for each part

    @classmethod
    def of(cls, channels: Sequence[int], weights: Sequence[int]) -> Split:
        """Shared out by whole weights beside the channels; none, or 0, is a backup only.

        Where no channel has a weight, all numbers have the order given.
        """
        listed = tuple(channels)
        shared = [(one, weight) for one, weight in zip(listed, weights, strict=False) if weight]
        if not shared:
            return cls((SHARES,), (listed,))
        total = sum(weight for _, weight in shared)
        ends: list[int] = []
        orders: list[tuple[int, ...]] = []
        before = 0
        for first, weight in shared:
            before += weight
            ends.append(round(before * SHARES / total))
            orders.append((first, *(one for one in listed if one != first)))
        return cls(tuple(ends), tuple(orders))

    def order(self, key: int) -> tuple[int, ...]:
        """The channels for a key of `key_of`: its first one, then its backups."""
        return self.orders[bisect_right(self.ends, key)]
