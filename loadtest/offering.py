"""Reports offered at a fixed rate: how many may leave by now, and how long each waited.

    waiting ──rate──▶ offered ──room in the windows──▶ sent ──▶ answered

What is offered while the windows are full leaves when there is room, so a client that is too slow
is behind, and shows it, without losing anything. Reports are answered about in the order in which
they were offered, so the n-th answer is taken for the n-th report's.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

STEP: Final = 1.05  # between two bounds of the waits: they are told to 5 %
_LOG_STEP: Final = math.log(STEP)


class Offering:
    """Counts of one flood; not thread-safe, no clock of its own. Times are monotonic seconds."""

    def __init__(self, per_second: float, began: float) -> None:
        self.answered = 0
        self._per_second = per_second
        self._began = began
        self._left = 0  # to sessions, those that came back taken off
        self._waits: Counter[int] = Counter()  # answers by their wait: below STEP ** n milliseconds

    def offered(self, now: float) -> int:
        """How many were to leave by now."""
        return int((now - self._began) * self._per_second)

    def room(self, now: float) -> int:
        """How many of them have not left."""
        return max(0, self.offered(now) - self._left)

    def leave(self, count: int) -> None:
        """So many went to sessions; less than 0 = came back from one."""
        self._left += count

    def take(self, count: int, now: float) -> None:
        """So many were answered in one burst."""
        if count:
            offered_at = self._began + (self.answered + (count + 1) / 2) / self._per_second
            wait_ms = max(1.0, 1000 * (now - offered_at))
            self._waits[math.ceil(math.log(wait_ms) / _LOG_STEP)] += count
            self.answered += count

    def waits_ms(self) -> dict[str, float]:
        """From offered to answered: p50, p99, maximum; zeros before the first answer."""
        found = {"p50": 0.0, "p99": 0.0, "maximum": 0.0}
        below = 0
        for step in sorted(self._waits):
            before, below = below, below + self._waits[step]
            for name, share in (("p50", 0.5), ("p99", 0.99), ("maximum", 1.0)):
                if before < share * self.answered <= below:
                    found[name] = round(STEP**step, 1)
        return found
