"""Pick the channel for one attempt.

A route is a primary channel and at most three backups, tried in that order. This file only
decides: the caller says which channels are fit – known, up, right class – and does the sending.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence


def choose(
    channels: Sequence[int], is_fit: Callable[[int], bool], tried: Collection[int]
) -> int | None:
    """Return the first channel of the route that is fit and not tried, or None.

    None does not say why: all may be tried, or the rest is down for now (then the message
    waits). A message whose last outcome is uncertain must not come here until its second copy is
    committed: a second carrier could put the same text on the phone twice.
    """
    for channel in channels:
        if channel not in tried and is_fit(channel):
            return channel
    return None
