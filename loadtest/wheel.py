"""Later, in batches: everything due within one tick runs in one callback.

A simulated carrier delays each answer and each report; a timer for each would cost more than
the answer, and what becomes due together leaves in one write.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

TICK_S = 0.004


class Clock(Protocol):
    """The part of an event loop that a wheel uses."""

    def time(self) -> float:
        """Monotonic seconds."""
        ...

    def call_at(self, when: float, callback: Callable[..., None], *args: int) -> object:
        """Call once at `when`."""
        ...


class Wheel:
    """Runs actions after a delay, rounded up to a tick; `after` runs once per tick."""

    def __init__(self, clock: Clock, after: Callable[[], None], tick_s: float = TICK_S) -> None:
        self._clock = clock
        self._after = after
        self._tick_s = tick_s
        self._slots: dict[int, list[Callable[[], None]]] = {}

    def add(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run `action` no earlier than `delay_s` from now and at most a tick later."""
        index = math.ceil((self._clock.time() + delay_s) / self._tick_s)
        slot = self._slots.get(index)
        if slot is None:
            slot = self._slots[index] = []
            self._clock.call_at(index * self._tick_s, self._turn, index)
        slot.append(action)

    def _turn(self, index: int) -> None:
        for action in self._slots.pop(index):
            action()
        self._after()
