"""How a channel begins again with a crowd before it: its window opens by steps.

    link is up, more waits than a window ─▶ 1/16 of the window ─▶ 1/8 ─▶ … ─▶ all of it

A carrier that has just come back, with every sender's queue before its door, is easily knocked
over once more; a breaker's ramp begins only after link errors in a row, and a process that was
started in the outage knows of none. Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Final

STEPS: Final = 4  # doublings from 1/16 to the whole
LEAST: Final = 2  # submits under way, however small the window is


class Start:
    """One start, from `now` on; a step every `step_s` seconds."""

    __slots__ = ("_from", "_step_s")

    def __init__(self, now: float, step_s: float) -> None:
        self._from = now
        self._step_s = step_s

    def share(self, now: float) -> float:
        """The part of the window that is open."""
        step = min(STEPS, int((now - self._from) / self._step_s))
        return 2.0 ** (step - STEPS)

    def room(self, window: int, waiting: int, now: float) -> int:
        """How many submits more may be under way, of `window` in all."""
        return max(0, max(LEAST, math.ceil(self.share(now) * window)) - waiting)

    def is_over(self, now: float) -> bool:
        """Whether the whole window is open."""
        return now - self._from >= STEPS * self._step_s
