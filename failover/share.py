"""Which numbers are on a canary: a part of a route's, the same ones as long as it lives.

    number ─▶ key ─▶ below the share ─▶ the canary's channels
                └▶ not ─▶ the route's own

A share that grows keeps every number it had. Another canary begins with other numbers, and none
with those of a weight (`failover.split`) or of a breaker's ramp. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from failover.breaker import SHARES
from failover.split import key_of

SHARE_SALT: Final = 0xC2B2_AE35  # odd, and another than a split's


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the numbers that one canary has."""

    canary: int  # its id
    percent: int

    def has(self, number: str) -> bool:
        """Whether the number is on it: the same in every process and at every time."""
        key = key_of(f"{self.canary} {number}", SHARE_SALT)
        return key * 100 < self.percent * SHARES
