"""Pick the channel for one attempt.

A route is a primary channel and at most three backups, tried in that order. This file only
decides: the caller says which channels are fit – known, up, right class, and its breaker takes
the message – and does the sending.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from failover.breaker import ALONE

Badness = tuple[int, int]  # `Breaker.rank`, the lowest best


def choose(
    channels: Sequence[int], is_fit: Callable[[int], bool], tried: Collection[int]
) -> int | None:
    """Return the first channel of the route that is fit and not tried, or None.

    None does not say why: all may be tried, left, or down for now (then the message waits). A
    message whose last outcome is uncertain must not come here until its second copy is
    committed: a second carrier could put the same text on the phone twice.
    """
    for channel in channels:
        if channel not in tried and is_fit(channel):
            return channel
    return None


def least_bad(
    channels: Sequence[int],
    badness: Callable[[int], Badness | None],
    tried: Collection[int],
    key: int,
) -> int | None:
    """Return the channel to wait for when none is fit: the least bad.

    `badness` is None for a channel that cannot be used at all: down, or of another class. What
    waits for it leaves as slowly as its breaker says (`Breaker.room`), so among equals that are
    tried or climb the message's `key` decides: each gets its part. Of those that are open the
    first one is tried, and no other.
    """
    best, found = None, list[int]()
    for channel in channels:
        bad = None if channel in tried else badness(channel)
        if bad is None or (best is not None and bad > best):
            continue
        if bad != best:
            best, found = bad, []
        found.append(channel)
    if best is None:
        return None
    return found[0] if best[0] in ALONE else found[key % len(found)]
