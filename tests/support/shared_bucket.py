"""The script of `ratelimit.limiter` in Python, for tests without a server.

`tests/integration/test_limiter_valkey.py` holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ratelimit.lease import LEASE_S
from sms.errors import ClusterUnavailable

UNIT = 1_000_000_000
TTL_US = int(LEASE_S * 1_000_000)


@dataclass
class Shared:
    """One bucket: level in billionths, holders as client -> (granted, spent, expires µs)."""

    level: int
    at: int
    holders: dict[str, tuple[int, int, int]] = field(default_factory=dict)


class SharedBuckets:
    """What Valkey keeps; `now_us` is its clock."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000
        self.rows: dict[str, Shared] = {}

    def call(self, client: str, keys: Sequence[str], args: Sequence[int]) -> list[int]:
        answer: list[int] = []
        for index, key in enumerate(keys):
            answer += self._one(client, key, args[8 * index : 8 * index + 8])
        return answer

    def _one(self, client: str, key: str, args: Sequence[int]) -> tuple[int, int]:
        rate, depth, reserve, spent, granted, hold, want, least = args
        depth, reserve, now = depth * UNIT, reserve * UNIT, self.now_us
        row = self.rows.setdefault(key, Shared(depth, now))
        mine, others, before = min(0, granted - spent), 0, 0
        for name, (g, s, expires) in list(row.holders.items()):
            before += g - s
            if expires <= now or expires > now + 2 * TTL_US:
                del row.holders[name]
            elif name == client:
                mine = g - spent
            else:
                others += g - s
        room = max(0, depth - before * UNIT)
        level = row.level
        if now > row.at and level < room:
            level = min(room, level + (now - row.at) * rate)
        debt, mine = max(0, -mine), max(0, mine)
        back = max(0, mine - hold)
        mine -= back
        room = max(0, depth - (others + mine) * UNIT)
        level = min(room, max(0, level + (back - debt) * UNIT))
        free = max(0, level - reserve) // UNIT
        new = min(want - mine, free)
        if new > 0 and free >= least:
            mine += new
            level -= new * UNIT
        row.level, row.at = level, now
        row.holders[client] = (spent + mine, spent, now + TTL_US)
        return mine, level // 1_000_000

    def left(self, key: str) -> float:
        """Segments in the bucket when it was last looked at."""
        return self.rows[key].level / UNIT if key in self.rows else 0.0


class Caller:
    """The script's `Call` on a `SharedBuckets`; away when told so."""

    def __init__(self, shared: SharedBuckets, client: str) -> None:
        self.shared = shared
        self.client = client
        self.is_away = False
        self.calls: list[list[str]] = []
        self.is_closed = False

    async def __call__(self, keys: Sequence[str], args: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(keys))
        if self.is_away:
            raise ClusterUnavailable("away")
        return self.shared.call(self.client, keys, args)

    async def close(self) -> None:
        self.is_closed = True
