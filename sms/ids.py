"""Ids: 64-bit, ordered by time, shown with a prefix (DESIGN decision 3).

    bit 63      22 21      12 11       0
        milliseconds | process | counter
        since 2026-01-01 UTC  10 bits  12 bits, borrows from the next millisecond

Two ids of one process are never equal, also after a clock step or a restart: the clock starts
above the high-water mark that the process row reserves, and never goes back. After a kill it
starts some seconds ahead for that; who follows one of its ids stays in order with it.
"""

from __future__ import annotations

from collections.abc import Callable

EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
PROCESS_BITS = 10
COUNTER_BITS = 12
TIME_SHIFT = PROCESS_BITS + COUNTER_BITS
COUNTERS = 1 << COUNTER_BITS
MAX_PROCESS = (1 << PROCESS_BITS) - 1
_BORROWED_MS = 1000  # of 4096 ids each: far more than is given between two marks
DAY_MS = 86_400_000


class IdClock:
    """Gives ids to one process; not shared between threads.

    `floor` is the highest id the process may have used before (its high-water mark).
    """

    def __init__(self, process: int, floor: int, now: Callable[[], float]) -> None:
        if not 0 <= process <= MAX_PROCESS:
            raise ValueError(f"process number {process} is outside 0…{MAX_PROCESS}")
        self.process = process
        self._process_bits = process << COUNTER_BITS
        self._now = now
        self._ms = (floor >> TIME_SHIFT) + 1 if floor else 0
        self._counter = 0

    def next(self, count: int = 1) -> int:
        """Return the first of `count` consecutive ids inside one millisecond.

        A range that does not fit what is left of this millisecond takes the next one, so that a
        batch stays one contiguous range. `count` is 1…4096.
        """
        if not 1 <= count <= COUNTERS:
            raise ValueError(f"{count} ids do not fit one millisecond")
        ms = int(self._now() * 1000) - EPOCH_MS
        if ms > self._ms:
            self._ms = ms
            self._counter = 0
        elif self._counter + count > COUNTERS:
            self._ms += 1
            self._counter = 0
        first = (self._ms << TIME_SHIFT) | self._process_bits | self._counter
        self._counter += count
        return first

    def is_behind(self, seen: int) -> bool:
        """Whether the next id could lie below `seen`, an id of another process."""
        now = (int(self._now() * 1000) - EPOCH_MS) << TIME_SHIFT
        return seen >= max(now, (self._ms << TIME_SHIFT) + self._counter) | self._process_bits

    def follow(self, seen: int) -> None:
        """Give only ids above `seen` from now on: what is told after it comes after it."""
        ms = (seen >> TIME_SHIFT) + 1
        if ms > self._ms:
            self._ms = ms
            self._counter = 0

    def high_water(self, ahead_s: float) -> int:
        """An id that no id given within the next `ahead_s` seconds will pass.

        A clock that is ahead stands until time has caught up, but for what its counter borrows:
        a life that begins where the last one's mark ended is not further ahead than that one.
        """
        ahead_ms = int(ahead_s * 1000)
        ms = int(self._now() * 1000) - EPOCH_MS + ahead_ms
        ms = max(ms, self._ms + min(ahead_ms, _BORROWED_MS))
        return (ms << TIME_SHIFT) | ((1 << TIME_SHIFT) - 1)


def id_at(unix_s: float) -> int:
    """The lowest id of that moment: a bound for queries and partitions."""
    return (int(unix_s * 1000) - EPOCH_MS) << TIME_SHIFT


def process_of(value: int) -> int:
    """The process whose clock gave this id."""
    return (value >> COUNTER_BITS) & MAX_PROCESS


def unix_of(value: int) -> float:
    """The moment inside an id, Unix seconds."""
    return ((value >> TIME_SHIFT) + EPOCH_MS) / 1000


def to_text(prefix: str, value: int) -> str:
    """`msg_` and the like, then 16 hex digits: sorts as the number does."""
    return f"{prefix}_{value:016x}"


def from_text(prefix: str, text: str) -> int | None:
    """The id behind a text such as `msg_0001…`, or None when it is not one of ours."""
    head, _, digits = text.partition("_")
    if head != prefix or len(digits) != 16 or not digits.isascii():
        return None
    if not all(char in "0123456789abcdef" for char in digits):
        return None
    value = int(digits, 16)
    return value if value < 1 << 63 else None
