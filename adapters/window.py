"""The window of one session: which submits are unanswered, oldest first.

    put ──▶ open ──answer──▶ gone
              └─time-out──▶ late ──answer──▶ gone        (its slot stays taken)
                              └─slot time over──▶ spent ──answer──▶ gone   (no slot)

A dict keeps insertion order, so the oldest submit is the first entry and the time-out check,
once a second, stops at the first one that is too young. One submit is reported unanswered at
most once: by `expire` or by `clear`, never by both. Pure: the caller brings `now` (monotonic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sms.model import Submit

# Submits remembered after their slot was given back, so that an answer which comes even later is
# still evidence. Oldest forgotten first; then a receipt or the deadline decides.
SPENT_MAXIMUM = 1024


class Window:
    """Unanswered submits by sequence number, at most `capacity` slots taken."""

    __slots__ = ("_late", "_spent", "capacity", "open")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # Public because the session's receive loop pops from it directly: a method call costs
        # 0.06 µs of the 1 µs an answer may take.
        self.open: dict[int, Submit] = {}
        self._late: dict[int, tuple[Submit, float]] = {}
        self._spent: dict[int, Submit] = {}

    def free(self) -> int:
        """How many slots are free; late submits still hold theirs."""
        return max(0, self.capacity - len(self.open) - len(self._late))

    def taken(self) -> int:
        """How many slots are taken."""
        return len(self.open) + len(self._late)

    def unanswered(self) -> Iterator[Submit]:
        """Those that take a slot, timed out or not."""
        yield from self.open.values()
        for submit, _ in self._late.values():
            yield submit

    def take_late(self, sequence: int) -> Submit | None:
        """The timed-out submit this answer belongs to, or None when nobody waits for it."""
        late = self._late.pop(sequence, None)
        if late is not None:
            return late[0]
        return self._spent.pop(sequence, None)

    def late(self, sequence: int) -> Submit | None:
        """The timed-out submit under this number; it stays where it is."""
        late = self._late.get(sequence)
        return late[0] if late is not None else self._spent.get(sequence)

    def expire(
        self,
        now: float,
        timeout_of: Callable[[Submit], float],
        *,
        shortest_s: float,
        slot_s: float,
    ) -> list[tuple[int, Submit]]:
        """Move submits whose time is over to the late ones and return them with their sequence
        numbers, oldest first.

        `shortest_s` is the least `timeout_of` can give: the walk ends at the first submit
        younger than that. `slot_s` after its time-out a submit gives its slot back.
        """
        self._release(now)
        over: list[int] = []
        for sequence, submit in self.open.items():
            age_s = now - submit.sent_at
            if age_s < shortest_s:
                break
            if age_s >= timeout_of(submit):
                over.append(sequence)
        expired = [(sequence, self.open.pop(sequence)) for sequence in over]
        for sequence, submit in expired:
            self._late[sequence] = (submit, now + slot_s)
        return expired

    def _release(self, now: float) -> None:
        done = [sequence for sequence, (_, until) in self._late.items() if until <= now]
        for sequence in done:
            self._spent[sequence] = self._late.pop(sequence)[0]
        for _ in range(len(self._spent) - SPENT_MAXIMUM):
            del self._spent[next(iter(self._spent))]

    def clear(self) -> list[tuple[int, Submit]]:
        """Empty the window at the close and return those never reported, with their sequence
        numbers, oldest first."""
        unanswered = list(self.open.items())
        self.open.clear()
        self._late.clear()
        self._spent.clear()
        return unanswered
