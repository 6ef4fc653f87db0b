"""References of long texts: what tells a phone which segments belong together.

Two texts to one phone with the same reference are one to it while both are on their way, and 8
bits are soon through: each sender and number count by themselves.
"""

from __future__ import annotations

from collections import OrderedDict

KEPT = 20_000  # pairs of sender and number, those of late; about 5 MB


class References:
    """Hands out 16 bits; who uses 8 of them has 256 texts to a number before one comes again."""

    def __init__(self, start: int) -> None:
        """`start` should differ from process to process and from start to start."""
        self._start = start
        self._last: OrderedDict[tuple[str, str], int] = OrderedDict()

    def following(self, sender: str, number: str) -> int:
        """The next one for texts from this sender to that number."""
        pair = (sender, number)
        last = self._last.pop(pair, None)
        if last is None:
            last = self._start = self._start + 1
            if len(self._last) >= KEPT:
                self._last.popitem(last=False)
        self._last[pair] = last = (last + 1) & 0xFFFF
        return last
