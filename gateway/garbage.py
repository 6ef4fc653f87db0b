"""Cyclic garbage, looked for in small steps and at moments of our own choosing.

    made since the last look ──collect──▶ survivors ──freeze──▶ never walked again
                                                       └─ nothing to do, hours later ─▶ all of it

Messages hold no cycles: their reference counts free them, frozen or not. Python's own collector
does not know that. It walks everything that has survived for a while at once, and with a hundred
thousand messages in memory that is half a second without an answer: requests are shed and otp
waits. So it is off here, and a look costs only what is young.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import monotonic

YOUNG = 5_000  # objects made and still there; a look at them takes 2 to 8 ms
WHOLE_S = 6 * 3600.0
WHOLE_MAXIMUM = 400_000  # objects; an idle worker has half of that, 0.1 s to walk


class Garbage:
    """The collector of one process; `begin` once when all is loaded, `round` some ten a second."""

    def __init__(self, is_idle: Callable[[], bool], now: Callable[[], float] = monotonic) -> None:
        self._is_idle = is_idle
        self._now = now
        self._whole_at = now()

    def begin(self) -> None:
        """Take the work from Python's own collector; what is there now stays."""
        gc.disable()
        gc.freeze()

    def round(self) -> None:
        """Collect what is young when there is enough of it; everything when nobody would notice."""
        if gc.get_count()[0] >= YOUNG:
            gc.collect(0)
            gc.freeze()
        if self._now() - self._whole_at >= WHOLE_S and self._is_idle():
            self._whole_at = self._now()
            if gc.get_freeze_count() <= WHOLE_MAXIMUM:
                gc.unfreeze()
                gc.collect()
                gc.freeze()
