"""Whether tenants took turns on each channel, told from the order of its own submits.

    one channel   a b c a b c a b c │ a b a b a b │ a a a a
                  c has something   │ c has not   │ alone: nothing to compare

Each channel has a lane of its own and a pace of its own: a fast one is through with the tenants
that have little while a slow one still gives each its turn. So channels are never merged by time,
and nothing here depends on how fast any of them was, or on which one came up first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STRAY_PART: Final = 20  # of a tenant's submits at most the last 1/20 came by itself, tried again
LEAST: Final = 100  # turns of the most served tenant, below which a channel shows nothing;
LEAST_BATCHES: Final = 2  # and so many times what comes in one go


@dataclass(frozen=True, slots=True)
class Turns:
    """One channel: submits by tenant while several waited; how even they were (1: the same)."""

    submits: dict[str, int]
    fairness: float


def turns(order: Sequence[str], at_once: int = 0) -> Turns | None:
    """Judge a channel by the tenants of its submits, in order; None when they show nothing.

    Until the first of the tenants has nothing left here all should get the same, from then on the
    others, until one is alone. `fairness`: what the least served got of what the most served got,
    stretch by stretch, summed up, so that a short stretch weighs little. `at_once`: so many of a
    tenant may come in one go, its part of what is read back together; so far one may be behind.
    """
    ends = _ends(order)
    least = most = start = 0
    submits: Counter[str] = Counter()
    while len(ends) > 1:
        end = min(ends.values())
        counts = Counter(tenant for tenant in order[start:end] if tenant in ends)
        least += min(counts[tenant] for tenant in ends)
        most += max(counts[tenant] for tenant in ends)
        submits += counts
        start = end
        ends = {tenant: place for tenant, place in ends.items() if place > end}
    if most < max(LEAST, LEAST_BATCHES * at_once):
        return None
    return Turns(dict(submits), round(min(most, least + at_once) / most, 2))


def _ends(order: Sequence[str]) -> dict[str, int]:
    """The place behind which a tenant has as good as nothing left."""
    totals = Counter(order)
    seen: Counter[str] = Counter()
    ends: dict[str, int] = {}
    for place, tenant in enumerate(order, 1):
        seen[tenant] += 1
        if seen[tenant] == totals[tenant] - totals[tenant] // STRAY_PART:
            ends[tenant] = place
    return ends
